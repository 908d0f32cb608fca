/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * resources.h - what the host has for its machines: memory, and processors that are reserved. Private to vmms/. On the loop's
 * thread.
 *
 * As Hyper-V does, a machine is started only if the host has all of its memory, and the processors that it reserves beside
 * those that running ones have reserved.
 */
#pragma once

#include "vmms/daemon.h"

/* What a machine is to have of processors against others. */
struct share {
	uint64_t weight;
	uint64_t reserve; /* in percent of one of the host's processors */
	unsigned result;  /* cpu.weight of its control group */
};

/* Fills in `result`, 1 to 10000. With no reserve among them it is the weight; else such that each gets its reserve where all want
 * all they can have, and what is left of `processors` goes by weight. */
void share_out(struct share *shares, size_t count, unsigned processors);

/* For a machine that is to start: -ENOBUFS: the host has not so much memory; -EXFULL: not so many processors to reserve. */
int resources_check_start(const struct machine *machine, struct error *err);

/* -EXFULL: with this configuration the machine, which runs, would reserve more than there is. */
int resources_check_reserve(const struct machine *machine, const json_t *config, struct error *err);

/* Puts reserves into force by the control groups' weights, if any machine that runs has one, or has had one. */
void resources_weigh(struct vmms *vmms);
