/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/privileges.h"
#include "worker/sandbox_filter.h"

/* 4 controllers of 64 channels with an io_uring and two eventfds each, VPs, sockets, disks: about 1500. */
#define DESCRIPTORS_MAX 4096u
/* 64 VPs, 256 channels of controllers with up to 8 threads each where there is no io_uring, 512 of adapters: about 2900. */
#define THREADS_MAX 4096u
#define STACK_MAX   (8u << 20) /* of the first thread */

/* What the host refuses does not keep a machine from running; whoever reads the log should know. */
static void missing(const char *what, int error)
{
	log_write(LOG_LEVEL_WARNING, "sandbox: %s: %s", what, strerror(error));
}

/* --- before the fork ------------------------------------------------------------------------------------- */

static int write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t size = strlen(text);

	return fd >= 0 && write(fd, text, size) == (ssize_t)size ? 0 : -errno;
}

/* A user namespace in which we are who we are, and may make the other namespaces. */
static int make_user_namespace(void)
{
	unsigned uid = geteuid(), gid = getegid();
	char map[48];
	int r;

	if (unshare(CLONE_NEWUSER))
		return -errno;
	r = write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (!r)
		r = write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	return r ? r : write_file("/proc/self/gid_map", map);
}

/* What is opened before the sandbox is entered, disks with all that they continue, is as much as what may be open in it. */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= DESCRIPTORS_MAX)
		return;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		missing("not as many descriptors as there may be", errno);
}

void sandbox_prepare(void)
{
	int r = geteuid() && !program_is_instrumented() ? make_user_namespace() : 0;

	raise_descriptors();
	if (program_is_instrumented())
		log_write(LOG_LEVEL_WARNING, "sandbox: there is none, for this program was built with a sanitizer");
	else if (r)
		missing("no user namespace, so that nothing else is apart", -r);
	else if (unshare(CLONE_NEWPID))
		missing("processes are not apart", errno);
}

/* --- inside ------------------------------------------------------------------------------------------------ */

/* Some of what follows is a thread's own. */
static int check_alone(struct error *err)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *entry;
	unsigned count = 0;

	if (!tasks)
		return 0;
	while ((entry = readdir(tasks)))
		count += entry->d_name[0] != '.';
	closedir(tasks);
	return count == 1 ? 0 : error_set(err, EBUSY, "the sandbox is entered by one thread of %u", count);
}

static int set_limit(__rlimit_resource_t resource, rlim_t value, struct error *err)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit))
		return error_set(err, errno, "sandbox: a limit cannot be read: %s", strerror(errno));
	if (limit.rlim_max > value)
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(resource, &limit) ? error_set(err, errno, "sandbox: a limit cannot be set: %s", strerror(errno)) : 0;
}

/* What there is by now, in bytes. */
struct taken {
	uint64_t addresses, memory;
};

static int read_taken(struct taken *taken, struct error *err)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long size = 0, data = 0;
	int n = f ? fscanf(f, "%llu %*u %*u %*u %*u %llu", &size, &data) : 0;

	if (f)
		fclose(f);
	*taken = (struct taken){size * (uint64_t)sysconf(_SC_PAGESIZE), data * (uint64_t)sysconf(_SC_PAGESIZE)};
	return n == 2 ? 0 : error_set(err, EIO, "sandbox: what memory is used by now cannot be read: is there no /proc?");
}

/* The first bounds memory: what is shared is in files that cannot grow (sandbox_rules.c). The second bounds it too where somebody wants to
 * get round that (mprotect() in Linux looks at the first only while there are addresses left), and the tables of the kernel, which
 * mapping the same again and again would fill. */
static int limit_memory(const struct sandbox_config *config, struct error *err)
{
	pthread_attr_t attributes;
	struct taken taken;
	int r = 0;

	if (config->stack) {
		pthread_attr_init(&attributes);
		r = -pthread_attr_setstacksize(&attributes, config->stack);
		if (!r)
			r = -pthread_setattr_default_np(&attributes);
		pthread_attr_destroy(&attributes);
	}
	if (r)
		return error_set(err, -r, "sandbox: threads cannot have %zu bytes of stack: %s", config->stack, strerror(-r));
	mallopt(M_ARENA_MAX, SANDBOX_HEAPS);
	r = set_limit(RLIMIT_STACK, STACK_MAX, err);
	if (!r && (config->memory || config->addresses))
		r = read_taken(&taken, err);
	if (!r && config->memory)
		r = set_limit(RLIMIT_DATA, taken.memory + config->memory, err);
	if (!r && config->addresses)
		r = set_limit(RLIMIT_AS, taken.addresses + config->addresses, err);
	return r;
}

