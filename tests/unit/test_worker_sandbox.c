/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest that has broken out of its machine would try: each in a process of its own that is in the sandbox, on the
 * loop's thread and on a virtual processor's. It must end by the sandbox, or be refused.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/bpf.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/thread.h"
#include "disk/disk.h"
#include "disk/rings.h"
#include "hypervisor/host.h"
#include "worker/sandbox.h"

#define NOBODY 1879048193u /* no user of this host has that number */
enum { REFUSED = 0, SUCCEEDED = 1, NOT_ENTERED = 2 };

/* What a machine is left here, and what it wants. */
#define MEMORY    (64u << 20)
#define ADDRESSES (256u << 20)
#define MUCH      (1u << 30)
#define PIECE     (16u << 20)

/* What is there to be attacked, made before the sandbox is entered. */
static struct {
	struct sockaddr_in tcp;
	struct sockaddr_un path;
	pid_t victim;
	struct io_uring ring;      /* any, which nobody has in there */
	struct io_uring disk_ring; /* as a disk's queue has it */
	unsigned last_operation;   /* that the kernel knows of a ring */
	char *page;
	int socket;    /* as the machine has of the manager's, */
	int pair;      /* or of whoever is connected */
	int read_only; /* a disk that others continue; whoever has a name for it could write it */
	int memory;    /* the guest's, PIECE bytes of it */
	char *mapped;  /* likewise */
	char file[64];
} target;

/* --- attacks: true when it did what it should not be able to -------------------------------------------- */

static bool opens(const char *path, int flags)
{
	return open(path, flags, 0600) >= 0;
}

static bool open_file(void)
{
	return opens("/etc/passwd", O_RDONLY);
}

static bool open_directory(void)
{
	return opens("/", O_RDONLY | O_DIRECTORY);
}

static bool create_file(void)
{
	return opens("/escaped", O_CREAT | O_WRONLY);
}

static bool open_kvm(void)
{
	return opens("/dev/kvm", O_RDWR);
}

static bool read_link(void)
{
	char text[64];

	return readlink("/proc/self/exe", text, sizeof(text)) >= 0;
}

static bool make_socket(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static bool make_local_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
}

static bool kill_process(void)
{
	return kill(target.victim, SIGKILL) == 0;
}

static bool kill_thread(void)
{
	return syscall(SYS_tgkill, target.victim, target.victim, SIGKILL) == 0;
}

static bool trace_process(void)
{
	return ptrace(PTRACE_ATTACH, target.victim, NULL, NULL) == 0;
}

static bool read_process(void)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {target.page, 1};

	return process_vm_readv(target.victim, &here, 1, &there, 1, 0) == 1;
}

static bool write_process(void)
{
	char byte = 0;
	struct iovec here = {&byte, 1}, there = {target.page, 1};

	return process_vm_writev(target.victim, &here, 1, &there, 1, 0) == 1;
}

/* What another machine has open. */
static bool steal_descriptor(void)
{
	int process = (int)syscall(SYS_pidfd_open, target.victim, 0);

	return process >= 0 && syscall(SYS_pidfd_getfd, process, 0, 0) >= 0;
}

static bool join_namespace(void)
{
	return setns((int)syscall(SYS_pidfd_open, target.victim, 0), CLONE_NEWNET) == 0;
}

/* Of a descriptor that was handed over. */
static bool reopen_for_writing(void)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", target.read_only);
	return opens(path, O_RDWR);
}

static bool open_by_handle(void)
{
	struct {
		struct file_handle handle;
		unsigned char bytes[MAX_HANDLE_SZ];
	} u = {.handle.handle_bytes = MAX_HANDLE_SZ};
	int mount_id;

	return !name_to_handle_at(target.read_only, "", &u.handle, &mount_id, AT_EMPTY_PATH) &&
	       open_by_handle_at(target.read_only, &u.handle, O_RDWR) >= 0;
}

static bool change_mode(void)
{
	return fchmod(target.read_only, 04777) == 0;
}

static bool change_owner(void)
{
	return fchown(target.read_only, geteuid(), getegid()) == 0;
}

