/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/screen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

/* ECMA-48, and xterm's other screen. */
#define OTHER_SCREEN "\033[?1049h\033[?25l"
#define BACK         "\033[?25h\033[?1049l"
#define HOME         "\033[H"
#define REST_OF_LINE "\033[K"
#define REST         "\033[J"

static volatile sig_atomic_t over;

static void on_signal(int number)
{
	if (number != SIGWINCH)
		over = 1;
}

/* As many characters of a line as there are columns: bytes of UTF-8 that go on with one do not count. */
static size_t fitting(const char *line, size_t size, unsigned columns)
{
	size_t at = 0;

	for (unsigned used = 0; at < size; at++) {
		used += ((unsigned char)line[at] & 0xc0) != 0x80;
		if (used > columns)
			break;
	}
	return at;
}

static void show(const char *text)
{
	struct winsize window = {0};
	unsigned row = 0;

	/* A serial line does not know. */
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) || !window.ws_row || !window.ws_col)
		window = (struct winsize){.ws_row = 24, .ws_col = 80};
	fputs(HOME, stdout);
	for (const char *line = text; *line && row < window.ws_row; row++) {
		size_t size = strcspn(line, "\n");

		fwrite(line, 1, fitting(line, size, window.ws_col), stdout);
		fputs(REST_OF_LINE, stdout);
		line += size;
		if (*line)
			line++;
		if (*line && row + 1 < window.ws_row)
			fputs("\r\n", stdout);
	}
	fputs(REST, stdout);
	fflush(stdout);
}

/* What is drawn appears at once, not line by line. */
static int draw_whole(screen_draw draw, void *context)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	int status;

	if (!to)
		return 1;
	status = draw(context, to);
	if (fclose(to) == 0 && !status)
		show(text);
	free(text);
	return status;
}

/* False: the user wants out. */
static bool wait_for_key(double seconds)
{
	struct pollfd in = {STDIN_FILENO, POLLIN, 0};
	char key;

	if (poll(&in, 1, (int)(seconds * 1000)) <= 0)
		return true;
	return read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q';
}

int screen_run(double seconds, screen_draw draw, void *context, struct error *err)
{
	/* poll() ends at a signal all the same; what is written to a slow terminal goes on behind one. */
	const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct termios before, raw;
	int status = 0;

	if (tcgetattr(STDIN_FILENO, &before) || !isatty(STDOUT_FILENO))
		return error_set(err, ENOTTY, "this needs a terminal: with --json it tells once");
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGWINCH, &action, NULL);
	raw = before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs(OTHER_SCREEN, stdout);
	do
		status = draw_whole(draw, context);
	while (!status && !over && wait_for_key(seconds) && !over);
	fputs(BACK, stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &before);
	return status;
}
