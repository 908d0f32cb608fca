# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that are sent again: idempotency keys; lists page by page; jobs that are cancelled."""

import concurrent.futures
import json
import os
import sqlite3
import time
import uuid

from daemon import Daemon, UnixConnection, require, wait_for


def ask(d, method, path, body=None, **headers):
    """Status, answer, and whether it is that of an earlier request."""
    connection = UnixConnection(d.socket)
    connection.request(method, path, json.dumps(body) if body is not None else None, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None, answer.getheader("Idempotency-Replayed") == "true"


def machine(d, name):
    return {"name": name, "memory": 64 << 20, "boot": {"kernel": d.kernel}, "processors": {"kind": "soft"}}


def jobs(d):
    return len(d.ok("GET", "/v1/jobs?limit=1000")["jobs"])


def test_manage_idempotency_keys(context):
    with Daemon(context["build"]) as d:
        status, first, again = ask(d, "POST", "/v1/vms?wait=20", machine(d, "web"), Idempotency_Key="one")
        require(status == 202 and first["state"] == "done" and not again, f"the first: {status} {first}")
        for wait in ("", "?wait=5"):
            status, second, again = ask(d, "POST", "/v1/vms" + wait, machine(d, "web"), Idempotency_Key="one")
            require((status, second, again) == (202, first, True), f"again: {status} {second}")
        # Another body, another route: not the same request.
        for path, body in (("/v1/vms", machine(d, "other")), ("/v1/vms/web/start", None)):
            status, answer, _ = ask(d, "POST", path, body, Idempotency_Key="one")
            require(status == 409 and answer["error"]["code"] == "key-reused", f"{path}: {status} {answer}")
        require(jobs(d) == 1, "one job was made")
        # What failed at once did nothing, and may be tried again.
        require(ask(d, "POST", "/v1/vms/web/pause", None, Idempotency_Key="two")[0] == 409, "it is off")
        d.done("POST", "/v1/vms/web/start")
        status, answer, again = ask(d, "POST", "/v1/vms/web/pause?wait=20", None, Idempotency_Key="two")
        require(status == 202 and answer["state"] == "done" and not again, f"tried again: {answer}")
        d.done("POST", "/v1/vms/web/turn-off")
        # An answer that is no job; it outlives the daemon, as do jobs.
        directory = d.ok("GET", "/v1/vms/web")["directory"]
        d.done("DELETE", "/v1/vms/web?files=keep")
        status, registered, _ = ask(d, "POST", "/v1/vms/register", {"directory": directory}, Idempotency_Key="three")
        require(status == 201, f"registered: {registered}")
        d.kill()
        d.start()
        status, answer, again = ask(d, "POST", "/v1/vms/register", {"directory": directory}, Idempotency_Key="three")
        require((status, again) == (201, True) and answer["id"] == registered["id"], f"after a restart: {status} {answer}")
        status, answer, again = ask(d, "POST", "/v1/vms", machine(d, "web"), Idempotency_Key="one")
        require((status, answer, again) == (202, first, True), f"the job after a restart: {answer}")
        for key in ("", "x" * 129, "a b"):
            require(ask(d, "POST", "/v1/vms", machine(d, "z"), Idempotency_Key=key)[0] == 400, f"key {key}")
        status, answer, _ = ask(d, "POST", "/v1/tokens", {"name": "t", "role": "viewer"}, Idempotency_Key="four")
        require(status == 400 and "takes no Idempotency-Key" in answer["error"]["message"], f"a secret is not kept: {answer}")


def claimed(d, key):
    """Whether the daemon has begun with the request that has this key, as its database tells whoever looks in."""
    with sqlite3.connect(f"file:{d.state}/host.db?mode=ro", uri=True, timeout=30) as db:
        return bool(db.execute("SELECT 1 FROM idempotency WHERE key = ?", (key,)).fetchall())


def test_manage_idempotency_key_interrupted(context):
    """A daemon that dies between a request's begin and its answer, which has to be hit: another key is tried until it is."""
    with Daemon(context["build"]) as d:
        for i in range(1000):
            directory = os.path.join(d.directory, f"there{i}")
            os.mkdir(directory)
            with open(os.path.join(directory, "vm.json"), "w", encoding="utf-8") as f:
                json.dump({"version": 1, "id": str(uuid.uuid4()), "name": f"vm{i}", "boot": {"kernel": d.kernel}}, f)
            body, key = {"directory": directory}, f"k{i}"
            connection = d.sent("POST", "/v1/vms/register", body, {"Idempotency-Key": key})
            deadline = time.monotonic() + 60
            while not claimed(d, key):
                require(time.monotonic() < deadline, "the request is not begun")
            d.kill()
            connection.close()
            d.start()
            status, answer, again = ask(d, "POST", "/v1/vms/register", body, Idempotency_Key=key)
            if status == 409 and answer["error"]["code"] == "interrupted":
                break
            require(status == 201 and again, f"{status} {answer}")
        require(status == 409 and "use a new Idempotency-Key" in answer["error"]["message"], f"never hit: {status} {answer}")
        require(ask(d, "POST", "/v1/vms/register", body, Idempotency_Key=key)[1] == answer, "it stays so")
        # What became of it, whoever looks sees, and with a new key it is done.
        there = f"vm{i}" in [vm["name"] for vm in d.ok("GET", "/v1/vms?limit=1000")["vms"]]
        status, answer, _ = ask(d, "POST", "/v1/vms/register", body, Idempotency_Key="new")
        require((status, there) in ((201, False), (409, True)), f"{there} {status} {answer}")
        print(f"     hit after {i + 1}")


def test_manage_idempotency_keys_at_once_and_by_others(context):
    with Daemon(context["build"]) as d:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: ask(d, "POST", "/v1/vms?wait=20", machine(d, "web"), Idempotency_Key="k"), range(16)))
        require({a["id"] for _, a, _ in answers} == {1} and sum(not again for *_, again in answers) == 1, f"16 at once: {answers}")
        # A key belongs to who used it.
        tokens = [d.ok("POST", "/v1/tokens", {"name": n, "role": "administrator"})["token"] for n in ("a", "b")]
        for n, token in enumerate(tokens):
            status, answer, again = ask(d, "POST", "/v1/vms?wait=20", machine(d, f"of-{n}"), Idempotency_Key="k", Authorization=f"Bearer {token}")
            require(status == 202 and answer["state"] == "done" and not again, f"by another: {status} {answer}")
        require(len(d.ok("GET", "/v1/vms")["vms"]) == 3, "three machines")


