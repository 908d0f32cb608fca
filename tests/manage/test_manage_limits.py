# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine may take of the host: in force where there are control groups, and told where there are none."""

import json
import os
import re
import signal
import time

from test_manage_automatic import cut_the_power, events
from daemon import Daemon, halting_kernel, require, wait_for


def group_below(context):
    """A new control group of version 2, and its controllers."""
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(os.path.join(mount, "cgroup.procs")) and os.path.exists(os.path.join(mount, "cgroup.controllers")):
            path = os.path.join(mount, f"bulkhead-test-limits-{os.getpid()}")
            try:
                os.mkdir(path)
            except OSError:
                continue
            with open(os.path.join(path, "cgroup.controllers"), encoding="ascii") as f:
                return path, f.read().split()
    raise context["skip"]("no control group of version 2 can be made here")


def warnings(d):
    return [e["text"] for e in d.ok("GET", "/v1/events")["events"] if e["kind"] == "vm.warning"]


def test_manage_limits_that_are_not_in_force(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        require("limits_problem" not in d.ok("GET", "/v1/vms/web") and not warnings(d), "nothing is limited: nothing is said")
        said = d.cli("vm", "limits", "web", "--processor-weight", "200", "--memory-extra", "64M")
        require("weight 200" in said and "64 MiB" in said and "no control group" in said, f"a warning: {said}")
        require("--cgroup" in d.ok("GET", "/v1/vms/web")["limits_problem"] and len(warnings(d)) == 1, "it is told once")
        d.ok("PATCH", "/v1/vms/web", {"limits": {"processor_maximum": 50}})
        require(d.ok("GET", "/v1/vms/web")["config"]["limits"] == {"processor_weight": 200, "processor_maximum": 50, "processor_reserve": 0,
                                                                "memory_priority": 50, "memory_extra": 64 << 20},
                "the rest stays")
        require(len(warnings(d)) == 1, "and not again for the same")
        d.ok("PATCH", "/v1/vms/web", {"limits": {"processor_weight": 100, "processor_maximum": 100, "memory_extra": 0}})
        require("limits_problem" not in d.ok("GET", "/v1/vms/web"), "nothing is limited any more")
        require("not limited" in d.cli("vm", "limits", "web", "--memory-extra", "none"), "no limit at all")
        said = d.cli("vm", "limits", "web", "--memory-extra", "default")
        require("may need" in said and "no control group" not in said, f"the worker's own bound holds: {said}")
        d.refused(400, "invalid", "PATCH", "/v1/vms/web", {"limits": {"processor_weight": 0}}, "limits.processor_weight")
        d.refused(400, "invalid", "PATCH", "/v1/vms/web", {"limits": {"processors": 3}}, "limits.processors")
        d.done("POST", "/v1/vms/web/turn-off")


def test_manage_no_more_is_reserved_than_there_is(context):
    """Of processors, as machines start and while they run."""
    host = os.cpu_count()
    with Daemon(context["build"]) as d:
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "odd", "boot": {"kernel": d.kernel}, "limits": {"processor_reserve": 101}},
                  "limits.processor_reserve")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "odd", "boot": {"kernel": d.kernel},
                                                      "limits": {"processor_reserve": 60, "processor_maximum": 50}}, "at most its processor_maximum")
        d.make("most", processors={"kind": "soft", "count": host}, limits={"processor_reserve": 90})
        d.make("some", processors={"kind": "soft", "count": 1}, limits={"processor_reserve": 100})
        d.make("none", processors={"kind": "soft", "count": host})
        d.done("POST", "/v1/vms/most/start")
        d.done("POST", "/v1/vms/none/start")  # what is not reserved anybody may use
        if host < 10:
            d.refused(409, "no-processors", "POST", "/v1/vms/some/start", text="processor_reserve")
            require(d.state_of("some") == "off", "it is not started")
            d.refused(409, "no-processors", "PATCH", "/v1/vms/none", {"limits": {"processor_reserve": 50}}, "reserves")
        said = d.cli("vm", "limits", "most", "--processor-reserve", "0", "--memory-priority", "70")
        require("reserve 0 %" in said and "priority 70" in said, said)
        d.done("POST", "/v1/vms/some/start")
        d.cli("vm", "set", "none", "--processor-reserve", "1")
        require("reserve 1 %" in d.cli("vm", "show", "none"), "it is shown")
        for name in ("most", "some", "none"):
            d.done("POST", f"/v1/vms/{name}/turn-off")


