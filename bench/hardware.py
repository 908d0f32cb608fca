#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the hardware processor beside QEMU on the same KVM: start, boot, memory, disk writes.

Usage: bench/hardware.py [--rounds N] [--writes N] [--processor KIND]
Runs where /dev/kvm is; tests/lab/lab.py --bench brings it into the lab. Both boot the same kernel and initramfs, in turn;
ratios are of medians. QEMU has a virtio disk, ours is on VMBus; both disks are raw files that lie side by side.
Prints a Markdown table.
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
sys.path[:0] = [os.path.join(ROOT, "tests", "guest"), os.path.join(ROOT, "bench")]

from guest import Guest  # pylint: disable=wrong-import-position
import start  # pylint: disable=wrong-import-position

BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
ENLIGHTENED = ("host,kvm=off,hv-relaxed,hv-vapic,hv-time,hv-vpindex,hv-synic,hv-stimer,hv-stimer-direct,hv-tlbflush,hv-ipi,"
               "hv-frequencies,hv-runtime,hv-reset")
QEMU = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", ENLIGHTENED, "-nodefaults", "-display", "none", "-no-reboot"]
MEMORY_MIB = 512
DISK_MIB = 256
APPEND = "console=ttyS0 quiet panic=-1"
MODULES = {"ours": ["hv_storvsc", "sd_mod"], "qemu": ["virtio_pci", "virtio_blk"]}
# Both guests are asked the same; each loads the drivers of the disk that it has.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
echo "BENCH init"
if [ -e /sys/bus/acpi/devices/VMBUS:00 ]; then order=/ours; else order=/qemu; fi
for module in $(/bin/busybox cat $order); do /bin/busybox insmod /modules/$module; done
disk=
until [ -n "$disk" ]; do for d in /dev/sda /dev/vda; do [ -b $d ] && disk=$d; done; done
echo "BENCH disk"
/bin/busybox stty -echo
/diskbench $disk {writes}
echo "BENCH done"
read line
/bin/busybox poweroff -f
"""


def make_initramfs(directory, writes):
    release = os.path.basename(glob.glob("/usr/lib/modules/*")[0])
    root = os.path.join(directory, "root")
    for name in ("bin", "proc", "sys", "dev", "modules"):
        os.makedirs(os.path.join(root, name))
    for who, names in MODULES.items():
        order = []
        for name in names:
            wanted = subprocess.run(["modprobe", "-S", release, "--show-depends", name], capture_output=True, text=True, check=True).stdout
            for path in re.findall(r"^insmod (\S+)", wanted, re.MULTILINE):
                if os.path.basename(path) not in order:
                    order.append(os.path.basename(path))
                    subprocess.run(["cp", path, os.path.join(root, "modules")], check=True)
        with open(os.path.join(root, who), "w", encoding="ascii") as f:
            f.write("\n".join(order) + "\n")
    subprocess.run(["cp", "/bin/busybox", os.path.join(root, "bin")], check=True)
    subprocess.run(["cp", os.path.join(ROOT, "bench", "diskbench"), root], check=True)
    with open(os.path.join(root, "init"), "w", encoding="ascii") as f:
        f.write(INIT.format(writes=writes))
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 > ../initrd.gz", shell=True, cwd=root, check=True)
    return os.path.join(directory, "initrd.gz"), f"/boot/vmlinuz-{release}"


class QemuGuest(Guest):
    """The same for QEMU: a console to read and type into."""

    def command(self, name, arguments):
        return [*QEMU, "-serial", f"unix:{self.console_path},server=on,wait=off", *arguments]


def own_memory(pid):
    """(Rss, Pss) in KiB of what a process has mapped beside the guest's memory, its largest mapping."""
    mappings = []
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            field = re.match(r"^(\w+):\s+(\d+) kB", line)
            if field and field.group(1) == "Size":
                mappings.append({})
            if field:
                mappings[-1][field.group(1)] = int(field.group(2))
    mappings.remove(max(mappings, key=lambda m: m["Size"] if m["Rss"] else 0))
    return sum(m["Rss"] for m in mappings), sum(m["Pss"] for m in mappings)


