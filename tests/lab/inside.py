# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the lab machine: the checks that were asked for, or the benchmark, and tells the host a JSON object a line.

{"plan": [NAME, …]} first, then {"begin": NAME} and {"check": NAME, "result": …, "seconds": …, "detail": …} for
each, and {"done": STATUS}. A check is a process of its own, so that its time limit ends all that it started.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

ROOT = "/lab"
HERE = os.path.join(ROOT, "tests", "lab")
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "guest"), os.path.join(ROOT, "tests", "bare")]


class Host:
    """The port to the host that is named lab.results."""

    def __init__(self):
        base = "/sys/class/virtio-ports"
        for port in os.listdir(base):
            with open(os.path.join(base, port, "name"), encoding="ascii") as f:
                if f.read().strip() == "lab.results":
                    self.file = open(os.path.join("/dev", port), "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.lock = threading.Lock()

    def tell(self, **message):
        with self.lock:
            self.file.write(json.dumps(message) + "\n")
            self.file.flush()


def run_check(host, name, limit):
    host.tell(begin=name)
    start = time.monotonic()
    with subprocess.Popen([sys.executable, os.path.join(HERE, "checks.py"), name], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as process:
        try:
            text, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            text += f"\nno end within {limit} s"
    result = {0: "passed", 77: "skipped"}.get(process.returncode, "failed")
    host.tell(check=name, result=result, seconds=round(time.monotonic() - start, 2), detail="" if result == "passed" else text.strip()[-4000:])


def run_checks(host, names):
    import checks  # pylint: disable=import-outside-toplevel
    wanted = {name: check for name, check in checks.ALL.items() if not names or name in names}
    host.tell(plan=list(wanted))
    for name, check in wanted.items():
        run_check(host, name, check.limit)
    return 0


def run_bench(host, arguments):
    with subprocess.Popen([sys.executable, os.path.join(ROOT, "bench", "hardware.py"), *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout:
            host.tell(line=line.rstrip("\n"))
    return process.returncode


def main():
    with open(os.path.join(ROOT, "request.json"), encoding="utf-8") as f:
        request = json.load(f)
    host = Host()
    if request["mode"] == "bench":
        status = run_bench(host, request["arguments"])
    else:
        status = run_checks(host, request["names"])
    host.tell(done=status)


if __name__ == "__main__":
    main()
