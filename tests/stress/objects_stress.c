/* objects_stress.c - objects of many blocks while everything goes wrong: right bytes of one version, or a clear error.
 *
 *   objects_stress [--seconds N] [--seed N] [--clients N] [--block BYTES] [--versitygw] [--no-control] [--no-kill]
 *                  [--no-stop] [--self-test] [--keep]                        (or LDR_STRESS_SECONDS; default 10)
 *
 * A larderd with a small cache, an S3 server behind it, client processes that read in every way, writers that overwrite
 * and delete at the store and through larder. The parent kills and stops the agent, kills clients, and makes the store
 * fail. Each object's bytes are a function of its key and version, so every answer is checked: of one version, which
 * existed, and is not older than its prefix promises (model.c); each failure is of a kind that has a cause; no call
 * lasts longer than its deadline; views that are held never change; in the end the ledger is right and nothing is left.
 * First comes the negative control (--self-test: that alone): clients spoil a byte of what they read, and that must be
 * seen. Exit 0: as it should be. */
#include "tests/stress/objects_stress/objects_stress.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL_S 60
#define LOG_SHOWN 6000 /* bytes of the agent's log */
#define STOP_MS   10000
#define SETTLE_MS 15000
#define SPARE     (64 * LDR_KIB) /* of the ledger, for what grows and is not written yet */

struct options {
    double seconds;
    uint64_t seed, block;
    unsigned clients;
    bool versitygw, control, kills, stops, self_test, keep;
};

struct campaign {
    const struct options *opt;
    struct agent agent;
    struct s3_server s3;
    char dir[TEST_DIR_MAX];
    struct os_args a;
    struct os_shared *s;
    pid_t client[OS_CLIENTS_MAX], writer[OS_WRITERS];
    uint64_t random, kills, stops, client_kills, faults;
};

static uint64_t roll(struct campaign *c, uint64_t n)
{
    return os_random(&c->random) % n;
}

/* ---- processes ---- */

static pid_t spawn(struct campaign *c, void (*role)(const struct os_args *, unsigned, uint64_t), unsigned i)
{
    uint64_t seed = os_random(&c->random);
    pid_t parent = getpid(), pid;

    fflush(stdout);
    fflush(stderr);
    pid = fork();
    if (pid < 0)
        agent_die("could not fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(9);
        role(&c->a, i, seed);
        _exit(0);
    }
    return pid;
}

static void kill_client(struct campaign *c, unsigned i)
{
    kill(c->client[i], SIGKILL);
    waitpid(c->client[i], NULL, 0);
    c->client[i] = spawn(c, os_client, i);
    c->client_kills++;
}

static void stop_agent(struct campaign *c)
{
    int64_t until = ldr_deadline_ns(STOP_MS);
    pid_t got;
    int status;

    kill(c->agent.pid, SIGTERM);
    while ((got = waitpid(c->agent.pid, &status, WNOHANG)) == 0 && ldr_left_ms(until))
        agent_pause();
    if (got != c->agent.pid) {
        os_wrong(c->s, "the agent was told to end, and did not within %d ms", STOP_MS);
        agent_kill(&c->agent);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        os_wrong(c->s, "the agent ended with status %x when it was told to", status);
    }
    c->agent.pid = 0;
}

/* The agent goes, in one way or the other, and comes back. */
static void bounce_agent(struct campaign *c)
{
    bool hard = roll(c, 2) || !c->opt->stops;

    c->s->down_ns = ldr_mono_ns();
    if (hard) {
        agent_kill(&c->agent);
        c->kills++;
    } else {
        stop_agent(c);
        c->stops++;
    }
    nanosleep(&(struct timespec){ .tv_nsec = (long)(roll(c, 200) * LDR_NS_PER_MS) }, NULL);
    agent_start(&c->agent);
    c->s->up_ns = ldr_mono_ns();
}

static void break_store(struct campaign *c)
{
    static const char *const rules[] = {
        "[]",
        "[]",
        "[]",
        "[{\"method\": \"GET\", \"action\": \"reset\", \"count\": 3}]",
        "[{\"method\": \"GET\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 5}]",
        "[{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 70000, \"count\": 5}]",
        "[{\"method\": \"GET\", \"action\": \"delay_ms\", \"ms\": 150, \"count\": 10}]",
        "[{\"method\": \"GET\", \"action\": \"lie_length\", \"delta\": 100, \"count\": 3}]",
        "[{\"method\": \"GET\", \"action\": \"garbage\", \"count\": 2}]",
        "[{\"method\": \"GET\", \"action\": \"weak_etag\", \"count\": 5}]",
        "[{\"method\": \"GET\", \"action\": \"wrong_range\", \"count\": 3}]",
        "[{\"method\": \"GET\", \"action\": \"status\", \"status\": 500, \"count\": 20}]",
        "[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 2}]",
        "[{\"method\": \"PUT\", \"action\": \"drop_after_store\", \"count\": 1}]",
        "[{\"method\": \"PUT\", \"action\": \"reset\", \"count\": 1}]",
        "[{\"method\": \"DELETE\", \"action\": \"drop_after_store\", \"count\": 1}]",
    };

    if (c->opt->versitygw)
        return;
    if (!s3_server_rules(&c->s3, rules[roll(c, LDR_ARRAY_LEN(rules))]))
        agent_die("the store does not listen");
    c->faults++;
}

