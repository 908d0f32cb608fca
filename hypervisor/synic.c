/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * synic.c - messages and events between host and guest over tlfs/.
 *
 * To the guest: a message that finds its slot occupied waits in a queue of the VP and SINT until the
 * guest frees the slot. From the guest: ports by connection id, under a read-write lock that is held
 * while a handler runs, so that closing a port waits for it.
 */
#include "hypervisor/partition.h"

#include <errno.h>
#include <string.h>

struct queued_message {
	struct queued_message *next;
	uint32_t type;
	uint32_t size;
	uint8_t payload[];
};

struct synic_port {
	struct synic_port *next;
	uint32_t connection_id;
	message_port_fn handler; /* NULL for an event port */
	void *context;
	int eventfd;
};

void synic_init(struct partition *p)
{
	pthread_rwlockattr_t attributes;

	/* Else guests that post without a pause on several VPs keep a port from ever being closed. Handlers
	 * do not post, so no reader reads twice. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&p->port_lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	for (unsigned vp = 0; vp < p->config.vp_count; vp++) {
		pthread_mutex_init(&p->vps[vp].queue_lock, NULL);
		for (unsigned sint = 0; sint < SYNIC_SINT_COUNT; sint++)
			p->vps[vp].queue_tail[sint] = &p->vps[vp].queue_head[sint];
	}
}

static void queue_pop(struct vp *vp, unsigned sint)
{
	struct queued_message *m = vp->queue_head[sint];

	vp->queue_head[sint] = m->next;
	if (!m->next)
		vp->queue_tail[sint] = &vp->queue_head[sint];
	vp->queue_length[sint]--;
	free(m);
}

void synic_destroy(struct partition *p)
{
	for (unsigned vp = 0; vp < p->config.vp_count; vp++) {
		for (unsigned sint = 0; sint < SYNIC_SINT_COUNT; sint++)
			while (p->vps[vp].queue_head[sint])
				queue_pop(&p->vps[vp], sint);
		pthread_mutex_destroy(&p->vps[vp].queue_lock);
	}
	while (p->synic_ports) {
		struct synic_port *next = p->synic_ports->next;

		free(p->synic_ports);
		p->synic_ports = next;
	}
	pthread_rwlock_destroy(&p->port_lock);
}

static int queue_message(struct vp *vp, unsigned sint, uint32_t type, const void *payload, size_t size)
{
	struct queued_message *m;

	if (vp->queue_length[sint] == SYNIC_QUEUE_MAX)
		return -ENOBUFS;
	m = malloc(sizeof(*m) + size);
	if (!m)
		return -ENOBUFS;
	m->next = NULL;
	m->type = type;
	m->size = (uint32_t)size;
	memcpy(m->payload, payload, size);
	*vp->queue_tail[sint] = m;
	vp->queue_tail[sint] = &m->next;
	vp->queue_length[sint]++;
	return 0;
}

int partition_post_message(struct partition *p, unsigned vp_index, unsigned sint, uint32_t type,
    const void *payload, size_t size)
{
	struct vp *vp;
	int r = 0;

	if (vp_index >= p->config.vp_count || sint >= SYNIC_SINT_COUNT || size > SYNIC_MESSAGE_PAYLOAD)
		return -EINVAL;
	vp = &p->vps[vp_index];
	pthread_mutex_lock(&vp->queue_lock);
	/* Messages of one slot stay in order: none overtakes the queue. */
	if (vp->queue_head[sint] ||
	    tlfs_post_message(&p->tlfs, vp_index, sint, type, payload, size) != TLFS_POSTED)
		r = queue_message(vp, sint, type, payload, size);
	pthread_mutex_unlock(&vp->queue_lock);
	return r;
}

void synic_slot_free(struct partition *p, unsigned vp_index, unsigned sint)
{
	struct vp *vp = &p->vps[vp_index];

	pthread_mutex_lock(&vp->queue_lock);
	while (vp->queue_head[sint]) {
		struct queued_message *m = vp->queue_head[sint];

		if (tlfs_post_message(&p->tlfs, vp_index, sint, m->type, m->payload, m->size) != TLFS_POSTED)
			break;
		queue_pop(vp, sint);
	}
	pthread_mutex_unlock(&vp->queue_lock);
}

static unsigned queued(struct vp *vp)
{
	unsigned count = 0;

	for (unsigned sint = 0; sint < SYNIC_SINT_COUNT; sint++)
		count += vp->queue_length[sint];
	return count;
}

static void copy_queues(struct vp *vp, struct synic_message *to)
{
	for (unsigned sint = 0; sint < SYNIC_SINT_COUNT; sint++)
		for (const struct queued_message *m = vp->queue_head[sint]; m; m = m->next, to++) {
			*to = (struct synic_message){.vp = vp->index, .sint = sint, .type = m->type, .size = m->size};
			memcpy(to->payload, m->payload, m->size);
		}
}

