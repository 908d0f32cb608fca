# SPDX-License-Identifier: GPL-2.0-or-later
"""vm top and vm inspect: what people look at while machines run."""

import json
import os
import re
import signal

from daemon import Daemon, require, wait_for
from terminal import Terminal


def test_top_once(context):
    with Daemon(context["build"]) as d:
        d.make("idle")
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        off, web = json.loads(d.cli("vm", "top", "--json"))
        require(off["name"] == "idle" and off["state"] == "off" and "cpu_seconds" not in off, f"one that is off: {off}")
        require(web["state"] == "running" and web["memory_assigned"] == 64 << 20 and web["memory_resident"] > 1 << 20 and "guest_seconds" in web
                and web["disk"]["read_bytes"] == 0, f"one that runs: {web}")
        before = web["cpu_seconds"]

        def used():
            return d.ok("GET", "/v1/metering")["vms"][1]["cpu_seconds"]
        # A start costs processor time, which is counted.
        d.done("POST", "/v1/vms/web/reset")
        d.done("POST", "/v1/vms/web/reset")
        wait_for(lambda: used() >= before, "its time not to go back")
        # A worker that hangs holds up nothing: the rest is told.
        machine = d.machine_process("web")
        os.kill(machine, signal.SIGSTOP)
        stuck = d.ok("GET", "/v1/metering")["vms"][1]
        require("guest_seconds" not in stuck and "cpu_seconds" in stuck, f"one that hangs: {stuck}")
        os.kill(machine, signal.SIGCONT)
        wait_for(lambda: "guest_seconds" in d.ok("GET", "/v1/metering")["vms"][1], "it to answer again")


def stalled(terminal):
    """Nobody reads what it draws until it waits in the middle of it: a change of the window makes it draw anew."""
    def writes():
        os.kill(terminal.pid, signal.SIGWINCH)
        with open(f"/proc/{terminal.pid}/syscall", encoding="ascii") as f:
            return f.read().startswith("1 0x1 ")
    wait_for(writes, "it to wait for its terminal")


def test_top_on_a_terminal(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        require("needs a terminal" in d.cli("vm", "top", status=1), "it says what it needs")
        environment = dict(os.environ, BULKHEAD_SOCKET=d.socket)
        bulkhead = os.path.join(d.build, "cli/bulkhead")
        top = Terminal([bulkhead, "vm", "top"], environment)
        top.expect("1 of 1 machines run")
        top.expect("web ")
        shown = top.expect("%") + top.expect("\033[J")
        require(re.search(r"running +[0-9]+ %", shown + "%"), f"it shows {shown!r}")
        d.kill()
        top.expect("no daemon answers")
        d.start()
        top.expect("1 of 1 machines run")
        top.type("q")
        require("\033[?1049l" in top.expect("\033[?1049l") and top.status() == 0, "q ends it, and the screen is as before")
        watch = Terminal([bulkhead, "vm", "inspect", "web", "--watch"], environment)
        watch.expect("processors")
        watch.expect("processors")
        stalled(watch)
        watch.type("\x03")
        require(watch.status() == 0, "Ctrl-C ends it")


def test_top_inspect_is_a_tree(context):
    with Daemon(context["build"]) as d:
        d.cli("disk", "create", os.path.join(d.directory, "base.vhdx"), "1G")
        d.cli("disk", "create", os.path.join(d.directory, "top.avhdx"), "--parent", os.path.join(d.directory, "base.vhdx"))
        d.cli("vm", "create", "web", "--kernel", d.kernel, "--memory", "64M", "--processor", "soft", "--disk",
              os.path.join(d.directory, "top.avhdx"), "--start")
        seen = d.cli("vm", "inspect", "web")
        for words in ("name web, state running", "memory 64.0 MiB", "├─ processors", "size 1.0 GiB", "└─ chain", "base.vhdx", "channels",
                      "heartbeat: state closed"):
            require(words in seen, f"{words!r} is not in\n{seen}")
        require([os.path.basename(f["path"]) for f in json.loads(d.cli("vm", "inspect", "web", "--json"))["disks"][0]["chain"]]
                == ["top.avhdx", "base.vhdx"], "the chain, from above")
        d.cli("vm", "turn-off", "web")
        require("only one that runs has insides" in d.cli("vm", "inspect", "web", status=1), "one that is off has none")


def test_top_brief_list(context):
    """What the table is made of says the same as the whole."""
    with Daemon(context["build"]) as d:
        d.make("web", notes="what for", tags=["a"], processors={"kind": "soft", "count": 2})
        full, brief = (d.ok("GET", f"/v1/vms?view={view}")["vms"][0] for view in ("full", "brief"))
        require(all(full[key] == value for key, value in brief.items() if key != "config"), f"{brief} is not of {full}")
        require(brief["config"] == {"processors": {"count": 2}, "memory": 64 << 20, "notes": "what for", "tags": ["a"],
                                    "groups": full["config"]["groups"]}, f"the configuration: {brief}")
        d.refused(400, "invalid", "GET", "/v1/vms?view=long")
        row = d.cli("vm", "list").splitlines()[1]
        require(row.split()[:2] == ["web", "off"] and row.endswith("2     64 MiB  what for"), f"the row: {row!r}")
        require(json.loads(d.cli("vm", "list", "--json"))[0] == full, "scripts get all")
