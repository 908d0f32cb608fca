# SPDX-License-Identifier: GPL-2.0-or-later
"""./run, as its user has it: without a terminal and on one."""

import os
import pty
import select
import subprocess
import tempfile
import time

from daemon import Daemon, require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command, environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.text = ""

    def expect(self, words, timeout=300):
        deadline = time.monotonic() + timeout
        while words not in self.text:
            require(select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0],
                    f"waited {timeout} s for {words!r}; it says {self.text[-2000:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            require(data or words in self.text, f"it ended without {words!r}: {self.text[-2000:]!r}")
            self.text += data.decode(errors="replace")
        self.text = self.text[self.text.index(words) + len(words):]

    def status(self):
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


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
        environment = dict(os.environ, XDG_DATA_HOME=home, XDG_RUNTIME_DIR=home)
        d.state, d.runtime = f"{home}/bulkhead-run", f"{home}/run"
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
        os.write(terminal.fd, b"\x1d")
        terminal.expect("the machine runs on")
        require(terminal.status() == 0 and len(d.workers()) == 1, "it runs on")
        # It is found again, and so is its manager.
        terminal = Terminal([os.path.join(ROOT, "run")], environment)
        terminal.expect("it runs already")
        terminal.expect("Ctrl-] leaves")
        os.write(terminal.fd, b"\n")
        terminal.expect("login: ", 60)
        os.write(terminal.fd, b"\x1d")
        require(terminal.status() == 0, "left again")
        run("--stop")
        require(not d.workers() and not manager(d), "stopped")
        require("is deleted" in run("--delete") and not os.path.exists(d.state), "deleted")
