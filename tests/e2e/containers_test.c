/* containers_test.c - two clients as a node has them: each is PID 1 of its own PID namespace, with another uid than the
 * agent's, sees the cache through a read-only bind mount, and has but the domain's group. Also the rights of every
 * file. Needs root. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define CLIENT_UID 65534
#define OTHER_GID  65533
#define GROUP      54321 /* of the domain */
#define CONTAINERS 2

static struct {
    struct agent agent;
    char mount[TEST_DIR_MAX + 16]; /* where the containers see the cache */
} t;

static void leave(void)
{
    agent_release(&t.agent);
}

TestSuite(containers, .fini = leave, .timeout = 60);

/* Some sandboxes (a chroot whose root is no mount) let nobody make a mount namespace of its own. */
static void need_namespaces(void)
{
    pid_t pid = fork();
    int status;

    if (pid == 0)
        _exit(unshare(CLONE_NEWNS | CLONE_NEWPID) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (status == 0)
        return;
    fprintf(stderr, "SKIPPED: mount namespaces cannot be made here\n");
    cr_skip("mount namespaces cannot be made here");
}

static void enter(void)
{
    need_root();
    need_namespaces();
    agent_init(&t.agent, NULL);
    agent_set(&t.agent, "LARDER_ACCESS_GROUP", "54321");
    snprintf(t.mount, sizeof t.mount, "%s/mnt", t.agent.dir);
    cr_assert(eq(int, mkdir(t.mount, 0755), 0));
    agent_start(&t.agent);
}

/* ---- a container: a process that answers one-letter commands ---- */

struct container {
    pid_t pid;
    int fd; /* its other end is the container's */
};

enum rights { AS_MAIN_GROUP, AS_MORE_GROUP, WITHOUT_GROUP };

struct result {
    int kind, ok;
    uint64_t asks;
    int64_t took_ns;
    char msg[200];
};

static void take_rights(enum rights rights)
{
    gid_t more = GROUP, gid = rights == AS_MAIN_GROUP ? GROUP : OTHER_GID;

    if (setgroups(rights == AS_MORE_GROUP, &more) || setresgid(gid, gid, gid) ||
        setresuid(CLIENT_UID, CLIENT_UID, CLIENT_UID))
        _exit(90);
}

/* In the container: read the URI that is asked for, tell what came. */
static void serve(int fd, const char *cache)
{
    struct larder *l = NULL;
    struct result r;
    char line[512];
    ssize_t n;

    if (getpid() != 1 || larder_open(cache, &l, NULL))
        _exit(91);
    while ((n = recv(fd, line, sizeof line - 1, 0)) > 0) {
        struct larder_object *o = NULL;
        struct larder_counts before, after;
        struct larder_err err = { 0 };
        int64_t at = ldr_mono_ns();
        uint8_t *want;
        unsigned size, seed;
        char uri[256];

        line[n] = '\0';
        if (sscanf(line, "%255s %u %u", uri, &size, &seed) != 3)
            _exit(92);
        want = bd_bytes(size, seed);
        larder_get_counts(l, &before, sizeof before);
        r = (struct result){ .kind = larder_get(l, uri, LONG_MS, &o, &err) };
        r.took_ns = ldr_mono_ns() - at;
        larder_get_counts(l, &after, sizeof after);
        r.asks = after.asks - before.asks;
        r.ok = o && larder_object_size(o) == size && !memcmp(larder_object_data(o), want, size);
        snprintf(r.msg, sizeof r.msg, "%.199s", err.msg);
        larder_object_free(&o);
        free(want);
        if (send(fd, &r, sizeof r, 0) != (ssize_t)sizeof r)
            _exit(93);
    }
    larder_close(&l);
    _exit(0);
}

static struct container container_start(enum rights rights)
{
    struct container c = { 0 };
    int ends[2];

    cr_assert(eq(int, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0));
    /* as fork(), in namespaces of its own */
    c.pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, NULL, NULL, NULL, NULL);
    cr_assert(c.pid >= 0, "clone: %s", strerror(errno));
    if (c.pid == 0) {
        dup2(ends[1], 3);
        close_range(4, ~0U, 0); /* the ends of other containers: they must see theirs close */
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount(t.agent.cache, t.mount, NULL, MS_BIND, NULL) ||
            mount(NULL, t.mount, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
            _exit(94);
        take_rights(rights);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(3, t.mount);
    }
    close(ends[1]);
    c.fd = ends[0];
    return c;
}

static void container_stop(struct container *c)
{
    close(c->fd); /* it reads the end, and leaves */
    cr_expect(eq(int, join_child(c->pid), 0));
}

static struct result ask(const struct container *c, const char *key, unsigned size, unsigned seed)
{
    struct result r = { .kind = -1 };
    char line[512];
    int n = snprintf(line, sizeof line, "file://box/%s %u %u", key, size, seed);

    cr_assert(eq(i64, send(c->fd, line, (size_t)n, MSG_NOSIGNAL), n));
    cr_assert(eq(i64, recv(c->fd, &r, sizeof r, 0), sizeof r), "the container ended");
    return r;
}

static void seed(const char *key, unsigned size, unsigned number)
{
    uint8_t *bytes = bd_bytes(size, number);

    agent_seed_file(&t.agent, "box", key, bytes, size);
    free(bytes);
}

static void expect_read(const struct container *c, const char *key, unsigned size, unsigned number, uint64_t asks)
{
    struct result r = ask(c, key, size, number);

    cr_expect(eq(int, r.kind, LARDER_OK), "%s: %s", key, r.msg);
    cr_expect(r.ok, "%s", key);
    cr_expect(eq(u64, r.asks, asks), "%s", key);
}

/* ---- reading ---- */

Test(containers, two_clients_that_are_both_pid_1_read_cold_and_warm_before_and_after_a_kill)
{
    struct container c[CONTAINERS];

    enter();
    seed("small", 100, 1);
    seed("block", LDR_MIB, 2);
    seed("later", 5000, 3);
    for (int i = 0; i < CONTAINERS; i++)
        c[i] = container_start(i ? AS_MORE_GROUP : AS_MAIN_GROUP);
    expect_read(&c[0], "small", 100, 1, 1); /* cold */
    expect_read(&c[0], "block", LDR_MIB, 2, 1);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CONTAINERS; i++) {
            expect_read(&c[i], "small", 100, 1, 0);
            expect_read(&c[i], "block", LDR_MIB, 2, 0);
        }
        if (round == 0) {
            agent_kill(&t.agent);
            for (int i = 0; i < CONTAINERS; i++) { /* a miss: a clear error, at once */
                struct result r = ask(&c[i], "later", 5000, 3);

                cr_expect(eq(int, r.kind, LARDER_NO_AGENT), "%s", r.msg);
                cr_expect(r.took_ns < 2 * LDR_NS_PER_S);
            }
        }
        if (round == 1) {
            agent_start(&t.agent);
            expect_read(&c[1], "later", 5000, 3, 1);
            expect_read(&c[0], "later", 5000, 3, 0);
        }
    }
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1), "since it was started again");
    for (int i = 0; i < CONTAINERS; i++)
        container_stop(&c[i]);
}

