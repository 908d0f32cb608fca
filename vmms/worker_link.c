/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/worker_link.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "vmms/cgroup.h"
#include "vmms/worker_log.h"

#define ANSWER_MAX (4u << 20)
#define LINE_ROOM  4096u
/* A worker answers at once, whatever its guest does; one that does not is stuck. */
#define ANSWER_SECONDS 20u
/* So many at once fit before the worker's door (unix_listen()), even if it lets nobody in just now. */
#define IN_FLIGHT_MAX 4u

/* A command on its way: a connection of its own, so that a slow answer holds up no other. */
struct command {
	uv_pipe_t pipe;
	uv_timer_t timer;
	unsigned handles;
	uv_connect_t connect;
	uv_write_t write;
	char *text, *answer;
	size_t size, sent, used, room;
	int fds[WORKER_FDS_MAX];
	size_t fd_count;
	worker_answered answered;
	void *context;
	bool patient, begun;
	struct worker_link *link;
	struct command *next;
};

struct worker_link {
	uv_loop_t *loop;
	const struct worker_link_ops *ops;
	void *context;
	char *runtime;
	int pid, pidfd;
	uv_process_t process;
	uv_poll_t exit_poll;
	uv_pipe_t input, output;
	uv_write_t write;
	char *configuration;
	char line[LINE_ROOM];
	size_t line_used;
	bool child, told_start, exited, output_over, left, over;
	unsigned handles, in_flight; /* commands that are begun, but for patient ones */
	struct command *commands; /* the newest first */
};

/* --- the end ------------------------------------------------------------------------------------------ */

static void link_free(struct worker_link *link)
{
	if (link->pidfd >= 0)
		close(link->pidfd);
	free(link->configuration);
	free(link->runtime);
	free(link);
}

static void handle_closed(uv_handle_t *handle)
{
	struct worker_link *link = handle->data;

	if (!--link->handles && !link->commands && link->over)
		link_free(link);
}

static void close_handle(uv_handle_t *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, handle_closed);
}

static void command_end(struct command *command, const json_t *answer, int code, const char *text);

static void close_all(struct worker_link *link)
{
	link->over = true;
	while (link->commands)
		command_end(link->commands, NULL, ECONNRESET,
			    link->left ? "the daemon ends: ask again when it is back" : "the machine's worker has ended");
	if (link->child) {
		close_handle((uv_handle_t *)&link->process);
		close_handle((uv_handle_t *)&link->input);
		close_handle((uv_handle_t *)&link->output);
	} else {
		close_handle((uv_handle_t *)&link->exit_poll);
	}
}

void worker_result_remove(const char *runtime)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/result", runtime) < 0)
		return;
	unlink(path);
}

json_t *worker_result_read(const char *runtime)
{
	_cleanup_free_ char *path = NULL;
	json_t *result;

	if (asprintf(&path, "%s/result", runtime) < 0)
		return NULL;
	result = json_load_file(path, 0, NULL);
	if (result && !json_is_object(result)) {
		json_decref(result);
		result = NULL;
	}
	return result;
}

int64_t worker_result_time(const char *runtime)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;

	if (asprintf(&path, "%s/result", runtime) < 0 || stat(path, &st))
		return 0;
	return st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
}

static void tell_start(struct worker_link *link, const struct error *err)
{
	if (link->told_start)
		return;
	link->told_start = true;
	link->ops->started(link->context, err);
}

static void maybe_end(struct worker_link *link)
{
	struct error err;
	json_t *result;

	/* What it said last may still be in the pipe. */
	if (!link->exited || (link->child && !link->output_over) || link->over)
		return;
	if (!link->told_start)
		error_set(&err, EIO, "the worker ended before the guest ran: its log says why");
	tell_start(link, &err);
	result = worker_result_read(link->runtime);
	link->ops->ended(link->context, result);
	/* Not before it is told: whoever dies in between tells it when he is back. */
	worker_result_remove(link->runtime);
	json_decref(result);
	link->ops->gone(link->context);
	close_all(link);
}

static void process_exited(uv_process_t *process, int64_t status, int signal)
{
	struct worker_link *link = process->data;

	(void)status;
	(void)signal;
	link->exited = true;
	maybe_end(link);
}

static void pid_exited(uv_poll_t *poll, int status, int events)
{
	struct worker_link *link = poll->data;

	(void)status;
	(void)events;
	uv_poll_stop(poll);
	link->exited = true;
	maybe_end(link);
}

