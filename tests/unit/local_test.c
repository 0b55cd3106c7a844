/* local_test.c - what only backends/local.c promises; the rules of all stores are tests/backend/backend_test.c. */
#include "common/hash.h"
#include "tests/support/backend_driver.h"
#include "tests/support/op_upload.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65534

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX], root[TEST_DIR_MAX + 8];
static struct bd *bd;
static struct bd_result r;

static void make_dir(void)
{
    test_dir_make(dir);
    snprintf(root, sizeof root, "%s/root", dir);
    mkdir(root, 0755);
}

static void remove_dir(void)
{
    bd_close(&bd);
    bd_result_release(&r);
    if (geteuid() != getuid() && seteuid(getuid()) == -1) /* a test became another user */
        abort();
    umount2(root, MNT_DETACH); /* what a test mounted there, or below */
    test_dir_remove(dir);
}

TestSuite(local, .init = make_dir, .fini = remove_dir, .timeout = 60);

static void open_store(void)
{
    struct larder_err err = { 0 };

    cr_assert(eq(int, bd_open("local", "file", (const char *[]){ "path", root, NULL }, &bd, &err), LARDER_OK), "%s",
              err.msg);
}

/* Kernels before 5.6 and some seccomp profiles have no openat2(): make this process one of theirs. */
static void open_store_without_openat2(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = LDR_ARRAY_LEN(rules), .filter = rules };

    cr_assert(eq(int, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0));
    cr_assert(eq(int, prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0));
    cr_assert(eq(long, syscall(SYS_openat2, AT_FDCWD, ".", NULL, 0), -1L));
    open_store();
}

