/* SPDX-License-Identifier: GPL-2.0-or-later */
/* processor.c - joins KVM to a partition: options, life of the VM and its VPs, the table of operations. */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Below 4 GiB and above all RAM and devices: three pages and one that VMX wants in the guest's address space.
 */
#define IDENTITY_MAP 0xfffbc000ull
#define TSS_PAGES    0xfffbd000ull

#define MSR_MISC_ENABLE  0x1a0
#define MSR_MTRR_DEFAULT 0x2ff

/* --- options -------------------------------------------------------------------------------------- */

struct options {
	char hyperv[8];
	bool any_hardware;
};

static int parse_option(struct options *o, const char *option, struct error *err)
{
	if (!strcmp(option, "hyperv=auto") || !strcmp(option, "hyperv=kernel") ||
	    !strcmp(option, "hyperv=own")) {
		snprintf(o->hyperv, sizeof(o->hyperv), "%s", option + strlen("hyperv="));
		return 0;
	}
	if (!strcmp(option, "hardware=any") || !strcmp(option, "hardware=required")) {
		o->any_hardware = !strcmp(option, "hardware=any");
		return 0;
	}
	return error_set(err, EINVAL,
			 "the hardware processor has no option \"%s\": there are hyperv=auto|kernel|own and "
			 "hardware=required|any",
			 option);
}

static int parse_options(struct options *o, const char *text, struct error *err)
{
	char copy[128], *rest = copy, *option;
	int r = 0;

	*o = (struct options){.hyperv = "auto"};
	if (!text)
		return 0;
	if (strlen(text) >= sizeof(copy))
		return error_set(err, EINVAL,
				 "the options of the hardware processor are too long: \"%.60s…\"", text);
	snprintf(copy, sizeof(copy), "%s", text);
	while (!r && (option = strsep(&rest, ",")))
		r = parse_option(o, option, err);
	return r;
}

/* --- kicks ---------------------------------------------------------------------------------------- */

/* Only there to interrupt KVM_RUN; which one is taken is nobody else's business in this process. */
static int kick_signal(void)
{
	return SIGRTMIN + 1;
}

static void on_kick(int signal)
{
	(void)signal;
}

static void kvm_notify(struct vp *vp)
{
	(void)vp; /* the kernel's local APIC has woken it */
}

static void kvm_kick(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);

	atomic_store(&k->kicked, true);
	__atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (vp->thread_started)
		pthread_kill(vp->thread, kick_signal());
}

/* --- life ----------------------------------------------------------------------------------------- */

static void kvm_destroy(struct partition *p)
{
	struct kvm_machine *m = kvm_of(p);

	if (!m)
		return;
	for (unsigned i = 0; i < PARTITION_MAX_VPS; i++) {
		struct kvm_vp *k = &m->vps[i];

		if (k->run)
			munmap(k->run, m->run_size);
		if (k->stats >= 0)
			close(k->stats);
		if (k->fd >= 0)
			close(k->fd);
	}
	for (unsigned i = 0; i < PARTITION_MAX_REGIONS; i++)
		free(m->dirty[i]);
	if (m->vm >= 0)
		close(m->vm);
	if (m->device >= 0)
		close(m->device);
	pthread_mutex_destroy(&m->route_lock);
	free(m->offered);
	free(m->hyperv);
	free(m);
	p->processor_state = NULL;
}

static int enable(int fd, uint32_t capability, uint64_t argument)
{
	struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &cap);
}

