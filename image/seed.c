// SPDX-License-Identifier: GPL-2.0-or-later
/* seed.c - what makes a guest someone's: a NoCloud seed on a small ISO image. */
#include "image/build.h"

#include <crypt.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libburn/libburn.h> /* struct burn_source: how libisofs hands out an image */
#include <libisofs/libisofs.h>
#include <string.h>

static bool is_hostname(const char *s)
{
	size_t n = strlen(s);

	return n > 0 && n < 254 && s[0] != '-' && s[0] != '.' &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == n;
}

static bool is_user(const char *s)
{
	size_t n = strlen(s);

	return n > 0 && n <= 32 && islower((unsigned char)s[0]) &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

/* A line that stands unchanged between double quotes. */
static bool is_plain(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == '"' || *s == '\\' || *s == 127)
			return false;
	return true;
}

static int check_seed(const struct image_seed *seed, struct error *err)
{
	if (seed->hostname && !is_hostname(seed->hostname))
		return error_set(err, EINVAL, "\"%s\" is no host name: letters, digits, '-' and '.' only",
				 seed->hostname);
	if (seed->user && !is_user(seed->user))
		return error_set(
		    err, EINVAL,
		    "\"%s\" is no user name: it begins with a small letter, then a-z, 0-9, '-', '_', "
		    "32 at most",
		    seed->user);
	if (!seed->user && (seed->password || seed->ssh_key))
		return error_set(err, EINVAL, "a password or an ssh key needs a user that it is for");
	if (seed->ssh_key && (!*seed->ssh_key || !is_plain(seed->ssh_key)))
		return error_set(err, EINVAL, "the ssh key is not one line as in authorized_keys");
	if (seed->password && (!*seed->password || strlen(seed->password) > 256))
		return error_set(err, EINVAL, "the password is empty or longer than 256 characters");
	return 0;
}

/* SHA-512 crypt: what a guest checks quickly enough even on a software processor. */
static char *hash_password(const char *password)
{
	struct crypt_data *data = calloc(1, sizeof(*data));
	char salt[CRYPT_GENSALT_OUTPUT_SIZE];
	char *hash = NULL;

	if (data && crypt_gensalt_rn("$6$", 0, NULL, 0, salt, sizeof(salt))) {
		const char *text = crypt_rn(password, salt, data, sizeof(*data));

		hash = text ? format_string("%s", text) : NULL;
	}
	if (data)
		explicit_bzero(data, sizeof(*data));
	free(data);
	return hash;
}

static int make_user_data(char **out, const struct image_seed *seed, struct error *err)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return error_set(err, ENOMEM, "no memory for a seed");
	fprintf(f, "#cloud-config\n");
	if (seed->hostname)
		fprintf(f, "hostname: \"%s\"\n", seed->hostname);
	if (seed->user)
		fprintf(f, "user: \"%s\"\n", seed->user);
	if (seed->password) {
		_cleanup_free_ char *hash = hash_password(seed->password);

		if (!hash) {
			fclose(f);
			free(text);
			return error_set(err, EIO, "the password cannot be hashed: %s", strerror(errno));
		}
		fprintf(f, "passwd: \"%s\"\n", hash);
	}
	if (seed->ssh_key)
		fprintf(f, "ssh_authorized_keys:\n  - \"%s\"\n", seed->ssh_key);
	fclose(f);
	*out = text;
	return 0;
}

static char *make_meta_data(const struct image_seed *seed)
{
	char id[GUID_TEXT_SIZE];
	struct guid guid;

	guid_random(&guid); /* each seed is a new one, to be applied */
	guid_format(&guid, id);
	return seed->hostname ? format_string("instance-id: %s\nlocal-hostname: %s\n", id, seed->hostname)
			      : format_string("instance-id: %s\n", id);
}

static int add_text(IsoImage *image, const char *name, const char *text)
{
	size_t size = strlen(text);
	unsigned char *copy = malloc(size);
	IsoStream *stream;
	int r;

	if (!copy)
		return ISO_OUT_OF_MEM;
	memcpy(copy, text, size);
	r = iso_memory_stream_new(copy, size, &stream); /* takes the copy */
	if (r < 0) {
		free(copy);
		return r;
	}
	r = iso_tree_add_new_file(iso_image_get_root(image), name, stream, NULL);
	if (r < 0)
		iso_stream_unref(stream);
	return r;
}

static int write_burn_source(struct burn_source *source, int fd)
{
	uint8_t block[2048];
	int r;

	while ((r = source->read_xt(source, block, sizeof(block))) == (int)sizeof(block)) {
		ssize_t n = write(fd, block, sizeof(block));

		if (n != (ssize_t)sizeof(block))
			return n < 0 ? -errno : -EIO;
	}
	return r < 0 ? -EIO : 0;
}

/* An ISO 9660 image with the names in Rock Ridge and Joliet; 0, an ISO_ error (below -0xffff) or -errno. */
static int write_iso(int fd, const char *meta_data, const char *user_data)
{
	struct burn_source *source = NULL;
	IsoWriteOpts *opts = NULL;
	IsoImage *image = NULL;
	int r = iso_image_new("CIDATA", &image);

	if (r >= 0)
		r = add_text(image, "meta-data", meta_data);
	if (r >= 0)
		r = add_text(image, "user-data", user_data);
	if (r >= 0)
		r = iso_write_opts_new(&opts, 0);
	if (r >= 0) {
		iso_write_opts_set_rockridge(opts, 1);
		iso_write_opts_set_joliet(opts, 1);
		r = iso_image_create_burn_source(image, opts, &source);
	}
	if (r >= 0)
		r = write_burn_source(source, fd);
	if (source) {
		source->free_data(source);
		free(source);
	}
	if (opts)
		iso_write_opts_free(opts);
	if (image)
		iso_image_unref(image);
	return r < 0 ? r : 0;
}

static int write_seed_file(const char *path, const char *meta_data, const char *user_data, struct error *err)
{
	_cleanup_free_ char *partial = format_string("%s.partial", path);
	_cleanup_close_ int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char never[] = "NEVER", none[] = "";
	int r;

	if (fd < 0)
		return error_set(err, errno, "cannot make the seed %s: %s", partial, strerror(errno));
	if (iso_init() < 0)
		return error_set(err, ENOMEM, "cannot make the seed %s: the ISO library does not start",
				 path);
	iso_set_msgs_severities(never, never, none);
	r = write_iso(fd, meta_data, user_data);
	iso_finish();
	if (r == 0 && (fsync(fd) < 0 || rename(partial, path) < 0))
		r = -errno;
	if (r == 0)
		return 0;
	unlink(partial);
	return error_set(err, r > -4096 ? -r : EIO, "cannot write the seed %s: %s", path,
			 r > -4096 ? strerror(-r) : iso_error_to_msg(r));
}

int image_seed_write(const char *path, const struct image_seed *seed, struct error *err)
{
	_cleanup_free_ char *meta_data = NULL;
	_cleanup_free_ char *user_data = NULL;
	int r = check_seed(seed, err);

	if (r == 0)
		r = make_user_data(&user_data, seed, err);
	if (r < 0)
		return r;
	meta_data = make_meta_data(seed);
	return write_seed_file(path, meta_data, user_data, err);
}
