/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * images.h - the library: images that machines are made from, each a directory of its own below
 * STATE/images (image/image.h). Private to vmms/.
 *
 * Machines get copies, so an image may go or change at any time. An image that is being made has a name with
 * a dot in front, which nobody can ask for.
 */
#pragma once

#include "vmms/daemon.h"

extern const struct form image_add_form;

/* -EINVAL: a name that an image cannot have; `err` is the end of a sentence. */
int image_name_check(const char *name, struct error *err);

/* All of them, by name. */
extern const struct form image_form;
int images_list(struct vmms *vmms, json_t **list, struct error *err);

/* A job: builds a distribution's image or copies one from a directory. `request` has passed image_add_form. */
int image_add(struct vmms *vmms, const json_t *request, struct job **job, struct error *err);

int image_delete(struct vmms *vmms, const char *name, struct error *err);

/* What an interrupted job has left. */
void images_tidy(struct vmms *vmms);