static int create_vm(struct kvm_machine *m, struct error *err)
{
	uint64_t identity_map = IDENTITY_MAP;
	int r = kvm_ioctl(m->device, KVM_CREATE_VM, NULL);

	if (r < 0)
		return error_set(err, -r, "KVM does not create a virtual machine: %s", strerror(-r));
	m->vm = r;
	/* Needed on VMX, and harmless elsewhere. */
	r = kvm_ioctl(m->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (!r)
		r = ioctl(m->vm, KVM_SET_TSS_ADDR, TSS_PAGES) < 0 ? -errno : 0;
	if (!r)
		r = enable(m->vm, KVM_CAP_SPLIT_IRQCHIP, KVM_LEVEL_ROUTES);
	if (!r)
		r = enable(m->vm, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
	/* LINT0 begins masked, as on hardware: there is no 8259 behind it. */
	if (!r)
		r = enable(m->vm, KVM_CAP_DISABLE_QUIRKS, KVM_X86_QUIRK_LINT0_REENABLED);
	if (r)
		return error_set(err, -r, "KVM does not set up a virtual machine: %s", strerror(-r));
	/* Written pages: forgotten when we say so. Older kernels forget when they are asked; we tell both
	 * alike. */
	enable(m->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	return 0;
}

static int find_exits(struct kvm_vp *k)
{
	struct kvm_stats_header header;
	size_t size;

	k->stats = ioctl(k->fd, KVM_GET_STATS_FD, NULL);
	if (k->stats < 0 || fcntl(k->stats, F_SETFD, FD_CLOEXEC) ||
	    pread(k->stats, &header, sizeof(header), 0) != sizeof(header) || header.name_size > 256)
		return -ENOENT;
	size = sizeof(struct kvm_stats_desc) + header.name_size;
	for (uint32_t i = 0; i < header.num_desc; i++) {
		_Alignas(struct kvm_stats_desc) char buffer[sizeof(struct kvm_stats_desc) + 257] = {0};
		const struct kvm_stats_desc *desc = (void *)buffer;

		if (pread(k->stats, buffer, size, header.desc_offset + (off_t)(i * size)) != (ssize_t)size)
			return -ENOENT;
		if (!strcmp(desc->name, "exits")) {
			k->exits_at = header.data_offset + desc->offset;
			return 0;
		}
	}
	return -ENOENT;
}

static int create_vp(struct vp *vp, struct error *err)
{
	struct kvm_machine *m = kvm_of(vp->partition);
	struct kvm_vp *k = kvm_vp_of(vp);
	void *run;
	int r = ioctl(m->vm, KVM_CREATE_VCPU, (unsigned long)vp->index);

	if (r < 0)
		return error_set(err, errno, "KVM does not create virtual processor %u: %s%s", vp->index,
				 strerror(errno),
				 errno == EMFILE ? ": raise the limit on open files (ulimit -n)" : "");
	k->fd = r;
	run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (run == MAP_FAILED)
		return error_set(err, errno, "virtual processor %u cannot be mapped: %s", vp->index,
				 strerror(errno));
	k->run = run;
	k->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	/* Where the kernel counts exits (5.14): without it there is no count. */
	if (find_exits(k) && k->stats >= 0) {
		close(k->stats);
		k->stats = -1;
	}
	/* As firmware leaves it: string instructions fast, memory write-back. */
	kvm_set_msr(k, MSR_MISC_ENABLE, 1);
	kvm_set_msr(k, MSR_MTRR_DEFAULT, 0x806);
	return kvm_hyperv_prepare_vp(vp, err);
}

static int set_up(struct partition *p, const struct options *options, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	int r = kvm_probe(&m->device, p->config.host, options->any_hardware, err);

	if (r)
		return r;
	m->run_size = (size_t)ioctl(m->device, KVM_GET_VCPU_MMAP_SIZE, NULL);
	r = kvm_hyperv_choose(m, options->hyperv, err);
	if (!r)
		r = kvm_cpuid_offered(m, err);
	if (!r)
		r = create_vm(m, err);
	if (!r)
		r = kvm_hyperv_prepare(p, err);
	for (unsigned i = 0; i < p->config.vp_count && !r; i++)
		r = create_vp(&p->vps[i], err);
	return r ? r : kvm_time_init(p, err);
}

static int kvm_create(struct partition *p, const char *text, struct error *err)
{
	struct sigaction action = {.sa_handler = on_kick};
	struct options options;
	struct kvm_machine *m;
	int r = parse_options(&options, text, err);

	if (r)
		return r;
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, ENOMEM, "no memory for the hardware processor");
	m->device = m->vm = -1;
	for (unsigned i = 0; i < PARTITION_MAX_VPS; i++)
		m->vps[i].fd = m->vps[i].stats = -1;
	pthread_mutex_init(&m->route_lock, NULL);
	p->processor_state = m;
	sigaction(kick_signal(), &action, NULL);
	r = set_up(p, &options, err);
	if (r)
		kvm_destroy(p);
	return r;
}

int kvm_prepare(struct partition *p, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	int r;

	if (m->prepared)
		return 0;
	m->prepared = true;
	r = kvm_map_memory(p, err);
	for (unsigned i = 0; i < p->config.vp_count && !r; i++)
		r = kvm_cpuid_apply(&p->vps[i], err);
	return r;
}

static int kvm_start(struct partition *p, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	int r = kvm_prepare(p, err);

	if (r || !m->loaded)
		return r;
	kvm_time_load(p);
	/* In terms of the TSC, so only now. */
	for (unsigned i = 0; i < p->config.vp_count; i++)
		if (m->vps[i].loaded_deadline)
			kvm_set_msr(&m->vps[i], APIC_MSR_TSC_DEADLINE, m->vps[i].loaded_deadline);
	return 0;
}

/* --- the rest of the table ------------------------------------------------------------------------ */

static void kvm_init_vp(struct vp *vp)
{
	(void)vp; /* INIT and SIPI are the kernel's */
}

static void kvm_sipi(struct vp *vp, uint8_t vector)
{
	(void)vp;
	(void)vector;
}

static bool kvm_interruptible(struct vp *vp)
{
	(void)vp;
	return true; /* halts are the kernel's */
}

static uint64_t kvm_instructions(struct vp *vp)
{
	(void)vp;
	return 0;
}

static uint64_t kvm_exits(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	uint64_t value = 0;

	if (k->stats < 0 || pread(k->stats, &value, sizeof(value), (off_t)k->exits_at) != sizeof(value))
		return 0;
	return value;
}

static void kvm_memory_written(struct partition *p, gpa_t gpa, uint64_t size)
{
	(void)p; /* hardware keeps its caches of instructions coherent */
	(void)gpa;
	(void)size;
}

static void kvm_traits(struct partition *p, struct processor_traits *t)
{
	const struct kvm_machine *m = kvm_of(p);

	*t = (struct processor_traits){.x2apic = true,
				       .tsc_deadline = true,
				       .own_apic = true,
				       .no_auto_eoi = true,
				       .tsc_unstable = !m->tsc_stable,
				       .own_reference_page = m->kernel_hyperv,
				       .tsc_frequency = m->tsc_khz * 1000,
				       .apic_frequency = APIC_TIMER_HZ,
				       .physical_bits = m->physical_bits};
}

const struct processor_ops processor_kvm = {
    .name = "kvm",
    .create = kvm_create,
    .destroy = kvm_destroy,
    .start = kvm_start,
    .run = kvm_vp_run,
    .init = kvm_init_vp,
    .sipi = kvm_sipi,
    .interruptible = kvm_interruptible,
    .get_registers = kvm_get_registers,
    .set_registers = kvm_set_registers,
    .instructions = kvm_instructions,
    .exits = kvm_exits,
    .report = kvm_report,
    .notify = kvm_notify,
    .kick = kvm_kick,
    .memory_written = kvm_memory_written,
    .write_hypercall_page = kvm_write_hypercall_page,
    .traits = kvm_traits,
    .assert_interrupt = kvm_assert_interrupt,
    .request_interrupt = kvm_request_interrupt,
    .event_port = kvm_event_port,
    .hypervisor_leaf = kvm_hyperv_leaf,
    .counter_ns = kvm_counter_ns,
    .set_counter = kvm_set_counter,
    .sample_clock = kvm_sample_clock,
    .paused = kvm_time_pause,
    .resumed = kvm_time_resume,
    .save_vp = kvm_save_vp,
    .load_vp = kvm_load_vp,
    .set_tsc_frequency = kvm_set_tsc_frequency,
    .cpuid = kvm_cpuid_answer,
    .track_dirty = kvm_track_dirty,
    .fetch_dirty = kvm_fetch_dirty,
};
