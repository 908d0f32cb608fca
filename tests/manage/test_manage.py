# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon, its REST interface and its command line, with real workers and real (if small) guests."""

import concurrent.futures
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import time

from daemon import Daemon, UnixConnection, require, wait_for


def test_manage_life_of_a_machine(context):
    with Daemon(context["build"]) as d:
        require("no machines" in d.cli("vm", "list"), "an empty list says what to do")
        d.cli("vm", "create", "web", "--kernel", d.kernel, "--memory", "64M", "--processor", "soft", "--start")
        require(re.search(r"web +running", d.cli("vm", "list")), "it is listed as running")
        shown = json.loads(d.cli("vm", "show", "web", "--json"))
        require(shown["config"]["memory"] == 64 << 20 and shown["state"] == "running", f"show: {shown}")
        require(d.workers() == [shown["pid"]], "its worker is the one that is told")
        d.cli("vm", "pause", "web")
        require(d.state_of("web") == "paused", "paused")
        d.cli("vm", "resume", "web")
        d.cli("vm", "reset", "web")
        require(json.loads(d.cli("vm", "inspect", "web", "--json"))["name"] == "web", "inspect shows its insides")
        require("turn it off first" in d.cli("vm", "delete", "web", "--force", status=1), "a running one is not deleted")
        require("did not shut down" in d.cli("vm", "shut-down", "web", "--timeout", "1", status=1), "no guest service")
        d.cli("vm", "turn-off", "web")
        wait_for(lambda: not d.workers(), "the worker to end")
        d.cli("vm", "set", "web", "--cpus", "2", "--notes", "what it is for")
        d.cli("vm", "rename", "web", "shop")
        require("what it is for" in d.cli("vm", "show", "shop"), "notes are shown")
        require("is not deleted" in d.cli("vm", "delete", "shop", status=1), "without a terminal nothing is deleted unasked")
        directory = json.loads(d.cli("vm", "show", "shop", "--json"))["directory"]
        d.cli("vm", "delete", "shop", "--force")
        require(not os.path.exists(directory) and os.path.exists(d.kernel), "its directory is gone, other files are not")
        kinds = [e["kind"] for e in json.loads(d.cli("event", "list", "--json"))]
        require(kinds == ["vm.created", "vm.running", "vm.paused", "vm.resumed", "vm.off", "vm.deleted"], f"events: {kinds}")
        require(all(j["state"] in ("done", "failed") for j in json.loads(d.cli("job", "list", "--json"))), "all jobs ended")


def test_manage_workers_outlive_the_daemon(context):
    with Daemon(context["build"]) as d:
        d.make("one")
        d.make("two")
        d.make("three")
        for name in ("one", "two"):
            d.done("POST", f"/v1/vms/{name}/start")
        d.done("POST", "/v1/vms/two/pause")
        before = sorted(d.workers())
        since = {name: d.ok("GET", f"/v1/vms/{name}")["state_since"] for name in ("one", "two", "three")}
        d.kill()
        require(sorted(d.workers()) == before and len(before) == 2, "workers live on")
        require(all(abs(time.time() * 1000 - at) < 60000 for at in since.values()), f"since when they are what they are: {since}")
        began = time.time() * 1000
        d.start()
        wait_for(lambda: d.state_of("two") == "paused", "the paused one to be seen as such")
        again = {name: d.ok("GET", f"/v1/vms/{name}")["state_since"] for name in since}
        require(all(again[name] < began for name in since), f"since when is older than the daemon: it was {since}, and is {again}")
        require(d.state_of("one") == "running" and d.state_of("three") == "off", "states are found again")
        d.done("POST", "/v1/vms/two/resume")
        # One ends while nobody looks.
        gone = time.time() * 1000
        d.kill()
        pid = before[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in d.workers(), "the worker to end")
        d.start()
        require(sorted(d.state_of(n) for n in ("one", "two")) == ["off", "running"], "it is seen to be off")
        off = next(vm for vm in d.ok("GET", "/v1/vms")["vms"] if vm["name"] != "three" and vm["state"] == "off")
        require(off["state_since"] >= gone, f"since when is known no better than this: {off}")
        require(d.stop() == 0 and len(d.workers()) == 1, "SIGTERM ends the daemon, not the machine")
        d.start()
        require(sorted(d.state_of(n) for n in ("one", "two")) == ["off", "running"], "adopted after SIGTERM too")


