/* ask_test.c - tests of client/ask.c: connections, deadlines, what is sent again and what is not. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT 20000

static char dir[TEST_DIR_MAX];
static struct larder *l;
static struct fake_agent agent;
static struct larder_err err;

/* What the agent does with the n-th request; the last stays. */
static struct {
    enum fake_action plan[8];
    int n, asks;
    uint64_t op_id[8];
    uint32_t timeout_ms;
} script;

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    int at = script.asks < script.n ? script.asks : script.n - 1;

    (void)user;
    if (script.asks < 8)
        script.op_id[script.asks] = req->op_id;
    script.asks++;
    script.timeout_ms = req->timeout_ms;
    fake_look(r, 0, NULL);
    r->raw = "\2\0\0\0\0\0\0\0\4";
    r->raw_len = 9;
    return script.plan[at];
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    test_dir_remove(dir);
}

TestSuite(ask, .init = make_dir, .fini = remove_dir, .timeout = 60);

static void plan(int n, enum fake_action a, enum fake_action b, enum fake_action c)
{
    script.n = n;
    script.asks = 0;
    script.plan[0] = a;
    script.plan[1] = b;
    script.plan[2] = c;
}

static enum larder_kind ask(enum ldr_ask_how how, int timeout_ms)
{
    Larder__Wire__Delete del = LARDER__WIRE__DELETE__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_DELETE;
    req.delete_ = &del;
    k = ldr_ask(l, &req, how, ldr_call_deadline(timeout_ms), &reply, &err);
    cr_expect(eq(int, k == LARDER_OK, reply != NULL));
    if (reply)
        larder__wire__reply__free_unpacked(reply, NULL);
    return k;
}

Test(ask, one_connection_serves_one_request_after_another)
{
    plan(1, FAKE_SEND, 0, 0);
    for (int i = 0; i < 8; i++)
        cr_expect(eq(int, ask(LDR_ASK_READ, WAIT), LARDER_OK));
    cr_expect(eq(int, agent.connections, 1));
    cr_expect(eq(int, script.asks, 8));
    for (int i = 1; i < 8; i++)
        cr_expect(ne(u64, script.op_id[i], script.op_id[i - 1]));
    cr_expect(gt(uint, script.timeout_ms, 0));
    cr_expect(le(uint, script.timeout_ms, WAIT));
    cr_expect(eq(int, ask(LDR_ASK_READ, -1), LARDER_OK));
    cr_expect(eq(uint, script.timeout_ms, 0), "no limit");
}

Test(ask, a_read_whose_connection_ends_is_sent_once_more)
{
    plan(2, FAKE_CLOSE, FAKE_SEND, 0);
    cr_expect(eq(int, ask(LDR_ASK_READ, WAIT), LARDER_OK));
    cr_expect(eq(int, script.asks, 2));
    cr_expect(eq(u64, script.op_id[0], script.op_id[1]), "as the same operation");
    plan(1, FAKE_CLOSE, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_READ, WAIT), LARDER_UNAVAILABLE));
    cr_expect(eq(int, script.asks, 2), "and not a third time");
}

Test(ask, a_write_whose_connection_ends_has_an_unknown_outcome)
{
    plan(1, FAKE_CLOSE, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, script.asks, 1));
    plan(1, FAKE_HANG, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, 50), LARDER_OUTCOME_UNKNOWN), "also when time is over");
    plan(1, FAKE_RAW, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OUTCOME_UNKNOWN), "also when the answer is nonsense");
}

Test(ask, a_write_that_was_not_sent_has_a_known_outcome)
{
    cr_expect(eq(int, ask(LDR_ASK_WRITE, 0), LARDER_TIMEOUT));
    fake_stop(&agent);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_NO_AGENT));
    fake_start(&agent, dir, answer, NULL);
}

Test(ask, an_agent_that_was_replaced_meanwhile_is_not_noticed_by_a_write)
{
    plan(1, FAKE_SEND, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OK));
    fake_stop(&agent);
    fake_start(&agent, dir, answer, NULL);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OK), "the idle connection was found dead before it was used");
    cr_expect(eq(int, script.asks, 2));
}

Test(ask, a_connection_whose_agent_spoke_unasked_is_not_used_again)
{
    plan(2, FAKE_CHATTER, FAKE_SEND, 0);
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OK));
    cr_expect(eq(int, ask(LDR_ASK_WRITE, WAIT), LARDER_OK), "the byte is not taken for the start of a reply");
    cr_expect(eq(int, agent.connections, 2));
}

Test(ask, nonsense_is_not_asked_for_twice)
{
    plan(1, FAKE_RAW, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_READ, WAIT), LARDER_UNAVAILABLE));
    cr_expect(eq(int, script.asks, 1));
    plan(1, FAKE_SEND, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_READ, WAIT), LARDER_OK));
    cr_expect(eq(int, agent.connections, 2), "on another connection");
}

