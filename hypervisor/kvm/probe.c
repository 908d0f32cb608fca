/* SPDX-License-Identifier: GPL-2.0-or-later */
/* probe.c - whether this host can run guests in hardware, and if not, why and what to do. */
#include "hypervisor/kvm/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hypervisor/host.h"

#define DEVICE "/dev/kvm"

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
	int r;

	do {
		r = ioctl(fd, request, argument);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static bool has_vmx(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c >> 5 & 1;
}

static bool has_svm(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c >> 2 & 1;
}

/* What KVM must have; all of it is in Linux 5.10. */
static const struct {
	int capability;
	const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
    {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"},
    {KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
};

static int check_capabilities(int device, struct error *err)
{
	int version = kvm_ioctl(device, KVM_GET_API_VERSION, NULL);

	if (version != KVM_API_VERSION)
		return error_set(err, ENOTSUP,
				 DEVICE " speaks version %d of its interface, not %d: use --processor soft",
				 version, KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(device, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
			return error_set(
			    err, ENOTSUP,
			    "this host's KVM has no %s: use Linux 5.10 or later, or --processor soft",
			    needed[i].name);
	return 0;
}

static int open_failed(int error, bool hardware, struct error *err)
{
	const char *module = has_svm() ? "kvm_amd" : "kvm_intel";

	if ((error == ENOENT || error == ENODEV || error == ENXIO) && hardware)
		return error_set(
		    err, ENODEV,
		    "there is no " DEVICE
		    ": load the module (modprobe %s), enable virtualization in the firmware's setup, "
		    "or use --processor soft",
		    module);
	if (error == ENOENT || error == ENODEV || error == ENXIO)
		return error_set(
		    err, ENODEV,
		    "there is no " DEVICE
		    " and the processor of this host shows neither vmx nor svm: use --processor soft");
	if (error == EACCES || error == EPERM)
		return error_set(
		    err, EACCES,
		    "no permission for " DEVICE
		    ": become a member of the group kvm (adduser USER kvm, then log in anew), or use "
		    "--processor soft");
	return error_set(err, error, DEVICE " cannot be opened: %s", strerror(error));
}

int kvm_probe(int *device, const struct partition_host *host, bool any_hardware, struct error *err)
{
	bool hardware = has_vmx() || has_svm();
	int fd = host_kvm(host), r;

	if (fd < 0)
		return open_failed(errno, hardware, err);
	if (!hardware && !any_hardware) {
		close(fd);
		return error_set(
		    err, ENOTSUP,
		    "the processor of this host shows neither vmx nor svm, so " DEVICE
		    " would emulate every instruction: enable "
		    "virtualization (in a virtual machine: nested virtualization), or use --processor soft");
	}
	r = check_capabilities(fd, err);
	if (r) {
		close(fd);
		return r;
	}
	*device = fd;
	return 0;
}

int kvm_usable(const struct partition_host *host, struct error *err)
{
	int device, r = kvm_probe(&device, host, false, err);

	if (!r)
		close(device);
	return r;
}
