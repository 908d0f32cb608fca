/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "chipset/byte_ports.h"
#include "chipset/chipset.h"
#include "chipset/timers.h"

/* Registers (MC146818A data sheet, figure 12 and on) and the places in CMOS memory that a PC gave a meaning.
 */
enum {
	REG_SECONDS = 0,
	REG_SECONDS_ALARM = 1,
	REG_MINUTES = 2,
	REG_MINUTES_ALARM = 3,
	REG_HOURS = 4,
	REG_HOURS_ALARM = 5,
	REG_WEEKDAY = 6,
	REG_DAY = 7,
	REG_MONTH = 8,
	REG_YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13
};
enum {
	CMOS_BASE_MEMORY = 0x15,
	CMOS_EXTENDED_MEMORY = 0x17,
	CMOS_EXTENDED_MEMORY_POST = 0x30,
	CMOS_ABOVE_16M = 0x34,
	CMOS_ABOVE_4G = 0x5b,
	CMOS_SIZE = 128
};

enum { A_UPDATING = 0x80, A_RATE = 0x0f, A_NORMAL = 0x26 };
enum { B_SET = 0x80, B_INTERRUPTS = 0x70, B_BINARY = 4, B_24_HOURS = 2 };
/* The flags of register C stand at the bits of their enables in register B. */
enum { FLAG_PERIODIC = 0x40, FLAG_ALARM = 0x20, FLAG_UPDATE = 0x10, FLAG_IRQ = 0x80 };
enum { D_VALID = 0x80, HOURS_PM = 0x80, ALARM_ANY = 0xc0 };

#define SECOND_US 1000000
#define DAY       86400
#define NO_ALARM  INT64_MAX

/* Update in progress is seen this long before the second turns (data sheet: 244 us). */
#define UPDATE_US 244

struct rtc {
	struct rtc_config config;
	pthread_mutex_t lock;
	struct timer timer;
	uint8_t index;
	int64_t offset; /* microseconds by which the guest set its clock apart from the host's */
	int64_t seen;   /* the clock when flags were last brought up to date */
	/* Registers and memory. The time registers here are valid only while B_SET holds the clock. */
	uint8_t cmos[CMOS_SIZE];
};

static int64_t host_now(void *context)
{
	struct timespec now;

	(void)context;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000;
}

/* The guest's clock. A guest may set any year; before 1970 the clock stands at its beginning. */
static int64_t rtc_clock(const struct rtc *rtc)
{
	int64_t clock = rtc->config.now(rtc->config.context) + rtc->offset;

	return clock < 0 ? 0 : clock;
}

/* --- time registers ----------------------------------------------------------------------------- */

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t value)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return value;
	return (value >> 4) * 10 + (value & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *rtc, int hour)
{
	if (rtc->cmos[REG_B] & B_24_HOURS)
		return rtc_encode(rtc, hour);
	return (uint8_t)(rtc_encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0));
}

static int rtc_decode_hour(const struct rtc *rtc, uint8_t value)
{
	if (rtc->cmos[REG_B] & B_24_HOURS)
		return rtc_decode(rtc, value);
	return rtc_decode(rtc, value & (HOURS_PM - 1)) % 12 + (value & HOURS_PM ? 12 : 0);
}

