// SPDX-License-Identifier: GPL-2.0-or-later
/* native_memory.c - executable memory, written through another mapping. */
#include "hypervisor/soft/native_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

static int memory_file(const char *name)
{
	int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_EXEC);

	/* Kernels before 6.3 do not know MFD_EXEC; there every memfd may be executed. */
	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC);
	return fd;
}

static uint8_t *map(int fd, size_t size, int protection)
{
	void *p = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

int native_memory_create(struct native_memory *m, const char *name, size_t size)
{
	_cleanup_close_ int fd = memory_file(name);

	*m = (struct native_memory){.size = size};
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return -errno;
	m->writable = map(fd, size, PROT_READ | PROT_WRITE);
	m->executable = m->writable ? map(fd, size, PROT_READ | PROT_EXEC) : NULL;
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
