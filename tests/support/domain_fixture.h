/* domain_fixture.h - a domain of a test: a real cache directory, index, pool and net thread, the fake store behind
 * every name, and no endpoint. The thread of the test is its ipc thread: it runs the tasks of domain.ipc_box. */
#ifndef LDR_TEST_DOMAIN_FIXTURE_H
#define LDR_TEST_DOMAIN_FIXTURE_H

#include "agent/flight.h"
#include "agent/upload.h"
#include "tests/support/fake_backend.h"
#include "tests/support/test_dir.h"

#define FIXTURE_WAIT_NS (20 * INT64_C(1000000000)) /* until a test gives up waiting */

/* All zero: 1 GiB, no free space kept, 16 MiB inline, records of 16,368 bytes, blocks of 1 MiB, ttl 60 s. */
struct domain_options {
    uint64_t max_bytes, max_files, min_free_bytes, inline_bytes, block_size;
    uint32_t inline_limit;
    unsigned pool_threads; /* 0: 1 */
};

struct domain_fixture {
    struct ldr_cfg cfg;
    struct ldr_store_slot slot;
    struct ldr_prefix_cfg prefix;
    struct ldr_pool *pool;
    struct ldr_net *net;
    struct fake_backend *store;
    struct ldr_domain domain;
    uint64_t counted_bytes; /* in the ledger for others than the cache: a test that reserved some itself */
};

/* Below `dir`, which exists: CACHE is dir/cache. What an earlier fixture left there is found again. Ends the process
 * with a line that says where when something fails. */
void domain_open(struct domain_fixture *f, const char *dir, const struct domain_options *o);
/* Runs what is under way to its end, and checks: no flight, no write, every byte and file of the ledger belongs to a
 * block that the index knows or to the index itself, and that block files are just those. False: one of these fails,
 * with a line on stderr. */
bool domain_close(struct domain_fixture *f);
/* As domain_close() does, in between; waits for queued work of the pool. */
bool domain_sound(struct domain_fixture *f);

/* The name of a reference of scheme "mem", with the fake store behind it. One reference of the caller's. */
struct ldr_name *domain_name(struct domain_fixture *f, const char *uri);

/* One task of the ipc thread; false: none came within FIXTURE_WAIT_NS (or at once, `wait` false). */
bool domain_step(struct domain_fixture *f, bool wait);
/* Run tasks until *flag is set. False: it was not in time. */
bool domain_run_until(struct domain_fixture *f, const bool *flag);
/* Run tasks until the store holds `n` ops (and nothing else moves them). */
bool domain_run_until_held(struct domain_fixture *f, unsigned n);
/* Until nothing is under way: no flight, no write. */
bool domain_run_idle(struct domain_fixture *f);

/* ldr_upload_part(), and tasks until it is answered: its kind. */
enum larder_kind domain_part(struct domain_fixture *f, uint64_t upload_id, uint64_t size, uint64_t offset,
                             const void *data, size_t len, struct larder_err *err);

/* Is there a sound record of `uri`? *out borrows from the domain's reader until its next call. */
bool domain_find(struct domain_fixture *f, const char *uri, struct ldr_record *out);
/* Is there an intent for it in the index? */
bool domain_has_intent(struct domain_fixture *f, const char *uri);

#endif