def random_operation(d, rng, names):
    name = rng.choice(names)
    verb = rng.choice(["create", "start", "start", "turn-off", "pause", "resume", "reset", "delete", "rename", "change"])
    if verb == "create":
        return d.call("POST", "/v1/vms", {"name": name, "memory": 64 << 20, "boot": {"kernel": d.kernel}, "processors": {"kind": "soft"}})
    if verb == "delete":
        return d.call("DELETE", f"/v1/vms/{name}")
    if verb == "rename":
        return d.call("PATCH", f"/v1/vms/{name}", {"name": rng.choice(names)})
    if verb == "change":
        return d.call("PATCH", f"/v1/vms/{name}", {"notes": str(rng.random())})
    return d.call("POST", f"/v1/vms/{name}/{verb}" + rng.choice(["", "?wait=5"]))


def check_host(d):
    """Inventory, files and processes agree."""
    def vms_now():
        return d.ok("GET", "/v1/vms?limit=1000")["vms"]

    # A worker that was told to end when the daemon died may be about to.
    wait_for(lambda: sorted(vm["pid"] for vm in vms_now() if "pid" in vm) == sorted(d.workers()), "workers to be those told", 20)
    vms = vms_now()
    for vm in vms:
        require(vm["state"] in ("off", "saved", "running", "paused"), f"{vm['name']} is {vm['state']}: {vm.get('problem')}")
        require((vm["state"] in ("off", "saved")) == ("pid" not in vm), f"{vm['name']} is {vm['state']} with {vm.get('pid')}")
        with open(os.path.join(vm["directory"], "vm.json"), encoding="utf-8") as f:
            require(json.load(f)["id"] == vm["id"], f"{vm['directory']} belongs to another")
    known = {os.path.basename(vm["directory"]) for vm in vms}
    # A deleted machine's directory stays for what was not the machine's own any more: a disk or a medium that was taken away from it.
    left = {name for name in set(os.listdir(os.path.join(d.state, "machines"))) - known
            if not os.listdir(os.path.join(d.state, "machines", name)) or not all(f.endswith(".iso") or f.startswith("extra-") for f in os.listdir(os.path.join(d.state, "machines", name)))}
    require(not left, f"directories that belong to nobody: { {name: os.listdir(os.path.join(d.state, 'machines', name)) for name in left} }; {d.log_text()[-1200:]}")

    def unended():
        return [j for j in d.ok("GET", "/v1/jobs?limit=1000")["jobs"] if j["state"] not in ("done", "failed", "cancelled")]

    # A merge that was left begins by itself.
    wait_for(lambda: not unended(), "all jobs to end")


def quiet(d):
    return all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=100")["jobs"])


def kill_at_random(context, operations, machines, operation=random_operation, check=check_host, prepare=None, enough=lambda: True):
    """As many operations on as many machines, and more until that is enough; one in ten is the daemon's last, and then all has to be in order."""
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    operations = int(os.environ.get("MANAGE_OPERATIONS", str(operations)))
    names = [f"vm{i}" for i in range(int(os.environ.get("MANAGE_MACHINES", str(machines))))]
    most = 0
    with Daemon(context["build"]) as d:
        if prepare:
            prepare(d, names)
        # How many machines run when it dies hangs on how fast they start here.
        for i in range(10 * operations):
            if i >= operations and most >= 2 and enough():
                break
            if rng.random() < 0.1:
                # While a request is at work, at any moment of it.
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    future = pool.submit(operation, d, rng, names)
                    time.sleep(rng.random() * 0.03)
                    d.kill()
                    try:
                        future.result()
                    except (OSError, http.client.HTTPException, ValueError):
                        pass  # the answer was lost with the daemon
                d.start()
                wait_for(lambda: quiet(d), "jobs to end")
                check(d)
                most = max(most, len(d.workers()))
            else:
                status, answer = operation(d, rng, names)
                require(status < 500, f"operation {i}: {status} {answer}")
        wait_for(lambda: quiet(d), "jobs to end")
        check(d)
        require(most >= 2, "never did two machines run: this tests nothing")


