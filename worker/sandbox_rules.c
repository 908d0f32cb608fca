/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/sandbox_rules.h"

#include <errno.h>
#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/thread.h"

/* Kinds of threads as bits. Who starts a thread has all that it has: the loop's thread, and the VMBus's, which starts
 * the disks' and the network's. */
#define VP    (1u << THREAD_VP)
#define DISK  (1u << THREAD_DISK)
#define TIMER (1u << THREAD_TIMER)
#define BUS   (1u << THREAD_BUS)
#define NET   (1u << THREAD_NETWORK)
#define ALL   (VP | DISK | TIMER | BUS | NET)
#define LOOP  0u

/* What glibc starts a thread by; nothing but a thread can be started so. */
#define THREAD_FLAGS                                                                                         \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |   \
	    CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define SIGNAL_SETXID 33u /* glibc takes it when the first thread starts */
#define SIGNAL_KICK   35u /* SIGRTMIN + 1: hypervisor/kvm/processor.c */
#define KVM_TYPE      0xae00u /* of the requests of <linux/kvm.h> */

#define EXACTLY UINT64_MAX

/* Flags of memory that is none of a process's own (RLIMIT_DATA), or no file's. */
#define NOT_COUNTED (MAP_SHARED | MAP_GROWSDOWN)
#define NO_FILE     (MAP_ANONYMOUS | MAP_GROWSDOWN)

