/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * image.h - guest images: a directory that holds all that a VM boots from, made from a distribution's
 * own packages.
 *
 *	image.json   what this is and how it boots (version 1; see image_load)
 *	disk.vhdx    dynamic; one ext4 file system labelled "bulkhead-root", no partition table
 *	vmlinuz      the distribution's kernel
 *	initrd.img   and its initramfs
 *
 * What takes long (fetching and installing packages) is done once for the same inputs and kept in
 * $XDG_CACHE_HOME/bulkhead/images (or ~/.cache). Two builds of one image wait for each other; one that
 * is interrupted leaves nothing that looks like an image.
 *
 * An image is no one's: it has no host keys, no machine id and nobody who can log in. The first boot
 * makes the keys, grows the file system to its disk and applies a seed: a small file system labelled
 * CIDATA, attached as DVD or disk, with the files meta-data and user-data of cloud-init's NoCloud.
 * debian-12/guest/apply-seed says which keys it understands.
 *
 * Threads: any one thread a call. Errors: negative errno; `err` gets the sentence for a person.
 */
#pragma once

#include "base/base.h"

#define IMAGE_DEFAULT_SIZE (8ull << 30)

struct image_build_options {
	const char *name;           /* "debian-12" */
	const char *directory;      /* made if it does not exist */
	uint64_t size;              /* of the disk, in bytes; 0: IMAGE_DEFAULT_SIZE */
	const char *const *include; /* more packages, ended by NULL; NULL: none */
	const char *mirror;         /* NULL: the distribution's own */
	bool refresh;               /* make the image anew even if it is in the cache */
	/* Called with a line for a person whenever something new begins; may be NULL. */
	void (*progress)(void *context, const char *text);
	void *context;
};

/* Make the image in options->directory. Nothing is done when that very image is there already.
 * -EINVAL: no such image, a bad package name or size; -EEXIST: the directory holds something else;
 * -ENOENT: a program is missing (the text names the package); -EPERM: neither root nor able to make
 * user namespaces; -ENOSPC; -ENETUNREACH: the packages cannot be fetched; -EIO: anything else. */
int image_build(const struct image_build_options *options, struct error *err);

/* The names image_build() knows, ended by NULL. */
const char *const *image_names(void);

/* An image directory, as `bulkhead run --image` needs it. Paths are absolute or as `directory` was. */
struct image {
	char *name;
	char *disk, *kernel, *initrd;
	char *append; /* kernel command line */
	uint64_t size;
};

/* Read image.json and see that its files are there. -ENOENT: no image; -EBADMSG: image.json is damaged;
 * -ENOTSUP: a later version of it. */
int image_load(struct image *image, const char *directory, struct error *err);
void image_free(struct image *image);

struct image_seed {
	const char *hostname; /* NULL: unchanged */
	const char *user;     /* NULL: none is made; with sudo rights */
	const char *password; /* plain text, only its hash is written; NULL: none */
	const char *ssh_key;  /* a line of authorized_keys; NULL: none */
};

/* Write a seed as an ISO image, replacing `path`. -EINVAL: a value that cannot stand in a seed. */
int image_seed_write(const char *path, const struct image_seed *seed, struct error *err);