/* What a worker says of an error that is its machine's and no matter of the daemon's own: what that means is decided by text alone. */
static int told_code(const json_t *answer)
{
	static const int codes[] = {EINVAL, EBADMSG, ENOENT,  EEXIST,       EBUSY,  EALREADY, ENOSPC, EDQUOT,
				    ENOTSUP, EFBIG,  EROFS, ENAMETOOLONG, ENOTDIR, ELOOP,    EISDIR, EACCES, EPERM};
	const char *name = json_string_value(json_object_get(answer, "code"));

	for (size_t i = 0; name && i < ARRAY_SIZE(codes); i++)
		if (!strcmp(name, strerrorname_np(codes[i])))
			return codes[i];
	/* It is between a reset and the next start of its guest. */
	return name && !strcmp(name, "EAGAIN") ? EBUSY : EIO;
}

/* --- the start ---------------------------------------------------------------------------------------- */

static void start_answer(struct worker_link *link, size_t length)
{
	json_t *answer = json_loadb(link->line, length, JSON_DISABLE_EOF_CHECK, NULL), *restoring = json_object_get(answer, "restoring");
	const char *text = json_string_value(json_object_get(answer, "error"));
	struct error err;

	if (json_is_true(json_object_get(answer, "ok"))) {
		tell_start(link, NULL);
	} else if (text) {
		error_set(&err, told_code(answer), "%s", text);
		tell_start(link, &err);
	} else if (restoring && !link->told_start) {
		link->ops->restoring(link->context, (uint64_t)json_integer_value(json_object_get(restoring, "done")),
				     (uint64_t)json_integer_value(json_object_get(restoring, "total")));
	}
	json_decref(answer);
}

static void line_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct worker_link *link = handle->data;

	(void)suggested;
	*buffer = uv_buf_init(link->line + link->line_used, (unsigned)(LINE_ROOM - link->line_used));
}

static void line_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
	struct worker_link *link = stream->data;
	const char *end;

	(void)buffer;
	if (n > 0) {
		link->line_used += (size_t)n;
		while ((end = memchr(link->line, '\n', link->line_used))) {
			size_t length = (size_t)(end - link->line) + 1;

			start_answer(link, length);
			link->line_used -= length;
			memmove(link->line, end + 1, link->line_used);
		}
		return;
	}
	if (n == 0)
		return;
	close_handle((uv_handle_t *)stream);
	link->output_over = true;
	maybe_end(link);
}

static void configuration_written(uv_write_t *write, int status)
{
	struct worker_link *link = write->data;

	(void)status; /* a worker that died says so by its end */
	close_handle((uv_handle_t *)&link->input);
}

static struct worker_link *link_new(uv_loop_t *loop, const struct worker_place *place,
    const struct worker_link_ops *ops, void *context)
{
	struct worker_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->loop = loop;
	link->ops = ops;
	link->context = context;
	link->pidfd = -1;
	link->runtime = strdup(place->runtime);
	return link;
}

static int spawn(struct worker_link *link, const char *program, int log, const int *fds, size_t fd_count, struct error *err)
{
	char *arguments[] = {(char *)(uintptr_t)program, NULL};
	uv_stdio_container_t stdio[WORKER_FIRST_FD + WORKER_START_FDS_MAX] = {
					 {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&link->input},
					 {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&link->output},
					 {.flags = UV_INHERIT_FD, .data.fd = log}};
	uv_process_options_t options = {.exit_cb = process_exited,
					.file = program,
					.args = arguments,
					.cwd = "/",
					.flags = UV_PROCESS_DETACHED,
					.stdio_count = WORKER_FIRST_FD + (int)fd_count,
					.stdio = stdio};
	int r;

	for (size_t i = 0; i < fd_count; i++)
		stdio[WORKER_FIRST_FD + i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = fds[i]};
	link->process.data = link->input.data = link->output.data = link->write.data = link;
	uv_pipe_init(link->loop, &link->input, 0);
	uv_pipe_init(link->loop, &link->output, 0);
	link->handles = 3; /* uv_spawn() begins its handle even when it fails */
	r = uv_spawn(link->loop, &link->process, &options);
	return r ? error_set(err, -r, "%s cannot be started: %s", program, strerror(-r)) : 0;
}

/* Before it has its configuration, without which it starts nothing: so all of a machine is in its group. */
static void put_into_group(struct worker_link *link, int group)
{
	struct error err;

	if (group < 0 || !cgroup_put(group, link->pid, &err))
		return;
	link->told_start = true;
	link->ops->started(link->context, &err);
	uv_process_kill(&link->process, SIGKILL);
}

