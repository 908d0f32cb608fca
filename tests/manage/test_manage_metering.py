# SPDX-License-Identifier: GPL-2.0-or-later
"""Resource metering: what the account says, held against what was done; over runs, resets of the guest, and deaths of the daemon."""

import json
import os
import socket

from daemon import Daemon, require, wait_for
from debian import ALONE, Peer, make_debian
from lan import Lan
from test_manage_metrics import scrape, spinning_kernel

MIB = 1 << 20


def report(d, name):
    return d.ok("GET", f"/v1/vms/{name}/metering").get("report")


def seconds(d, name):
    return report(d, name)["processor"]["seconds"]


def process_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def require_averages(r):
    """They follow from what is told beside them."""
    duration = r["duration_ms"] / 1000
    require(abs(r["processor"]["average_percent"] - 100 * r["processor"]["seconds"] / duration) < 0.01, f"percent: {r}")
    require(abs(r["disk"]["average_normalized_iops"] - r["disk"]["normalized_operations"] / duration) < 0.01, f"operations a second: {r}")
    require(r["ran_ms"] <= r["duration_ms"], f"it ran longer than it was metered: {r}")
    if "average_mhz" in r["processor"]:
        require(r["processor"]["average_mhz"] > 0 or not r["processor"]["seconds"], f"{r}")


def require_memory(r, size):
    """Assigned all the time that it ran, as the average shows, which takes in the time when it was off."""
    average = size * r["ran_ms"] / r["duration_ms"]
    require(r["memory"]["minimum"] == r["memory"]["maximum"] == size and abs(r["memory"]["average"] - average) < size / 1000, f"memory: {r}")
    require(0 < r["memory"]["resident"]["minimum"] <= r["memory"]["resident"]["maximum"] and r["memory"]["resident"]["average"] > 0, f"resident: {r}")


def power_off_behind_the_back(d, name):
    """By the worker's own socket, with no daemon."""
    directory = os.path.join(d.runtime, "vms")
    control, = [os.path.join(directory, name, "control") for name in os.listdir(directory) if os.path.exists(os.path.join(directory, name, "control"))]
    workers = d.workers()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(control)
        s.sendall(b'{"version":1,"command":"power-off"}\n')
        s.recv(4096)
    require(len(workers) == 1, f"{name} is the one that runs: {workers}")
    wait_for(lambda: not d.workers(), "the worker to end")


