#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures how much more two virtual processors do than one: guestbench alone, then twice at once, each on its own.

Usage: bench/parallel.py [--kernel FILE] [--rounds N] [--seconds S] [WORKLOAD …]
The figure is the sum of both rates over the rate alone, median of the rounds; natively, on our translator and on TCG.
Needs two idle processors.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import processor  # noqa: E402

SCRIPT = """for w in {workloads}; do
echo "PAIR $w alone"; {taskset} 1 {program} -t {seconds} $w
echo "PAIR $w twice"; {taskset} 1 {program} -t {seconds} $w & {taskset} 2 {program} -t {seconds} $w; wait
done
echo "BENCH done"
"""


def parse(lines):
    """{workload: rate of both / rate alone}; stops at the end of the script."""
    rates, name, how = {}, None, None
    for line in lines:
        if match := re.search(r"PAIR (\w+) (alone|twice)", line):
            name, how = match.groups()
        elif match := re.match(r"^(\w+)\s+([0-9.]+) \S+\s*$", line):
            if match.group(1) == name:
                rates.setdefault(name, {}).setdefault(how, []).append(float(match.group(2)))
        if "BENCH done" in line:
            break
    return {name: sum(r["twice"]) / r["alone"][0] for name, r in rates.items() if len(r.get("twice", [])) == 2}


def run(command):
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          errors="replace") as process:
        try:
            return parse(process.stdout)
        finally:
            process.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("workloads", nargs="*", default=["sha256", "mandel", "call", "memcpy", "syscall", "fault"])
    options = parser.parse_args()
    kernel = options.kernel or processor.find_kernel()
    with tempfile.TemporaryDirectory() as directory:
        guest = {"taskset": "/bin/busybox taskset", "program": "/guestbench"}
        words = {"workloads": " ".join(options.workloads), "seconds": options.seconds}
        processor.INIT = ("#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox mount -t devtmpfs dev /dev\n" +
                          SCRIPT.format(**guest, **words) +
                          "/bin/busybox poweroff -f\n").replace("{", "{{").replace("}", "}}")
        initrd, program = processor.make_initramfs(directory, options.seconds, options.workloads)
        append = "console=ttyS0 quiet panic=-1"
        ours = [os.path.join(processor.ROOT, "build", "release", "cli", "bulkhead"), "run", "--processor", "soft,translate=on", "--kernel",
                kernel, "--initrd", initrd, "--append", append, "--memory", "1G", "--cpus", "2"]
        tcg = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1G", "-smp", "2", "-nodefaults", "-display", "none",
               "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", append]
        native = ["sh", "-c", SCRIPT.format(taskset="taskset", program=program, **words)]
        found = {"native": [], "translated": [], "TCG": []}
        for _ in range(options.rounds):
            for who, command in (("native", native), ("translated", ours), ("TCG", tcg)):
                found[who].append(run(command))
    print("| two processors / one | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for name in options.workloads:
        ratios = ([r[name] for r in rounds if name in r] for rounds in found.values())
        print(f"| {name} | " + " | ".join(f"{statistics.median(r):.2f}" if r else "not finished" for r in ratios) + " |")


if __name__ == "__main__":
    main()
