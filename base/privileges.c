/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/privileges.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef __has_feature
#define __has_feature(name) 0
#endif

int privileges_drop(struct error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none))
		return error_set(err, errno, "capabilities cannot be dropped: %s", strerror(errno));
	return 0;
}

static int keep(uint64_t kept)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
		if (!(kept >> capability & 1) && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
			return -errno;
	if (syscall(SYS_capget, &header, sets))
		return -errno;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		sets[i].permitted &= (uint32_t)(kept >> 32 * i);
		sets[i].effective &= (uint32_t)(kept >> 32 * i);
		sets[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, sets) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return 0;
}

int privileges_keep(const unsigned char *capabilities, size_t count, struct error *err)
{
	uint64_t kept = 0;
	int r;

	for (size_t i = 0; i < count; i++)
		kept |= 1ull << capabilities[i];
	r = keep(kept);
	return r ? error_set(err, -r, "capabilities cannot be dropped: %s", strerror(-r)) : 0;
}

bool program_is_instrumented(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
	return true;
#else
	return false;
#endif
}