Test(containers, the_two_are_answered_by_one_request_of_the_store)
{
    struct container c[CONTAINERS];

    enter();
    seed("block", 4 * LDR_MIB, 7);
    for (int i = 0; i < CONTAINERS; i++) {
        char line[64];
        int n = snprintf(line, sizeof line, "file://box/block %u 7", (unsigned)(4 * LDR_MIB));

        c[i] = container_start(AS_MORE_GROUP);
        cr_assert(eq(i64, send(c[i].fd, line, (size_t)n, MSG_NOSIGNAL), n));
    }
    for (int i = 0; i < CONTAINERS; i++) {
        struct result r = { .kind = -1 };

        cr_assert(eq(i64, recv(c[i].fd, &r, sizeof r, 0), sizeof r));
        cr_expect(eq(int, r.kind, LARDER_OK), "%s", r.msg);
        cr_expect(r.ok);
        container_stop(&c[i]);
    }
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
}

Test(containers, a_client_without_the_group_is_denied)
{
    struct container c;
    struct result r;

    enter();
    seed("small", 100, 1);
    c = container_start(WITHOUT_GROUP);
    r = ask(&c, "small", 100, 1);
    cr_expect(eq(int, r.kind, LARDER_DENIED), "%s", r.msg);
    cr_expect(has(r.msg, "agent.sock") && has(r.msg, "Permission denied"), "%s", r.msg);
    cr_expect(r.took_ns < 2 * LDR_NS_PER_S);
    container_stop(&c);
    cr_expect(eq(u64, agent_requests(&t.agent), 0));
}

