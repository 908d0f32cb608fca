# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as they happen: by curl, by Python's own client, by the command line."""

import json
import os
import re
import select
import socket
import subprocess
import time

import answers
from daemon import Daemon, require, wait_for


class Follower:
    """A program that prints what it is told."""
    def __init__(self, command, **more):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **more)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def has(self, pattern, times=1):
        if select.select([self.process.stdout], [], [], 0.01)[0]:
            self.text += (self.process.stdout.read() or b"").decode()
        return len(re.findall(pattern, self.text)) >= times

    def wait(self, pattern, times=1, timeout=60):
        try:
            wait_for(lambda: self.has(pattern, times), f"{times} times {pattern}", timeout)
        except Exception as e:
            raise type(e)(f"{e}; there is: {self.text[-500:]}") from None


def curl(d, path, *more):
    return Follower(["curl", "-sSN", "--unix-socket", d.socket, *more, "http://x" + path])


def notes(d, name, n):
    """As many events."""
    for _ in range(n):
        d.done("POST", f"/v1/vms/{name}/start")
        d.done("POST", f"/v1/vms/{name}/turn-off")


def test_manage_events_as_they_happen(context):
    with Daemon(context["build"]) as d:
        d.make("before")
        d.make("two")
        with curl(d, "/v1/events/stream", "-i") as all_of_them, curl(d, "/v1/events/stream?vm=two") as one, \
                curl(d, "/v1/events/stream?after=0") as from_the_start:
            for f in (all_of_them, one, from_the_start):
                f.wait(r"id: \d+\n")
            require("text/event-stream" in all_of_them.text and "data:" not in all_of_them.text, f"from now on: {all_of_them.text}")
            from_the_start.wait("event: vm.created")
            d.make("one")
            d.done("POST", "/v1/vms/two/start")
            all_of_them.wait("event: vm.running")
            one.wait("event: vm.running")
            require([json.loads(t)["vm_name"] for t in re.findall("data: (.*)\n", all_of_them.text)] == ["one", "two"], all_of_them.text)
            require([json.loads(t)["kind"] for t in re.findall("data: (.*)\n", one.text)] == ["vm.running"], one.text)
            event = answers.known.validator({"$ref": "#/components/schemas/Event"})
            for told in re.findall("data: (.*)\n", from_the_start.text):
                event.validate(json.loads(told))
            last = re.findall(r"id: (\d+)\n", all_of_them.text)[-2]
        # Behind one: the header goes before the parameter.
        with curl(d, "/v1/events/stream?after=0", "-H", f"Last-Event-ID: {last}") as f:
            f.wait("event: vm.running")
            require(f.text.count("data:") == 1, f"behind {last}: {f.text}")
        d.refused(404, "not-found", "GET", "/v1/events/stream?vm=nobody")
        # Whoever asks for the headers alone gets no more: what follows on the same connection is the next answer.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(d.socket)
            connection.sendall(b"".join(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for request in ("HEAD /v1/events/stream", "GET /v1/host")))
            text = b""
            while not text.endswith(b"}"):
                text += connection.recv(65536)
        require(text.count(b"HTTP/1.1 200 OK") == 2 and text.split(b"\r\n\r\n")[1].startswith(b"HTTP/1.1"), f"two answers: {text}")
        for bad in ("x", "-3", "99999999999999999999"):
            with curl(d, "/v1/events/stream", "-H", f"Last-Event-ID: {bad}") as f:
                f.wait('"invalid"')


