# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints of machines, off and running."""

import ctypes
import json
import os
import random
import signal
import sqlite3
import subprocess
import time

from daemon import Daemon, require, wait_for

SIZE = 16 << 20


def directory_of(d):
    return d.ok("GET", "/v1/vms/web")["directory"]


def disk_of(d):
    vm = d.ok("GET", "/v1/vms/web")
    return os.path.join(vm["directory"], vm["config"]["disks"][0]["path"])


def contents(d, path):
    raw = os.path.join(d.directory, "contents.raw")
    d.cli("disk", "convert", path, raw, "--format", "raw", "--replace")
    with open(raw, "rb") as f:
        return f.read()


def write(d, text, offset=1 << 20):
    """What a guest would, into the disk of now."""
    library = ctypes.CDLL(os.path.join(d.build, "disk/libbulkhead-disk.so"))
    disk = ctypes.c_void_p()
    require(library.disk_open(ctypes.byref(disk), disk_of(d).encode(), None, None) == 0, f"{disk_of(d)} cannot be opened")
    require(library.disk_write(disk, ctypes.c_uint64(offset), text.encode(), ctypes.c_size_t(len(text)), None) == 0, "written")
    require(library.disk_close(disk, None) == 0, "closed")


def says(d, text):
    return contents(d, disk_of(d))[1 << 20:].startswith(text.encode())


def make_web(d, name="disk.vhdx", fixed=False, **more):
    d.make("web", **more)
    path = os.path.join(directory_of(d), name)
    raw = path + ".raw"
    with open(raw, "wb") as f:
        f.write(random.Random(1).randbytes(SIZE))
    d.cli("disk", "convert", raw, path, *(["--fixed"] if fixed else []))
    os.unlink(raw)
    d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": name}]})


def tree(d):
    return {c["name"]: c for c in d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]}


def vhdx(d):
    return sorted(f for f in os.listdir(directory_of(d)) if f.endswith(".vhdx"))


def idle(d):
    return all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=20")["jobs"])


def delete(d, name):
    d.done("DELETE", f"/v1/vms/web/checkpoints/{name}")


def test_manage_checkpoints(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "one  ")
        require("no checkpoints" in d.cli("checkpoint", "list", "web"), "an empty tree says what to do")
        d.cli("checkpoint", "create", "web", "first")
        require(disk_of(d).endswith(".vhdx") and not disk_of(d).endswith("/disk.vhdx") and len(vhdx(d)) == 2, "it goes on on a disk of its own")
        d.ok("PATCH", "/v1/vms/web", {"memory": 128 << 20, "notes": "later"})
        write(d, "two  ")
        d.cli("checkpoint", "create", "web", "second")
        write(d, "lost ")
        d.refused(409, "exists", "POST", "/v1/vms/web/checkpoints", {"name": "second"}, "already")
        d.cli("checkpoint", "rename", "web", "second", "other")
        require(tree(d)["other"]["parent"] == tree(d)["first"]["id"] and tree(d)["other"]["now"], f"a tree: {tree(d)}")
        d.done("POST", "/v1/vms/web/start")
        d.refused(409, "wrong-state", "POST", "/v1/vms/web/checkpoints/first/apply", None, "running")
        d.done("POST", "/v1/vms/web/turn-off")
        # Back, and on in another direction.
        d.cli("checkpoint", "apply", "web", "first")
        config = d.ok("GET", "/v1/vms/web")["config"]
        require(config["memory"] == 64 << 20 and config["notes"] == "later", "settings are what they were; notes are of the machine")
        require(says(d, "one  "), "the disk, too")
        write(d, "three")
        d.cli("checkpoint", "create", "web", "third")
        write(d, "now  ")
        require({n: c["parent"] == tree(d)["first"]["id"] for n, c in tree(d).items()} == {"first": False, "other": True, "third": True}, "branches")
        require("  third" in d.cli("checkpoint", "list", "web"), "shown as a tree")
        d.cli("checkpoint", "apply", "web", "other")
        require(says(d, "two  "), "the other branch")
        d.cli("checkpoint", "apply", "web", "third")
        require(says(d, "three"), "and this one")
        write(d, "now  ")
        d.done("POST", "/v1/vms/web/clone", {"name": "copy"})
        copy = d.ok("GET", "/v1/vms/copy")
        require(contents(d, os.path.join(copy["directory"], copy["config"]["disks"][0]["path"]))[1 << 20:].startswith(b"now  "), "a clone is of now")
        d.done("DELETE", "/v1/vms/copy")
        d.refused(404, "not-found", "POST", "/v1/vms/web/checkpoints/nobody/apply", None, "nobody")
        files = d.ok("GET", "/v1/vms/web/files")["files"]
        require(set(vhdx(d)) <= set(files) and "checkpoints.json" in files, f"what would be deleted: {files}")
        # Two continue it: it cannot be merged yet.
        delete(d, "first")
        require(set(tree(d)) == {"other", "third"} and tree(d)["other"]["parent"] == "", "its children have its parent")
        d.cli("checkpoint", "apply", "web", "other")
        require(says(d, "two  "), "nothing is lost")
        d.cli("checkpoint", "apply", "web", "third")
        write(d, "now  ")
        delete(d, "other")
        delete(d, "third")
        require(tree(d) == {} and vhdx(d) == ["disk.vhdx"] and disk_of(d).endswith("/disk.vhdx"), f"one disk again: {vhdx(d)}")
        require(says(d, "now  ") and contents(d, disk_of(d))[2 << 20:] == random.Random(1).randbytes(SIZE)[2 << 20:], "with the same contents")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/turn-off")
        d.cli("checkpoint", "create", "web")
        d.done("DELETE", "/v1/vms/web")
        require(os.listdir(os.path.join(d.state, "machines")) == [], "all goes with the machine")