Test(containers, a_client_that_was_stopped_costs_nobody_anything)
{
    struct container c[CONTAINERS];

    enter();
    seed("small", 100, 1);
    for (int i = 0; i < CONTAINERS; i++)
        c[i] = container_start(AS_MORE_GROUP);
    expect_read(&c[0], "small", 100, 1, 1);
    expect_read(&c[1], "small", 100, 1, 0);
    kill(c[0].pid, SIGSTOP);
    for (unsigned i = 0; i < 40; i++) { /* more snapshots than the agent keeps */
        char key[32];

        snprintf(key, sizeof key, "n%u", i);
        seed(key, 2000 + i, i);
        expect_read(&c[1], key, 2000 + i, i, 1);
    }
    kill(c[0].pid, SIGCONT);
    expect_read(&c[0], "small", 100, 1, 0);
    expect_read(&c[0], "n39", 2039, 39, 0);
    for (int i = 0; i < CONTAINERS; i++)
        container_stop(&c[i]);
}

/* ---- rights ---- */

static void expect_mode(const char *name, mode_t mode)
{
    char path[TEST_DIR_MAX + 300];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", t.agent.cache, name);
    cr_assert(eq(int, lstat(path, &st), 0), "%s", path);
    cr_expect(eq(int, (int)(st.st_mode & 07777), (int)mode), "%s is 0%o", name, (unsigned)(st.st_mode & 07777));
    if (mode & 0070)
        cr_expect(eq(u32, st.st_gid, GROUP), "%s", name);
    cr_expect(eq(u32, st.st_uid, geteuid()), "%s", name);
}

/* "blocks/xx/ID.n" of the only block. */
static void find_block(char out[128])
{
    char command[TEST_DIR_MAX + 64];
    FILE *f;

    snprintf(command, sizeof command, "cd %s && find blocks -type f", t.agent.cache);
    f = popen(command, "r");
    cr_assert(f && fgets(out, 128, f), "there is no block");
    out[strcspn(out, "\n")] = '\0';
    pclose(f);
}

Test(containers, every_file_of_the_cache_has_its_rights)
{
    struct larder *l;
    uint8_t *bytes = bd_bytes(LDR_MIB, 1);
    char block[128];

    umask(0); /* the agent does not depend on it */
    enter();
    l = agent_open(&t.agent);
    put_bytes(l, "file://box/a", bytes, LDR_MIB);
    find_block(block);
    for (int i = 0; i < 2; i++) {
        expect_mode(".", 02750);
        expect_mode("agent.lock", 0600);
        expect_mode("format", 0640);
        expect_mode("gen-1", 02750);
        expect_mode("gen-1/hdr", 0640);
        expect_mode("gen-1/data.mdb", 0640);
        expect_mode("gen-1/lock.mdb", 0600);
        expect_mode("blocks", 02750);
        expect_mode("blocks/00", 02750);
        expect_mode("blocks/ff", 02750);
        expect_mode(block, 0440);
        expect_mode("fill", 0700);
        expect_mode("ipc", 02750);
        expect_mode("ipc/agent.sock", 0660);
        cr_assert(eq(int, agent_stop(&t.agent), 0));
        agent_start(&t.agent);
    }
    larder_close(&l);
    free(bytes);
}
