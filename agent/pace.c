/* pace.c - see pace.h. */
#include "agent/pace.h"
#include "common/clock.h"
#include "common/hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LANES      64
#define WINDOW_NS  (500 * LDR_NS_PER_MS) /* of a measurement; of the answers that count as one */
#define RATE_MIN   1.0                   /* requests a second that any store is trusted with */
#define CALM_NS    (60 * LDR_NS_PER_S)   /* without "slow down" the limit goes */
#define HORIZON_NS (4 * LDR_NS_PER_S)    /* how far ahead places are given away */

/* One container. */
struct lane {
    uint64_t id; /* hash of its name; 0: free */
    int64_t used_ns;
    /* how fast it is asked */
    int64_t window_ns; /* start of the window that is being counted */
    unsigned sent;     /* in it */
    double measured;   /* a second, of the windows before */
    /* the limit */
    double rate, step; /* at cut_ns, and what is added each second; rate 0: none */
    int64_t cut_ns;
    int64_t next_ns; /* the next free place */
};

struct ldr_pace {
    pthread_mutex_t mtx;
    /* under mtx */
    unsigned tokens;
    struct lane lanes[LANES];
};

struct ldr_pace *ldr_pace_new(void)
{
    struct ldr_pace *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    pthread_mutex_init(&p->mtx, NULL);
    p->tokens = LDR_PACE_TOKENS;
    return p;
}

void ldr_pace_free(struct ldr_pace **p)
{
    if (*p)
        pthread_mutex_destroy(&(*p)->mtx);
    free(*p);
    *p = NULL;
}

/* ---- budget ---- */

bool ldr_pace_retry(struct ldr_pace *p, bool silent)
{
    unsigned cost = silent ? LDR_PACE_RETRY_SILENT : LDR_PACE_RETRY;
    bool ok;

    pthread_mutex_lock(&p->mtx);
    ok = p->tokens >= cost;
    if (ok)
        p->tokens -= cost;
    pthread_mutex_unlock(&p->mtx);
    return ok;
}

void ldr_pace_success(struct ldr_pace *p)
{
    pthread_mutex_lock(&p->mtx);
    if (p->tokens < LDR_PACE_TOKENS)
        p->tokens++;
    pthread_mutex_unlock(&p->mtx);
}

/* ---- rate ---- */

/* The lane of a container, in place of the one that was used the longest ago where there is none. */
static struct lane *lane_of(struct ldr_pace *p, const char *container, int64_t now_ns)
{
    uint64_t id = ldr_hash64(container, strlen(container)) | 1;
    struct lane *oldest = &p->lanes[0];

    for (size_t i = 0; i < LANES; i++) {
        struct lane *l = &p->lanes[i];

        if (l->id == id) {
            l->used_ns = now_ns;
            return l;
        }
        if (!l->id || (oldest->id && l->used_ns < oldest->used_ns))
            oldest = l;
    }
    *oldest = (struct lane){ .id = id, .used_ns = now_ns, .window_ns = now_ns };
    return oldest;
}

static double seconds(int64_t ns)
{
    return (double)ns / (double)LDR_NS_PER_S;
}

static double rate_at(struct lane *l, int64_t now_ns)
{
    if (l->rate > 0 && now_ns - l->cut_ns >= CALM_NS)
        l->rate = 0;
    return l->rate > 0 ? l->rate + l->step * seconds(now_ns - l->cut_ns) : 0;
}

/* Requests a second up to now. */
static double measure(struct lane *l, int64_t now_ns)
{
    int64_t past = now_ns - l->window_ns;
    double fresh;

    if (past >= WINDOW_NS) {
        fresh = l->sent / seconds(past);
        l->measured = l->measured > 0 && past < 4 * WINDOW_NS ? (l->measured + fresh) / 2 : fresh;
        l->window_ns = now_ns;
        l->sent = 0;
        return l->measured;
    }
    fresh = l->sent / seconds(WINDOW_NS); /* so many already in a window that is not over */
    return fresh > l->measured ? fresh : l->measured;
}

enum ldr_pace_answer ldr_pace_send(struct ldr_pace *p, const char *container, int64_t now_ns, int64_t deadline_ns,
                                   uint32_t random, uint32_t *wait_ms)
{
    enum ldr_pace_answer answer = LDR_PACE_GO;
    int64_t place, wait_ns;
    struct lane *l;
    double rate;

    pthread_mutex_lock(&p->mtx);
    l = lane_of(p, container, now_ns);
    rate = rate_at(l, now_ns);
    place = rate > 0 && l->next_ns > now_ns ? l->next_ns : now_ns;
    if (deadline_ns != LDR_NEVER && place > deadline_ns) {
        answer = LDR_PACE_LATE;
    } else if (place - now_ns > HORIZON_NS) { /* places far ahead would keep the rate of now, which will grow */
        answer = LDR_PACE_ASK;
        place = now_ns + HORIZON_NS / 2 + (int64_t)(random % (uint32_t)(HORIZON_NS / 2 / 1024)) * 1024;
        if (deadline_ns != LDR_NEVER && place > deadline_ns)
            place = deadline_ns;
    } else {
        if (rate > 0)
            l->next_ns = place + (int64_t)((double)LDR_NS_PER_S / rate);
        measure(l, now_ns);
        l->sent++;
    }
    pthread_mutex_unlock(&p->mtx);
    wait_ns = place - now_ns;
    *wait_ms = answer == LDR_PACE_LATE ? 0 : (uint32_t)((wait_ns + LDR_NS_PER_MS - 1) / LDR_NS_PER_MS);
    return answer;
}

void ldr_pace_throttled(struct ldr_pace *p, const char *container, int64_t now_ns)
{
    struct lane *l;

    pthread_mutex_lock(&p->mtx);
    l = lane_of(p, container, now_ns);
    if (l->rate == 0 || now_ns - l->cut_ns >= WINDOW_NS) {
        double limit = rate_at(l, now_ns), real = measure(l, now_ns);

        if (limit == 0 || real < limit)
            limit = real;
        l->step = limit / 10 > 1 ? limit / 10 : 1;
        l->rate = limit / 2 > RATE_MIN ? limit / 2 : RATE_MIN;
        l->cut_ns = l->next_ns = now_ns;
    }
    pthread_mutex_unlock(&p->mtx);
}

double ldr_pace_rate(struct ldr_pace *p, const char *container, int64_t now_ns)
{
    double rate;

    pthread_mutex_lock(&p->mtx);
    rate = rate_at(lane_of(p, container, now_ns), now_ns);
    pthread_mutex_unlock(&p->mtx);
    return rate;
}
