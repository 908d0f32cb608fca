#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots a machine with nobody at the terminal, logs in, tells what it found, shuts the guest down.

Usage: demo.py BULKHEAD MACHINE      (the manager's socket is $BULKHEAD_SOCKET)
"""

import json
import re
import subprocess
import sys
import time

from guest import Guest, GuestError


def first(pattern, text, otherwise="not found"):
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(0).strip() if match else otherwise


class ManagedGuest(Guest):
    """A machine of the manager: its process is the manager's business."""

    def __init__(self, bulkhead, machine):
        self.machine = machine
        super().__init__(bulkhead, [])

    def ask(self, verb, *more):
        r = subprocess.run([self.bulkhead, "vm", verb, self.machine, "--json", *more], capture_output=True, text=True)
        try:
            answer = json.loads(r.stdout)
        except ValueError:
            raise GuestError(f"vm {verb}: {r.stdout}{r.stderr}") from None
        if r.returncode:
            raise GuestError(answer["error"]["message"])
        return answer

    def command(self, name, arguments):
        return [self.bulkhead, "vm", "start", self.machine]

    def start(self, command, log):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        if process.wait() != 0:
            raise GuestError(self.stderr().removeprefix("bulkhead: ").strip())
        self.console_path = self.ask("show")["console"]
        return process

    def shut_down(self):
        # Nobody reads any more what the guest says.
        self.socket.close()
        self.socket = None
        self.ask("shut-down", "--timeout", "300")


def look(guest):
    guest.expect(r"login: ?$", 900)
    print(f"boot to login     {time.monotonic() - guest.started_at:.1f} s", flush=True)
    guest.seen = guest.text.rfind("\n", 0, guest.text.rfind("login:"))
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
    return heartbeat == "ok"


def wait_for_heartbeat(guest):
    """Six seconds are three beats: it is there by then or it is not."""
    deadline = time.monotonic() + 60
    while True:
        state = guest.ask("inspect")["heartbeat"]
        if state == "ok" or time.monotonic() > deadline:
            return state
        guest.read_some(0.2)


def main():
    bulkhead, machine = sys.argv[1:]
    try:
        with ManagedGuest(bulkhead, machine) as guest:
            try:
                alive = look(guest)
            except GuestError:
                guest.ask("turn-off")
                raise
            guest.shut_down()
            print("shutdown          clean")
            return 0 if alive else 1
    except GuestError as e:
        print(f"run: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
