# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon killed at random moments of a thousand operations, on machines with disks, checkpoints and saved states."""

import os
import random
import shutil

from daemon import DaemonError, require, wait_for
from test_manage import check_host, kill_at_random, random_operation

SIZE = 2 << 20


def contents():
    return random.Random(1).randbytes(SIZE)


def template(d):
    return os.path.join(d.directory, "template.vhdx")


def prepare(d, names):
    """Each machine has a disk; machines are deleted too, and those that are made then get one when all is looked at."""
    raw = os.path.join(d.directory, "template.raw")
    with open(raw, "wb") as f:
        f.write(contents())
    d.cli("disk", "convert", raw, template(d), "--format", "vhdx")
    for name in names:
        d.make(name)
        add_disk(d, d.ok("GET", f"/v1/vms/{name}"))


def add_disk(d, vm):
    path = os.path.join(vm["directory"], "disk.vhdx")
    shutil.copy(template(d), path)
    if d.call("PATCH", f"/v1/vms/{vm['name']}", {"disks": [{"path": "disk.vhdx"}]})[0] != 200:
        os.unlink(path)


def operation(d, rng, names):
    name = rng.choice(names)
    verb = rng.choice(["life"] * 5 + ["save", "restore", "checkpoint", "apply", "forget"])
    wait = rng.choice(["", "?wait=20"])
    if verb == "life":
        return random_operation(d, rng, names)
    if verb in ("save", "restore"):
        return d.call("POST", f"/v1/vms/{name}/{verb}{wait}")
    if verb == "checkpoint":
        return d.call("POST", f"/v1/vms/{name}/checkpoints{wait}", {"name": f"c{rng.randrange(4)}"})
    path = f"/v1/vms/{name}/checkpoints/c{rng.randrange(4)}"
    return d.call("DELETE", path + wait) if verb == "forget" else d.call("POST", f"{path}/apply{wait}")


def check(d):
    """The disks of what does not run are sound and say what they said, through all their chain; no file is nobody's."""
    wait_for(lambda: all(vm["state"] not in ("starting", "saving", "restoring", "stopping") for vm in d.ok("GET", "/v1/vms")["vms"]), "states to settle")
    check_host(d)
    for vm in d.ok("GET", "/v1/vms")["vms"]:
        def left(vm=vm):
            known = set(d.ok("GET", f"/v1/vms/{vm['name']}/files")["files"])
            return {f for f in os.listdir(vm["directory"]) if f.endswith(".vhdx") or f.startswith(("saved", "checkpoint-"))} - known
        try:
            wait_for(lambda left=left: not left(), "files that belong to nobody to go", 20)
        except DaemonError:
            tree = d.ok("GET", f"/v1/vms/{vm['name']}/checkpoints")
            raise DaemonError(f"{vm['name']} ({vm['state']}): files that belong to nobody: {left()}; checkpoints: {tree}; {d.log_text()}") from None
        shown = d.ok("GET", f"/v1/vms/{vm['name']}")
        if shown["state"] == "off" and not shown["config"].get("disks") and not d.ok("GET", f"/v1/vms/{vm['name']}/checkpoints")["checkpoints"]:
            add_disk(d, shown)
            continue
        for disk in shown["config"].get("disks", []):
            path = os.path.join(vm["directory"], disk["path"])
            require(os.path.exists(path), f"{vm['name']} has lost {path}")
            if shown["state"] in ("running", "paused"):
                inspect = f"/v1/vms/{vm['name']}/inspect"
                # It may be one that the dead daemon had only just started.
                wait_for(lambda inspect=inspect: d.call("GET", inspect)[0] != 409, f"{vm['name']} to listen")
                require(d.ok("GET", inspect)["disks"][0]["path"] == path, f"{vm['name']} runs on another disk than {path}")
                continue
            raw = os.path.join(d.directory, "contents.raw")
            d.cli("disk", "convert", path, raw, "--format", "raw", "--replace")
            with open(raw, "rb") as f:
                require(f.read() == contents(), f"{path} says something else")


def test_long_manage_daemon_killed(context):
    kill_at_random(context, 1000, 8, operation, check, prepare)
