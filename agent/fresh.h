/* fresh.h - what a prefix's policy makes of a fetched object. Pure; `now` is an argument. */
#ifndef LDR_FRESH_H
#define LDR_FRESH_H

#include "agent/cfg.h"
#include "common/record.h"

/* Set validated_at, fresh_until and boot of `r` for an object that the store confirmed at `now_ns` (CLOCK_BOOTTIME). */
static inline void ldr_fresh_set(struct ldr_record *r, const struct ldr_prefix_cfg *policy, uint32_t boot,
                                 int64_t now_ns)
{
    r->boot = boot;
    r->validated_at_ns = (uint64_t)now_ns;
    switch (policy->freshness) {
    case LDR_IMMUTABLE:
        r->fresh_until_ns = LDR_FRESH_ALWAYS;
        break;
    case LDR_TTL:
        r->fresh_until_ns = policy->ttl_ns > INT64_MAX - now_ns ? INT64_MAX : (uint64_t)(now_ns + policy->ttl_ns);
        break;
    case LDR_REVALIDATE:
        r->fresh_until_ns = r->validated_at_ns; /* never by itself: each read asks */
        break;
    }
}

#endif
