/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ovs.c - the daemons: found, started, ended. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "switch/ovs_private.h"
#include "switch/program.h"

#define HOSTS_DIRECTORY "/run/openvswitch"
#define SCHEMA          "/usr/share/openvswitch/vswitch.ovsschema"
#define START_SECONDS   10u
#define END_SECONDS     5u

int ovs_new(struct ovs **out, const struct ovs_place *place, struct error *err)
{
	struct ovs *ovs = calloc(1, sizeof(*ovs));

	if (ovs) {
		ovs->owner = strdup(place->owner);
		ovs->own_directory = strdup(place->directory);
		ovs->directory = strdup(place->directory);
		ovs->own = true;
		ovs->only_own = place->own;
		ovs->datapath = "netdev";
	}
	if (!ovs || !ovs->owner || !ovs->own_directory || !ovs->directory) {
		ovs_free(ovs);
		return error_set(err, ENOMEM, "no memory for switches");
	}
	*out = ovs;
	return 0;
}

void ovs_free(struct ovs *ovs)
{
	if (!ovs)
		return;
	json_decref(ovs->flows);
	ovsdb_close(ovs->silent);
	free(ovs->owner);
	free(ovs->own_directory);
	free(ovs->directory);
	free(ovs);
}

const char *ovs_datapath(const struct ovs *ovs)
{
	return ovs->datapath;
}

bool ovs_datapath_known(const struct ovs *ovs)
{
	return ovs->datapath_known;
}

void ovs_environment(const struct ovs *ovs, struct ovs_environment *e)
{
	static const char *const names[] = {"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"};

	memset(e, 0, sizeof(*e));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(e->text[i], sizeof(e->text[i]), "%s=%.200s", names[i], ovs->directory);
		e->list[i] = e->text[i];
	}
	snprintf(e->text[4], sizeof(e->text[4]), "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
	e->list[4] = e->text[4];
}

/* --- who runs ------------------------------------------------------------------------------------------- */

/* A daemon holds a lock on its pid file as long as it lives, so no number of a process that is gone is taken for it. */
static int holder(const char *directory, const char *name)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/%s.pid", directory, name) < 0)
		return 0;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK)
		return 0;
	return lock.l_pid;
}

int ovs_switch_pid(const struct ovs *ovs)
{
	return holder(ovs->directory, "ovs-vswitchd");
}

int ovs_database_pid(const struct ovs *ovs)
{
	return ovs->own ? holder(ovs->directory, "ovsdb-server") : 0;
}

bool ovs_is_own(const struct ovs *ovs)
{
	return ovs->own;
}

static int connect_to(const char *directory, struct ovsdb **db, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/db.sock", directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	return ovsdb_open(db, path, err);
}

int ovs_connect(struct ovs *ovs, struct ovsdb **db, struct error *err)
{
	if (ovs->silent && ovsdb_is_silent(ovs->silent))
		return error_set(err, ETIMEDOUT, "Open vSwitch's database (ovsdb-server) does not answer: is it stopped?");
	ovsdb_close(ovs->silent);
	ovs->silent = NULL;
	return connect_to(ovs->directory, db, err);
}

void ovs_disconnect(struct ovs *ovs, struct ovsdb *db)
{
	if (db && ovsdb_is_late(db) && !ovs->silent)
		ovs->silent = db;
	else
		ovsdb_close(db);
}

static bool hosts_database_answers(void)
{
	struct ovsdb *db = NULL;
	int r = connect_to(HOSTS_DIRECTORY, &db, NULL);

	if (!r)
		r = ovsdb_call(db, "list_dbs", json_array(), NULL, NULL);
	ovsdb_close(db);
	return r == 0;
}

static bool database_answers(struct ovs *ovs)
{
	struct ovsdb *db = NULL;
	int r = ovs_connect(ovs, &db, NULL);

	if (!r)
		r = ovsdb_call(db, "list_dbs", json_array(), NULL, NULL);
	ovs_disconnect(ovs, db);
	return r == 0;
}

