/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "machine/boot.h"

int boot_file_open(struct boot_file *file, const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd < 0 ? error_set(err, errno, "cannot open %s: %s", path, strerror(errno)) : boot_file_take(file, fd, path, err);
}

int boot_file_take(struct boot_file *file, int fd, const char *path, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(err, EINVAL,
				 "%s is not a regular file: give the path of a kernel or initrd file", path);
	}
	*file = (struct boot_file){.name = path, .fd = fd, .size = (uint64_t)st.st_size};
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	if (!file->bytes && file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

static int read_fd(const struct boot_file *file, uint64_t offset, uint8_t *buffer, uint64_t size,
		   struct error *err)
{
	while (size) {
		ssize_t n = pread(file->fd, buffer, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, EIO, "cannot read %s: %s", file->name, strerror(errno));
		if (n == 0)
			return error_set(err, EIO, "%s became shorter while it was read: start again",
					 file->name);
		buffer += n;
		offset += (uint64_t)n;
		size -= (uint64_t)n;
	}
	return 0;
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *buffer, uint64_t size,
		   struct error *err)
{
	if (!range_fits_u64(offset, size, file->size))
		return error_set(err, EIO,
				 "%s is cut short: it has %llu bytes and should have %llu; copy it again "
				 "from where it came",
				 file->name, (unsigned long long)file->size,
				 (unsigned long long)(offset + size));
	if (!file->bytes)
		return read_fd(file, offset, buffer, size, err);
	memcpy(buffer, (const uint8_t *)file->bytes + offset, size);
	return 0;
}

int boot_file_load(const struct boot_file *file, uint64_t offset, const struct boot_target *target, gpa_t gpa,
		   uint64_t size, struct error *err)
{
	void *memory;
	int code;

	if (!size)
		return 0;
	memory = range_fits_u64(gpa, size, target->low_memory)
		     ? partition_memory(target->partition, gpa, size)
		     : NULL;
	if (!memory)
		return error_set(
		    err, ENOMEM,
		    "%s does not fit into the guest's memory: give the machine more than %llu MiB",
		    file->name, (unsigned long long)(target->memory >> 20));
	code = boot_file_read(file, offset, memory, size, err);
	partition_memory_written(target->partition, gpa, size);
	return code;
}

void boot_flat_registers(struct vp_registers *registers, bool code64)
{
	const struct vp_segment data = {
	    .limit = UINT32_MAX, .selector = BOOT_SELECTOR_DATA, .attributes = 0xc093};

	*registers = (struct vp_registers){
	    .rflags = 2,
	    .es = data,
	    .ss = data,
	    .ds = data,
	    .fs = data,
	    .gs = data,
	    .cs = {.limit = UINT32_MAX,
		   .selector = BOOT_SELECTOR_CODE,
		   .attributes = code64 ? 0xa09b : 0xc09b},
	    .ldtr = {.limit = 0xffff, .attributes = 0x0082},
	    .tr = {.limit = 0xffff, .attributes = 0x008b},
	    .cr0 = 0x31, /* PE, ET, NE */
	};
}
