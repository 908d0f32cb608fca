// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hostile saved machines. The sections of a sound one (chipset, a controller in use, a bus with open channels, services) are
 * patched as the input says and get checksums that are right; what can be loaded goes on for a moment and must be saved again.
 * Or the file of a machine's memory is patched: it is read, or refused with a sentence.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "chipset/chipset.h"
#include "statefile/block.h"
#include "tests/double/guest.h"
#include "tests/double/memory_disk.h"
#include "tests/double/sections.h"
#include "vsp/integration/integration.h"
#include "vsp/storage/protocol.h"
#include "vsp/storage/storage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VPS       2u
#define MEGABYTES 8u
#define RAM       ((uint64_t)MEGABYTES << 20)
#define FILE_RAM  (3u << 20)

static uint8_t *sections, *ram, *file;
static size_t sections_size, file_size;
static struct disk *disk;

static void require(bool good)
{
	if (!good)
		abort();
}

/* --- a machine ------------------------------------------------------------------------------------- */

struct parts {
	struct partition *p;
	struct timers *timers;
	struct ioapic *io;
	struct serial *serial;
	struct rtc *rtc;
	struct acpi_pm *pm;
	struct reset_control *reset;
};

static void add_chipset(struct parts *m)
{
	const struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = VPS};

	*m = (struct parts){0};
	require(!partition_create(&m->p, &config, NULL));
	require(!partition_add_memory(m->p, 0, RAM, NULL));
	require(!timers_create(&m->timers, NULL));
	require(!ioapic_create(&m->io, m->p, NULL));
	require(!serial_create(&m->serial, m->p,
			       &(struct serial_config){
				   .port = SERIAL_COM1, .name = "COM1", .irq = ioapic_line(m->io, SERIAL_COM1_IRQ)},
			       NULL));
	require(!rtc_create(&m->rtc, m->p,
			    &(struct rtc_config){.timers = m->timers, .irq = ioapic_line(m->io, RTC_IRQ)}, NULL));
	require(!acpi_pm_create(&m->pm, m->p,
				&(struct acpi_pm_config){.timers = m->timers, .sci = ioapic_line(m->io, ACPI_SCI)},
				NULL));
	require(!reset_control_create(&m->reset, m->p, &(struct reset_config){0}, NULL));
}

static void remove_chipset(struct parts *m)
{
	partition_stop(m->p);
	reset_control_destroy(m->reset);
	acpi_pm_destroy(m->pm);
	rtc_destroy(m->rtc);
	serial_destroy(m->serial);
	ioapic_destroy(m->io);
	timers_destroy(m->timers);
	partition_destroy(m->p);
}

static void save_chipset(struct parts *m, struct form_writer *w)
{
	ioapic_save(m->io, w);
	serial_save(m->serial, w, 0);
	rtc_save(m->rtc, w);
	acpi_pm_save(m->pm, w);
	reset_control_save(m->reset, w);
}

static void load_chipset(struct parts *m, struct form_reader *r)
{
	ioapic_load(m->io, r);
	serial_load(m->serial, r, 0);
	rtc_load(m->rtc, r);
	acpi_pm_load(m->pm, r);
	reset_control_load(m->reset, r);
}

struct devices {
	struct vmbus *bus;
	struct storage *storage;
	struct integration *integration;
};

static void add_devices(struct devices *d, struct partition *p)
{
	const struct storage_config config = {.name = "scsi0", .max_sub_channels = 1, .instance = {.bytes = {7}}};
	const struct integration_options options = {0};

	require(!vmbus_create(&d->bus, p, NULL));
	require(!storage_create(&d->storage, d->bus, &config, NULL));
	require(!storage_attach(d->storage, 0, 0, STORAGE_UNIT_DISK, disk, NULL));
	require(!integration_create(&d->integration, d->bus, &options, NULL));
}

static void hold(struct devices *d)
{
	integration_paused(d->integration);
	vmbus_hold(d->bus);
	storage_pause(d->storage);
}

static void save_devices(struct devices *d, struct form_writer *w)
{
	storage_save(d->storage, w, 0);
	vmbus_save(d->bus, w);
	integration_save(d->integration, w);
	require(!w->failed);
}