def available():
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


def test_manage_memory_that_the_host_has_not(context):
    with Daemon(context["build"], start=False) as d:
        d.start()
        for bytes_, text in ((31 << 20, "33554432 to"), ((1 << 40) + (2 << 20), "to 1099511627776"), ((64 << 20) + (1 << 20), "multiple of 2097152")):
            d.refused(400, "invalid", "POST", "/v1/vms", {"name": "odd", "memory": bytes_, "boot": {"kernel": d.kernel}}, text)
        # What is promised to one that runs is not there for others, touched or not; what else the host does meanwhile is not up to us.
        much = (available() * 3 // 4) >> 21 << 21
        d.make("huge", memory=1 << 40)
        d.make("first", memory=much)
        d.make("second", memory=much)
        d.make("small", memory=32 << 20)
        d.refused(409, "no-memory", "POST", "/v1/vms/huge/start", text="not enough memory")
        d.done("POST", "/v1/vms/first/start")
        d.refused(409, "no-memory", "POST", "/v1/vms/second/start", text="not enough memory")
        require("not enough memory" in d.cli("vm", "start", "second", status=1), "for people")
        d.done("POST", "/v1/vms/small/start")
        for name in ("first", "small"):
            d.done("POST", f"/v1/vms/{name}/turn-off")
        # Whoever wants that may.
        d.stop()
        d.configure(overcommit_memory=True)
        d.start()
        for name in ("first", "second"):
            d.done("POST", f"/v1/vms/{name}/start")
        for name in ("first", "second"):
            d.done("POST", f"/v1/vms/{name}/turn-off")


def test_manage_memory_goes_by_priority(context):
    """Where the host has not enough for all that start with it."""
    with Daemon(context["build"]) as d:
        much = (available() * 3 // 4) >> 21 << 21
        for name, priority in (("low", 10), ("high", 90), ("middle", 50)):
            d.make(name, memory=much, automatic={"start": "always"}, limits={"memory_priority": priority})
        d.make("small", automatic={"start": "always"}, limits={"memory_priority": 0})
        cut_the_power(d)
        d.start()
        wait_for(lambda: d.state_of("high") == d.state_of("small") == "running", "those to run for which there is memory")
        wait_for(lambda: all(events(d, name, "vm.failed") for name in ("low", "middle")), "the others to be told")
        require(d.state_of("low") == d.state_of("middle") == "off" and not events(d, "high", "vm.failed"), "there is memory for one")
        for name in ("high", "small"):
            d.done("POST", f"/v1/vms/{name}/turn-off")


def read(*path):
    with open(os.path.join(*path), encoding="ascii") as f:
        return f.read().strip()


def test_manage_control_group_goes_with_the_last_one_in_it(context):
    """A default switch that was plugged in while the machine ran may end after it."""
    group, _ = group_below(context)
    try:
        with Daemon(context["build"], start=False) as d:
            d.more = ["--cgroup", group]
            d.start()
            d.make("web", adapters=[{"port": "none"}])
            d.done("POST", "/v1/vms/web/start")
            vm = d.ok("GET", "/v1/vms/web")
            own = os.path.join(group, f"vm-{vm['id']}")
            before = read(own, "cgroup.procs").split()
            d.cli("vm", "adapter", "connect", "web", vm["config"]["adapters"][0]["mac"], "nat")
            late, = set(read(own, "cgroup.procs").split()) - set(before)
            os.kill(int(late), signal.SIGSTOP)
            try:
                d.done("POST", "/v1/vms/web/turn-off")
                require(read(own, "cgroup.procs").split() == [late], f"who is in it: {read(own, 'cgroup.procs')}")
                # It starts into the same group, and ends again, with the other still there.
                d.done("POST", "/v1/vms/web/start")
                d.done("POST", "/v1/vms/web/turn-off")
                require(late in read(own, "cgroup.procs").split(), "it is still there")
            finally:
                os.kill(int(late), signal.SIGCONT)
            wait_for(lambda: not os.path.exists(own), "the group to go")
    finally:
        os.rmdir(group)


def test_manage_limits_in_a_control_group(context):
    """Whatever controllers the host has for version 2: of each it is said whether it is in force."""
    group, controllers = group_below(context)
    try:
        with Daemon(context["build"], start=False) as d:
            d.more = ["--cgroup", group]
            d.start()
            spin = halting_kernel(os.path.join(d.directory, "spin"))
            with open(spin, "r+b") as f:
                f.seek(32)
                f.write(b"\xeb\xfe")
            d.make("web", boot={"kernel": spin}, limits={"processor_weight": 250, "processor_maximum": 20, "memory_extra": 64 << 20})
            d.done("POST", "/v1/vms/web/start")
            vm = d.ok("GET", "/v1/vms/web")
            own = os.path.join(group, f"vm-{vm['id']}")
            if "cpu" in controllers:
                require(read(own, "cpu.weight") == "250" and read(own, "cpu.max") == "20000 100000", "processor limits")
                start, used = time.monotonic(), json.loads(d.cli("vm", "metering", "web", "--json"))["cpu_seconds"]
                wait_for(lambda: time.monotonic() - start > 3, "some time to go by")
                used = json.loads(d.cli("vm", "metering", "web", "--json"))["cpu_seconds"] - used
                require(used < 1.2, f"{used} s of processor time in 3 s, where 0.6 may be")
                d.ok("PATCH", "/v1/vms/web", {"limits": {"processor_maximum": 100}})
                require(read(own, "cpu.max") == "max 100000", "changed while it runs")
            else:
                require("no such controller" in vm["limits_problem"] and "processor_weight" in vm["limits_problem"], f"{vm}")
                require(any("no such controller" in w for w in warnings(d)), "it is told")
            if "pids" in controllers:
                require(read(own, "pids.max") == "4352", "threads")
            if "memory" in controllers:
                require(read(own, "memory.oom.group") == "1", "who takes too much goes as a whole")
                require(read(own, "memory.max") == str(128 << 20), "memory limit")
            d.done("POST", "/v1/vms/web/turn-off")
    finally:
        for name in os.listdir(group):
            if name.startswith("vm-"):
                wait_for(lambda path=os.path.join(group, name): not os.path.exists(path) or "populated 0" in read(path, "cgroup.events"), "the group to be empty")
                if os.path.exists(os.path.join(group, name)):
                    os.rmdir(os.path.join(group, name))
        os.rmdir(group)
    if not {"cpu", "memory"} <= set(controllers):
        raise context["skip"](f"this host's controllers for version 2 are: {' '.join(controllers) or 'none'}; that limits are not in force is told")


def test_manage_root_keeps_few_capabilities(context):
    """By hand as by the unit: those that the unit names, no other can be had again, and no program gives one."""
    if os.geteuid():
        raise context["skip"]("whoever is not root has none")
    with open("packaging/systemd/bulkhead.service.in", encoding="utf-8") as f:
        names = re.search(r"^CapabilityBoundingSet=(.*)$", f.read(), re.MULTILINE)[1].split()
    with open("/usr/include/linux/capability.h", encoding="ascii") as f:
        numbers = dict(re.findall(r"^#define\s+(CAP_\w+)\s+(\d+)\s*$", f.read(), re.MULTILINE))
    kept = sum(1 << int(numbers[name]) for name in names)
    own = {key: int(value, 16) for key, value in re.findall(r"^(Cap\w+):\s+(\w+)$", read("/proc/self/status"), re.MULTILINE)}
    with Daemon(context["build"]) as d:
        status = read(f"/proc/{d.process.pid}/status")
        has = {key: int(value, 16) for key, value in re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.MULTILINE)}
        require(has["CapBnd"] == own["CapBnd"] & kept and has["CapPrm"] == has["CapEff"] == own["CapPrm"] & kept, f"{has}, not {kept:x} of {own}")
        require(has["CapInh"] == has["CapAmb"] == 0 and "NoNewPrivs:\t1" in status, status)
