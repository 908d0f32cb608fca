#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots Linux with a 32-bit busybox on the software processor: interpreted, translated, every block translated at once.

Usage: tests/guest/i386.py [--bulkhead FILE] [--rounds N] VMLINUZ BUSYBOX
VMLINUZ is a bzImage, 32-bit (linux-image-686) or 64-bit (then busybox runs in compatibility mode); BUSYBOX a static
i386 one. Each run must print the same. The processor time of each step is told, beside the interpreter's: a ratio, for
machines that have other work too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
echo "STEP hash"
dd if=/dev/zero bs=64k count=48 2>/dev/null | sha256sum
echo "STEP loop"
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i
echo "STEP numbers"
awk 'BEGIN { for (i = 0; i < 100000; i++) s += i * i % 7 / 3; print s }'
echo "STEP processes"
i=0; while [ $i -lt 30 ]; do i=$((i+1)); /bin/busybox ls /bin | md5sum; done | uniq
echo "STEP compression"
dd if=/bin/busybox bs=64k count=16 2>/dev/null | gzip | gunzip | md5sum
echo "STEP done"
poweroff -f
"""
WAYS = ("translate=off", "translate=on", "translate=on,threshold=1")
LIMIT = 3600


def make_initramfs(directory, busybox):
    root = os.path.join(directory, "root")
    for name in ("bin", "proc", "sys", "dev"):
        os.makedirs(os.path.join(root, name))
    subprocess.run(["cp", busybox, os.path.join(root, "bin", "busybox")], check=True)
    with open(os.path.join(root, "init"), "w", encoding="ascii") as f:
        f.write(INIT)
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 > ../initrd.gz", shell=True, cwd=root, check=True)
    return os.path.join(directory, "initrd.gz")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def boot(options, initrd, way):
    """Returns {step: processor time}, and the lines that the script printed."""
    command = [options.bulkhead, "run", "--processor", f"soft,{way}", "--kernel", options.vmlinuz,
               "--initrd", initrd, "--append", "console=ttyS0 quiet panic=-1", "--memory", "256M"]
    times, lines, step, began = {}, [], "boot", 0.0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        for line in process.stdout:
            line = line.strip()
            if not line.startswith("STEP "):
                if step != "boot" and not line.startswith("["):
                    lines.append(line)
                continue
            now = cpu_seconds(process.pid)
            times[step] = now - began
            step, began = line.split()[1], now
            if step == "done":
                break
        timer.cancel()
        process.terminate()
    if step != "done":
        raise SystemExit(f"{way}: the guest did not get past \"{step}\"")
    return times, lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bulkhead", default=os.path.join(ROOT, "build", "release", "cli", "bulkhead"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("vmlinuz")
    parser.add_argument("busybox")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        initrd = make_initramfs(directory, options.busybox)
        for _ in range(options.rounds):
            results = {way: boot(options, initrd, way) for way in WAYS}
            reference = results[WAYS[0]]
            for way, (times, lines) in results.items():
                print(f"{way}: " + ", ".join(f"{step} {t:.2f} s ({reference[0][step] / max(t, 0.01):.1f})" for step, t in times.items()), flush=True)
                if lines != reference[1]:
                    print("  it printed something else:\n  " + "\n  ".join(lines))
                    failed = True
            print("all printed:\n  " + "\n  ".join(reference[1]))
    return failed


if __name__ == "__main__":
    sys.exit(main())
