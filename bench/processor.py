#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the software processor beside QEMU's TCG: boot to /init, and guestbench inside the guest.

Usage: bench/processor.py [--kernel FILE] [--rounds N] [--seconds S] [--cpus N] [WORKLOAD …]
Both run the same kernel and initramfs, in turn, on this machine; ratios are of medians. Native rates come from
the same static program. Prints a Markdown table.
"""

import argparse
import glob
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "BENCH init"
/guestbench -t {seconds} {workloads}
echo "BENCH done"
/bin/busybox poweroff -f
"""


GUESTS = ("interpreted", "translated", "tcg")


def make_initramfs(directory, seconds, workloads):
    root = os.path.join(directory, "root")
    for name in ("bin", "proc", "dev"):
        os.makedirs(os.path.join(root, name))
    subprocess.run(["gcc", "-O2", "-static", "-o", os.path.join(root, "guestbench"), os.path.join(ROOT, "bench", "guestbench.c")],
                   check=True)
    subprocess.run(["cp", "/bin/busybox", os.path.join(root, "bin")], check=True)
    with open(os.path.join(root, "init"), "w", encoding="ascii") as f:
        f.write(INIT.format(seconds=seconds, workloads=" ".join(workloads)))
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 > ../initrd.gz", shell=True, cwd=root, check=True)
    return os.path.join(directory, "initrd.gz"), os.path.join(root, "guestbench")


def run_guest(command, limit):
    """Returns (seconds to /init, {workload: rate})."""
    start = time.monotonic()
    boot, rates = None, {}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          errors="replace") as process:
        for line in process.stdout:
            if "BENCH init" in line:
                boot = time.monotonic() - start
            match = re.match(r"^(\w+)\s+([0-9.]+) \S+\s*$", line)
            if match:
                rates[match.group(1)] = float(match.group(2))
            if "BENCH done" in line or time.monotonic() - start > limit:
                break
        process.kill()
    if boot is None:
        raise SystemExit(f"the guest never reached /init: {' '.join(command)}")
    return boot, rates


def run_native(program, seconds, workloads):
    out = subprocess.run([program, "-t", str(seconds), *workloads], capture_output=True, text=True, check=True).stdout
    return {line.split()[0]: float(line.split()[1]) for line in out.splitlines()}


def find_kernel():
    places = [os.path.expanduser("~/.cache/bulkhead/test-image/vmlinuz"), os.path.expanduser("~/.local/share/bulkhead/debian-12/vmlinuz"),
              *glob.glob("/boot/vmlinuz-*cloud*")]
    for place in places:
        if os.path.exists(place):
            return place
    raise SystemExit("no kernel found: say --kernel FILE (a Debian cloud kernel), or run ./run --prepare")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("workloads", nargs="*")
    options = parser.parse_args()
    kernel = options.kernel or find_kernel()
    bulkhead = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
    append = "console=ttyS0 quiet panic=-1"
    boots, rates, native = {who: [] for who in GUESTS}, {who: [] for who in GUESTS}, []
    with tempfile.TemporaryDirectory() as directory:
        initrd, program = make_initramfs(directory, options.seconds, options.workloads)
        soft = ["--kernel", kernel, "--initrd", initrd, "--append", append, "--memory", "1G", "--cpus", str(options.cpus)]
        commands = {
            "interpreted": [bulkhead, "run", "--processor", "soft,translate=off", *soft],
            "translated": [bulkhead, "run", "--processor", "soft,translate=on", *soft],
            "tcg": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1G", "-smp", str(options.cpus), "-nodefaults",
                    "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", append],
        }
        for _ in range(options.rounds):
            native.append(run_native(program, options.seconds, options.workloads))
            for who, command in commands.items():
                boot, found = run_guest(command, 600)
                boots[who].append(boot)
                rates[who].append(found)
                print(f"{who}: /init after {boot:.2f} s", file=sys.stderr, flush=True)
    print_table(boots, rates, native)


def print_table(boots, rates, native):
    """Ratios of rates: more than 1 is faster than TCG; of times, less than 1."""
    boot = {who: statistics.median(boots[who]) for who in GUESTS}
    print("| workload | native | TCG | interpreted | translated | translated / TCG | interpreted / TCG | translated / native |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| boot to /init, s | - | {boot['tcg']:.2f} | {boot['interpreted']:.2f} | {boot['translated']:.2f} "
          f"| {boot['translated'] / boot['tcg']:.2f} | {boot['interpreted'] / boot['tcg']:.2f} | - |")
    ratios = []
    for name in native[0]:
        rows = (native, rates["tcg"], rates["interpreted"], rates["translated"])
        values = [statistics.median(r[name] for r in row if name in r) if any(name in r for r in row) else None for row in rows]
        if None in values:
            print(f"| {name} | not finished | | | | | | |")
            continue
        host, tcg, interpreted, translated = values
        ratios.append((translated / tcg, interpreted / tcg, translated / host))
        print(f"| {name} | {host:.1f} | {tcg:.1f} | {interpreted:.1f} | {translated:.1f} "
              + "".join(f"| {ratio:.2f} " for ratio in ratios[-1]) + "|")
    if ratios:
        print("| geometric mean | | | | " + "".join(f"| {statistics.geometric_mean(r):.2f} " for r in zip(*ratios)) + "|")


if __name__ == "__main__":
    main()
