# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that start with the host, stop with it, and start again when they have crashed."""

import os
import random
import signal
import sqlite3
import subprocess
import time

from daemon import Daemon, require, wait_for


def boot_again(d):
    """The next daemon finds a host that has booted since."""
    db = sqlite3.connect(os.path.join(d.state, "host.db"))
    with db:
        db.execute("UPDATE host SET value = 'another' WHERE key = 'boot'")
    db.close()


def cut_the_power(d):
    d.kill()
    for pid in d.workers():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not d.workers(), "the workers to end")
    boot_again(d)


def event_times(d, kind):
    """When it happened to each machine, last."""
    return {e["vm_name"]: e["time"] for e in d.ok("GET", "/v1/events?limit=1000")["events"] if e["kind"] == kind}


def events(d, name, kind):
    return [e for e in d.ok("GET", f"/v1/events?limit=1000&vm={name}")["events"] if e["kind"] == kind]


def test_manage_start_with_the_host(context):
    with Daemon(context["build"]) as d:
        for name, settings in (("nothing", {"start": "nothing"}), ("ran", {}), ("did-not", {}), ("always", {"start": "always"}),
                               ("off", {"start": "always"})):
            d.make(name, automatic=settings)
        for name in ("nothing", "ran", "off"):
            d.done("POST", f"/v1/vms/{name}/start")
        d.done("POST", "/v1/vms/off/turn-off")
        cut_the_power(d)
        d.start()
        wait_for(lambda: all(d.state_of(n) == "running" for n in ("ran", "always", "off")), "those to start that are to")
        require(d.state_of("nothing") == "off" and d.state_of("did-not") == "off", "others stay off")
        # The daemon alone starts nothing.
        d.done("POST", "/v1/vms/always/turn-off")
        d.kill()
        d.start()
        d.done("POST", "/v1/vms/did-not/start")
        require(d.state_of("always") == "off", "only the daemon was started, not the host")


def test_manage_start_in_order_and_later(context):
    with Daemon(context["build"]) as d:
        d.make("third", automatic={"start": "always", "order": 2})
        d.make("late", automatic={"start": "always", "order": 1, "delay": 2})
        d.make("first", automatic={"start": "always"})
        d.make("broken", automatic={"start": "always", "order": 1}, disks=[{"path": "/nowhere"}])
        cut_the_power(d)
        begun = time.time() * 1000
        d.start()
        wait_for(lambda: d.state_of("first") == "running", "the first to run")
        wait_for(lambda: d.state_of("third") == "running", "the last to run")
        times = event_times(d, "vm.running")
        require(times["first"] <= times["late"] <= times["third"], f"out of order: {times}")
        require(times["late"] - begun >= 1900, f"its delay is 2 s: {times['late'] - begun} ms")
        require(events(d, "broken", "vm.failed"), "one that cannot start is told, and holds up nobody")


def test_manage_stop_with_the_host(context):
    with Daemon(context["build"]) as d:
        d.make("cut", automatic={"stop": "turn-off"})
        d.make("slow", automatic={"start": "nothing"})  # has nobody who would shut it down
        d.make("paused", automatic={"stop": "turn-off"})
        d.make("off")
        for name in ("cut", "slow", "paused"):
            d.done("POST", f"/v1/vms/{name}/start")
        d.done("POST", "/v1/vms/paused/pause")
        require("are off" in d.cli("host", "stop-machines", "--timeout", "2"), "it says so")
        require(not d.workers() and all(d.state_of(n) == "off" for n in ("cut", "slow", "paused", "off")), "all are off")
        require(events(d, "slow", "vm.failed"), "that it did not shut down is told")
        # The next daemon is as of the next boot.
        d.kill()
        d.start()
        wait_for(lambda: d.state_of("cut") == d.state_of("paused") == "running", "what ran runs again")
        require(d.state_of("slow") == d.state_of("off") == "off", "others do not")
        # In use again: another daemon is but another daemon.
        d.done("POST", "/v1/vms/cut/turn-off")
        d.kill()
        d.start()
        require(d.state_of("cut") == "off", "it was turned off by hand")


