/* cred_server.h - whoever gives credentials, played by a thread of the test: the security token service, the metadata
 * service of an instance, that of a container. Listens on 127.0.0.1, on a port of its own; one request a connection,
 * each connection in its thread. It answers what the test says, and checks signatures where told. */
#ifndef CRED_SERVER_H
#define CRED_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cred_server;

struct cred_server *cred_server_start(void);
void cred_server_stop(struct cred_server **s);            /* NULL is allowed */
const char *cred_server_url(const struct cred_server *s); /* "http://127.0.0.1:PORT" */

/* What a request is known by: "GET /path", or for a form "POST / Action" with the value of its Action. From now on it is
 * answered so; `need`: a line that its head must have (name in any case), else 403. Status 0: the connection is closed
 * without a word. What nobody said is 404. */
void cred_server_say(struct cred_server *s, const char *what, int status, const char *need, const char *body);
/* The same for a body with a length of its own. */
void cred_server_say_n(struct cred_server *s, const char *what, int status, const char *need, const void *body,
                       size_t n);
/* Requests of an AssumeRole must be signed with these by SigV4, for service sts in `region`, at our time + skew_s give
 * or take 5 minutes; what is not is 403 SignatureDoesNotMatch. `token` NULL: none may come. */
void cred_server_sign(struct cred_server *s, const char *access_key_id, const char *secret_key, const char *token,
                      const char *region);
void cred_server_skew(struct cred_server *s, int64_t skew_s); /* also its Date headers */

/* Requests wait before they are answered, until released. */
void cred_server_hold(struct cred_server *s);
void cred_server_release(struct cred_server *s);
/* Wait until n requests have come (waiting ones count); the test's own time limit ends it. */
void cred_server_await(struct cred_server *s, unsigned n);

unsigned cred_server_count(struct cred_server *s, const char *what); /* NULL: all */
/* The last request as it came, whole. The caller's (free()). */
char *cred_server_last(struct cred_server *s, const char *what);

/* Answers in the forms of the services, valid for `seconds` from now. Into out[cap], which is returned. */
const char *cred_answer_json(char *out, size_t cap, const char *id, const char *secret, const char *token, int seconds);
const char *cred_answer_sts(char *out, size_t cap, const char *action, const char *id, const char *secret,
                            const char *token, int seconds);
const char *cred_answer_refusal(char *out, size_t cap, const char *code, const char *message);

#endif
