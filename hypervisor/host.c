/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hypervisor/host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>

#define NAME        "bulkhead-guest-memory"
#define KVM_DEVICE  "/dev/kvm"
#define CLOCKSOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"

/*
 * A file of huge pages where there are any: hardware then walks its tables a five-hundredth as often, and the guest
 * faults as rarely. Most hosts give none to a memfd (shmem_enabled is "never"), but they do to a tmpfs that asks for
 * them, and this one is seen by nobody else. It needs the right to mount; without it there are small pages.
 */
static int huge_file(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;

	if (fs < 0)
		return -1;
	/* Size 0 is no limit, as of a memfd. */
	if (!fsconfig(fs, FSCONFIG_SET_STRING, "huge", "within_size", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "size", "0", 0) && !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
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

static int memory_file(void)
{
	int fd = huge_file();

	return fd >= 0 ? fd : memfd_create(NAME, MFD_CLOEXEC);
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

int partition_host_open(struct partition_host **out, struct error *err)
{
	struct partition_host *host = calloc(1, sizeof(*host));

	if (!host)
		return error_set(err, ENOMEM, "no memory on the host for a partition");
	host->memory = memory_file();
	if (host->memory < 0) {
		int code = errno;

		free(host);
		return error_set(err, code, "guest memory cannot be created: %s", strerror(code));
	}
	host->kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	host->kvm_error = host->kvm < 0 ? errno : 0;
	host->tsc_trusted = kernel_trusts_tsc();
	*out = host;
	return 0;
}

void partition_host_close(struct partition_host *host)
{
	if (!host)
		return;
	close(host->memory);
	if (host->kvm >= 0)
		close(host->kvm);
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
	return ftruncate(host->memory, 0) ? -1 : fcntl(host->memory, F_DUPFD_CLOEXEC, 0);
}

bool host_trusts_tsc(const struct partition_host *host)
{
	return host ? host->tsc_trusted : kernel_trusts_tsc();
}