def test_manage_linked_clone(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "one  ")
        d.cli("checkpoint", "create", "web", "base")
        write(d, "two  ")
        d.refused(400, "invalid", "POST", "/v1/vms/web/clone", {"name": "x", "linked": True}, "checkpoint")
        d.refused(404, "not-found", "POST", "/v1/vms/web/clone", {"name": "x", "checkpoint": "nobody"}, "nobody")
        d.done("POST", "/v1/vms/web/start")
        d.cli("vm", "clone", "web", "linked", "--checkpoint", "base", "--linked")
        d.cli("vm", "clone", "web", "full", "--checkpoint", "base")
        for name in ("linked", "full"):
            vm = d.ok("GET", f"/v1/vms/{name}")
            path = os.path.join(vm["directory"], vm["config"]["disks"][0]["path"])
            require(contents(d, path)[1 << 20:].startswith(b"one  "), f"{name} is what the checkpoint was")
            if name == "linked":
                require(os.path.getsize(path) < SIZE, "and takes next to no space")
            d.done("POST", f"/v1/vms/{name}/start")
            d.done("POST", f"/v1/vms/{name}/turn-off")
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("DELETE", "/v1/vms/full")
        d.refused(409, "busy", "DELETE", "/v1/vms/web/checkpoints/base", None, "linked clone")
        d.refused(409, "busy", "DELETE", "/v1/vms/web", None, "linked clone")
        d.kill()
        d.start()
        d.refused(409, "busy", "DELETE", "/v1/vms/web", None, "linked clone")
        d.done("DELETE", "/v1/vms/linked")
        delete(d, "base")
        require(says(d, "two  ") and vhdx(d) == ["disk.vhdx"], "then it can be merged")


def test_manage_checkpoint_of_what_cannot_have_one(context):
    with Daemon(context["build"]) as d:
        raw = os.path.join(d.directory, "raw.img")
        with open(raw, "wb") as f:
            f.write(bytes(1 << 20))
        make_web(d)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}, {"path": raw}]})
        job = d.job("POST", "/v1/vms/web/checkpoints", {"name": "x"})
        require(job["state"] == "failed" and job["error"]["code"] == "not-supported" and "raw.img" in job["error"]["message"], f"{job}")
        require(vhdx(d) == ["disk.vhdx"] and tree(d) == {} and disk_of(d).endswith("/disk.vhdx"), "nothing is changed")
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        for i in range(50):
            d.done("POST", "/v1/vms/web/checkpoints", {"name": f"c{i}"})
        d.refused(400, "invalid", "POST", "/v1/vms/web/checkpoints", {"name": "more"}, "50")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/turn-off")
        path = os.path.join(directory_of(d), "checkpoints.json")
        with open(path, encoding="utf-8") as f:
            good = f.read()
        for bad in ("{", json.dumps(dict(json.loads(good), hat=1)), good.replace('"version": 1', '"version": 2')):
            with open(path, "w", encoding="utf-8") as f:
                f.write(bad)
            status, answer = d.call("GET", "/v1/vms/web/checkpoints")
            require(status >= 400 and "checkpoints.json" in answer["error"]["message"], f"{status} {answer}")


