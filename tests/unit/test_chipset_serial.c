/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The serial port as a guest's driver sees it, and from its other end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "chipset/chipset.h"
#include "tests/double/board.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct port {
	struct partition *p;
	struct serial *s;
	char out[256];
	size_t out_size, out_limit;
	unsigned room_calls;
	bool irq;
	unsigned edges;
};

static void on_irq(void *context, unsigned pin, bool level)
{
	struct port *t = context;

	assert_int_equal(pin, 4);
	t->edges += level && !t->irq;
	t->irq = level;
}

static size_t on_output(void *context, const uint8_t *bytes, size_t size)
{
	struct port *t = context;
	size_t n = min_u64(size, t->out_limit - t->out_size);

	memcpy(t->out + t->out_size, bytes, n);
	t->out_size += n;
	return n;
}

static void on_room(void *context)
{
	((struct port *)context)->room_calls++;
}

static int set_up(void **state)
{
	struct port *t = calloc(1, sizeof(*t));

	*state = t;
	t->out_limit = sizeof(t->out);
	t->p = board_create(1);
	assert_int_equal(serial_create(&t->s, t->p,
				       &(struct serial_config){.port = SERIAL_COM1,
							       .name = "COM1",
							       .irq = {on_irq, t, 4},
							       .output = on_output,
							       .input_room = on_room,
							       .context = t},
				       NULL),
			 0);
	return 0;
}

static int tear_down(void **state)
{
	struct port *t = *state;

	serial_destroy(t->s);
	board_destroy(t->p);
	free(t);
	return 0;
}

static uint8_t in(struct port *t, unsigned reg)
{
	return (uint8_t)board_in(t->p, (uint16_t)(SERIAL_COM1 + reg), 1);
}

static void out(struct port *t, unsigned reg, uint8_t value)
{
	board_out(t->p, (uint16_t)(SERIAL_COM1 + reg), 1, value);
}

static void after_reset(void **state)
{
	struct port *t = *state;

	assert_int_equal(in(t, IER), 0);
	assert_int_equal(in(t, IIR), 1);
	assert_int_equal(in(t, LSR), 0x60);
	assert_int_equal(in(t, MSR), 0xb0); /* connected, and no delta */
	out(t, SCR, 0xa5);
	assert_int_equal(in(t, SCR), 0xa5);
	out(t, LCR, 0x83);
	out(t, DATA, 0x34);
	out(t, IER, 0x12);
	assert_int_equal(board_in(t->p, SERIAL_COM1, 2), 0x1234);
	out(t, LCR, 3);
	assert_int_equal(in(t, IER), 0);
	out(t, FCR, 1);
	assert_int_equal(in(t, IIR), 0xc1);
}

static void transmit(void **state)
{
	struct port *t = *state;

	out(t, DATA, 'h');
	out(t, DATA, 'i');
	assert_memory_equal(t->out, "hi", 2);
	assert_int_equal(in(t, LSR), 0x60);
	out(t, MCR, 8);
	out(t, IER, 2);
	assert_true(t->irq); /* empty already */
	assert_int_equal(in(t, IIR), 2);
	assert_false(t->irq); /* told once */
	assert_int_equal(in(t, IIR), 1);
	out(t, DATA, '!');
	assert_true(t->irq);
	assert_int_equal(t->edges, 2);
	out(t, DATA, '?'); /* each byte is a new edge, even unread */
	assert_int_equal(t->edges, 3);
	out(t, MCR, 0);
	assert_false(t->irq); /* OUT2 closes the way */
	assert_int_equal(in(t, IIR), 2);
}

static void transmit_blocked(void **state)
{
	struct port *t = *state;

	t->out_limit = 1;
	out(t, FCR, 1);
	out(t, MCR, 8);
	out(t, IER, 2);
	in(t, IIR);
	for (char c = 'a'; c <= 'z'; c++)
		out(t, DATA, (uint8_t)c);
	assert_int_equal(t->out_size, 1);
	assert_int_equal(in(t, LSR), 0);
	assert_false(t->irq);
	t->out_limit = sizeof(t->out);
	serial_output_ready(t->s);
	assert_int_equal(t->out_size, 17); /* what is written over a full FIFO is lost */
	assert_memory_equal(t->out, "abcdefghijklmnopq", 17);
	assert_int_equal(in(t, LSR), 0x60);
	assert_true(t->irq);
	serial_output_ready(t->s);
	assert_int_equal(t->out_size, 17);
}