static void remove_devices(struct devices *d)
{
	integration_destroy(d->integration);
	storage_destroy(d->storage);
	vmbus_destroy(d->bus);
}

/* --- what is patched -------------------------------------------------------------------------------- */

static void exchange(struct guest_channel *channel, struct vstor_packet packet)
{
	struct vmbus_packet_header header;

	require(!guest_send(channel, VMBUS_PACKET_IN_BAND, 1, 1, &packet, sizeof(packet)));
	require(guest_receive(channel, &header, &packet, sizeof(packet)) == (int)sizeof(packet));
}

static void make_sections(void)
{
	static const struct guid scsi = STORAGE_SCSI_CLASS,
				 heartbeat = GUID_INIT(0x57164f39, 0x9115, 0x4e78, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5,
						       0x42, 0x2d);
	struct guest *guest = guest_create_vps(MEGABYTES, VPS);
	struct guest_channel *channel, *service;
	struct form_writer w = {0};
	struct devices d;
	struct parts m;
	uint32_t handle;

	add_chipset(&m);
	save_chipset(&m, &w);
	remove_chipset(&m);
	add_devices(&d, guest_partition(guest));
	require(!guest_connect(guest, VMBUS_VERSION_WIN10_V5_3));
	require(!guest_request_offers(guest));
	require(!guest_open(guest, guest_find_offer(guest, &scsi, 0), 3, 3, NULL, &channel));
	require(!guest_open(guest, guest_find_offer(guest, &heartbeat, 0), 2, 2, NULL, &service));
	exchange(channel, (struct vstor_packet){.operation = VSTOR_BEGIN_INITIALIZATION});
	exchange(channel, (struct vstor_packet){.operation = VSTOR_QUERY_PROTOCOL_VERSION,
						.version.major_minor = VSTOR_VERSION_WIN10});
	exchange(channel, (struct vstor_packet){.operation = VSTOR_END_INITIALIZATION});
	exchange(channel, (struct vstor_packet){.operation = VSTOR_CREATE_SUB_CHANNELS, .sub_channel_count = 1});
	require(!guest_gpadl_alloc(guest, guest_channel_relid(channel), 5, NULL, &handle));
	hold(&d);
	save_devices(&d, &w);
	sections = w.bytes;
	sections_size = w.size;
	ram = malloc(RAM);
	memcpy(ram, guest_at(guest, 0), RAM);
	remove_devices(&d);
	guest_channel_free(channel);
	guest_channel_free(service);
	guest_destroy(guest);
}

static struct partition *small_partition(void)
{
	const struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1};
	struct partition *p;

	require(!partition_create(&p, &config, NULL));
	require(!partition_add_memory(p, 0, FILE_RAM, NULL));
	return p;
}

static void make_file(void)
{
	struct statefile_progress progress = {0};
	struct partition *p = small_partition();
	struct statefile_writer *w;
	int fd = memfd_create("file", MFD_CLOEXEC);
	uint64_t changed[FILE_RAM / GUEST_PAGE_SIZE / 64] = {0xff, 0, 0xf0}, size;

	for (unsigned i = 0; i < FILE_RAM / GUEST_PAGE_SIZE; i += 3)
		memset(partition_memory(p, i * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE), (int)(i % 5), GUEST_PAGE_SIZE - i);
	require(!statefile_begin(&w, fd, p, &progress, NULL));
	require(!statefile_write_memory(w, NULL, false, NULL));
	require(!statefile_write_memory(w, changed, true, NULL));
	require(!statefile_finish(w, "sections", 8, &size, NULL));
	statefile_end(w);
	file_size = size;
	file = malloc(size);
	require(pread(fd, file, size, 0) == (ssize_t)size);
	close(fd);
	partition_destroy(p);
}

/* Place, count and bytes, again and again. */
static void patch(uint8_t *bytes, size_t length, const uint8_t *data, size_t size)
{
	for (size_t at = 0; size - at >= 3;) {
		size_t place = le16_get(data + at) % length, count = min_u64(1 + data[at + 2] % 16u, size - at - 3);

		count = min_u64(count, length - place);
		memcpy(bytes + place, data + at + 3, count);
		at += 3 + count;
	}
}

