# SPDX-License-Identifier: GPL-2.0-or-later
"""bulkheadd under test, in a directory of its own, spoken to as any client would: HTTP, and the command line."""

import http.client
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

import answers


class DaemonError(Exception):
    """A request failed, or what was waited for did not come."""


class LookedAt(http.client.HTTPResponse):
    """An answer that has to be what the daemon's document says, when it is read whole."""
    asked = None  # method and path

    def read(self, amt=None):
        text = super().read(amt)
        if amt is None and self.asked:
            answers.look(*self.asked, self.status, self.getheader("Content-Type"), text)
        return text


class Looking:
    """Of a connection: all answers are looked at."""
    response_class = LookedAt
    asked = None

    def request(self, method, url, *more, **named):
        self.asked = (method, url)
        super().request(method, url, *more, **named)

    def getresponse(self):
        answer = super().getresponse()
        answer.asked = self.asked
        return answer


class UnixConnection(Looking, http.client.HTTPConnection):
    def __init__(self, path, timeout=120):
        super().__init__("bulkhead", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def require(condition, text):
    if not condition:
        raise DaemonError(text)


def wait_for(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        require(time.monotonic() < deadline, f"waited {timeout} s for {what}")
        select.select([], [], [], 0.01)


HALTS = b"\xfa\xf4\xeb\xfd"
# Waits for a byte at the first serial port, as bit 0 of its line status says, and powers off by ACPI's PM1 control register.
OBEYS = b"\x66\xba\xfd\x03\xec\xa8\x01\xf3\x90\x74\xf5\x66\xba\x04\x04\x66\xb8\x00\x34\x66\xef\xf4\xeb\xfd"


def halting_kernel(path, code=HALTS):
    """A multiboot kernel that halts for good, or does something else: a whole guest, and a cheap one."""
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path, "wb") as f:
        f.write(header + code + bytes(64))
    return path


class Daemon:
    def __init__(self, build, start=True):
        self.build = build
        # Short: a socket's path has 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="bh-", dir=os.environ.get("MANAGE_DIRECTORY", "/tmp"))
        self.state = os.path.join(self.directory, "state")
        self.runtime = os.path.join(self.directory, "run")
        self.socket = os.path.join(self.runtime, "api")
        self.kernel = halting_kernel(os.path.join(self.directory, "kernel"))
        self.log = os.path.join(self.directory, "log")
        self.more = []  # options
        self.process = None
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for pid in self.workers():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        wait_for(lambda: not self.workers(), "the workers to end")
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self):
        return [os.path.join(self.build, "vmms/bulkheadd"), "--state", self.state, "--runtime", self.runtime, "--verbose", *self.more]

    def spawn(self, log):
        return subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = self.spawn(log)
        wait_for(self.answers, "the daemon to answer")

    def answers(self):
        require(self.process.poll() is None, f"the daemon did not start: {self.log_text()}")
        try:
            if self.call("GET", "/v1/host")[0] != 200:
                return False
            if not answers.known:
                answers.learn(self.ok("GET", "/v1/openapi.json"))
            return True
        except (OSError, http.client.HTTPException):
            return False

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)

    def workers(self):
        """Process numbers that hold the lock of a machine's directory, as /proc tells; of keeper and machine the keeper."""
        found, parents = [], {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("bulkhead-worker"):
                    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                    if any(f.startswith(self.state) and f.endswith("worker.lock") for f in fds):
                        found.append(int(pid))
                        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                            parents[int(pid)] = int(f.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
        return [pid for pid in found if parents.get(pid) not in found]

    def machine_process(self, name):
        """The process in its sandbox: of its keeper's children the worker; the default switch is another."""
        pid = self.ok("GET", f"/v1/vms/{name}")["pid"]
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            children = f.read().split()
        for child in children:
            with open(f"/proc/{child}/comm", encoding="ascii") as f:
                if f.read().strip() == "bulkhead-worker":
                    return int(child)
        raise DaemonError(f"{name} has no process: {children}")

    def asked(self, name):
        """How many connections there are to its worker's control socket, taken or not, beside the socket itself."""
        control = os.path.join(os.path.dirname(self.ok("GET", f"/v1/vms/{name}")["console"]), "control")
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
            return sum(line.endswith(f" {control}\n") for line in f) - 1

    def sent(self, method, path, body=None, headers=None):
        """The connection by which it is asked for; answered() has the answer."""
        connection = UnixConnection(self.socket)
        connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
        return connection

    @staticmethod
    def answered(connection):
        try:
            answer = connection.getresponse()
            text = answer.read()
            json_text = text and answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(text) if json_text else text.decode() or None
        finally:
            connection.close()

    def call(self, method, path, body=None, headers=None):
        """Status and answer of one request."""
        return self.answered(self.sent(method, path, body, headers))

    def configure(self, **config):
        """Writes host.json; for the next start."""
        path = os.path.join(self.directory, "host.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"version": 1, **config}, f)
        self.more = ["--config", path]

    def ok(self, method, path, body=None):
        status, answer = self.call(method, path, body)
        require(status < 300, f"{method} {path}: {status} {answer}")
        return answer

    def job(self, method, path, body=None):
        """A request that makes a job; returns how it ended."""
        answer = self.ok(method, path + ("&" if "?" in path else "?") + "wait=100", body)
        require(answer["state"] != "running", f"{method} {path} did not end: {answer}")
        return answer

    def done(self, method, path, body=None):
        answer = self.job(method, path, body)
        require(answer["state"] == "done", f"{method} {path}: {answer}")

    def refused(self, status, code, method, path, body=None, text=""):
        got, answer = self.call(method, path, body)
        require(got == status and answer["error"]["code"] == code and text in answer["error"]["message"],
                f"{method} {path}: wanted {status} {code} \"{text}\", got {got} {answer}")

    def make(self, name, **more):
        self.done("POST", "/v1/vms", {"name": name, "memory": 64 << 20, "boot": {"kernel": self.kernel},
                                       "processors": {"kind": "soft"}, **more})

    def state_of(self, name):
        return self.ok("GET", f"/v1/vms/{name}")["state"]

    def cli(self, *arguments, status=0, text=None, environment=None):
        r = subprocess.run([os.path.join(self.build, "cli/bulkhead"), *arguments], capture_output=True, text=True, timeout=600,
                           input=text, stdin=None if text is not None else subprocess.DEVNULL,
                           env={**os.environ, "BULKHEAD_SOCKET": self.socket, **(environment or {})})
        require(r.returncode == status, f"bulkhead {' '.join(arguments)}: status {r.returncode}: {r.stdout}{r.stderr}")
        return r.stdout + r.stderr
