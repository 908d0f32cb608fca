// SPDX-License-Identifier: GPL-2.0-or-later
/* native_memory.c - executable memory, written through another mapping. */
#include "hypervisor/soft/native_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

int native_memory_file(const char *name, size_t size)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = (int)syscall(SYS_memfd_create, name, flags | MFD_EXEC);

	/* Kernels before 6.3 do not know MFD_EXEC; there every memfd may be executed. */
	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_memfd_create, name, flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
		int code = errno;

		close(fd);
		return -code;
	}
	return fd;
}

static uint8_t *map(int fd, uint64_t offset, size_t size, int protection)
{
	void *p = mmap(NULL, size, protection, MAP_SHARED, fd, (off_t)offset);

	return p == MAP_FAILED ? NULL : p;
}

int native_memory_create(struct native_memory *m, int file, uint64_t offset, const char *name, size_t size)
{
	_cleanup_close_ int own = file < 0 ? native_memory_file(name, size) : -1;
	int fd = file < 0 ? own : file;

	*m = (struct native_memory){.size = size};
	if (fd < 0)
		return fd;
	/* What whoever had it before has left goes. */
	if (fd == file && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size))
		return -errno;
	if (fd != file)
		offset = 0;
	m->writable = map(fd, offset, size, PROT_READ | PROT_WRITE);
	m->executable = m->writable ? map(fd, offset, size, PROT_READ | PROT_EXEC) : NULL;
	if (!m->executable) {
		int r = -errno;

		native_memory_destroy(m);
		return r;
	}
	return 0;
}

void native_memory_destroy(struct native_memory *m)
{
	if (m->writable)
		munmap(m->writable, m->size);
	if (m->executable)
		munmap(m->executable, m->size);
	*m = (struct native_memory){0};
}
