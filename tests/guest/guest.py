# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest under test: starts `bulkhead run`, reads its console, types into it, and asks its control socket.

Everything waits for a condition with a deadline; nothing waits for a time.
"""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bare"))
from patience import Patience  # pylint: disable=wrong-import-position


class GuestError(Exception):
    """What was waited for did not come; carries the end of the console's text."""


def tiny_kernel(path, code):
    """A multiboot kernel with the address fields of the header, so that a few bytes are a whole guest."""
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path, "wb") as f:
        f.write(header + code + bytes(64))
    return path


_locks = {}  # of images in use, until this process ends


def shared_image(bulkhead, name, packages):
    """An image in a directory of the cache that several runs share. Who finds nobody else there makes it anew, as it may
    be of an older version (what is slow about it is in the cache of the image maker); who does not waits until it is
    made and takes that one. It stays as it is as long as a run that was given it is there."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bulkhead")
    directory = os.path.join(cache, name)
    if directory in _locks:
        return directory
    os.makedirs(cache, exist_ok=True)
    lock = open(directory + ".lock", "w", encoding="ascii")  # pylint: disable=consider-using-with
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
        include = [word for package in packages for word in ("--include", package)]
        r = subprocess.run([bulkhead, "image", "build", "debian-12", directory, *include], capture_output=True, text=True)
        if r.returncode:
            lock.close()
            raise GuestError(f"the image {name}: {r.stderr}")
    except BlockingIOError:
        pass
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not os.path.exists(os.path.join(directory, "image.json")):
        lock.close()
        raise GuestError(f"the image {name} could not be made by another run")
    _locks[directory] = lock
    return directory


class Guest:
    def __init__(self, bulkhead, arguments, *, name="guest", directory=None):
        self.directory = directory or tempfile.mkdtemp(prefix="bulkhead-test-")
        self.own_directory = directory is None
        self.console_path = os.path.join(self.directory, "console")
        self.control_path = os.path.join(self.directory, "control")
        self.stderr_path = os.path.join(self.directory, "stderr")
        self.bulkhead = bulkhead
        self.text = ""
        self.seen = 0  # what expect() has consumed
        self.socket = None
        self.started_at = time.monotonic()
        with open(self.stderr_path, "wb") as err:
            self.process = self.start(self.command(name, arguments), err)
        try:
            self.connect()
        except BaseException:
            self.close()
            raise

    def command(self, name, arguments):
        return [self.bulkhead, "run", "--name", name, "--serial", f"unix:{self.console_path}", "--control", self.control_path,
                *arguments]

    def start(self, command, log):
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.socket:
            self.socket.close()
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def stderr(self):
        with open(self.stderr_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def connect(self):
        deadline = time.monotonic() + 30
        while True:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                s.connect(self.console_path)
                s.setblocking(False)
                self.socket = s
                return
            except OSError:
                s.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"bulkhead run did not start: {self.stderr()}") from None
                select.select([], [], [], 0.005)

    # --- console

    def read_some(self, timeout):
        """Append what comes within `timeout` seconds; False when the other end is gone."""
        ready, _, _ = select.select([self.socket], [], [], max(timeout, 0))
        if not ready:
            return True
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self.text += data.decode("utf-8", errors="replace")
        return bool(data)

    def expect(self, pattern, timeout=120):
        """Wait until the console shows `pattern` (a regular expression) after what was expected before."""
        regex = re.compile(pattern, re.MULTILINE)
        patience = Patience(timeout, self.process.pid if self.process else None)
        alive = True
        while True:
            match = regex.search(self.text, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = patience.left()
            if left <= 0 or not alive:
                why = "the machine ended" if not alive else f"nothing for {timeout} s"
                raise GuestError(f"waited for {pattern!r}: {why}; the console ends with:\n{self.text[-3000:]}\n"
                                 f"stderr: {self.stderr()[-2000:]}")
            alive = self.read_some(min(left, 1))

    def send(self, text):
        data = text.encode()
        deadline = time.monotonic() + 30
        while data:
            _, ready, _ = select.select([], [self.socket], [], 1)
            if ready:
                data = data[self.socket.send(data):]
            elif time.monotonic() > deadline:
                raise GuestError("the console takes no input")

    def login(self, user="user", password="bulkhead", timeout=300):
        self.expect(r"login: ?$", timeout)
        self.send(user + "\n")
        self.expect(r"Password: ?$", 60)
        self.send(password + "\n")
        self.expect(r"[$#] ", 120)
        # A shell with no line editor, no prompt and no echo: what comes back is only what commands print.
        self.send("exec sh\n")
        self.send("PS1= PS2= TERM=dumb; stty -echo; printf '%s%s\\n' rea dy\n")
        self.expect(r"ready\r?$", 120)
        self.check("dmesg -n 1")  # kernel messages would run into what commands print

    def run(self, command, timeout=120):
        """Run a shell command in the guest as root; returns (status, output)."""
        self.count = getattr(self, "count", 0) + 1
        begin, end = f"BEGIN{self.count}x", f"END{self.count}x"
        quoted = command.replace("'", "'\\''")
        self.send(f"printf '%s%s\\n' BEGIN {self.count}x; sudo -n sh -c '{quoted}' 2>&1; printf '\\n%s%s %s\\n' END {self.count}x $?\n")
        self.expect(rf"^{begin}\r?\n", 60)
        start = self.seen
        match = self.expect(rf"^{end} (\d+)\r?$", timeout)
        return int(match.group(1)), self.text[start:match.start()].replace("\r", "").strip()

    def check(self, command, timeout=120):
        """run(), and the status must be 0; returns the output."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise GuestError(f"{command!r} in the guest ended with {status}:\n{output[-3000:]}")
        return output

    # --- from outside

    def control(self, *arguments):
        result = subprocess.run([self.bulkhead, "control", self.control_path, "--json", *arguments],
                                capture_output=True, text=True, timeout=60)
        if result.returncode != 0:
            raise GuestError(f"control {' '.join(arguments)}: {result.stderr.strip()}")
        return json.loads(result.stdout)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout=120):
        """Wait for the end, reading the console meanwhile; returns the exit status."""
        deadline = time.monotonic() + timeout
        alive = True
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise GuestError(f"the machine did not end within {timeout} s; the console ends with:\n{self.text[-3000:]}\n"
                                 f"stderr: {self.stderr()[-2000:]}")
            if alive:
                alive = self.read_some(0.2)
            else:
                try:
                    self.process.wait(0.2)
                except subprocess.TimeoutExpired:
                    pass
        while alive and self.read_some(0) and select.select([self.socket], [], [], 0)[0]:
            pass
        return self.process.returncode

    def memory_kib(self):
        """Resident memory of the worker that is not guest RAM, in KiB."""
        total = guest = 0
        with open(f"/proc/{self.process.pid}/smaps", encoding="ascii", errors="replace") as f:
            inside = False
            for line in f:
                if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
                    inside = "bulkhead-guest-memory" in line
                elif line.startswith("Rss:"):
                    size = int(line.split()[1])
                    total += size
                    guest += size if inside else 0
        return total - guest

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
