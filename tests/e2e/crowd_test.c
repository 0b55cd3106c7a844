/* crowd_test.c - a thousand clients connect, ask and die: whatever they were waiting for, the agent goes on serving
 * others, forgets them, and has no more descriptors, busy contexts or memory than before. The store is held by the test
 * server's gate, so that those who ask wait. */
#include "tests/e2e/e2e.h"
#include "client/sp.h"
#include "common/wire.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PROCESSES 5
#define EACH      200 /* connections of a process */
#define CROWD     (PROCESSES * EACH)
#define KEYS      16 /* which they ask for */
#define SPARE_FDS 200
#define OWN_FDS   2             /* both ends of the connection that the agent makes to itself, each second anew */
#define RSS_SLACK (8 * LDR_MIB) /* of an allocator that keeps some */
#define FEW_FDS   160
#define MESSAGE   256

static struct {
    struct s3_server s3;
    struct agent agent;
    char dir[TEST_DIR_MAX];
} t;

static void enter(void)
{
    char reason[512] = "";

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
    agent_init(&t.agent, &t.s3);
    cr_assert(s3_server_hold(&t.s3, "held"));
}

static void leave(void)
{
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(crowd, .init = enter, .fini = leave, .timeout = 150);

static void need_files(rlim_t n)
{
    struct rlimit rl;

    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_max >= n)
        return;
    fprintf(stderr, "SKIPPED: the agent may have only %ju files open (ulimit -Hn)\n", (uintmax_t)rl.rlim_max);
    cr_skip("the agent may have only %ju files open", (uintmax_t)rl.rlim_max);
}

/* ---- one of the crowd ---- */

/* A get, framed as a message of nanomsg; its length. */
static size_t framed_get(const char *uri, bool want_bytes, uint8_t out[MESSAGE])
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    size_t n;

    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = (char *)(uintptr_t)uri;
    get.want_bytes = want_bytes;
    n = larder__wire__request__get_packed_size(&req);
    cr_assert(n < 128);
    memcpy(out, "\1\0\0\0\0\0\0\0\0\x80\0\0\1", 13);
    out[8] = (uint8_t)(n + 4);
    return 13 + larder__wire__request__pack(&req, out + 13);
}

