/* A warm-hit contestant in C: one file c/b_NAME.c, built to build/b_NAME.so and dlopen()ed by warm. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
/* arg: contestant-specific "key=value,..." or a path; keys are "CLASS/o%05d". 0 = ok. */
int be_open(const char *arg, const char *cls, unsigned n, size_t size);
/* Make object i readable; *p..*p+*len stay valid until be_release(). 0 = ok. */
int be_get(unsigned i, const unsigned char **p, size_t *len);
void be_release(unsigned i);
/* optional: int be_load(unsigned i, const void *p, size_t len); fills a store that the clients share */
#ifdef __cplusplus
}
#endif