static bool lease_file(void)
{
	return fcntl(target.read_only, F_SETLEASE, F_RDLCK) == 0;
}

/* Whoever owns a descriptor is sent its signals. */
static bool signal_by_descriptor(void)
{
	return fcntl(target.read_only, F_SETOWN, target.victim) == 0;
}

static bool make_interface(void)
{
	struct ifreq request = {.ifr_name = "escaped", .ifr_flags = IFF_TAP | IFF_NO_PI};

	return ioctl(target.read_only, TUNSETIFF, &request) == 0;
}

static bool keep_interface(void)
{
	return ioctl(target.read_only, TUNSETPERSIST, 1) == 0;
}

static bool execute(void)
{
	char name[] = "/bin/true", *argv[] = {name, NULL};

	return execve(name, argv, NULL) == 0;
}

static bool make_process(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid == 0)
		_exit(0);
	return pid > 0;
}

static bool make_process_newly(void)
{
	struct {
		uint64_t flags, rest[10];
	} arguments = {.flags = CLONE_NEWUSER};
	long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));

	if (pid == 0)
		_exit(0);
	return pid > 0;
}

static bool make_namespace(void)
{
	return unshare(CLONE_NEWUSER) == 0;
}

static bool load_bpf(void)
{
	union bpf_attr attribute = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};

	return syscall(SYS_bpf, BPF_MAP_CREATE, &attribute, sizeof(attribute)) >= 0;
}

static bool watch_performance(void)
{
	return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0) >= 0;
}

static bool handle_faults(void)
{
	return syscall(SYS_userfaultfd, 0) >= 0;
}

static bool add_key(void)
{
	return syscall(SYS_add_key, "user", "escaped", "x", 1, -3) >= 0;
}

static bool mount_something(void)
{
	return mount("none", "/", "tmpfs", 0, NULL) == 0;
}

static bool change_user(void)
{
	return syscall(SYS_setresuid, 0, 0, 0) == 0;
}

static bool raise_limit(void)
{
	struct rlimit limit = {1 << 20, 1 << 20};

	return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static bool many_descriptors(void)
{
	for (unsigned i = 0; i < 5000; i++)
		if (fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0) < 0)
			return false;
	return true;
}

static bool show_memory(void)
{
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

static bool ignore_sandbox(void)
{
	return signal(SIGSYS, SIG_IGN) != SIG_ERR;
}

static bool type_into_terminal(void)
{
	return ioctl(STDERR_FILENO, TIOCSTI, "x") == 0;
}

static bool map_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}

static bool map_shared_code(void)
{
	int fd = (int)syscall(SYS_memfd_create, "code", 0);

	return fd >= 0 && mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0) != MAP_FAILED;
}

