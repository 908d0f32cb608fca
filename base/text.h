/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * text.h - what a reader sees of a text in UTF-8, of which two that look alike should not be two.
 *
 * Source: the Unicode standard's properties White_Space, Bidi_Control and Default_Ignorable_Code_Point. Letters of different scripts that look alike are not
 * known here. Any thread.
 */
#pragma once

#include "base/base.h"

enum text_kind {
	TEXT_SEEN,
	TEXT_HIDDEN,  /* takes no room, or looks like a space and is not ' ' */
	TEXT_TURNS,   /* hidden, and what is around it is shown elsewhere: in the other direction, or on the next line */
	TEXT_COMMAND, /* controls (C0, DEL, C1), which terminals obey */
};

/* Of the character that begins at `c`, which is not the text's end. *size (may be NULL) is that of it in bytes; what is no UTF-8 is seen, byte by byte. */
enum text_kind text_kind(const char *c, size_t *size);

/* -EINVAL: a name may not have such a character in it as this has; `err` is the end of a sentence. */
int text_check_name(const char *name, struct error *err);