def pages(d, path, name, limit):
    found, cursor, count = [], None, 0
    parameter = "before" if name == "jobs" else "after"
    while True:
        page = d.ok("GET", f"{path}?limit={limit}" + (f"&{parameter}={cursor}" if cursor is not None else "&after=0" if name == "events" else ""))
        require(len(page[name]) <= limit, f"a page of {path} has {len(page[name])}")
        if not page[name]:
            return found, count
        found += [e.get("id", e.get("name")) for e in page[name]]
        count += 1
        cursor = page["next"]
        if cursor is None:
            return found, count


def test_manage_lists_page_by_page(context):
    with Daemon(context["build"]) as d:
        for i in range(7):
            d.make(f"vm{i}")
            d.ok("POST", "/v1/tokens", {"name": f"t{i}", "role": "viewer"})
            os.makedirs(os.path.join(d.state, "images", f"image{i}"))
        for i in range(7):
            d.ok("PATCH", f"/v1/vms/vm{i}", {"notes": str(i)})
        for path, name in (("/v1/vms", "vms"), ("/v1/images", "images"), ("/v1/tokens", "tokens"), ("/v1/jobs", "jobs"), ("/v1/events", "events")):
            whole, _ = pages(d, path, name, 1000)
            parts, count = pages(d, path, name, 3)
            require(parts == whole and len(whole) >= 7 and count >= 3, f"{path}: {whole} {parts}")
        d.refused(400, "invalid", "GET", "/v1/vms?limit=0", None, "limit is 0")
        d.refused(400, "invalid", "GET", "/v1/vms?limit=1001")
        d.refused(400, "invalid", "GET", "/v1/vms?limit=x", None, "whole number")
        d.refused(400, "invalid", "GET", "/v1/vms?offset=3", None, "no parameter")