def test_manage_killed_while_checkpoints_change(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "begin")
        now, said = "begin", {}
        for i in range(30):
            names = list(tree(d))
            if rng.random() < 0.5:
                now = f"{i:05}"
                write(d, now)
            verb = rng.choice(["create", "create", "apply", "delete"]) if names else "create"
            name = rng.choice(names) if names else None
            request = {"create": ("POST", "/v1/vms/web/checkpoints", {"name": f"c{i}"}),
                       "apply": ("POST", f"/v1/vms/web/checkpoints/{name}/apply", None),
                       "delete": ("DELETE", f"/v1/vms/web/checkpoints/{name}", None)}[verb]
            said.setdefault(f"c{i}", now)
            before = disk_of(d)
            d.ok(*request)
            time.sleep(rng.random() * 0.06)
            d.kill()
            d.start()
            wait_for(lambda: all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=20")["jobs"]), "jobs to end")
            known = set(d.ok("GET", "/v1/vms/web/files")["files"])
            require(set(vhdx(d)) <= known, f"round {i} ({verb}): files that belong to nobody: {set(vhdx(d)) - known}")
            if verb == "apply" and disk_of(d) != before:
                now = said[name]
            require(says(d, now), f"round {i} ({verb}): other contents")
        for name in list(tree(d)):
            d.done("DELETE", f"/v1/vms/web/checkpoints/{name}")
        require(vhdx(d) == ["disk.vhdx"] and says(d, now), f"one disk in the end: {vhdx(d)}")


def ran_for(d):
    """The guest's own clock, in seconds."""
    return d.ok("GET", "/v1/vms/web/inspect")["reference_time_100ns"] / 1e7


def test_manage_checkpoint_of_a_running_machine(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "one  ")
        d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: ran_for(d) > 1, "a second")
        d.cli("checkpoint", "create", "web", "first")
        before = ran_for(d)
        require(d.state_of("web") == "running" and before > 1, "it runs on")
        child = disk_of(d)
        require(not child.endswith("/disk.vhdx") and d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["path"] == child, "on a disk of its own")
        require(d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"][0]["state"], "with its state")
        d.done("POST", "/v1/vms/web/pause")
        d.cli("checkpoint", "create", "web", "second")
        require(d.state_of("web") == "paused", "a paused one stays paused")
        d.done("POST", "/v1/vms/web/resume")
        wait_for(lambda: ran_for(d) > before + 2, "more seconds")
        d.done("POST", "/v1/vms/web/turn-off")
        write(d, "two  ")
        for _ in range(2):
            d.cli("checkpoint", "apply", "web", "first")
            require(d.state_of("web") == "saved" and says(d, "one  "), "it is as it was: saved, with its disks")
            d.done("POST", "/v1/vms/web/start")
            require(1 < ran_for(d) < before + 1, "its clock, too")
            d.done("POST", "/v1/vms/web/turn-off")
        for name in ("first", "second"):
            delete(d, name)
        require(vhdx(d) == ["disk.vhdx"] and not [f for f in os.listdir(directory_of(d)) if f.startswith("checkpoint-")], "nothing is left of them")
        require(says(d, "one  "), "but the machine of now")


def test_manage_checkpoint_exported(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "one  ")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "off"})
        write(d, "two  ")
        d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: ran_for(d) > 1, "a second")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "ran"})
        before = ran_for(d)
        outs = {name: os.path.join(d.directory, name) for name in ("off", "ran", "saved")}
        for out in outs.values():
            os.mkdir(out)
        d.refused(404, "not-found", "POST", "/v1/vms/web/checkpoints/nobody/export", {"directory": outs["off"]}, "nobody")
        d.refused(400, "invalid", "POST", "/v1/vms/web/checkpoints/off/export", {"directory": "out"}, "from the root on")
        # While it runs.
        for name in ("off", "ran"):
            d.cli("checkpoint", "export", "web", name, outs[name])
            d.refused(409, "exists", "POST", f"/v1/vms/web/checkpoints/{name}/export", {"directory": outs[name]}, "already")
        require(d.state_of("web") == "running", "it runs on")
        require("saved-state" not in os.listdir(os.path.join(outs["off"], "web")), "one that was off has no state")
        d.done("POST", "/v1/vms/web/save")
        id_before = d.ok("GET", "/v1/vms/web")["id"]
        d.done("DELETE", "/v1/vms/web")
        # All of it is there, whatever becomes of the machine: anew, as the same, and where it is.
        d.cli("vm", "import", os.path.join(outs["off"], "web"))
        require(d.state_of("web") == "off" and d.ok("GET", "/v1/vms/web")["id"] != id_before and says(d, "one  "), "what it was, off")
        d.done("DELETE", "/v1/vms/web")
        for mode in ("--copy", "--restore", "--register"):
            d.cli("vm", "import", os.path.join(outs["ran"], "web"), mode)
            require(d.state_of("web") == "saved" and says(d, "two  "), f"{mode}: saved, with its disk")
            require((d.ok("GET", "/v1/vms/web")["id"] == id_before) == (mode != "--copy"), f"{mode}: its id")
            if mode == "--restore":
                # One that is saved is exported as such.
                d.cli("vm", "export", "web", outs["saved"])
                require("saved-state" in os.listdir(os.path.join(outs["saved"], "web")), "with its state")
            d.done("POST", "/v1/vms/web/start")
            require(1 < ran_for(d) < before + 1, f"{mode}: its clock goes on")
            d.done("POST", "/v1/vms/web/turn-off")
            d.done("DELETE", "/v1/vms/web" + ("?files=keep" if mode == "--register" else ""))
        d.cli("vm", "import", os.path.join(outs["saved"], "web"), "--register")
        require(d.state_of("web") == "saved", "and comes back so")
        d.done("POST", "/v1/vms/web/start")
        # Its worker is in a directory that the end of the test does not look through.
        d.done("POST", "/v1/vms/web/turn-off")


