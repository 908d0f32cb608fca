/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/sandbox_filter.h"

#include <errno.h>
#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/thread.h"
#include "worker/sandbox.h"

/* Kinds of threads as bits. Who starts a thread has all that it has: the loop's thread, and the VMBus's, which starts
 * the disks' and the network's. */
#define VP    (1u << THREAD_VP)
#define DISK  (1u << THREAD_DISK)
#define TIMER (1u << THREAD_TIMER)
#define BUS   (1u << THREAD_BUS)
#define NET   (1u << THREAD_NETWORK)
#define ALL   (VP | DISK | TIMER | BUS | NET)
#define LOOP  0u
#define KINDS 5u

/* What glibc starts a thread by; nothing but a thread can be started so. */
#define THREAD_FLAGS                                                                                         \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |   \
	    CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define SIGNAL_SETXID 33u /* glibc takes it when the first thread starts */
#define SIGNAL_KICK   35u /* SIGRTMIN + 1: hypervisor/kvm/processor.c */
#define KVM_TYPE      0xae00u /* of the requests of <linux/kvm.h> */

struct rule {
	int call;
	unsigned kinds;
	bool compares; /* the call is allowed when `argument` has `value` in the bits of `mask` */
	unsigned argument;
	uint64_t mask, value;
};

#define EXACTLY     UINT64_MAX
#define OWN_PROCESS UINT64_MAX /* as a value: stands for this process's id */