int synic_save(struct partition *p, struct synic_message **messages, uint32_t *count)
{
	struct synic_message *all = NULL;
	unsigned used = 0;

	for (unsigned i = 0; i < p->config.vp_count; i++) {
		struct vp *vp = &p->vps[i];
		struct synic_message *more;
		unsigned n;

		pthread_mutex_lock(&vp->queue_lock);
		n = queued(vp);
		more = n ? realloc(all, (used + n) * sizeof(*all)) : all;
		if (n && more)
			copy_queues(vp, more + used);
		pthread_mutex_unlock(&vp->queue_lock);
		if (n && !more) {
			free(all);
			return -ENOMEM;
		}
		all = more;
		used += n;
	}
	*messages = all;
	*count = used;
	return 0;
}

int synic_load(struct partition *p, const struct synic_message *m)
{
	struct vp *vp = &p->vps[m->vp];
	int r;

	pthread_mutex_lock(&vp->queue_lock);
	r = queue_message(vp, m->sint, m->type, m->payload, m->size);
	pthread_mutex_unlock(&vp->queue_lock);
	return r;
}

int partition_signal_event(struct partition *p, unsigned vp_index, unsigned sint, unsigned flag)
{
	switch (tlfs_signal_event(&p->tlfs, vp_index, sint, flag)) {
	case TLFS_SIGNALLED:
	case TLFS_ALREADY_SET:
		return 0;
	case TLFS_SIGNAL_DROPPED:
		return -ENXIO;
	case TLFS_SIGNAL_INVALID:
		break;
	}
	return -EINVAL;
}

static struct synic_port **find_port(struct partition *p, uint32_t connection_id, bool message)
{
	struct synic_port **at = &p->synic_ports;

	while (*at && ((*at)->connection_id != connection_id || !!(*at)->handler != message))
		at = &(*at)->next;
	return at;
}

static int open_port(struct partition *p, uint32_t connection_id, message_port_fn handler, void *context, int eventfd)
{
	struct synic_port *port;
	int r = 0;

	if (connection_id >= 1u << 24)
		return -EINVAL;
	port = calloc(1, sizeof(*port));
	if (!port)
		return -ENOMEM;
	*port = (struct synic_port){NULL, connection_id, handler, context, eventfd};
	pthread_rwlock_wrlock(&p->port_lock);
	if (*find_port(p, connection_id, handler != NULL)) {
		r = -EEXIST;
	} else {
		port->next = p->synic_ports;
		p->synic_ports = port;
		port = NULL;
	}
	pthread_rwlock_unlock(&p->port_lock);
	free(port);
	return r;
}

/* The processor signals with no detour where it can; what it does not find it brings to us. */
static void tell_processor(struct partition *p, uint32_t connection_id, int eventfd, bool open)
{
	if (p->processor->event_port)
		p->processor->event_port(p, connection_id, eventfd, open);
}

static void close_port(struct partition *p, uint32_t connection_id, bool message)
{
	struct synic_port **at, *port;

	pthread_rwlock_wrlock(&p->port_lock);
	at = find_port(p, connection_id, message);
	port = *at;
	if (port)
		*at = port->next;
	pthread_rwlock_unlock(&p->port_lock);
	free(port);
}

int partition_open_message_port(struct partition *p, uint32_t connection_id, message_port_fn handler, void *context)
{
	return open_port(p, connection_id, handler, context, -1);
}

void partition_close_message_port(struct partition *p, uint32_t connection_id)
{
	close_port(p, connection_id, true);
}

int partition_open_event_port(struct partition *p, uint32_t connection_id, int eventfd)
{
	int r = open_port(p, connection_id, NULL, NULL, eventfd);

	if (!r)
		tell_processor(p, connection_id, eventfd, true);
	return r;
}

void partition_close_event_port(struct partition *p, uint32_t connection_id)
{
	tell_processor(p, connection_id, -1, false);
	close_port(p, connection_id, false);
}

enum tlfs_status synic_guest_post(struct partition *p, unsigned vp, uint32_t connection_id, uint32_t type,
    const void *payload, size_t size)
{
	enum tlfs_status status = HV_STATUS_INVALID_CONNECTION_ID;
	struct synic_port *port;

	pthread_rwlock_rdlock(&p->port_lock);
	port = *find_port(p, connection_id, true);
	if (port)
		status = port->handler(port->context, vp, type, payload, size) ? HV_STATUS_INSUFFICIENT_BUFFERS
									       : HV_STATUS_SUCCESS;
	pthread_rwlock_unlock(&p->port_lock);
	return status;
}

enum tlfs_status synic_guest_signal(struct partition *p, uint32_t connection_id, uint16_t flag)
{
	enum tlfs_status status = HV_STATUS_INVALID_CONNECTION_ID;
	struct synic_port *port;
	uint64_t one = 1;

	pthread_rwlock_rdlock(&p->port_lock);
	port = *find_port(p, connection_id, false);
	if (port && flag) {
		status = HV_STATUS_INVALID_PARAMETER;
	} else if (port) {
		/* The counter saturates only when nobody has read for 2^64 signals: nothing is lost then. */
		status = write(port->eventfd, &one, sizeof(one)) < 0 && errno != EAGAIN ? HV_STATUS_INVALID_PORT_ID
										      : HV_STATUS_SUCCESS;
	}
	pthread_rwlock_unlock(&p->port_lock);
	return status;
}