def test_manage_killed_when_a_merge_was_not_noted(context):
    """The worker has merged a disk and its file is removed, but checkpoints.json does not say so yet."""
    for off in (False, True):
        with Daemon(context["build"]) as d:
            make_web(d)
            write(d, "begin")
            d.done("POST", "/v1/vms/web/start")
            for name in ("one", "two", "three"):
                d.done("POST", "/v1/vms/web/checkpoints", {"name": name})
            directory = directory_of(d)
            noted = os.path.join(directory, "checkpoints.json")
            d.done("DELETE", "/v1/vms/web/checkpoints/three")
            d.done("DELETE", "/v1/vms/web/checkpoints/one")
            with open(noted, encoding="utf-8") as f:
                before = json.load(f)
            there = set(vhdx(d))
            d.done("DELETE", "/v1/vms/web/checkpoints/two")
            gone = (there - set(vhdx(d))).pop()
            parent = next(disk["parent"] for disk in before["disks"] if disk["path"] == gone)
            before["checkpoints"] = []
            before["now"] = ""
            if off:
                d.done("POST", "/v1/vms/web/turn-off")
            d.kill()
            with open(noted, "w", encoding="utf-8") as f:
                json.dump(before, f)
            store = sqlite3.connect(os.path.join(d.state, "host.db"))
            with store:
                store.execute("insert or replace into work select id, ? from vm",
                              (json.dumps({"kind": "checkpoint-merge", "child": gone, "parent": parent, "live": True}),))
            store.close()
            d.start()
            wait_for(lambda: d.ok("GET", "/v1/vms/web")["state"] and all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs")["jobs"]), "jobs to end")
            if not off:
                require(d.state_of("web") == "running", "it runs on")
                d.done("POST", "/v1/vms/web/turn-off")
            require(vhdx(d) == ["disk.vhdx"] and says(d, "begin"), f"one disk in the end: {vhdx(d)}")
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "four"})
            with open(noted, encoding="utf-8") as f:
                require([disk["parent"] for disk in json.load(f)["disks"]] == ["disk.vhdx"], "what is noted is what is there")


def test_manage_killed_while_a_running_machine_is_kept(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        # So much that the worker may still be at it when the next daemon asks.
        make_web(d, memory=1 << 30)
        d.done("POST", "/v1/vms/web/start")
        for i in range(12):
            d.call("POST", "/v1/vms/web/checkpoints", {"name": f"c{i}"})
            time.sleep(rng.random() * 0.2)
            d.kill()
            d.start()
            wait_for(lambda: d.state_of("web") == "running" and d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["path"] == disk_of(d),
                     f"round {i}: vm.json to have the disk that runs", 20)
            wait_for(lambda: set(vhdx(d)) <= set(d.ok("GET", "/v1/vms/web/files")["files"]), f"round {i}: no file to be left over", 20)
        require(tree(d), "not one came to its end: this tests nothing")
        d.done("POST", "/v1/vms/web/turn-off")
        last = max(tree(d), key=lambda name: tree(d)[name]["created"])
        d.done("POST", f"/v1/vms/web/checkpoints/{last}/apply")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/turn-off")
        for name in list(tree(d)):
            delete(d, name)
        require(vhdx(d) == ["disk.vhdx"], f"one disk in the end: {vhdx(d)}")


def runs_on(d):
    """It runs, on the disk that vm.json says."""
    return d.state_of("web") == "running" and d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["path"] == disk_of(d)


def test_manage_checkpoint_deleted_while_it_runs(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        for text in ("one  ", "two  "):
            write(d, text)
            d.done("POST", "/v1/vms/web/checkpoints", {"name": text.strip()})
        write(d, "three")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "three"})
        require(len(vhdx(d)) == 4, f"a chain: {vhdx(d)}")
        # In the middle of the chain, and then its uppermost file.
        d.cli("checkpoint", "delete", "web", "one")
        require(runs_on(d) and len(vhdx(d)) == 3 and "disk.vhdx" in vhdx(d), f"merged: {vhdx(d)}")
        d.cli("checkpoint", "delete", "web", "three")
        require(runs_on(d) and len(vhdx(d)) == 2, f"merged: {vhdx(d)}")
        require(not [f for f in os.listdir(directory_of(d)) if f.startswith("checkpoint-")], "its state is gone")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "three"), "its disk is what it was")
        # With a second branch, which nobody has open.
        write(d, "four ")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "four"})
        d.done("POST", "/v1/vms/web/checkpoints/two/apply")
        write(d, "five ")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "five"})
        d.done("POST", "/v1/vms/web/start")
        delete(d, "two")
        delete(d, "four")
        require(runs_on(d), "it runs on")
        delete(d, "five")
        require(runs_on(d) and tree(d) == {} and vhdx(d) == ["disk.vhdx"], f"one disk is left: {vhdx(d)}")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "five "), "with the contents of now")
        d.done("POST", "/v1/vms/web/start")


