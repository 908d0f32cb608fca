// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * debian.c - a Debian root file system from packages, by mmdebstrap.
 *
 * As root it works directly; else in a user namespace, whose root owns the files. The scripts in
 * debian-12/ say what goes into an image.
 */
#include "image/build.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#define SUITE      "bookworm"
#define NEED_SPACE (2ull << 30) /* archive, tree and file system of a plain image, with some to spare */

/* The package list without comments, joined by commas, with what the caller adds. */
static char *package_list(const struct image_build_options *options)
{
	const struct embedded_file *file = embedded_find("debian-12/packages");
	_cleanup_free_ char *lines = format_string("%s", file->data);
	char *list = format_string("%s", ""), *state = NULL;

	for (char *line = strtok_r(lines, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
		char *longer;

		if (*line == '#')
			continue;
		longer = format_string("%s%s%s", list, *list ? "," : "", line);
		free(list);
		list = longer;
	}
	for (const char *const *p = options->include; p && *p; p++) {
		char *longer = format_string("%s,%s", list, *p);

		free(list);
		list = longer;
	}
	return list;
}

char *debian_inputs(const struct image_build_options *options)
{
	_cleanup_free_ char *packages = package_list(options);
	char *text = format_string("suite %s\nmirror %s\npackages %s\n", SUITE,
				   options->mirror ? options->mirror : "-", packages);

	for (size_t i = 0; i < embedded_file_count; i++) {
		char *longer =
		    format_string("%s--- %s\n%s", text, embedded_files[i].name, embedded_files[i].data);

		free(text);
		text = longer;
	}
	return text;
}

static int check_tools(bool root, const char *log, struct error *err)
{
	char *try[] = {(char *)"unshare", (char *)"--map-auto", (char *)"--map-root-user", (char *)"true",
		       NULL};
	int r = find_program("mmdebstrap", "mmdebstrap", err);

	if (r == 0)
		r = find_program("mke2fs", "e2fsprogs", err);
	if (r == 0)
		r = find_program("tar", "tar", err);
	if (r < 0 || root)
		return r;
	r = find_program("newuidmap", "uidmap", err);
	if (r < 0)
		return r;
	r = run_program(try, NULL, log, err);
	if (r > 0)
		return error_set(
		    err, EPERM,
		    "an image is made by root, or in a user namespace, which this user cannot make: "
		    "give the user ranges in /etc/subuid and /etc/subgid (usermod --add-subuids "
		    "100000-165535 "
		    "--add-subgids 100000-165535 USER), or run this as root");
	return r;
}

/* Write the embedded files under `dir`. */
static int unpack_scripts(const char *dir, struct error *err)
{
	_cleanup_free_ char *guest = format_string("%s/debian-12/guest", dir);
	int r = make_directories(guest, err);

	for (size_t i = 0; r == 0 && i < embedded_file_count; i++) {
		_cleanup_free_ char *path = format_string("%s/%s", dir, embedded_files[i].name);

		r = write_file(path, embedded_files[i].data, embedded_files[i].size,
			       embedded_files[i].executable, err);
	}
	return r;
}

static bool mentions(const char *text, const char *const *phrases)
{
	for (; *phrases; phrases++)
		if (strstr(text, *phrases))
			return true;
	return false;
}

/* The last line that says what was wrong; the tools mark it with E: or "error". Cuts the text. */
static const char *last_words(char *text)
{
	const char *words = "no word of what was wrong", *last = NULL;
	char *state = NULL;

	for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
		if (strncmp(line, "E: ", 3) == 0)
			last = line + 3;
		words = line;
	}
	return last ? last : words;
}

