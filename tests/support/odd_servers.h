/* odd_servers.h - S3 servers that are unlike AWS, each real and of one test, and what shows how larder treats them: a tap
 * that keeps what was sent, plain HTTP for whoever has a signed URL, and a network that is bad on demand (toxiproxy). */
#ifndef ODD_SERVERS_H
#define ODD_SERVERS_H

#include "tests/support/real_server.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum odd_server {
    ODD_MOTO,   /* takes any key and any credentials; no program but tests speaks to it */
    ODD_RCLONE, /* keys are files; an MD5 as ETag whatever the upload */
    ODD_SWIFT,  /* s3api: an S3 of old, without checksums and conditional writes */
    ODD_TOXIPROXY
};

/* Is it installed ($LDR_TEST_MOTO and the like, or where scripts/deps puts it; Swift: Debian's packages)? */
bool odd_server_find(enum odd_server which, char *path, size_t cap, char *reason, size_t reason_cap);
/* Start it: its files and log below `dir`. False: it does not start, `reason` says where to look. */
bool odd_server_start(struct real_server *s, enum odd_server which, const char *dir, const char *access_key,
                      const char *secret, char *reason, size_t cap);

/* ---- HTTP ---- */

/* One request to an http:// URL of 127.0.0.1. `headers`: ended by NULL, or NULL. Its status, 0: no whole answer; *body
 * (may be NULL) is the caller's, with NUL. */
int odd_http(const char *method, const char *url, const char *const headers[], const void *bytes, size_t n,
             char **body);

/* ---- toxiproxy ---- */

/* A way to `port` that is good as yet; *url: where it begins. */
bool toxic_way(const struct real_server *toxiproxy, int port, char *url, size_t cap);
/* Make it bad: JSON as toxiproxy wants it. */
bool toxic_add(const struct real_server *toxiproxy, const char *json);
/* Good again; connections live on. */
bool toxic_heal(const struct real_server *toxiproxy);

/* ---- a tap: forwards connections, and keeps the heads and bodies of requests ---- */

#define TAP_MAX (1 << 20) /* of what is kept since tap_clear() */

struct tap {
    int listener, upstream; /* socket; port */
    char url[64];
    pthread_t thread;
    pthread_mutex_t mtx;
    char *kept; /* under mtx */
    size_t n;
};

void tap_open(struct tap *t, int upstream); /* ends the process where it cannot */
void tap_close(struct tap *t);              /* after whoever speaks through it */
void tap_clear(struct tap *t);
/* Was this text sent since? Letters in any case. */
bool tap_saw(struct tap *t, const char *text);

#endif