def test_manage_metering(context):
    with Daemon(context["build"]) as d:
        vm = "/v1/vms/busy"
        d.make("busy", boot={"kernel": spinning_kernel(os.path.join(d.directory, "spin"))})
        require(report(d, "busy") is None and "not enabled" in d.cli("vm", "metering", "busy"), "nobody asked for it")
        d.refused(409, "wrong-state", "POST", f"{vm}/metering/reset", None, "not enabled")
        said = d.cli("vm", "metering", "busy", "--enable")
        first = report(d, "busy")
        require("Metered since" in said and first["ran_ms"] == 0 and first["processor"]["seconds"] == 0 and "maximum" not in first["memory"], f"{said}{first}")
        d.done("POST", f"{vm}/start")
        wait_for(lambda: seconds(d, "busy") > 0.5, "the account to show processor time")
        pid = d.machine_process("busy")
        now, after = seconds(d, "busy"), process_seconds(pid)
        require(now <= after, f"{now} s told, {after} s by the kernel")
        wait_for(lambda: seconds(d, "busy") >= after - 0.02, "all of it")

        # Who dies has told the next one, and what nobody saw is counted from what the worker knows.
        d.kill()
        before = process_seconds(pid)
        d.start()
        wait_for(lambda: seconds(d, "busy") >= before - 0.02, "what was done meanwhile")
        r, kernel = report(d, "busy"), process_seconds(pid)
        require(r["processor"]["seconds"] <= kernel and r["since"] == first["since"], f"once: {r}, {kernel}")
        require_averages(r)
        require_memory(r, 64 * MIB)

        # It stops, and starts: the sum goes on.
        d.done("POST", f"{vm}/turn-off")
        one = report(d, "busy")
        require(one["processor"]["seconds"] >= r["processor"]["seconds"], f"{one}")
        wait_for(lambda: report(d, "busy")["duration_ms"] > one["duration_ms"] + 200, "time to go by")
        off = report(d, "busy")
        require(off["processor"]["seconds"] == one["processor"]["seconds"] and off["ran_ms"] == one["ran_ms"], f"it is off: {off}")
        require_memory(off, 64 * MIB)
        d.done("POST", f"{vm}/start")
        pid = d.machine_process("busy")
        wait_for(lambda: process_seconds(pid) > 0.3, "it to work again")
        two = one["processor"]["seconds"] + process_seconds(pid) - 0.02
        wait_for(lambda: seconds(d, "busy") >= two, "the sum of both")
        told, kernel = seconds(d, "busy"), process_seconds(pid)
        require(told <= one["processor"]["seconds"] + kernel + 0.001, f"and no more: {one['processor']['seconds']} and {kernel}, {told} told")
        d.cli("vm", "rename", "busy", "worn")

        # The run ends while nobody is there.
        d.kill()
        wait_for(lambda: process_seconds(pid) > 0.6, "some more work")
        two = one["processor"]["seconds"] + process_seconds(pid) - 0.02
        power_off_behind_the_back(d, "worn")
        d.start()
        wait_for(lambda: d.state_of("worn") == "off", "it to be off")
        r = report(d, "worn")
        require(two <= r["processor"]["seconds"] and r["since"] == first["since"], f"at least {two} s: {r}")
        d.kill()
        d.start()
        require(report(d, "worn")["processor"]["seconds"] == r["processor"]["seconds"], "it is told once")

        samples, text = scrape(d)
        require(samples["bulkhead_vm_metering_cpu_seconds_total", "worn"] == r["processor"]["seconds"], text)
        require(samples["bulkhead_vm_metering_memory_maximum_bytes", "worn"] == 64 * MIB, text)
        require(samples["bulkhead_vm_metering_seconds", "worn"] > samples["bulkhead_vm_metering_running_seconds", "worn"] > 0, text)
        require(("bulkhead_vm_metering_disk_latency_average_seconds", "worn") not in samples, "it has no disk")

        # Reset, under a machine that runs: what it did before is no part of it.
        d.done("POST", "/v1/vms/worn/start")
        pid = d.machine_process("worn")
        wait_for(lambda: process_seconds(pid) > 0.5, "it to work")
        at = process_seconds(pid)
        r = json.loads(d.cli("vm", "metering", "worn", "--reset", "--json"))["report"]
        require(r["since"] > first["since"] and r["processor"]["seconds"] <= process_seconds(pid) - at + 0.02 and r["memory"]["maximum"] == 64 * MIB, f"{r}")
        d.ok("POST", "/v1/vms/worn/metering/enable")
        require(report(d, "worn")["since"] == r["since"], "to enable it again changes nothing")
        d.kill()
        d.start()
        require(report(d, "worn")["processor"]["seconds"] <= process_seconds(pid) - at + 0.02, "after a death, too")

        d.make("other")
        table = d.cli("vm", "metering", "--all", "--enable")
        require("METERED" in table and report(d, "other") is not None, table)
        d.cli("vm", "metering", "worn", "--disable")
        require(report(d, "worn") is None and "bulkhead_vm_metering_seconds{vm=\"worn\"" not in d.ok("GET", "/metrics"), "it is gone")
        d.done("DELETE", "/v1/vms/other")
        d.make("other")
        require(report(d, "other") is None, "another machine of that name is not metered")
        kinds = [e["text"] for e in d.ok("GET", "/v1/events")["events"] if e["kind"] == "vm.metering"]
        require(len(kinds) == 4 and "reset" in kinds[1] and "disabled" in kinds[3], f"{kinds}")


def remotes(r):
    return {(entry["direction"], entry["remote"]): entry["bytes"] for entry in r["network"]["remotes"]}


def require_close(what, told, done, more):
    require(done <= told <= done + more, f"{what}: {told} bytes told, {done} done")