def test_manage_killed_while_machines_stop(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    names = ["a", "b", "c"]
    with Daemon(context["build"]) as d:
        for name in names:
            d.make(name, automatic={"stop": "turn-off"})
        for i in range(8):
            for name in names:
                if d.state_of(name) == "off":
                    d.done("POST", f"/v1/vms/{name}/start")
            d.ok("POST", "/v1/host/stop-machines")
            time.sleep(rng.random() * 0.05)
            d.kill()
            d.start()
            # Whatever was off by then was wanted, and what was not goes on.
            wait_for(lambda: all(d.state_of(n) == "running" for n in names) and len(d.workers()) == 3, f"round {i}: all to run again")


def crash(d, name):
    pid = d.ok("GET", f"/v1/vms/{name}")["pid"]
    os.kill(d.machine_process(name), signal.SIGKILL)
    wait_for(lambda: d.ok("GET", f"/v1/vms/{name}").get("pid") != pid, "it to be seen")


def test_manage_restart_after_a_crash(context):
    with Daemon(context["build"]) as d:
        d.make("web", automatic={"recovery": "restart"})
        d.make("other")
        for name in ("web", "other"):
            d.done("POST", f"/v1/vms/{name}/start")
        crash(d, "other")
        crash(d, "web")
        wait_for(lambda: d.state_of("web") == "running", "it to run again")
        require(d.state_of("other") == "off", "the other is not configured so")
        text = events(d, "other", "vm.crashed")[0]["text"]
        require("worker.log ends with:" in text and "killed" in text, f"the log is told: {text}")
        # While the daemon is away, too.
        pid = d.ok("GET", "/v1/vms/web")["pid"]
        d.kill()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not d.workers(), "the worker to end")
        d.start()
        wait_for(lambda: d.state_of("web") == "running", "it to run again")
        d.done("POST", "/v1/vms/web/turn-off")
        d.kill()
        d.start()
        require(d.state_of("web") == "off", "what was turned off stays off")


class Poor(Daemon):
    """Of a host that has as much memory as a file says."""

    def has(self, mebibytes):
        with open(os.path.join(self.directory, "meminfo"), "w", encoding="ascii") as f:
            f.write(f"MemTotal: {8 << 20} kB\nMemAvailable: {mebibytes << 10} kB\n")

    def command(self):
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /proc/meminfo && exec "$@"', os.path.join(self.directory, "meminfo"), *super().command()]


def test_manage_restart_waits_for_memory(context):
    """What one that was killed had may not be free at once."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "mount", "--bind", "/proc/version", "/proc/meminfo"], stderr=subprocess.DEVNULL).returncode:
        raise context["skip"]("nothing can be mounted here")
    with Poor(context["build"], start=False) as d:
        d.has(1024)
        d.start()
        d.make("web", automatic={"recovery": "restart"})
        d.done("POST", "/v1/vms/web/start")
        d.has(1)
        crash(d, "web")
        wait_for(lambda: any("waits for memory" in e["text"] for e in events(d, "web", "vm.warning")), "it to wait")
        require(d.state_of("web") == "off" and not events(d, "web", "vm.failed"), "it has given up")
        d.has(1024)
        wait_for(lambda: d.state_of("web") == "running", "it to run again")


def test_manage_no_end_of_crashes(context):
    with Daemon(context["build"]) as d:
        d.make("web", automatic={"recovery": "restart"})
        d.done("POST", "/v1/vms/web/start")
        for _ in range(3):
            crash(d, "web")
            wait_for(lambda: d.state_of("web") == "running", "it to run again")
        crash(d, "web")
        wait_for(lambda: d.state_of("web") == "off" and any("stays off" in e["text"] for e in events(d, "web", "vm.failed")), "it to be given up")
        require(not d.ok("GET", "/v1/vms/web")["wanted"], "nor does the next boot start it")


def test_manage_log_has_an_end(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        path = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "worker.log")
        with open(path, "w", encoding="ascii") as f:
            f.write("".join(f"line {i}\n" for i in range(400000)))
        d.done("POST", "/v1/vms/web/start")
        require(os.path.getsize(path) < 1 << 20, "the log is cut")
        with open(path, encoding="ascii", errors="replace") as f:
            require("line 399999\n" in f.read(), "what is newest stays")


def test_manage_groups_and_tags(context):
    with Daemon(context["build"]) as d:
        d.cli("vm", "create", "a", "--kernel", d.kernel, "--group", "shop", "--group", "all", "--tag", "x", "--recovery", "restart",
              "--automatic-order", "3", "--automatic-delay", "7", "--automatic-stop", "save")
        d.cli("vm", "create", "b", "--kernel", d.kernel, "--group", "all")
        config = d.ok("GET", "/v1/vms/a")["config"]
        require(config["automatic"] == {"start": "if-was-running", "delay": 7, "order": 3, "stop": "save", "recovery": "restart"}, f"{config}")
        require("b  " not in d.cli("vm", "list", "--group", "shop") and "a  " in d.cli("vm", "list", "--group", "all"), "by group")
        require("no machines" in d.cli("vm", "list", "--tag", "y") and "a  " in d.cli("vm", "list", "--tag", "x"), "by tag")
        d.cli("vm", "set", "a", "--group", "other")
        require("other" in d.cli("vm", "show", "a") and "shop" not in d.cli("vm", "show", "a"), "a list is replaced as a whole")
        d.cli("vm", "set", "a", "--append", "console=ttyS0")
        require(d.ok("GET", "/v1/vms/a")["config"]["boot"] == {"kernel": d.kernel, "append": "console=ttyS0"}, "--append alone")
