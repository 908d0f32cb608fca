/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * terminal.h - the terminal of this process in raw mode, and back. Private to worker/.
 *
 * A process has one terminal, so there is one state for all. Whatever way the process ends but SIGKILL,
 * the terminal gets its old mode back: by terminal_restore(), or by a handler when the process dies of a
 * fault or abort. After a stop, SIGCONT makes it raw again. Main thread only.
 */
#pragma once

#include "base/base.h"

/* Make the terminal behind `fd` raw: every key goes to the guest. False when `fd` is none, or another is
 * raw already. The descriptor must live until terminal_restore(). */
bool terminal_raw(int fd);

/* Back to how it was; harmless when nothing is raw. */
void terminal_restore(void);

/* Where messages for a person go: standard error, with the line ends that a raw terminal wants as long as
 * it is one. The log goes there too meanwhile. */
FILE *terminal_messages(void);