static bool make_executable(void)
{
	return mprotect(target.page, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool make_executable_by_key(void)
{
	return syscall(SYS_pkey_mprotect, target.page, 4096, PROT_READ | PROT_EXEC, -1) == 0;
}

static bool map_system_v(void)
{
	return shmget(IPC_PRIVATE, 4096, 0600) >= 0;
}

static bool maps(int flags)
{
	for (size_t got = 0; got < MUCH; got += PIECE)
		if (mmap(NULL, PIECE, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
			return false;
	return true;
}

static bool map_much(void)
{
	return maps(MAP_PRIVATE | MAP_ANONYMOUS);
}

static bool map_much_shared(void)
{
	return maps(MAP_SHARED | MAP_ANONYMOUS);
}

/* A stack is not counted as data. */
static bool map_many_stacks(void)
{
	return maps(MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
}

/* What nobody can write is not counted, either, and what becomes writable not always: the kernel looks away where there is no room for as
 * many addresses once more. So that is the bound. */
static bool map_first_and_write_later(void)
{
	for (size_t got = 0; got < MUCH; got += PIECE) {
		void *piece = mmap(NULL, PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (piece == MAP_FAILED || mprotect(piece, PIECE, PROT_READ | PROT_WRITE))
			return false;
	}
	return true;
}

static bool extend_heap(void)
{
	return sbrk(2 * MEMORY) != (void *)-1;
}

static bool extend_mapping(void)
{
	return mremap(target.page, 4096, 2 * MEMORY, MREMAP_MAYMOVE) != MAP_FAILED;
}

/* Costs tables of the kernel. */
static bool map_again_and_again(void)
{
	for (size_t got = 0; got < MUCH; got += PIECE)
		if (mremap(target.mapped, 0, PIECE, MREMAP_MAYMOVE) == MAP_FAILED)
			return false;
	return true;
}

static bool make_memory_file(void)
{
	return syscall(SYS_memfd_create, "more", 0) >= 0;
}

static bool extend_guest_memory(void)
{
	(void)!ftruncate(target.memory, MUCH);
	return fallocate(target.memory, 0, 0, MUCH) == 0;
}

static bool write_behind_guest_memory(void)
{
	struct iovec piece = {target.mapped, PIECE};

	for (off_t at = PIECE; at < MUCH; at += PIECE)
		if (pwritev(target.memory, &piece, 1, at) != PIECE)
			return false;
	return true;
}

/* A ring makes system calls that no filter sees: where it cannot be restricted the other walls must hold. */
static int result_of(struct io_uring *ring)
{
	struct io_uring_cqe *done;
	int result;

	if (io_uring_submit(ring) < 0 || io_uring_wait_cqe(ring, &done))
		return -EIO;
	result = done->res;
	io_uring_cqe_seen(ring, done);
	return result;
}

static int ring_result(struct io_uring_sqe *entry)
{
	(void)entry;
	return result_of(&target.ring);
}

static void prepare_socket(struct io_uring_sqe *entry, int domain)
{
	io_uring_prep_rw(IORING_OP_NOP, entry, 0, NULL, 0, 0);
	entry->opcode = 45; /* IORING_OP_SOCKET, which liburing 2.3's kernels may lack */
	entry->fd = domain;
	entry->off = SOCK_STREAM;
}

static bool make_ring(void)
{
	struct io_uring ring;

	return io_uring_queue_init(4, &ring, 0) == 0;
}

static bool change_ring(void)
{
	int event = target.read_only;

	return syscall(SYS_io_uring_register, target.disk_ring.ring_fd, IORING_REGISTER_FILES, &event, 1) == 0;
}

/* Whatever the kernel knows of that is no disk's work, and a disk's in another way. */
static bool do_else_by_disk_ring(void)
{
	static const uint8_t own[] = {IORING_OP_NOP, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD};

	for (unsigned operation = 0; operation <= target.last_operation; operation++) {
		struct io_uring_sqe *entry = io_uring_get_sqe(&target.disk_ring);

		io_uring_prep_rw((int)operation, entry, -1, NULL, 0, 0);
		if (memchr(own, (int)operation, sizeof(own)))
			entry->flags = IOSQE_IO_LINK;
		if (result_of(&target.disk_ring) != -EACCES)
			return true;
	}
	return false;
}

/* With all that it takes: of a kind that the host's own services have, which no network namespace holds (AF_VSOCK), or of any. */
static bool make_socket_by_disk_ring(void)
{
	static const int domains[] = {AF_VSOCK, AF_UNIX, AF_INET};

	for (size_t i = 0; i < ARRAY_SIZE(domains); i++) {
		struct io_uring_sqe *entry = io_uring_get_sqe(&target.disk_ring);

		prepare_socket(entry, domains[i]);
		if (result_of(&target.disk_ring) >= 0)
			return true;
	}
	return false;
}

static bool open_by_disk_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.disk_ring);

	io_uring_prep_openat(entry, AT_FDCWD, "/", O_RDONLY, 0);
	return result_of(&target.disk_ring) >= 0;
}

/* A socket that is there, as that of an adapter's port or of the console. */
static bool connect_by_disk_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.disk_ring);

	io_uring_prep_connect(entry, target.socket, (const struct sockaddr *)&target.tcp, sizeof(target.tcp));
	return result_of(&target.disk_ring) == 0;
}

static bool send_by_disk_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.disk_ring);
	struct iovec one = {target.page, 1};
	struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};

	io_uring_prep_sendmsg(entry, target.pair, &message, 0);
	return result_of(&target.disk_ring) >= 0;
}

