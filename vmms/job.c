/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "vmms/automatic.h"
#include "vmms/daemon.h"
#include "vmms/errand.h"

struct job_wait {
	struct job *job;
	struct http_request *request;
	unsigned status;
	void (*reply)(struct job *job, struct http_request *request); /* NULL: by the job as it is */
	uv_timer_t timer;
	struct job_wait *next;
};

void jobs_sweep(struct vmms *vmms)
{
	struct job **at = &vmms->jobs;

	while (*at) {
		struct job *job = *at;

		if (!job->ended || job->working || job->waits || job->timer_used) {
			at = &job->next;
			continue;
		}
		*at = job->next;
		free(job);
	}
}

int job_new(struct job **out, struct vmms *vmms, struct machine *machine, const char *kind, struct error *err)
{
	struct job *job;
	/* What of a machine that runs is copied are disks of a checkpoint: they stay, whatever it does itself. */
	bool copied = machine && machine->link && machine->readers && !machine->job;
	int r = machine && !copied ? machine_check_free(machine, err) : 0;

	if (r)
		return r;
	if (vmms->closing)
		return error_set(err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	job = calloc(1, sizeof(*job));
	if (!job)
		return error_set(err, ENOMEM, "no memory for a job");
	r = store_job_add(vmms->store, kind, machine ? machine->id : "", machine ? machine->name : NULL, &job->id, err);
	if (r) {
		free(job);
		return r;
	}
	job->vmms = vmms;
	job->machine = machine;
	snprintf(job->kind, sizeof(job->kind), "%s", kind);
	job->next = vmms->jobs;
	vmms->jobs = job;
	if (machine)
		machine->job = job;
	*out = job;
	return 0;
}

static void timer_closed(uv_handle_t *handle)
{
	struct job *job = handle->data;

	job->timer_used = false;
}

static void timer_due(uv_timer_t *timer)
{
	struct job *job = timer->data;

	if (!job->ended)
		job->late(job);
}

static void close_timer(struct job *job)
{
	if (job->timer_used && !uv_is_closing((uv_handle_t *)&job->timer))
		uv_close((uv_handle_t *)&job->timer, timer_closed);
}

void job_limit(struct job *job, unsigned seconds, void (*late)(struct job *job))
{
	job->late = late;
	if (!job->timer_used) {
		job->timer_used = true;
		job->timer.data = job;
		uv_timer_init(&job->vmms->loop, &job->timer);
	}
	uv_timer_start(&job->timer, timer_due, seconds * 1000ull, 0);
}

/* --- waiting ------------------------------------------------------------------------------------------ */

static void reply(struct vmms *vmms, int64_t id, struct http_request *request, unsigned status)
{
	struct error err = {0};
	json_t *json = job_json(vmms, id, &err);

	if (json)
		http_reply(request, status, json);
	else
		http_fail(request, &err);
}

static void wait_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void wait_over(struct job_wait *wait)
{
	struct job_wait **at = &wait->job->waits;

	while (*at != wait)
		at = &(*at)->next;
	*at = wait->next;
	if (wait->reply)
		wait->reply(wait->job, wait->request);
	else
		reply(wait->job->vmms, wait->job->id, wait->request, wait->status);
	uv_close((uv_handle_t *)&wait->timer, wait_closed);
}

static void wait_late(uv_timer_t *timer)
{
	wait_over(timer->data);
}

/* Whoever came first is served first. False: it is to be answered now. */
static bool begin_wait(const struct job_wait *what, unsigned seconds)
{
	struct job *job = what->job;
	struct job_wait *wait = job->ended || !seconds ? NULL : malloc(sizeof(*wait)), **at = &job->waits;

	if (!wait)
		return false;
	*wait = *what;
	while (*at)
		at = &(*at)->next;
	*at = wait;
	wait->timer.data = wait;
	uv_timer_init(&job->vmms->loop, &wait->timer);
	uv_timer_start(&wait->timer, wait_late, seconds * 1000ull, 0);
	return true;
}

void job_wait(struct job *job, struct http_request *request, unsigned seconds, unsigned status)
{
	if (!begin_wait(&(struct job_wait){.job = job, .request = request, .status = status}, seconds))
		reply(job->vmms, job->id, request, status);
}

void job_wait_for(struct job *job, struct http_request *request, unsigned seconds, void (*reply_to)(struct job *job, struct http_request *request))
{
	if (!begin_wait(&(struct job_wait){.job = job, .request = request, .reply = reply_to}, seconds))
		reply_to(job, request);
}

void jobs_close(struct vmms *vmms)
{
	for (struct job *job = vmms->jobs; job; job = job->next) {
		job->stop = true;
		close_timer(job);
		while (job->waits)
			wait_over(job->waits);
	}
}

/* --- the end ------------------------------------------------------------------------------------------ */

void job_end(struct job *job, const struct error *err)
{
	struct error storing = {0};
	const char *state = !err ? "done" : err->code == ECANCELED ? "cancelled" : "failed";

	if (job->ended)
		return;
	job->ended = true;
	if (err)
		job->error = *err;
	if (store_job_end(job->vmms->store, job->id, state, err ? http_error_code(err->code) : NULL, err ? err->text : NULL,
			  &storing))
		log_write(LOG_LEVEL_ERROR, "job %lld: %s", (long long)job->id, storing.text);
	/* Who waits is told below. */
	if (store_group_end(job->vmms->store, &storing))
		log_write(LOG_LEVEL_ERROR, "job %lld: %s", (long long)job->id, storing.text);
	if (job->machine && job->machine->job == job)
		job->machine->job = NULL;
	job->machine = NULL;
	close_timer(job);
	while (job->waits)
		wait_over(job->waits);
	if (job->then)
		job->then(job);
	automatic_kick(job->vmms);
}

bool job_step(void *context, uint64_t done, uint64_t total)
{
	struct job *job = context;

	job->progress_done = done;
	job->progress_total = total;
	return !job->stop;
}

struct job *job_find(struct vmms *vmms, int64_t id)
{
	for (struct job *job = vmms->jobs; job; job = job->next)
		if (job->id == id)
			return job;
	return NULL;
}

static void pool_work(uv_work_t *request)
{
	struct job *job = request->data;

	job->error.code = 0;
	if (job->work(job, &job->error) && !job->error.code)
		error_set(&job->error, EIO, "the work failed and did not say why");
}

static void pool_done(uv_work_t *request, int status)
{
	struct job *job = request->data;

	job->working = false;
	if (status)
		error_set(&job->error, ECANCELED, "the daemon ended meanwhile");
	job->done(job, -job->error.code);
}

static void errand_run(void *context)
{
	struct job *job = context;

	pool_work(&job->request);
}

static void errand_done(void *context)
{
	struct job *job = context;

	pool_done(&job->request, 0);
}

void job_errand(struct job *job)
{
	job->request.data = job;
	job->working = true;
	if (!errand_start(job->vmms, errand_run, errand_done, job, &job->error))
		return;
	job->working = false;
	job->done(job, -job->error.code);
}

void job_work(struct job *job)
{
	job->request.data = job;
	job->working = true;
	uv_queue_work(&job->vmms->loop, &job->request, pool_work, pool_done);
}

/* In host.db (store.c) is all but the progress. */
static const char *const state_words[] = {"running", "done", "failed", "cancelled", NULL};
static const struct form form_kind = {.kind = FORM_STRING, .text = "what it does, as vm.start", .min = 1, .max = STORE_KIND_SIZE};
static const struct form form_state = {.kind = FORM_WORD, .words = state_words};
static const struct form form_vm = {.kind = FORM_STRING, .text = "the machine's id; empty: it is about none that was there", .max = 36, .or_null = true};
static const struct form form_progress = {.kind = FORM_NUMBER, .text = "of 1, while it runs, if it can be told"};
static const struct form form_error = {.kind = FORM_OBJECT,
				       .text = "if it failed, or was cancelled: the code and the message that an answer would have",
				       .or_null = true,
				       .fields = (const struct form_field[]){
					   {"code", &answer_text, NULL, true},
					   {"message", &answer_text, NULL, true},
					   {0},
				       }};
const struct form job_form = {.kind = FORM_OBJECT,
			      .name = "Job",
			      .text = "something that takes its time",
			      .fields = (const struct form_field[]){
				  {"id", &answer_count, NULL, true},
				  {"kind", &form_kind, NULL, true},
				  {"vm", &form_vm, NULL, true},
				  {"vm_name", &answer_text_or_null, NULL, true},
				  {"state", &form_state, NULL, true},
				  {"started", &answer_moment, NULL, true},
				  {"ended", &answer_moment_or_null, NULL, true},
				  {"error", &form_error, NULL, true},
				  {"progress", &form_progress, NULL, false},
				  {0},
			      }};

json_t *job_json(struct vmms *vmms, int64_t id, struct error *err)
{
	const struct job *job = job_find(vmms, id);
	json_t *list, *json;
	uint64_t total;

	if (store_job_list(vmms->store, id, 0, 1, &list, err))
		return NULL;
	json = json_incref(json_array_get(list, 0));
	json_decref(list);
	if (!json) {
		error_set(err, ENOENT, "there is no job %lld", (long long)id);
		return NULL;
	}
	total = job ? job->progress_total : 0;
	if (total)
		json_object_set_new(json, "progress", json_real((double)job->progress_done / (double)total));
	return json;
}