/* The host's own goes first, and is never left: ours with it would be two on one datapath. */
int ovs_choose(struct ovs *ovs, struct error *err)
{
	char *hosts;

	if (ovs->only_own)
		return 0;
	if (!ovs->own)
		return database_answers(ovs) ? 0 : error_set(err, EIO, "the host's Open vSwitch, which has the switches, does not answer: start it");
	if (!hosts_database_answers())
		return 0;
	hosts = strdup(HOSTS_DIRECTORY);
	if (!hosts)
		return error_set(err, ENOMEM, "no memory for switches");
	free(ovs->directory);
	ovs->directory = hosts;
	ovsdb_close(ovs->silent);
	ovs->silent = NULL;
	ovs->own = false;
	ovs->datapath_known = false;
	return 0;
}

/* --- ours ---------------------------------------------------------------------------------------------- */

static int run(const struct ovs *ovs, const char *const *argv, struct error *err)
{
	struct ovs_environment environment;
	int r;

	ovs_environment(ovs, &environment);
	r = program_run(argv, NULL, environment.list, START_SECONDS, err);
	if (r == -ENOENT)
		return error_set(err, ENOTSUP, "switches need Open vSwitch, and %s is not installed: install openvswitch-switch", argv[0]);
	return r;
}

/* The kernel's module, if the host has one; it is asked for, as nobody else may have needed it yet. */
static const char *find_datapath(void)
{
	/* The second needs no right to load modules: the kernel does it, for whoever asks for what the module serves. */
	static const char *const ways[][7] = {{"modprobe", "-q", "openvswitch", NULL}, {"genl", "ctrl", "get", "name", "ovs_datapath", NULL}};
	static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

	for (size_t i = 0; i < ARRAY_SIZE(ways) && access("/sys/module/openvswitch", F_OK); i++)
		program_run(ways[i], NULL, environment, START_SECONDS, NULL);
	return access("/sys/module/openvswitch", F_OK) ? "netdev" : "system";
}

/* Of segments larger than the wire's and of checksums that are not there yet ovs-vswitchd's own datapath knows only if it is
 * told before it begins. */
static int init_database(struct ovs *ovs, struct error *err)
{
	json_t *rows = NULL, *config;
	struct ovsdb *db = NULL;
	int r = ovs_connect(ovs, &db, err);

	if (!r)
		r = ovsdb_transact(db, json_pack("[{s:s, s:s, s:[], s:[s]}]", "op", "select", "table", "Open_vSwitch", "where", "columns", "_uuid"),
		    &rows, err);
	if (!r && !json_array_size(json_object_get(json_array_get(rows, 0), "rows"))) {
		config = json_pack("{s:s}", "userspace-tso-enable", "true");
		r = ovsdb_transact(db, json_pack("[{s:s, s:s, s:{s:o}}]", "op", "insert", "table", "Open_vSwitch", "row", "other_config",
			ovsdb_map(config)), NULL, err);
		json_decref(config);
	}
	json_decref(rows);
	ovs_disconnect(ovs, db);
	return r;
}