def test_manage_deleted_but_for_what_is_not_its_own(context):
    """A file that somebody put beside a machine's own stays, which is told, and is in nobody's way."""
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = d.ok("GET", "/v1/vms/web")["directory"]
        notes = os.path.join(directory, "notes")
        with open(notes, "w", encoding="utf-8") as f:
            f.write("mine")
        d.done("DELETE", "/v1/vms/web")
        require(os.listdir(directory) == ["notes"], f"{os.listdir(directory)}")
        require(f"what was not its own stays in {directory}" in d.cli("event", "list"), "it is told")
        d.make("web")
        require(d.ok("GET", "/v1/vms/web")["directory"] != directory and os.listdir(directory) == ["notes"], "another of that name is elsewhere")


def test_manage_daemon_killed_at_random(context):
    """A thousand operations on machines with disks, checkpoints, saved states and copies."""
    from long_killed import check, operation, prepare  # pylint: disable=import-outside-toplevel,cyclic-import
    kill_at_random(context, 1000, 8, operation, check, prepare)


def test_manage_bad_input(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        boot = {"kernel": d.kernel}
        d.refused(409, "exists", "POST", "/v1/vms", {"name": "web", "boot": boot}, "choose another name")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "a", "boot": boot, "disks": [{"path": "x"}, {"path": "y", "hat": 1}]},
                  "disks[1].hat")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "a/b", "boot": boot}, "name")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "a"}, "nothing to boot")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "a", "boot": boot, "memory": 1}, "memory")
        d.refused(400, "invalid", "POST", "/v1/vms", {"name": "a", "boot": boot, "processors": {"count": 65}}, "processors.count")
        d.refused(404, "not-found", "GET", "/v1/vms/nobody", None, "nobody")
        d.refused(404, "not-found", "GET", "/v1/nothing")
        d.refused(405, "wrong-method", "PUT", "/v1/vms/web", {})
        d.refused(409, "wrong-state", "POST", "/v1/vms/web/pause")
        d.refused(400, "invalid", "GET", "/v1/vms?limit=-1")
        d.refused(400, "invalid", "POST", "/v1/vms/web/start", {"x": 1}, "no body")
        job = d.job("POST", "/v1/vms", {"name": "pictures", "image": "no-such-image"})
        require(job["state"] == "failed" and job["error"]["code"] == "not-found" and "no-such-image" in job["error"]["message"], f"a missing image: {job}")
        require([v["name"] for v in d.ok("GET", "/v1/vms")["vms"]] == ["web"], "nothing is left of what failed")
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "/nowhere/disk.vhdx"}]})
        job = d.job("POST", "/v1/vms/web/start")
        require(job["state"] == "failed" and job["error"]["code"] == "not-found" and "/nowhere/disk.vhdx" in job["error"]["message"], f"a missing disk: {job}")
        d.ok("PATCH", "/v1/vms/web", {"disks": []})
        broken_files(d)
        large_body(d)
        lost_update(d)
        second_daemon(d)
    r = subprocess.run([os.path.join(context["build"], "cli/bulkhead"), "vm", "list"], capture_output=True, text=True,
                       env=dict(os.environ, BULKHEAD_SOCKET="/nowhere/api"))
    require(r.returncode == 1 and "start bulkheadd" in r.stderr, f"no daemon: {r.stderr}")


def broken_files(d):
    path = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "vm.json")
    with open(path, encoding="utf-8") as f:
        good = f.read()
    for bad, said in (("{", "vm.json, line"), (good.replace('"notes"', '"nots"'), "nots"), (good.replace('"version": 1', '"version": 9'), "version 9"),
                      (None, "No such file")):
        if bad is None:
            os.unlink(path)
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(bad)
        shown = d.ok("GET", "/v1/vms/web")
        require(shown["state"] == "broken" and said in shown["problem"], f"{said}: {shown}")
        d.refused(409, "wrong-state", "POST", "/v1/vms/web/start", None, said)
    with open(path, "w", encoding="utf-8") as f:
        f.write(good)
    require(d.state_of("web") == "off", "mended, it is well again")


