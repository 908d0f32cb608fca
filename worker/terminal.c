/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/terminal.h"

#include <signal.h>
#include <string.h>
#include <termios.h>

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGQUIT, SIGSYS};

/* The one terminal of the process. Set up before the handlers that read it. */
static struct {
	bool active;
	int fd;
	struct termios saved, raw;
	struct sigaction fatal[ARRAY_SIZE(fatal_signals)], go_on; /* what handled these before */
	FILE *messages;
} terminal;

/* Hands the signal on to whoever had it before: the default, or a sanitizer. */
static void died(int number, siginfo_t *info, void *context)
{
	(void)context;
	tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
	for (unsigned i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &terminal.fatal[i], NULL);
	/* A fault comes again by itself when this returns; what was sent must be sent again. */
	if (info->si_code <= 0)
		raise(number);
}

static void continued(int number)
{
	(void)number;
	if (tcgetpgrp(terminal.fd) == getpgrp())
		tcsetattr(terminal.fd, TCSANOW, &terminal.raw);
}

static void take_signals(void)
{
	struct sigaction fatal = {.sa_sigaction = died, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct sigaction go_on = {.sa_handler = continued, .sa_flags = SA_RESTART};

	for (unsigned i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &fatal, &terminal.fatal[i]);
	sigaction(SIGCONT, &go_on, &terminal.go_on);
}

static void give_signals_back(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &terminal.fatal[i], NULL);
	sigaction(SIGCONT, &terminal.go_on, NULL);
}

static ssize_t write_message(void *cookie, const char *text, size_t size)
{
	(void)cookie;
	for (const char *at = text, *end = text + size; at < end;) {
		const char *line = memchr(at, '\n', (size_t)(end - at));

		fwrite(at, 1, (size_t)((line ? line : end) - at), stderr);
		if (line)
			fputs("\r\n", stderr);
		at = line ? line + 1 : end;
	}
	return (ssize_t)size;
}

bool terminal_raw(int fd)
{
	if (terminal.active || !isatty(fd) || tcgetattr(fd, &terminal.saved))
		return false;
	terminal.fd = fd;
	terminal.raw = terminal.saved;
	cfmakeraw(&terminal.raw);
	take_signals();
	if (tcsetattr(fd, TCSANOW, &terminal.raw)) {
		give_signals_back();
		return false;
	}
	terminal.active = true;
	if (isatty(STDERR_FILENO)) {
		terminal.messages = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_message});
		if (terminal.messages)
			setvbuf(terminal.messages, NULL, _IOLBF, BUFSIZ);
		log_set_stream(terminal.messages);
	}
	return true;
}

void terminal_restore(void)
{
	FILE *messages = terminal.messages;

	if (!terminal.active)
		return;
	tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
	give_signals_back();
	terminal.active = false;
	terminal.messages = NULL;
	log_set_stream(NULL);
	if (messages)
		fclose(messages);
}

FILE *terminal_messages(void)
{
	return terminal.messages ? terminal.messages : stderr;
}
