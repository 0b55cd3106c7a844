/* counters.h - what the agent counts: one atomic a row of counters.tbl.h. Any thread adds, relaxed. */
#ifndef LDR_COUNTERS_H
#define LDR_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

struct ldr_counters {
#define LDR_COUNTER(name, help) _Atomic uint64_t name;
#include "agent/counters.tbl.h"
#undef LDR_COUNTER
};

#define ldr_count(counters, name, n) atomic_fetch_add_explicit(&(counters)->name, (n), memory_order_relaxed)

#endif