/* ---- watching ---- */

static void watch_calls(struct campaign *c)
{
    for (unsigned i = 0; i < c->a.clients; i++) {
        const struct os_call *call = &c->s->call[i];
        int64_t began = call->began_ns, ms = (ldr_mono_ns() - began) / LDR_NS_PER_MS;

        if (began && ms > call->timeout_ms + OS_HANG_MS)
            os_wrong(c->s, "client %u: %s of key %d hangs: %" PRId64 " ms, its deadline was %d ms", i,
                     os_what_name[call->what], call->key, ms, call->timeout_ms);
    }
}

static void watch_processes(struct campaign *c)
{
    for (unsigned i = 0; i < c->a.clients + OS_WRITERS; i++) {
        pid_t pid = i < c->a.clients ? c->client[i] : c->writer[i - c->a.clients];
        int status;

        if (waitpid(pid, &status, WNOHANG) == pid)
            os_wrong(c->s, "%s died: status %x", i < c->a.clients ? "a client" : "a writer", status);
    }
    if (!agent_alive(&c->agent))
        os_wrong(c->s, "the agent died");
}

/* Everything at once, for so long, or until something is wrong. */
static void work(struct campaign *c, double seconds)
{
    int64_t until = ldr_deadline_ns((int64_t)(seconds * 1000)), bounce_at = ldr_deadline_ns(2000), said = ldr_mono_ns();

    while (ldr_left_ms(until) && !c->s->wrong) {
        nanosleep(&(struct timespec){ .tv_nsec = (long)(roll(c, 40) * LDR_NS_PER_MS) }, NULL);
        if (roll(c, 8) == 0)
            break_store(c);
        if (c->opt->kills && roll(c, 20) == 0)
            kill_client(c, (unsigned)roll(c, c->a.clients));
        if (c->opt->kills && !c->a.control && ldr_left_ms(bounce_at) == 0) {
            bounce_agent(c);
            bounce_at = ldr_deadline_ns(500 + (int64_t)roll(c, 3000));
        }
        watch_calls(c);
        watch_processes(c);
        if (ldr_mono_ns() - said > 30 * LDR_NS_PER_S) {
            uint64_t right = 0;

            said = ldr_mono_ns();
            for (int i = 0; i < OS_WHATS; i++)
                right += c->s->right[i];
            printf("  %.0f s left: %" PRIu64 " right reads, %" PRIu64 " writes\n", ldr_left_ms(until) / 1000.0, right,
                   c->s->writes);
            fflush(stdout);
        }
    }
}

/* All end by themselves, each within its deadline. */
static void wind_down(struct campaign *c)
{
    int64_t until = ldr_deadline_ns(8000 + OS_HANG_MS);
    unsigned left = c->a.clients + OS_WRITERS;

    c->s->stop = true;
    if (!c->opt->versitygw)
        s3_server_rules(&c->s3, "[]");
    while (left && ldr_left_ms(until)) {
        left = 0;
        for (unsigned i = 0; i < c->a.clients + OS_WRITERS; i++) {
            pid_t *pid = i < c->a.clients ? &c->client[i] : &c->writer[i - c->a.clients];
            int status;

            if (*pid && waitpid(*pid, &status, WNOHANG) == *pid) {
                if (!WIFEXITED(status) || WEXITSTATUS(status))
                    os_wrong(c->s, "a process ended with status %x", status);
                *pid = 0;
            }
            left += *pid != 0;
        }
        agent_pause();
    }
    if (left)
        os_wrong(c->s, "%u processes hang", left);
}

/* ---- what is left ---- */

struct left {
    uint64_t bytes, block_files, fills;
};

/* What a file takes, without the file system's own notes of where its pieces are. */
static uint64_t taken(const struct stat *st)
{
    uint64_t pages = ((uint64_t)st->st_size + 4095) / 4096 * 4096, allocated = (uint64_t)st->st_blocks * 512;

    return allocated < pages ? allocated : pages;
}