/* --- a run ------------------------------------------------------------------------------------------ */

static int load_devices(struct devices *d, struct form_reader *r, struct error *err)
{
	int result = storage_load(d->storage, r, 0, err);

	if (!result && !r->bad)
		result = vmbus_load(d->bus, r, err);
	if (!result && !r->bad)
		integration_load(d->integration, r);
	return result ? result : form_error(r, "it", err);
}

static void ignore(void *context, const char *name)
{
}

static void ignore_end(void *context)
{
}

static void ignore_text(void *context, const char *name, const char *value)
{
}

static void ignore_number(void *context, const char *name, uint64_t value)
{
}

static void run(struct parts *m, struct devices *d)
{
	static const struct vmbus_inspector inspector = {ignore, ignore_end, ignore_text, ignore_number};
	struct form_writer w = {0};

	require(!partition_start(m->p, NULL));
	storage_resume(d->storage);
	vmbus_release(d->bus);
	integration_resumed(d->integration);
	vmbus_inspect(d->bus, &inspector, NULL);
	hold(d);
	save_chipset(m, &w);
	save_devices(d, &w);
	free(w.bytes);
}

static void try_sections(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(sections_size);
	struct form_reader r = {.bytes = bytes, .left = sections_size};
	struct error err = {0};
	struct devices d;
	struct parts m;

	memcpy(bytes, sections, sections_size);
	patch(bytes, sections_size, data, size);
	sections_seal(bytes, sections_size);
	add_chipset(&m);
	memcpy(partition_memory(m.p, 0, RAM), ram, RAM);
	load_chipset(&m, &r);
	add_devices(&d, m.p);
	hold(&d);
	if (r.bad)
		require(form_error(&r, "it", &err) && err.text[0]);
	else if (load_devices(&d, &r, &err))
		require(err.text[0] && err.code);
	else
		run(&m, &d);
	remove_devices(&d);
	remove_chipset(&m);
	free(bytes);
}

static void seal_file(uint8_t *bytes)
{
	uint64_t at = le64_get(bytes + HEADER_INDEX_AT), count = le64_get(bytes + HEADER_BLOCKS);

	if (count < 1000 && range_fits_u64(at, count * ENTRY_SIZE, file_size)) {
		for (uint64_t i = 0; i < count; i++) {
			uint8_t *entry = bytes + at + i * ENTRY_SIZE;
			uint64_t block = le64_get(entry + ENTRY_AT);
			uint32_t size = le32_get(entry + ENTRY_BYTES);

			if (range_fits_u64(block, size, file_size))
				le32_put(entry + ENTRY_CHECKSUM, crc32c(0, bytes + block, size));
		}
		le32_put(bytes + HEADER_INDEX_CRC, crc32c(0, bytes + at, count * ENTRY_SIZE));
	}
	le32_put(bytes + HEADER_CHECKSUM, 0);
	le32_put(bytes + HEADER_CHECKSUM, crc32c(0, bytes, HEADER_USED));
}

static void try_file(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(file_size);
	struct statefile_progress progress = {0};
	struct error err = {0};
	struct statefile *f;
	int fd = memfd_create("file", MFD_CLOEXEC);

	memcpy(bytes, file, file_size);
	patch(bytes, file_size, data, size);
	seal_file(bytes);
	require(pwrite(fd, bytes, file_size, 0) == (ssize_t)file_size);
	if (statefile_open(&f, fd, "it", &err)) {
		require(err.text[0] && err.code);
	} else {
		struct partition *p = small_partition();

		if (statefile_read_memory(f, p, &progress, &err))
			require(err.text[0] && err.code);
		partition_destroy(p);
		statefile_close(f);
	}
	close(fd);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!sections) {
		log_set_level(LOG_LEVEL_ERROR);
		disk = memory_disk_create(1 << 20, 1 << 20);
		make_sections();
		make_file();
	}
	if (!size)
		return 0;
	if (data[0] & 1)
		try_file(data + 1, size - 1);
	else
		try_sections(data + 1, size - 1);
	return 0;
}