int worker_link_start(struct worker_link **out, uv_loop_t *loop, const struct worker_place *place,
    const json_t *configuration, const int *fds, size_t fd_count, const struct worker_link_ops *ops, void *context, struct error *err)
{
	_cleanup_close_ int log = worker_log_open(place->log, err), group = -1;
	struct worker_link *link;
	uv_buf_t buffer;
	int r;

	if (log < 0)
		return log;
	if (place->cgroup && (group = cgroup_open(place->cgroup, err)) < 0)
		return group;
	link = link_new(loop, place, ops, context);
	if (link)
		link->configuration = json_dumps(configuration, JSON_COMPACT);
	if (!link || !link->configuration) {
		if (link)
			link_free(link);
		return error_set(err, ENOMEM, "no memory for a worker");
	}
	worker_result_remove(place->runtime);
	link->child = true;
	r = spawn(link, place->program, log, fds, fd_count, err);
	if (r) {
		close_all(link);
		return r;
	}
	link->pid = link->process.pid;
	put_into_group(link, group);
	buffer = uv_buf_init(link->configuration, (unsigned)strlen(link->configuration));
	if (uv_write(&link->write, (uv_stream_t *)&link->input, &buffer, 1, configuration_written))
		close_handle((uv_handle_t *)&link->input);
	uv_read_start((uv_stream_t *)&link->output, line_room, line_bytes);
	*out = link;
	return 0;
}

#define LOCKED_BYTES 2 /* of the lock file */

/* Whether this process has this file open. What a lock file says anybody may have written who can write there:
 * nobody is taken for a worker, and killed some day, for that alone. */
static bool has_open(int pid, const char *path)
{
	char name[32];
	struct stat file, other;
	const struct dirent *entry;
	bool found = false;
	DIR *all;

	snprintf(name, sizeof(name), "/proc/%d/fd", pid);
	all = lstat(path, &file) ? NULL : opendir(name);
	while (all && !found && (entry = readdir(all)))
		found = entry->d_name[0] != '.' && !fstatat(dirfd(all), entry->d_name, &other, 0) &&
			other.st_dev == file.st_dev && other.st_ino == file.st_ino;
	if (all)
		closedir(all);
	return found;
}

/* What is behind the number: the worker's control socket. "": it does not say. */
static void read_control(const char *text, char *control, size_t size)
{
	const char *line = strchr(text, '\n');

	snprintf(control, size, "%.*s", line ? (int)strcspn(line + 1, "\n") : 0, line ? line + 1 : "");
}

/* Whether somebody holds a lock of this file, the keeper's or the machine's (docs/worker.md), and who, as the file says. */
static int lock_holder(const char *path, int *pid, char control[PATH_MAX])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char text[PATH_MAX + 32] = "";

	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	if (fcntl(fd, F_OFD_GETLK, &lock))
		return -errno;
	if (lock.l_type == F_UNLCK)
		return -ESRCH;
	/* Where a lock keeps others from reading, too, what is behind it tells. */
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0 && pread(fd, text, sizeof(text) - 1, LOCKED_BYTES) <= 0)
		return -EAGAIN;
	*pid = atoi(text);
	read_control(text, control, PATH_MAX);
	return *pid > 1 ? 0 : -EAGAIN;
}

/* One of an earlier version does not say whose it is: whoever finds it takes it, as ever. */
static bool is_of(const char *control, const char *runtime)
{
	_cleanup_free_ char *own = NULL;

	return !*control || (runtime && asprintf(&own, "%s/control", runtime) > 0 && !strcmp(own, control));
}

static int run_by_another(const char *lock, int pid, const char *control, struct error *err)
{
	return error_set(err, EBUSY, "%s: process %d runs this machine for another daemon, by %s: it is that one's as long as it runs", lock, pid, control);
}

int worker_check_lock(const char *lock, const char *runtime, struct error *err)
{
	char control[PATH_MAX] = "";
	int pid = 0, r = lock_holder(lock, &pid, control);

	if (r == -ESRCH || (!r && runtime && has_open(pid, lock) && is_of(control, runtime)))
		return 0;
	if (r && r != -EAGAIN)
		return error_set(err, -r, "%s: %s", lock, strerror(-r));
	if (!r && has_open(pid, lock) && *control)
		return run_by_another(lock, pid, control, err);
	return error_set(err, EBUSY, "%s is locked: the machine is run, perhaps by another host", lock);
}