def kvm_exits(pid):
    """How often the machine of a process left the guest, by KVM's own count."""
    total = 0
    for path in glob.glob(f"/sys/kernel/debug/kvm/{pid}-*/exits"):
        with open(path, encoding="ascii") as f:
            total += int(f.read())
    return total


def measure(guest):
    """Follow a guest through its life."""
    found = {}
    for word in ("init", "disk"):
        guest.expect(f"BENCH {word}", 120)
        found[word] = time.monotonic() - guest.started_at
    guest.expect("ready", 60)
    found["rss"], found["pss"] = own_memory(guest.process.pid)
    before = kvm_exits(guest.process.pid)
    guest.send("\n")
    done = guest.expect(r"written (\d+) (\d+)\r?\n", 300)
    found["exits"] = (kvm_exits(guest.process.pid) - before) / int(done.group(1))
    found["writes"] = int(done.group(1)) / int(done.group(2)) * 1e6
    guest.expect("BENCH done", 60)
    return found


ROWS = [("first", "start to the first instruction's output, ms", "{:.1f}"), ("init", "boot to /init, s", "{:.2f}"),
        ("disk", "boot to the disk, s", "{:.2f}"), ("rss", "memory beyond the guest's (Rss), KiB", "{:.0f}"),
        ("pss", "memory beyond the guest's (Pss), KiB", "{:.0f}"), ("writes", "4 KiB writes a second, 32 at a time", "{:.0f}"),
        ("exits", "exits a write", "{:.2f}")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--writes", type=int, default=20000)
    parser.add_argument("--processor", default="kvm")
    options = parser.parse_args()
    if not os.path.ismount("/sys/kernel/debug"):
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=True)
    found = {"qemu": [], "ours": []}
    with tempfile.TemporaryDirectory() as directory:
        initrd, kernel = make_initramfs(directory, options.writes)
        tiny = os.path.join(directory, "tiny")
        start.tiny_kernel(tiny)
        disks = {}
        for who in found:
            disks[who] = os.path.join(directory, f"{who}.raw")
            subprocess.run(["dd", "if=/dev/zero", f"of={disks[who]}", "bs=1M", f"count={DISK_MIB}", "conv=fsync", "status=none"], check=True)
        ours = ["--processor", options.processor, "--memory", f"{MEMORY_MIB}M"]
        qemu = ["-m", str(MEMORY_MIB)]
        for _ in range(options.rounds):
            first = {"qemu": start.first_byte([*QEMU, *qemu, "-serial", "stdio", "-kernel", tiny]),
                     "ours": start.first_byte([BULKHEAD, "run", *ours, "--kernel", tiny])}
            for who in found:
                if who == "ours":
                    guest = Guest(BULKHEAD, [*ours, "--kernel", kernel, "--initrd", initrd, "--append", APPEND, "--disk", disks[who]])
                else:
                    guest = QemuGuest(None, [*qemu, "-kernel", kernel, "-initrd", initrd, "-append", APPEND, "-drive",
                                             f"file={disks[who]},format=raw,if=virtio,cache=none,aio=io_uring"])
                with guest:
                    found[who].append({"first": first[who], **measure(guest)})
                print(f"{who}: " + ", ".join(f"{key} {value:.2f}" for key, value in found[who][-1].items()), file=sys.stderr, flush=True)
    print(f"| {MEMORY_MIB} MiB, 1 processor, {options.rounds} rounds | QEMU | bulkhead ({options.processor}) | bulkhead / QEMU |\n|---|---|---|---|")
    for key, title, form in ROWS:
        medians = {who: statistics.median(one[key] for one in found[who]) for who in found}
        print(f"| {title} | {form.format(medians['qemu'])} | {form.format(medians['ours'])} | {medians['ours'] / medians['qemu']:.2f} |")


if __name__ == "__main__":
    main()
