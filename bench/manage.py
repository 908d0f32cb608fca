#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the manager: lists, requests, memory, starts, saving.

Usage: bench/manage.py [--machines N] [--memory SIZE] [MEASUREMENT…]
Measurements: list, request, memory, start, save, eight; all if none is named. Uses build/release as it is. The guests are a few bytes
that halt, on the processor made of software, but for `save`, whose guest fills its memory with what does not compress. Prints one
row each: what it is, the median, and what it should stay under or above. A busy machine makes all of it slower.
"""

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "manage"))

from daemon import Daemon, UnixConnection, require, wait_for  # pylint: disable=wrong-import-position

BUILD = os.path.join(ROOT, "build", "release")


def row(what, value, unit, limit, below=True):
    good = value < limit if below else value >= limit
    print(f"| {what} | {value:.2f} {unit} | {'under' if below else 'at least'} {limit} {unit} | {'yes' if good else 'NO'} |", flush=True)


def timed(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


def define(d, count):
    """Machines that are there and do not run."""
    connection = UnixConnection(d.socket)
    for i in range(count):
        body = f'{{"name": "vm{i:04}", "memory": 67108864, "boot": {{"kernel": "{d.kernel}"}}, "processors": {{"kind": "soft"}}}}'
        connection.request("POST", "/v1/vms?wait=60", body)
        answer = connection.getresponse()
        require(answer.status < 300, answer.read())
        answer.read()
    connection.close()


def measure_list(_options):
    with Daemon(BUILD) as d:
        define(d, 1000)
        require(len(d.cli("vm", "list").splitlines()) == 1001, "all are listed")
        row("vm list, 1000 machines", 1000 * statistics.median(timed(lambda: d.cli("vm", "list")) for _ in range(15)), "ms", 50)


def measure_request(_options):
    with Daemon(BUILD) as d:
        define(d, 10)
        connection = UnixConnection(d.socket)
        for what, path in (("one machine", "/v1/vms/vm0003"), ("the host", "/v1/host"), ("ten machines", "/v1/vms")):
            def ask():
                connection.request("GET", path)  # pylint: disable=cell-var-from-loop
                connection.getresponse().read()
            times = [timed(ask) for _ in range(2000)]
            row(f"request, {what}", 1000 * statistics.median(times), "ms", 2)
        connection.close()


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return [int(line.split()[1]) for line in f if line.startswith("VmRSS:")][0] / 1024


def measure_memory(options):
    with Daemon(BUILD) as d:
        define(d, options.machines)
        for i in range(options.machines):
            d.done("POST", f"/v1/vms/vm{i:04}/start")
        for _ in range(20):
            d.ok("GET", "/v1/vms?limit=1000")
        row(f"daemon's memory, {options.machines} machines run", resident(d.process.pid), "MiB", 30)
        d.kill()
        d.start()
        wait_for(lambda: len([v for v in d.ok("GET", "/v1/vms?limit=1000")["vms"] if v["state"] == "running"]) == options.machines, "adoption")
        row(f"daemon's memory, {options.machines} taken over", resident(d.process.pid), "MiB", 30)


def start(d, name):
    d.done("POST", f"/v1/vms/{name}/start")


def stop(d, name):
    d.done("POST", f"/v1/vms/{name}/turn-off")
    wait_for(lambda: d.state_of(name) == "off", "it to be off")


def measure_start(_options):
    """A start is done when the guest's first instruction comes next."""
    with Daemon(BUILD) as d:
        times, by_command = [], []
        d.make("web", memory=1 << 30)
        for _ in range(15):
            times.append(timed(lambda: start(d, "web")))
            stop(d, "web")
            by_command.append(timed(lambda: d.cli("vm", "start", "web")))
            stop(d, "web")
        row("vm start to first instruction, by HTTP", 1000 * statistics.median(times), "ms", 100)
        row("vm start to first instruction, by command", 1000 * statistics.median(by_command), "ms", 100)


def measure_eight(_options):
    with Daemon(BUILD) as d:
        define(d, 8)
        names = [f"vm{i:04}" for i in range(8)]

        def together(some):
            connections = []
            for name in some:
                connection = UnixConnection(d.socket)
                connection.request("POST", f"/v1/vms/{name}/start?wait=60")
                connections.append(connection)
            for connection in connections:
                require(b'"done"' in connection.getresponse().read(), "it started")
                connection.close()

        ratios = []
        for _ in range(9):
            eight = timed(lambda: together(names))
            for name in names:
                stop(d, name)
            fours = timed(lambda: (together(names[:4]), together(names[4:])))
            for name in names:
                stop(d, name)
            ratios.append(eight / fours)
        row("eight started at once, to four and four", statistics.median(ratios), "times", 2)


