/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/nat_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/privileges.h"

/* Read while it runs: the name server changes when the host moves to another network. */
static const char *const readable[] = {"/etc/resolv.conf", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"};

static int allow_reading(int rules)
{
	for (size_t i = 0; i < ARRAY_SIZE(readable); i++) {
		struct landlock_path_beneath_attr path = {.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE};

		path.parent_fd = open(readable[i], O_PATH | O_CLOEXEC);
		if (path.parent_fd < 0)
			continue;
		if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &path, 0)) {
			close(path.parent_fd);
			return -errno;
		}
		close(path.parent_fd);
	}
	return 0;
}

/* The kernel may have none: then the user's rights and the filter stand alone. */
static void refuse_files(void)
{
	struct landlock_ruleset_attr everything = {.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
	int rules = (int)syscall(SYS_landlock_create_ruleset, &everything, sizeof(everything), 0);
	int r = rules < 0 ? -errno : allow_reading(rules);

	if (!r && syscall(SYS_landlock_restrict_self, rules, 0))
		r = -errno;
	if (rules >= 0)
		close(rules);
	if (r)
		log_write(LOG_LEVEL_WARNING, "default switch: files can be opened as far as the user's rights go; Landlock: %s",
		    strerror(-r));
}

const int nat_sandbox_calls[] = {SCMP_SYS(accept), SCMP_SYS(bind), SCMP_SYS(brk), SCMP_SYS(clock_gettime), SCMP_SYS(close), SCMP_SYS(connect),
    SCMP_SYS(exit_group), SCMP_SYS(futex), SCMP_SYS(getpeername), SCMP_SYS(getpid), SCMP_SYS(getsockname), SCMP_SYS(getsockopt), SCMP_SYS(lseek),
    SCMP_SYS(mremap), SCMP_SYS(munmap), SCMP_SYS(newfstatat), SCMP_SYS(openat), SCMP_SYS(poll), SCMP_SYS(read), SCMP_SYS(recvfrom),
    SCMP_SYS(recvmmsg), SCMP_SYS(recvmsg), SCMP_SYS(restart_syscall), SCMP_SYS(sendmmsg), SCMP_SYS(sendto), SCMP_SYS(setsockopt), SCMP_SYS(shutdown),
    SCMP_SYS(unlink), SCMP_SYS(write)};
const size_t nat_sandbox_call_count = ARRAY_SIZE(nat_sandbox_calls);

static int filter_calls(struct error *err)
{
	static const int families[] = {AF_INET, AF_INET6}, not_needed[] = {AF_UNIX, AF_NETLINK};
	static const int commands[] = {F_GETFL, F_SETFL};
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = filter ? 0 : -ENOMEM;

	for (size_t i = 0; i < nat_sandbox_call_count && !r; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, nat_sandbox_calls[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(families) && !r; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)families[i]));
	for (size_t i = 0; i < ARRAY_SIZE(commands) && !r; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)commands[i]));
	/* Asked for by libraries. */
	for (size_t i = 0; i < ARRAY_SIZE(not_needed) && !r; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)not_needed[i]));
	/* Without the first libslirp takes no datagram from a socket, and asks again and again. */
	if (!r)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, FIONREAD, 0));
	if (!r)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_NE, FIONREAD, 0));
	if (!r)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r ? error_set(err, -r, "the system calls of the default switch cannot be confined: %s", strerror(-r)) : 0;
}

static int change_user(const struct nat_sandbox *s, struct error *err)
{
	if (!s->has_user)
		return 0;
	if (setgroups(0, NULL) || setresgid(s->gid, s->gid, s->gid) || setresuid(s->uid, s->uid, s->uid))
		return error_set(err, errno, "the default switch cannot run as user %u, group %u: %s", s->uid, s->gid, strerror(errno));
	return 0;
}

int nat_sandbox_enter(const struct nat_sandbox *sandbox, struct error *err)
{
	struct rlimit descriptors, none = {0, 0};
	int r;

	/* Not more than we were left. */
	if (getrlimit(RLIMIT_NOFILE, &descriptors))
		return error_set(err, errno, "limits of the default switch cannot be read: %s", strerror(errno));
	if (descriptors.rlim_max > sandbox->descriptors)
		descriptors.rlim_max = sandbox->descriptors;
	descriptors.rlim_cur = descriptors.rlim_max;
	if (setrlimit(RLIMIT_CORE, &none) || setrlimit(RLIMIT_NOFILE, &descriptors))
		return error_set(err, errno, "limits of the default switch cannot be set: %s", strerror(errno));
	r = change_user(sandbox, err);
	if (!r)
		r = privileges_drop(err);
	if (r)
		return r;
	/* A change of user forgets the first. */
	if ((!sandbox->outlives && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return error_set(err, errno, "the default switch cannot be confined: %s", strerror(errno));
	if (program_is_instrumented())
		return 0;
	refuse_files();
	return filter_calls(err);
}