def vhd(d):
    return sorted(f for f in os.listdir(directory_of(d)) if f.endswith(".vhd"))


def check_vhd_checkpoints(context, fixed):
    """All that is done to the files of a machine, off and running; the disks are VHD and stay so."""
    with Daemon(context["build"]) as d:
        make_web(d, "disk.vhd", fixed)
        for text in ("one  ", "two  "):
            write(d, text)
            d.done("POST", "/v1/vms/web/checkpoints", {"name": text.strip()})
        require("vhd, differencing" in d.cli("disk", "info", disk_of(d)) and len(vhd(d)) == 3 and vhdx(d) == [], f"a chain: {vhd(d)}")
        write(d, "three")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "three"})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "four"})
        require(runs_on(d) and len(vhd(d)) == 5 and vhdx(d) == [], f"split while it runs: {vhd(d)}")
        # Below two others, in the middle, and the uppermost file.
        d.cli("checkpoint", "delete", "web", "one")
        require(runs_on(d) and len(vhd(d)) == 4, f"merged: {vhd(d)}")
        d.cli("checkpoint", "delete", "web", "four")
        require(runs_on(d) and len(vhd(d)) == 3, f"merged: {vhd(d)}")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "three"), "its disk is what it was")
        write(d, "lost ")
        d.cli("checkpoint", "apply", "web", "two")
        require(says(d, "two  "), "the disk of then")
        d.cli("checkpoint", "apply", "web", "three")
        require(d.state_of("web") == "saved" and says(d, "three"), "and of later, saved")
        d.done("POST", "/v1/vms/web/start")
        for name in ("three", "two"):
            d.cli("checkpoint", "delete", "web", name)
        require(runs_on(d) and tree(d) == {} and vhd(d) == ["disk.vhd"], f"one disk is left: {vhd(d)}")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "three"), "with the contents of now")
        d.cli("disk", "check", disk_of(d))


def test_manage_checkpoints_on_vhd(context):
    check_vhd_checkpoints(context, False)


def test_manage_checkpoints_on_fixed_vhd(context):
    check_vhd_checkpoints(context, True)


def test_manage_killed_while_checkpoints_of_a_running_machine_go(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "begin")
        directory, merged = directory_of(d), 0
        d.done("POST", "/v1/vms/web/start")
        for i in range(10):
            while len(tree(d)) < 3:
                d.call("POST", "/v1/vms/web/checkpoints?wait=60", {"name": f"c{i}.{len(tree(d))}"})
            gone = rng.choice(list(tree(d)))
            wait_for(lambda: d.call("DELETE", f"/v1/vms/web/checkpoints/{gone}")[0] < 300, "what was begun before to end")
            time.sleep(rng.random() * 0.1)
            d.kill()
            if i % 3 == 2:
                with open(os.path.join(directory, "worker.lock"), encoding="utf-8") as f:
                    os.kill(int(f.readline()), 9)
            d.start()
            wait_for(lambda: d.ok("GET", "/v1/vms/web")["state"] and all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=20")["jobs"]), "jobs to end")
            if i % 3 == 2:
                wait_for(lambda: d.state_of("web") == "off", "the worker's death to be seen")
                d.done("POST", "/v1/vms/web/start")
            wait_for(lambda: runs_on(d) and set(vhdx(d)) <= set(d.ok("GET", "/v1/vms/web/files")["files"]), f"round {i}: all to be in its place", 20)
            # What was not begun when it was killed is merged with the next change.
            merged += len(vhdx(d)) == len(tree(d)) + 1
        require(merged, "not one was merged: this tests nothing")
        d.done("POST", "/v1/vms/web/turn-off")
        for name in list(tree(d)):
            wait_for(lambda: d.call("DELETE", f"/v1/vms/web/checkpoints/{name}?wait=60")[0] < 300, "what was begun before to end")
        require(vhdx(d) == ["disk.vhdx"] and says(d, "begin"), f"one disk in the end: {vhdx(d)}")


def test_manage_checkpoint_of_a_saved_machine_deleted(context):
    """What its state goes on with is in another file then."""
    for name in ("disk.vhdx", "disk.vhd"):
        with Daemon(context["build"]) as d:
            make_web(d, name)
            write(d, "one  ")
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "off"})
            write(d, "two  ")
            d.done("POST", "/v1/vms/web/start")
            wait_for(lambda: ran_for(d) > 1, "a second")
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "ran"})
            d.done("POST", "/v1/vms/web/save")
            d.refused(409, "wrong-state", "POST", "/v1/vms/web/checkpoints", {"name": "more"}, "saved")
            d.refused(409, "wrong-state", "POST", "/v1/vms/web/checkpoints/off/apply", None, "saved")
            delete(d, "ran")
            require(d.state_of("web") == "saved" and says(d, "two  "), "it is saved still")
            before = time.monotonic()
            d.done("POST", "/v1/vms/web/start")
            require(1 < ran_for(d) < 2 + time.monotonic() - before, "it went on where it was")
            d.done("POST", "/v1/vms/web/save")
            require(not disk_of(d).endswith("/" + name), "it goes on on a disk of its own")
            delete(d, "off")
            require(disk_of(d).endswith("/" + name) and d.state_of("web") == "saved", f"one disk again: {disk_of(d)}")
            d.kill()
            d.start()
            d.done("POST", "/v1/vms/web/start")
            require(1 < ran_for(d) and says_later(d, "two  "), "it went on where it was")