def large_body(d):
    connection = UnixConnection(d.socket)
    connection.putrequest("POST", "/v1/vms")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    require(answer.status == 413 and error["code"] == "too-large" and "1024 KiB" in error["message"], f"a body of a gigabyte: {answer.status} {error}")
    connection.close()
    # Without a length it is cut off where it gets too long.
    connection = UnixConnection(d.socket)
    connection.putrequest("POST", "/v1/vms")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(64):
            connection.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        require(connection.getresponse().status >= 400, "an endless body was taken")
    except (BrokenPipeError, ConnectionResetError):
        pass
    connection.close()
    require(d.state_of("web") == "off", "it answers as before")


def lost_update(d):
    connection = UnixConnection(d.socket)
    connection.request("GET", "/v1/vms/web")
    answer = connection.getresponse()
    etag = answer.getheader("ETag")
    answer.read()
    d.ok("PATCH", "/v1/vms/web", {"notes": "by another"})
    status, answer = d.call("PATCH", "/v1/vms/web", {"notes": "mine"}, {"If-Match": etag})
    require(status == 412 and answer["error"]["code"] == "conflict", f"a lost update: {status} {answer}")
    require(d.ok("GET", "/v1/vms/web")["config"]["notes"] == "by another", "the other's change stays")
    connection.close()


def second_daemon(d):
    r = subprocess.run(d.command(), capture_output=True, text=True, timeout=30)
    require(r.returncode == 1 and "another daemon" in r.stderr, f"two daemons: {r.returncode} {r.stderr}")


def ask_many(path, seed, count):
    rng = random.Random(seed)
    connection = UnixConnection(path)
    worst = 0
    for _ in range(count):
        name = rng.choice(["vm1", "vm2", "nobody", "%20", "a" * 300])
        what = rng.choice([("GET", "/v1/vms"), ("GET", f"/v1/vms/{name}"), ("GET", "/v1/jobs"), ("GET", "/v1/events"), ("GET", "/v1/host"),
                           ("GET", "/v1/openapi.json"), ("POST", "/v1/vms"), ("PATCH", f"/v1/vms/{name}"), ("POST", f"/v1/vms/{name}/pause")])
        connection.request(*what, body=rng.choice(["", "{}", "[", '{"name": 3}', '{"notes": "x"}']) if what[0] != "GET" else None)
        answer = connection.getresponse()
        answer.read()
        worst = max(worst, answer.status)
    connection.close()
    return worst


def descriptors(d):
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


def test_manage_many_requests(context):
    with Daemon(context["build"]) as d:
        d.make("vm1")
        d.make("vm2")
        before = descriptors(d)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            worst = max(pool.map(lambda i: ask_many(d.socket, i, 40), range(64)))
        require(worst < 500, f"an answer had status {worst}")
        wait_for(lambda: descriptors(d) <= before, "the connections to be closed")
        # Whoever goes away in the middle of a request leaves nothing.
        for text in (b"GET /v1/vms HTTP/1.1\r\n", b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"\0\xff\r\n\r\n"):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            s.send(text)
            s.close()
        wait_for(lambda: descriptors(d) <= before, "the broken connections to be closed")


def test_manage_document_is_the_code(context):
    with Daemon(context["build"]) as d:
        document = d.ok("GET", "/v1/openapi.json")
        for path, methods in document["paths"].items():
            for method in methods:
                # A stream has no end.
                status, answer = d.call("HEAD" if path.endswith("/stream") else method.upper(), path.replace("{vm}", "nobody").replace("{job}", "999").replace("{image}", "nobody"))
                require(status != 405 and "nothing at" not in str(answer), f"{method} {path} is in the document only: {answer}")
            if path in ("/v1/vms/register", "/v1/vms/import"):  # for other methods than POST that is a machine's name
                continue
            for method in {"get", "post", "patch", "delete"} - set(methods):
                status, _ = d.call(method.upper(), path.replace("{vm}", "nobody").replace("{job}", "999"))
                require(status in (404, 405), f"{method} {path} is not in the document: {status}")
        schema = d.ok("GET", "/v1/schema/vm.json")
        d.make("web")
        config = d.ok("GET", "/v1/vms/web")["config"]
        require(set(config) <= set(schema["properties"]) and set(schema["required"]) <= set(config), "vm.json is as its schema says")
