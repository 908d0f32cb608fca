/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vector.h - what the vector and floating point part (vector_*.c) offers to the rest of the software
 * processor, beside vector_select() in op.h. Private to hypervisor/soft/.
 *
 * x87, MMX, SSE and AVX instructions are executed by the host CPU. Each is brought into a normal
 * form (fixed registers, fixed memory operand) when it is decoded; the pool keeps one few-byte native
 * function for each normal form that was met. So what the host cannot do, the guest is not offered.
 */
#pragma once

#include "hypervisor/soft/state.h"

/* The native functions of one `struct soft`, shared by its VPs; it locks for itself. Never writable
 * and executable in one mapping. Lives longer than all blocks. -errno when the host gives no
 * executable memory. */
struct vector_pool;

/* Its memory is at the beginning of `code_file`, VECTOR_POOL_BYTES of it; -1: in a file of its own. */
#define VECTOR_POOL_BYTES (4u << 20)
int vector_pool_create(struct vector_pool **out, int code_file, struct error *err);
void vector_pool_destroy(struct vector_pool *pool);

/* The CPUID bits (SDM volume 2, CPUID) that this part serves on this host: to be or-ed into what the
 * other parts serve. Leaf 1 includes FPU, MMX, FXSR, SSE…, XSAVE, AVX, F16C, FMA, AES, PCLMULQDQ but
 * not OSXSAVE, which mirrors CR4. */
struct vector_features {
	uint32_t leaf1_ecx, leaf1_edx;
	uint32_t leaf7_ebx, leaf7_ecx;
	uint64_t xcr0;     /* the bits that XSETBV may set */
	bool x87_pointers; /* the host saves FIP, FDP and FOP always, not only with an exception pending */
};

void vector_features(struct vector_features *features);

/* The same, asked once: CPUID is slow under a hypervisor. */
const struct vector_features *vector_pool_features(const struct vector_pool *pool);

/* The bits of XCR0 that this VP may set: of `features`, without PKRU where the guest is not shown it. */
uint64_t vector_components(const struct soft_vp *vp);

/* CPUID leaf 0xd, whole: `components` may be set in XCR0, which is `xcr0`. */
void vector_cpuid_xsave(uint64_t components, uint64_t xcr0, uint32_t subleaf, uint32_t registers[4]);

/* The state after power-up (SDM volume 3, table 10-1), but FCW as after FNINIT. INIT keeps all of it,
 * so once at creation is enough; XCR0 becomes 1. */
void vector_reset(struct soft_vp *vp);

/* All x87, SSE and AVX state, and PKRU, as XSAVE's standard form holds it, whatever XCR0 and mode are; at most VECTOR_AREA bytes.
 * put: how many they are, fewer where the guest is not shown PKRU. take: the caller has checked MXCSR and the header. */
#define VECTOR_AREA 2696u
unsigned vector_area_put(const struct soft_vp *vp, uint8_t *area);
void vector_area_take(struct soft_vp *vp, const uint8_t *area);

/* The state components that are not in their initial configuration (bits as in XCR0): XINUSE. */
uint64_t vector_in_use(const struct soft_vp *vp);