const struct sandbox_rule sandbox_rules[] = {
    /* memory: no mapping is both writable and executable, and none becomes executable later. What is shared is a file's, which has
     * its size: other memory than that counts as the process's own (sandbox.h). */
    {SCMP_SYS(mmap), ALL, 2, {{2, PROT_WRITE | PROT_EXEC, 0}, {3, NOT_COUNTED, 0}}},
    {SCMP_SYS(mmap), ALL, 2, {{2, PROT_WRITE | PROT_EXEC, PROT_WRITE}, {3, NOT_COUNTED, 0}}},
    {SCMP_SYS(mmap), LOOP, 2, {{2, PROT_WRITE | PROT_EXEC, PROT_WRITE}, {3, NO_FILE, 0}}}, /* the guest's */
    {SCMP_SYS(mmap), LOOP, 2, {{2, PROT_WRITE | PROT_EXEC, PROT_EXEC}, {3, NO_FILE, 0}}}, /* the translator's code */
    {SCMP_SYS(mprotect), ALL, 1, {{2, PROT_EXEC, 0}}},
    {SCMP_SYS(munmap), ALL, .compares = 0},
    {SCMP_SYS(madvise), ALL, .compares = 0},
    {SCMP_SYS(brk), ALL, .compares = 0},
    {SCMP_SYS(mremap), ALL, .compares = 0},             /* realloc() of much; what can be done with it stays */
    {SCMP_SYS(arch_prctl), VP, 1, {{0, EXACTLY, ARCH_SET_GS}}}, /* the translator, on a host without FSGSBASE */
    {SCMP_SYS(getrandom), VP | DISK, .compares = 0}, /* the guest's RDRAND; what a disk's file is known by */
    {SCMP_SYS(sched_getaffinity), DISK, .compares = 0}, /* how many threads read or write a saved machine */
    {SCMP_SYS(membarrier), ALL, .compares = 0},
    /* threads */
    {SCMP_SYS(futex), ALL, .compares = 0},
    {SCMP_SYS(sched_yield), ALL, .compares = 0},
    {SCMP_SYS(clock_gettime), ALL, .compares = 0}, /* of a clock, or a host, that the vDSO does not serve */
    {SCMP_SYS(clock_nanosleep), ALL, .compares = 0},
    {SCMP_SYS(clone), DISK, 1, {{0, EXACTLY, THREAD_FLAGS}}},
    {SCMP_SYS(set_robust_list), DISK, .compares = 0},
    {SCMP_SYS(rseq), DISK, .compares = 0},
    {SCMP_SYS(prctl), DISK, 1, {{0, EXACTLY, PR_SET_NAME}}},
    {SCMP_SYS(seccomp), DISK, 1, {{0, EXACTLY, SECCOMP_SET_MODE_FILTER}}},
    {SCMP_SYS(exit), ALL, .compares = 0},
    {SCMP_SYS(exit_group), ALL, .compares = 0},
    /* signals */
    {SCMP_SYS(rt_sigprocmask), ALL, .compares = 0},
    {SCMP_SYS(rt_sigreturn), ALL, .compares = 0},
    {SCMP_SYS(rt_sigaction), LOOP, 1, {{0, EXACTLY, SIGTERM}}},
    {SCMP_SYS(rt_sigaction), LOOP, 1, {{0, EXACTLY, SIGINT}}},
    {SCMP_SYS(rt_sigaction), LOOP, 1, {{0, EXACTLY, SIGNAL_SETXID}}},
    {SCMP_SYS(restart_syscall), ALL, .compares = 0},
    /* descriptors */
    {SCMP_SYS(read), DISK | BUS | NET, .compares = 0},
    {SCMP_SYS(write), ALL, .compares = 0},
    {SCMP_SYS(close), DISK, .compares = 0},
    {SCMP_SYS(eventfd2), DISK | NET, .compares = 0}, /* a channel more of a controller, or of an adapter */
    {SCMP_SYS(poll), DISK | NET, .compares = 0},
    {SCMP_SYS(epoll_create1), LOOP, .compares = 0},
    {SCMP_SYS(epoll_ctl), BUS, .compares = 0},
    {SCMP_SYS(epoll_wait), BUS, .compares = 0},
    {SCMP_SYS(timerfd_create), LOOP, .compares = 0},
    {SCMP_SYS(timerfd_settime), BUS, .compares = 0},
    {SCMP_SYS(fcntl), DISK, 1, {{1, EXACTLY, F_DUPFD_CLOEXEC}}},
    {SCMP_SYS(ioctl), LOOP, 1, {{1, EXACTLY, FIONBIO}}},
    /* a disk that is added: its file comes as a descriptor, is locked and looked at */
    {SCMP_SYS(recvmsg), LOOP, .compares = 0},
    {SCMP_SYS(fcntl), DISK, 1, {{1, EXACTLY, F_GETFL}}}, /* and one that is merged */
    {SCMP_SYS(fcntl), DISK, 1, {{1, EXACTLY, F_OFD_SETLK}}},
    {SCMP_SYS(fcntl), DISK, 1, {{1, EXACTLY, F_OFD_GETLK}}},
    {SCMP_SYS(flock), DISK, .compares = 0},
    {SCMP_SYS(fstatfs), DISK, .compares = 0},
    {SCMP_SYS(ioctl), LOOP, 1, {{1, EXACTLY, BLKGETSIZE64}}},
    /* disks and kernel files, all of them open; rings are made before (disk/rings.h), as no filter sees what a ring is asked for */
    {SCMP_SYS(io_uring_enter), DISK, .compares = 0},
    {SCMP_SYS(pread64), DISK, .compares = 0},
    {SCMP_SYS(preadv), DISK, .compares = 0},
    {SCMP_SYS(pwritev), DISK, .compares = 0},
    {SCMP_SYS(fdatasync), DISK, .compares = 0},
    {SCMP_SYS(sync_file_range), DISK, .compares = 0}, /* a saved machine's */
    {SCMP_SYS(fadvise64), DISK, .compares = 0},
    {SCMP_SYS(fallocate), DISK, .compares = 0},
    {SCMP_SYS(ftruncate), DISK, .compares = 0},
    {SCMP_SYS(newfstatat), DISK, .compares = 0},
    {SCMP_SYS(lseek), DISK, .compares = 0}, /* where a file has data */
    /* an adapter's port: a socket, or a tap interface */
    {SCMP_SYS(recvmmsg), NET, .compares = 0},
    {SCMP_SYS(sendmmsg), NET, .compares = 0},
    {SCMP_SYS(sendto), NET, .compares = 0},
    {SCMP_SYS(readv), NET, .compares = 0},
    {SCMP_SYS(writev), NET, .compares = 0},
    {SCMP_SYS(ioctl), NET, 1, {{1, EXACTLY, TUNSETOFFLOAD}}},
    /* and one that is plugged in: its descriptor is looked at */
    {SCMP_SYS(getsockopt), LOOP, 1, {{2, EXACTLY, SO_TYPE}}},
    {SCMP_SYS(ioctl), LOOP, 1, {{1, EXACTLY, TUNGETIFF}}},
    {SCMP_SYS(ioctl), LOOP, 1, {{1, EXACTLY, TUNSETVNETHDRSZ}}},
    /* the sockets of console and control */
    {SCMP_SYS(accept4), LOOP, .compares = 0},
};

/* Needed by the hardware processor alone. */
const struct sandbox_rule sandbox_kvm_rules[] = {
    {SCMP_SYS(ioctl), ALL, 1, {{1, 0xff00, KVM_TYPE}}},
    {SCMP_SYS(fcntl), LOOP, 1, {{1, EXACTLY, F_SETFD}}},
    /* A virtual processor is called out of KVM_RUN by a signal. */
    {SCMP_SYS(getpid), ALL, .compares = 0},
    {SCMP_SYS(tgkill), ALL, 1, {{0, EXACTLY, SANDBOX_OWN_PROCESS}}},
    {SCMP_SYS(rt_sigaction), LOOP, 1, {{0, EXACTLY, SIGNAL_KICK}}},
};

/* Refused, which the caller takes: glibc starts threads by clone() then, a file that
 * cannot be opened is told, and the keeper removes the sockets. */
const struct sandbox_refusal sandbox_refusals[] = {{SCMP_SYS(clone3), ENOSYS}, {SCMP_SYS(openat), EACCES}, {SCMP_SYS(unlink), EACCES}};

const size_t sandbox_rule_count = ARRAY_SIZE(sandbox_rules);
const size_t sandbox_kvm_rule_count = ARRAY_SIZE(sandbox_kvm_rules);
const size_t sandbox_refusal_count = ARRAY_SIZE(sandbox_refusals);
