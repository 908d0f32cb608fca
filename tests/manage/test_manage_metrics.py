# SPDX-License-Identifier: GPL-2.0-or-later
"""/metrics as Prometheus' own client library reads it, and `bulkhead vm metering`."""

import json
import os
import signal
import subprocess
import sys
import time

from daemon import Daemon, halting_kernel, require, wait_for

sys.path.append("/usr/lib/python3/dist-packages")  # what Debian installs for its own Python


def scrape(d):
    """Value by name and labels; names of all families."""
    from prometheus_client.parser import text_string_to_metric_families  # pylint: disable=import-outside-toplevel
    r = subprocess.run(["curl", "-sSi", "--unix-socket", d.socket, "http://x/metrics"], capture_output=True, text=True, check=True)
    head, text = r.stdout.replace("\r\n", "\n").split("\n\n", 1)
    require("200" in head.splitlines()[0] and "text/plain; version=0.0.4" in head, head)
    samples, families = {}, {}
    for family in text_string_to_metric_families(text):
        require(family.name not in families and family.documentation and family.type in ("gauge", "counter"), f"{family}")
        families[family.name] = family.type
        for s in family.samples:
            key = (s.name, " ".join(s.labels[label] for label in ("vm", "state", "mode", "mac", "direction", "remote") if label in s.labels))
            require(key not in samples, f"twice: {key}")
            samples[key] = s.value
    return samples, text


def spinning_kernel(path):
    halting_kernel(path)
    with open(path, "r+b") as f:
        f.seek(32)
        f.write(b"\xeb\xfe")
    return path


def test_manage_metrics(context):
    with Daemon(context["build"]) as d:
        samples, _ = scrape(d)
        require(samples["bulkhead_host_vms", "running"] == 0 and samples["process_resident_memory_bytes", ""] > 1 << 20, f"{samples}")
        d.make("busy", boot={"kernel": spinning_kernel(os.path.join(d.directory, "spin"))})
        d.make("idle", processors={"kind": "soft", "count": 2})
        d.make("od\"d\\ name")
        for name in ("busy", "idle"):
            d.done("POST", f"/v1/vms/{name}/start")
        wait_for(lambda: scrape(d)[0].get(("bulkhead_vm_cpu_seconds_total", "busy"), 0) > 0.5, "the busy machine to take processor time")
        samples, text = scrape(d)
        require(samples["bulkhead_vm_up", "busy"] == 1 and samples["bulkhead_vm_up", "od\"d\\ name"] == 0, text)
        require(samples["bulkhead_vm_cpu_seconds_total", "idle"] < samples["bulkhead_vm_cpu_seconds_total", "busy"], text)
        require(samples["bulkhead_vm_memory_assigned_bytes", "busy"] == 64 << 20 and
                0 < samples["bulkhead_vm_memory_resident_bytes", "busy"] < 64 << 20, text)
        require(samples["bulkhead_vm_processors", "idle"] == 2 and samples["bulkhead_vm_disk_requests_total", "idle"] == 0, text)
        require(("bulkhead_vm_cpu_seconds_total", "od\"d\\ name") not in samples, "nothing is said of what does not run")
        require(samples["bulkhead_host_vms", "running"] == 2 and samples["bulkhead_host_vms", "off"] == 1, text)
        require(0 < samples["bulkhead_host_memory_available_bytes", ""] < samples["bulkhead_host_memory_bytes", ""], text)
        require(samples["bulkhead_host_cpu_seconds_total", "idle"] > 0, text)
        meter = json.loads(d.cli("vm", "metering", "busy", "--json"))
        require(meter["cpu_seconds"] >= samples["bulkhead_vm_cpu_seconds_total", "busy"] and meter["disk"]["requests"] == 0, f"{meter}")
        require("64 MiB assigned" in d.cli("vm", "metering", "busy"), "for people")
        require("disk" not in json.loads(d.cli("vm", "metering", "od\"d\\ name", "--json")), "off it takes nothing")
        d.refused(404, "not-found", "GET", "/v1/vms/nobody/metering")


def test_manage_metrics_of_a_worker_that_hangs(context):
    """The others are told of all the same, and soon."""
    with Daemon(context["build"]) as d:
        for name in ("well", "hangs"):
            d.make(name)
            d.done("POST", f"/v1/vms/{name}/start")
        machine = d.machine_process("hangs")
        os.kill(machine, signal.SIGSTOP)
        start = time.monotonic()
        samples, text = scrape(d)
        require(time.monotonic() - start < 15, "it took long")
        require(("bulkhead_vm_disk_requests_total", "hangs") not in samples and samples["bulkhead_vm_up", "hangs"] == 1 and
                samples["bulkhead_vm_disk_requests_total", "well"] == 0, text)
        # It ends while it is still being asked.
        os.kill(machine, signal.SIGCONT)
        d.done("POST", "/v1/vms/hangs/turn-off")
        scrape(d)
        require(d.stop() == 0, "the daemon ends")
