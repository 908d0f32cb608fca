# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the lab machine: the checks that were asked for, or the benchmark, and tells the host a JSON object a line.

{"begin": NAME} and {"check": NAME, "result": …, "seconds": …, "detail": …} for each check, {"alive": true} while they run;
{"line": TEXT} of the benchmark and {"done": STATUS}. A check is a process of its own, so that its time limit ends all that it started.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = "/lab"
HERE = os.path.join(ROOT, "tests", "lab")
sys.path[:0] = [HERE, *(os.path.join(ROOT, "tests", folder) for folder in ("guest", "bare", "manage"))]
from patience import HELD_UP, Patience  # pylint: disable=wrong-import-position

GUEST_DISK = "/dev/vdc"
SIGN_OF_LIFE = 5  # seconds between two


class Host:
    """The port to the host that is named lab.results."""

    def __init__(self):
        base = "/sys/class/virtio-ports"
        for port in os.listdir(base):
            with open(os.path.join(base, port, "name"), encoding="ascii") as f:
                if f.read().strip() == "lab.results":
                    self.port = os.open(os.path.join("/dev", port), os.O_RDWR)
        self.held_up = os.open(HELD_UP, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        threading.Thread(target=self.be_nudged, daemon=True).start()

    def be_nudged(self):
        """What the host sends is there to be an interrupt, and says for how many seconds it has kept this machine waiting."""
        text = b""
        while data := os.read(self.port, 4096):
            *lines, text = (text + data).split(b"\n")
            if lines:
                os.pwrite(self.held_up, lines[-1].rjust(16) + b"\n", 0)

    def tell(self, **message):
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self.port, data):]


class Running:
    """A check in a process and session of its own; the result comes through a pipe."""

    def __init__(self, name, function, limit):
        self.name, self.limit = name, limit
        self.started = time.monotonic()
        self.patience = Patience(limit)
        self.pipe, theirs = os.pipe()
        self.text = b""
        self.pid = os.fork()
        if self.pid == 0:
            self.be_the_check(function, theirs)
        os.close(theirs)

    def be_the_check(self, function, pipe):
        status = 1
        try:
            os.setsid()
            # Not for what it starts: the pipe is closed there.
            with os.fdopen(pipe, "w", encoding="utf-8") as f:
                f.write("\n".join(function(self.name)))
            status = 0
        finally:
            os._exit(status)  # pylint: disable=protected-access

    def look(self, ready):
        """The message for the host, once it has ended or its time is over."""
        if ready:
            data = os.read(self.pipe, 65536)
            self.text += data
            if data:
                return None
        elif self.patience.left() > 0:
            return None
        # All that it started is in its group.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        result, _, detail = self.text.decode(errors="replace").partition("\n")
        if result not in ("passed", "failed", "skipped"):
            result, detail = "failed", f"no end within {self.limit} s" if not ready else f"it ended without a result: {detail}"
        return {"check": self.name, "result": result, "seconds": round(time.monotonic() - self.started, 2), "detail": detail[-4000:]}


def prepare_image(directory):
    """The Debian guest's image on the scratch disk, from where copies of it cost nothing."""
    os.mkdir(directory)
    for name in os.listdir(os.path.join(ROOT, "image")):
        shutil.copy(os.path.join(ROOT, "image", name), directory)
    subprocess.run(["cp", GUEST_DISK, os.path.join(directory, "disk.vhdx")], check=True)


def run_checks(host, names):
    import checks  # pylint: disable=import-outside-toplevel
    waiting = [name for name in checks.ALL if name in names]
    if any(checks.ALL[name].image for name in waiting):
        prepare_image(checks.IMAGE)
    for name in waiting:
        host.tell(begin=name)
        running = Running(name, checks.run, checks.ALL[name].limit)
        message = None
        while not message:
            left = max(running.patience.left(), 0)
            ready, _, _ = select.select([running.pipe], [], [], min(left, SIGN_OF_LIFE))
            host.tell(alive=True)
            message = running.look(bool(ready))
        host.tell(**message)


def run_bench(host, script, arguments):
    for module in ("tun", "bridge"):
        subprocess.run(["modprobe", module], check=True)
    with subprocess.Popen([sys.executable, os.path.join(ROOT, "bench", script), *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout:
            host.tell(line=line.rstrip("\n"))
    return process.returncode


def main():
    os.chdir(ROOT)
    with open(os.path.join(ROOT, "request.json"), encoding="utf-8") as f:
        request = json.load(f)
    host = Host()
    with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "w", encoding="ascii") as f:
        f.write("always" if request["mode"] == "checks" else "never")
    if request["mode"] == "bench":
        host.tell(done=run_bench(host, request["script"], request["arguments"]))
    else:
        run_checks(host, request["names"])


if __name__ == "__main__":
    main()
