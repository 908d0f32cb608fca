/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/sandbox_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/thread.h"
#include "worker/sandbox.h"
#include "worker/sandbox_rules.h"

#define LOOP  0u /* all of them */
#define KINDS 5u

static struct sock_fprog programs[KINDS];
/* Who starts a thread has all that it has. */
static const unsigned rights[KINDS] = {[THREAD_VP] = 1u << THREAD_VP,
    [THREAD_DISK] = 1u << THREAD_DISK,
    [THREAD_TIMER] = 1u << THREAD_TIMER,
    [THREAD_BUS] = 1u << THREAD_BUS | 1u << THREAD_DISK | 1u << THREAD_NETWORK,
    [THREAD_NETWORK] = 1u << THREAD_NETWORK};
static const char *const names[KINDS] = {
    [THREAD_VP] = "a virtual processor's", [THREAD_DISK] = "a disk's", [THREAD_TIMER] = "a timer's", [THREAD_BUS] = "the VMBus's", [THREAD_NETWORK] = "a network adapter's"};
static _Thread_local const char *thread_name = "the first";

static int add_rules(scmp_filter_ctx filter, const struct sandbox_rule *list, size_t count, unsigned kinds)
{
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		const struct sandbox_rule *rule = &list[i];
		struct scmp_arg_cmp compare[ARRAY_SIZE(rule->comparisons)] = {{0}};

		for (unsigned k = 0; k < rule->compares; k++) {
			const struct sandbox_comparison *c = &rule->comparisons[k];
			uint64_t value = c->value == SANDBOX_OWN_PROCESS ? (uint64_t)getpid() : c->value;

			compare[k] = SCMP_CMP(c->argument, SCMP_CMP_MASKED_EQ, c->mask, value);
		}
		if (kinds == LOOP || rule->kinds & kinds)
			r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rule->call, rule->compares, compare);
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
		r = add_rules(filter, sandbox_rules, sandbox_rule_count, kinds);
	if (!r && kvm)
		r = add_rules(filter, sandbox_kvm_rules, sandbox_kvm_rule_count, kinds);
	for (size_t i = 0; i < sandbox_refusal_count && !r; i++)
		r = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((unsigned)sandbox_refusals[i].error), sandbox_refusals[i].call, 0,
		    NULL);
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
