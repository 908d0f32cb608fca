/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/vmms.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "vmms/automatic.h"
#include "vmms/cgroup.h"
#include "vmms/checkpoint.h"
#include "vmms/daemon.h"
#include "vmms/host_config.h"
#include "vmms/images.h"
#include "vmms/listen.h"
#include "vmms/measure.h"
#include "vmms/ports.h"
#include "vmms/store_access.h"
#include "vmms/errand.h"
#include "vmms/switches.h"
#include "vmms/worker_log.h"

/* Behind it comes "/vms/", an id and "/console". */
#define RUNTIME_MAX (107u - 5 - 36 - 8)

/* How long a daemon that was told to end waits for work on files. */
#define CLOSING_SECONDS 5u

/* How often running machines and their logs are looked at. */
#define LOGS_SECONDS 60u

int64_t vmms_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

struct machine *vmms_find(struct vmms *vmms, const char *name_or_id)
{
	for (size_t i = 0; i < vmms->machine_count; i++)
		if (!strcmp(vmms->machines[i]->name, name_or_id) || !strcasecmp(vmms->machines[i]->id, name_or_id))
			return vmms->machines[i];
	return NULL;
}

int vmms_add(struct vmms *vmms, struct machine *machine)
{
	if (vmms->machine_count == vmms->machine_room) {
		size_t room = vmms->machine_room ? vmms->machine_room * 2 : 64;
		struct machine **more = realloc(vmms->machines, room * sizeof(struct machine *));

		if (!more)
			return -ENOMEM;
		vmms->machines = more;
		vmms->machine_room = room;
	}
	vmms->machines[vmms->machine_count++] = machine;
	return 0;
}

void vmms_forget(struct vmms *vmms, struct machine *machine)
{
	for (size_t i = 0; i < vmms->machine_count; i++) {
		if (vmms->machines[i] != machine)
			continue;
		vmms->machines[i] = vmms->machines[--vmms->machine_count];
		machine_free(machine);
		return;
	}
}

void vmms_event(struct vmms *vmms, const struct machine *machine, const char *kind, const char *format, ...)
{
	struct error err = {0};
	char text[4096];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	log_write(LOG_LEVEL_INFO, "%s%s%s: %s", kind, machine ? " " : "", machine ? machine->name : "", text);
	if (store_event_add(vmms->store, kind, machine ? machine->id : NULL, machine ? machine->name : NULL, text, NULL, &err))
		log_write(LOG_LEVEL_ERROR, "an event is lost (%s): %s", err.text, text);
	api_streams_wake(vmms);
}

/* --- places ------------------------------------------------------------------------------------------- */

static int below(char **path, const char *variable, const char *fallback, const char *rest)
{
	const char *base = variable ? getenv(variable) : NULL;

	if (base && *base == '/')
		return asprintf(path, "%s/%s", base, rest) < 0 ? -ENOMEM : 0;
	return asprintf(path, "%s/%s", fallback, rest) < 0 ? -ENOMEM : 0;
}

int vmms_default_places(bool user, char **state, char **runtime, struct error *err)
{
	_cleanup_free_ char *share = NULL, *run = NULL;
	const char *home = getenv("HOME");
	int r;

	*state = *runtime = NULL;
	if (user && (!home || *home != '/'))
		return error_set(err, ENOENT, "HOME is not set: name the directories by --state and --runtime");
	if (asprintf(&share, "%s/.local/share", home ? home : "") < 0 || asprintf(&run, "/run/user/%u", getuid()) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = user ? below(state, "XDG_DATA_HOME", share, "bulkhead") : below(state, NULL, "/var/lib", "bulkhead");
	if (!r)
		r = user ? below(runtime, "XDG_RUNTIME_DIR", run, "bulkhead") : below(runtime, NULL, "/run", "bulkhead");
	return r ? error_set(err, -r, "no memory") : 0;
}

char *vmms_default_config(bool user)
{
	_cleanup_free_ char *base = NULL;
	char *path = NULL;
	int r;

	if (asprintf(&base, "%s/.config", getenv("HOME") ? getenv("HOME") : "") < 0)
		return NULL;
	r = user ? below(&path, "XDG_CONFIG_HOME", base, "bulkhead/host.json")
		 : below(&path, NULL, "/etc", "bulkhead/host.json");
	return r ? NULL : path;
}

/* Makes a directory and those above it that are not there. */
static int make_directory(const char *path, unsigned mode, struct error *err)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return error_set(err, ENOMEM, "no memory");
	for (char *c = copy + 1; *c; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		mkdir(copy, 0755);
		*c = '/';
	}
	if (mkdir(copy, mode) && errno != EEXIST)
		return error_set(err, errno, "%s cannot be made: %s", path, strerror(errno));
	return 0;
}