static bool open_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);

	io_uring_prep_openat(entry, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	return ring_result(entry) >= 0;
}

static bool create_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);

	io_uring_prep_openat(entry, AT_FDCWD, "/escaped", O_CREAT | O_WRONLY, 0600);
	return ring_result(entry) >= 0;
}

static bool reopen_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", target.read_only);
	io_uring_prep_openat(entry, AT_FDCWD, path, O_RDWR, 0);
	return ring_result(entry) >= 0;
}

static bool open_named_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);

	io_uring_prep_openat(entry, AT_FDCWD, target.file, O_RDWR, 0);
	return ring_result(entry) >= 0;
}

static bool remove_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);

	io_uring_prep_unlinkat(entry, AT_FDCWD, target.file, 0);
	return ring_result(entry) == 0;
}

static bool write_by_ring(void)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);

	io_uring_prep_write(entry, target.read_only, "escaped", 7, 0);
	return ring_result(entry) > 0;
}

static bool connects_by_ring(int domain, const void *address, socklen_t size)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&target.ring);
	int fd;

	prepare_socket(entry, domain);
	fd = ring_result(entry);
	if (fd < 0)
		return false;
	entry = io_uring_get_sqe(&target.ring);
	io_uring_prep_connect(entry, fd, address, size);
	return ring_result(entry) == 0;
}

static bool connect_by_ring(void)
{
	return connects_by_ring(AF_INET, &target.tcp, sizeof(target.tcp));
}

static bool connect_locally_by_ring(void)
{
	return connects_by_ring(AF_UNIX, &target.path, sizeof(target.path));
}

#define ATTACK(name) {#name, name, true}
#define REFUSED_WITHOUT_NAMESPACES false

static const struct attack {
	const char *name;
	bool (*run)(void);
	bool without_namespaces; /* refused on a host that gives none, too */
} attacks[] = {ATTACK(open_file), ATTACK(open_directory), ATTACK(create_file), ATTACK(open_kvm), ATTACK(read_link),
    ATTACK(make_socket), ATTACK(make_local_socket), ATTACK(kill_process), ATTACK(kill_thread), ATTACK(trace_process),
    ATTACK(read_process), ATTACK(write_process), ATTACK(steal_descriptor), ATTACK(join_namespace),
    ATTACK(reopen_for_writing), ATTACK(open_by_handle), ATTACK(change_mode), ATTACK(change_owner), ATTACK(lease_file),
    ATTACK(signal_by_descriptor), ATTACK(make_interface), ATTACK(keep_interface), ATTACK(execute), ATTACK(make_process), ATTACK(make_process_newly), ATTACK(make_namespace),
    ATTACK(load_bpf), ATTACK(watch_performance), ATTACK(handle_faults), ATTACK(add_key), ATTACK(mount_something),
    ATTACK(change_user), ATTACK(raise_limit), ATTACK(many_descriptors), ATTACK(show_memory), ATTACK(ignore_sandbox),
    ATTACK(type_into_terminal), ATTACK(map_code), ATTACK(map_shared_code), ATTACK(make_executable),
    ATTACK(make_executable_by_key), ATTACK(map_much), ATTACK(map_much_shared), ATTACK(map_many_stacks),
    ATTACK(map_first_and_write_later), ATTACK(extend_heap), ATTACK(extend_mapping), ATTACK(map_again_and_again), ATTACK(make_memory_file),
    ATTACK(extend_guest_memory), ATTACK(write_behind_guest_memory), ATTACK(map_system_v), ATTACK(make_ring), ATTACK(change_ring),
    ATTACK(do_else_by_disk_ring), ATTACK(make_socket_by_disk_ring), ATTACK(open_by_disk_ring), ATTACK(connect_by_disk_ring),
    ATTACK(send_by_disk_ring), ATTACK(open_by_ring), ATTACK(create_by_ring),
    ATTACK(reopen_by_ring), ATTACK(open_named_by_ring), ATTACK(remove_by_ring), ATTACK(write_by_ring), ATTACK(connect_by_ring), {"connect_locally_by_ring", connect_locally_by_ring, REFUSED_WITHOUT_NAMESPACES}};