/* Fill the time registers from the clock. */
static void rtc_load_registers(struct rtc *rtc, int64_t clock)
{
	time_t seconds = (time_t)(clock / SECOND_US);
	struct tm tm;

	if (!gmtime_r(&seconds, &tm))
		return;
	rtc->cmos[REG_SECONDS] = rtc_encode(rtc, tm.tm_sec);
	rtc->cmos[REG_MINUTES] = rtc_encode(rtc, tm.tm_min);
	rtc->cmos[REG_HOURS] = rtc_encode_hour(rtc, tm.tm_hour);
	rtc->cmos[REG_WEEKDAY] = rtc_encode(rtc, tm.tm_wday + 1);
	rtc->cmos[REG_DAY] = rtc_encode(rtc, tm.tm_mday);
	rtc->cmos[REG_MONTH] = rtc_encode(rtc, tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = rtc_encode(rtc, tm.tm_year % 100);
	rtc->cmos[RTC_CENTURY] = rtc_encode(rtc, (tm.tm_year + 1900) / 100);
}

/* Set the clock from the time registers, keeping `fraction` microseconds of the second. */
static void rtc_store_registers(struct rtc *rtc, int64_t fraction)
{
	struct tm tm = {
	    .tm_sec = rtc_decode(rtc, rtc->cmos[REG_SECONDS]),
	    .tm_min = rtc_decode(rtc, rtc->cmos[REG_MINUTES]),
	    .tm_hour = rtc_decode_hour(rtc, rtc->cmos[REG_HOURS]),
	    .tm_mday = rtc_decode(rtc, rtc->cmos[REG_DAY]),
	    .tm_mon = rtc_decode(rtc, rtc->cmos[REG_MONTH]) - 1,
	    .tm_year =
		rtc_decode(rtc, rtc->cmos[RTC_CENTURY]) * 100 + rtc_decode(rtc, rtc->cmos[REG_YEAR]) - 1900,
	};

	rtc->offset = (int64_t)timegm(&tm) * SECOND_US + fraction - rtc->config.now(rtc->config.context);
	rtc->seen = rtc_clock(rtc);
}

static bool is_time_register(uint8_t index)
{
	return index == REG_SECONDS || index == REG_MINUTES || index == RTC_CENTURY ||
	       (index >= REG_HOURS && index <= REG_YEAR && index != REG_HOURS_ALARM);
}

/* --- alarm, update and periodic flags ----------------------------------------------------------- */

static bool alarm_matches(const struct rtc *rtc, uint8_t reg, int value)
{
	uint8_t alarm = rtc->cmos[reg];

	if ((alarm & ALARM_ANY) == ALARM_ANY)
		return true;
	return value == (reg == REG_HOURS_ALARM ? rtc_decode_hour(rtc, alarm) : rtc_decode(rtc, alarm));
}

/* The first second after `second` at which the alarm goes off. Skips whole hours and minutes that do not
 * match, so it takes at most 24 + 60 + 60 steps and one round more. */
static int64_t rtc_next_alarm(const struct rtc *rtc, int64_t second)
{
	int64_t t = second + 1;

	for (unsigned step = 0; step < 300; step++) {
		int64_t of_day = t % DAY;

		if (!alarm_matches(rtc, REG_HOURS_ALARM, (int)(of_day / 3600)))
			t += 3600 - of_day % 3600;
		else if (!alarm_matches(rtc, REG_MINUTES_ALARM, (int)(of_day / 60 % 60)))
			t += 60 - of_day % 60;
		else if (!alarm_matches(rtc, REG_SECONDS_ALARM, (int)(of_day % 60)))
			t++;
		else
			return t;
	}
	return NO_ALARM;
}

/* Microseconds between periodic interrupts, 0 for none (data sheet, table 5, 32.768 kHz column). The two
 * slots that would be faster repeat slower ones. */
static int64_t rtc_period(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	if (rate < 3)
		rate += 7;
	return max_u64(((1ull << (rate - 1)) * SECOND_US) / 32768, 1);
}

/* Bring the flags of register C up to date with the clock. */
static void rtc_catch_up(struct rtc *rtc)
{
	int64_t now = rtc_clock(rtc), period = rtc_period(rtc);
	int64_t second = now / SECOND_US, seen_second = rtc->seen / SECOND_US;

	if (period && now / period != rtc->seen / period)
		rtc->cmos[REG_C] |= FLAG_PERIODIC;
	if (!(rtc->cmos[REG_B] & B_SET) && second != seen_second) {
		/* A host clock that was set back makes one update, and no alarm. */
		rtc->cmos[REG_C] |= FLAG_UPDATE;
		if (rtc_next_alarm(rtc, seen_second) <= second)
			rtc->cmos[REG_C] |= FLAG_ALARM;
	}
	rtc->seen = now;
}

static bool rtc_note_irq(struct rtc *rtc)
{
	bool level = rtc->cmos[REG_B] & rtc->cmos[REG_C] & B_INTERRUPTS;

	rtc->cmos[REG_C] = (uint8_t)((rtc->cmos[REG_C] & ~FLAG_IRQ) | (level ? FLAG_IRQ : 0));
	return level;
}

static void rtc_update_irq(struct rtc *rtc)
{
	bool level = rtc_note_irq(rtc);

	if (rtc->config.irq.set)
		rtc->config.irq.set(rtc->config.irq.controller, rtc->config.irq.pin, level);
}

/* Sleep until the next event that an interrupt is enabled for; none while one stands unread. */
static void rtc_arm(struct rtc *rtc)
{
	uint8_t enabled = rtc->cmos[REG_B] & B_INTERRUPTS;
	int64_t now = rtc->seen, second = now / SECOND_US, period = rtc_period(rtc), next = NO_ALARM;

	if (!enabled || rtc->cmos[REG_C] & FLAG_IRQ) {
		timer_arm(&rtc->timer, TIMER_NEVER);
		return;
	}
	if (enabled & FLAG_PERIODIC && period)
		next = (now / period + 1) * period;
	if (enabled & FLAG_UPDATE && (second + 1) * SECOND_US < next)
		next = (second + 1) * SECOND_US;
	if (enabled & FLAG_ALARM) {
		int64_t alarm = rtc_next_alarm(rtc, second);

		if (alarm != NO_ALARM && alarm * SECOND_US < next)
			next = alarm * SECOND_US;
	}
	timer_arm(&rtc->timer, next == NO_ALARM ? TIMER_NEVER : timer_now() + (next - now) * 1000);
}

static void rtc_refresh(struct rtc *rtc)
{
	rtc_catch_up(rtc);
	rtc_update_irq(rtc);
	rtc_arm(rtc);
}

static void rtc_fire(void *context)
{
	struct rtc *rtc = context;

	pthread_mutex_lock(&rtc->lock);
	rtc_refresh(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* --- ports -------------------------------------------------------------------------------------- */

static uint8_t rtc_read_register(struct rtc *rtc, uint8_t index)
{
	int64_t clock = rtc_clock(rtc);
	uint8_t value;

	if (is_time_register(index) && !(rtc->cmos[REG_B] & B_SET))
		rtc_load_registers(rtc, clock);
	value = rtc->cmos[index];
	if (index == REG_A && !(rtc->cmos[REG_B] & B_SET) && clock % SECOND_US >= SECOND_US - UPDATE_US)
		value |= A_UPDATING;
	if (index == REG_C) {
		rtc_catch_up(rtc);
		rtc_note_irq(rtc);
		value = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		/* The line falls even when the next event is there by now: without an edge nobody would see it. */
		rtc_update_irq(rtc);
		rtc_refresh(rtc);
	}
	return value;
}

static void rtc_write_b(struct rtc *rtc, uint8_t value)
{
	uint8_t old = rtc->cmos[REG_B];

	/* The mode bits say how the registers read, so take the time in the old form before they change. */
	if (value & B_SET && !(old & B_SET))
		rtc_load_registers(rtc, rtc_clock(rtc));
	rtc->cmos[REG_B] = value & B_SET ? value & (uint8_t)~FLAG_UPDATE : value;
	if (!(value & B_SET) && old & B_SET)
		rtc_store_registers(rtc, 0);
}

static void rtc_write_register(struct rtc *rtc, uint8_t index, uint8_t value)
{
	bool held = rtc->cmos[REG_B] & B_SET;
	int64_t clock = rtc_clock(rtc);

	if (index == REG_C || index == REG_D)
		return;
	rtc_catch_up(rtc);
	if (is_time_register(index) && !held)
		rtc_load_registers(rtc, clock);
	if (index == REG_B)
		rtc_write_b(rtc, value);
	else
		rtc->cmos[index] = index == REG_A ? value & (uint8_t)~A_UPDATING : value;
	if (is_time_register(index) && !held)
		rtc_store_registers(rtc, clock % SECOND_US);
	if (index <= REG_B)
		rtc_refresh(rtc);
}

static uint8_t rtc_read_byte(void *device, uint64_t offset)
{
	struct rtc *rtc = device;
	uint8_t value;

	if (offset == 0)
		return 0xff; /* the index cannot be read back on a PC */
	pthread_mutex_lock(&rtc->lock);
	value = rtc_read_register(rtc, rtc->index);
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void rtc_write_byte(void *device, uint64_t offset, uint8_t value)
{
	struct rtc *rtc = device;

	pthread_mutex_lock(&rtc->lock);
	if (offset == 0)
		rtc->index = value % CMOS_SIZE; /* bit 7 masks NMI on a PC; there is none to mask */
	else
		rtc_write_register(rtc, rtc->index, value);
	pthread_mutex_unlock(&rtc->lock);
}

static uint64_t rtc_read(void *device, uint64_t offset, unsigned size)
{
	return bytes_read(rtc_read_byte, device, offset, size);
}

static void rtc_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	bytes_write(rtc_write_byte, device, offset, size, value);
}

static const struct io_ops rtc_ops = {.read = rtc_read, .write = rtc_write};

/* --- saved state -------------------------------------------------------------------------------- */

#define RTC_SECTION         "rtc"
#define RTC_SECTION_VERSION 1u

/* Beyond these, in microseconds, lies no year that the registers can tell. */
#define CLOCK_END (1ll << 60)

static const struct form_field rtc_fields[] = {
    FORM_FIELD(struct rtc, index),
    FORM_ARRAY(struct rtc, cmos),
    FORM_FIELD(struct rtc, offset),
    FORM_FIELD(struct rtc, seen),
};

void rtc_save(struct rtc *rtc, struct form_writer *w)
{
	size_t section = form_section_begin(w, RTC_SECTION, 0, RTC_SECTION_VERSION);

	pthread_mutex_lock(&rtc->lock);
	FORM_PUT(w, rtc, rtc_fields);
	pthread_mutex_unlock(&rtc->lock);
	form_section_end(w, section);
}

void rtc_load(struct rtc *rtc, struct form_reader *r)
{
	struct form_reader section = form_section(r, RTC_SECTION, 0, RTC_SECTION_VERSION);

	pthread_mutex_lock(&rtc->lock);
	FORM_GET(&section, rtc, rtc_fields);
	if (rtc->index >= CMOS_SIZE || rtc->cmos[REG_A] & A_UPDATING || rtc->offset < -CLOCK_END ||
	    rtc->offset > CLOCK_END || rtc->seen < 0 || rtc->seen > CLOCK_END) {
		form_bad(&section, "no clock can be in this state");
		rtc->index = 0;
	}
	form_section_done(r, &section);
	if (!r->bad)
		rtc_refresh(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* What a BIOS leaves in CMOS memory of the sizes: in KiB up to 64 MiB, in 64 KiB from 16 MiB up. */
static void rtc_store_sizes(struct rtc *rtc, uint64_t below_4g, uint64_t above_4g)
{
	uint64_t extended = below_4g > 1 << 20 ? (below_4g - (1 << 20)) >> 10 : 0;
	uint64_t above_16m = below_4g > 16 << 20 ? (below_4g - (16 << 20)) >> 16 : 0;
	uint64_t high = min_u64(above_4g >> 16, 0xffffff);

	extended = min_u64(extended, 0xffff);
	le16_put(&rtc->cmos[CMOS_BASE_MEMORY], 640);
	le16_put(&rtc->cmos[CMOS_EXTENDED_MEMORY], (uint16_t)extended);
	le16_put(&rtc->cmos[CMOS_EXTENDED_MEMORY_POST], (uint16_t)extended);
	le16_put(&rtc->cmos[CMOS_ABOVE_16M], (uint16_t)min_u64(above_16m, 0xffff));
	le16_put(&rtc->cmos[CMOS_ABOVE_4G], (uint16_t)high);
	rtc->cmos[CMOS_ABOVE_4G + 2] = (uint8_t)(high >> 16);
}

int rtc_create(struct rtc **out, struct partition *p, const struct rtc_config *config, struct error *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int code;

	if (!rtc)
		return error_set(err, ENOMEM, "no memory for the real-time clock");
	rtc->config = *config;
	if (!config->now)
		rtc->config.now = host_now;
	rtc->cmos[REG_A] = A_NORMAL;
	rtc->cmos[REG_B] = B_24_HOURS;
	rtc->cmos[REG_D] = D_VALID;
	rtc->seen = rtc_clock(rtc);
	rtc_store_sizes(rtc, config->memory_below_4g, config->memory_above_4g);
	pthread_mutex_init(&rtc->lock, NULL);
	timer_add(config->timers, &rtc->timer, rtc_fire, rtc);
	code = partition_add_ports(p, RTC_PORT, 2, &rtc_ops, rtc, "real-time clock");
	if (code) {
		rtc_destroy(rtc);
		return error_set(err, -code, "the real-time clock cannot have ports %#x and %#x", RTC_PORT,
				 RTC_PORT + 1);
	}
	*out = rtc;
	return 0;
}

void rtc_destroy(struct rtc *rtc)
{
	if (!rtc)
		return;
	timer_remove(&rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}
