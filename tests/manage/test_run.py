# SPDX-License-Identifier: GPL-2.0-or-later
"""./run, as its user has it: without a terminal and on one."""

import json
import os
import subprocess
import tempfile

from daemon import Daemon, require
from terminal import Terminal

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def manager(d):
    """The process that has the state directory, if one has it."""
    with open(os.path.join(d.state, "lock"), encoding="ascii") as f:
        pid = f.read().strip()
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith("bulkheadd")
    except OSError:
        return False


def test_run_is_what_the_readme_says(context):
    image = context["image"]()
    with tempfile.TemporaryDirectory(prefix="bh-", dir="/tmp") as home, Daemon(context["build"], start=False) as d:
        environment = dict(os.environ, XDG_DATA_HOME=home, XDG_RUNTIME_DIR=home + "/r")
        d.state, d.runtime = f"{home}/bulkhead-run", f"{home}/r/bulkhead-run"
        d.socket = d.runtime + "/api"
        # The image that ./run would build is there already.
        d.start()
        d.cli("image", "import", "debian-12", image)
        d.stop()

        def run(*words, status=0):
            r = subprocess.run([os.path.join(ROOT, "run"), *words], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                               env=environment, timeout=1200)
            require(r.returncode == status, f"./run {words}: status {r.returncode}: {r.stdout}{r.stderr}")
            return r.stdout + r.stderr
        require("ready: ./run boots it" in run("--prepare", "--memory", "768M"), "it is prepared")
        require(not manager(d), "no manager is left behind")
        seen = run("--cpus", "2")
        for words in ("boot to login", "Hypervisor detected: Microsoft Hyper-V", "heartbeat         ok", "shutdown          clean",
                      "debian is changed"):
            require(words in seen, f"{words!r} is not in {seen}")
        require(not d.workers(), "the machine is off")
        terminal = Terminal([os.path.join(ROOT, "run")], environment)
        terminal.expect("login: ", 600)
        terminal.type("\x1d")
        terminal.expect("the machine runs on")
        require(terminal.status() == 0 and len(d.workers()) == 1, "it runs on")
        # While there is a real guest: what its insides look like.
        seen = d.cli("vm", "inspect", "debian")
        for words in ("heartbeat ok", "├─ vmbus: version 5.3", "└─ chain", "heartbeat: state ready, framework 3.0, version 3.0", "disk.vhdx"):
            require(words in seen, f"{words!r} is not in {seen}")
        usage = json.loads(d.cli("vm", "top", "--json"))[0]
        require(usage["cpu_seconds"] > 1 and usage["disk"]["read_bytes"] > 1 << 20 and usage["guest_seconds"] > 1, f"usage: {usage}")
        # It is found again, and so is its manager.
        terminal = Terminal([os.path.join(ROOT, "run")], environment)
        terminal.expect("it runs already")
        terminal.expect("Ctrl-] leaves")
        terminal.type("\n")
        terminal.expect("login: ", 60)
        terminal.type("\x1d")
        terminal.expect("the machine runs on")
        require(terminal.status() == 0, "left again")
        # What else somebody has made there is not deleted while it runs.
        d.make("other")
        d.done("POST", "/v1/vms/other/start")
        require("other machines" in run("--delete", status=1) and d.state_of("other") == "running", "it stays")
        d.done("POST", "/v1/vms/other/turn-off")
        run("--stop")
        require(not d.workers() and not manager(d), "stopped")
        require("is deleted" in run("--delete") and not os.path.exists(d.state), "deleted")