/* --- the sandbox around them ------------------------------------------------------------------------------- */

static char directory[] = "/tmp/bulkhead-sandbox-XXXXXX";

/* What an attacker has open; a disk's ring is made by `make`. */
static bool open_own(int (*make)(struct io_uring *ring, unsigned depth))
{
	struct partition_host *host;
	struct io_uring_probe *known = io_uring_get_probe();
	int pair[2];

	if (!known || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) || partition_host_open(&host, PIECE, NULL))
		return false;
	target.memory = host->memory;
	target.mapped = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED, host->memory, 0);
	if (target.mapped == MAP_FAILED)
		return false;
	target.last_operation = known->last_op;
	io_uring_free_probe(known);
	target.pair = pair[0];
	target.socket = socket(AF_INET, SOCK_STREAM, 0);
	return target.socket >= 0 && !io_uring_queue_init(4, &target.ring, 0) && !make(&target.disk_ring, 4);
}

static void prepare_targets(void)
{
	socklen_t size = sizeof(target.tcp);
	int tcp = socket(AF_INET, SOCK_STREAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);

	target.tcp = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(bind(tcp, (struct sockaddr *)&target.tcp, sizeof(target.tcp)) || listen(tcp, 4), 0);
	assert_int_equal(getsockname(tcp, (struct sockaddr *)&target.tcp, &size), 0);
	target.path.sun_family = AF_UNIX;
	snprintf(target.path.sun_path, sizeof(target.path.sun_path), "%s/socket", directory);
	assert_int_equal(bind(local, (struct sockaddr *)&target.path, sizeof(target.path)) || listen(local, 4), 0);
	snprintf(target.file, sizeof(target.file), "%s/parent", directory);
	target.read_only = open(target.file, O_RDONLY | O_CREAT | O_EXCL, 0600);
	assert_true(target.read_only >= 0);
	/* Whoever the attacker is: the sandbox alone shall keep him away. */
	assert_int_equal(chmod(directory, 0777) || chmod(target.path.sun_path, 0777) || chmod(target.file, 0666), 0);
	target.page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	target.victim = fork();
	if (target.victim == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			pause();
	}
}

static int set_up(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(directory));
	prepare_targets();
	return 0;
}

static int tear_down(void **state)
{
	struct stat st;
	int status;

	(void)state;
	/* It is there to the end. */
	assert_int_equal(waitpid(target.victim, &status, WNOHANG), 0);
	kill(target.victim, SIGKILL);
	waitpid(target.victim, &status, 0);
	unlink(target.path.sun_path);
	/* Nobody has had it, either. */
	assert_int_equal(stat(target.file, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(st.st_mode & 07777, 0666);
	unlink(target.file);
	rmdir(directory);
	return 0;
}

enum host { HOST_WHOLE, HOST_WITHOUT_NAMESPACES };

/* A host that refuses namespaces and mounts, as containers and some distributions do. */
static void refuse_namespaces(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

	if (!filter || seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 0) ||
	    seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(mount), 0) || seccomp_load(filter))
		_exit(NOT_ENTERED);
	seccomp_release(filter);
}

/* A thread of another kind attacks. */
struct deputy {
	const struct attack *attack;
	bool succeeded;
};

static void *attack_on_vp(void *context)
{
	struct deputy *d = context;

	thread_begin(THREAD_VP, "vp/0");
	d->succeeded = d->attack->run();
	return NULL;
}

static bool attack_now(const struct attack *attack, bool on_vp)
{
	struct deputy deputy = {.attack = attack};
	pthread_t thread;

	if (!on_vp)
		return attack->run();
	if (pthread_create(&thread, NULL, attack_on_vp, &deputy) || pthread_join(thread, NULL))
		_exit(NOT_ENTERED);
	return deputy.succeeded;
}

