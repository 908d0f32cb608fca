# SPDX-License-Identifier: GPL-2.0-or-later
"""An unmodified Debian at work is saved, its worker ends, and another one goes on with it: fio finds what it wrote, the clock is
right, and nothing in the guest has noticed more than that time went by."""

import os
import subprocess
import time

from test_debian import BOOT, Machine, check_disk_from_outside, require, shut_down, wait_for
from test_worker import ask, start

# Writes and verifies without end, and counts the rounds; the other loop looks whether a clock ever goes back.
WORK = ("while [ ! -e /root/stop ]; do fio --name=work --filename=/root/work --size=8M --rw=randrw --bs=4k-64k --verify=crc32c "
        "--verify_fatal=1 --do_verify=1 --fallocate=none --end_fsync=1 --minimal >>/root/fio.log 2>&1 || echo fio >>/root/bad; "
        "n=$((n + 1)); echo $n >/root/rounds; done; echo done >/root/rounds")
TICKS = ("last=0; while [ ! -e /root/stop ]; do read up rest </proc/uptime; up=${up%.*}${up#*.}; [ $up -ge $last ] || echo uptime $last $up "
         ">>/root/bad; last=$up; sleep 0.05; done")


def begin_work(guest):
    for script in (WORK, TICKS):
        guest.check(f"setsid sh -c \"$(cat <<'EOF'\n{script}\nEOF\n)\" </dev/null >/dev/null 2>&1 &")
    wait_for_rounds(guest, 1)


def rounds(guest):
    text = guest.check("cat /root/rounds 2>/dev/null || echo 0")
    return int(text) if text.isdigit() else 0


def wait_for_rounds(guest, more):
    first = rounds(guest)
    wait_for(lambda: rounds(guest) >= first + more, f"{more} more rounds of work", 300)


def end_work(guest):
    guest.check("touch /root/stop")
    wait_for(lambda: guest.run("grep -q done /root/rounds")[0] == 0, "the end of the work", 300)
    bad = guest.run("cat /root/bad")[1]
    require("No such file" in bad, f"the work went wrong: {bad}")
    require(guest.run("dmesg | grep -iE 'I/O error|hung task|hv_storvsc.*(timeout|abort)|rcu.*stall'")[0] == 1,
            f"the kernel has complaints: {guest.check('dmesg | tail -30')}")


def clock_is_right(guest):
    before = time.time()
    told = float(guest.check("date +%s.%N"))
    return before - 1 < told < time.time() + 1


def save(guest, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        answer = ask(guest, {"command": "save", "fd": True}, [fd])
    finally:
        os.close(fd)
    require(answer["ok"] and answer["bytes"] == os.path.getsize(path), f"not saved: {answer}; {guest.stderr()}")
    require(guest.wait() == 5 and guest.result() == {"version": 1, "result": "saved"}, f"{guest.result()}; {guest.stderr()}")


def saved_twice(context, cpus):
    with Machine(context) as machine:
        state = machine.path("state")
        with start(machine, cpus=cpus) as guest:
            guest.login(timeout=BOOT)
            begin_work(guest)
            save(guest, state)
        for _ in range(2):
            saved_at = time.monotonic()
            # Long enough that a clock which only went on would be wrong.
            wait_for(lambda: time.monotonic() > saved_at + 4, "time to go by")
            with start(machine, cpus=cpus, restore=state) as guest:
                os.unlink(state)
                wait_for(lambda: clock_is_right(guest), "the clock to be right", 15)
                wait_for_rounds(guest, 2)
                require(guest.control("status")["heartbeat"] == "ok", f"{guest.control('status')}")
                # It tells again who it is, whatever it was asked when it was saved.
                wait_for(lambda: guest.control("status")["guest"].get("OSName") == "Debian GNU/Linux", "the guest to tell its system", 180)
                save(guest, state)
        with start(machine, cpus=cpus, restore=state) as guest:
            wait_for_rounds(guest, 1)
            end_work(guest)
            shut_down(guest)
            require(guest.result() == {"version": 1, "result": "powered-off"}, f"result: {guest.result()}")
        check_disk_from_outside(machine)


def test_saved_debian_at_work(context):
    saved_twice(context, 1)


def test_saved_debian_with_two_processors(context):
    saved_twice(context, 2)


def open_new(path):
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def checkpoint(guest, state, child, parent):
    fds = [open_new(state), open_new(child)]
    try:
        answer = ask(guest, {"command": "checkpoint", "fd": True, "disks": [{"address": "0:0", "path": child, "parent": parent}]}, fds)
    finally:
        for fd in fds:
            os.close(fd)
    require(answer["ok"] and answer["bytes"] == os.path.getsize(state), f"no checkpoint: {answer}; {guest.stderr()}")
    return answer


def test_saved_debian_checkpoint(context):
    """A checkpoint of a guest at work, which goes on; its disk is merged again while it works. Then what was saved goes on, in another
    worker and on a disk of its own."""
    with Machine(context) as machine:
        state, child, other = machine.path("state"), machine.path("child.vhdx"), machine.path("other.vhdx")
        with start(machine) as guest:
            guest.login(timeout=BOOT)
            begin_work(guest)
            guest.check("echo before >/root/when; sync")
            # The daemon keeps parents that are needed; here a copy is taken of what the disk was.
            checkpoint(guest, state, child, machine.disk)
            subprocess.run(["cp", "--sparse=always", machine.disk, machine.path("then.vhdx")], check=True)
            guest.check("echo after >/root/when; sync")
            wait_for_rounds(guest, 1)
            fd = os.open(machine.disk, os.O_RDWR)
            answer = ask(guest, {"command": "merge-disk", "address": "0:0", "parent": True}, [fd])
            os.close(fd)
            require(answer["ok"], f"not merged: {answer}; {guest.stderr()}")
            wait_for_rounds(guest, 1)
            end_work(guest)
            require(guest.check("cat /root/when") == "after", "the guest lost what it wrote")
            shut_down(guest)
        check_disk_from_outside(machine)
        os.replace(machine.path("then.vhdx"), machine.disk)
        subprocess.run([machine.bulkhead, "disk", "create", other, "--parent", machine.disk], check=True)
        with start(machine, restore=state, disks=[{"path": other}, {"path": machine.seed, "dvd": True}]) as guest:
            wait_for(lambda: clock_is_right(guest), "the clock to be right", 15)
            require(guest.check("cat /root/when") == "before", "it is not the guest of then")
            wait_for_rounds(guest, 2)
            end_work(guest)
            shut_down(guest)
        # The peers read no differencing disks.
        machine.disk = machine.path("flat.vhdx")
        subprocess.run([machine.bulkhead, "disk", "convert", other, machine.disk], check=True, capture_output=True)
        check_disk_from_outside(machine)
