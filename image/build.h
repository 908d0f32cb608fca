/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * build.h - the steps of image_build(), one a file; private to image/.
 */
#pragma once

#include "image/image.h"

/* --- embedded files (generated from debian-12/) ------------------------------------------------- */

struct embedded_file {
	const char *name; /* "debian-12/customize.sh" */
	const char *data;
	size_t size;
	bool executable;
};

extern const struct embedded_file embedded_files[];
extern const size_t embedded_file_count;

const struct embedded_file *embedded_find(const char *name);

/* --- files.c ------------------------------------------------------------------------------------ */

/* mkdir -p. */
int make_directories(const char *path, struct error *err);
/* rm -rf; what does not exist is fine. */
int remove_tree(const char *path, struct error *err);
int write_file(const char *path, const void *data, size_t size, bool executable, struct error *err);
/* The whole file, ended by a zero byte; NULL with err set. */
char *read_file(const char *path, size_t *size, struct error *err);
/* Shares blocks where the file system can, else copies. */
int copy_file(const char *from, const char *to, struct error *err);
/* -ENOSPC with a sentence unless `path`'s file system has that many bytes free. */
int check_space(const char *path, uint64_t bytes, struct error *err);
char *format_string(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- program.c ---------------------------------------------------------------------------------- */

/* -ENOENT naming `package` unless `program` is on the path (sbin included). */
int find_program(const char *program, const char *package, struct error *err);

/* Run argv to its end: standard output goes to the file `out` (NULL: to the log), standard error to the
 * log, which is truncated; input is empty. Returns its exit status, 128 + n for signal n, or a negative
 * errno. */
int run_program(char *const argv[], const char *out, const char *log, struct error *err);

/* --- debian.c ----------------------------------------------------------------------------------- */

/* Fill `work` (an empty directory) with root.img, vmlinuz, initrd.img, packages. */
int debian_build(const char *work, const struct image_build_options *options, struct error *err);

/* All that decides what debian_build() makes, as text. The caller frees it. */
char *debian_inputs(const struct image_build_options *options);

/* --- disk_writer.c ------------------------------------------------------------------------------ */

/* A dynamic VHDX of `size` bytes at `to` with what the sparse file `from` holds. */
int write_disk(const char *from, const char *to, uint64_t size, struct error *err);

/* --- metadata.c --------------------------------------------------------------------------------- */

int metadata_write(const char *path, const char *name, const char *key, uint64_t size, const char *append,
		   const char *packages, struct error *err);
/* The key of the image in `directory`, or NULL if there is none. The caller frees it. */
char *metadata_key(const char *directory);
