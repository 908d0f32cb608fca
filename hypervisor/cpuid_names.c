/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpuid_names.c - the feature bits of CPUID (SDM volume 2, CPUID; APM volume 3, appendix E; TLFS 2.4) by the names
 * that /proc/cpuinfo and QEMU use.
 */
#include "hypervisor/cpuid_features.h"
#include "hypervisor/tlfs/protocol.h"

enum { EAX, EBX, ECX, EDX };

#define BIT(n) (1u << (n))

static const char *const names_1_ecx[32] = {
    "sse3", "pclmulqdq", "dtes64", "monitor", "ds_cpl", "vmx", "smx", "est", "tm2", "ssse3", "cid", "sdbg", "fma",
    "cx16", "xtpr", "pdcm", NULL, "pcid", "dca", "sse4.1", "sse4.2", "x2apic", "movbe", "popcnt", "tsc_deadline_timer",
    "aes", "xsave", "osxsave", "avx", "f16c", "rdrand", "hypervisor"};

static const char *const names_1_edx[32] = {
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", NULL, "sep", "mtrr", "pge", "mca", "cmov",
    "pat", "pse36", "pn", "clflush", NULL, "dts", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht", "tm", "ia64", "pbe"};

static const char *const names_6_eax[32] = {[2] = "arat"};

static const char *const names_7_ebx[32] = {
    "fsgsbase", "tsc_adjust", "sgx", "bmi1", "hle", "avx2", "fdp_excptn_only", "smep", "bmi2", "erms", "invpcid", "rtm",
    "cqm", "zero_fcs_fds", "mpx", "rdt_a", "avx512f", "avx512dq", "rdseed", "adx", "smap", "avx512ifma", "pcommit",
    "clflushopt", "clwb", "intel_pt", "avx512pf", "avx512er", "avx512cd", "sha_ni", "avx512bw", "avx512vl"};

static const char *const names_7_ecx[32] = {
    "prefetchwt1", "avx512vbmi", "umip", "pku", "ospke", "waitpkg", "avx512_vbmi2", "shstk", "gfni", "vaes",
    "vpclmulqdq", "avx512_vnni", "avx512_bitalg", "tme", "avx512_vpopcntdq", NULL, "la57", NULL, NULL, NULL, NULL, NULL,
    "rdpid", "key_locker", "bus_lock_detect", "cldemote", NULL, "movdiri", "movdir64b", "enqcmd", "sgx_lc", "pks"};

static const char *const names_7_edx[32] = {
    NULL, "sgx_keys", "avx512_4vnniw", "avx512_4fmaps", "fsrm", "uintr", NULL, NULL, "avx512_vp2intersect", "srbds_ctrl",
    "md_clear", "rtm_always_abort", NULL, "tsx_force_abort", "serialize", "hybrid_cpu", "tsxldtrk", NULL, "pconfig",
    "arch_lbr", "ibt", NULL, "amx_bf16", "avx512_fp16", "amx_tile", "amx_int8", "spec_ctrl", "stibp", "flush_l1d",
    "arch_capabilities", "core_capabilities", "ssbd"};

static const char *const names_7_1_eax[32] = {
    [0] = "sha512", [1] = "sm3", [2] = "sm4", [4] = "avx_vnni", [5] = "avx512_bf16", [6] = "lass", [7] = "cmpccxadd",
    [10] = "fzrm", [11] = "fsrs", [12] = "fsrc", [17] = "fred", [18] = "lkgs", [19] = "wrmsrns", [21] = "amx_fp16",
    [22] = "hreset", [23] = "avx_ifma", [26] = "lam", [27] = "msrlist"};

static const char *const names_7_1_edx[32] = {
    [4] = "avx_vnni_int8", [5] = "avx_ne_convert", [8] = "amx_complex", [10] = "avx_vnni_int16", [14] = "prefetchi",
    [17] = "uiret_uif", [18] = "cet_sss", [19] = "avx10", [21] = "apx_f"};

static const char *const names_7_2_edx[32] = {"psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl", "mcdt_no"};

static const char *const names_xcr0[32] = {
    "x87 state", "sse state", "avx state", "bndregs state", "bndcsr state", "opmask state", "zmm_hi256 state",
    "hi16_zmm state", NULL, "pkru state", NULL, NULL, NULL, NULL, NULL, NULL, NULL, "tilecfg state", "tiledata state"};

static const char *const names_d_1_eax[32] = {"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"};

static const char *const names_ext1_ecx[32] = {
    "lahf_lm", "cmp_legacy", "svm", "extapic", "cr8_legacy", "abm", "sse4a", "misalignsse", "3dnowprefetch", "osvw",
    "ibs", "xop", "skinit", "wdt", NULL, "lwp", "fma4", "tce", NULL, "nodeid_msr", NULL, "tbm", "topoext",
    "perfctr_core", "perfctr_nb", NULL, "bpext", "ptsc", "perfctr_llc", "mwaitx"};

static const char *const names_ext1_edx[32] = {
    [11] = "syscall", [19] = "mp", [20] = "nx", [22] = "mmxext", [25] = "fxsr_opt", [26] = "pdpe1gb", [27] = "rdtscp",
    [29] = "lm", [30] = "3dnowext", [31] = "3dnow"};

static const char *const names_ext7_edx[32] = {[8] = "invtsc"};

static const char *const names_ext8_ebx[32] = {
    [0] = "clzero", [1] = "irperf", [2] = "xsaveerptr", [4] = "rdpru", [8] = "mcommit", [9] = "wbnoinvd",
    [12] = "amd_ibpb", [14] = "amd_ibrs", [15] = "amd_stibp", [23] = "amd_ppin", [24] = "amd_ssbd", [25] = "virt_ssbd",
    [28] = "amd_psfd", [30] = "ibpb_ret"};

static const char *const names_ext21_eax[32] = {[7] = "uai", [8] = "autoibrs"};

static const char *const names_hv3_eax[32] = {
    "hv-runtime", "hv-reference-counter", "hv-synic", "hv-stimer", "hv-apic-msrs", "hv-hypercall", "hv-vpindex",
    "hv-reset", NULL, "hv-reference-tsc", "hv-guest-idle", "hv-frequencies"};

static const char *const names_hv3_ebx[32] = {
    [4] = "hv-post-messages", [5] = "hv-signal-events", [21] = "hv-start-vp"};

static const char *const names_hv3_edx[32] = {
    [4] = "hv-xmm-input", [5] = "hv-guest-idle", [8] = "hv-frequencies", [10] = "hv-crash", [17] = "hv-sint-polling",
    [18] = "hv-hypercall-lock", [19] = "hv-stimer-direct"};

static const char *const names_hv4_eax[32] = {
    [2] = "hv-tlbflush", [10] = "hv-ipi", [11] = "hv-ex-masks"};

/* Shown by AMD in 0x80000001 once more: bits of leaf 1 EDX. */
#define EXT1_EDX_ALIASES 0x0183f3ffu

const struct cpuid_word cpuid_words[] = {
    {1, 0, ECX, ~(BIT(27) | BIT(31)), names_1_ecx},                    /* not OSXSAVE, hypervisor present */
    {1, 0, EDX, ~(BIT(9) | BIT(27) | BIT(28)), names_1_edx},           /* not APIC, self snoop, HTT */
    {6, 0, EAX, ~0u, names_6_eax},
    {6, 0, ECX, ~0u, NULL},
    {7, 0, EBX, ~(BIT(6) | BIT(13)), names_7_ebx},                     /* these say what is *not* kept up */
    {7, 0, ECX, ~(BIT(4) | 0x1fu << 17), names_7_ecx},                 /* not OSPKE, MAWAU */
    {7, 0, EDX, ~(BIT(11) | BIT(15)), names_7_edx},
    {7, 1, EAX, ~0u, names_7_1_eax},
    {7, 1, EBX, ~0u, NULL},
    {7, 1, ECX, ~0u, NULL},
    {7, 1, EDX, ~0u, names_7_1_edx},
    {7, 2, EDX, 0x1f, names_7_2_edx},
    {0xd, 0, EAX, ~0u, names_xcr0},
    {0xd, 0, EDX, ~0u, NULL},
    {0xd, 1, EAX, ~0u, names_d_1_eax},
    {0xd, 1, ECX, ~0u, NULL},                                          /* IA32_XSS */
    {0x80000001, 0, ECX, ~(BIT(1) | BIT(22)), names_ext1_ecx},         /* not topology */
    {0x80000001, 0, EDX, ~(EXT1_EDX_ALIASES | BIT(19)), names_ext1_edx},
    {0x80000007, 0, EDX, BIT(8), names_ext7_edx},
    /* Not which of the mitigations to prefer, nor what is not needed. */
    {0x80000008, 0, EBX, ~(0x1fu << 16 | BIT(26) | BIT(29)), names_ext8_ebx},
    {0x8000000a, 0, EDX, ~0u, NULL},
    {0x80000021, 0, EAX, BIT(7) | BIT(8), names_ext21_eax},
    {0x40000003, 0, EAX, ~0u, names_hv3_eax},
    {0x40000003, 0, EBX, ~0u, names_hv3_ebx},
    {0x40000003, 0, EDX, ~0u, names_hv3_edx},
    /* A recommendation to call us is a promise to serve the call. */
    {0x40000004, 0, EAX, HV_RECOMMEND_REMOTE_FLUSH | HV_RECOMMEND_CLUSTER_IPI | HV_RECOMMEND_EX_MASKS, names_hv4_eax},
    {0},
};