static int start_database(const struct ovs *ovs, struct error *err)
{
	_cleanup_free_ char *file = NULL, *remote = NULL, *pid = NULL, *log = NULL, *control = NULL;
	const char *const *argv;
	int r = 0;

	if (asprintf(&file, "%s/conf.db", ovs->directory) < 0 || asprintf(&remote, "--remote=punix:%s/db.sock", ovs->directory) < 0 ||
	    asprintf(&pid, "--pidfile=%s/ovsdb-server.pid", ovs->directory) < 0 ||
	    asprintf(&log, "--log-file=%s/ovsdb-server.log", ovs->directory) < 0 ||
	    asprintf(&control, "--unixctl=%s/ovsdb-server.ctl", ovs->directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	if (access(file, F_OK)) {
		argv = (const char *const[]){"ovsdb-tool", "create", file, SCHEMA, NULL};
		r = run(ovs, argv, err);
	}
	argv = (const char *const[]){"ovsdb-server", file, remote, pid, log, control, "--detach", "--no-chdir", "-vconsole:off", NULL};
	return r ? r : run(ovs, argv, err);
}

static int start_switch(const struct ovs *ovs, struct error *err)
{
	_cleanup_free_ char *remote = NULL, *pid = NULL, *log = NULL, *control = NULL;
	const char *const *argv;

	if (asprintf(&remote, "unix:%s/db.sock", ovs->directory) < 0 ||
	    asprintf(&pid, "--pidfile=%s/ovs-vswitchd.pid", ovs->directory) < 0 ||
	    asprintf(&log, "--log-file=%s/ovs-vswitchd.log", ovs->directory) < 0 ||
	    asprintf(&control, "--unixctl=%s/ovs-vswitchd.ctl", ovs->directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	argv = (const char *const[]){"ovs-vswitchd", remote, pid, log, control, "--detach", "--no-chdir", "-vconsole:off", NULL};
	return run(ovs, argv, err);
}

static void end_process(int pid)
{
	_cleanup_close_ int fd = pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (fd < 0)
		return;
	syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0);
	if (poll(&p, 1, (int)END_SECONDS * 1000) > 0)
		return;
	log_write(LOG_LEVEL_WARNING, "process %d of Open vSwitch does not end, and is killed", pid);
	syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	poll(&p, 1, (int)END_SECONDS * 1000);
}

static void remove_directory(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;

	while (directory && (entry = readdir(directory)))
		unlinkat(dirfd(directory), entry->d_name, 0);
	if (directory)
		closedir(directory);
	rmdir(path);
}

/* Ours, whoever's are used by now. */
static void end_own(const struct ovs *ovs)
{
	end_process(holder(ovs->own_directory, "ovs-vswitchd"));
	end_process(holder(ovs->own_directory, "ovsdb-server"));
	remove_directory(ovs->own_directory);
}

/* Chosen once: bridges, and interfaces in them, are told the one or the other. */
static void choose_datapath(struct ovs *ovs)
{
	const char *has;

	if (ovs->datapath_known)
		return;
	has = ovs_bridges_datapath(ovs);
	ovs->datapath = has && !strcmp(has, "netdev") ? "netdev" : find_datapath();
	ovs->datapath_known = true;
}

static int start_own(struct ovs *ovs, bool *started, struct error *err)
{
	int r = 0;

	if (mkdir(ovs->directory, 0700) && errno != EEXIST)
		return error_set(err, errno, "%s: %s", ovs->directory, strerror(errno));
	if (!ovs_database_pid(ovs)) {
		r = start_database(ovs, err);
		*started = true;
	}
	if (!r)
		r = init_database(ovs, err);
	if (r)
		return r;
	choose_datapath(ovs);
	if (ovs_switch_pid(ovs))
		return 0;
	*started = true;
	return start_switch(ovs, err);
}

int ovs_start(struct ovs *ovs, bool *started, struct error *err)
{
	bool any = false;
	int r;

	/* Whoever asks for more begins here. */
	ovs->told = false;
	r = ovs_choose(ovs, err);
	if (!r && ovs->own) {
		r = start_own(ovs, &any, err);
	} else if (!r) {
		end_own(ovs);
		choose_datapath(ovs);
		if (!ovs_switch_pid(ovs))
			r = error_set(err, EIO, "the host's Open vSwitch has a database, and no ovs-vswitchd that runs: start it");
	}
	if (started)
		*started = any;
	return r;
}

int ovs_take_out(struct ovs *ovs, const char *interface, struct error *err)
{
	const char *const argv[] = {"ovs-dpctl", "del-if", "ovs-system", interface, NULL};

	if (!ovs->told && ovs_switch_pid(ovs))
		return error_set(err, EBUSY, "Open vSwitch would put %s back", interface);
	return run(ovs, argv, err);
}

void ovs_stop(struct ovs *ovs)
{
	if (!ovs->own)
		return;
	end_own(ovs);
	ovsdb_close(ovs->silent);
	ovs->silent = NULL;
	ovs->datapath_known = false;
}