static void enter_and_attack(const struct attack *attack, const struct sandbox_config *config, bool on_vp)
{
	struct error err = {0};

	if (!open_own(ring_create_restricted) || sandbox_enter(config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		_exit(NOT_ENTERED);
	}
	_exit(attack_now(attack, on_vp) ? SUCCEEDED : REFUSED);
}

/* As keeper.c does it: a process that prepares, and one inside. */
static int attempt(const struct attack *attack, const struct sandbox_config *config, uid_t uid, enum host host, bool on_vp)
{
	pid_t keeper = fork(), machine;
	int status;

	if (keeper == 0) {
		/* What is told of a host that refuses this or that is not for the test's reader. */
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		if (uid != geteuid() && (setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
			_exit(NOT_ENTERED);
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* lost with the change; a program that is started has it */
		if (host == HOST_WITHOUT_NAMESPACES)
			refuse_namespaces();
		sandbox_prepare();
		machine = fork();
		if (machine == 0)
			enter_and_attack(attack, config, on_vp);
		waitpid(machine, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	waitpid(keeper, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void attack_all(const struct sandbox_config *config, uid_t uid, enum host host)
{
	unsigned stopped = 0;

	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++) {
		const struct attack *a = &attacks[i];

		for (unsigned on_vp = 0; on_vp < 2; on_vp++) {
			int result;

			if (host == HOST_WITHOUT_NAMESPACES && !a->without_namespaces)
				continue;
			result = attempt(a, config, uid, host, on_vp);
			if (result != REFUSED && result != SANDBOX_EXIT)
				fail_msg("%s, on %s thread: %d", a->name, on_vp ? "a virtual processor's" : "the first", result);
			stopped += result == SANDBOX_EXIT;
		}
	}
	/* Most of them end the process: they are no mistakes. */
	assert_true(stopped > ARRAY_SIZE(attacks));
}

static void need_root(void)
{
	if (geteuid() != 0)
		skip();
}

static void test_as_root_with_a_user(void **state)
{
	(void)state;
	need_root();
	attack_all(&(struct sandbox_config){.has_user = true, .uid = NOBODY, .gid = NOBODY, .memory = MEMORY, .addresses = ADDRESSES}, 0, HOST_WHOLE);
}

static void test_as_root_without_a_user(void **state)
{
	(void)state;
	need_root();
	attack_all(&(struct sandbox_config){.has_user = false, .memory = MEMORY, .addresses = ADDRESSES}, 0, HOST_WHOLE);
}

/* Some distributions let nobody but root have one. */
static bool has_user_namespaces(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit((geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY)) || unshare(CLONE_NEWUSER));
	waitpid(pid, &status, 0);
	return status == 0;
}

static void test_as_anyone(void **state)
{
	(void)state;
	if (!has_user_namespaces())
		skip();
	attack_all(&(struct sandbox_config){.has_user = false, .memory = MEMORY, .addresses = ADDRESSES}, geteuid() ? geteuid() : NOBODY, HOST_WHOLE);
}

/* What is left there is Landlock, of Linux 6.7 or later. */
static void test_where_namespaces_are_refused(void **state)
{
	enum { ASK_VERSION = 1, WITH_NETWORK = 4 };

	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION) < WITH_NETWORK)
		skip();
	attack_all(&(struct sandbox_config){.has_user = false, .memory = MEMORY, .addresses = ADDRESSES}, geteuid() ? geteuid() : NOBODY, HOST_WITHOUT_NAMESPACES);
}

/* The attacks do what they say where nothing stops them, or the test would not show anything. */
static void test_attacks_succeed_outside(void **state)
{
	static bool (*const sure[])(void) = {open_file, open_directory, make_socket, make_local_socket, make_process,
	    map_code, map_shared_code, make_executable, map_much, map_much_shared, map_many_stacks, map_first_and_write_later, extend_heap,
	    extend_mapping, map_again_and_again, make_memory_file, many_descriptors, show_memory, ignore_sandbox, open_by_ring,
	    connect_by_ring, connect_locally_by_ring, read_process, write_process, steal_descriptor, kill_thread, reopen_for_writing,
	    reopen_by_ring, make_ring, change_ring, do_else_by_disk_ring,
	    make_socket_by_disk_ring, open_by_disk_ring, connect_by_disk_ring, send_by_disk_ring,
	    open_named_by_ring, signal_by_descriptor, change_owner, lease_file};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sure); i++) {
		pid_t victim = target.victim, pid;
		int status;

		target.victim = fork();
		if (target.victim == 0)
			for (;;)
				pause();
		pid = fork();
		if (pid == 0) {
			struct rlimit limit = {8192, 8192};

			setrlimit(RLIMIT_NOFILE, &limit);
			/* A disk's ring is as any here. */
			if (!open_own(ring_create))
				_exit(NOT_ENTERED);
			_exit(sure[i]() ? SUCCEEDED : REFUSED);
		}
		waitpid(pid, &status, 0);
		kill(target.victim, SIGKILL);
		waitpid(target.victim, NULL, 0);
		target.victim = victim;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != SUCCEEDED)
			fail_msg("attack %zu fails outside of the sandbox, by 0x%x", i, (unsigned)status);
	}
}

