# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon killed at random moments of a thousand operations, on machines with disks, checkpoints and saved states."""

import collections
import json
import os
import random
import re
import shutil

from daemon import DaemonError, require, wait_for
from test_manage import check_host, kill_at_random, random_operation

SIZE = 2 << 20
ADDED = re.compile(r"extra-[0-9a-f-]{36}\.vhdx")


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


# How often each was asked for, and was done.
asked, done = collections.Counter(), collections.Counter()
VERBS = ["save", "restore", "discard", "checkpoint", "apply", "forget", "clone", "linked", "export", "export-checkpoint", "import", "register", "cancel",
         "add-disk", "remove-disk", "add-dvd", "change-medium", "remove-dvd"]


def all_exported(d):
    place = os.path.join(d.state, "exports")
    return [os.path.join(place, a, b) for a in (os.listdir(place) if os.path.isdir(place) else []) for b in os.listdir(os.path.join(place, a))]


def exported(d, rng):
    """Of what was exported, one."""
    return rng.choice(all_exported(d) or [os.path.join(d.state, "none")])


def register(d, rng):
    """Of one whose machine is gone: they have one id, and one name. If there is none, a machine that was exported goes."""
    there = {shown["id"]: shown for shown in d.ok("GET", "/v1/vms")["vms"]}
    taken = {shown["name"] for shown in there.values()}
    ready, off = [], []
    for directory in all_exported(d):
        try:
            with open(os.path.join(directory, "vm.json"), encoding="utf-8") as f:
                config = json.load(f)
        except OSError:
            continue  # half of one
        if config["id"] not in there and config["name"] not in taken:
            ready.append(directory)
        elif config["id"] in there and there[config["id"]]["state"] == "off":
            off.append(there[config["id"]]["name"])
    if ready or not off:
        return "POST", "/v1/vms/register", {"directory": rng.choice(ready or [os.path.join(d.state, "none")])}
    return "DELETE", f"/v1/vms/{rng.choice(off)}", None


def extra_disk(d, vm):
    """Of that machine alone, outside its directory: it stays when it is removed, and is there again."""
    path = os.path.join(d.directory, f"extra-{vm.get('id', 'none')}.vhdx")
    if not os.path.exists(path):
        shutil.copy(template(d), path)
    return path


def medium(d, rng):
    path = os.path.join(d.directory, f"{rng.randrange(4)}.iso")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.truncate(1 << 20)
    return path


def request(d, rng, names, verb):
    """Method, path and body."""
    vm, checkpoint = f"/v1/vms/{rng.choice(names)}", f"c{rng.randrange(4)}"
    new = os.path.join(d.state, "exports", str(rng.randrange(1 << 30)))
    if verb == "save":
        return "POST", f"{vm}/save", None
    if verb == "restore":
        saved = [shown["name"] for shown in d.ok("GET", "/v1/vms")["vms"] if shown["state"] == "saved"]
        return "POST", f"/v1/vms/{rng.choice(saved or ['nobody'])}/start", None
    if verb == "discard":
        return "DELETE", f"{vm}/saved-state", None
    if verb == "checkpoint":
        return "POST", f"{vm}/checkpoints", {"name": checkpoint}
    if verb == "apply":
        return "POST", f"{vm}/checkpoints/{checkpoint}/apply", None
    if verb == "forget":
        return "DELETE", f"{vm}/checkpoints/{checkpoint}", None
    if verb in ("clone", "linked", "import"):
        there = [shown["name"] for shown in d.ok("GET", "/v1/vms")["vms"]]
        free = rng.choice([name for name in names if name not in there] or names)
        if verb == "clone":
            return "POST", f"{vm}/clone", {"name": free}
        if verb == "import":
            return "POST", "/v1/vms/import", {"directory": exported(d, rng), "name": free, "mode": rng.choice(["copy", "restore"])}
        # Of one that has any.
        kept = [(name, c["name"]) for name in there for c in (d.call("GET", f"/v1/vms/{name}/checkpoints")[1] or {}).get("checkpoints", [])]
        name, checkpoint = rng.choice(kept or [("nobody", checkpoint)])
        return "POST", f"/v1/vms/{name}/clone", {"name": free, "checkpoint": checkpoint, "linked": True}
    if verb.startswith("export"):
        os.makedirs(new)
    if verb == "export":
        return "POST", f"{vm}/export", {"directory": new}
    if verb == "export-checkpoint":
        return "POST", f"{vm}/checkpoints/{checkpoint}/export", {"directory": new}
    if verb == "register":
        return register(d, rng)
    if verb == "cancel":
        jobs = d.ok("GET", "/v1/jobs?limit=1")["jobs"]
        return "DELETE", f"/v1/jobs/{jobs[0]['id'] if jobs else 1}", None
    if verb == "add-dvd":
        return "POST", f"{vm}/disks", {"kind": "dvd"}
    if verb == "change-medium":
        return "PATCH", f"{vm}/dvd-drives/{rng.randrange(2)}", {"medium": rng.choice(["", medium(d, rng)])}
    if verb == "remove-dvd":
        return "DELETE", f"{vm}/dvd-drives/0", None
    shown = d.call("GET", vm)[1]
    path = extra_disk(d, shown)
    if verb == "add-disk":
        return "POST", f"{vm}/disks", {"path": path}
    return "DELETE", f"{vm}/disks?path={path}", None