static void receive_without_fifo(void **state)
{
	struct port *t = *state;

	out(t, MCR, 8);
	out(t, IER, 1);
	assert_int_equal(serial_receive(t->s, (const uint8_t *)"abc", 3), 3);
	assert_true(t->irq);
	assert_int_equal(in(t, IIR), 4);
	assert_int_equal(in(t, LSR), 0x61);
	assert_int_equal(in(t, DATA), 'a');
	assert_int_equal(in(t, DATA), 'b');
	assert_true(t->irq);
	assert_int_equal(in(t, DATA), 'c');
	assert_false(t->irq);
	assert_int_equal(in(t, LSR), 0x60);
	assert_int_equal(in(t, DATA), 0);
}

static void receive_with_fifo(void **state)
{
	struct port *t = *state;

	out(t, FCR, 0x81); /* trigger at 8 */
	out(t, MCR, 8);
	out(t, IER, 1);
	serial_receive(t->s, (const uint8_t *)"1234567", 7);
	assert_int_equal(in(t, IIR), 0xcc); /* below the trigger: timeout */
	serial_receive(t->s, (const uint8_t *)"8", 1);
	assert_int_equal(in(t, IIR), 0xc4);
	out(t, FCR, 0x83);
	assert_int_equal(in(t, LSR), 0x60);
	assert_int_equal(in(t, IIR), 0xc1);
}

static void receive_flow(void **state)
{
	struct port *t = *state;
	uint8_t bytes[5000];
	size_t room;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 >> 2);
	out(t, FCR, 1);
	room = serial_input_room(t->s);
	assert_int_equal(serial_receive(t->s, bytes, sizeof(bytes)), room);
	assert_int_equal(t->room_calls, 0);
	for (size_t i = 0; i < room; i++)
		assert_int_equal(in(t, DATA), bytes[i]);
	assert_int_equal(t->room_calls, 1); /* told once, with half of the queue free */
	assert_int_equal(in(t, LSR), 0x60);
	assert_int_equal(serial_receive(t->s, bytes + room, sizeof(bytes) - room), sizeof(bytes) - room);
	for (size_t i = room; i < sizeof(bytes); i++)
		assert_int_equal(in(t, DATA), bytes[i]);
	assert_int_equal(t->room_calls, 1);
}

static void loopback(void **state)
{
	struct port *t = *state;

	serial_receive(t->s, (const uint8_t *)"x", 1);
	assert_int_equal(in(t, DATA), 'x');
	out(t, MCR, 0x1a);
	assert_int_equal(in(t, MSR) & 0xf0, 0x90); /* RTS and OUT2 come back as CTS and DCD */
	out(t, DATA, 'L');
	assert_int_equal(t->out_size, 0);
	serial_receive(t->s, (const uint8_t *)"y", 1); /* waits outside */
	out(t, DATA, 'M');
	assert_int_equal(in(t, LSR), 0x63); /* overrun */
	assert_int_equal(in(t, LSR), 0x61); /* told once */
	assert_int_equal(in(t, DATA), 'L');
	assert_int_equal(in(t, LSR), 0x60);
	out(t, MCR, 8);
	assert_int_equal(in(t, DATA), 'y');
}

static void modem_status(void **state)
{
	struct port *t = *state;

	out(t, MCR, 8);
	out(t, IER, 8);
	assert_false(t->irq);
	serial_set_connected(t->s, false);
	assert_true(t->irq);
	assert_int_equal(in(t, IIR), 0);
	assert_int_equal(in(t, MSR), 0x0b);
	assert_false(t->irq);
	assert_int_equal(in(t, MSR), 0);
	serial_set_connected(t->s, true);
	assert_int_equal(in(t, MSR), 0xbb);
}

static void *feed(void *context)
{
	struct port *t = context;
	size_t sent = 0;

	while (sent < 20000) {
		uint8_t byte = (uint8_t)sent;

		sent += serial_receive(t->s, &byte, 1);
	}
	return NULL;
}

static void threads(void **state)
{
	struct port *t = *state;
	pthread_t thread;

	out(t, FCR, 1);
	pthread_create(&thread, NULL, feed, t);
	for (unsigned got = 0; got < 20000;)
		if (in(t, LSR) & 1)
			assert_int_equal(in(t, DATA), (uint8_t)got++);
	pthread_join(thread, NULL);
	assert_int_equal(in(t, LSR), 0x60);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(after_reset),       TEST(transmit),     TEST(transmit_blocked), TEST(receive_without_fifo),
	    TEST(receive_with_fifo), TEST(receive_flow), TEST(loopback),         TEST(modem_status),
	    TEST(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