/* A test body that must hold both with openat2() and without. */
#define BOTH_WAYS(name)                                                                                                \
    static void name(void);                                                                                            \
    Test(local, name)                                                                                                  \
    {                                                                                                                  \
        open_store();                                                                                                  \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(local, name##_without_openat2)                                                                                \
    {                                                                                                                  \
        open_store_without_openat2();                                                                                  \
        name();                                                                                                        \
    }                                                                                                                  \
    static void name(void)

/* ---- short forms; each leaves its result in r ---- */

static enum larder_kind get(const char *key)
{
    bd_result_release(&r);
    return bd_get(bd, "c", key, NULL, &r);
}

static enum larder_kind head(const char *key)
{
    bd_result_release(&r);
    return bd_head(bd, "c", key, &r);
}

static enum larder_kind put(const char *key, const char *text)
{
    bd_result_release(&r);
    return bd_put(bd, "c", key, text, strlen(text), NULL, &r);
}

static enum larder_kind del(const char *key)
{
    bd_result_release(&r);
    return bd_delete(bd, "c", key, &r);
}

static const char *path_of(const char *name)
{
    static char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static bool there(const char *name)
{
    struct stat st;

    return lstat(path_of(name), &st) == 0;
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    cr_assert(fd != -1, "%s: %s", path, strerror(errno));
    cr_assert(eq(long, write(fd, text, strlen(text)), (long)strlen(text)));
    close(fd);
}

static bool file_is(const char *path, const char *text)
{
    char buf[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? -1 : read(fd, buf, sizeof buf - 1);

    if (fd != -1)
        close(fd);
    return n == (ssize_t)strlen(text) && !memcmp(buf, text, strlen(text));
}

static bool got(const char *text)
{
    return r.bytes.len == strlen(text) && !memcmp(r.bytes.p ? r.bytes.p : (const uint8_t *)"", text, strlen(text));
}

/* Entries of a directory below the root; 0 when it is not there. */
static int entries(const char *name)
{
    DIR *d = opendir(path_of(name));
    int n = 0;

    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* A test that cannot run here says so where everybody sees it; Criterion calls no .fini then. */
#define skip(...)                                                                                                      \
    do {                                                                                                               \
        char why[256];                                                                                                 \
        snprintf(why, sizeof why, __VA_ARGS__);                                                                        \
        fprintf(stderr, "SKIPPED: %s\n", why);                                                                         \
        remove_dir();                                                                                                  \
        cr_skip("%s", why);                                                                                            \
    } while (0)

/* A mount of this process alone, gone with it. */
static void mount_here(const char *type, const char *name, const char *options)
{
    if (geteuid() != 0)
        skip("mounting needs root");
    if (unshare(CLONE_NEWNS) == -1 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1 ||
        mount(type, path_of(name), type, 0, options) == -1)
        skip("%s cannot be mounted here: %s", type, strerror(errno));
}

#define is(call, want) cr_assert(eq(int, (int)(call), (int)(want)), "%s: %s", larder_kind_name(r.kind), r.err.msg)

/* ---- settings ---- */

static enum larder_kind open_with(const char *const settings[], struct larder_err *err)
{
    enum larder_kind k = bd_open("local", "file", settings, &bd, err);

    bd_close(&bd);
    return k;
}

Test(local, a_wrong_setting_is_refused_by_its_name)
{
    struct larder_err err = { 0 };

    cr_expect(eq(int, open_with(NULL, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "path") != NULL, "%s", err.msg);
    cr_expect(eq(int, open_with((const char *[]){ "path", "", NULL }, &err), LARDER_INVALID));
    cr_expect(eq(int, open_with((const char *[]){ "path", "/nonexistent/x", NULL }, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "/nonexistent/x") != NULL, "%s", err.msg);
    cr_expect(eq(int, open_with((const char *[]){ "path", root, "colour", "red", NULL }, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "colour") != NULL, "%s", err.msg);
    write_file(path_of("file"), "");
    cr_expect(eq(int, open_with((const char *[]){ "path", path_of("file"), NULL }, &err), LARDER_INVALID));
}

Test(local, the_fingerprint_is_that_of_the_real_directory)
{
    char link[PATH_MAX];
    uint64_t direct, by_link, other;

    open_store();
    direct = bd_backend(bd)->ops->fingerprint(bd_backend(bd));
    bd_close(&bd);
    snprintf(link, sizeof link, "%s/link", dir);
    cr_assert(eq(int, symlink(root, link), 0));
    snprintf(root, sizeof root, "%s/link", dir);
    open_store();
    by_link = bd_backend(bd)->ops->fingerprint(bd_backend(bd));
    is(put("a", "through the link"), LARDER_OK);
    bd_close(&bd);
    snprintf(root, sizeof root, "%s", dir);
    open_store();
    other = bd_backend(bd)->ops->fingerprint(bd_backend(bd));
    cr_expect(eq(u64, direct, by_link));
    cr_expect(ne(u64, direct, other));
}

/* ---- names ---- */

BOTH_WAYS(a_name_that_leads_elsewhere_is_refused)
{
    char long_segment[NAME_MAX + 2], long_key[PATH_MAX + 1];
    const char *const keys[] = { "..",
                                 ".",
                                 "../x",
                                 "a/../x",
                                 "a/..",
                                 "./a",
                                 "a/.",
                                 "a/./b",
                                 "/a",
                                 "a/",
                                 "a//b",
                                 "//",
                                 "/",
                                 "",
                                 "a\nb",
                                 "\x01",
                                 "a\x7f",
                                 ".larder-tmp",
                                 "a/.larder-tmp/b",
                                 "../../../../../../../../etc/passwd",
                                 long_segment,
                                 long_key };
    char outside[PATH_MAX];

    snprintf(outside, sizeof outside, "%s/x", dir);
    write_file(outside, "outside");
    memset(long_segment, 's', sizeof long_segment - 1);
    long_segment[sizeof long_segment - 1] = '\0';
    memset(long_key, 'k', sizeof long_key - 1);
    for (size_t i = 1; i < sizeof long_key; i += 2)
        long_key[i] = '/';
    long_key[sizeof long_key - 1] = '\0';
    is(put("a/b", "inside"), LARDER_OK);
    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++) {
        cr_expect(eq(int, put(keys[i], "bad"), LARDER_INVALID), "put \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, get(keys[i]), LARDER_INVALID), "get \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, head(keys[i]), LARDER_INVALID), "head \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, del(keys[i]), LARDER_INVALID), "delete \"%s\": %s", keys[i], r.err.msg);
    }
    cr_expect(file_is(outside, "outside"));
    is(get("a/b"), LARDER_OK);
    cr_expect(got("inside"));
    cr_expect(eq(int, entries(""), 1), "only the container was made");
}

BOTH_WAYS(a_container_that_leads_elsewhere_is_refused)
{
    static const char *const containers[] = { "..", ".", "", "a/b", "/etc", "../root", ".larder-tmp" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(containers); i++) {
        bd_result_release(&r);
        cr_expect(eq(int, bd_put(bd, containers[i], "k", "x", 1, NULL, &r), LARDER_INVALID), "\"%s\"", containers[i]);
        bd_result_release(&r);
        cr_expect(eq(int, bd_get(bd, containers[i], "k", NULL, &r), LARDER_INVALID), "\"%s\"", containers[i]);
    }
    cr_expect(eq(int, entries(""), 0));
}

BOTH_WAYS(a_segment_of_255_bytes_and_a_deep_key_are_fine)
{
    char key[3000] = "";

    memset(key, 'x', NAME_MAX);
    is(put(key, "long"), LARDER_OK);
    is(get(key), LARDER_OK);
    cr_expect(got("long"));
    for (size_t i = 0; i + 2 < sizeof key; i += 30) /* 100 directories */
        memcpy(key + i, "a_directory_of_thirty_letters/", 30);
    key[sizeof key - 1] = '\0';
    key[sizeof key - 2] = 'k';
    is(put(key, "deep"), LARDER_OK);
    is(get(key), LARDER_OK);
    cr_expect(got("deep"));
    is(del(key), LARDER_OK);
    cr_expect(not(there("c/a_directory_of_thirty_letters")));
}

BOTH_WAYS(no_symbolic_link_is_followed)
{
    static const char *const keys[] = { "leaf", "mid/x" };
    char outside[PATH_MAX];

    snprintf(outside, sizeof outside, "%s/x", dir);
    write_file(outside, "outside");
    is(put("real", "inside"), LARDER_OK);
    cr_assert(eq(int, symlink(outside, path_of("c/leaf")), 0));
    cr_assert(eq(int, symlink(dir, path_of("c/mid")), 0));
    cr_assert(eq(int, symlink(dir, path_of("linked")), 0));
    cr_assert(eq(int, symlink("real", path_of("c/near")), 0));
    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++) {
        cr_expect(eq(int, get(keys[i]), LARDER_INVALID), "get \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, head(keys[i]), LARDER_INVALID), "head \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, put(keys[i], "bad"), LARDER_INVALID), "put \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, del(keys[i]), LARDER_INVALID), "delete \"%s\": %s", keys[i], r.err.msg);
    }
    is(get("near"), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_get(bd, "linked", "x", NULL, &r), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_put(bd, "linked", "y", "bad", 3, NULL, &r), LARDER_INVALID);
    cr_expect(file_is(outside, "outside"));
    cr_expect(there("c/leaf"));
}

BOTH_WAYS(what_is_no_regular_file_is_refused_at_once)
{
    static const char *const keys[] = { "fifo", "socket", "device" };
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t n = 2;

    is(put("real", "inside"), LARDER_OK);
    cr_assert(eq(int, mkfifo(path_of("c/fifo"), 0644), 0));
    cr_assert(lt(int, snprintf(at.sun_path, sizeof at.sun_path, "%s", path_of("c/socket")), (int)sizeof at.sun_path));
    cr_assert(eq(int, bind(s, (struct sockaddr *)&at, sizeof at), 0));
    if (mknod(path_of("c/device"), S_IFCHR | 0644, 0x103) == 0) /* /dev/null; root only */
        n = 3;
    for (size_t i = 0; i < n; i++) {
        cr_expect(eq(int, get(keys[i]), LARDER_INVALID), "get \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, head(keys[i]), LARDER_INVALID), "head \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, put(keys[i], "bad"), LARDER_INVALID), "put \"%s\": %s", keys[i], r.err.msg);
        cr_expect(eq(int, del(keys[i]), LARDER_INVALID), "delete \"%s\": %s", keys[i], r.err.msg);
    }
    cr_expect(there("c/fifo") && there("c/socket"));
    close(s);
}

BOTH_WAYS(a_directory_is_a_missing_object)
{
    is(put("d/x", "inside"), LARDER_OK);
    is(get("d"), LARDER_NOT_FOUND);
    is(head("d"), LARDER_NOT_FOUND);
    is(del("d"), LARDER_OK);
    is(get("d/x"), LARDER_OK);
    is(get("d/x/y"), LARDER_NOT_FOUND);
    is(head("d/x/y"), LARDER_NOT_FOUND);
    is(del("d/x/y"), LARDER_OK);
    is(get("d/x"), LARDER_OK);
}

BOTH_WAYS(a_key_and_a_key_below_it_cannot_both_be_held)
{
    is(put("a", "object"), LARDER_OK);
    is(put("a/b", "below"), LARDER_INVALID);
    cr_expect(strstr(r.err.msg, "file://c/a/b") != NULL, "%s", r.err.msg);
    is(put("a/b/c", "below"), LARDER_INVALID);
    is(get("a"), LARDER_OK);
    cr_expect(got("object"));
    is(put("d/e", "below"), LARDER_OK);
    is(put("d", "object"), LARDER_INVALID);
    cr_expect(strstr(r.err.msg, "file://c/d") != NULL, "%s", r.err.msg);
    cr_expect(not(r.sent), "nothing was changed");
    bd_result_release(&r);
    is(bd_put(bd, "c", "d", "x", 1, &(struct bd_args){ .create_only = true }, &r), LARDER_INVALID);
    is(get("d/e"), LARDER_OK);
    cr_expect(got("below"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

/* ---- directories ---- */

Test(local, files_and_directories_are_nothing_to_others)
{
    struct stat st;

    umask(0);
    open_store();
    is(put("d/x", "inside"), LARDER_OK);
    cr_assert(eq(int, stat(path_of("c"), &st), 0));
    cr_expect(eq(u32, st.st_mode & 07777, 0750));
    cr_assert(eq(int, stat(path_of("c/d"), &st), 0));
    cr_expect(eq(u32, st.st_mode & 07777, 0750));
    cr_assert(eq(int, stat(path_of("c/d/x"), &st), 0));
    cr_expect(eq(u32, st.st_mode & 07777, 0640));
}

BOTH_WAYS(a_delete_removes_the_directories_that_it_leaves_empty)
{
    is(put("a/b/c/x", "1"), LARDER_OK);
    is(put("a/y", "2"), LARDER_OK);
    is(del("a/b/c/x"), LARDER_OK);
    cr_expect(not(there("c/a/b")));
    cr_expect(there("c/a/y"));
    is(del("a/y"), LARDER_OK);
    cr_expect(not(there("c/a")));
    cr_expect(there("c"), "the container stays");
}

struct racer {
    const char *key;
    int rounds, failed;
};

static void *put_and_delete(void *user)
{
    struct racer *me = user;

    for (int i = 0; i < me->rounds; i++) {
        struct bd_result one;

        me->failed += bd_put(bd, "c", me->key, "x", 1, NULL, &one) != LARDER_OK;
        bd_result_release(&one);
        me->failed += bd_delete(bd, "c", me->key, &one) != LARDER_OK;
        bd_result_release(&one);
    }
    return NULL;
}

Test(local, puts_and_deletes_that_race_for_a_directory_all_succeed)
{
    struct racer racers[] = { { "a/b/c/1", 60, 0 }, { "a/b/c/2", 60, 0 }, { "a/b/3", 60, 0 } };
    pthread_t threads[LDR_ARRAY_LEN(racers)];

    open_store();
    for (size_t i = 0; i < LDR_ARRAY_LEN(racers); i++)
        cr_assert(eq(int, pthread_create(&threads[i], NULL, put_and_delete, &racers[i]), 0));
    for (size_t i = 0; i < LDR_ARRAY_LEN(racers); i++) {
        pthread_join(threads[i], NULL);
        cr_expect(eq(int, racers[i].failed, 0));
    }
    cr_expect(not(there("c/a")));
}

/* ---- whole or not at all ---- */

#define BIG (4 * LDR_MIB)

/* Puts without end, as fast as it can; each object says in its first bytes what the others are. */
static void put_for_ever(void)
{
    for (uint64_t seed = 1;; seed++) {
        uint8_t *p = bd_bytes(BIG, seed);
        char key[32];

        memcpy(p, &seed, sizeof seed);
        snprintf(key, sizeof key, "d%d/k", (int)(seed % 3));
        bd_result_release(&r);
        if (bd_put(bd, "c", key, p, BIG, NULL, &r))
            _exit(1);
        free(p);
    }
}

static bool is_whole(const uint8_t *p, size_t n)
{
    uint64_t seed;
    uint8_t *want;
    bool same;

    if (n != BIG)
        return false;
    memcpy(&seed, p, sizeof seed);
    want = bd_bytes(n, seed);
    memcpy(want, &seed, sizeof seed);
    same = !memcmp(p, want, n);
    free(want);
    return same;
}

Test(local, a_put_that_is_killed_leaves_whole_objects_only)
{
    int left_behind = 0, seen = 0;

    for (int round = 0; round < 8; round++) {
        struct timespec a_while = { .tv_nsec = 3000000L * round };
        pid_t child = fork();

        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            open_store();
            put_for_ever();
        }
        while (entries("c/.larder-tmp") <= left_behind && waitpid(child, NULL, WNOHANG) == 0)
            nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
        nanosleep(&a_while, NULL); /* no synchronisation: another moment of the put in each round */
        cr_assert(eq(int, kill(child, SIGKILL), 0), "the child puts until it is killed");
        waitpid(child, NULL, 0);
        left_behind = entries("c/.larder-tmp");

        open_store();
        for (int i = 0; i < 3; i++) {
            char key[32];

            snprintf(key, sizeof key, "d%d/k", i);
            if (get(key) == LARDER_NOT_FOUND)
                continue;
            is(r.kind, LARDER_OK);
            cr_assert(is_whole(r.bytes.p, r.bytes.len), "%s is torn", key);
            seen++;
        }
        bd_close(&bd);
    }
    cr_assert(gt(int, left_behind, 0), "some puts were killed in the middle");
    cr_assert(gt(int, seen, 0), "some puts ended before");
}

Test(local, what_a_crash_left_is_removed_a_day_later)
{
    struct timespec old[2] = { { .tv_sec = time(NULL) - 25 * 3600 }, { .tv_sec = time(NULL) - 25 * 3600 } };

    mkdir(path_of("c"), 0755);
    mkdir(path_of("c/.larder-tmp"), 0755);
    mkdir(path_of("c/d"), 0755);
    write_file(path_of("c/.larder-tmp/old"), "x");
    write_file(path_of("c/.larder-tmp/young"), "x");
    write_file(path_of("c/d/old"), "x");
    cr_assert(eq(int, utimensat(AT_FDCWD, path_of("c/.larder-tmp/old"), old, 0), 0));
    cr_assert(eq(int, utimensat(AT_FDCWD, path_of("c/d/old"), old, 0), 0));
    open_store();
    cr_expect(not(there("c/.larder-tmp/old")));
    cr_expect(there("c/.larder-tmp/young"), "another agent may be writing it");
    cr_expect(there("c/d/old"), "objects are never swept");
}

struct creator {
    int seed;
    enum larder_kind kind;
};

static void *create(void *user)
{
    struct creator *me = user;
    struct bd_result one;
    uint8_t *p = bd_bytes(LDR_MIB, (uint64_t)me->seed);

    me->kind = bd_put(bd, "c", "only", p, LDR_MIB, &(struct bd_args){ .create_only = true }, &one);
    bd_result_release(&one);
    free(p);
    return NULL;
}

Test(local, of_many_creators_one_wins)
{
    struct creator creators[8];
    pthread_t threads[LDR_ARRAY_LEN(creators)];
    int winner = -1;
    uint8_t *want;

    open_store();
    for (int i = 0; i < (int)LDR_ARRAY_LEN(creators); i++) {
        creators[i] = (struct creator){ .seed = i };
        cr_assert(eq(int, pthread_create(&threads[i], NULL, create, &creators[i]), 0));
    }
    for (int i = 0; i < (int)LDR_ARRAY_LEN(creators); i++) {
        pthread_join(threads[i], NULL);
        if (creators[i].kind == LARDER_OK) {
            cr_assert(eq(int, winner, -1), "two creators won");
            winner = i;
        } else {
            cr_assert(eq(int, creators[i].kind, LARDER_EXISTS));
        }
    }
    cr_assert(ge(int, winner, 0));
    is(get("only"), LARDER_OK);
    want = bd_bytes(LDR_MIB, (uint64_t)winner);
    cr_assert(r.bytes.len == LDR_MIB && !memcmp(r.bytes.p, want, LDR_MIB), "the winner's bytes are there");
    free(want);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

Test(local, a_body_file_that_is_too_short_is_no_object)
{
    int fd = memfd_create("body", MFD_CLOEXEC);

    open_store();
    cr_assert(eq(int, ftruncate(fd, 1000), 0));
    is(bd_put_fd(bd, "c", "short", fd, 1001, NULL, &r), LARDER_IO);
    cr_expect(not(r.sent));
    is(get("short"), LARDER_NOT_FOUND);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
    bd_result_release(&r);
    is(bd_put_fd(bd, "c", "short", fd, 1000, NULL, &r), LARDER_OK);
    close(fd);
}

/* ---- copies ---- */

static enum larder_kind copy(const char *from, const char *to)
{
    bd_result_release(&r);
    return bd_copy(bd, "c", from, to, &r);
}

BOTH_WAYS(a_copy_is_a_put_of_another_objects_bytes)
{
    is(put("a/b", "bytes"), LARDER_OK);
    is(copy("a/b", "x/y/z"), LARDER_OK);
    cr_expect(eq(u64, r.meta.size_bytes, 5));
    cr_expect(file_is(path_of("c/x/y/z"), "bytes"));
    is(copy("a/b", "a/b"), LARDER_OK);
    cr_expect(file_is(path_of("c/a/b"), "bytes"));
    is(copy("a/b", "a/b/c"), LARDER_INVALID);
    is(copy("a/b", "x"), LARDER_INVALID);
    is(copy("a", "d"), LARDER_NOT_FOUND);
    is(copy("a/b/c", "d"), LARDER_NOT_FOUND);
    is(copy("../c/a", "d"), LARDER_INVALID);
    is(copy("a/b", "../d"), LARDER_INVALID);
    cr_assert(eq(int, symlink("b", path_of("c/a/link")), 0));
    is(copy("a/link", "d"), LARDER_INVALID);
    cr_expect(not(there("c/d")));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0), "nothing is left behind");
}

/* Another file system: no kernel copies there for us. */
Test(local, a_copy_to_another_file_system_is_made_by_hand)
{
    uint8_t *p = calloc(1, LDR_MIB + 1);

    mkdir(path_of("c"), 0755);
    mkdir(path_of("c/other"), 0755);
    mount_here("tmpfs", "c/other", "mode=0755"); /* before the pool's threads are made: they see it too */
    open_store();
    write_file(path_of("c/other/b"), "x");
    is(copy("other/b", "here"), LARDER_OK);
    is(get("here"), LARDER_OK);
    cr_expect(got("x"));
    cr_assert(eq(int, truncate(path_of("c/other/b"), LDR_MIB + 1), 0));
    is(copy("other/b", "here"), LARDER_OK);
    is(get("here"), LARDER_OK);
    p[0] = 'x';
    cr_expect(r.bytes.len == LDR_MIB + 1 && !memcmp(r.bytes.p, p, LDR_MIB + 1));
    free(p);
}

/* ---- listings ---- */

static const char *list_from(const char *prefix, const char *delimiter, const char *start, unsigned most)
{
    static char text[4096];
    size_t used = 0;

    bd_result_release(&r);
    is(bd_list(bd, "c", prefix, &(struct bd_args){ .delimiter = delimiter, .start = start, .max_entries = most }, &r),
       LARDER_OK);
    text[0] = '\0';
    for (size_t i = 0; i < r.page.n && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%s", i ? " " : "", r.page.entries[i].key,
                                 r.page.entries[i].is_prefix ? "+" : "");
    return text;
}

#define lists(want, ...) cr_expect(eq(str, (char *)(uintptr_t)list_from(__VA_ARGS__), want))

BOTH_WAYS(a_listing_tells_objects_alone_in_the_order_of_their_keys)
{
    is(put("a/x", "1"), LARDER_OK);
    is(put("a-b", "2"), LARDER_OK);
    is(put("a0", "3"), LARDER_OK);
    is(put("b/c/d", "4"), LARDER_OK);
    mkdir(path_of("c/empty"), 0755);
    mkdir(path_of("c/empty/deeper"), 0755);
    cr_assert(eq(int, symlink("a-b", path_of("c/link")), 0));
    cr_assert(eq(int, symlink("a", path_of("c/linked")), 0));
    cr_assert(eq(int, symlink("/etc", path_of("c/out")), 0));
    cr_assert(eq(int, mkfifo(path_of("c/fifo"), 0644), 0));
    write_file(path_of("c/.larder-tmp/left"), "x");
    write_file(path_of("c/new\nline"), "x");
    lists("a-b a/x a0 b/c/d", "", NULL, NULL, 0);
    lists("a-b a/+ a0 b/+", "", "/", NULL, 0);
    lists("", "empty", NULL, NULL, 0);
    lists("", "empty/", "/", NULL, 0);
    lists("", "link", NULL, NULL, 0);
    lists("", "fifo", NULL, NULL, 0);
    lists("", ".larder-tmp/", NULL, NULL, 0);
    lists("", "../c/", NULL, NULL, 0);
    lists("", "a//", NULL, NULL, 0);
    lists("", "/", NULL, NULL, 0);
    lists("", "./", NULL, NULL, 0);
    lists("", "new", NULL, NULL, 0);
    lists("", "a-b/", NULL, NULL, 0);
    bd_result_release(&r);
    is(bd_list(bd, "c", "linked/", NULL, &r), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_list(bd, "..", "", NULL, &r), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_list(bd, "c/a", "", NULL, &r), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_list(bd, ".larder-tmp", "", NULL, &r), LARDER_INVALID);
    bd_result_release(&r);
    is(bd_list(bd, "none", "", NULL, &r), LARDER_NOT_FOUND);
}

/* More names than are kept of a directory at once, at the top and deep down. */
Test(local, large_and_deep_directories_are_listed_whole_and_in_order)
{
    char key[256] = "", start[256] = "", want[32], name[300];
    unsigned n = 0, made = 0;

    open_store();
    is(put("x", ""), LARDER_OK);
    for (; made < 2600; made++) { /* not in order */
        snprintf(name, sizeof name, "c/%04u", made * 1237 % 2600);
        write_file(path_of(name), "");
    }
    do {
        list_from("", NULL, start, 0);
        for (size_t i = 0; i < r.page.n; i++, n++) {
            snprintf(want, sizeof want, n < made ? "%04u" : "x", n);
            cr_assert(eq(str, r.page.entries[i].key, want));
        }
        snprintf(start, sizeof start, "%s", r.page.next ? r.page.next : "");
    } while (*start);
    cr_expect(eq(uint, n, made + 1));

    for (int level = 0; level < 20; level++)
        strcat(key, "d/");
    for (unsigned i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "%s%02u", key, i * 7 % 50);
        is(put(name, ""), LARDER_OK);
    }
    list_from("d/", NULL, NULL, 0);
    cr_assert(eq(sz, r.page.n, 50));
    for (unsigned i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "%s%02u", key, i);
        cr_assert(eq(str, r.page.entries[i].key, name));
    }
    lists("d/+", "d", "/", NULL, 0);
}

Test(local, what_cannot_be_read_fails_a_listing)
{
    open_store();
    is(put("a/x", "1"), LARDER_OK);
    is(put("b/x", "1"), LARDER_OK);
    is(put("d/x", "1"), LARDER_OK);
    bd_close(&bd);
    cr_assert(eq(int, chmod(path_of("c/b"), 0), 0));
    cr_assert(eq(int, chmod(path_of("c/d"), 0444), 0));
    cr_assert(eq(int, chmod(path_of("c"), 0755), 0));
    cr_assert(eq(int, chmod(path_of("c/a"), 0755), 0));
    cr_assert(eq(int, chmod(dir, 0755), 0));
    if (geteuid() == 0 && (setegid(NOBODY) || seteuid(NOBODY)))
        skip("cannot become another user: %s", strerror(errno));
    open_store();
    lists("a/x", "a", NULL, NULL, 0);
    bd_result_release(&r);
    is(bd_list(bd, "c", "", NULL, &r), LARDER_DENIED);
    cr_expect(eq(sz, r.page.n, 0), "a listing is whole or none");
    bd_result_release(&r);
    is(bd_list(bd, "c", "d", NULL, &r), LARDER_DENIED); /* its names can be read, no more */
    if (getuid() != 0) {                                /* for the removal */
        chmod(path_of("c/b"), 0755);
        chmod(path_of("c/d"), 0755);
    }
}

/* ---- changes under a reader ---- */

static enum larder_kind rewrite(void *user, uint64_t seen, struct larder_err *err)
{
    int fd;

    (void)user, (void)err;
    if (seen == 0) {
        fd = open(path_of("c/big"), O_WRONLY | O_CLOEXEC);
        if (pwrite(fd, "other", 5, LDR_MIB) != 5)
            abort();
        close(fd);
    }
    return LARDER_OK;
}

static enum larder_kind shorten(void *user, uint64_t seen, struct larder_err *err)
{
    (void)user, (void)err;
    if (seen == 0 && truncate(path_of("c/big"), LDR_MIB))
        abort();
    return LARDER_OK;
}

static enum larder_kind replace(void *user, uint64_t seen, struct larder_err *err)
{
    struct bd_result one;
    enum larder_kind k = LARDER_OK;

    (void)user, (void)err;
    if (seen == 0) {
        k = bd_put(bd, "c", "big", "new", 3, NULL, &one);
        bd_result_release(&one);
    }
    return k;
}

static enum larder_kind remove_it(void *user, uint64_t seen, struct larder_err *err)
{
    (void)user, (void)err;
    if (seen == 0)
        unlink(path_of("c/big"));
    return LARDER_OK;
}

Test(local, an_object_written_in_place_while_it_is_read_is_no_answer)
{
    uint8_t *p = bd_bytes(2 * LDR_MIB, 1);

    open_store();
    is(bd_put(bd, "c", "big", p, 2 * LDR_MIB, NULL, &r), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(bd, "c", "big", &(struct bd_args){ .on_write = rewrite }, &r), LARDER_UNAVAILABLE);
    bd_result_release(&r);
    is(bd_get(bd, "c", "big", &(struct bd_args){ .on_write = shorten }, &r), LARDER_UNAVAILABLE);
    is(get("big"), LARDER_OK);
    cr_expect(eq(u64, r.bytes.len, LDR_MIB));
    free(p);
}

Test(local, an_object_replaced_or_deleted_while_it_is_read_is_read_to_its_end)
{
    uint8_t *p = bd_bytes(2 * LDR_MIB, 1);

    open_store();
    is(bd_put(bd, "c", "big", p, 2 * LDR_MIB, NULL, &r), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(bd, "c", "big", &(struct bd_args){ .on_write = replace }, &r), LARDER_OK);
    cr_assert(r.bytes.len == 2 * LDR_MIB && !memcmp(r.bytes.p, p, 2 * LDR_MIB));
    is(get("big"), LARDER_OK);
    cr_expect(got("new"));
    bd_result_release(&r);
    is(bd_put(bd, "c", "big", p, 2 * LDR_MIB, NULL, &r), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(bd, "c", "big", &(struct bd_args){ .on_write = remove_it }, &r), LARDER_OK);
    cr_assert(r.bytes.len == 2 * LDR_MIB && !memcmp(r.bytes.p, p, 2 * LDR_MIB));
    free(p);
}

static enum larder_kind wait_a_little(void *user, uint64_t seen, struct larder_err *err)
{
    (void)user, (void)seen, (void)err;
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    return LARDER_OK;
}

Test(local, a_get_ends_when_its_time_is_up)
{
    uint8_t *p = bd_bytes(2 * LDR_MIB, 1);

    open_store();
    is(bd_put(bd, "c", "big", p, 2 * LDR_MIB, NULL, &r), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(bd, "c", "big", &(struct bd_args){ .on_write = wait_a_little, .timeout_ms = 1 }, &r), LARDER_TIMEOUT);
    free(p);
}

/* Inodes are reused and file times move in ticks: neither may give two versions one validator. */
Test(local, no_two_versions_share_a_validator)
{
    enum { VERSIONS = 40 };
    static char seen[VERSIONS][256];

    open_store();
    for (int i = 0; i < VERSIONS; i++) {
        char text[] = { (char)('A' + i), '\0' };

        is(put("v", text), LARDER_OK);
        snprintf(seen[i], sizeof seen[i], "%s", r.validator);
        cr_assert(ne(str, r.validator, ""));
        for (int j = 0; j < i; j++)
            cr_assert(ne(str, seen[i], seen[j]));
    }
    is(head("v"), LARDER_OK);
    cr_expect(eq(str, r.validator, seen[VERSIONS - 1]), "a put tells the validator that a head will see");
}

/* ---- metadata ---- */

static void with_content_type(struct ldr_meta *m)
{
    ldr_meta_init(m);
    cr_assert(ldr_meta_add_text(m, LDR_TAG_CONTENT_TYPE, "text/plain"));
}

Test(local, metadata_that_makes_no_sense_counts_as_none)
{
    static const uint8_t cut[] = { LDR_TAG_CONTENT_TYPE, 200, 0, 'x' };
    static const uint8_t lies[] = { LDR_TAG_VALIDATOR, 3, 0, '"', 'x', '"', LDR_TAG_ETAG, 1, 0, 'x' };
    char text[64];

    open_store();
    is(put("m", "bytes"), LARDER_OK);
    if (setxattr(path_of("c/m"), "user.larder.meta", cut, sizeof cut, 0) == -1)
        skip("no extended attributes here: %s", strerror(errno));
    is(get("m"), LARDER_OK);
    cr_expect(got("bytes"));
    cr_expect(not(ldr_meta_text(&r.meta, LDR_TAG_CONTENT_TYPE, text, sizeof text)));
    cr_assert(eq(int, setxattr(path_of("c/m"), "user.larder.meta", lies, sizeof lies, 0), 0));
    is(get("m"), LARDER_OK);
    cr_expect(ne(str, r.validator, "\"x\""));
    cr_expect(ne(str, r.etag, "x"));
}

Test(local, metadata_that_cannot_be_kept_is_refused)
{
    struct ldr_meta m;
    char value[LDR_META_MAX - 200];

    open_store();
    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_MD5, "XrY7u+Ae7tCTyyK7j1rNww=="));
    is(bd_put(bd, "c", "m", "x", 1, &(struct bd_args){ .put_meta = &m }, &r), LARDER_UNSUPPORTED);
    ldr_meta_release(&m);
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "n", value));
    bd_result_release(&r);
    is(bd_put(bd, "c", "m", "x", 1, &(struct bd_args){ .put_meta = &m }, &r), LARDER_LIMIT_EXCEEDED);
    ldr_meta_release(&m);
    is(get("m"), LARDER_NOT_FOUND);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

