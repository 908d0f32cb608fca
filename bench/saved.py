#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures saving and restoring a machine, and the pause of a checkpoint, beside writing and reading as many bytes with nothing else.

Usage: bench/saved.py [--directory DIR] [--rounds N] [--memory MIB] [CASE …]

A guest of a few bytes fills its memory: `random` with what does not pack, all of it; `quarter` a quarter of it so, the rest was never
used; `text` all of it with what packs well. Raw is a file of as many bytes as the saved machine has, written in pieces of 4 MiB by one thread
and synced; for reading, the saved machine's own file, with nothing of it in the host's memory before. A ratio of 1 is as fast as raw.
The median of the rounds, and the rounds' order changes what comes first.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "guest"))
from guest import tiny_kernel  # pylint: disable=wrong-import-position

PIECE = 4 << 20


def kernel(case, memory):
    """edi = 2 MiB; eax = seed; ecx = dwords; again: eax = next; [edi] = eax; edi += 4; loop again; 'd' to COM1; hlt."""
    size = memory - (4 << 20) if case != "quarter" else memory // 4
    # What packs well changes once in 64 dwords: eax = ecx >> 6.
    step = bytes.fromhex("89c8c1e806") if case == "text" else bytes.fromhex("69c00d661900055ff36e3c")
    body = step + bytes.fromhex("890783c70449")
    code = (b"\xbf" + (2 << 20).to_bytes(4, "little") + b"\xb8\x39\x30\x00\x00" + b"\xb9" + (size // 4).to_bytes(4, "little") + body)
    code += b"\x75" + (256 - len(body) - 2).to_bytes(1, "little")
    code += bytes.fromhex("b064baf803000" "0ee") + b"\xf4\xeb\xfd"
    return code


class Machine:
    def __init__(self, directory, case, memory, restore=None):
        self.directory = directory
        self.paths = {name: os.path.join(directory, name) for name in ("serial", "control", "kernel", "state")}
        tiny_kernel(self.paths["kernel"], kernel(case, memory))
        command = [os.path.join(ROOT, "build/release/cli/bulkhead"), "run", "--kernel", self.paths["kernel"], "--memory", f"{memory >> 20}M",
                   "--processor", "soft", "--serial", f"file:{self.paths['serial']}", "--control", self.paths["control"]]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command + (["--restore", restore] if restore else []), stdin=subprocess.DEVNULL)

    def wait_for(self, condition):
        while not condition():
            if self.process.poll() is not None:
                raise SystemExit("the machine ended")
            time.sleep(0.002)

    def filled(self):
        self.wait_for(lambda: os.path.exists(self.paths["serial"]) and open(self.paths["serial"], "rb").read() == b"d")

    def ask(self, command, fds=(), **arguments):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(self.paths["control"])
            socket.send_fds(s, [json.dumps({"version": 1, "command": command, **arguments}).encode() + b"\n"], list(fds))
            return json.loads(s.makefile().readline())

    def to_file(self, command):
        fd = os.open(self.paths["state"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        start = time.monotonic()
        answer = self.ask(command, [fd], fd=True)
        seconds = time.monotonic() - start
        os.close(fd)
        if not answer["ok"]:
            raise SystemExit(answer["error"])
        return seconds, answer

    def end(self):
        if self.process.poll() is None:
            self.ask("power-off")
        self.process.wait()


def write_raw(path, size, buffer):
    if os.path.exists(path):
        os.unlink(path)
    start = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    for at in range(0, size, PIECE):
        os.write(fd, buffer[:min(PIECE, size - at)])
    os.fdatasync(fd)
    seconds = time.monotonic() - start
    os.close(fd)
    os.unlink(path)
    return seconds


def forget(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_raw(path):
    forget(path)
    start = time.monotonic()
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(PIECE)
    while os.readv(fd, [buffer]):
        pass
    seconds = time.monotonic() - start
    os.close(fd)
    return seconds


def one_round(directory, case, memory, buffer, first):
    result = {}
    raw = os.path.join(directory, "raw")
    m = Machine(directory, case, memory)
    m.filled()
    result["checkpoint"], answer = m.to_file("checkpoint")
    result["pause"] = answer["pause_us"] / 1e6
    size = answer["bytes"]
    if first:
        result["raw_write"] = write_raw(raw, size, buffer)
    os.unlink(m.paths["state"])
    result["save"], answer = m.to_file("save")
    m.process.wait()
    if not first:
        result["raw_write"] = write_raw(raw, size, buffer)
    result["bytes"] = answer["bytes"]
    if first:
        result["raw_read"] = read_raw(m.paths["state"])
    forget(m.paths["state"])
    os.unlink(m.paths["serial"])
    again = Machine(directory, case, memory, m.paths["state"])
    again.wait_for(lambda: os.path.exists(again.paths["control"]) and running(again))
    result["restore"] = time.monotonic() - again.started
    again.end()
    if not first:
        result["raw_read"] = read_raw(m.paths["state"])
    os.unlink(m.paths["state"])
    return result


def running(machine):
    try:
        return machine.ask("status")["state"] == "running"
    except OSError:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=1024)
    parser.add_argument("cases", nargs="*", default=[])
    o = parser.parse_args()
    buffer = os.urandom(PIECE)
    with tempfile.TemporaryDirectory(dir=o.directory) as directory:
        for case in o.cases or ["random", "quarter", "text"]:
            rounds = [one_round(directory, case, o.memory << 20, buffer, n % 2 == 0) for n in range(o.rounds)]
            m = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            print(f"{case:8} file {m['bytes'] / 1e6:7.1f} MB  save {m['save']:.2f} s, raw {m['raw_write']:.2f} s, ratio {m['raw_write'] / m['save']:.2f}  "
                  f"restore {m['restore']:.2f} s, raw {m['raw_read']:.2f} s, ratio {m['raw_read'] / m['restore']:.2f}  "
                  f"checkpoint {m['checkpoint']:.2f} s, pause {m['pause'] * 1000:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