Test(ask, a_request_that_hangs_ends_at_its_deadline)
{
    int64_t from = ldr_mono_ns();

    plan(1, FAKE_HANG, 0, 0);
    cr_expect(eq(int, ask(LDR_ASK_READ, 50), LARDER_TIMEOUT));
    cr_expect(ge(long, ldr_mono_ns() - from, 50 * LDR_NS_PER_MS));
    cr_expect(eq(int, script.asks, 1));
}

Test(ask, the_agents_failures_are_passed_on)
{
    struct larder_err e = { 0 };
    Larder__Wire__Reply r = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Status s = LARDER__WIRE__STATUS__INIT;

    s.kind = LARDER_DENIED;
    s.http = 403;
    s.message = (char *)(uintptr_t) "signature";
    r.status = &s;
    cr_expect(eq(int, ldr_wire_status(&r, &e), LARDER_DENIED));
    cr_expect(eq(int, e.http, 403));
    s.kind = 9999;
    cr_expect(eq(int, ldr_wire_status(&r, &e), LARDER_INTERNAL));
}

static void *ask_often(void *user)
{
    (void)user;
    for (int i = 0; i < 50; i++)
        if (ask(LDR_ASK_READ, WAIT))
            return (void *)1;
    return NULL;
}

Test(ask, more_threads_than_slots_all_get_answers)
{
    pthread_t t[12];
    void *failed;

    plan(1, FAKE_SEND, 0, 0);
    for (int i = 0; i < 12; i++)
        pthread_create(&t[i], NULL, ask_often, NULL);
    for (int i = 0; i < 12; i++) {
        pthread_join(t[i], &failed);
        cr_expect(eq(ptr, failed, NULL));
    }
    cr_expect(eq(int, script.asks, 600));
}

Test(ask, a_child_has_another_token_and_a_thread_the_same)
{
    uint64_t mine = ldr_self_token(&l->self);
    int status;
    pid_t child;

    cr_expect(ne(u64, mine, 0));
    cr_expect(eq(u64, ldr_self_token(&l->self), mine));
    child = fork();
    if (child == 0)
        _exit(ldr_self_token(&l->self) == mine);
    cr_assert(waitpid(child, &status, 0) == child);
    cr_expect(eq(int, status, 0));
}

struct status_seen {
    int n;
    char text[64];
};

static void see(void *user, const char *name, const char *text, uint64_t number)
{
    struct status_seen *s = user;

    s->n++;
    snprintf(s->text + strlen(s->text), sizeof s->text - strlen(s->text), "%s=%s/%lu ", name, text ? text : "-",
             (unsigned long)number);
}

static enum fake_action say_status(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static Larder__Wire__StatusItem a, b, *items[] = { &a, &b };

    (void)user;
    if (req->body_case != LARDER__WIRE__REQUEST__BODY_STATUS &&
        (req->body_case != LARDER__WIRE__REQUEST__BODY_WHY || strcmp(req->why->key, "s3://b/k")))
        return FAKE_CLOSE;
    larder__wire__status_item__init(&a);
    larder__wire__status_item__init(&b);
    a.name = (char *)(uintptr_t) "version";
    a.value_case = LARDER__WIRE__STATUS_ITEM__VALUE_TEXT;
    a.text = (char *)(uintptr_t) "1";
    b.name = (char *)(uintptr_t) "objects";
    b.value_case = LARDER__WIRE__STATUS_ITEM__VALUE_NUMBER;
    b.number = 12;
    fake_items(r, items, 2);
    return FAKE_SEND;
}

Test(ask, status_gives_each_item_in_order)
{
    struct status_seen s = { 0 };

    fake_stop(&agent);
    fake_start(&agent, dir, say_status, NULL);
    cr_expect(eq(int, larder_status(l, WAIT, see, &s, &err), LARDER_OK));
    cr_expect(eq(int, s.n, 2));
    cr_expect(eq(str, s.text, (char *)"version=1/0 objects=-/12 "));
    fake_stop(&agent);
    plan(1, FAKE_SEND, 0, 0);
    fake_start(&agent, dir, answer, NULL);
    cr_expect(eq(int, larder_status(l, WAIT, see, &s, &err), LARDER_UNAVAILABLE), "another kind of answer");
    cr_expect(eq(int, larder_status(l, 0, see, &s, &err), LARDER_TIMEOUT));
}

Test(ask, why_gives_the_items_of_an_object)
{
    struct status_seen s = { 0 };

    fake_stop(&agent);
    fake_start(&agent, dir, say_status, NULL);
    cr_expect(eq(int, larder_why(l, "S3://b/k", WAIT, see, &s, &err), LARDER_OK));
    cr_expect(eq(str, s.text, (char *)"version=1/0 objects=-/12 "));
    cr_expect(eq(int, larder_why(l, "nonsense", WAIT, see, &s, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_why(l, "s3://b/k", 0, see, &s, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, s.n, 2));
}
