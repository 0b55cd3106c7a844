/* real_server.h - a server program of one test that is told port 0, and found by the port on which it then listens. It
 * dies with the thread that started it. */
#ifndef REAL_SERVER_H
#define REAL_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct real_server {
    pid_t pid; /* 0: none */
    int port;
    char url[64]; /* "http://127.0.0.1:PORT" */
};

/* Where a program is: $VARIABLE, or `installed` below ${XDG_CACHE_HOME:-~/.cache}/larder-build, where scripts/deps puts
 * it. False: it is not there, `reason` says so. */
bool real_server_find(const char *variable, const char *installed, char *path, size_t cap, char *reason,
                      size_t reason_cap);
/* Run argv[0] and wait until it listens and answers a GET of `ready` with 200 (NULL: with anything). Its output goes to
 * `log`. False: it did not. */
bool real_server_start(struct real_server *s, char *const argv[], const char *log, const char *ready);
void real_server_stop(struct real_server *s);

#endif