NO_WAIT = ("discard", "register", "cancel")


def operation(d, rng, names):
    verb = rng.choice(["life"] * 10 + VERBS)
    if verb == "life":
        return random_operation(d, rng, names)
    method, path, body = request(d, rng, names, verb)
    wait = "" if verb in NO_WAIT else rng.choice(["", "&wait=20" if "?" in path else "?wait=20"])
    asked[verb] += 1
    status, answer = d.call(method, path + wait, body)
    worked = status in (200, 201, 204) or (status == 202 and (answer.get("state") == "done" or verb == "cancel"))
    done[verb] += worked and (verb, method) != ("register", "DELETE")
    return status, answer


def insides(d, name):
    """The disks that a machine runs on, and its adapters. It may be one that the dead daemon had only just started, or told to end: None."""
    told = {}

    def looked():
        told["status"], told["answer"] = d.call("GET", f"/v1/vms/{name}/inspect")
        return told["status"] == 200 or d.state_of(name) not in ("running", "paused")
    try:
        wait_for(looked, f"{name} to listen")
    except DaemonError as e:
        raise DaemonError(f"{e}: {told}; {d.ok('GET', f'/v1/vms/{name}')}; {d.log_text()[-1200:]}") from None
    if told["status"] != 200:
        return None
    return [disk.get("path") for disk in told["answer"]["disks"]], [(a["mac"], a["label"]) for a in told["answer"]["adapters"]]


def look(d, vm, shown):
    """The disks of one that does not run are sound and say what they said, through all their chain; no file is nobody's."""
    def left():
        known = set(d.ok("GET", f"/v1/vms/{vm['name']}/files")["files"]) - {"saved-state.new", "saved-state.used"}
        known -= {"saved-state"} if vm["state"] != "saved" else set()
        # What was added, and is not any more in what a checkpoint brought back, stays: a disk is nobody's to delete.
        return {f for f in os.listdir(vm["directory"]) if (f.endswith(".vhdx") and not ADDED.fullmatch(f)) or f.startswith(("saved", "checkpoint-"))} - known
    tree = d.ok("GET", f"/v1/vms/{vm['name']}/checkpoints")
    try:
        wait_for(lambda: not left(), "files that belong to nobody to go", 20)
    except DaemonError:
        raise DaemonError(f"{vm['name']} ({vm['state']}): files that belong to nobody: {left()}; checkpoints: {tree}; {d.log_text()[-1200:]}") from None
    if shown["state"] == "off" and not any(disk["kind"] == "disk" for disk in shown["config"].get("disks", [])) and not tree["checkpoints"]:
        add_disk(d, shown)
        return
    for disk in shown["config"].get("disks", []):
        if disk["kind"] == "dvd":
            continue
        path = os.path.join(vm["directory"], disk["path"])
        require(os.path.exists(path), f"{vm['name']} has lost {path}: {shown}; {tree}; {os.listdir(vm['directory'])}; {d.ok('GET', '/v1/jobs?limit=10')}; {d.log_text()[-1200:]}")
        if shown["state"] in ("running", "paused"):
            has = insides(d, vm["name"])
            adapters = [(a["mac"], a["port"]) for a in shown["config"]["adapters"]]
            require(has is None or has[1] == adapters, f"{vm['name']} has adapters {has}, not {adapters}")
            require(has is None or path in has[0], f"{vm['name']} runs on {has}, not on {path}: {tree}; {os.listdir(vm['directory'])}; "
                    f"{[[j['id'], j['kind'], j['state'], j['started'], j['ended'], j['error']] for j in d.ok('GET', '/v1/jobs?limit=40')['jobs'] if j['vm'] == vm['id']]}; {shown['state_since']}; now {d.ok('GET', '/v1/vms/' + vm['name'])['config']['disks']}; {d.log_text()[-1200:]}")
            continue
        raw = os.path.join(d.directory, "contents.raw")
        d.cli("disk", "convert", path, raw, "--format", "raw", "--replace")
        with open(raw, "rb") as f:
            require(f.read() == contents(), f"{path} says something else")


def check(d):
    """What the daemon before has left half done, a checkpoint that its worker was at or a merge, is settled within moments: all is in order then, and stays so."""
    wait_for(lambda: all(vm["state"] not in ("starting", "saving", "restoring", "stopping") for vm in d.ok("GET", "/v1/vms")["vms"]), "states to settle")
    check_host(d)
    for vm in d.ok("GET", "/v1/vms")["vms"]:
        told = {}

        def in_order(vm=vm, told=told):
            shown = d.ok("GET", f"/v1/vms/{vm['name']}")
            if "job" in shown:
                return False
            try:
                look(d, vm, shown)
            except DaemonError as e:
                told["why"] = e
                return False
            return True
        try:
            wait_for(in_order, f"{vm['name']} to be in order", 60)
        except DaemonError as e:
            raise told.get("why", e) from None


def test_long_manage_daemon_killed(context):
    """As many operations more as it takes until each kind has been done."""
    asked.clear()
    done.clear()
    kill_at_random(context, 1000, 8, operation, check, prepare, lambda: all(done[verb] for verb in VERBS))
    print("     " + ", ".join(f"{verb} {done[verb]}/{asked[verb]}" for verb in VERBS))
    require(all(done[verb] for verb in VERBS), f"never done: {[verb for verb in VERBS if not done[verb]]}")
