/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hypervisor/host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "hypervisor/soft/soft.h"

#define NAME        "bulkhead-guest-memory"
#define HUGE_PAGE   (2ull << 20)
#define RESERVATION (512ull << 30)
#define FAULTS_MAX  128u /* processors, and threads of disks and adapters, that meet memory which is not there yet at one moment */
#define KVM_DEVICE  "/dev/kvm"
#define CLOCKSOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"

/*
 * A file of huge pages where there are any: hardware then walks its tables a five-hundredth as often, and the guest
 * faults as rarely. Most hosts give none to a memfd (shmem_enabled is "never"), but they do to a tmpfs that asks for
 * them, and this one is seen by nobody else. It needs the right to mount; without it there are small pages.
 */
static int huge_file(const char *limit)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;

	if (fs < 0)
		return -1;
	if (!fsconfig(fs, FSCONFIG_SET_STRING, "huge", "within_size", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "size", limit, 0) && !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (mount >= 0) {
		/* Under the name that a memfd has, for who looks at the process's mappings. */
		fd = openat(mount, NAME, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
		unlinkat(mount, NAME, 0);
		close(mount);
	}
	close(fs);
	return fd;
}

/* Of any size, which whoever maps it gives it. */
static int memory_file(void)
{
	/* Size 0 is no limit, as of a memfd. */
	int fd = huge_file("0");

	return fd >= 0 ? fd : memfd_create(NAME, MFD_CLOEXEC);
}

/* One that never takes more: the file system is full then, or the file is sealed. */
static int sized_file(uint64_t size)
{
	char limit[24];
	int fd;

	/* Until Linux 6.6 each fault counts a huge page before it looks whether somebody else has brought it, or whether there is one: when guest
	 * memory is nearly all there, many at a time would find the file system full, and end the machine. */
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)(align_up_u64(size, HUGE_PAGE) + FAULTS_MAX * HUGE_PAGE));
	fd = huge_file(limit);
	if (fd >= 0 && !ftruncate(fd, (off_t)size))
		return fd;
	if (fd >= 0)
		close(fd);
	fd = memfd_create(NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd >= 0 && !ftruncate(fd, (off_t)size) && !fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool kernel_trusts_tsc(void)
{
	FILE *f = fopen(CLOCKSOURCE, "re");
	char name[32] = "";

	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = '\0';
	fclose(f);
	return !strcmp(name, "tsc\n");
}

int partition_host_open(struct partition_host **out, uint64_t memory, struct error *err)
{
	struct partition_host *host = calloc(1, sizeof(*host));

	if (!host)
		return error_set(err, ENOMEM, "no memory on the host for a partition");
	host->kvm = host->code = -1;
	host->memory_size = align_up_u64(memory, GUEST_PAGE_SIZE);
	host->memory = sized_file(host->memory_size);
	if (host->memory >= 0)
		host->code = soft_code_file();
	if (host->code < 0) {
		int code = host->memory < 0 ? errno : -host->code;

		partition_host_close(host);
		return error_set(err, code, "guest memory cannot be created: %s", strerror(code));
	}
	host->kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	host->kvm_error = host->kvm < 0 ? errno : 0;
	host->tsc_trusted = kernel_trusts_tsc();
	*out = host;
	return 0;
}

static void close_file(int fd)
{
	if (fd >= 0)
		close(fd);
}

void partition_host_close(struct partition_host *host)
{
	if (!host)
		return;
	close_file(host->memory);
	close_file(host->code);
	close_file(host->kvm);
	free(host);
}

int host_kvm(const struct partition_host *host)
{
	if (!host)
		return open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	errno = host->kvm_error;
	return host->kvm < 0 ? -1 : fcntl(host->kvm, F_DUPFD_CLOEXEC, 0);
}

int host_memory(const struct partition_host *host)
{
	if (!host)
		return memory_file();
	/* What the partition before left in it goes. */
	if (fallocate(host->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)host->memory_size))
		return -1;
	return fcntl(host->memory, F_DUPFD_CLOEXEC, 0);
}

int host_memory_room(const struct partition_host *host, int memory, uint64_t size)
{
	if (!host)
		return ftruncate(memory, (off_t)size) ? -errno : 0;
	errno = ENOMEM;
	return size <= host->memory_size ? 0 : -ENOMEM;
}

uint64_t host_reservation(const struct partition_host *host, uint64_t memory_max)
{
	return host ? align_up_u64(host->memory_size, HUGE_PAGE) : max_u64(RESERVATION, align_up_u64(memory_max, HUGE_PAGE));
}

bool host_trusts_tsc(const struct partition_host *host)
{
	return host ? host->tsc_trusted : kernel_trusts_tsc();
}