static void add_folder(int at, const char *name, unsigned depth, struct left *out)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    while (d && (e = readdir(d))) {
        struct stat st;

        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        if (S_ISDIR(st.st_mode)) {
            if (depth < 3)
                add_folder(dirfd(d), e->d_name, depth + 1, out);
            continue;
        }
        out->block_files += depth == 2;
        out->fills += !strcmp(name, "fill");
        if (depth == 2 || !strcmp(name, "fill") || !strcmp(name, "rw") || !strcmp(e->d_name, "data.mdb"))
            out->bytes += taken(&st);
    }
    if (d)
        closedir(d);
}

static bool is_settled(struct campaign *c, char *text, size_t cap)
{
    struct left left = { 0 };
    uint64_t bytes = agent_counter(&c->agent, "bytes"), files = agent_counter(&c->agent, "files"),
             blocks = agent_counter(&c->agent, "block_files"),
             mapped = agent_counter(&c->agent, "unlinked_mapped_bytes");

    add_folder(AT_FDCWD, c->agent.cache, 0, &left);
    snprintf(text, cap,
             "the ledger says %" PRIu64 " bytes and %" PRIu64 " files, the index %" PRIu64
             " blocks; on disk are %" PRIu64 " bytes, %" PRIu64 " block files and %" PRIu64 " in fill/; %" PRIu64
             " bytes are unlinked and mapped",
             bytes, files, blocks, left.bytes, left.block_files, left.fills, mapped);
    return bytes >= left.bytes && bytes - left.bytes <= SPARE && files == left.block_files &&
           blocks == left.block_files && left.fills == 0 && mapped == 0;
}

static void expect_settled(struct campaign *c, const char *when)
{
    int64_t until = ldr_deadline_ns(SETTLE_MS);
    char text[512];

    while (!is_settled(c, text, sizeof text))
        if (ldr_left_ms(until) == 0) {
            os_wrong(c->s, "%s: %s", when, text);
            return;
        } else {
            nanosleep(&(struct timespec){ .tv_nsec = 50 * LDR_NS_PER_MS }, NULL);
        }
}

static void show_log(const struct agent *a)
{
    int fd = open(a->log, O_RDONLY | O_CLOEXEC);
    char text[LOG_SHOWN];
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
    ssize_t n;

    if (size < 0)
        return;
    n = pread(fd, text, sizeof text, size > (off_t)sizeof text ? size - (off_t)sizeof text : 0);
    if (n > 0)
        printf("the end of the agent's log:\n%.*s\n", (int)n, text);
    close(fd);
}

static void say(const struct campaign *c, double seconds)
{
    const struct os_shared *s = c->s;

    printf("%s %.0f s, seed %" PRIu64 ", %u clients, blocks of %" PRIu64 " KiB:", c->a.control ? "control" : "stress",
           seconds, c->opt->seed, c->a.clients, c->a.block / LDR_KIB);
    for (int i = 0; i < OS_WHATS; i++)
        printf(" %s %" PRIu64 "/%" PRIu64, os_what_name[i], s->right[i], s->reads[i]);
    printf("; %" PRIu64 " hits\n  failures:", s->hits);
    for (int i = 1; i <= LARDER_INTERNAL; i++)
        if (s->failed[i])
            printf(" %s %" PRIu64, larder_kind_name(i), s->failed[i]);
    printf("\n  %" PRIu64 " writes (%" PRIu64 " failed or unknown, %" PRIu64 " deletions, %" PRIu64
           " direct); agent: %" PRIu64 " kills, %" PRIu64 " stops; %" PRIu64 " client kills, %" PRIu64
           " changes of the store's faults\n",
           s->writes, s->writes_failed, s->deletes, s->direct, c->kills, c->stops, c->client_kills, c->faults);
}

/* ---- one run, in a directory of its own; true: nothing was wrong ---- */

static void prepare(struct campaign *c)
{
    char reason[512] = "", block[32];

    test_dir_make(c->dir);
    if (!(c->opt->versitygw ? s3_server_start_versitygw : s3_server_start_test)(&c->s3, c->dir, reason, sizeof reason))
        agent_die("%s", reason);
    agent_init(&c->agent, &c->s3);
    snprintf(block, sizeof block, "%" PRIu64, c->a.block);
    agent_set(&c->agent, "LARDER_CACHE_BLOCK_SIZE", block);
    agent_set(&c->agent, "LARDER_CACHE_MAX_SIZE", c->a.block == 64 * LDR_KIB ? "16MiB" : "48MiB");
    agent_set(&c->agent, "LARDER_PREFIXES",
              "[{match: \"s3://" S3_BUCKET "/a/\", freshness: always},"
              " {match: \"s3://" S3_BUCKET "/t/\", freshness: ttl 300ms},"
              " {match: \"s3://" S3_BUCKET "/i/\", freshness: immutable}]");
    agent_set(&c->agent, "LARDER_LOG_LEVEL", "info");
    agent_start(&c->agent);
}