/* A sentence from what the tool left in its log. */
static int explain(const char *what, int status, const char *log, const char *mirror, struct error *err)
{
	static const char *const no_network[] = {"Could not resolve",      "Temporary failure resolving",
						 "Could not connect",      "Unable to connect",
						 "Network is unreachable", "Connection timed out",
						 "Connection refused",     NULL};
	static const char *const no_space[] = {"No space left on device", NULL};
	static const char *const no_package[] = {"Unable to locate package", NULL};
	_cleanup_free_ char *text = read_file(log, NULL, NULL);

	if (!text)
		return error_set(err, EIO, "%s failed with status %d", what, status);
	if (mentions(text, no_space))
		return error_set(
		    err, ENOSPC,
		    "%s ran out of disk space: free some, or set XDG_CACHE_HOME (and TMPDIR) to a "
		    "directory on another disk",
		    what);
	if (mentions(text, no_package)) {
		const char *package = strstr(text, no_package[0]) + strlen(no_package[0]);

		return error_set(err, EINVAL, "Debian has no package%.*s", (int)strcspn(package, "\n"),
				 package);
	}
	if (mentions(text, no_network))
		return error_set(err, ENETUNREACH,
				 "the packages cannot be fetched from %s: check the network and the proxy "
				 "(http_proxy), or name another mirror",
				 mirror ? mirror : "deb.debian.org");
	if (status > 128)
		return error_set(err, EINTR, "%s was ended by signal %d", what, status - 128);
	return error_set(err, EIO, "%s failed with status %d: %.300s", what, status, last_words(text));
}

static int bootstrap(const char *work, const char *log, bool root, const struct image_build_options *options,
		     struct error *err)
{
	_cleanup_free_ char *packages = package_list(options);
	_cleanup_free_ char *include = format_string("--include=%s", packages);
	_cleanup_free_ char *bring =
	    format_string("--customize-hook=copy-in \"%s/debian-12\" /var/tmp", work);
	_cleanup_free_ char *tar = format_string("%s/root.tar", work);
	char *argv[] = {(char *)"mmdebstrap",
			(char *)(root ? "--mode=root" : "--mode=unshare"),
			(char *)"--variant=minbase",
			(char *)"--format=tar",
			include,
			(char *)"--aptopt=Acquire::Languages \"none\"",
			(char *)"--aptopt=APT::Install-Recommends \"false\"",
			(char *)"--aptopt=Acquire::Retries \"3\"",
			(char *)"--dpkgopt=force-unsafe-io",
			bring,
			(char *)"--customize-hook=chroot \"$1\" sh /var/tmp/debian-12/customize.sh",
			(char *)"--customize-hook=rm -r \"$1/var/tmp/debian-12\"",
			(char *)SUITE,
			(char *)"-",
			(char *)options->mirror,
			NULL};
	int r = run_program(argv, tar, log, err);

	return r > 0 ? explain("mmdebstrap", r, log, options->mirror, err) : r;
}

static int make_filesystem(const char *work, const char *log, bool root, struct error *err)
{
	_cleanup_free_ char *script = format_string("%s/debian-12/make-filesystem.sh", work);
	_cleanup_free_ char *tar = format_string("%s/root.tar", work);
	char *argv[] = {(char *)"unshare",
			(char *)"--map-auto",
			(char *)"--map-root-user",
			script,
			tar,
			(char *)work,
			NULL};
	int r = run_program(root ? argv + 3 : argv, NULL, log, err);

	return r > 0 ? explain("writing the file system", r, log, NULL, err) : r;
}

static void say(const struct image_build_options *options, const char *text)
{
	if (options->progress)
		options->progress(options->context, text);
}

int debian_build(const char *work, const struct image_build_options *options, struct error *err)
{
	_cleanup_free_ char *log = format_string("%s/log", work);
	bool root = geteuid() == 0;
	int r = check_space(work, NEED_SPACE, err);

	if (r == 0)
		r = check_tools(root, log, err);
	if (r == 0)
		r = unpack_scripts(work, err);
	if (r == 0) {
		say(options, "fetching and installing Debian's packages (a minute or two)");
		r = bootstrap(work, log, root, options, err);
	}
	if (r == 0) {
		say(options, "writing the file system");
		r = make_filesystem(work, log, root, err);
	}
	return r;
}