/* Every line is needed by a test: tests/bare/run_worker.py, tests/guest/test_worker.py, or test_worker_sandbox. */
static const struct rule rules[] = {
    /* memory: no mapping is both writable and executable, and none becomes executable later. */
    {SCMP_SYS(mmap), ALL, true, 2, PROT_WRITE | PROT_EXEC, 0},
    {SCMP_SYS(mmap), ALL, true, 2, PROT_WRITE | PROT_EXEC, PROT_WRITE},
    {SCMP_SYS(mmap), LOOP, true, 2, PROT_WRITE | PROT_EXEC, PROT_EXEC}, /* the translator's code */
    {SCMP_SYS(mprotect), ALL, true, 2, PROT_EXEC, 0},
    {SCMP_SYS(munmap), ALL, .compares = false},
    {SCMP_SYS(madvise), ALL, .compares = false},
    {SCMP_SYS(brk), ALL, .compares = false},
    {SCMP_SYS(mremap), ALL, .compares = false},             /* realloc() of much; what can be done with it stays */
    {SCMP_SYS(sched_getaffinity), ALL, .compares = false}, /* malloc(), in the ninth thread */
    {SCMP_SYS(arch_prctl), VP, true, 0, EXACTLY, ARCH_SET_GS}, /* the translator, on a host without FSGSBASE */
    {SCMP_SYS(memfd_create), LOOP, .compares = false},
    {SCMP_SYS(getrandom), ALL, .compares = false},
    {SCMP_SYS(membarrier), ALL, .compares = false},
    /* threads */
    {SCMP_SYS(futex), ALL, .compares = false},
    {SCMP_SYS(sched_yield), ALL, .compares = false},
    {SCMP_SYS(clock_gettime), ALL, .compares = false}, /* of a clock, or a host, that the vDSO does not serve */
    {SCMP_SYS(clock_nanosleep), ALL, .compares = false},
    {SCMP_SYS(clone), DISK, true, 0, EXACTLY, THREAD_FLAGS},
    {SCMP_SYS(set_robust_list), DISK, .compares = false},
    {SCMP_SYS(rseq), DISK, .compares = false},
    {SCMP_SYS(prctl), DISK, true, 0, EXACTLY, PR_SET_NAME},
    {SCMP_SYS(seccomp), DISK, true, 0, EXACTLY, SECCOMP_SET_MODE_FILTER},
    {SCMP_SYS(exit), ALL, .compares = false},
    {SCMP_SYS(exit_group), ALL, .compares = false},
    /* signals */
    {SCMP_SYS(rt_sigprocmask), ALL, .compares = false},
    {SCMP_SYS(rt_sigreturn), ALL, .compares = false},
    {SCMP_SYS(rt_sigaction), LOOP, true, 0, EXACTLY, SIGTERM},
    {SCMP_SYS(rt_sigaction), LOOP, true, 0, EXACTLY, SIGINT},
    {SCMP_SYS(rt_sigaction), LOOP, true, 0, EXACTLY, SIGNAL_SETXID},
    {SCMP_SYS(restart_syscall), ALL, .compares = false},
    /* descriptors */
    {SCMP_SYS(read), ALL, .compares = false},
    {SCMP_SYS(write), ALL, .compares = false},
    {SCMP_SYS(close), DISK, .compares = false},
    {SCMP_SYS(eventfd2), DISK, .compares = false},
    {SCMP_SYS(poll), DISK | NET, .compares = false},
    {SCMP_SYS(epoll_create1), LOOP, .compares = false},
    {SCMP_SYS(epoll_ctl), BUS, .compares = false},
    {SCMP_SYS(epoll_wait), BUS, .compares = false},
    {SCMP_SYS(timerfd_create), LOOP, .compares = false},
    {SCMP_SYS(timerfd_settime), BUS, .compares = false},
    {SCMP_SYS(fcntl), DISK, true, 1, EXACTLY, F_DUPFD_CLOEXEC},
    {SCMP_SYS(ioctl), LOOP, true, 1, EXACTLY, FIONBIO},
    /* a disk that is added: its file comes as a descriptor, is locked and looked at */
    {SCMP_SYS(recvmsg), LOOP, .compares = false},
    {SCMP_SYS(fcntl), DISK, true, 1, EXACTLY, F_GETFL}, /* and one that is merged */
    {SCMP_SYS(fcntl), DISK, true, 1, EXACTLY, F_OFD_SETLK},
    {SCMP_SYS(fcntl), DISK, true, 1, EXACTLY, F_OFD_GETLK},
    {SCMP_SYS(flock), DISK, .compares = false},
    {SCMP_SYS(fstatfs), DISK, .compares = false},
    {SCMP_SYS(ioctl), LOOP, true, 1, EXACTLY, BLKGETSIZE64},
    /* disks and kernel files, all of them open */
    {SCMP_SYS(io_uring_setup), BUS, .compares = false},
    {SCMP_SYS(io_uring_register), BUS, true, 1, EXACTLY, IORING_REGISTER_EVENTFD},
    {SCMP_SYS(io_uring_enter), DISK, .compares = false},
    {SCMP_SYS(pread64), DISK, .compares = false},
    {SCMP_SYS(preadv), DISK, .compares = false},
    {SCMP_SYS(pwritev), DISK, .compares = false},
    {SCMP_SYS(fdatasync), DISK, .compares = false},
    {SCMP_SYS(sync_file_range), DISK, .compares = false}, /* a saved machine's */
    {SCMP_SYS(fadvise64), DISK, .compares = false},
    {SCMP_SYS(fallocate), DISK, .compares = false},
    {SCMP_SYS(ftruncate), DISK, .compares = false},
    {SCMP_SYS(newfstatat), DISK, .compares = false},
    {SCMP_SYS(lseek), DISK, .compares = false}, /* where a file has data */
    /* an adapter's port: a socket, or a tap interface */
    {SCMP_SYS(recvmmsg), NET, .compares = false},
    {SCMP_SYS(sendmmsg), NET, .compares = false},
    {SCMP_SYS(sendto), NET, .compares = false},
    {SCMP_SYS(readv), NET, .compares = false},
    {SCMP_SYS(writev), NET, .compares = false},
    {SCMP_SYS(ioctl), NET, true, 1, EXACTLY, TUNSETOFFLOAD},
    /* and one that is plugged in: its descriptor is looked at */
    {SCMP_SYS(getsockopt), LOOP, true, 2, EXACTLY, SO_TYPE},
    {SCMP_SYS(ioctl), LOOP, true, 1, EXACTLY, TUNGETIFF},
    {SCMP_SYS(ioctl), LOOP, true, 1, EXACTLY, TUNSETVNETHDRSZ},
    /* the sockets of console and control */
    {SCMP_SYS(accept4), LOOP, .compares = false},
};

/* Needed by the hardware processor alone. */
static const struct rule kvm_rules[] = {
    {SCMP_SYS(ioctl), ALL, true, 1, 0xff00, KVM_TYPE},
    {SCMP_SYS(fcntl), LOOP, true, 1, EXACTLY, F_SETFD},
    /* A virtual processor is called out of KVM_RUN by a signal. */
    {SCMP_SYS(getpid), ALL, .compares = false},
    {SCMP_SYS(tgkill), ALL, true, 0, EXACTLY, OWN_PROCESS},
    {SCMP_SYS(rt_sigaction), LOOP, true, 0, EXACTLY, SIGNAL_KICK},
};

/* Refused, which the caller takes: glibc starts threads by clone() then, a file that
 * cannot be opened is told, and the keeper removes the sockets. */
static const struct {
	int call, error;
} refusals[] = {{SCMP_SYS(clone3), ENOSYS}, {SCMP_SYS(openat), EACCES}, {SCMP_SYS(unlink), EACCES}};