def test_manage_stream_lives_and_is_bounded(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        with curl(d, "/v1/events/stream") as f:
            # A sign of life where nothing happens.
            f.wait(": still here", 1, 40)
            before = len(os.listdir(f"/proc/{d.process.pid}/fd"))
        # Gone, it is not waited for until the next.
        wait_for(lambda: len(os.listdir(f"/proc/{d.process.pid}/fd")) < before, "the client to be seen to be gone", 10)
        sockets = []
        for i in range(70):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            s.sendall(b"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            sockets.append(s)
        answers = [s.recv(12) for s in sockets]
        require(answers.count(b"HTTP/1.1 200") == 64 and answers.count(b"HTTP/1.1 429") == 6, f"64 at most: {answers}")
        # They take nothing more: everybody else is served, and tells of much meanwhile.
        for _ in range(30):
            d.done("POST", "/v1/vms/web/start")
            d.done("POST", "/v1/vms/web/turn-off")
        require(d.state_of("web") == "off", "it goes on")
        # The daemon ends all the same.
        require(d.stop() == 0, "it ends")
        for s in sockets:
            s.close()


def test_manage_stream_slow_client(context):
    """One that takes nothing costs no memory, and is dropped."""
    with Daemon(context["build"]) as d:
        d.make("web", notes="x")
        # Much to tell: events in host.db, as they would be after some weeks.
        import sqlite3
        d.stop()
        with sqlite3.connect(os.path.join(d.state, "host.db")) as db:
            db.executemany("INSERT INTO event (time, kind, text) VALUES (1, 'test.event', ?)", [("y" * 2000,)] * 20000)
        db.close()
        d.start()
        def memory():
            with open(f"/proc/{d.process.pid}/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) * 4096
        before = memory()
        s = socket.socket(socket.AF_UNIX)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(d.socket)
        s.sendall(b"GET /v1/events/stream?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        start = time.monotonic()
        wait_for(lambda: d.ok("GET", "/v1/host") and not any(_writable_peer(d, s)), "the slow client to be dropped", 100)
        require(time.monotonic() - start < 95 and memory() - before < 8 << 20, f"{memory() - before} bytes for a client that takes nothing")
        with curl(d, "/v1/events/stream?after=0") as f:
            f.wait("test.event", 20000, 60)
        s.close()


def _writable_peer(d, s):
    """Whether the daemon still has the other end: a stream socket whose peer is closed says so by POLLHUP."""
    p = select.poll()
    p.register(s, select.POLLHUP)
    yield not p.poll(10)


def test_manage_event_follow(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        command = [os.path.join(d.build, "cli/bulkhead"), "event", "follow"]
        environment = dict(os.environ, BULKHEAD_SOCKET=d.socket)
        with Follower(command, env=environment) as people, Follower([*command, "web", "--after", "0", "--json"], env=environment) as script:
            script.wait("vm.created")
            d.done("POST", "/v1/vms/web/start")
            people.wait("vm.running  web")
            # The daemon is away for a while: nothing is left out.
            d.kill()
            d.start()
            d.done("POST", "/v1/vms/web/turn-off")
            for f in (people, script):
                f.wait("vm.off")
            require([json.loads(line)["kind"] for line in script.text.splitlines()] == ["vm.created", "vm.running", "vm.off"], script.text)
            require(people.text.count("vm.running") == 1, f"twice: {people.text}")
        require("no event's number" in d.cli("event", "follow", "--after", "x", status=2), "a wrong number")


def test_manage_stream_over_https(context):
    """As on the socket; and whoever may listen no more is sent away."""
    with Daemon(context["build"], start=False) as d:
        d.configure(https={"listen": "127.0.0.1:0"})
        d.start()
        d.make("web")
        https = d.ok("GET", "/v1/host")["https"]
        token = d.ok("POST", "/v1/tokens", {"name": "t", "role": "viewer"})["token"]
        path = os.path.join(d.directory, "token")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write(token)
        url = f"https://{https['listen']}"
        with Follower(["curl", "-sSNk", "-H", f"Authorization: Bearer {token}", url + "/v1/events/stream"]) as f, \
                Follower([os.path.join(d.build, "cli/bulkhead"), "--host", url, "--token-file", path, "--fingerprint", https["fingerprint"],
                          "event", "follow", "--after", "0"]) as people:
            f.wait(r"id: \d+\n")
            people.wait("vm.created")
            d.done("POST", "/v1/vms/web/start")
            f.wait("event: vm.running")
            people.wait("vm.running")
            d.ok("DELETE", "/v1/tokens/t")
            wait_for(lambda: f.process.poll() is not None, "the stream to end", 40)
            wait_for(lambda: people.process.poll() is not None, "the command to end", 40)
            people.wait("not known here")
            require(people.process.returncode == 1, "it fails with a sentence")
