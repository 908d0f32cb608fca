#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures from the start of `bulkhead run` to the guest's first instructions, beside QEMU's TCG.

Usage: bench/start.py [--rounds N] [--kernel FILE --initrd FILE]
Without a kernel: a few bytes that write to the serial port and stop. With a Linux kernel and an initrd (their loading
is then part of the time): to the kernel's first line on an early console.
"""

import argparse
import os
import statistics
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")


def tiny_kernel(path):
    """mov dx,0x3f8; mov al,'!'; out dx,al; hlt; jmp -3 behind a multiboot header with addresses."""
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path, "wb") as f:
        f.write(header + b"\x66\xba\xf8\x03\xb0\x21\xee\xf4\xeb\xfd" + bytes(64))


def first_byte(command):
    start = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(1)
        seconds = time.monotonic() - start
        process.kill()
    return seconds * 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kernel")
    parser.add_argument("--initrd")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        kernel = options.kernel or os.path.join(directory, "tiny")
        if not options.kernel:
            tiny_kernel(kernel)
        boot = ["--kernel", kernel] + (["--initrd", options.initrd] if options.initrd else [])
        append = ["--append", "earlyprintk=ttyS0 console=ttyS0"] if options.kernel else []
        ours = [BULKHEAD, "run", "--processor", "soft", "--memory", "1G", *boot, *append]
        qemu = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1G", "-nodefaults", "-display", "none", "-serial", "stdio",
                *[word[1:] if word.startswith("--") else word for word in boot + append]]
        times = {"bulkhead": [], "qemu": []}
        for _ in range(options.rounds):
            times["bulkhead"].append(first_byte(ours))
            times["qemu"].append(first_byte(qemu))
    medians = {who: statistics.median(values) for who, values in times.items()}
    print(f"| start to first output, ms | bulkhead {medians['bulkhead']:.1f} | QEMU TCG {medians['qemu']:.1f} | "
          f"ratio {medians['bulkhead'] / medians['qemu']:.2f} |")


if __name__ == "__main__":
    main()