Test(local, a_file_system_without_attributes_keeps_objects_but_no_metadata)
{
    struct ldr_meta m;

    mount_here("ramfs", "", NULL);
    if (setxattr(root, "user.x", "x", 1, 0) == 0 || errno != ENOTSUP)
        skip("this ramfs has extended attributes");
    open_store();
    with_content_type(&m);
    is(bd_put(bd, "c", "m", "x", 1, &(struct bd_args){ .put_meta = &m }, &r), LARDER_UNSUPPORTED);
    ldr_meta_release(&m);
    is(get("m"), LARDER_NOT_FOUND);
    is(put("m", "plain"), LARDER_OK);
    is(get("m"), LARDER_OK);
    cr_expect(got("plain"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

/* ---- refusals of the system ---- */

Test(local, what_the_system_denies_is_denied)
{
    open_store();
    is(put("d/closed", "x"), LARDER_OK);
    bd_close(&bd);
    cr_assert(eq(int, chmod(path_of("c/d/closed"), 0), 0));
    cr_assert(eq(int, chmod(path_of("c/d"), 0555), 0));
    cr_assert(eq(int, chmod(path_of("c/.larder-tmp"), 0555), 0));
    cr_assert(eq(int, chmod(path_of("c"), 0555), 0));
    cr_assert(eq(int, chmod(dir, 0755), 0));
    if (geteuid() == 0 && (setegid(NOBODY) || seteuid(NOBODY)))
        skip("cannot become another user: %s", strerror(errno));
    open_store();
    is(get("d/closed"), LARDER_DENIED);
    cr_expect(eq(int, r.err.sys, EACCES));
    cr_expect(strstr(r.err.msg, "file://c/d/closed") != NULL, "%s", r.err.msg);
    is(head("d/closed"), LARDER_DENIED);
    is(put("d/new", "x"), LARDER_DENIED);
    is(del("d/closed"), LARDER_DENIED);
    cr_expect(not(r.sent));
    if (getuid() != 0) { /* for the removal */
        chmod(path_of("c"), 0755);
        chmod(path_of("c/d"), 0755);
        chmod(path_of("c/.larder-tmp"), 0755);
    }
}

Test(local, a_full_disk_is_said_and_changes_nothing)
{
    uint8_t *p = bd_bytes(4 * LDR_MIB, 1);

    mount_here("tmpfs", "", "size=1m");
    open_store();
    is(put("k", "old"), LARDER_OK);
    bd_result_release(&r);
    is(bd_put(bd, "c", "k", p, 4 * LDR_MIB, NULL, &r), LARDER_IO);
    cr_expect(eq(int, r.err.sys, ENOSPC));
    cr_expect(not(r.sent));
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
    bd_result_release(&r);
    is(bd_put(bd, "c", "k", p, LDR_MIB / 2, NULL, &r), LARDER_OK);
    free(p);
}

Test(local, a_container_may_be_a_mount_of_its_own)
{
    mkdir(path_of("c"), 0755);
    mount_here("tmpfs", "c", "size=1m");
    open_store();
    is(put("a/b", "mounted"), LARDER_OK);
    is(get("a/b"), LARDER_OK);
    cr_expect(got("mounted"));
    is(del("a/b"), LARDER_OK);
    cr_expect(not(there("c/a")));
    bd_close(&bd);
    umount2(path_of("c"), MNT_DETACH);
}

/* ---- uploads in parts ---- */

static struct op_upload up; /* large */

/* These leave their error in r, for is(). */

static enum larder_kind up_begin(const char *key, uint64_t part_size)
{
    bd_result_release(&r);
    op_upload_init(&up, bd, "c", key, part_size);
    return r.kind = op_upload_begin(&up, NULL, &r.err);
}

static enum larder_kind up_part(uint32_t n, const char *text)
{
    return r.kind = op_upload_part(&up, n, text, strlen(text), &r.err);
}

static enum larder_kind up_end(uint32_t n_parts, uint64_t size)
{
    return r.kind = op_upload_end(&up, n_parts, size, NULL, NULL, &r.err);
}

static enum larder_kind up_abort(void)
{
    return r.kind = op_upload_abort(&up, &r.err);
}

static const char *tmp_path(const char *name)
{
    char path[256];

    snprintf(path, sizeof path, "c/.larder-tmp/%.200s", name);
    return path_of(path);
}

BOTH_WAYS(an_upload_is_nothing_until_its_end)
{
    char validator[256] = "", text[64];
    struct ldr_meta m;

    with_content_type(&m);
    op_upload_init(&up, bd, "c", "a/b", 4);
    is(r.kind = op_upload_begin(&up, &m, &r.err), LARDER_OK);
    ldr_meta_release(&m);
    is(up_part(3, "9"), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(get("a/b"), LARDER_NOT_FOUND);
    lists("", "", NULL, NULL, 0);
    cr_expect(not(there("c/a")));
    is(up_part(2, "5678"), LARDER_OK);
    is(get("a/b"), LARDER_NOT_FOUND);
    is(r.kind = op_upload_end(&up, 3, 9, NULL, validator, &r.err), LARDER_OK);
    is(get("a/b"), LARDER_OK);
    cr_expect(got("123456789"));
    cr_expect(eq(str, r.validator, validator));
    cr_expect(ldr_meta_text(&r.meta, LDR_TAG_CONTENT_TYPE, text, sizeof text) && !strcmp(text, "text/plain"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
    is(up_end(3, 9), LARDER_NOT_FOUND);
    is(up_part(1, "1234"), LARDER_NOT_FOUND);
    is(up_abort(), LARDER_OK);
    is(get("a/b"), LARDER_OK);
    cr_expect(got("123456789"));
}

Test(local, an_upload_that_does_not_add_up_is_refused_and_can_be_mended)
{
    open_store();
    is(put("k", "old"), LARDER_OK);
    is(up_begin("k", 4), LARDER_OK);
    is(up_end(0, 0), LARDER_INVALID);
    is(up_end(1, 4), LARDER_INVALID);
    is(up_end(LDR_PARTS_MAX + 1, 4), LARDER_INVALID);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_part(3, "9"), LARDER_OK);
    is(up_end(3, 9), LARDER_INVALID);
    cr_expect(strstr(r.err.msg, "part 2 is missing") != NULL, "%s", r.err.msg);
    is(up_end(1, 4), LARDER_INVALID); /* part 3 is there */
    is(up_part(2, "56"), LARDER_OK);
    is(up_end(3, 7), LARDER_INVALID);
    is(up_part(2, "5678"), LARDER_OK);
    is(up_end(3, 8), LARDER_INVALID);
    is(up_end(3, 10), LARDER_INVALID);
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    is(up_part(2, "567890"), LARDER_INVALID); /* larger than a part; the part before it is as it was */
    is(up_part(2, ""), LARDER_INVALID);
    is(up_part(0, "x"), LARDER_INVALID);
    is(up_part(LDR_PARTS_MAX + 1, "x"), LARDER_INVALID);
    is(up_end(3, 9), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("123456789"));
}

Test(local, an_upload_that_cannot_work_does_not_begin)
{
    struct ldr_meta m;

    open_store();
    is(up_begin("k", 0), LARDER_INVALID);
    is(up_begin("k", UINT64_MAX), LARDER_INVALID);
    is(up_begin("../k", 4), LARDER_INVALID);
    is(up_begin("a//k", 4), LARDER_INVALID);
    cr_expect(eq(str, up.m.id, ""));
    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_MD5, "XrY7u+Ae7tCTyyK7j1rNww=="));
    op_upload_init(&up, bd, "c", "k", 4);
    is(r.kind = op_upload_begin(&up, &m, &r.err), LARDER_UNSUPPORTED);
    ldr_meta_release(&m);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

Test(local, an_upload_ends_where_no_object_can_be)
{
    open_store();
    is(put("a/b", "x"), LARDER_OK);
    is(up_begin("a", 4), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_end(1, 4), LARDER_INVALID);
    is(up_abort(), LARDER_OK);
    is(up_begin("a/b/c", 4), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_end(1, 4), LARDER_INVALID);
    is(up_abort(), LARDER_OK);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

Test(local, an_aborted_upload_leaves_nothing)
{
    open_store();
    is(put("k", "old"), LARDER_OK);
    is(up_begin("k", 4), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    cr_expect(eq(int, entries("c/.larder-tmp"), 1));
    is(up_abort(), LARDER_OK);
    is(up_abort(), LARDER_OK);
    is(up_part(2, "1"), LARDER_NOT_FOUND);
    is(up_end(1, 4), LARDER_NOT_FOUND);
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

/* An id may have been read from a file: nothing but an upload of this very key can be reached by it. */
BOTH_WAYS(a_hostile_id_names_no_upload)
{
    char random[33] = "0123456789abcdef0123456789abcdef", suffix[32], mine[128], longer[LDR_UPLOAD_ID_MAX];
    const char *const ids[] = { "",
                                "k",
                                "../k",
                                "../../outside",
                                "/etc/passwd",
                                ".",
                                "..",
                                random,
                                "up-",
                                "up-0123456789abcdef0123456789abcde/-0123456789abcdef",
                                "up-../../../../../../../../../../..-0123456789abcdef",
                                "up-0123456789abcdef0123456789abcdef-0123456789abcdef",
                                longer };

    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    is(put("k", "object"), LARDER_OK);
    write_file(tmp_path(random), "another's put"); /* named as one that is being put */
    is(up_begin("other", 4), LARDER_OK);
    snprintf(mine, sizeof mine, "%.100s", up.m.id);
    for (size_t i = 0; i <= LDR_ARRAY_LEN(ids); i++) {
        op_upload_init(&up, bd, "c", "k", 4);
        snprintf(up.m.id, sizeof up.m.id, "%s", i < LDR_ARRAY_LEN(ids) ? ids[i] : mine);
        cr_expect(eq(int, up_part(1, "bad!"), LARDER_NOT_FOUND), "\"%s\"", up.m.id);
        cr_expect(eq(int, op_upload_copy(&up, 1, "k", 0, 4, NULL, NULL), LARDER_NOT_FOUND), "\"%s\"", up.m.id);
        up.parts[0].size = 4;
        cr_expect(eq(int, up_end(1, 4), LARDER_NOT_FOUND), "\"%s\"", up.m.id);
        cr_expect(eq(int, up_abort(), LARDER_OK), "\"%s\"", up.m.id);
    }
    is(get("k"), LARDER_OK);
    cr_expect(got("object"));
    cr_expect(file_is(tmp_path(random), "another's put"));

    /* what somebody put in the upload's place is not written to */
    snprintf(suffix, sizeof suffix, "%s", strrchr(mine, '-'));
    op_upload_init(&up, bd, "c", "other", 4);
    snprintf(up.m.id, sizeof up.m.id, "up-%s%s", random, suffix);
    cr_assert(eq(int, symlink("../k", tmp_path(up.m.id)), 0));
    is(up_part(1, "bad!"), LARDER_INVALID);
    cr_assert(eq(int, unlink(tmp_path(up.m.id)), 0));
    cr_assert(eq(int, mkfifo(tmp_path(up.m.id), 0600), 0));
    is(up_part(1, "bad!"), LARDER_NOT_FOUND);
    cr_assert(eq(int, unlink(tmp_path(up.m.id)), 0));
    cr_expect(file_is(path_of("c/k"), "object"));
}

Test(local, the_upload_of_an_agent_that_is_gone_can_be_aborted)
{
    char id[LDR_UPLOAD_ID_MAX + 1];
    struct timespec old[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

    open_store();
    is(up_begin("a/k", 4), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    snprintf(id, sizeof id, "%s", up.m.id);
    bd_close(&bd);
    open_store();
    cr_expect(eq(int, entries("c/.larder-tmp"), 1));
    op_upload_init(&up, bd, "c", "a/k", 0);
    snprintf(up.m.id, sizeof up.m.id, "%s", id);
    is(up_abort(), LARDER_OK);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
    op_upload_init(&up, bd, "none", "k", 0);
    snprintf(up.m.id, sizeof up.m.id, "%s", id);
    is(up_abort(), LARDER_OK);
    cr_expect(not(there("none")));

    is(up_begin("a/k", 4), LARDER_OK);
    cr_assert(eq(int, utimensat(AT_FDCWD, tmp_path(up.m.id), old, 0), 0));
    bd_close(&bd);
    open_store();
    cr_expect(eq(int, entries("c/.larder-tmp"), 0), "one that nobody aborted goes when it is old");
}

Test(local, conditions_that_a_file_system_cannot_keep_are_refused)
{
    char validator[256];

    open_store();
    is(put("k", "old"), LARDER_OK);
    is(head("k"), LARDER_OK);
    snprintf(validator, sizeof validator, "%s", r.validator);
    cr_expect(eq(uint, bd_backend(bd)->ops->caps & LDR_CAP_PUT_IF_MATCH, 0));
    bd_result_release(&r);
    is(bd_put(bd, "c", "k", "new", 3, &(struct bd_args){ .if_match = validator }, &r), LARDER_UNSUPPORTED);
    is(up_begin("k", 4), LARDER_OK);
    is(up_part(1, "new"), LARDER_OK);
    is(r.kind = op_upload_end(&up, 1, 3, &(struct bd_args){ .if_match = validator }, NULL, &r.err), LARDER_UNSUPPORTED);
    is(r.kind = op_upload_end(&up, 1, 3, &(struct bd_args){ .create_only = true }, NULL, &r.err), LARDER_EXISTS);
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    is(del("k"), LARDER_OK);
    is(r.kind = op_upload_end(&up, 1, 3, &(struct bd_args){ .create_only = true }, NULL, &r.err), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("new"));
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
}

Test(local, parts_are_copied_from_objects)
{
    char validator[256];

    open_store();
    is(put("from", "0123456789"), LARDER_OK);
    is(head("from"), LARDER_OK);
    snprintf(validator, sizeof validator, "%s", r.validator);
    is(up_begin("k", 4), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 2, "from", 4, 4, validator, &r.err), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 1, "from", 2, 4, NULL, &r.err), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 3, "from", 9, 1, NULL, &r.err), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 3, "from", 9, 2, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 3, "from", UINT64_MAX - 1, 4, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 3, "from", 0, 5, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 3, "from", 0, 0, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 3, "from", 0, 1, "\"another\"", &r.err), LARDER_PRECONDITION);
    is(r.kind = op_upload_copy(&up, 3, "none", 0, 1, NULL, &r.err), LARDER_NOT_FOUND);
    is(r.kind = op_upload_copy(&up, 3, "../c/from", 0, 1, NULL, &r.err), LARDER_INVALID);
    is(up_end(3, 9), LARDER_INVALID); /* what failed is not there any more */
    is(r.kind = op_upload_copy(&up, 3, "from", 9, 1, NULL, &r.err), LARDER_OK);
    is(up_end(3, 9), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("234545679"));
}

Test(local, a_part_whose_body_is_too_short_is_not_there)
{
    int fd = memfd_create("body", MFD_CLOEXEC);

    open_store();
    cr_assert(eq(long, write(fd, "123", 3), 3L));
    is(up_begin("k", 4), LARDER_OK);
    is(r.kind = op_upload_part_fd(&up, 1, fd, 4, &r.err), LARDER_IO);
    cr_expect(eq(u64, up.parts[0].size, 0));
    is(up_end(1, 4), LARDER_INVALID);
    cr_assert(eq(long, write(fd, "4", 1), 1L));
    is(r.kind = op_upload_part_fd(&up, 1, fd, 4, &r.err), LARDER_OK);
    close(fd);
    is(up_end(1, 4), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("1234"));
}

/* A limit on the size of files is a disk that is full for anybody, not for root alone. */
Test(local, a_part_that_has_no_room_fails_and_its_abort_leaves_nothing)
{
    uint8_t *p = bd_bytes(LDR_MIB, 1);
    int fd;

    open_store();
    signal(SIGXFSZ, SIG_IGN); /* as the agent has it */
    cr_assert(eq(int, setrlimit(RLIMIT_FSIZE, &(struct rlimit){ LDR_MIB + 4096, LDR_MIB + 4096 }), 0));
    is(up_begin("k", LDR_MIB), LARDER_OK);
    is(r.kind = op_upload_part(&up, 1, p, LDR_MIB, &r.err), LARDER_OK);
    is(r.kind = op_upload_part(&up, 2, p, LDR_MIB, &r.err), LARDER_IO);
    cr_expect(eq(int, r.err.sys, EFBIG));
    fd = open(path_of("c/.larder-tmp"), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd == -1)
        fd = memfd_create("body", MFD_CLOEXEC);
    cr_assert(eq(long, write(fd, p, LDR_MIB), (long)LDR_MIB));
    is(r.kind = op_upload_part_fd(&up, 2, fd, LDR_MIB, &r.err), LARDER_IO); /* by the kernel, where it can */
    close(fd);
    is(up_end(2, 2 * LDR_MIB), LARDER_INVALID);
    is(up_abort(), LARDER_OK);
    cr_expect(eq(int, entries("c/.larder-tmp"), 0));
    is(get("k"), LARDER_NOT_FOUND);
    free(p);
}

Test(local, an_upload_on_a_full_disk_gives_its_space_back)
{
    uint8_t *p = bd_bytes(LDR_MIB, 1);

    mount_here("tmpfs", "", "size=1m");
    open_store();
    is(put("k", "old"), LARDER_OK);
    is(up_begin("k", LDR_MIB / 2), LARDER_OK);
    is(r.kind = op_upload_part(&up, 1, p, LDR_MIB / 2, &r.err), LARDER_OK);
    is(r.kind = op_upload_part(&up, 3, p, LDR_MIB / 2, &r.err), LARDER_IO);
    cr_expect(eq(int, r.err.sys, ENOSPC));
    is(up_abort(), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    bd_result_release(&r);
    is(bd_put(bd, "c", "k", p, LDR_MIB / 2, NULL, &r), LARDER_OK);
    free(p);
}

/* ---- the same from several threads ---- */

#define PARTS     37
#define PART_SIZE (100 * LDR_KIB + 7)
#define LAST_SIZE (LDR_KIB + 1)

struct sender {
    pthread_t thread;
    const uint8_t *p;
    int fd, first;
    int failed;
};

static void *send_parts(void *user)
{
    struct sender *s = user;

    for (int i = s->first; i < PARTS; i += 4) {
        uint32_t n = (uint32_t)(i * 16 % PARTS) + 1; /* in no order */
        uint64_t size = n == PARTS ? LAST_SIZE : PART_SIZE;

        if (i % 2) {
            s->failed |= op_upload_part(&up, n, s->p + (n - 1) * PART_SIZE, size, NULL);
        } else {
            int fd = memfd_create("part", MFD_CLOEXEC);

            if (write(fd, s->p + (n - 1) * PART_SIZE, size) != (ssize_t)size)
                s->failed = -1;
            s->failed |= op_upload_part_fd(&up, n, fd, size, NULL);
            close(fd);
        }
    }
    return NULL;
}

struct watcher {
    pthread_t thread;
    const uint8_t *p;
    uint64_t size;
    _Atomic bool stop;
    _Atomic int olds, news, wrong;
};

static void *watch(void *user)
{
    struct watcher *w = user;

    for (bool last = false; !last;) {
        struct bd_result one;

        last = atomic_load(&w->stop);
        if (bd_get(bd, "c", "k", NULL, &one) != LARDER_OK)
            w->wrong++;
        else if (one.bytes.len == 3 && !memcmp(one.bytes.p, "old", 3))
            w->olds++;
        else if (one.bytes.len == w->size && !memcmp(one.bytes.p, w->p, w->size))
            w->news++;
        else
            w->wrong++;
        bd_result_release(&one);
    }
    return NULL;
}

Test(local, parts_come_from_all_threads_and_no_reader_sees_a_half)
{
    uint64_t size = (PARTS - 1) * PART_SIZE + LAST_SIZE;
    uint8_t *p = bd_bytes(size, 1);
    struct watcher w = { .p = p, .size = size };
    struct sender s[4];

    open_store();
    is(put("k", "old"), LARDER_OK);
    is(up_begin("k", PART_SIZE), LARDER_OK);
    cr_assert(eq(int, pthread_create(&w.thread, NULL, watch, &w), 0));
    for (int i = 0; i < 4; i++) {
        s[i] = (struct sender){ .p = p, .first = i };
        cr_assert(eq(int, pthread_create(&s[i].thread, NULL, send_parts, &s[i]), 0));
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(s[i].thread, NULL);
        cr_expect(eq(int, s[i].failed, 0));
    }
    is(up_end(PARTS, size), LARDER_OK);
    atomic_store(&w.stop, true);
    pthread_join(w.thread, NULL);
    cr_expect(eq(int, w.wrong, 0));
    cr_expect(gt(int, w.olds, 0));
    cr_expect(gt(int, w.news, 0));
    free(p);
}

static void *end_upload(void *user)
{
    struct op_upload *u = user;

    return (void *)(intptr_t)op_upload_end(u, 1, 4, NULL, NULL, NULL);
}

Test(local, of_two_ends_of_one_upload_one_is_right)
{
    static struct op_upload twice[2];

    open_store();
    for (int i = 0; i < 50; i++) {
        pthread_t t[2];
        void *k[2];

        is(up_begin("a/k", 4), LARDER_OK);
        is(up_part(1, "1234"), LARDER_OK);
        for (int j = 0; j < 2; j++) {
            twice[j] = up;
            twice[j].m.parts = twice[j].parts;
            cr_assert(eq(int, pthread_create(&t[j], NULL, end_upload, &twice[j]), 0));
        }
        for (int j = 0; j < 2; j++)
            pthread_join(t[j], &k[j]);
        cr_assert(eq(long, (long)((intptr_t)k[0] + (intptr_t)k[1]), (long)LARDER_NOT_FOUND), "%ld and %ld", (long)k[0],
                  (long)k[1]);
        is(get("a/k"), LARDER_OK);
        cr_assert(got("1234"));
        is(del("a/k"), LARDER_OK);
    }
}

/* ---- many at once, containers ---- */

static enum larder_kind delete_many(struct ldr_delete_item *items, size_t n)
{
    struct ldr_op op = { .what = LDR_OP_DELETE_MANY, .container = "c", .key = "", .items = items, .n_items = n };

    bd_result_release(&r);
    return bd_op(bd, &op, &r);
}

BOTH_WAYS(a_thousand_objects_are_deleted_and_each_has_its_answer)
{
    static struct ldr_delete_item items[LDR_DELETE_MANY_MAX];
    static char keys[LDR_DELETE_MANY_MAX][32];

    is(put("keep/x", "x"), LARDER_OK);
    for (int i = 0; i < LDR_DELETE_MANY_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "d%d/e/%d", i / 300, i);
        items[i] = (struct ldr_delete_item){ .uri = keys[i], .key = keys[i], .kind = LARDER_INTERNAL, .why = "unset" };
        if (i % 5)
            is(put(keys[i], "x"), LARDER_OK);
    }
    items[7].key = "../c/keep/x";
    items[8].key = "d0/e"; /* a directory is no object */
    items[9].key = "keep/fifo";
    items[10].key = "none/at/all";
    items[11].key = "keep/x/y";
    cr_assert(eq(int, mkfifo(path_of("c/keep/fifo"), 0600), 0));
    is(delete_many(items, LDR_DELETE_MANY_MAX), LARDER_OK);
    cr_expect(r.sent);
    for (int i = 0; i < LDR_DELETE_MANY_MAX; i++) {
        bool bad = i == 7 || i == 9;

        cr_expect(eq(int, (int)items[i].kind, (int)(bad ? LARDER_INVALID : LARDER_OK)), "%d: %s", i, items[i].why);
        cr_expect(eq(int, items[i].why[0] != '\0', bad));
    }
    cr_expect(eq(int, entries("c/d0/e"), 4), "7, 8, 9 and 11");
    for (int i = 1; i < 4; i++) {
        char name[32];

        snprintf(name, sizeof name, "c/d%d", i);
        cr_expect(not(there(name)), "%s", name);
    }
    is(get("keep/x"), LARDER_OK);
    for (int i = 0; i < LDR_DELETE_MANY_MAX; i++)
        items[i].key = keys[i];
    is(delete_many(items, LDR_DELETE_MANY_MAX), LARDER_OK);
    is(delete_many(items, LDR_DELETE_MANY_MAX), LARDER_OK);
    cr_expect(not(r.sent));
    lists("keep/x", "", NULL, NULL, 0);
    cr_expect(not(there("c/d0")));
}

static enum larder_kind make_container(const char *name)
{
    struct ldr_op op = { .what = LDR_OP_MAKE_CONTAINER, .container = name, .key = "" };

    bd_result_release(&r);
    return bd_op(bd, &op, &r);
}

BOTH_WAYS(a_container_is_made_once)
{
    is(bd_list(bd, "new", "", NULL, &r), LARDER_NOT_FOUND);
    cr_expect(r.no_container);
    is(make_container("new"), LARDER_OK);
    cr_expect(there("new"));
    is(make_container("new"), LARDER_OK);
    is(bd_list(bd, "new", "", NULL, &r), LARDER_OK);
    write_file(path_of("file"), "x");
    cr_assert(eq(int, symlink("new", path_of("link")), 0));
    is(make_container("file"), LARDER_INVALID);
    is(make_container("link"), LARDER_INVALID);
    is(make_container("../x"), LARDER_INVALID);
    is(make_container(".."), LARDER_INVALID);
    is(make_container(""), LARDER_INVALID);
    is(make_container(".larder-tmp"), LARDER_INVALID);
    cr_expect(eq(int, entries(""), 3));
}

Test(local, a_head_of_another_version_is_refused)
{
    struct ldr_op op = { .what = LDR_OP_HEAD, .container = "c", .key = "k", .if_match = "\"x\"" };

    open_store();
    is(put("k", "x"), LARDER_OK);
    bd_result_release(&r);
    is(bd_op(bd, &op, &r), LARDER_PRECONDITION);
}
