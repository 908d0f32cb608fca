# SPDX-License-Identifier: GPL-2.0-or-later
"""What is under way between two hosts while something is done to what is between them: a TCP stream whose bytes are checked, and numbered
datagrams, of which each is to come once at most."""

import json
import select
import subprocess
import sys

from daemon import require

# The sender's word is its place in the stream; a block each time, so that there is one under way at whatever moment.
SENDER = """
import array, select, socket, sys
kind, source, target, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
s = socket.socket(socket.AF_INET6 if ':' in target else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.bind((source, 0))
s.connect((target, port))
print('begun', flush=True)
size, at = 2048 if kind == 'tcp' else 8, 0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    try:
        s.sendall(array.array('Q', range(at, at + size)).tobytes())
    except OSError:  # a datagram that finds no way is a lost one
        if kind == 'tcp':
            raise
    at += size
if kind == 'tcp':
    s.shutdown(socket.SHUT_WR)
    s.settimeout(60)
    s.recv(1)
print(at, flush=True)
"""
# Tells when it began, and the longest time in which nothing came since it was asked last.
RECEIVER = """
import array, json, select, socket, sys, time
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((address, port))
if kind == 'tcp':
    s.listen(1)
print('listening', flush=True)
if kind == 'tcp':
    s = s.accept()[0]
s.setblocking(False)
at, rest, seen, twice, wrong, last, gap, ended = 0, b'', set(), 0, 0, time.monotonic(), 0, False
while True:
    ready = select.select([sys.stdin] + ([] if ended else [s]), [], [])[0]
    now = time.monotonic()
    if s in ready:
        data = s.recv(1 << 20)
        gap, last = max(gap, now - last), now
        ended = not data
        if kind == 'tcp':
            data = rest + data
            whole = len(data) & ~7
            words, rest = array.array('Q', data[:whole]), data[whole:]
            if words != array.array('Q', range(at, at + len(words))):
                wrong += 1
            at += len(words)
        else:
            number = array.array('Q', data)[0]
            twice += number in seen
            seen.add(number)
            at += 8
    if sys.stdin in ready:
        line = sys.stdin.readline()
        if not line:
            break
        if not ended:
            gap = max(gap, now - last)
        print(json.dumps({'words': at, 'gap': gap, 'twice': twice, 'wrong': wrong, 'ended': ended}), flush=True)
        gap = 0
"""


class Stream:
    """From one host to another; `kind` is tcp or udp."""

    def __init__(self, kind, source, source_address, target, target_address, port):
        self.name = f"{kind} {source_address} to {target_address}"
        self.kind = kind
        self.receiver = self.start(target, RECEIVER, kind, target_address, port)
        require(self.line(self.receiver) == "listening", f"{self.name}: the receiver listens")
        self.sender = self.start(source, SENDER, kind, source_address, target_address, port)
        require(self.line(self.sender) == "begun", f"{self.name}: the sender sends")

    @staticmethod
    def start(host, text, *arguments):
        return subprocess.Popen(host.argv(sys.executable, "-c", text, *map(str, arguments)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self, process):
        require(select.select([process.stdout], [], [], 60)[0], f"{self.name}: no word for a minute")
        return process.stdout.readline().strip()

    def look(self):
        """What came by now, and the longest gap since the last look."""
        self.receiver.stdin.write("\n")
        self.receiver.stdin.flush()
        return json.loads(self.line(self.receiver))

    def finish(self):
        """Ends it; what came is what was sent."""
        self.sender.stdin.write("\n")
        self.sender.stdin.flush()
        if self.kind == "tcp":
            # It ends when the receiver has closed: which it does when it is asked no more.
            while not self.look()["ended"]:
                select.select([], [], [], 0.01)
        got = self.look()
        self.receiver.stdin.close()
        sent = int(self.line(self.sender))
        require(got["wrong"] == 0 and got["twice"] == 0, f"{self.name}: bytes are wrong, or came twice: {got}")
        require(self.kind == "udp" or got["words"] == sent, f"{self.name}: {sent} were sent: {got}")
        return sent, got

    def close(self):
        for process in (self.sender, self.receiver):
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


class Streams:
    """Some of both kinds and both ways."""

    def __init__(self, pairs):
        """`pairs`: (host, address, host, address)."""
        self.all = []
        for i, (a, a_address, b, b_address) in enumerate(pairs):
            for k, kind in enumerate(("tcp", "udp")):
                self.all.append(Stream(kind, a, a_address, b, b_address, 7000 + 4 * i + k))
                self.all.append(Stream(kind, b, b_address, a, a_address, 7002 + 4 * i + k))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in self.all:
            stream.close()

    def flow(self, words=20000):
        """Waits until so much more of each has come."""
        goal = {stream: stream.look()["words"] + (words if stream.kind == "tcp" else words // 256) for stream in self.all}
        for stream, wanted in goal.items():
            while stream.look()["words"] < wanted:
                select.select([], [], [], 0.01)

    def around(self, what):
        """The longest gap of each while `what` is done and until all flow again: {name: seconds}."""
        for stream in self.all:
            stream.look()
        what()
        gaps, goals = {}, {}
        for stream in self.all:
            got = stream.look()
            gaps[stream], goals[stream] = got["gap"], got["words"] + (20000 if stream.kind == "tcp" else 160)
        for stream, goal in goals.items():
            got = stream.look()
            while got["words"] < goal:
                gaps[stream] = max(gaps[stream], got["gap"])
                select.select([], [], [], 0.005)
                got = stream.look()
            gaps[stream] = max(gaps[stream], got["gap"])
        return {stream.name: gap for stream, gap in gaps.items()}

    def finish(self):
        return [stream.finish() for stream in self.all]
