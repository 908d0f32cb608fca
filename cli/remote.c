/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
	const char *option, *variable;
} options[] = {{"--host", "BULKHEAD_HOST"},
	       {"--token-file", "BULKHEAD_TOKEN_FILE"},
	       {"--fingerprint", "BULKHEAD_FINGERPRINT"},
	       {"--ca-file", "BULKHEAD_CA_FILE"},
	       {"--certificate", "BULKHEAD_CERTIFICATE"},
	       {"--key", "BULKHEAD_KEY"}};

static const char *variable(const char *name)
{
	const char *text = getenv(name);

	return text && *text ? text : NULL;
}

int remote_from_environment(struct remote *remote, struct error *err)
{
	*remote = (struct remote){.host = variable("BULKHEAD_HOST"),
				  .token_file = variable("BULKHEAD_TOKEN_FILE"),
				  .fingerprint = variable("BULKHEAD_FINGERPRINT"),
				  .authority = variable("BULKHEAD_CA_FILE"),
				  .certificate = variable("BULKHEAD_CERTIFICATE"),
				  .key = variable("BULKHEAD_KEY")};
	if (remote->host && strncmp(remote->host, "https://", 8))
		return error_set(err, EINVAL, "--host: \"%.100s\" does not begin with https://", remote->host);
	if (remote->fingerprint && strncmp(remote->fingerprint, "sha256//", 8))
		return error_set(err, EINVAL, "--fingerprint begins with sha256//: bulkhead host show, on the host, tells it");
	return 0;
}

int remote_take_options(int *argc, char ***argv, struct error *err)
{
	while (*argc > 1 && !strncmp((*argv)[1], "--", 2)) {
		char *option = (*argv)[1], *value = strchr(option, '=');
		size_t length = value ? (size_t)(value - option) : strlen(option), i = 0;

		while (i < ARRAY_SIZE(options) &&
		       (strlen(options[i].option) != length || memcmp(options[i].option, option, length)))
			i++;
		if (i == ARRAY_SIZE(options))
			return 0;
		if (!value && *argc < 3)
			return error_set(err, EINVAL, "%s needs a value", option);
		if (setenv(options[i].variable, value ? value + 1 : (*argv)[2], 1))
			return error_set(err, ENOMEM, "no memory");
		*argc -= value ? 1 : 2;
		(*argv)[value ? 1 : 2] = (*argv)[0];
		*argv += value ? 1 : 2;
	}
	return 0;
}

int remote_read_token(char **token, const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[512];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode) && st.st_mode & 077)
		return error_set(err, EACCES, "%s may be read by others, and who has it may do what you may: chmod 600 %s", path,
				 path);
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	text[n] = '\0';
	text[strcspn(text, " \t\r\n")] = '\0';
	*token = *text ? strdup(text) : NULL;
	return *token ? 0 : error_set(err, EINVAL, "%s holds no token", path);
}
