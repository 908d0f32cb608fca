/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine_power.c - what is asked of a machine that runs: to pause, to go on, to reset, to shut down, to be off.
 */
#include <errno.h>
#include <string.h>

#include "vmms/daemon.h"

#define ASK_AGAIN 5 /* seconds */

static void answered(struct machine *machine, const struct error *err, enum machine_state state)
{
	if (!machine->job)
		return;
	if (!err)
		machine_set_state(machine, state);
	job_end(machine->job, err);
}

static void paused(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!err && machine->job)
		vmms_event(machine->vmms, machine, "vm.paused", "its processors are held");
	answered(machine, err, MACHINE_PAUSED);
}

static void running(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!err && machine->job && machine->state == MACHINE_PAUSED)
		vmms_event(machine->vmms, machine, "vm.resumed", "it goes on");
	answered(machine, err, MACHINE_RUNNING);
}

static int command(struct machine *machine, unsigned states, const char *kind, const char *what, const char *verb,
    worker_answered on_answer, struct job **job, struct error *err)
{
	int r = machine_check_state(machine, states, what, err);

	if (!r)
		r = job_new(job, machine->vmms, machine, kind, err);
	if (!r)
		worker_link_command(machine->link, json_pack("{s:s}", "command", verb), on_answer, machine);
	return r;
}

int machine_pause(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_RUNNING, "vm.pause", "paused", "pause", paused, job, err);
}

int machine_resume(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_PAUSED, "vm.resume", "resumed", "resume", running, job, err);
}

int machine_reset(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED, "vm.reset", "reset", "reset", running, job, err);
}

/* Whether a machine is still at the job that asked for this answer, and the answer is a refusal; a job that has
 * ended, or was given up for another, is not its business. */
static bool refused(const struct machine *machine, const char *kind, const struct error *err)
{
	return err && err->code != ECONNRESET && machine->link && machine->job && !strcmp(machine->job->kind, kind);
}

/* The job ends with the worker; only a refusal ends it here. */
static void asked_to_shut_down(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!refused(machine, "vm.shut-down", err))
		return;
	machine_set_state(machine, MACHINE_RUNNING);
	job_end(machine->job, err);
}

/* A worker that does not listen is ended all the same. */
static void asked_to_turn_off(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (refused(machine, "vm.turn-off", err))
		worker_link_kill(machine->link);
}

/* Of the loop: the host's clock may be set meanwhile. */
static int64_t loop_now(const struct job *job)
{
	return (int64_t)uv_now(&job->vmms->loop);
}

static unsigned next_ask(const struct job *job)
{
	int64_t left = (job->deadline - loop_now(job) + 999) / 1000;

	return left <= 0 ? 0 : left < ASK_AGAIN ? (unsigned)left : ASK_AGAIN;
}

/* A guest that is still starting has nobody yet who listens: it is asked again until the time is over. */
static void shut_down_due(struct job *job)
{
	struct machine *machine = job->machine;
	struct error err;

	if (loop_now(job) < job->deadline) {
		worker_link_command(machine->link, json_pack("{s:s}", "command", "shutdown"), asked_to_shut_down,
				    machine);
		job_limit(job, next_ask(job), shut_down_due);
		return;
	}
	error_set(&err, ETIMEDOUT, "the guest did not shut down in time: it may have no integration service; bulkhead vm "
				   "turn-off cuts the power");
	if (machine->state == MACHINE_STOPPING)
		machine_set_state(machine, MACHINE_RUNNING);
	job_end(job, &err);
}

/* The guest has been asked, and may shut down all the same. */
static int give_up_waiting(struct job *job, struct error *err)
{
	struct machine *machine = job->machine;
	struct error why;

	(void)err;
	if (machine->state == MACHINE_STOPPING)
		machine_set_state(machine, MACHINE_RUNNING);
	error_set(&why, ECANCELED, "the guest was asked to shut down, and is not waited for any more");
	job_end(job, &why);
	return 0;
}

int machine_shut_down(struct machine *machine, unsigned seconds, struct job **job, struct error *err)
{
	int r = command(machine, 1u << MACHINE_RUNNING, "vm.shut-down", "shut down", "shutdown", asked_to_shut_down, job,
			err);

	if (!r && machine->job) {
		machine_set_state(machine, MACHINE_STOPPING);
		(*job)->deadline = loop_now(*job) + seconds * 1000ll;
		(*job)->cancel = give_up_waiting;
		job_limit(*job, next_ask(*job), shut_down_due);
	}
	return r;
}

static void turn_off_late(struct job *job)
{
	worker_link_kill(job->machine->link);
}

/* What the worker is asked for ends with it, as it would by the worker's death. */
static bool is_of_worker(const struct job *job)
{
	static const char *const kinds[] = {"vm.shut-down", "vm.start", "vm.save", "checkpoint.create", "checkpoint.delete", "checkpoint.merge"};
	bool is = false;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		is |= !strcmp(job->kind, kinds[i]);
	return is && !job->working;
}

int machine_turn_off(struct machine *machine, struct job **job, struct error *err)
{
	unsigned states =
	    1u << MACHINE_STARTING | 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED | 1u << MACHINE_STOPPING | 1u << MACHINE_SAVING;
	int r = machine_check_state(machine, states, "turned off", err);
	struct error given_up;

	/* Cutting the power waits neither for a guest that was asked to shut down nor for a worker that hangs. */
	while (!r && machine->job && is_of_worker(machine->job)) {
		error_set(&given_up, ECANCELED, "the machine is turned off instead");
		job_end(machine->job, &given_up);
	}
	if (!r)
		r = job_new(job, machine->vmms, machine, "vm.turn-off", err);
	if (r)
		return r;
	machine->power_cut = true;
	job_limit(*job, 10, turn_off_late);
	worker_link_command(machine->link, json_pack("{s:s}", "command", "power-off"), asked_to_turn_off, machine);
	return 0;
}