/* --- checkpoints, whose files somebody outside opens and names ------------------------------------------------ */

enum { DISK, FIRST, SECOND, FILES };

static char *place(unsigned number, const char *more)
{
	static const char *const names[FILES] = {"disk.vhdx", "first.avhdx", "second.avhdx"};
	char *path;

	assert_true(asprintf(&path, "%s/%s%s", directory, names[number], more) > 0);
	return path;
}

static int open_place(unsigned number, const char *more, int flags)
{
	char *path = place(number, more);
	int fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);

	assert_true(fd >= 0);
	free(path);
	return fd;
}

static void say(struct disk *disk, uint64_t at, const char *word)
{
	struct error err = {0};

	if (disk_write(disk, at, word, strlen(word) + 1, &err) || disk_flush(disk, &err))
		_exit(NOT_ENTERED);
}

/* Two checkpoints, both taken back. All that needs a name has been done before. */
static void split_and_merge(struct disk *disk, const struct disk_split_files *splits, const struct disk_merge_files *merges)
{
	const struct sandbox_config config = {.has_user = false};
	struct error err = {0};

	if (sandbox_enter(&config, &err))
		_exit(NOT_ENTERED);
	for (unsigned i = 0; i < 2; i++) {
		if (disk_split_files(disk, &splits[i], &err)) {
			fprintf(stderr, "%s\n", err.text);
			_exit(REFUSED);
		}
		say(disk, (i + 1) * 65536, i ? "second" : "first");
	}
	for (unsigned i = 0; i < 2; i++)
		if (disk_merge_files(disk, &merges[i], NULL, &err)) {
			fprintf(stderr, "%s\n", err.text);
			_exit(REFUSED);
		}
	say(disk, 3 * 65536, "after");
	/* Its record cannot take the place of the one before: that is said, and it is as after a crash. */
	_exit(disk_close(disk, &err) == 0 ? SUCCEEDED : REFUSED);
}

static void checkpoints_in_sandbox(void)
{
	char *names[FILES];
	struct disk_split_files splits[2];
	struct disk_merge_files merges[2];
	struct error err = {0};
	struct disk *disk;

	for (unsigned i = 0; i < FILES; i++)
		names[i] = place(i, "");
	if (disk_open(&disk, names[DISK], NULL, &err) || disk_track_add(disk, "backup", &err))
		_exit(NOT_ENTERED);
	for (unsigned i = 0; i < 2; i++)
		splits[i] = (struct disk_split_files){.child = open_place(FIRST + i, "", O_CREAT), .child_name = names[FIRST + i],
		    .parent_name = names[i], .record = open_place(FIRST + i, ".cbt", O_CREAT)};
	merges[0] = (struct disk_merge_files){.child = open_place(FIRST, "", 0), .parent = open_place(DISK, "", 0),
	    .above = open_place(SECOND, "", 0), .above_name = names[SECOND], .parent_name = names[DISK], .record = -1};
	/* The disk has descriptors of its own for these. */
	merges[1] = (struct disk_merge_files){.child = -1, .parent = -1, .above = -1, .record = open_place(DISK, ".new", O_CREAT)};
	split_and_merge(disk, splits, merges);
}

