/* s3_servers.h - S3 servers of one test: versitygw (a real one) and tests/support/s3_test_server.py (one that verifies
 * signatures and fails on demand). Each listens on 127.0.0.1 on a port of its own and dies with the thread that started
 * it. The bucket is S3_BUCKET, the credentials S3_ACCESS_KEY and S3_SECRET_KEY, the region us-east-1. */
#ifndef S3_SERVERS_H
#define S3_SERVERS_H

#include <stdbool.h>
#include <sys/types.h>

#define S3_BUCKET     "bucket-1"
#define S3_ACCESS_KEY "larder-test"
#define S3_SECRET_KEY "larder-test-secret"

struct s3_server {
    pid_t pid; /* 0: none */
    int port;
    char endpoint[64]; /* "http://127.0.0.1:PORT" */
};

/* False: it could not be started, `reason` says why. `dir` (absolute) is where versitygw keeps its files and both write
 * their logs. versitygw is $LDR_TEST_VERSITYGW, or what the build installed below ${XDG_CACHE_HOME:-~/.cache}; the
 * test server is found from the source root: the working directory, or $LDR_TEST_ROOT. */
bool s3_server_start_versitygw(struct s3_server *s, const char *dir, char *reason, size_t cap);
/* Without a bucket: the test makes it. $LDR_TEST_MINIO, or installed as versitygw is. */
bool s3_server_start_minio(struct s3_server *s, const char *dir, char *reason, size_t cap);
bool s3_server_start_test(struct s3_server *s, const char *dir, char *reason, size_t cap);
void s3_server_stop(struct s3_server *s);

/* Must a server that cannot be started fail the test? Else it is skipped, loudly ($LDR_TEST_REQUIRE_SERVERS=1). */
bool s3_servers_required(void);

/* ---- control of the test server; see s3_test_server.py ---- */

/* One request to /_control + path. The body of the answer is the caller's (free()); NULL: it was not 200. */
char *s3_server_control(const struct s3_server *s, const char *method, const char *path, const char *body);
/* Replace the rules by a JSON list. */
bool s3_server_rules(const struct s3_server *s, const char *json);
/* How many requests came, e.g. "GET", "bucket-1/a"; the key without characters that JSON escapes. -1: no answer. */
int s3_server_count(const struct s3_server *s, const char *method, const char *name);
/* GETs and HEADs of keys with this text wait until they are released; how many requests wait now (-1: no answer)? */
bool s3_server_hold(const struct s3_server *s, const char *key);
bool s3_server_release(const struct s3_server *s, const char *key);
int s3_server_waiting(const struct s3_server *s);
/* Writes in parts that were neither completed nor aborted. `used`: only those of which whoever began them knows, as a
 * later request named them. -1: no answer. */
int s3_server_uploads(const struct s3_server *s, bool used);

#endif
