/* defs.h - small macros that every file may use. */
#ifndef LDR_DEFS_H
#define LDR_DEFS_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || UINTPTR_MAX < UINT64_MAX
#error "larder shares files between processes as they are in memory: 64-bit little-endian machines only"
#endif

#define LDR_VERSION "0.1.0" /* LARDER_VERSION of larder.h */

#define LDR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define LDR_ARRAY_LEN(a)      (sizeof(a) / sizeof((a)[0]))
#define LDR_KIB               UINT64_C(1024)
#define LDR_MIB               (1024 * LDR_KIB)
#define LDR_GIB               (1024 * LDR_MIB)

/* The struct that holds `member`, from a pointer to the member. */
#define LDR_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define LDR_BLOCK_SIZE_DEFAULT (8 * LDR_MIB)
#define LDR_BLOCK_LOG2_MIN     16 /* 64 KiB */
#define LDR_BLOCK_LOG2_MAX     40
#define LDR_BLOCKS_MAX         4096 /* of one object */
#define LDR_OBJECT_SIZE_MAX    (UINT64_C(1) << 48)
#define LDR_WIRE_REQUEST_MAX   (256 * LDR_KIB) /* bytes of one message from a client */
#define LDR_WIRE_REPLY_MAX     LDR_MIB
#define LDR_WIRE_CHUNK         (256 * LDR_KIB) /* object bytes in one reply */
/* … that the agent puts into one: with what stands around them a unix socket takes them at once. nng 1.5 can lose its
 * thread that closes connections when a client dies in the middle of a longer message. */
#define LDR_WIRE_SEND      (120 * LDR_KIB)
#define LDR_WIRE_PART      (128 * LDR_KIB) /* object bytes in one request */
#define LDR_WIRE_MANY      256             /* keys of one GetMany */
#define LDR_WIRE_START_MAX (8 * LDR_KIB)   /* bytes of a listing's cursor */
#define LDR_PUT_MAX        (8 * LDR_MIB)   /* a put without staging */

#endif