def filling_kernel(path, mebibytes):
    """A multiboot kernel that fills memory from 2 MiB on with what cannot be compressed (xorshift), tells by COM1, and halts."""
    import struct  # pylint: disable=import-outside-toplevel
    count = ((mebibytes - 4) << 20) // 4
    code = b"\xfa\xbf" + struct.pack("<I", 2 << 20) + b"\xb9" + struct.pack("<I", count) + b"\xb8" + struct.pack("<I", 0x9E3779B9)
    loop = (b"\x89\xc2\xc1\xe2\x0d\x31\xd0"   # eax ^= eax << 13
            b"\x89\xc2\xc1\xea\x11\x31\xd0"   # eax ^= eax >> 17
            b"\x89\xc2\xc1\xe2\x05\x31\xd0"   # eax ^= eax << 5
            b"\xab\x49")                      # stosd; dec ecx
    code += loop + b"\x75" + struct.pack("b", -(len(loop) + 2))
    code += b"\x66\xba\xf8\x03\xb0\x21\xee\xf4\xeb\xfd"
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path, "wb") as f:
        f.write(header + code + bytes(64))
    return path


def write_raw(path, size):
    """The same bytes, as fast as the disk takes them, and on it."""
    block = os.urandom(4 << 20)

    def write():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for _ in range(size // len(block)):
            os.write(fd, block)
        os.fsync(fd)
        os.close(fd)
    seconds = timed(write)
    os.unlink(path)
    return seconds


def measure_save(options):
    """Through the worker itself: `bulkhead run` with a control socket, and `bulkhead control save`."""
    bulkhead = os.path.join(BUILD, "cli", "bulkhead")
    with Daemon(BUILD, start=False) as d:
        kernel = filling_kernel(os.path.join(d.directory, "filling"), options.memory)
        control, saved = os.path.join(d.directory, "control"), os.path.join(d.directory, "saved")
        machine = [bulkhead, "run", "--processor", "soft", "--memory", f"{options.memory}M", "--control", control, "--serial", "stdio"]
        saves, restores, raws = [], [], []
        raw_file = os.path.join(d.directory, "raw")
        for turn in range(4):
            with subprocess.Popen([*machine, "--kernel", kernel], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
                require(process.stdout.read(1) == b"!", "the guest has filled its memory")
                # By turns: who writes first gets memory for the host's cache that is not at hand, the other what the first has left.
                if turn % 2 == 0:
                    raws.append(write_raw(raw_file, options.memory << 20))
                saves.append(timed(lambda: subprocess.run([bulkhead, "control", control, "save", saved], check=True, capture_output=True)))
                process.wait(60)
            if turn % 2:
                raws.append(write_raw(raw_file, options.memory << 20))
            begun = time.monotonic()
            with subprocess.Popen([*machine, "--kernel", kernel, "--restore", saved], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
                wait_for(lambda: subprocess.run([bulkhead, "control", control, "--json", "status"], capture_output=True).returncode == 0,
                         "it to go on", 120)
                restores.append(time.monotonic() - begun)
                subprocess.run([bulkhead, "control", control, "power-off"], check=True, capture_output=True)
                process.wait(60)
            size = os.path.getsize(saved)
            os.unlink(saved)
        raw = statistics.median(raws)
        print(f"  ({options.memory} MiB of noise: {size >> 20} MiB in the file, raw {raw:.2f} s, save {statistics.median(saves):.2f} s, "
              f"restore {statistics.median(restores):.2f} s)")
        row("writing raw, to saving", raw / statistics.median(saves), "times", 0.8, below=False)
        row("writing raw, to restoring", raw / statistics.median(restores), "times", 0.8, below=False)


MEASUREMENTS = {"list": measure_list, "request": measure_request, "memory": measure_memory, "start": measure_start, "save": measure_save,
                "eight": measure_eight}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=100, help="that run, for `memory` (100)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB of the guest that is saved (1024)")
    parser.add_argument("measurement", nargs="*", choices=[*MEASUREMENTS, []])
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    print("| | median | wanted | |\n|---|---|---|---|")
    for name in options.measurement or MEASUREMENTS:
        MEASUREMENTS[name](options)


if __name__ == "__main__":
    try:
        main()
    except (OSError, http.client.HTTPException) as e:
        sys.exit(f"bench/manage.py: {e}")