def test_manage_job_waited_for(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        job = d.ok("POST", "/v1/vms/web/start")["id"]
        require(d.cli("job", "wait", str(job)) == f"job {job} is done\n", "it has ended")
        require(d.state_of("web") == "running", "and the machine runs")
        job = d.ok("POST", "/v1/vms/web/shut-down?timeout=1")["id"]
        require("did not shut down in time" in d.cli("job", "wait", str(job), status=1), "one that fails")
        require("no job 999" in d.cli("job", "wait", "999", status=1), "one that is not there")


def test_manage_job_cancelled(context):
    with Daemon(context["build"]) as d:
        source = os.path.join(d.directory, "image")
        os.makedirs(source)
        for name in ("vmlinuz", "initrd.img"):
            with open(os.path.join(source, name), "wb") as f:
                f.write(b"x")
        # Long enough to copy that the request to stop comes in between.
        raw = os.path.join(d.directory, "disk.raw")
        with open(raw, "wb") as f:
            for _ in range(512):
                f.write(os.urandom(4096) * 256)
        d.cli("disk", "convert", raw, os.path.join(source, "disk.vhdx"))
        with open(os.path.join(source, "image.json"), "w", encoding="utf-8") as f:
            json.dump({"version": 1, "name": "x", "key": "x", "disk": "disk.vhdx", "kernel": "vmlinuz", "initrd": "initrd.img",
                       "append": "x"}, f)
        job = d.ok("POST", "/v1/images", {"name": "large", "directory": source})
        wait_for(lambda: d.ok("GET", f"/v1/jobs/{job['id']}").get("progress", 0) > 0, "the copy to begin")
        require(d.ok("DELETE", f"/v1/jobs/{job['id']}")["id"] == job["id"], "it is told which")
        ended = d.ok("GET", f"/v1/jobs/{job['id']}?wait=60")
        require(ended["state"] == "cancelled" and ended["error"]["code"] == "cancelled", f"cancelled: {ended}")
        require(d.ok("GET", "/v1/images")["images"] == [] and os.listdir(os.path.join(d.state, "images")) == [], "nothing is left of it")
        d.refused(409, "wrong-state", "DELETE", f"/v1/jobs/{job['id']}", None, "does not run")
        d.refused(404, "not-found", "DELETE", "/v1/jobs/x", None, "numbers")
        # Not asked to stop it gets done, with how far it is.
        require(d.job("POST", "/v1/images", {"name": "large", "directory": source})["state"] == "done", "it is copied")


def test_manage_no_update_is_lost(context):
    """Every route that the document says takes If-Match refuses an ETag that is not the present one, and changes nothing."""
    bodies = {("patch", "/v1/vms/{vm}"): ("", {"notes": "mine"}), ("delete", "/v1/vms/{vm}"): ("", None),
              ("post", "/v1/vms/{vm}/disks"): ("", {"path": "/x.vhdx"}), ("delete", "/v1/vms/{vm}/disks"): ("?path=/x.vhdx", None),
              ("patch", "/v1/vms/{vm}/checkpoints/{checkpoint}"): ("", {"name": "x"}),
              ("delete", "/v1/vms/{vm}/checkpoints/{checkpoint}"): ("", None),
              ("post", "/v1/vms/{vm}/checkpoints/{checkpoint}/apply"): ("", None)}
    with Daemon(context["build"]) as d:
        d.make("web")
        before = d.ok("GET", "/v1/vms/web")
        asked = 0
        for path, methods in d.ok("GET", "/v1/openapi.json")["paths"].items():
            for method, operation in methods.items():
                takes = any(p["name"] == "If-Match" for p in operation["parameters"])
                require(takes or not (path.startswith("/v1/vms/{vm}") and method in ("patch", "put")), f"{method} {path} takes no If-Match")
                if not takes or (method, path) not in bodies:
                    continue
                query, body = bodies[method, path]
                status, answer, _ = ask(d, method.upper(), path.replace("{vm}", "web").replace("{checkpoint}", "x") + query, body, If_Match='"0123456789abcdef"')
                require(status == 412 and answer["error"]["code"] == "conflict", f"{method} {path}: {status} {answer}")
                asked += 1
        require(asked == len(bodies), f"{asked} routes were asked")
        require(d.ok("GET", "/v1/vms/web")["config"] == before["config"], "nothing was changed")
        status, _, _ = ask(d, "PATCH", "/v1/vms/web", {"notes": "mine"}, If_Match=before["etag"])
        require(status == 200 and d.ok("GET", "/v1/vms/web")["etag"] != before["etag"], "the present one is taken, and then another")