static void must_say(struct disk *disk, uint64_t at, const char *word)
{
	char text[8] = "";

	assert_int_equal(disk_read(disk, at, text, sizeof(text), NULL), 0);
	assert_string_equal(text, word);
}

static void test_checkpoints(void **state)
{
	const struct disk_create_options options = {.format = DISK_FORMAT_VHDX, .size = 4 << 20};
	char *names[FILES], *record = place(DISK, ".cbt"), *new_record = place(DISK, ".new");
	struct disk_track_point *points;
	struct error err = {0};
	struct disk *disk;
	pid_t pid;
	int status;

	(void)state;
	for (unsigned i = 0; i < FILES; i++)
		names[i] = place(i, "");
	assert_int_equal(disk_create(names[DISK], &options, &err), 0);
	pid = fork();
	if (pid == 0)
		checkpoints_in_sandbox();
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), SUCCEEDED);
	assert_int_equal(disk_is_void(names[DISK], &err), 0);
	assert_int_equal(rename(new_record, record), 0);
	assert_int_equal(disk_open(&disk, names[DISK], NULL, &err), 0);
	must_say(disk, 65536, "first");
	must_say(disk, 2 * 65536, "second");
	must_say(disk, 3 * 65536, "after");
	/* What changed since the point, of all three files. */
	assert_int_equal(disk_track_list(disk, &points, &err), 1);
	assert_true(points[0].changed >= 3 * 65536 && points[0].changed <= 1 << 20);
	free(points);
	assert_int_equal(disk_close(disk, &err), 0);
	assert_int_equal(disk_check(names[DISK], stderr, &err), 0);
	for (unsigned i = 0; i < FILES; i++) {
		char *of_file = place(i, ".cbt");

		assert_int_equal(disk_is_void(names[i], &err), i != DISK);
		assert_int_equal(i != DISK && disk_open(&disk, names[i], NULL, &err) != -ENODATA, 0);
		unlink(of_file);
		unlink(names[i]);
		free(of_file);
		free(names[i]);
	}
	free(record);
	free(new_record);
}

/* A user that cannot be had is an error, not a weaker sandbox. */
static void test_user_must_be_had(void **state)
{
	const struct sandbox_config config = {.has_user = true, .uid = NOBODY + 1, .gid = NOBODY};
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0) {
		struct error err = {0};

		if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY))
			_exit(NOT_ENTERED);
		_exit(sandbox_enter(&config, &err) == -EPERM && strstr(err.text, "cannot run as user") ? REFUSED : SUCCEEDED);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), REFUSED);
}

/* --- what it may take ----------------------------------------------------------------------------------------- */

static void *sleep_for_ever(void *context)
{
	pthread_mutex_lock(context);
	return NULL;
}

/* Whoever uses up the process ids of the host stops all others. */
static bool many_threads(void)
{
	static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;
	pthread_attr_t small;
	pthread_t thread;

	pthread_mutex_lock(&never);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (unsigned i = 0; i < 4200; i++)
		if (pthread_create(&thread, &small, sleep_for_ever, &never))
			return false;
	return true;
}

static void test_threads_are_not_without_end(void **state)
{
	/* Nobody else's: workers of other tests are counted by theirs. */
	const struct sandbox_config config = {.has_user = true, .uid = NOBODY + 2, .gid = NOBODY};
	const struct attack attack = ATTACK(many_threads);

	(void)state;
	need_root();
	assert_int_equal(attempt(&attack, &config, 0, HOST_WHOLE, false), REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_attacks_succeed_outside),
	    cmocka_unit_test(test_as_root_with_a_user), cmocka_unit_test(test_as_root_without_a_user),
	    cmocka_unit_test(test_as_anyone), cmocka_unit_test(test_where_namespaces_are_refused),
	    cmocka_unit_test(test_checkpoints), cmocka_unit_test(test_threads_are_not_without_end),
	    cmocka_unit_test(test_user_must_be_had)};

#ifdef SANITIZED
	puts("a sanitizer makes system calls of its own");
	return 77;
#endif
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
