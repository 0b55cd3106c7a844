/* progress.c - one line on stderr for what takes longer than a second (cli.h).
 * Its own thread draws: larder_get() and larder_put() say nothing until they return. */
#include "client/cli/cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FIRST_MS 1000
#define NEXT_MS  200

struct cli_progress {
    char *label; /* set once in start() */
    double start_ms;
    pthread_t thread;
    pthread_mutex_t mtx;
    pthread_cond_t wake;
    /* under mtx */
    struct figures {
        uint64_t done, total;     /* bytes; total 0: not known */
        uint64_t objects, expect; /* expect 0: it is about one */
    } now;
    bool stop;
    /* under terminal, which is never taken with mtx held; read after the end of the drawing thread */
    pthread_mutex_t terminal;
    bool shown;
};

static int terminal_columns(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 40 ? w.ws_col : 80;
}

/* Print at most `max` characters of the label, the end of it: keys differ there. */
static void draw_label(const char *label, int max)
{
    const char *p = label + strlen(label);

    for (int n = 0; p > label && n < max; n++) {
        p--;
        while (p > label && ((unsigned char)*p & 0xC0) == 0x80)
            p--;
    }
    fputs(p, stderr);
}

static void draw_bar(double part, int columns)
{
    static const char full_bar[] = "##############################";
    int bar = columns < (int)sizeof full_bar - 1 ? columns : (int)sizeof full_bar - 1;

    if (bar > 0)
        fprintf(stderr, "[%.*s%*s] ", (int)(part * bar), full_bar, bar - (int)(part * bar), "");
}

static void draw(struct cli_progress *p, const struct figures *f)
{
    double seconds = (cli_now_ms() - p->start_ms) / 1e3;
    uint64_t done = f->total && f->done > f->total ? f->total : f->done;
    double part = f->total ? (double)done / (double)f->total : f->expect ? (double)f->objects / (double)f->expect : 0;
    int columns = terminal_columns();
    char done_text[CLI_SIZE_TEXT], total_text[CLI_SIZE_TEXT], rate_text[CLI_SIZE_TEXT];

    cli_size_text(done, done_text);
    cli_size_text(f->total, total_text);
    cli_size_text((uint64_t)((double)f->done / seconds), rate_text);
    fputs("\r\033[K", stderr);
    if (f->expect) {
        fprintf(stderr, "%3.0f%% ", part * 100);
        draw_bar(part, columns - 90);
        fprintf(stderr, "%ju of %ju objects, %s", (uintmax_t)f->objects, (uintmax_t)f->expect, done_text);
        if (f->total)
            fprintf(stderr, " of %s", total_text);
        fprintf(stderr, ", %s/s", rate_text);
    } else {
        draw_label(p->label, columns / 4);
        if (f->total == 0) {
            fprintf(stderr, "  %.0f s", seconds);
        } else {
            fprintf(stderr, "  %3.0f%% ", part * 100);
            if (columns - columns / 4 > 50) { /* the label takes up to a quarter, the figures up to 48 */
                draw_bar(part, columns - columns / 4 - 50);
                fprintf(stderr, "%s of %s, %s/s", done_text, total_text, rate_text);
            }
        }
    }
    fflush(stderr);
    p->shown = true;
}

static void wipe(struct cli_progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

static void *progress_thread(void *user)
{
    struct cli_progress *p = user;
    double next_ms = p->start_ms + FIRST_MS;

    pthread_mutex_lock(&p->mtx);
    while (!p->stop) {
        struct timespec until = { .tv_sec = (time_t)(next_ms / 1e3) };
        struct figures now;

        until.tv_nsec = (long)((next_ms - (double)until.tv_sec * 1e3) * 1e6);
        pthread_cond_timedwait(&p->wake, &p->mtx, &until);
        if (p->stop || cli_now_ms() < next_ms)
            continue;
        now = p->now;
        pthread_mutex_unlock(&p->mtx); /* a terminal that is held up must not hold up the transfer */
        pthread_mutex_lock(&p->terminal);
        draw(p, &now);
        pthread_mutex_unlock(&p->terminal);
        next_ms = cli_now_ms() + NEXT_MS;
        pthread_mutex_lock(&p->mtx);
    }
    pthread_mutex_unlock(&p->mtx);
    return NULL;
}

struct cli_progress *cli_progress_start(const struct cli *c, const char *what)
{
    const char *term = getenv("TERM"), *slash = strrchr(what, '/');
    struct cli_progress *p;
    pthread_condattr_t attr;
    sigset_t all, old;
    int failed;

    if (c->quiet || !isatty(STDERR_FILENO) || !term || !strcmp(term, "dumb"))
        return NULL;
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->label = cli_printable(slash && slash[1] ? slash + 1 : what);
    p->start_ms = cli_now_ms();
    pthread_mutex_init(&p->mtx, NULL);
    pthread_mutex_init(&p->terminal, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    failed = pthread_create(&p->thread, NULL, progress_thread, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) { /* no bar, then */
        free(p->label);
        free(p);
        return NULL;
    }
    return p;
}

void cli_progress_set(struct cli_progress *p, uint64_t done, uint64_t total)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mtx);
    p->now.done = done;
    p->now.total = total;
    pthread_mutex_unlock(&p->mtx);
}

void cli_progress_expect(struct cli_progress *p, uint64_t objects, uint64_t bytes)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mtx);
    p->now.expect = objects;
    p->now.total = bytes;
    pthread_mutex_unlock(&p->mtx);
}

void cli_progress_add(struct cli_progress *p, uint64_t objects, uint64_t bytes)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mtx);
    p->now.objects += objects;
    p->now.done += bytes;
    pthread_mutex_unlock(&p->mtx);
}

void cli_progress_pause(struct cli_progress *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->terminal);
    wipe(p);
}

void cli_progress_resume(struct cli_progress *p)
{
    if (p)
        pthread_mutex_unlock(&p->terminal);
}

void cli_progress_stop(struct cli_progress **pp)
{
    struct cli_progress *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    pthread_mutex_lock(&p->mtx);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mtx);
    pthread_join(p->thread, NULL);
    wipe(p);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->terminal);
    pthread_mutex_destroy(&p->mtx);
    free(p->label);
    free(p);
}
