// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/double/echo.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

const struct guid echo_interface = GUID_INIT(0xec40ec40, 0x1234, 0x5678, 1, 2, 3, 4, 5, 6, 7, 8);

unsigned echo_count(const unsigned *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static void count(unsigned *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_ACQ_REL);
}

static void invert(const struct iovec *iov, unsigned iov_count)
{
	for (unsigned i = 0; i < iov_count; i++)
		for (size_t at = 0; at < iov[i].iov_len; at++)
			((uint8_t *)iov[i].iov_base)[at] ^= 0xff;
}

static void invert_gpadl(struct echo *echo, uint32_t handle)
{
	struct gpadl *gpadl = channel_gpadl(echo->channel, handle);
	int pieces;

	if (!gpadl) {
		count(&echo->errors);
		return;
	}
	for (size_t at = 0; at < gpadl_size(gpadl); at += 8192) {
		pieces =
		    gpadl_iovec(gpadl, at, min_u64(8192, gpadl_size(gpadl) - at), echo->iov, ECHO_IOVECS);
		if (pieces > 0)
			invert(echo->iov, (unsigned)pieces);
	}
	gpadl_release(gpadl);
}

static void answer(struct echo *echo, const struct channel_packet *packet)
{
	echo->reply_id = packet->transaction_id;
	echo->reply_completion = packet->completion_requested;
	echo->reply_size = packet->payload_size;
	memcpy(echo->reply, echo->payload, packet->payload_size);
	if (packet->type == VMBUS_PACKET_GPA_DIRECT) {
		invert(packet->iov, packet->iov_count);
		echo->reply_size = 8;
		le64_put(echo->reply, packet->iov_bytes);
	} else if (packet->payload_size >= 16 && memcmp(echo->payload, "gpadl", 5) == 0) {
		invert_gpadl(echo, le32_get(echo->payload + 8));
	}
	echo->deferred = true;
}

static bool send_reply(struct echo *echo)
{
	int r;

	if (echo->reply_completion)
		r = channel_send_completion(echo->channel, echo->reply_id, echo->reply, echo->reply_size);
	else
		r = channel_send(echo->channel, echo->reply_id, echo->reply, echo->reply_size, false);
	if (r == -EAGAIN) {
		count(&echo->full);
		return false;
	}
	if (r < 0)
		count(&echo->errors);
	echo->deferred = false;
	return true;
}

/* Until the ring is empty, or full in the other direction. */
static void serve(struct echo *echo)
{
	struct channel_packet packet = {
	    .payload = echo->payload,
	    .payload_capacity = sizeof(echo->payload),
	    .iov = echo->iov,
	    .iov_capacity = ECHO_IOVECS,
	};

	for (;;) {
		int r;

		if (echo->deferred && !send_reply(echo))
			return;
		r = channel_receive(echo->channel, &packet);
		if (r == 1)
			answer(echo, &packet);
		else if (r == -EMSGSIZE)
			count(&echo->too_large);
		else if (r == -EFAULT)
			count(&echo->faults);
		else
			return;
	}
}

static void *serve_thread(void *argument)
{
	struct echo *echo = argument;
	struct pollfd fds[2] = {
	    {.fd = channel_event_fd(echo->channel), .events = POLLIN},
	    {.fd = echo->stop_fd, .events = POLLIN},
	};
	uint64_t ignored;

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (read(fds[0].fd, &ignored, sizeof(ignored)) < 0)
			continue;
		serve(echo);
	}
}

static int on_open(void *provider, struct channel *channel, const struct channel_open *open)
{
	struct echo *echo = provider;

	if (echo->refuse_open)
		return echo->refuse_open;
	echo->last_open = *open;
	echo->deferred = false;
	if (echo->threaded) {
		echo->stop_fd = eventfd(0, EFD_CLOEXEC);
		if (pthread_create(&echo->thread, NULL, serve_thread, echo))
			abort();
	}
	count(&echo->opens);
	return 0;
}

static void on_close(void *provider, struct channel *channel)
{
	struct echo *echo = provider;
	uint64_t one = 1;

	if (echo->threaded) {
		if (write(echo->stop_fd, &one, sizeof(one)) < 0)
			abort();
		pthread_join(echo->thread, NULL);
		close(echo->stop_fd);
	}
	count(&echo->closes);
}

static void on_event(void *provider, struct channel *channel)
{
	serve(provider);
}

static const struct channel_ops control_ops = {.open = on_open, .close = on_close, .event = on_event};
static const struct channel_ops thread_ops = {.open = on_open, .close = on_close};

void echo_offer(struct echo *echo, struct vmbus *bus, uint8_t instance, uint16_t subchannel_index,
		bool threaded, bool monitored)
{
	struct channel_offer offer = {
	    .interface = echo_interface,
	    .instance = {.bytes = {instance}},
	    .name = "echo",
	    .subchannel_index = subchannel_index,
	    .monitored = monitored,
	};
	struct error err = {0};

	memset(echo, 0, sizeof(*echo));
	echo->bus = bus;
	echo->threaded = threaded;
	if (vmbus_offer(bus, &offer, threaded ? &thread_ops : &control_ops, echo, &echo->channel, &err) < 0) {
		fprintf(stderr, "echo: %s\n", err.text);
		abort();
	}
}

void echo_remove(struct echo *echo)
{
	channel_remove(echo->channel);
	echo->channel = NULL;
}