static struct sock_fprog programs[KINDS];
static const unsigned rights[KINDS] = {[THREAD_VP] = VP, [THREAD_DISK] = DISK, [THREAD_TIMER] = TIMER, [THREAD_BUS] = BUS | DISK | NET, [THREAD_NETWORK] = NET};
static const char *const names[KINDS] = {
    [THREAD_VP] = "a virtual processor's", [THREAD_DISK] = "a disk's", [THREAD_TIMER] = "a timer's", [THREAD_BUS] = "the VMBus's", [THREAD_NETWORK] = "a network adapter's"};
static _Thread_local const char *thread_name = "the first";

static int add_rules(scmp_filter_ctx filter, const struct rule *list, size_t count, unsigned kinds)
{
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		const struct rule *rule = &list[i];
		uint64_t value = rule->value == OWN_PROCESS ? (uint64_t)getpid() : rule->value;
		struct scmp_arg_cmp compare = SCMP_CMP(rule->argument, SCMP_CMP_MASKED_EQ, rule->mask, value);

		if (kinds == LOOP || rule->kinds & kinds)
			r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rule->call, rule->compares, &compare);
	}
	return r;
}

/* The filter of these kinds of threads, or with LOOP the first one's, as the kernel takes it. */
static int build(struct sock_fprog *program, unsigned kinds, bool kvm)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
	_cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	int r = filter && fd >= 0 ? 0 : -ENOMEM;

	/* A tree: what is called most is not far behind in a list. */
	if (!r)
		r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!r)
		r = add_rules(filter, rules, ARRAY_SIZE(rules), kinds);
	if (!r && kvm)
		r = add_rules(filter, kvm_rules, ARRAY_SIZE(kvm_rules), kinds);
	for (size_t i = 0; i < ARRAY_SIZE(refusals) && !r; i++)
		r = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((unsigned)refusals[i].error), refusals[i].call, 0, NULL);
	if (!r)
		r = seccomp_export_bpf(filter, fd);
	seccomp_release(filter);
	if (!r && fstat(fd, &st))
		r = -errno;
	if (r)
		return r;
	program->len = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter));
	program->filter = malloc((size_t)st.st_size);
	return program->filter && pread(fd, program->filter, (size_t)st.st_size, 0) == st.st_size ? 0 : -ENOMEM;
}

static int apply(const struct sock_fprog *program)
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) ? -errno : 0;
}

static char *put_text(char *at, const char *text)
{
	size_t length = strlen(text);

	memcpy(at, text, length);
	return at + length;
}

/* Only what a signal handler may call. */
static void on_forbidden(int number, siginfo_t *info, void *context)
{
	char line[160], digits[12], *at = line, *digit = digits + sizeof(digits) - 1;
	unsigned call = (unsigned)info->si_syscall;

	(void)number;
	(void)context;
	*digit = '\0';
	do
		*--digit = (char)('0' + call % 10);
	while (call /= 10);
	at = put_text(at, "bulkhead: error: the machine is stopped: ");
	at = put_text(at, thread_name);
	at = put_text(at, " thread made system call ");
	at = put_text(at, digit);
	at = put_text(at, ", which the sandbox forbids\n");
	if (write(STDERR_FILENO, line, (size_t)(at - line)) < 0) {
		/* Nobody can be told. */
	}
	_exit(SANDBOX_EXIT);
}

/* Threads begin with all signals blocked or none: one that is blocked would kill without a word. */
static void confine_thread(enum thread_kind kind)
{
	sigset_t forbidden;
	int r;

	thread_name = names[kind];
	sigemptyset(&forbidden);
	sigaddset(&forbidden, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &forbidden, NULL);
	r = apply(&programs[kind]);
	if (r) {
		log_write(LOG_LEVEL_ERROR, "%s thread cannot be confined: %s", thread_name, strerror(-r));
		_exit(SANDBOX_EXIT);
	}
}

int sandbox_filter_enter(bool kvm, struct error *err)
{
	struct sigaction action = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};
	struct sock_fprog whole = {0};
	int r = build(&whole, LOOP, kvm);

	for (unsigned kind = 0; kind < KINDS && !r; kind++)
		r = build(&programs[kind], rights[kind], kvm);
	if (!r && sigaction(SIGSYS, &action, NULL))
		r = -errno;
	if (!r)
		r = apply(&whole);
	free(whole.filter);
	if (r)
		return error_set(err, -r, "the system calls of the machine cannot be confined: %s", strerror(-r));
	thread_set_hook(confine_thread);
	return 0;
}
