/* e2e.h - short forms that the end-to-end tests share: what is expected of a call, in one line. For Criterion tests
 * only. */
#ifndef E2E_H
#define E2E_H

#include "client/larder.h"
#include "common/clock.h"
#include "tests/support/agent_proc.h"
#include "tests/support/backend_driver.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_MS 15000 /* the deadline of a call that is not about deadlines */

/* Without it a test says nothing: that is a skip that nobody can miss, or a failure where servers are due. */
static inline void need_server(bool started, const char *reason)
{
    if (started)
        return;
    if (s3_servers_required())
        cr_fatal("%s", reason);
    fprintf(stderr, "SKIPPED: %s\n", reason);
    cr_skip("%s", reason);
}

static inline void need_root(void)
{
    if (geteuid() == 0)
        return;
    fprintf(stderr, "SKIPPED: it needs root\n");
    cr_skip("it needs root");
}

/* A get as a view; true: exactly these bytes. */
static inline bool reads_as(struct larder *l, const char *uri, const void *p, size_t n, struct larder_err *err)
{
    struct larder_object *o = NULL;
    bool same;

    if (larder_get(l, uri, LONG_MS, &o, err))
        return false;
    same = larder_object_size(o) == n && (n == 0 || !memcmp(larder_object_data(o), p, n));
    if (!same)
        snprintf(err->msg, sizeof err->msg, "other bytes (%zu of them)", larder_object_size(o));
    larder_object_free(&o);
    return same;
}

static inline void expect_bytes(struct larder *l, const char *uri, const void *p, size_t n)
{
    struct larder_err err = { 0 };

    cr_assert(reads_as(l, uri, p, n, &err), "%s, %zu bytes: %s", uri, n, err.msg);
}

static inline void expect_text(struct larder *l, const char *uri, const char *text)
{
    expect_bytes(l, uri, text, strlen(text));
}

/* A get that fails; the message is left in *err (may be NULL). */
static inline void expect_kind(struct larder *l, const char *uri, int timeout_ms, enum larder_kind want,
                               struct larder_err *err)
{
    struct larder_err mine = { 0 };
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get(l, uri, timeout_ms, &o, err ? err : &mine);

    larder_object_free(&o);
    cr_assert(eq(int, k, want), "%s: %s", uri, (err ? err : &mine)->msg);
}

static inline void put_bytes(struct larder *l, const char *uri, const void *p, size_t n)
{
    struct larder_err err = { 0 };

    cr_assert(eq(int, larder_put(l, uri, p, n, NULL, LONG_MS, &err), LARDER_OK), "%s: %s", uri, err.msg);
}

static inline void put_text(struct larder *l, const char *uri, const char *text)
{
    put_bytes(l, uri, text, strlen(text));
}

static inline struct larder_counts counts_of(struct larder *l)
{
    struct larder_counts c;

    larder_get_counts(l, &c, sizeof c);
    return c;
}

/* A child of the test; it must end by _exit(). It dies with the test. */
static inline pid_t child(void)
{
    pid_t parent = getpid(), pid = fork();

    cr_assert(pid != -1);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(99);
    }
    return pid;
}

/* Exit code of a child; -1: a signal ended it. */
static inline int join_child(pid_t pid)
{
    int status = 0;

    cr_assert(eq(int, waitpid(pid, &status, 0), pid));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

#endif