def says_later(d, text):
    d.done("POST", "/v1/vms/web/turn-off")
    return says(d, text)


class SmallFileSystem:
    """Where there may be no room."""

    def __init__(self, context, d, size):
        self.path = os.path.join(d.directory, "small")
        os.mkdir(self.path)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", self.path], capture_output=True, check=False).returncode:
            raise context["skip"]("a small file system cannot be mounted here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.path], check=True)

    def fill(self, left):
        there = os.statvfs(self.path)
        with open(os.path.join(self.path, "filling"), "wb") as f:
            f.write(bytes(max(0, there.f_bavail * there.f_bsize - left)))

    def clear(self):
        os.unlink(os.path.join(self.path, "filling"))


def test_manage_merge_where_there_is_no_room(context):
    """The machine is not kept from starting, and loses nothing; the merge comes when there is room."""
    with Daemon(context["build"]) as d, SmallFileSystem(context, d, "128m") as small:
        d.make("web")
        place = os.path.join(small.path, "web")
        subprocess.run(["cp", "-r", directory_of(d), place], check=True)
        d.done("DELETE", "/v1/vms/web")
        raw = os.path.join(d.directory, "raw")
        with open(raw, "wb") as f:
            f.truncate(4 * SIZE)
        d.cli("disk", "convert", raw, os.path.join(place, "disk.vhdx"))
        d.ok("POST", "/v1/vms/register", {"directory": place})
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})

        def turned_off():
            """What could not be merged is tried again then."""
            d.done("POST", "/v1/vms/web/turn-off")
            wait_for(lambda: idle(d), "jobs to end")

        for i, how in enumerate(("request", "daemon", "change", "stop")):
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
            write(d, "x" * (12 << 20), 2 * i * (8 << 20))
            expected = contents(d, disk_of(d))
            small.fill(5 << 20)
            job = d.job("DELETE", "/v1/vms/web/checkpoints/one")
            require(job["state"] == "failed" and job["error"]["code"] == "no-space", f"{how}: there was room: {job}")
            events = d.ok("GET", "/v1/events?limit=1000")["events"]
            require([e for e in events if e["kind"] == "vm.warning" and "checkpoint merge" in e["text"]], "it is told what to do")
            require(tree(d) == {} and len(vhdx(d)) == 2 and contents(d, disk_of(d)) == expected, "the disk is what it was")
            d.done("POST", "/v1/vms/web/start")
            wait_for(lambda: ran_for(d) > 0.1, "it to run")
            turned_off()
            write(d, f"new{len(how):02}")
            expected = contents(d, disk_of(d))
            if how == "request":
                require("no space" in d.cli("checkpoint", "merge", "web", status=1).lower(), "there is no room yet")
            if how == "daemon":
                d.kill()
                d.start()
                wait_for(lambda: idle(d), "jobs to end")
                require(len(vhdx(d)) == 2 and contents(d, disk_of(d)) == expected, "it was tried, and nothing is lost")
            d.done("POST", "/v1/vms/web/start")
            if how == "stop":
                small.clear()
            turned_off()
            if how != "stop":
                small.clear()
            if how == "request":
                require("nothing left to merge" in d.cli("checkpoint", "merge", "web"), "now there is")
                d.done("POST", "/v1/vms/web/merge")
            elif how == "daemon":
                d.kill()
                d.start()
                wait_for(lambda: idle(d), "jobs to end")
            elif how == "change":
                d.done("POST", "/v1/vms/web/checkpoints", {"name": "two"})
                d.done("DELETE", "/v1/vms/web/checkpoints/two")
            require(len(vhdx(d)) == 1 and contents(d, disk_of(d)) == expected, f"{how}: one disk again, {vhdx(d)}")
            d.cli("disk", "check", disk_of(d))