/* -1: it does not live, or is none that has the lock file open. */
static int open_worker(int pid, const char *lock)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0 && !has_open(pid, lock)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int worker_link_adopt(struct worker_link **out, uv_loop_t *loop, const struct worker_place *place, const char *lock,
    unsigned tries, const struct worker_link_ops *ops, void *context, struct error *err)
{
	struct worker_link *link;
	char control[PATH_MAX] = "";
	int pid = 0, again = 0, fd = -1, r;

	/* Between taking the lock and writing its number a worker does nothing else. And when one was killed, what it
	 * leaves behind holds the lock until it has ended too. */
	while ((r = lock_holder(lock, &pid, control)) == -EAGAIN || (!r && (fd = open_worker(pid, lock)) < 0)) {
		if (!tries--)
			break;
		usleep(5000);
	}
	if (r == -ESRCH)
		return r;
	if (r)
		return error_set(err, EBUSY, "%s is locked by a process which it does not name: on another host?", lock);
	/* The process may end and its number be used again in between: the lock tells, looked at once more. */
	r = lock_holder(lock, &again, control);
	if (r == -ESRCH || fd < 0 || again != pid) {
		if (fd >= 0)
			close(fd);
		return r == -ESRCH ? r
				   : error_set(err, EBUSY, "%s is locked, and not by process %d of this host, which it names", lock,
					       pid);
	}
	if (!is_of(control, place->runtime)) {
		close(fd);
		return run_by_another(lock, pid, control, err);
	}
	link = link_new(loop, place, ops, context);
	if (!link) {
		close(fd);
		return error_set(err, ENOMEM, "no memory for a worker");
	}
	link->pid = pid;
	link->pidfd = fd;
	link->told_start = true;
	link->exit_poll.data = link;
	link->handles = 1;
	uv_poll_init(loop, &link->exit_poll, fd);
	uv_poll_start(&link->exit_poll, UV_READABLE, pid_exited);
	*out = link;
	return 0;
}

void worker_link_leave(struct worker_link *link)
{
	if (!link || link->over)
		return;
	link->left = true;
	close_all(link);
}

static void send_signal(struct worker_link *link, int signal)
{
	if (link->exited)
		return;
	if (link->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, link->pidfd, signal, NULL, 0);
	else
		uv_process_kill(&link->process, signal);
}

void worker_link_stop_restoring(struct worker_link *link)
{
	send_signal(link, SIGUSR1);
}

void worker_link_kill(struct worker_link *link)
{
	send_signal(link, SIGKILL);
}

int worker_link_pid(const struct worker_link *link)
{
	return link->pid;
}

/* --- commands ----------------------------------------------------------------------------------------- */

static void close_fds(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

static void command_closed(uv_handle_t *handle)
{
	struct command *command = handle->data;
	struct worker_link *link = command->link;

	if (--command->handles)
		return;
	close_fds(command->fds, command->fd_count);
	free(command->text);
	free(command->answer);
	free(command);
	if (!--link->handles && !link->commands && link->over)
		link_free(link);
}

static void begin_next(struct worker_link *link);

/* Takes the command off the link's list first: `answered` may do anything. */
static void command_end(struct command *command, const json_t *answer, int code, const char *text)
{
	struct worker_link *link = command->link;
	struct command **at = &link->commands;
	struct error err;

	while (*at && *at != command)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = command->next;
	if (command->begun && !command->patient)
		link->in_flight--;
	if (answer) {
		command->answered(command->context, answer, NULL);
	} else {
		error_set(&err, code, "%s", text);
		command->answered(command->context, NULL, &err);
	}
	uv_close((uv_handle_t *)&command->pipe, command_closed);
	uv_close((uv_handle_t *)&command->timer, command_closed);
	begin_next(link);
}

static void command_late(uv_timer_t *timer)
{
	command_end(timer->data, NULL, ETIMEDOUT, "the machine's worker does not answer");
}

static void answer_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct command *command = handle->data;

	(void)suggested;
	if (command->used == command->room && command->room < ANSWER_MAX) {
		size_t room = command->room ? command->room * 2 : 8192;
		char *more = realloc(command->answer, room);

		if (more) {
			command->answer = more;
			command->room = room;
		}
	}
	*buffer = uv_buf_init(command->answer + command->used, (unsigned)(command->room - command->used));
}

static void answer_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
	struct command *command = stream->data;
	json_t *answer;

	(void)buffer;
	if (n < 0) {
		command_end(command, NULL, ECONNRESET, n == UV_ENOBUFS ? "the worker's answer has no end"
									: "the worker closed its control socket");
		return;
	}
	command->used += (size_t)n;
	if (!n || command->answer[command->used - 1] != '\n')
		return;
	answer = json_loadb(command->answer, command->used, 0, NULL);
	if (!json_is_object(answer))
		command_end(command, NULL, EBADMSG, "the worker's answer is no JSON object");
	else if (json_is_true(json_object_get(answer, "ok")))
		command_end(command, answer, 0, NULL);
	else
		command_end(command, NULL, told_code(answer), json_string_value(json_object_get(answer, "error"))
						    ? json_string_value(json_object_get(answer, "error"))
						    : "the worker refused and did not say why");
	json_decref(answer);
}

