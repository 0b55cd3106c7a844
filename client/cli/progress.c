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
    uint64_t done, total; /* total 0: not known */
    bool stop;
    /* drawing thread; read after its end */
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

static void draw(struct cli_progress *p, uint64_t done, uint64_t total)
{
    static const char full_bar[] = "##############################";
    double seconds = (cli_now_ms() - p->start_ms) / 1e3;
    double part = total ? (double)done / (double)total : 0;
    int columns = terminal_columns();
    int bar = columns - columns / 4 - 50; /* the label takes up to a quarter, the figures up to 48 */
    char done_text[CLI_SIZE_TEXT], total_text[CLI_SIZE_TEXT], rate_text[CLI_SIZE_TEXT];

    fputs("\r\033[K", stderr);
    draw_label(p->label, columns / 4);
    if (total == 0)
        fprintf(stderr, "  %.0f s", seconds);
    else
        fprintf(stderr, "  %3.0f%% ", part * 100);
    if (total && bar > 0) {
        bar = bar < (int)sizeof full_bar - 1 ? bar : (int)sizeof full_bar - 1;
        fprintf(stderr, "[%.*s%*s] %s of %s, %s/s", (int)(part * bar), full_bar, bar - (int)(part * bar), "",
                cli_size_text(done, done_text), cli_size_text(total, total_text),
                cli_size_text((uint64_t)((double)done / seconds), rate_text));
    }
    fflush(stderr);
    p->shown = true;
}

static void *progress_thread(void *user)
{
    struct cli_progress *p = user;
    double next_ms = p->start_ms + FIRST_MS;

    pthread_mutex_lock(&p->mtx);
    while (!p->stop) {
        struct timespec until = { .tv_sec = (time_t)(next_ms / 1e3) };
        uint64_t done, total;

        until.tv_nsec = (long)((next_ms - (double)until.tv_sec * 1e3) * 1e6);
        pthread_cond_timedwait(&p->wake, &p->mtx, &until);
        if (p->stop || cli_now_ms() < next_ms)
            continue;
        done = p->done < p->total ? p->done : p->total;
        total = p->total;
        pthread_mutex_unlock(&p->mtx); /* a terminal that is held up must not hold up the transfer */
        draw(p, done, total);
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
    p->done = done;
    p->total = total;
    pthread_mutex_unlock(&p->mtx);
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
    if (p->shown)
        fputs("\r\033[K", stderr);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mtx);
    free(p->label);
    free(p);
}