def test_manage_checkpoint_deleted_where_nothing_can_be_written(context):
    """While it runs: what cannot be written down is not done, and can be when there is room, by the same daemon."""
    with Daemon(context["build"]) as d, SmallFileSystem(context, d, "128m") as small:
        make_web(d)
        place = os.path.join(small.path, "web")
        subprocess.run(["cp", "-r", directory_of(d), place], check=True)
        d.done("DELETE", "/v1/vms/web")
        d.ok("POST", "/v1/vms/register", {"directory": place})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
        write(d, "two  ")
        d.done("POST", "/v1/vms/web/start")
        extra = os.path.join(d.directory, "extra.vhdx")
        d.cli("disk", "create", extra, "16M")
        small.fill(0)
        job = d.job("POST", "/v1/vms/web/disks", {"path": extra})
        require(job["state"] == "failed" and job["error"]["code"] == "no-space", f"{job}")
        small.clear()
        wait_for(lambda: d.call("POST", "/v1/vms/web/disks?wait=60", {"path": extra})[0] < 300, "the disk to be taken")
        require(len(d.ok("GET", "/v1/vms/web/inspect")["disks"]) == 2, "it has it")
        d.done("DELETE", f"/v1/vms/web/disks?path={extra}")
        small.fill(0)
        job = d.job("DELETE", "/v1/vms/web/checkpoints/one")
        require(job["state"] == "failed" and job["error"]["code"] == "no-space" and list(tree(d)) == ["one"], f"nothing has changed: {job}")
        small.clear()
        d.done("DELETE", "/v1/vms/web/checkpoints/one")
        wait_for(lambda: runs_on(d) and tree(d) == {} and vhdx(d) == ["disk.vhdx"] and idle(d), "it to be gone")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "two  "), "the disk is what it was")


def test_manage_checkpoints_that_name_disks_of_other_places(context):
    """As somebody may have written who can write there: none goes that is continued, and the daemon answers."""
    with Daemon(context["build"]) as d:
        make_web(d)
        directory, outside = directory_of(d), os.path.join(d.directory, "outside.vhdx")
        d.cli("disk", "create", outside, "--parent", disk_of(d))
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": outside}]})
        d.kill()
        with open(os.path.join(directory, "checkpoints.json"), "w", encoding="utf-8") as f:
            json.dump({"version": 1, "disks": [{"path": outside, "parent": "disk.vhdx"}]}, f)
        d.start()
        job = d.job("POST", "/v1/vms/web/merge")
        require(job["state"] == "failed" and job["error"]["code"] == "invalid" and outside in job["error"]["message"], f"{job}")
        require(vhdx(d) == ["disk.vhdx"] and os.path.exists(outside), "both are there")


def make_big(d):
    """With a disk of which a merge takes its time."""
    d.make("web")
    raw = os.path.join(d.directory, "raw")
    with open(raw, "wb") as f:
        f.truncate(256 << 20)
    d.cli("disk", "convert", raw, os.path.join(directory_of(d), "disk.vhdx"))
    os.unlink(raw)
    d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})


def forget_checkpoints(d):
    """As if they had been deleted, and the daemon killed before it merged anything."""
    path = os.path.join(directory_of(d), "checkpoints.json")
    d.kill()
    with open(path, encoding="utf-8") as f:
        tree_of_now = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump({**tree_of_now, "checkpoints": [], "now": ""}, f)
    d.start()


def merges(d):
    return [j for j in d.ok("GET", "/v1/jobs?limit=50")["jobs"] if j["kind"] == "checkpoint.merge"]


def test_manage_merge_yields(context):
    """One that was put off goes on by itself when the machine is off, and keeps nobody waiting."""
    with Daemon(context["build"]) as d:
        make_big(d)
        yielded = False
        for attempt in range(15):
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
            write(d, "xyz"[attempt % 3] * (192 << 20), 1 << 20)
            expected = contents(d, disk_of(d))
            known = {j["id"] for j in merges(d)}
            job = d.ok("DELETE", "/v1/vms/web/checkpoints/one")
            d.call("DELETE", f"/v1/jobs/{job['id']}")
            yielded = d.ok("GET", f"/v1/jobs/{job['id']}?wait=60")["state"] == "cancelled"
            d.done("POST", "/v1/vms/web/start")
            d.done("POST", "/v1/vms/web/turn-off")
            d.done("POST", "/v1/vms/web/start")
            began = [j for j in merges(d) if j["id"] not in known]
            require(d.state_of("web") == "running" and (began or not yielded), f"it goes on when the machine is off: {began}")
            yielded = yielded and any(j["state"] == "cancelled" for j in began)
            d.done("POST", "/v1/vms/web/turn-off")
            wait_for(lambda: idle(d), "jobs to end")
            require(vhdx(d) == ["disk.vhdx"] and contents(d, disk_of(d)) == expected, f"one disk again: {vhdx(d)}")
            offs = [e["kind"] for e in d.ok("GET", "/v1/events?limit=500")["events"] if e["kind"] == "vm.off"]
            require(len(offs) == 2 * (attempt + 1), f"each end is told once: {offs}")
            if yielded:
                break
        require(yielded, "no merge was in the way of a start: this tests nothing")