static void command_written(uv_write_t *write, int status)
{
	struct command *command = write->data;

	if (status && status != UV_ECANCELED)
		command_end(command, NULL, status == UV_EPIPE ? ECONNRESET : -status, "the worker closed its control socket");
}

/* libuv sends streams only. The socket is new, so that there is room in it for a beginning at least, with which the
 * descriptors go. */
static int send_descriptors(struct command *command)
{
	struct iovec bytes = {command->text, command->size};
	size_t size = command->fd_count * sizeof(int);
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(command->fds))] = {0};
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(size)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	uv_os_fd_t fd;
	ssize_t n;

	if (uv_fileno((uv_handle_t *)&command->pipe, &fd))
		return -EBADF;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(header), command->fds, size);
	do
		n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : -EPIPE;
	/* As long as we have it, too, an image stays locked. */
	close_fds(command->fds, command->fd_count);
	command->fd_count = 0;
	command->sent = (size_t)n;
	return 0;
}

static void command_connected(uv_connect_t *connect, int status)
{
	struct command *command = connect->data;
	uv_buf_t buffer;

	if (status == UV_ECANCELED)
		return;
	/* One that a dead daemon started has none before it begins, and none has one to its very end. */
	if (status == UV_ENOENT || status == UV_ECONNREFUSED) {
		command_end(command, NULL, EBUSY, "the machine's worker is about to begin, or to end: try again");
		return;
	}
	if (!status && command->fd_count)
		status = send_descriptors(command);
	if (status) {
		command_end(command, NULL, -status, "the worker's control socket does not answer");
		return;
	}
	buffer = uv_buf_init(command->text + command->sent, (unsigned)(command->size - command->sent));
	uv_read_start((uv_stream_t *)&command->pipe, answer_room, answer_bytes);
	if (buffer.len && uv_write(&command->write, (uv_stream_t *)&command->pipe, &buffer, 1, command_written))
		command_end(command, NULL, EPIPE, "the worker's control socket does not answer");
}

static void begin(struct command *command)
{
	struct worker_link *link = command->link;
	_cleanup_free_ char *path = NULL;

	command->begun = true;
	if (!command->patient)
		link->in_flight++;
	if (asprintf(&path, "%s/control", link->runtime) < 0)
		command_end(command, NULL, ENOMEM, "the machine's worker cannot be asked");
	else
		uv_pipe_connect(&command->connect, &command->pipe, path, command_connected);
}

/* The oldest that waits. */
static void begin_next(struct worker_link *link)
{
	struct command *oldest = NULL;

	if (link->over || link->in_flight >= IN_FLIGHT_MAX)
		return;
	for (struct command *command = link->commands; command; command = command->next)
		if (!command->begun)
			oldest = command;
	if (oldest)
		begin(oldest);
}

void worker_link_command(struct worker_link *link, json_t *request, worker_answered answered, void *context)
{
	worker_link_command_fds(link, request, NULL, 0, false, answered, context);
}

void worker_link_command_fds(struct worker_link *link, json_t *request, const int *fds, size_t count, bool patient,
    worker_answered answered, void *context)
{
	struct command *command = count > WORKER_FDS_MAX ? NULL : calloc(1, sizeof(*command));
	struct error err;

	json_object_set_new(request, "version", json_integer(1));
	if (command)
		command->text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!command || !command->text || link->over) {
		error_set(&err, link->over ? ECONNRESET : ENOMEM, "the machine's worker cannot be asked");
		if (command)
			free(command->text);
		free(command);
		close_fds(fds, count);
		answered(context, NULL, &err);
		return;
	}
	if (count)
		memcpy(command->fds, fds, count * sizeof(int));
	command->fd_count = count;
	command->size = strlen(command->text) + 1;
	command->text[command->size - 1] = '\n';
	command->link = link;
	command->patient = patient;
	command->answered = answered;
	command->context = context;
	command->next = link->commands;
	link->commands = command;
	link->handles++;
	command->pipe.data = command->timer.data = command->connect.data = command->write.data = command;
	command->handles = 2;
	uv_pipe_init(link->loop, &command->pipe, 0);
	uv_timer_init(link->loop, &command->timer);
	if (!patient)
		uv_timer_start(&command->timer, command_late, ANSWER_SECONDS * 1000ull, 0);
	if (patient || link->in_flight < IN_FLIGHT_MAX)
		begin(command);
}