static bool leave_namespaces(void)
{
	static const struct {
		int flag;
		const char *what;
	} others[] = {{CLONE_NEWNET, "the network is not apart"},
	    {CLONE_NEWIPC, "System V IPC is not apart"},
	    {CLONE_NEWUTS, "the host's name is not apart"},
	    {CLONE_NEWCGROUP, "control groups are not apart"}};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (unshare(others[i].flag))
			missing(others[i].what, errno);
	if (unshare(CLONE_NEWNS) == 0)
		return true;
	missing("file systems are not apart", errno);
	return false;
}

/* Nothing is left but an empty directory that cannot be written. /tmp is only where it stands for a moment. */
static int empty_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0") || chdir("/tmp") ||
	    syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
	    mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) || chdir("/"))
		return -errno;
	return 0;
}

/* None can come back by a program that is run. Of an unprivileged process no_new_privs sees to that alone. */
static void drop_bounding_set(void)
{
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
			return;
}

static int change_user(const struct sandbox_config *c, struct error *err)
{
	if (!c->has_user) {
		if (geteuid() == 0)
			log_write(LOG_LEVEL_WARNING, "sandbox: the machine runs as root: name a user of its own by \"sandbox\"");
		return 0;
	}
	if (geteuid() == c->uid && getegid() == c->gid)
		return 0;
	if (setgroups(0, NULL) || setresgid(c->gid, c->gid, c->gid) || setresuid(c->uid, c->uid, c->uid))
		return error_set(err, errno, "the machine cannot run as user %u, group %u: %s", c->uid, c->gid, strerror(errno));
	return 0;
}

/* --- Landlock ---------------------------------------------------------------------------------------------- */

/* Linux Documentation/userspace-api/landlock.rst. The headers of Debian 12 know less. */
struct landlock_rules {
	uint64_t file_access, network_access, scopes;
};
_Static_assert(sizeof(struct landlock_rules) == 24, "landlock_ruleset_attr of ABI 6 is a wire layout");

static struct landlock_rules landlock_everything(long abi, size_t *size)
{
	/* How many rights on files each ABI knows. */
	static const unsigned rights[] = {0, 13, 14, 15, 15, 16};
	struct landlock_rules rules = {.file_access = (1ull << rights[abi > 5 ? 5 : abi]) - 1};

	if (abi >= 4)
		rules.network_access = 3; /* TCP: bind and connect */
	if (abi >= 6)
		rules.scopes = 3; /* abstract Unix sockets, signals */
	*size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
	return rules;
}

/* No file can be opened, whatever its name and by whatever way, io_uring too. What is open stays. */
static int refuse_files(void)
{
	enum { VERSION = 1 };
	struct landlock_rules everything;
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, VERSION);
	_cleanup_close_ int fd = -1;
	size_t size;

	if (abi < 1)
		return -errno;
	everything = landlock_everything(abi, &size);
	fd = (int)syscall(SYS_landlock_create_ruleset, &everything, size, 0);
	return fd >= 0 && syscall(SYS_landlock_restrict_self, fd, 0) == 0 ? 0 : -errno;
}

/* --- all of it --------------------------------------------------------------------------------------------- */

int sandbox_enter(const struct sandbox_config *config, struct error *err)
{
	bool own_files, empty;
	int r;

	if (program_is_instrumented())
		return 0;
	r = check_alone(err);
	if (!r)
		r = set_limit(RLIMIT_NOFILE, DESCRIPTORS_MAX, err);
	if (!r)
		r = set_limit(RLIMIT_CORE, 0, err);
	if (!r)
		r = limit_memory(config, err);
	if (r)
		return r;
	own_files = leave_namespaces();
	empty = own_files && !empty_root();
	if (own_files && !empty)
		missing("the root directory is not empty", errno);
	drop_bounding_set();
	r = change_user(config, err);
	/* They are counted by user, so this takes one that nobody else is. */
	if (!r && config->has_user)
		r = set_limit(RLIMIT_NPROC, THREADS_MAX, err);
	if (!r)
		r = privileges_drop(err);
	if (!r && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)))
		r = error_set(err, errno, "sandbox: %s", strerror(errno));
	/* A change of user forgets it. */
	if (!r && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		r = error_set(err, errno, "sandbox: %s", strerror(errno));
	if (r)
		return r;
	r = refuse_files();
	if (r && !empty)
		missing("files can be opened by name as far as the user's rights go; Landlock", -r);
	return sandbox_filter_enter(config->kvm, err);
}
