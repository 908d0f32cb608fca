# SPDX-License-Identifier: GPL-2.0-or-later
"""bulkhead-worker under test: started as a manager starts it, with a configuration on standard input."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class WorkerError(Exception):
    pass


def without_metering(result):
    """What a result says of the end. What it says of what was done is looked at here: it is there, unless the process did not come to its end."""
    told, cpu_us = json.loads(result.pop("metering", "null")), result.pop("cpu_us", 0)
    if result["result"] in ("powered-off", "reset", "power-cut", "saved") and not (told and cpu_us > 0 and set(told) >= {"run", "disk", "network", "remotes", "allocation"}):
        raise WorkerError(f"nothing of what it did: {told}, {cpu_us} us")
    return result


class Worker:
    """A machine in a directory of its own, which also has the socket of its first serial port and the log."""

    def __init__(self, program, kernel, *, directory=None, sandbox=..., **configuration):
        self.program = program
        self.own_directory = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="bulkhead-worker-")
        if sandbox is ...:  # no user of this host has that number
            sandbox = {"uid": 1879048193, "gid": 1879048193} if os.geteuid() == 0 else None
        self.configuration = {"version": 1, "name": "test", "boot": {"kernel": os.path.abspath(kernel)}, "memory": 128 << 20,
                              "serial": [{"kind": "file", "path": self.path("serial")}], "control": self.path("control"),
                              "result": self.path("result"), "lock": self.path("lock"), "sandbox": sandbox, **configuration}
        self.process = None
        self.handed = ()  # descriptors, by their numbers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, text=None):
        """Starts it; returns the line that it answers."""
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, pass_fds=self.handed)
        try:
            self.process.stdin.write((json.dumps(self.configuration) if text is None else text).encode())
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        line = self.process.stdout.read()  # to the end: it closes its standard output
        if not line.endswith(b"\n") or line.count(b"\n") != 1:
            raise WorkerError(f"it answered {line!r}; log: {self.log()}")
        return json.loads(line)

    def run(self):
        """Starts it, which must do; returns the pid that it tells."""
        answer = self.start()
        if answer != {"ok": True, "pid": self.process.pid}:
            raise WorkerError(f"pid {self.process.pid} answered {answer}; log: {self.log()}")
        return answer["pid"]

    def wait(self, timeout=120):
        """Returns the exit status and what the result file says."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"no end within {timeout} s; log: {self.log()}") from None
        return status, self.result()

    def result(self):
        try:
            with open(self.path("result"), encoding="utf-8") as f:
                return without_metering(json.load(f))
        except FileNotFoundError:
            return None

    def read(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as f:
            return f.read()

    def log(self):
        return self.read("log")

    def control(self, command, fds=(), **arguments):
        request = json.dumps({"version": 1, "command": command, **arguments}) + "\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(60)
            s.connect(self.path("control"))
            if fds:
                socket.send_fds(s, [request.encode()], list(fds))
            else:
                s.sendall(request.encode())
            answer = b""
            while not answer.endswith(b"\n"):
                piece = s.recv(65536)
                if not piece:
                    raise WorkerError(f"{command}: the connection ended; log: {self.log()}")
                answer += piece
        return json.loads(answer)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.process:
            self.process.stdout.close()
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def wait_for(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise WorkerError(f"waited {timeout} s for {what}")
        time.sleep(0.02)
