# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon under load, under attack, and with a clock that jumps."""

import concurrent.futures
import http.client
import json
import os
import random
import re
import resource
import select
import signal
import socket
import ssl
import subprocess
import time

from daemon import Daemon, Looking, UnixConnection, require, wait_for
from lan import apart
from test_manage_hostile import image_directory
from ways import Ways


def https_daemon(context):
    d = Daemon(context["build"], start=False)
    d.configure(https={"listen": "127.0.0.1:0"})
    d.start()
    return d


def port_of(d):
    return int(d.ok("GET", "/v1/host")["https"]["listen"].rsplit(":", 1)[1])


class HttpsConnection(Looking, http.client.HTTPSConnection):
    """Its answers are looked at, too."""


def tls_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def memory(d):
    with open(f"/proc/{d.process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors(d):
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


def processor_seconds(d):
    with open(f"/proc/{d.process.pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_manage_body_of_a_gigabyte(context):
    """By its length it is refused at once; without one it is cut off; nobody who may not ask has anything kept."""
    with https_daemon(context) as d:
        token = d.ok("POST", "/v1/tokens", {"name": "t", "role": "administrator"})["token"]
        url = f"https://127.0.0.1:{port_of(d)}/v1/vms"
        with open(os.path.join(d.directory, "large"), "wb") as f:
            f.truncate(1 << 30)
        before = memory(d)
        for options in (["--unix-socket", d.socket, "http://x/v1/vms"], ["-k", "-H", f"Authorization: Bearer {token}", url], ["-k", url]):
            # Who asks first is told. Who sends all the same may see nothing but a connection that is closed on him.
            for more, statuses in ((["-H", "Expect: 100-continue", "--expect100-timeout", "60"], ("413",)), (["-H", "Expect:"], ("000", "413")),
                                   (["-H", "Expect:", "-H", "Transfer-Encoding: chunked"], ("000", "413", "401"))):
                r = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", *more, "-T", f.name, *options],
                                   capture_output=True, text=True, timeout=120)
                require(r.stdout in statuses, f"{options} {more}: {r.stdout} {r.returncode}")
        require(memory(d) - before < 16 << 20, f"{memory(d) - before} bytes more")
        require(d.ok("GET", "/v1/vms")["vms"] == [], "it answers as before")


def trickle(s, text, stop):
    """A byte now and then, until it is closed on; how long that took."""
    start = time.monotonic()
    try:
        for byte in text:
            s.sendall(bytes([byte]))
            if select.select([s, stop], [], [], 0.5)[0]:
                break
    except OSError:
        pass
    s.close()
    return time.monotonic() - start


def test_manage_clients_that_trickle(context):
    with https_daemon(context) as d:
        port = port_of(d)
        before = descriptors(d)
        stop, told = socket.socketpair()
        def unix():
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            return s
        def tcp():
            return socket.create_connection(("127.0.0.1", port))
        def tls():
            return tls_context().wrap_socket(tcp())
        head = b"GET /v1/host HTTP/1.1\r\nX-Long: " + b"x" * 400
        body = b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b" " * 400
        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            waiting = [pool.submit(lambda make=make, text=text: trickle(make(), text, told)) for make in (unix, tls) for text in (head, body) for _ in range(10)]
            # A handshake that does not go on.
            waiting += [pool.submit(lambda: trickle(tcp(), b"\x16\x03\x01\x02\x00" * 80, told)) for _ in range(10)]
            worst = 0
            while not all(f.done() for f in waiting):
                start = time.monotonic()
                require(d.call("GET", "/v1/host")[0] == 200, "others are served")
                worst = max(worst, time.monotonic() - start)
                select.select([], [], [], 0.2)
            times = [f.result() for f in waiting]
        stop.close()
        require(max(times) < 45, f"one was there for {max(times):.0f} s")
        require(worst < 5, f"another waited for {worst:.1f} s")
        wait_for(lambda: descriptors(d) <= before, "the connections to be closed")


def operations_of(document, *without):
    """(path, method, what the document says of it) of all routes but those whose paths end so."""
    return [(path, method.upper(), o) for path, methods in document["paths"].items() for method, o in methods.items() if not path.endswith(without)]


def ask_often(make, count, seed, headers, operations):
    """Half of it what is asked again and again, half any route there is: for looking at what is there, else for what is refused."""
    rng = random.Random(seed)
    connection = make()
    asked = []
    for _ in range(count):
        name, operation = rng.choice(["vm1", "vm2", "nobody", "%20", "a" * 300]), None
        if rng.random() < 0.5:
            method, path = rng.choice([("GET", "/v1/vms"), ("GET", f"/v1/vms/{name}"), ("GET", "/v1/jobs?limit=3"), ("GET", "/v1/events?limit=3"),
                                       ("GET", "/v1/host"), ("GET", "/metrics"), ("POST", "/v1/vms"), ("PATCH", f"/v1/vms/{name}"),
                                       ("POST", f"/v1/vms/{name}/pause")])
        else:
            path, method, operation = rng.choice(operations)
            if method != "GET":
                name = rng.choice(["nobody", "%20", "a" * 300])
            path = re.sub(r"\{\w+\}", name, path)
        body = rng.choice(["", "{}", "[", '{"name": 3}', '{"nots": "x"}']) if method != "GET" else None
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        asked.append((answer.status, operation and operation["operationId"]))
    connection.close()
    return asked


def hammer(d, make, count, headers):
    """`count` requests over 64 connections: seconds, and the worst status."""
    operations = operations_of(d.ok("GET", "/v1/openapi.json"), "/stream", "/stop-machines")
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        asked = sum(pool.map(lambda i: ask_often(make, count // 64, i, headers, operations), range(64)), [])
    seconds, statuses = time.monotonic() - start, [status for status, _ in asked]
    require(statuses.count(200) > count // 4, f"few were served: {statuses.count(200)}")
    missing = {o["operationId"] for _, _, o in operations} - {name for _, name in asked}
    require(not missing, f"never asked: {missing}")
    return seconds, max(statuses)


def test_manage_ten_thousand_requests(context):
    with https_daemon(context) as d:
        d.make("vm1")
        d.make("vm2")
        port, token = port_of(d), d.ok("POST", "/v1/tokens", {"name": "t", "role": "administrator"})["token"]
        before = descriptors(d)
        for kind, make, headers in (("socket", lambda: UnixConnection(d.socket), {}),
                                    ("https", lambda: HttpsConnection("127.0.0.1", port, context=tls_context(), timeout=120),
                                     {"Authorization": f"Bearer {token}"})):
            hammer(d, make, 2560, headers)
            warm = memory(d)
            seconds, worst = hammer(d, make, 10048, headers)
            require(worst < 500, f"{kind}: status {worst}")
            print(f"     {kind}: 10048 requests in {seconds:.1f} s, {memory(d) - warm} bytes more")
            require(memory(d) - warm < 4 << 20, f"{kind}: {memory(d) - warm} bytes more")
            wait_for(lambda: descriptors(d) <= before, "the connections to be closed")


def test_manage_many_ask_of_one_machine(context):
    """More at once than its worker lets in: all are answered."""
    with Daemon(context["build"]) as d, concurrent.futures.ThreadPoolExecutor(32) as pool:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        worker = d.machine_process("web")
        os.kill(worker, signal.SIGSTOP)
        answers = [pool.submit(d.call, "GET", "/v1/vms/web/inspect") for _ in range(32)]
        wait_for(lambda: d.asked("web") >= 4, "some to be asked for")
        os.kill(worker, signal.SIGCONT)
        statuses = [answer.result()[0] for answer in answers]
        require(statuses == [200] * 32, f"{statuses}")


def test_manage_no_descriptors_left(context):
    """Whoever cannot be let in waits, and the daemon does not spin meanwhile."""
    with Daemon(context["build"]) as d:
        d.make("web")
        limit = descriptors(d) + 20
        resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        sockets = []
        for _ in range(60):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            sockets.append(s)
        wait_for(lambda: descriptors(d) >= limit, "the descriptors to be used up", 20)
        start, used = time.monotonic(), processor_seconds(d)
        wait_for(lambda: time.monotonic() - start > 3, "some time to go by")
        used = processor_seconds(d) - used
        require(used < 1, f"it took {used:.2f} s of processor time in 3 s to let nobody in")
        # The last one in line gets its turn when others go.
        sockets[-1].sendall(b"GET /v1/host HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for s in sockets[:-1]:
            s.close()
        sockets[-1].settimeout(20)
        require(sockets[-1].recv(12) == b"HTTP/1.1 200", "the last one is served")
        require(d.state_of("web") == "off", "it answers as before")
        # No descriptor for a worker's pipes: the start fails with a sentence.
        resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (descriptors(d) + 1, limit))
        s = UnixConnection(d.socket)
        s.request("POST", "/v1/vms/web/start?wait=20")
        answer = json.loads(s.getresponse().read())
        require(answer.get("state") == "failed" or "error" in answer, f"it started: {answer}")
        resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        s.close()
        d.done("POST", "/v1/vms/web/start")


def test_manage_two_daemons_on_one_state(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        for runtime in (d.runtime, os.path.join(d.directory, "other-run")):
            command = [runtime if a == d.runtime else a for a in d.command()]
            r = subprocess.run(command, capture_output=True, text=True, timeout=30)
            require(r.returncode == 1 and f"process {d.process.pid}" in r.stderr, f"{runtime}: {r.returncode} {r.stderr}")
        # Another state directory, the same sockets: refused too, and the first is not harmed.
        command = [os.path.join(d.directory, "other") if a == d.state else a for a in d.command()]
        r = subprocess.run(command, capture_output=True, text=True, timeout=30)
        require(r.returncode == 1 and "another daemon answers" in r.stderr, f"sockets: {r.returncode} {r.stderr}")
        require(d.state_of("web") == "running", "the first goes on")


# --- a clock that jumps ------------------------------------------------------------------------------------

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


class ClockDaemon(Daemon):
    """Its date is what a file says; time goes by as ever."""
    def start(self):
        self.clock = os.path.join(self.directory, "clock")
        self.jump(0)
        worker = os.path.join(self.directory, "worker")
        with open(worker, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\nunset LD_PRELOAD\nexec {self.build}/worker/bulkhead-worker \"$@\"\n")
        os.chmod(worker, 0o755)
        self.more = ["--worker", worker]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(os.environ, LD_PRELOAD=FAKETIME, FAKETIME_TIMESTAMP_FILE=self.clock, FAKETIME_NO_CACHE="1",
                                                     FAKETIME_DONT_FAKE_MONOTONIC="1"))
        wait_for(self.answers, "the daemon to answer")

    def jump(self, seconds):
        with open(self.clock + ".new", "w", encoding="utf-8") as f:
            f.write(f"{seconds:+d}\n")
        os.rename(self.clock + ".new", self.clock)


def test_manage_clock_jumps(context):
    if not os.path.exists(FAKETIME):
        raise context["skip"]("there is no libfaketime")
    with ClockDaemon(context["build"], start=False) as d:
        d.start()
        def with_token(token):
            return d.call("GET", "/v1/host", None, {"Authorization": f"Bearer {token}"})
        d.make("web")
        body = {"name": "once", "memory": 64 << 20, "boot": {"kernel": d.kernel}}
        first = d.call("POST", "/v1/vms?wait=20", body, {"Idempotency-Key": "k"})
        token = d.ok("POST", "/v1/tokens", {"name": "day", "role": "viewer", "seconds": 86400})["token"]
        d.done("POST", "/v1/vms/web/start")
        # A time limit runs on: two days forward do not end it, two days back do not prolong it.
        for jump in (2 * 86400, -2 * 86400):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                start = time.monotonic()
                waiting = pool.submit(d.job, "POST", "/v1/vms/web/shut-down?timeout=3")
                wait_for(lambda: d.state_of("web") == "stopping", "it to be asked")
                d.jump(jump)
                job = waiting.result()
                require(job["error"]["code"] == "timed-out" and 2.5 < time.monotonic() - start < 15, f"{time.monotonic() - start}: {job}")
            # A token's end is a date; an idempotency key's is a time that goes by.
            status, answer = with_token(token)
            require(status == (401 if jump > 0 else 200), f"jump {jump}: {status} {answer}")
            require(jump < 0 or answer["error"]["code"] == "expired-token", f"{answer}")
            require(d.call("POST", "/v1/vms", body, {"Idempotency-Key": "k"}) == first, f"jump {jump}: it was done again")
            events = d.ok("GET", "/v1/events")["events"]
            require([e["id"] for e in events] == sorted(e["id"] for e in events), "events are in the order in which they came")
        d.jump(0)
        require(with_token(token)[0] == 200 and len(d.ok("GET", "/v1/vms")["vms"]) == 2, "nothing is lost")
        d.done("POST", "/v1/vms/web/turn-off")


# --- requests made from the document -----------------------------------------------------------------------

class Maker:
    """Values that fit a schema, and some that do not."""
    def __init__(self, seed, names):
        self.rng = random.Random(seed)
        self.names = names

    def text(self):
        rng = self.rng
        return rng.choice(["", "a", "web", "..", "/", "/tmp/x", "%s%n", "x" * 300, "é", "\U0001f600", "\u0000", "\n", "-1", "1e9", "null", " ",
                           rng.choice(self.names), "".join(chr(rng.randrange(1, 0x250)) for _ in range(rng.randrange(12)))])

    def anything(self, depth=0):
        rng = self.rng
        kinds = [None, True, 0, -1, 2 ** 63 - 1, -2 ** 63, 1.5, 1e300, self.text(), [], {}]
        if depth < 3:
            kinds += [[self.anything(depth + 1)], {self.text(): self.anything(depth + 1)}]
        return rng.choice(kinds)

    def value(self, schema, odd=0.1, more=0.4):
        """`odd` of it fits nothing; what need not be there is there so often as `more` says."""
        rng = self.rng
        if rng.random() < odd:
            return self.anything()
        if "enum" in schema:
            return rng.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 100)
            return rng.choice([low, high, low - 1, min(high, low + rng.randrange(100)), rng.randint(low, high)])
        if kind == "array":
            return [self.value(schema["items"], odd, more) for _ in range(rng.choice([0, 1, 1, 2, 5]))]
        if kind == "object":
            required = schema.get("required", [])
            return {k: self.value(v, odd, more) for k, v in schema.get("properties", {}).items() if rng.random() < (1 - odd / 2 if k in required else more)}
        return self.text()

    def name_of(self, parameter):
        """Of what is mostly there."""
        known = {"switch": ["one"], "checkpoint": ["one"], "adapter": ["0"], "token": ["one"]}
        if self.rng.random() < 0.3:
            return self.text()
        return self.rng.choice(known.get(parameter, self.names) if self.rng.random() < 0.8 else self.names)

    def request(self, path, operation):
        """Path with its query, headers, body."""
        from urllib.parse import quote, urlencode  # pylint: disable=import-outside-toplevel
        rng = self.rng
        query, headers = {}, {}
        for p in operation.get("parameters", []):
            if p["in"] == "path":
                path = path.replace("{" + p["name"] + "}", quote(self.name_of(p["name"]), safe=""))
            elif p["in"] == "query" and rng.random() < 0.4:
                query[p["name"]] = self.value(p["schema"])
            elif p["in"] == "header" and rng.random() < 0.3:
                headers[p["name"]] = rng.choice(["*", "x", '"0"', "k1", "k2", "5"])
        query.pop("wait", None)  # that is patience, not input
        if rng.random() < 0.05:
            query[self.text()] = self.text()
        if query:
            path += "?" + urlencode({k: json.dumps(v) if not isinstance(v, str) else v for k, v in query.items()}, errors="replace")
        body = operation.get("requestBody")
        # Some are modest, and done.
        text = json.dumps(self.value(body["content"]["application/json"]["schema"], *rng.choice([(0.1, 0.4), (0.01, 0.08)]))) if body else None
        if text and rng.random() < 0.05:
            text = text[:rng.randrange(len(text) + 1)] + rng.choice(["", "}", "\u0000", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
        return path, headers, text.encode("utf-8", "replace") if text is not None else None


def harmless(path, body):
    """Not a request that has the host build something for minutes, or take more memory than the test may."""
    return not (path.startswith("/v1/images") and body and b'"build"' in body)


def ready(d):
    """What most routes are about. It gets deleted and renamed, and without it they have nothing to do."""
    return (("/v1/vms", {"name": "web", "memory": 64 << 20, "boot": {"kernel": d.kernel}, "processors": {"kind": "soft"}, "adapters": [{}]}),
            ("/v1/vms/web/checkpoints", {"name": "one"}), ("/v1/vms/web/start", None), ("/v1/switches", {"name": "one", "type": "private"}),
            ("/v1/tokens", {"name": "one", "role": "viewer"}))


class Asker:
    """Random requests, and what came of them: how often each operation was asked for, and how often it succeeded."""
    def __init__(self, d, document, seed, number):
        self.d, self.seed, self.done = d, seed, 0
        self.operations = operations_of(document, "/stream", "/stop-machines")
        self.maker = Maker(seed, ["web", "one", "two", "999", "1", "2", "t1"])
        self.ways = Ways(d, number, document)
        self.connection = UnixConnection(d.socket)
        self.seen, self.good = {}, {}

    def ask(self, method, path, body, headers=None):
        """Status and text, which are looked at."""
        self.connection.request(method, path, body, headers or {})
        answer = self.connection.getresponse()
        text = answer.read()
        what = f"seed {self.seed}, request {self.done}: {method} {path} {headers} {body}: {answer.status} {text[:300]}"
        require(answer.status < 500, what)
        if answer.status >= 400:
            error = json.loads(text)["error"]
            require(error["code"] and error["message"] and error["code"] != "failed", what)
        return answer.status, text, what

    def ask_json(self, method, path, body):
        status, text, _ = self.ask(method, path, json.dumps(body) if body is not None else None)
        return status, json.loads(text) if text else None

    def random_request(self):
        path, method, operation = self.maker.rng.choice(self.operations)
        whole, headers, body = self.maker.request(path, operation)
        if not harmless(whole, body):
            return
        status, _, what = self.ask(method, whole, body, headers)
        require(status >= 400 or str(status) in operation["responses"], what)
        name = operation["operationId"]
        self.seen[name] = self.seen.get(name, 0) + 1
        # Of what begins a job only the ways tell how that ended.
        self.good[name] = self.good.get(name, 0) + (status < 300 and status != 202)

    def follow(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1
        self.good[name] = self.good.get(name, 0) + self.ways.go(name, self.ask_json)

    def run(self, count):
        for i in range(count):
            self.done = i
            if i % 20 == 19:
                for path, body in ready(self.d):
                    self.ask("POST", path, json.dumps(body) if body else None)
                self.follow(self.maker.rng.choice(list(self.ways.ways)))
            self.random_request()

    def run_for(self, missing):
        """What has not succeeded yet is asked for again, and by chance; by a new connection, as the old one may have been idle for too long."""
        self.connection.close()
        for name in missing:
            if name in self.ways.ways:
                self.follow(name)
        self.run(100)


def total(askers, which):
    counts = {}
    for asker in askers:
        for k, v in getattr(asker, which).items():
            counts[k] = counts.get(k, 0) + v
    return counts


SWITCH = ("POST", "/v1/switches", {"name": "one", "type": "private"})


def test_manage_requests_made_from_the_document(context):
    """Seeds MANAGE_SEED and on; as many requests as MANAGE_REQUESTS says, and as many more as it takes until each operation has succeeded."""
    seed, count = int(os.environ.get("MANAGE_SEED", "1")), int(os.environ.get("MANAGE_REQUESTS", "4000"))
    with apart(context) as d:
        d.make("web")
        image_directory(d)
        document = d.ok("GET", "/v1/openapi.json")
        askers = [Asker(d, document, seed + i, i) for i in range(4)]
        # Where the host has no Open vSwitch there are no switches.
        status, answer = d.call(*SWITCH)
        never = {"addSwitch", "getSwitch", "changeSwitch", "deleteSwitch"} if status == 422 and answer["error"]["code"] == "not-supported" else set()
        before = descriptors(d)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda asker: asker.run(count // 8), askers))
            warm = memory(d)
            list(pool.map(lambda asker: asker.run(count // 8), askers))
            grown = memory(d) - warm
            asked = {o["operationId"] for _, _, o in askers[0].operations}
            for _ in range(20):
                missing = sorted(name for name in asked - never if not total(askers, "good").get(name))
                if not missing:
                    break
                list(pool.map(lambda asker, missing=missing: asker.run_for(missing), askers))
        good, seen = total(askers, "good"), total(askers, "seen")
        print("     " + ", ".join(f"{name} {good.get(name, 0)}/{seen.get(name, 0)}" for name in sorted(asked)))
        require(not missing, f"never succeeded: {missing}")
        print(f"     {count // 2} requests took {grown} bytes more")
        require(grown < 8 << 20, f"{count // 2} requests took {grown} bytes more")
        for asker in askers:
            asker.connection.close()
        wait_for(lambda: all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=1000")["jobs"]), "jobs to end", 300)
        require(d.process.poll() is None and descriptors(d) <= before + 40, "it lives, and leaks nothing")
        d.stop()
        d.start()
        d.ok("GET", "/v1/vms")
