/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/resources.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "vmms/metering.h"

#define CPU_WEIGHT_MAX 10000u /* Linux Documentation/admin-guide/cgroup-v2.rst */

static uint64_t number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

/* --- processors --------------------------------------------------------------------------------------- */

static uint64_t reserve_of(const json_t *config)
{
	return number(json_object_get(config, "limits"), "processor_reserve") * number(json_object_get(config, "processors"), "count");
}

/* One that is about to run has its share, too. */
static bool takes_part(const struct machine *machine)
{
	return machine->config && (machine->link || machine->state == MACHINE_STARTING);
}

int resources_check_reserve(const struct machine *machine, const json_t *config, struct error *err)
{
	uint64_t wanted = reserve_of(config), taken = 0, all = 100ull * (unsigned)get_nprocs();
	const struct vmms *vmms = machine->vmms;

	for (size_t i = 0; i < vmms->machine_count; i++)
		if (vmms->machines[i] != machine && takes_part(vmms->machines[i]))
			taken += reserve_of(vmms->machines[i]->config);
	if (!wanted || taken + wanted <= all)
		return 0;
	return error_set(err, EXFULL,
			 "machine \"%s\" reserves %llu.%02llu of the host's processors, of which %llu.%02llu are not reserved by machines that run: "
			 "lower limits.processor_reserve, its own or another's",
			 machine->name, (unsigned long long)(wanted / 100), (unsigned long long)(wanted % 100),
			 (unsigned long long)(taken < all ? (all - taken) / 100 : 0), (unsigned long long)(taken < all ? (all - taken) % 100 : 0));
}

static double share_of(const struct share *share, uint64_t rest, uint64_t weights)
{
	return (double)share->reserve + (double)rest * (double)share->weight / (double)weights;
}

void share_out(struct share *shares, size_t count, unsigned processors)
{
	uint64_t reserves = 0, weights = 0, rest;
	double most = 0;

	for (size_t i = 0; i < count; i++) {
		reserves += shares[i].reserve;
		weights += shares[i].weight;
		shares[i].result = (unsigned)shares[i].weight;
	}
	if (!reserves)
		return;
	rest = 100ull * processors > reserves ? 100ull * processors - reserves : 0;
	for (size_t i = 0; i < count; i++)
		if (share_of(&shares[i], rest, weights) > most)
			most = share_of(&shares[i], rest, weights);
	for (size_t i = 0; i < count; i++)
		shares[i].result = (unsigned)max_u64((uint64_t)(share_of(&shares[i], rest, weights) / most * CPU_WEIGHT_MAX), 1);
}

static void put_weight(const char *group, unsigned weight)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/cpu.weight", group) < 0)
		return;
	/* That there is no such controller has been told (limits.h). */
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && dprintf(fd, "%u\n", weight) < 0)
		log_write(LOG_LEVEL_WARNING, "%s: %s", path, strerror(errno));
}

void resources_weigh(struct vmms *vmms)
{
	struct share *shares = calloc(vmms->machine_count + 1, sizeof(*shares));
	bool reserved = false;
	size_t count = 0, at = 0;

	for (size_t i = 0; shares && i < vmms->machine_count; i++) {
		const json_t *config = vmms->machines[i]->config;

		if (!takes_part(vmms->machines[i]))
			continue;
		shares[count++] = (struct share){.weight = number(json_object_get(config, "limits"), "processor_weight"), .reserve = reserve_of(config)};
		reserved |= reserve_of(config) != 0;
	}
	if (!shares || (!reserved && !vmms->reserved)) {
		free(shares);
		return;
	}
	share_out(shares, count, (unsigned)get_nprocs());
	for (size_t i = 0; i < vmms->machine_count; i++) {
		const struct machine *machine = vmms->machines[i];

		if (!takes_part(machine))
			continue;
		if (machine->link && machine->cgroup)
			put_weight(machine->cgroup, shares[at].result);
		at++;
	}
	vmms->reserved = reserved;
	free(shares);
}

/* --- memory ------------------------------------------------------------------------------------------- */

/* What the machines that run have been promised and have not touched yet. */
static uint64_t promised(const struct machine *but)
{
	const struct vmms *vmms = but->vmms;
	uint64_t sum = 0;

	for (size_t i = 0; i < vmms->machine_count; i++) {
		const struct machine *machine = vmms->machines[i];
		uint64_t memory, resident;

		if (machine == but || !takes_part(machine))
			continue;
		memory = number(machine->config, "memory");
		resident = machine->link ? metering_resident(machine) : 0;
		sum += resident < memory ? memory - resident : 0;
	}
	return sum;
}

static int check_memory(const struct machine *machine, struct error *err)
{
	uint64_t memory = number(machine->config, "memory"), available = host_memory_available(), others;

	if (json_is_true(json_object_get(machine->vmms->config, "overcommit_memory")) || !available)
		return 0;
	others = promised(machine);
	if (others + memory <= available)
		return 0;
	return error_set(err, ENOBUFS,
			 "not enough memory: machine \"%s\" has %llu MiB, and of the host's are %llu MiB available, %llu MiB of which belong to "
			 "machines that run",
			 machine->name, (unsigned long long)(memory >> 20), (unsigned long long)(available >> 20),
			 (unsigned long long)(min_u64(others, available) >> 20));
}

int resources_check_start(const struct machine *machine, struct error *err)
{
	int r = check_memory(machine, err);

	return r ? r : resources_check_reserve(machine, machine->config, err);
}
