# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker in which a guest has the say: it answers the daemon with lies. They harm its own machine at most."""

import json
import os
import random
import re

from daemon import Daemon, require, wait_for
from test_manage_robust import descriptors

LIAR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lying_worker.py")
METRIC = re.compile(r'^(#.*|[a-z_]+(\{[a-z_]+="([^"\\\n]|\\.)*"(,[a-z_]+="([^"\\\n]|\\.)*")*\})? -?[0-9.e+]+)$')


def random_request(d, rng, disks):
    """What the daemon asks a worker for, or asks it about."""
    vm = "/v1/vms/liar"
    checkpoint = f"{vm}/checkpoints/c{rng.randrange(3)}"
    method, path, body = rng.choice([
        ("POST", f"{vm}/start", None), ("POST", f"{vm}/start", None), ("POST", f"{vm}/turn-off", None), ("POST", f"{vm}/pause", None),
        ("POST", f"{vm}/resume", None), ("POST", f"{vm}/reset", None), ("POST", f"{vm}/save", None), ("DELETE", f"{vm}/saved-state", None),
        ("GET", vm, None), ("GET", f"{vm}/inspect", None), ("GET", f"{vm}/metering", None), ("GET", "/metrics", None), ("GET", f"{vm}/files", None),
        ("GET", f"{vm}/adapters", None), ("GET", f"{vm}/guest", None), ("POST", f"{vm}/disks", {"path": rng.choice(disks)}),
        ("DELETE", f"{vm}/disks?path={os.path.basename(rng.choice(disks))}", None), ("POST", f"{vm}/adapters", {"port": "none"}),
        ("PATCH", f"{vm}/adapters/0", {"port": "nat"}), ("PATCH", f"{vm}/adapters/0", {"port": "none"}), ("DELETE", f"{vm}/adapters/0", None),
        ("POST", f"{vm}/checkpoints", {"name": f"c{rng.randrange(3)}"}), ("DELETE", checkpoint, None), ("POST", f"{checkpoint}/apply", None),
        ("POST", f"{vm}/merge", None), ("POST", f"{vm}/metering/{rng.choice(['enable', 'enable', 'reset', 'disable'])}", None)])
    wait = "" if method == "GET" or body or "/metering/" in path else "?wait=1" if "?" not in path else "&wait=1"
    return method, path, body, wait


def look(d, method, path, answer):
    if path == "/metrics":
        wrong = [line for line in answer.splitlines() if not METRIC.match(line)]
        require(not wrong, f"no metrics: {wrong[:3]}")
    elif isinstance(answer, dict) and "error" in answer and method != "GET":
        require(answer["error"] is None or answer["error"]["message"], f"{path}: {answer}")


def test_manage_a_worker_that_lies(context):
    """LIAR_SEED, and LIAR_REQUESTS of them."""
    rng = random.Random(os.environ.get("LIAR_SEED", "1"))
    with Daemon(context["build"], start=False) as d:
        d.more = ["--worker", LIAR]
        d.start()
        d.make("liar", adapters=[{"port": "none"}])
        directory = d.ok("GET", "/v1/vms/liar")["directory"]
        disks = [os.path.join(directory, name) for name in ("a.vhdx", "b.vhdx")]
        for path in disks:
            d.cli("disk", "create", path, "16M")
        precious = os.path.join(d.state, "machines", "precious")
        with open(precious, "w", encoding="ascii") as f:
            f.write("precious")
        before = descriptors(d)
        for i in range(int(os.environ.get("LIAR_REQUESTS", "250"))):
            if rng.random() < 0.03:
                d.kill()
                d.start()
            method, path, body, wait = random_request(d, rng, disks)
            status, answer = d.call(method, path + wait, body)
            require(d.process.poll() is None, f"request {i}, {method} {path}: the daemon died: {d.log_text()}")
            require(status in (200, 201, 202, 204, 400, 404, 409, 412, 422, 500, 502, 504), f"{method} {path}: {status} {answer}")
            look(d, method, path, answer)
            config = d.ok("GET", "/v1/vms/liar").get("config", {})
            for disk in config.get("disks", []):
                where = os.path.realpath(os.path.join(directory, disk["path"]))
                require(os.path.dirname(where) == directory, f"request {i}, {method} {path}: its disk is {where}")
            for adapter in config.get("adapters", []):
                require(adapter["port"] in ("none", "nat") and "interface" not in adapter, f"request {i}, {method} {path}: {adapter}")
        d.cli("vm", "list")
        d.cli("event", "list")
        d.call("POST", "/v1/vms/liar/turn-off?wait=60")
        wait_for(lambda: all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=1000")["jobs"]), "jobs to end", 120)
        require(descriptors(d) <= before + 10, f"descriptors: {before} before, {descriptors(d)} now")
        with open(precious, encoding="ascii") as f:
            require(f.read() == "precious", "what is beside the machine was written")
        require(sorted(os.listdir(os.path.join(d.state, "machines"))) == ["liar", "precious"], "files elsewhere")
        require(json.dumps(d.ok("GET", "/v1/host")), "it answers as before")