def test_manage_merge_goes_on_after_it_made_way(context):
    """For what was refused, or for what does not begin it again itself: when that is over."""
    with Daemon(context["build"]) as d:
        make_big(d)
        for request, status in ((("POST", "/v1/vms/web/checkpoints/nobody/apply", None), 404), (("PATCH", "/v1/vms/web", {"notes": "x"}), 200)):
            made_way = False
            for attempt in range(15):
                d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
                write(d, "xyz"[attempt % 3] * (192 << 20), 1 << 20)
                before = {j["id"] for j in merges(d)}
                forget_checkpoints(d)
                require(d.call(*request)[0] == status, f"{request}: not {status}")
                made_way = any(j["id"] not in before and j["state"] == "cancelled" for j in merges(d))
                wait_for(lambda: vhdx(d) == ["disk.vhdx"] and idle(d), f"one disk, attempt {attempt}, {status}")
                require(says(d, "xyz"[attempt % 3] * 100), "with its contents")
                if made_way:
                    break
            require(made_way, f"{status}: no merge was in the way")


def test_manage_merge_left_under_a_machine_that_runs(context):
    """It goes on when the daemon has found the machine."""
    with Daemon(context["build"]) as d:
        make_web(d)
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
        write(d, "two  ")
        d.done("POST", "/v1/vms/web/start")
        forget_checkpoints(d)
        wait_for(lambda: vhdx(d) == ["disk.vhdx"] and idle(d), "one disk")
        require(runs_on(d) and [j["state"] for j in merges(d)] == ["done"], f"it runs on: {merges(d)}")
        d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "two  "), "its disk is what it was")


def test_manage_turned_off_while_its_worker_hangs(context):
    """In the middle of a merge, that was asked for or goes on by itself: its power is cut all the same, and the merge goes on then."""
    with Daemon(context["build"]) as d:
        make_big(d)
        for asked in (True, False):
            for attempt in range(15):
                d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
                text = "xyz"[attempt % 3]
                write(d, text * (192 << 20), 1 << 20)
                d.done("POST", "/v1/vms/web/start")
                pid = d.machine_process("web")
                if asked:
                    os.kill(pid, signal.SIGSTOP)
                    d.ok("DELETE", "/v1/vms/web/checkpoints/one")
                else:
                    known = {j["id"] for j in merges(d)}
                    forget_checkpoints(d)
                    wait_for(lambda: [j for j in merges(d) if j["id"] not in known], "the merge to begin")
                    os.kill(pid, signal.SIGSTOP)
                hangs = not idle(d)
                # Not while the daemon itself opens or removes a file for it.
                wait_for(lambda: d.call("POST", "/v1/vms/web/turn-off?wait=100")[0] < 300, "its power to be cut")
                wait_for(lambda: vhdx(d) == ["disk.vhdx"] and idle(d), "one disk")
                require(d.state_of("web") == "off" and says(d, text * 100), "its disk is what it was")
                if hangs:
                    break
            require(hangs, "no merge was at work when the worker stood still")


def check_merged_below_others(context, name, running):
    """The lowest of three checkpoints goes; what continued it, on its own branch and on another, is what it was."""
    with Daemon(context["build"]) as d:
        make_web(d, name)
        texts = ("one  ", "two  ", "three")
        for text in texts:
            write(d, text)
            d.done("POST", "/v1/vms/web/checkpoints", {"name": text.strip()})
        d.cli("checkpoint", "apply", "web", "two")
        write(d, "other")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "other"})
        write(d, "now  ")
        if running:
            d.done("POST", "/v1/vms/web/start")
        d.cli("checkpoint", "delete", "web", "one")
        if running:
            d.done("POST", "/v1/vms/web/turn-off")
        require(says(d, "now  "), "its disk is what it was")
        for text in ("two  ", "three", "other"):
            d.cli("checkpoint", "apply", "web", text.strip())
            require(says(d, text), f"{text}is what it was")
            d.cli("disk", "check", disk_of(d))
        for text in ("other", "three", "two"):
            d.cli("checkpoint", "delete", "web", text)
        require(says(d, "other") and tree(d) == {} and len(vhd(d) + vhdx(d)) == 1, f"one disk is left: {vhd(d) + vhdx(d)}")


def test_manage_checkpoint_merged_below_others(context):
    for name in ("disk.vhd", "disk.vhdx"):
        check_merged_below_others(context, name, False)


def test_manage_checkpoint_merged_below_others_while_it_runs(context):
    for name in ("disk.vhd", "disk.vhdx"):
        check_merged_below_others(context, name, True)


def test_manage_checkpoints_with_long_notes(context):
    """Their configurations are in one file, which has to be readable however many there are."""
    with Daemon(context["build"]) as d:
        make_web(d)
        d.ok("PATCH", "/v1/vms/web", {"notes": "n" * 60000})
        for i in range(20):
            d.done("POST", "/v1/vms/web/checkpoints", {"name": f"c{i}"})
        require(os.path.getsize(os.path.join(directory_of(d), "checkpoints.json")) > 1 << 20, "a long file")
        d.kill()
        d.start()
        require(len(tree(d)) == 20, "it is read")
        d.cli("checkpoint", "apply", "web", "c3")
        delete(d, "c3")
        require(len(tree(d)) == 19, "and changed")