/* Connect and ask; the reply is not read. False: it did not come that far. */
static bool ask_and_wait(const char *uri, bool want_bytes)
{
    uint8_t message[MESSAGE];
    size_t n = framed_get(uri, want_bytes, message);
    struct ldr_sp c; /* stays open */

    if (ldr_sp_connect(&c, t.agent.socket, ldr_deadline_ns(LONG_MS), NULL))
        return false;
    return send(c.fd, message, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* A process with EACH connections that wait for objects of this round. Never returns. */
_Noreturn static void wait_with_many(int round)
{
    for (int i = 0; i < EACH; i++) {
        char uri[64];

        snprintf(uri, sizeof uri, "s3://" S3_BUCKET "/held-%d-%d", round, i % KEYS);
        if (!ask_and_wait(uri, false))
            _exit(1);
    }
    for (;;)
        pause();
}

static void kill_all(const pid_t pids[], size_t n)
{
    for (size_t i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
    for (size_t i = 0; i < n; i++)
        cr_expect(eq(int, join_child(pids[i]), -1), "it was still there");
}

/* ---- the agent's health ---- */

/* Others are served: a new client reads an object that is not in the cache. */
static void expect_served(void)
{
    struct larder *l = agent_open(&t.agent);
    static int n;
    char key[32], uri[64];

    snprintf(key, sizeof key, "n%d", n++);
    snprintf(uri, sizeof uri, "file://box/%s", key);
    agent_seed_file(&t.agent, "box", key, "hello", 5);
    expect_text(l, uri, "hello");
    larder_close(&l);
    cr_assert(agent_alive(&t.agent));
}

/* Open descriptors of the agent; 0: only root may see those of a process that hides its memory. */
static size_t agent_fds(void)
{
    char path[64];
    size_t n = 0;
    DIR *d;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)t.agent.pid);
    d = opendir(path);
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    else
        fprintf(stderr, "SKIPPED in part: descriptors are not looked at, that needs root\n");
    return n;
}

/* Its resident memory; 0 under AddressSanitizer, which keeps what is freed. */
static uint64_t agent_rss(void)
{
#ifdef __SANITIZE_ADDRESS__
    return 0;
#else
    char path[64];
    unsigned long pages = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/statm", (int)t.agent.pid);
    f = fopen(path, "re");
    cr_assert(f && fscanf(f, "%*u %lu", &pages) == 1);
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
#endif
}

/* Nobody is waited for any more: the only busy context is that of the question. */
static void wait_for_calm(void)
{
    agent_wait_until(agent_counter(&t.agent, "contexts_busy") == 1);
}

/* The agent has no more descriptors than it had; connections end a moment after their clients. */
static void wait_for_fds(size_t before)
{
    agent_wait_until(agent_fds() <= before + OWN_FDS);
}

Test(crowd, a_thousand_who_die_waiting_are_forgotten_each_time)
{
    size_t fds = 0;
    uint64_t rss = 0;

    need_files(CROWD + SPARE_FDS);
    agent_start(&t.agent);
    for (int round = 0; round < 3; round++) {
        pid_t pids[PROCESSES];

        for (int i = 0; i < PROCESSES; i++) {
            pids[i] = child();
            if (pids[i] == 0)
                wait_with_many(round);
        }
        agent_wait_until(agent_counter(&t.agent, "contexts_busy") == CROWD + 1);
        expect_served();
        kill_all(pids, PROCESSES);
        wait_for_calm();
        cr_expect(eq(u64, agent_counter(&t.agent, "waiters_gone"), CROWD * (uint64_t)(round + 1)));
        cr_expect(eq(u64, agent_counter(&t.agent, "requests_busy"), 0));
        expect_served();
        cr_assert(s3_server_release(&t.s3, "held")); /* the fetches that nobody waits for come to an end */
        agent_wait_until(s3_server_waiting(&t.s3) == 0);
        cr_assert(s3_server_hold(&t.s3, "held"));
        if (round == 0) /* contexts and connections to the store are made once, and kept */
            fds = agent_fds();
        wait_for_fds(fds);
        if (round == 1)
            rss = agent_rss();
        else if (round == 2)
            cr_expect(le(u64, agent_rss(), rss + RSS_SLACK), "it was %" PRIu64, rss);
    }
    cr_expect(le(u64, agent_counter(&t.agent, "store_gets"), 3 * KEYS + 6),
              "one request for a key, and one for each object of expect_served()");
    cr_expect(eq(int, agent_stop(&t.agent), 0), "it would wait for a request that it believes to serve");
}

/* ---- processes that are killed at any moment of a call ---- */

#define KILLED    100
#define AT_A_TIME 20

/* Ask by the library, over and over. Never returns. */
_Noreturn static void get_for_ever(int i)
{
    struct larder *l = agent_open(&t.agent);
    char uri[64];

    snprintf(uri, sizeof uri, "s3://" S3_BUCKET "/%s%d", i % 2 ? "held" : "missing", i % 4);
    for (;;) {
        struct larder_object *o = NULL;

        larder_get(l, uri, LONG_MS, &o, NULL);
        larder_object_free(&o);
    }
}

Test(crowd, a_hundred_processes_that_are_killed_at_random_moments_harm_nobody)
{
    uint64_t x = 20240601; /* the same moments in each run, as far as a clock goes */
    pid_t pids[AT_A_TIME];
    struct larder *l;
    uint64_t gets;
    size_t fds;

    agent_seed_s3(&t.s3, "held1", "hello", 5);
    agent_start(&t.agent);
    l = agent_open(&t.agent);
    expect_served();
    fds = agent_fds();
    for (int n = 0; n < KILLED; n += AT_A_TIME) {
        for (int i = 0; i < AT_A_TIME; i++) {
            pids[i] = child();
            if (pids[i] == 0)
                get_for_ever(i);
        }
        for (int i = 0; i < AT_A_TIME; i++) { /* connecting, shaking hands, asking, waiting, looking at the cache */
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
            nanosleep(&(struct timespec){ .tv_nsec = (long)(x >> 40) % (2 * LDR_NS_PER_MS) }, NULL);
            kill(pids[i], SIGKILL);
        }
        for (int i = 0; i < AT_A_TIME; i++)
            cr_expect(eq(int, join_child(pids[i]), -1));
        expect_served();
    }
    gets = agent_counter(&t.agent, "gets");
    for (int i = 0; i < AT_A_TIME; i++) { /* and some that certainly wait */
        pids[i] = child();
        if (pids[i] == 0)
            get_for_ever(1);
    }
    agent_wait_counter(&t.agent, "gets", gets + AT_A_TIME);
    kill_all(pids, AT_A_TIME);
    wait_for_calm();
    cr_expect(ge(u64, agent_counter(&t.agent, "waiters_gone"), AT_A_TIME));
    cr_assert(s3_server_release(&t.s3, "held"));
    expect_text(l, "s3://" S3_BUCKET "/held1", "hello");
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", S3_BUCKET "/held1"), 1), "all of them were waiting for one");
    larder_close(&l);
    wait_for_fds(fds + 4 /* keys: connections to the store */);
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}

/* Not even a moment: a client that asks right behind them is answered at once, not when the endpoint was mended. */
Test(crowd, clients_that_are_gone_before_their_handshake_cost_the_next_ones_nothing)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    size_t fds;

    agent_start(&t.agent);
    memcpy(sa.sun_path, t.agent.socket, strlen(t.agent.socket) + 1);
    expect_served();
    fds = agent_fds();
    for (int i = 0; i < 20; i++) {
        struct larder *l = agent_open(&t.agent);
        struct larder_err err = { 0 };
        struct larder_object *o = NULL;

        for (int j = 0; j < 5; j++) {
            int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

            cr_assert(eq(int, connect(fd, (struct sockaddr *)&sa, sizeof sa), 0));
            close(fd);
        }
        cr_expect(eq(int, larder_get(l, "file://box/none", LONG_MS, &o, &err), LARDER_NOT_FOUND), "%s", err.msg);
        larder_close(&l);
    }
    wait_for_fds(fds);
    cr_expect(not(agent_logged(&t.agent, "did not accept connections")));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}