static bool campaign(const struct options *opt, double seconds, bool control)
{
    struct campaign c = { .opt = opt, .random = opt->seed * 2 + 1 };
    bool ok;

    c.s = mmap(NULL, sizeof *c.s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c.s == MAP_FAILED)
        agent_die("no memory to share");
    c.a = (struct os_args){ .shared = c.s,
                            .agent = &c.agent,
                            .s3 = &c.s3,
                            .seed = opt->seed,
                            .clients = opt->clients,
                            .control = control,
                            .block = opt->block };
    if (!c.a.block)
        c.a.block = (uint64_t[]){ 64 * LDR_KIB, 64 * LDR_KIB, 256 * LDR_KIB, LDR_MIB }[opt->seed % 4];
    prepare(&c);
    for (unsigned i = 0; i < OS_WRITERS; i++)
        c.writer[i] = spawn(&c, os_writer, i);
    for (unsigned i = 0; i < c.a.clients; i++)
        c.client[i] = spawn(&c, os_client, i);
    work(&c, seconds);
    if (!c.s->wrong)
        wind_down(&c);
    if (!c.s->wrong && !control) {
        expect_settled(&c, "at the end");
        stop_agent(&c);
        agent_start(&c.agent);
        if (!c.s->wrong)
            expect_settled(&c, "after a restart");
    }
    for (unsigned i = 0; i < c.a.clients; i++)
        if (c.client[i])
            kill(c.client[i], SIGKILL);
    for (unsigned i = 0; i < OS_WRITERS; i++)
        if (c.writer[i])
            kill(c.writer[i], SIGKILL);
    for (int64_t until = ldr_deadline_ns(2000); c.s->wrong == 1 && ldr_left_ms(until);)
        agent_pause(); /* somebody is writing the report */
    say(&c, seconds);
    ok = !c.s->wrong;
    if (!ok && !control) {
        printf("WRONG: %s\n", c.s->report);
        show_log(&c.agent);
        if (opt->keep)
            printf("kept: %s, %s\n", c.agent.dir, c.dir);
    } else if (!ok) {
        printf("  seen, as it should be: %.300s\n", c.s->report);
    }
    for (int64_t i = 0; i < OS_WHATS && ok && !control; i++)
        if (!c.s->right[i]) {
            printf("FAILED: no right %s in all that time: that says nothing\n", os_what_name[i]);
            ok = false;
        }
    agent_kill(&c.agent);
    s3_server_stop(&c.s3);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    if (ok || control || !opt->keep) {
        agent_release(&c.agent);
        test_dir_remove(c.dir);
    }
    fflush(stdout);
    munmap(c.s, sizeof *c.s);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "seconds", required_argument, NULL, 's' },
                                             { "seed", required_argument, NULL, 'S' },
                                             { "clients", required_argument, NULL, 'n' },
                                             { "block", required_argument, NULL, 'b' },
                                             { "versitygw", no_argument, NULL, 'v' },
                                             { "no-control", no_argument, NULL, 'c' },
                                             { "no-kill", no_argument, NULL, 'k' },
                                             { "no-stop", no_argument, NULL, 'p' },
                                             { "self-test", no_argument, NULL, 't' },
                                             { "keep", no_argument, NULL, 'K' },
                                             { 0 } };
    const char *set = getenv("LDR_STRESS_SECONDS");
    struct options o = { .seconds = set ? atof(set) : 10,
                         .seed = (uint64_t)ldr_mono_ns() % 1000000,
                         .clients = 6,
                         .control = true,
                         .kills = true,
                         .stops = true };
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (opt) {
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'S':
            o.seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            o.clients = (unsigned)atoi(optarg);
            break;
        case 'b':
            o.block = strtoull(optarg, NULL, 10);
            break;
        case 'v':
            o.versitygw = true;
            break;
        case 'c':
            o.control = false;
            break;
        case 'k':
            o.kills = false;
            break;
        case 'p':
            o.stops = false;
            break;
        case 't':
            o.self_test = true;
            break;
        case 'K':
            o.keep = true;
            break;
        default:
            return 2;
        }
    if (o.clients < 1 || o.clients > OS_CLIENTS_MAX || o.seconds <= 0)
        return 2;
    if (!os_model_works())
        return 1;
    if ((o.control || o.self_test) && campaign(&o, CONTROL_S, true)) {
        printf("FAILED: bytes were spoiled, and nobody saw it: this test is blind\n");
        return 1;
    }
    if (o.self_test)
        return 0;
    return campaign(&o, o.seconds, false) ? 0 : 1;
}
