# SPDX-License-Identifier: GPL-2.0-or-later
"""Time limits for programs that are to be done in so many seconds of a host that has nothing else to do."""

import os
import subprocess
import time

HELD_UP = "/run/held-up"  # in the lab: seconds, by tests/lab/inside.py
LOOK = 2  # seconds


def held_up(pid):
    """Seconds that the one of its threads which waited longest has waited for a processor of the host: none of its own time."""
    longest = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as f:
                longest = max(longest, int(f.read().split()[1]) / 1e9)
    except (OSError, IndexError):
        pass  # it ends, or this kernel does not count that
    return longest


def lab_held_up():
    """Seconds that the host has kept this machine waiting, if it is the lab."""
    try:
        with open(HELD_UP, encoding="ascii") as f:
            return float(f.read())
    except (OSError, ValueError):
        return 0.0


class Patience:
    """Of a process, and of the lab if that is where it runs."""

    def __init__(self, limit, pid=None):
        self.limit, self.pid = limit, pid
        self.started, self.lab = time.monotonic(), lab_held_up()
        self.before = self.waited = held_up(pid) if pid else 0.0

    def left(self):
        """Seconds."""
        if self.pid:
            self.waited = max(self.waited, held_up(self.pid))  # a thread that ends takes its figure along
        more = self.waited - self.before + lab_held_up() - self.lab
        return self.limit + more - (time.monotonic() - self.started)


def run(command, limit):
    """As subprocess.run with output as text; TimeoutExpired has what it said by then."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        patience = Patience(limit, process.pid)
        while True:
            try:
                output, errors = process.communicate(timeout=LOOK)
                return subprocess.CompletedProcess(command, process.returncode, output, errors)
            except subprocess.TimeoutExpired:
                if patience.left() > 0:
                    continue
                process.kill()
                output, errors = process.communicate()
                raise subprocess.TimeoutExpired(command, limit, output, errors) from None
