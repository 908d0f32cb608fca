#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the synthetic adapter beside QEMU's virtio-net: the same backend, kernel and programs, in turn.

Usage: bench/network.py [--image DIRECTORY] [--backends tap,nat] [--rounds N] [--seconds S] [--quick] [--rows REGEX] [--cpus N] [--processor KIND]
DIRECTORY is an image of `bulkhead image build` (Debian; the tests' one in the cache if none is told), of which kernel and initramfs are
taken; its disk is not used. Root, for network namespaces. Two guests of each program run from the beginning to the end, and sleep while
others are measured; each row is measured by turns, the one who begins changes with the round. Backends: tap interfaces in a bridge of the
kernel, and user-mode NAT (libslirp, QEMU's inside it, ours as the default switch). With --processor kvm QEMU runs on KVM too; where no hardware has
that, tests/lab/lab.py --bench-network brings it into the lab. Prints Markdown tables: how they compare, ratios of medians; and what a frame costs us. Who loses a
guest loses the row, which is told, and gets two others for the next.
"""

import argparse
import gzip
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tests", "guest")]

from guest import Guest, GuestError  # pylint: disable=wrong-import-position

BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
SIDES = ("qemu", "ours")
LOST_MAX = 6  # rows
UNITS = {"send": "Mbit/s", "receive": "Mbit/s", "request": "a second", "udp-send": "datagrams a second", "udp-receive": "datagrams a second"}
# Of two guests each is sender and receiver at once, so one way is enough.
KINDS = {"host": ("send", "receive", "request", "udp-send", "udp-receive"), "guest": ("send", "request", "udp-send")}
TITLES = {"send": "TCP, guest to {0}", "receive": "TCP, {0} to guest", "request": "TCP, one byte and back, guest and {0}",
          "udp-send": "UDP of 64 bytes, guest to {0}", "udp-receive": "UDP of 64 bytes, {0} to guest"}
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_pci virtio_net hv_netvsc; do /sbin/modprobe -q $module; done
until [ -e /sys/class/net/eth0 ]; do /bin/busybox usleep 20000; done
for word in $(/bin/busybox cat /proc/cmdline); do case $word in bench=*) address=${word#bench=};; esac; done
/bin/busybox ip link set lo up
/bin/busybox ip addr add ${address%,*} dev eth0
/bin/busybox ip link set eth0 up
/bin/busybox ip route add default via ${address#*,}
/netbench server &
/bin/busybox stty -echo
echo BENCH up
while read line; do /netbench $line; done
"""


def run(*command):
    subprocess.run(command, check=True)


def inside(space, *command):
    return ["ip", "netns", "exec", space, *command]


def make_initrd(image, directory):
    """The image's own, with another /init behind it: the kernel unpacks one archive after the other."""
    root = os.path.join(directory, "root")
    os.makedirs(os.path.join(root, "usr", "bin"))
    built = os.path.join(ROOT, "bench", "netbench")
    if os.path.exists(built):  # in the lab, which has no compiler
        shutil.copy(built, root)
    else:
        run("gcc", "-O2", "-static", "-o", os.path.join(root, "netbench"), os.path.join(ROOT, "bench", "netbench.c"))
    shutil.copy("/bin/busybox", os.path.join(root, "usr", "bin"))
    with open(os.path.join(root, "bench-init"), "w", encoding="ascii") as f:
        f.write(INIT)
    os.chmod(os.path.join(root, "bench-init"), 0o755)
    names = "usr/bin/busybox\nnetbench\nbench-init\n"
    own = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=root, stdout=subprocess.PIPE, check=True).stdout
    path = os.path.join(directory, "initrd.img")
    with open(os.path.join(image, "initrd.img"), "rb") as f, open(path, "wb") as out:
        out.write(f.read() + gzip.compress(own, 1))
    return path, os.path.join(root, "netbench")


class Space:
    """A network namespace: the host that the guests of one program and one backend see."""

    def __init__(self, name, program):
        self.name = name
        run("ip", "netns", "add", name)
        for command in ("link set lo up", "addr add 192.0.2.1/32 dev lo", "link add bridge0 type bridge", "addr add 198.51.100.1/24 dev bridge0",
                        "link set bridge0 up"):
            run(*inside(name, "ip", *command.split()))
        for n in (0, 1):
            run(*inside(name, "ip", "tuntap", "add", "dev", f"guest{n}", "mode", "tap", "vnet_hdr"))
            run(*inside(name, "ip", "link", "set", f"guest{n}", "master", "bridge0", "up"))
        self.server = subprocess.Popen(inside(name, program, "server"), stdout=subprocess.PIPE, text=True)
        if self.server.stdout.readline() != "ready\n":
            raise SystemExit("the server on the host did not start")

    def close(self):
        self.server.kill()
        self.server.wait()
        subprocess.run(["ip", "netns", "delete", self.name], check=False)


class SpaceGuest(Guest):
    def __init__(self, space, *arguments, **options):
        self.space = space
        super().__init__(*arguments, **options)

    def command(self, name, arguments):
        return inside(self.space, *super().command(name, arguments))

    def processor_seconds(self):
        """Of the process and those that it started."""
        total = 0
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            children = f.read().split()
        for pid in (self.process.pid, *children):
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")


class QemuGuest(SpaceGuest):
    def command(self, name, arguments):
        return inside(self.space, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-serial",
                      f"unix:{self.console_path},server=on,wait=off", *arguments)


def start(who, backend, number, options, space, initrd):
    kernel = os.path.join(options.image, "vmlinuz")
    address, gateway = {"tap": (f"198.51.100.{10 + number}", "198.51.100.1"), "nat": ("10.0.2.15", "10.0.2.2")}[backend]
    append = f"console=ttyS0 quiet panic=-1 no_timer_check rdinit=/bench-init bench={address}/24,{gateway}"
    kvm = options.processor.startswith("kvm")
    if who == "ours":
        return SpaceGuest(space, BULKHEAD, ["--processor", options.processor, "--memory", "512M", "--cpus", str(options.cpus), "--kernel", kernel,
                                            "--initrd", initrd, "--append", append, "--network", f"tap:guest{number}" if backend == "tap" else "nat"], name=f"guest{number}")
    network = f"tap,id=n0,ifname=guest{number},script=no,downscript=no,vhost=off" if backend == "tap" else "user,id=n0"
    return QemuGuest(space, None, ["-accel", "kvm" if kvm else "tcg", "-cpu", "host" if kvm else "max", "-m", "512M", "-smp", str(options.cpus),
                                   "-kernel", kernel, "-initrd", initrd, "-append", append, "-netdev", network, "-device",
                                   f"virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:12:34:{56 + number}"])


COUNTERS = ("exits", "hypercalls", "interrupts")


def counted(guest):
    """Of our adapter: frames, what its thread did for them, and what the processors left the guest for."""
    told = guest.control("inspect")
    adapter = told["network0"]
    found = {"frames": adapter["tx_frames"] + adapter["rx_frames"], "rounds": adapter["rounds"], "port_calls": adapter["port_calls"],
             "copied_bytes": adapter["copied_bytes"], "frame_bytes": adapter["tx_bytes"] + adapter["rx_bytes"]}
    for name in COUNTERS:
        found[name] = sum(p[name] for p in told["processors"])
    return found


def title(row):
    backend, peer, kind, _ = row
    return f"{backend}: {TITLES[kind].format('another' if peer == 'guest' else peer)}"


class Bench:
    def __init__(self, options):
        self.options = options
        self.rates, self.seconds, self.costs = {}, {}, {}
        self.lost = []

    def turn(self, who, guests, row):
        backend, peer, kind, streams = row
        guest = guests[0]
        address = {"host": "192.0.2.1", "guest": "198.51.100.11"}[peer]
        before, used = counted(guest) if who == "ours" else None, [g.processor_seconds() for g in guests]
        guest.send(f"{address} {kind} {streams} {self.options.seconds}\n")
        match = guest.expect(rf"netbench {kind} {streams} ([0-9.]+|failed)\r?\n", self.options.seconds * 4 + 60)
        if match[1] == "failed":
            raise GuestError(f"{guest.text[-500:]}")
        rate = float(match[1])
        used = sum(g.processor_seconds() - u for g, u in zip(guests, used))
        self.rates.setdefault(row, {}).setdefault(who, []).append(rate)
        self.seconds.setdefault(row, {}).setdefault(who, []).append(used / max(rate, 1e-9))
        if before:
            after = counted(guest)
            difference = {key: after[key] - before[key] for key in after}
            self.costs.setdefault(row, []).append(difference)
        print(f"{who}: {backend}, {peer}: {kind} {streams}: {rate:.1f} {UNITS[kind]}, {used:.2f} s of processors", file=sys.stderr, flush=True)

    def measure(self, backend, sides):
        for peer in ("host", "guest") if backend == "tap" else ("host",):
            for kind in KINDS[peer]:
                if backend == "nat" and kind == "udp-receive":  # nobody speaks to a guest behind it first
                    continue
                for streams in (1, 4):
                    row = backend, peer, kind, streams
                    if re.search(self.options.rows, " ".join(map(str, row))):
                        self.measure_row(row, sides)

    def measure_row(self, row, sides):
        self.rates[row] = {}
        for n in range(self.options.rounds):
            for who in SIDES[::-1] if n % 2 else SIDES:
                try:
                    self.turn(who, sides[who].guests, row)
                except (GuestError, OSError, subprocess.TimeoutExpired) as e:
                    self.lost.append(f"{who} lost a guest: {' '.join(map(str, row))}: {e}")
                    print(self.lost[-1], file=sys.stderr, flush=True)
                    if len(self.lost) >= LOST_MAX:
                        raise GuestError("too many") from e
                    sides[who].start()
                    return

    def table(self):
        o = self.options
        print(f"| {o.cpus} processor(s), {o.processor}, {o.rounds} rounds of {o.seconds:g} s | streams | unit | QEMU virtio-net | bulkhead | "
              "bulkhead / QEMU | lowest to highest of the rounds | processor time a unit, bulkhead / QEMU |\n|---|---|---|---|---|---|---|---|")
        for row, rates in self.rates.items():
            _, _, kind, streams = row
            if any(len(rates.get(who, [])) < o.rounds for who in SIDES):
                print(f"| {title(row)} | {streams} | {UNITS[kind]} | a guest was lost | | | | |")
                continue
            qemu, ours = (statistics.median(rates[who]) for who in SIDES)
            ratios = [a / b for a, b in zip(rates["ours"], rates["qemu"])]
            cost = statistics.median(self.seconds[row]["ours"]) / max(statistics.median(self.seconds[row]["qemu"]), 1e-12)
            print(f"| {title(row)} | {streams} | {UNITS[kind]} | {qemu:.0f} | {ours:.0f} | "
                  f"{ours / qemu:.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {cost:.2f} |")
        print("\n| of the first guest of ours, a frame | streams | bytes | exits of the hardware | hypercalls | interrupts | rounds of the adapter's thread | "
              "system calls of the port | bytes copied by us |\n|---|---|---|---|---|---|---|---|---|")
        for row, costs in self.costs.items():
            streams = row[3]
            total = {key: sum(cost[key] for cost in costs) for key in costs[0]}
            each = {key: value / max(total["frames"], 1) for key, value in total.items()}
            print(f"| {title(row)} | {streams} | {each['frame_bytes']:.0f} | {each['exits']:.3f} | "
                  f"{each['hypercalls']:.3f} | {each['interrupts']:.3f} | {each['rounds']:.3f} | {each['port_calls']:.3f} | {each['copied_bytes']:.0f} |")


class Side:
    """The guests of one program, with one backend."""

    def __init__(self, bench, who, backend, initrd, program):
        self.arguments = who, backend, bench.options, initrd
        self.guests = []
        self.space = Space(f"bulkhead-bench-{os.getpid()}-{who}", program)

    def start(self):
        """Anew, if there were some."""
        who, backend, options, initrd = self.arguments
        self.close_guests()
        for n in range(2 if backend == "tap" else 1):
            self.guests.append(start(who, backend, n, options, self.space.name, initrd))
        for guest in self.guests:
            guest.expect("BENCH up", 300)

    def close_guests(self):
        for guest in self.guests:
            guest.close()
        self.guests = []

    def close(self):
        self.close_guests()
        self.space.close()


def run_backend(bench, backend, initrd, program):
    sides = {}
    try:
        for who in SIDES:
            sides[who] = Side(bench, who, backend, initrd, program)
            sides[who].start()
        bench.measure(backend, sides)
    finally:
        for side in sides.values():
            side.close()


def main():
    parser = argparse.ArgumentParser()
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bulkhead")
    parser.add_argument("--image", default=os.path.join(cache, "test-image"))
    parser.add_argument("--backends", default="tap,nat")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of half a second")
    parser.add_argument("--rows", default="", help="only rows whose words (backend, peer, kind, streams) match")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--processor", default="soft")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    bench = Bench(options)
    with tempfile.TemporaryDirectory() as directory:
        initrd, program = make_initrd(options.image, directory)
        for backend in options.backends.split(","):
            try:
                run_backend(bench, backend, initrd, program)
            except GuestError as e:  # what was measured counts
                bench.lost.append(f"{backend} ends early: {e}")
    bench.table()
    if bench.lost:
        raise SystemExit("\n".join(bench.lost))


if __name__ == "__main__":
    main()
