# SPDX-License-Identifier: GPL-2.0-or-later
"""What daemons of earlier versions have left: host.db, vm.json, checkpoints.json, disks and saved states, made by these (older/state-N.tar.xz; N is
host.db's version)."""

import glob
import json
import os
import sqlite3
import tarfile

from daemon import Daemon, require, wait_for

OLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "older")


def unpack(d, archive):
    """Into the daemon's state directory, which was another place then."""
    os.makedirs(d.state, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(d.state)  # our own
    with open(os.path.join(d.state, "about.json"), encoding="utf-8") as f:
        about = json.load(f)
    db = sqlite3.connect(os.path.join(d.state, "host.db"))
    with db:
        require(db.execute("PRAGMA user_version").fetchone() == (about["host.db"],), f"{archive}: its version")
        db.execute("UPDATE vm SET directory = replace(directory, ?, ?)", (about["state"], d.state))
        if about["host.db"] >= 3:
            db.execute("UPDATE host SET value = 'another' WHERE key = 'boot'")
    db.close()
    return about


def version_of(d):
    db = sqlite3.connect(f"file:{d.state}/host.db?mode=ro", uri=True)
    try:
        return db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        db.close()


def says_begin(d):
    vm = d.ok("GET", "/v1/vms/saved")
    raw = os.path.join(d.directory, "raw")
    d.cli("disk", "convert", os.path.join(vm["directory"], vm["config"]["disks"][0]["path"]), raw, "--format", "raw", "--replace")
    with open(raw, "rb") as f:
        f.seek(1 << 20)
        return f.read(5) == b"begin"


def use_checkpoints(d):
    """A saved machine goes on, a checkpoint of then is applied and goes on, and both are deleted."""
    require(d.state_of("saved") == "saved", "it is saved")
    d.done("POST", "/v1/vms/saved/start")
    require(d.ok("GET", "/v1/vms/saved/inspect")["memory"] == 64 << 20, "it runs")
    d.done("POST", "/v1/vms/saved/turn-off")
    require([c["name"] for c in d.ok("GET", "/v1/vms/saved/checkpoints")["checkpoints"]] == ["off", "ran"], "its checkpoints")
    d.done("POST", "/v1/vms/saved/checkpoints/ran/apply")
    require(d.state_of("saved") == "saved", "with its state")
    d.done("POST", "/v1/vms/saved/start")
    d.done("POST", "/v1/vms/saved/turn-off")
    for name in ("off", "ran"):
        d.done("DELETE", f"/v1/vms/saved/checkpoints/{name}")
    require(d.ok("GET", "/v1/vms/saved")["config"]["disks"][0]["path"] == "disk.vhdx", "one disk is left")


def test_manage_what_older_versions_left(context):
    archives = sorted(glob.glob(os.path.join(OLDER, "state-*.tar.xz")))
    require(len(archives) >= 3, f"{archives}")
    for archive in archives:
        with Daemon(context["build"], start=False) as d, Daemon(context["build"]) as new:
            about = unpack(d, archive)
            d.start()
            require(version_of(d) == version_of(new), "host.db is as of now")
            vms = {vm["name"]: vm for vm in d.ok("GET", "/v1/vms")["vms"]}
            require(sorted(vms) == ["off", "saved"] and all(vm["config"]["notes"] == f"made by version {about['host.db']}" for vm in vms.values()), f"{vms}")
            limits = vms["off"]["config"]["limits"]
            require((limits["processor_weight"], limits["processor_reserve"], limits["memory_priority"]) == (100, 0, 50), f"what is new is as it was: {limits}")
            require(any(e["kind"] == "vm.created" and e["vm_name"] == "off" for e in d.ok("GET", "/v1/events?limit=1000")["events"]), "what happened")
            # The host has booted since.
            wait_for(lambda d=d: d.state_of("off") == "running", "what starts with the host")
            d.done("POST", "/v1/vms/off/turn-off")
            if about["token"]:
                status, _ = d.call("GET", "/v1/vms", None, {"Authorization": f"Bearer {about['token']}"})
                require(status == 200, f"a token of then: {status}")
            if about["host.db"] >= 4:
                use_checkpoints(d)
            d.done("POST", "/v1/vms/saved/checkpoints", {"name": "new"})
            d.done("POST", "/v1/vms/saved/start")
            d.done("POST", "/v1/vms/saved/turn-off")
            require(says_begin(d), "what was on its disk")
