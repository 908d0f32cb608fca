# SPDX-License-Identifier: GPL-2.0-or-later
"""What is under way between two hosts while something is done to what is between them: a TCP stream whose bytes are checked, and numbered
datagrams, of which each is to come once at most."""

import json
import select
import subprocess
import sys

from daemon import require, wait_for

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
# Both at once, with somebody who sends back what he gets. Of TCP some words are under way at whatever moment, and never more than he has room for.
ECHOED = """
import array, json, os, select, socket, sys, time
kind, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in target else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.settimeout(20)
s.connect((target, port))
s.setblocking(False)
print('begun', flush=True)
size, sent, at, out, rest, seen, twice, wrong, gap = 1024 if kind == 'tcp' else 8, 0, 0, b'', b'', set(), 0, 0, 0
last = due = time.monotonic()
ending = shut = ended = False
while True:
    ready = select.select([sys.stdin] + ([] if ended else [s]), [s] if out else [], [], max(0, due - time.monotonic()))
    now = time.monotonic()
    if now >= due:
        due = now + 0.01
        if not ending and (kind == 'udp' or sent - at < 65536):
            word = array.array('Q', range(sent, sent + size)).tobytes()
            sent += size
            if kind == 'tcp':
                out += word
            else:
                try:
                    s.send(word)
                except OSError:  # a datagram that finds no way is a lost one
                    pass
    if out:
        try:
            out = out[s.send(out):]
        except BlockingIOError:
            pass
    if ending and not out and not shut:
        shut = True
        if kind == 'tcp':
            s.shutdown(socket.SHUT_WR)
        else:
            ended = True
    if s in ready[0]:
        try:
            data = s.recv(1 << 20)
        except OSError:  # what is told of a datagram that found no way
            if kind == 'tcp':
                raise
            continue
        gap, last = max(gap, now - last), now
        if kind == 'tcp':
            ended = not data
            data = rest + data
            whole = len(data) & ~7
            words, rest = array.array('Q', data[:whole]), data[whole:]
            wrong += words != array.array('Q', range(at, at + len(words)))
            at += len(words)
        else:
            number = array.array('Q', data)[0]
            twice += number in seen
            wrong += number >= sent
            seen.add(number)
            at = max(at, number + size)
    if sys.stdin in ready[0]:
        asked = os.read(0, 4096).decode().splitlines()  # two at once, too, which a reader of lines would keep
        if not asked:
            break
        ending |= 'end' in asked
        if '' in asked:
            if not ended:
                gap = max(gap, now - last)
            print(json.dumps({'words': at, 'sent': sent, 'gap': gap, 'twice': twice, 'wrong': wrong, 'ended': ended}), flush=True)
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


class EchoedStream(Stream):
    """From a host to somebody who sends it back, and so both ways."""

    def __init__(self, kind, host, address, port):  # pylint: disable=super-init-not-called
        self.name = f"{kind} to {address} and back"
        self.kind = kind
        self.sender = self.receiver = self.start(host, ECHOED, kind, address, port)
        require(self.line(self.sender) == "begun", f"{self.name}: it begins")

    def finish(self):
        self.sender.stdin.write("end\n")
        wait_for(lambda: self.look()["ended"], f"{self.name}: the end", 120)
        got = self.look()
        require(got["wrong"] == 0 and got["twice"] == 0, f"{self.name}: bytes are wrong, or came twice: {got}")
        require(self.kind == "udp" or got["words"] == got["sent"], f"{self.name}: {got}")
        return got["sent"], got


def both_ways(pairs):
    """Streams of both kinds, from either to the other; `pairs`: (host, address, host, address)."""
    streams = []
    for i, (a, a_address, b, b_address) in enumerate(pairs):
        for k, kind in enumerate(("tcp", "udp")):
            streams.append(Stream(kind, a, a_address, b, b_address, 7000 + 4 * i + k))
            streams.append(Stream(kind, b, b_address, a, a_address, 7002 + 4 * i + k))
    return streams


class Streams:
    """Some at once."""

    def __init__(self, streams):
        self.all = streams

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in self.all:
            stream.close()

    def flow(self, words=20000):
        """Waits until so much more of each has come."""
        goal = {stream: stream.look()["words"] + (words if stream.kind == "tcp" else words // 256) for stream in self.all}
        for stream, wanted in goal.items():
            wait_for(lambda: stream.look()["words"] >= wanted, f"{stream.name} to flow", 120)  # pylint: disable=cell-var-from-loop

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
            def flows():
                got = stream.look()  # pylint: disable=cell-var-from-loop
                gaps[stream] = max(gaps[stream], got["gap"])  # pylint: disable=cell-var-from-loop
                return got["words"] >= goal  # pylint: disable=cell-var-from-loop
            wait_for(flows, f"{stream.name} to flow again", 120)
        return {stream.name: gap for stream, gap in gaps.items()}

    def finish(self):
        return [stream.finish() for stream in self.all]
