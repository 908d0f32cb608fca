#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the image with nobody at the terminal, logs in, tells what it found, shuts the guest down.

Usage: demo.py BULKHEAD IMAGE SEED [OPTION OF bulkhead run …]
"""

import re
import sys
import time

from guest import Guest, GuestError


def first(pattern, text, otherwise="not found"):
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(0).strip() if match else otherwise


def main():
    bulkhead, image, seed, *options = sys.argv[1:]
    try:
        with Guest(bulkhead, ["--image", image, "--dvd", seed, *options], name="demo") as guest:
            guest.expect(r"login: ?$", 900)
            booted = time.monotonic() - guest.started_at
            print(f"boot to login     {booted:.1f} s", flush=True)
            guest.seen = guest.text.rfind("login:")
            guest.seen = guest.text.rfind("\n", 0, guest.seen)
            guest.login()
            log = guest.check("dmesg")
            print(f"kernel            {guest.check('uname -sr')}")
            print(f"hypervisor        {first(r'Hypervisor detected: .*', log)}")
            print(f"VMBus             {first(r'Vmbus version:[0-9.]+', log)}")
            print(f"root disk         {guest.check('findmnt -no SOURCE,FSTYPE,SIZE /')}")
            print(f"storage driver    hv_storvsc, {guest.check('ls -d /sys/bus/vmbus/drivers/hv_storvsc/*-* | wc -l')} controller")
            print(f"clock             {guest.check('cat /sys/devices/system/clocksource/clocksource0/current_clocksource')}")
            heartbeat = wait_for_heartbeat(guest)
            print(f"heartbeat         {heartbeat}", flush=True)
            guest.terminate()
            status = guest.wait(300)
            print(f"shutdown          {'clean' if status == 0 else f'status {status}'}")
            return 0 if status == 0 and heartbeat == "ok" else 1
    except GuestError as e:
        print(f"run: {e}", file=sys.stderr)
        return 1


def wait_for_heartbeat(guest):
    """Six seconds are three beats: it is there by then or it is not."""
    deadline = time.monotonic() + 60
    while True:
        state = guest.control("status")["heartbeat"]
        if state == "ok" or time.monotonic() > deadline:
            return state
        guest.read_some(0.2)


if __name__ == "__main__":
    sys.exit(main())