static int make_below(const char *directory, const char *name, unsigned mode, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return error_set(err, ENOMEM, "no memory");
	return make_directory(path, mode, err);
}

static int make_places(const struct vmms_options *options, struct error *err)
{
	int r;

	if (*options->state != '/' || *options->runtime != '/')
		return error_set(err, EINVAL, "%s: name the directory from the root on",
				 *options->state != '/' ? options->state : options->runtime);
	if (strlen(options->runtime) > RUNTIME_MAX)
		return error_set(err, ENAMETOOLONG, "%s: a socket's path has at most 107 bytes, so that this may have %u: name "
				 "another directory by --runtime", options->runtime, RUNTIME_MAX);
	r = make_directory(options->state, 0755, err);
	if (!r)
		r = make_below(options->state, "machines", 0755, err);
	if (!r)
		r = make_below(options->state, "images", 0755, err);
	if (r)
		return r;
	r = make_directory(options->runtime, 0755, err);
	if (r)
		return error_set(err, -r, "%s, where sockets go, cannot be made (%s): set XDG_RUNTIME_DIR, or name another directory by "
				 "--runtime", options->runtime, strerror(-r));
	return make_below(options->runtime, "vms", 0755, err);
}

static int lock_state(struct vmms *vmms, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	_cleanup_free_ char *path = NULL;
	char pid[16] = "";

	if (asprintf(&path, "%s/lock", vmms->options->state) < 0)
		return error_set(err, ENOMEM, "no memory");
	vmms->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (vmms->lock < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	/* A lock of the process, not of the descriptor: one that a worker is being started from shares the
	 * descriptors for a moment, and would keep the lock when the daemon is killed just then. */
	if (fcntl(vmms->lock, F_SETLK, &lock)) {
		fcntl(vmms->lock, F_GETLK, &lock);
		return error_set(err, EBUSY, "another daemon (process %d) has %s: stop it first, or name another directory by "
				 "--state", (int)lock.l_pid, vmms->options->state);
	}
	snprintf(pid, sizeof(pid), "%d\n", getpid());
	if (ftruncate(vmms->lock, 0) || pwrite(vmms->lock, pid, strlen(pid), 0) < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	return 0;
}

/* --- from start to end -------------------------------------------------------------------------------- */

static void add_stored(void *context, const struct store_vm *vm)
{
	struct vmms *vmms = context;
	struct machine *machine = machine_new(vmms, vm);

	if (machine && vmms_add(vmms, machine))
		machine_free(machine);
}

void vmms_date_state(struct machine *machine)
{
	enum machine_state state = machine->state;
	char kind[STORE_KIND_SIZE];
	int64_t time = store_event_state_time(machine->vmms->store, machine->id, kind);
	bool ran = !strcmp(kind, "vm.running") || !strcmp(kind, "vm.resumed"), paused = !strcmp(kind, "vm.paused");

	if (time && (state == MACHINE_RUNNING ? ran : state == MACHINE_PAUSED ? paused : machine_is_off(machine) && !ran && !paused))
		machine->state_since = time;
}

/* Machines that were half made go, those with workers are taken over. */
static void take_stock(struct vmms *vmms)
{
	for (size_t i = vmms->machine_count; i-- > 0;) {
		struct machine *machine = vmms->machines[i];

		if (machine->phase != VM_READY) {
			machine_finish_phase(machine);
			continue;
		}
		machine_adopt(machine);
		vmms_date_state(machine);
		if (!machine->link)
			checkpoint_stopped(machine);
	}
}

static int load(struct vmms *vmms, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	unsigned abandoned;
	int r;

	if (asprintf(&path, "%s/host.db", vmms->options->state) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = store_open(&vmms->store, path, err);
	if (!r)
		r = access_open(&vmms->access, vmms->config, vmms->store, err);
	if (!r)
		r = store_keys_interrupt(vmms->store, err);
	if (!r)
		r = store_jobs_abandon(vmms->store, &abandoned, err);
	if (!r)
		r = automatic_open(vmms, err);
	if (!r)
		r = store_vm_list(vmms->store, add_stored, vmms, err);
	if (!r)
		r = errands_open(vmms, err);
	if (!r)
		r = measure_open(vmms, err);
	if (!r) {
		take_stock(vmms);
		measure_begin(vmms);
		r = switches_open(vmms, err);
	}
	if (!r) {
		images_tidy(vmms);
		exports_tidy(vmms);
		automatic_start(vmms);
	}
	return r;
}

static unsigned socket_mode(const struct vmms *vmms)
{
	return access_has_groups(vmms->access) ? 0666 : 0660;
}

/* What is another in host.json than what this daemon goes by. */
static json_t *what_waits(const struct vmms *vmms, const json_t *config)
{
	static const char *const keys[] = {"https", "open_vswitch"};
	json_t *list = json_array(), *is, *wanted;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		is = json_object_get(vmms->config, keys[i]);
		wanted = json_object_get(config, keys[i]);
		if (!is != !wanted || (is && !json_equal(is, wanted)))
			json_array_append_new(list, json_string(keys[i]));
	}
	return list;
}

int vmms_reload(struct vmms *vmms, json_t **restart, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	struct access *access = NULL;
	json_t *config;
	int r = host_config_load(&config, vmms->options->config, vmms->options->config_may_miss, err);

	if (r)
		return r;
	r = access_open(&access, config, vmms->store, err);
	if (r) {
		json_decref(config);
		return r;
	}
	*restart = what_waits(vmms, config);
	json_object_set(vmms->config, "overcommit_memory", json_object_get(config, "overcommit_memory"));
	json_decref(config);
	access_close(vmms->access);
	vmms->access = access;
	if (vmms->options->listener < 0 && asprintf(&path, "%s/api", vmms->options->runtime) >= 0 && chmod(path, socket_mode(vmms)))
		log_write(LOG_LEVEL_ERROR, "%s: %s", path, strerror(errno));
	vmms_event(vmms, NULL, "host.reloaded", "host.json is read anew%s", json_array_size(*restart) ? "; a part of it waits for a restart" : "");
	return 0;
}

static void on_signal(uv_signal_t *signal, int number)
{
	struct vmms *vmms = signal->data;

	(void)number;
	vmms->closing = true;
	uv_stop(&vmms->loop);
}

static void on_hangup(uv_signal_t *signal, int number)
{
	struct vmms *vmms = signal->data;
	json_t *restart = NULL;
	struct error err;

	(void)number;
	if (vmms_reload(vmms, &restart, &err))
		vmms_event(vmms, NULL, "host.warning", "host.json is not read anew: %s", err.text);
	json_decref(restart);
}

/* Where groups may come in everybody can connect: who is nobody is told so. */
static int listen_unix(struct vmms *vmms, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	int fd = vmms->options->listener;

	if (fd < 0) {
		if (asprintf(&path, "%s/api", vmms->options->runtime) < 0)
			return error_set(err, ENOMEM, "no memory");
		fd = http_unix_socket(path, socket_mode(vmms), err);
	}
	return fd < 0 ? fd : http_listen(vmms->http, fd, false, err);
}

static int listen_https(struct vmms *vmms, struct error *err)
{
	const json_t *https = json_object_get(vmms->config, "https");
	const char *text = json_string_value(json_object_get(https, "listen"));
	char address[LISTEN_TEXT_SIZE];
	int fd, r;

	if (!https)
		return 0;
	fd = listen_tcp(text, address, vmms->https, err);
	if (fd < 0)
		return fd;
	r = tls_files_load(&vmms->tls, https, vmms->options->state, address, err);
	if (!r)
		r = http_open_tls(vmms->http, vmms->tls.certificate, vmms->tls.key, vmms->tls.authority, err);
	if (!r)
		r = http_listen(vmms->http, fd, true, err);
	if (r)
		close(fd);
	else
		log_write(LOG_LEVEL_INFO, "HTTPS at %s, its key is %s", vmms->https, vmms->tls.fingerprint);
	return r;
}

static int listen_api(struct vmms *vmms, struct error *err)
{
	static const struct http_ops ops = {.admit = api_admit, .handle = api_handle};
	int r = api_streams_open(vmms, err);

	if (!r)
		r = http_open(&vmms->http, &vmms->loop, &ops, vmms, err);
	if (!r)
		r = listen_unix(vmms, err);
	return r ? r : listen_https(vmms, err);
}

static void sweep(uv_check_t *check)
{
	jobs_sweep(check->data);
	checkpoint_take_up(check->data);
}

static void look_around(uv_timer_t *timer)
{
	struct vmms *vmms = timer->data;

	for (size_t i = 0; i < vmms->machine_count; i++) {
		_cleanup_free_ char *path = NULL;

		if (vmms->machines[i]->link)
			machine_refresh(vmms->machines[i]);
		if (vmms->machines[i]->temporary)
			checkpoint_drop_temporary(vmms->machines[i]);
		if (vmms->machines[i]->link && asprintf(&path, "%s/worker.log", vmms->machines[i]->directory) > 0)
			worker_log_cut(path);
	}
	ports_reap(vmms);
}

/* Work that cannot be stopped, as the building of an image, is left as a death leaves it: the next start clears up. */
static void give_up(uv_timer_t *timer)
{
	(void)timer;
	log_write(LOG_LEVEL_WARNING, "a job is still at work and is given up");
	_exit(0);
}

/* Whoever waits for a worker's answer is told so; then whoever waits for a job. Work on files may have begun before
 * anybody could ask for it: machines are there until it is over, also when the daemon cannot start. */
static void let_go(struct vmms *vmms)
{
	uv_timer_t limit;

	vmms->closing = true;
	errands_close(vmms);
	for (size_t i = 0; i < vmms->machine_count; i++) {
		worker_link_leave(vmms->machines[i]->link);
		vmms->machines[i]->link = NULL;
	}
	measure_close(vmms);
	automatic_close(vmms);
	switches_close(vmms);
	cgroup_leave_all(&vmms->leaving);
	jobs_close(vmms);
	http_close(vmms->http);
	vmms->http = NULL;
	api_streams_close(vmms);
	uv_timer_init(&vmms->loop, &limit);
	uv_timer_start(&limit, give_up, CLOSING_SECONDS * 1000ull, 0);
	uv_unref((uv_handle_t *)&limit);
	uv_run(&vmms->loop, UV_RUN_DEFAULT);
	uv_close((uv_handle_t *)&limit, NULL);
	uv_run(&vmms->loop, UV_RUN_DEFAULT);
}

static void run(struct vmms *vmms)
{
	static const int numbers[] = {SIGTERM, SIGINT};
	uv_timer_t logs;
	uv_check_t check;
	uv_signal_t hangup;

	signal(SIGPIPE, SIG_IGN);
	uv_signal_init(&vmms->loop, &hangup);
	hangup.data = vmms;
	uv_signal_start(&hangup, on_hangup, SIGHUP);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		uv_signal_init(&vmms->loop, &vmms->signals[i]);
		vmms->signals[i].data = vmms;
		uv_signal_start(&vmms->signals[i], on_signal, numbers[i]);
	}
	check.data = vmms;
	uv_check_init(&vmms->loop, &check);
	uv_check_start(&check, sweep);
	logs.data = vmms;
	uv_timer_init(&vmms->loop, &logs);
	uv_timer_start(&logs, look_around, LOGS_SECONDS * 1000ull, LOGS_SECONDS * 1000ull);
	if (vmms->options->ready)
		vmms->options->ready();
	uv_run(&vmms->loop, UV_RUN_DEFAULT);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
		uv_close((uv_handle_t *)&vmms->signals[i], NULL);
	uv_close((uv_handle_t *)&hangup, NULL);
	uv_close((uv_handle_t *)&check, NULL);
	uv_close((uv_handle_t *)&logs, NULL);
	let_go(vmms);
}

int vmms_run(const struct vmms_options *options, struct error *err)
{
	struct vmms vmms = {.options = options, .lock = -1};
	int r = host_config_load(&vmms.config, options->config, options->config_may_miss, err);

	uv_loop_init(&vmms.loop);
	uv_mutex_init(&vmms.children_lock);
	if (!r)
		r = make_places(options, err);
	if (!r)
		r = lock_state(&vmms, err);
	if (!r && options->cgroup)
		r = cgroup_prepare(options->cgroup, err);
	if (!r)
		r = load(&vmms, err);
	if (!r)
		r = listen_api(&vmms, err);
	if (!r)
		run(&vmms);
	else
		let_go(&vmms);
	while (vmms.machine_count)
		vmms_forget(&vmms, vmms.machines[0]);
	uv_run(&vmms.loop, UV_RUN_DEFAULT);
	switches_free(&vmms);
	errands_free(&vmms);
	free(vmms.machines);
	while (vmms.jobs) {
		struct job *next = vmms.jobs->next;

		free(vmms.jobs);
		vmms.jobs = next;
	}
	free(vmms.children);
	uv_mutex_destroy(&vmms.children_lock);
	access_close(vmms.access);
	tls_files_free(&vmms.tls);
	json_decref(vmms.config);
	store_close(vmms.store);
	uv_loop_close(&vmms.loop);
	if (vmms.lock >= 0)
		close(vmms.lock);
	return r;
}