def test_manage_metering_of_a_guest(context):
    """Debian's kernel moves so many bytes by its disk and to whom it is told; what is told is that, over a reset of the guest and a death of the daemon."""
    image = context["image"]()
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        d.cli("switch", "create", "lan", "--type", "internal", "--address", "192.0.2.1/24")
        interface = d.ok("GET", "/v1/switches/lan")["interface"]
        host.ip("address", "add", "198.51.100.1/32", "dev", interface)
        peer = Peer(host)
        acls = [{"direction": w, "action": "meter", "remote": r} for w in ("in", "out") for r in ("192.0.2.0/24", "any")]
        guest = make_debian(d, image, "web", {"port": "switch", "switch": "lan", "settings": {"acls": acls}}, append=ALONE)
        try:
            scratch = os.path.join(d.directory, "scratch.vhdx")
            d.cli("disk", "create", scratch, "64M")
            guest.prepare(alone=True)
            d.done("POST", "/v1/vms/web/disks", {"path": scratch})
            disk = guest.check("for i in $(seq 300); do for s in /sys/block/sd?; do [ $(cat $s/size) = 131072 ] && basename $s && exit; done; sleep 0.1; done")
            guest.give("eth0", "192.0.2.10/24")
            guest.ip("route add 198.51.100.1/32 via 192.0.2.1")
            require(guest.reaches("192.0.2.1", "198.51.100.1", seconds=60), "the host is reached")
            d.ok("POST", "/v1/vms/web/metering/enable")
            # Then it is known where it begins, and the worker has the rules.
            wait_for(lambda: len(report(d, "web")["network"]["remotes"]) == 4, "the worker to answer")
            zero = report(d, "web")
            require(zero["disk"]["written_bytes"] == 0 and zero["network"]["sent_bytes"] < 4096, f"what was before is no part of it: {zero}")
            for address, size in (("192.0.2.1", 2 * MIB), ("198.51.100.1", MIB)):
                peer.serve(5000, size)
                guest.fetch(5000, size, address)
            guest.check(f"dd if=/dev/zero of=/dev/{disk} bs=1M count=16 oflag=direct 2>/dev/null && dd if=/dev/{disk} of=/dev/null bs=4k count=256 iflag=direct 2>/dev/null")
            wait_for(lambda: report(d, "web")["disk"]["written_bytes"] >= 16 * MIB, "the worker to answer")
            r = report(d, "web")
            require_averages(r)
            require_memory(r, 320 * MIB)
            told = remotes(r)
            # What is lost by a machine with much to do comes again.
            require_close("from the network", told["in", "192.0.2.0/24"], 2 * MIB, MIB - 1)
            require_close("from elsewhere", told["in", "any"], MIB, MIB)
            require(0 < told["out", "any"] < MIB and 0 < told["out", "192.0.2.0/24"] < MIB, f"acknowledgements: {told}")
            require(sum(n for (way, _), n in told.items() if way == "in") <= r["network"]["received_bytes"] <= 6 * MIB, f"in all: {r['network']}")
            require_close("written", r["disk"]["written_bytes"], 16 * MIB, 2 * MIB)
            require_close("read", r["disk"]["read_bytes"], MIB, 64 * MIB)
            require(r["disk"]["normalized_operations"] >= 16 * MIB // 8192 + 256 and r["disk"]["operations"] >= 8 + 256, f"{r['disk']}")
            require(0 < r["disk"]["average_latency_us"] < 60e6, f"{r['disk']}")
            sizes = 8 << 30, 64 * MIB
            require(r["disk"]["allocation"] == sum(sizes) and 16 * MIB <= r["disk"]["taken"] < sum(sizes), f"{r['disk']}")

            # The guest begins anew, and its worker's counters with it; the account does not.
            d.done("POST", "/v1/vms/web/reset")
            d.kill()
            d.start()
            wait_for(lambda: report(d, "web")["disk"]["read_bytes"] > r["disk"]["read_bytes"] + MIB, "the guest to read its disk again", 600)
            again = report(d, "web")
            require_close("written", again["disk"]["written_bytes"], r["disk"]["written_bytes"], 4 * MIB)
            require_close("received", again["network"]["received_bytes"], r["network"]["received_bytes"], MIB)
            d.done("POST", "/v1/vms/web/turn-off")
            last = report(d, "web")
            require(last["disk"]["read_bytes"] >= again["disk"]["read_bytes"] and remotes(last)["in", "192.0.2.0/24"] >= told["in", "192.0.2.0/24"], f"{last}")
            require(last["processor"]["seconds"] > r["processor"]["seconds"], f"{last}")
        finally:
            guest.close()
            peer.close()