/* ---- clients that die with their replies unread ---- */

Test(crowd, clients_that_die_with_their_replies_unread_leave_nothing_behind)
{
    uint8_t *bytes = bd_bytes(LDR_WIRE_CHUNK, 1);
    uint64_t rss = 0;
    size_t fds;

    need_files(EACH + SPARE_FDS);
    agent_start(&t.agent);
    agent_seed_file(&t.agent, "box", "big", bytes, LDR_WIRE_CHUNK);
    expect_served();
    fds = agent_fds();
    for (uint64_t round = 0; round < 4; round++) {
        pid_t pid = child();

        if (pid == 0) {
            for (int i = 0; i < EACH; i++)
                if (!ask_and_wait("file://box/big", true))
                    _exit(1);
            for (;;)
                pause();
        }
        agent_wait_counter(&t.agent, "gets", (round + 1) * EACH);
        expect_served();
        kill_all(&pid, 1);
        wait_for_calm();
        wait_for_fds(fds);
        if (round == 1)
            rss = agent_rss();
        else if (round == 3) /* an allocator with many threads keeps some, but not one reply for each of two rounds */
            cr_expect(le(u64, agent_rss(), rss + EACH * LDR_WIRE_CHUNK), "it was %" PRIu64, rss);
    }
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    free(bytes);
}

/* ---- more clients than the agent may have descriptors ---- */

/* Connections that ask, as many as there are descriptors for; what the agent does with them is not waited for. Never
 * returns. */
_Noreturn static void rush(void)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    uint8_t message[MESSAGE];
    size_t n = framed_get("s3://" S3_BUCKET "/held", false, message);

    memcpy(sa.sun_path, t.agent.socket, strlen(t.agent.socket) + 1);
    for (int i = 0; i < FEW_FDS / 2; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        while (connect(fd, (struct sockaddr *)&sa, sizeof sa)) /* the queue is full, for ever once the agent is */
            agent_pause();
        if (send(fd, "\0SP\0\0\x30\0", 8, MSG_NOSIGNAL) == 8)
            (void)!send(fd, message, n, MSG_NOSIGNAL);
    }
    for (;;)
        pause();
}

Test(crowd, more_clients_than_descriptors_starve_only_themselves_and_only_while_they_are_there)
{
    struct rlimit rl = { FEW_FDS, FEW_FDS };
    struct larder_err err = { 0 };
    struct larder *before, *late;
    struct larder_object *o = NULL;
    pid_t pids[PROCESSES];
    size_t fds;
    enum larder_kind k;

    need_root();                                          /* to see when it is full */
    cr_assert(eq(int, setrlimit(RLIMIT_NOFILE, &rl), 0)); /* the agent raises its own to the hard limit, no further */
    agent_start(&t.agent);
    before = agent_open(&t.agent);
    agent_seed_file(&t.agent, "box", "warm", "hello", 5);
    agent_seed_file(&t.agent, "box", "cold", "hello", 5);
    expect_text(before, "file://box/warm", "hello"); /* and this client has a connection now */
    expect_served();
    fds = agent_fds();
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = child();
        if (pids[i] == 0)
            rush();
    }
    agent_wait_until(agent_fds() >= FEW_FDS - 8);
    late = agent_open(&t.agent);
    expect_text(late, "file://box/warm", "hello"); /* a hit asks nobody */
    for (int i = 0; i < 3; i++) {
        int64_t from = ldr_mono_ns();

        k = larder_get(late, "file://box/cold", 500, &o, &err);
        larder_object_free(&o);
        cr_expect(k == LARDER_OK || k == LARDER_TIMEOUT || k == LARDER_UNAVAILABLE || k == LARDER_NO_AGENT, "%s",
                  err.msg);
        cr_expect(lt(long, ldr_mono_ns() - from, 5 * LDR_NS_PER_S), "no hang");
    }
    cr_assert(agent_alive(&t.agent));
    kill_all(pids, PROCESSES);
    expect_text(late, "file://box/cold", "hello");
    wait_for_calm();
    expect_served();
    expect_text(before, "file://box/cold", "hello");
    wait_for_fds(fds + 1 /* the store's */ + 1 /* of `late` */);
    larder_close(&before);
    larder_close(&late);
    cr_assert(s3_server_release(&t.s3, "held"));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}
