# SPDX-License-Identifier: GPL-2.0-or-later
"""What belongs to whom: files that others still need, or that are not ours, stay where they are."""

import json
import os
import socket
import sqlite3
import uuid

from daemon import Daemon, require
from test_manage_checkpoint import contents, directory_of, disk_of, make_web, says, tree, vhdx, write


def half_done(d, plan):
    """What a daemon that was killed in the middle of it leaves; the daemon is away."""
    with sqlite3.connect(os.path.join(d.state, "host.db")) as db:
        vm = db.execute("SELECT id FROM vm WHERE name = 'web'").fetchone()[0]
        db.execute("INSERT OR REPLACE INTO work (vm, plan) VALUES (?, ?)", (vm, json.dumps(plan)))
    db.close()


def test_manage_disks_of_checkpoints_stay(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "first"})
        write(d, "two  ")
        child = os.path.basename(disk_of(d))
        # Removed, it would be taken for one that nobody has; given back to the guest, a checkpoint's would be written.
        d.refused(409, "wrong-state", "DELETE", f"/v1/vms/web/disks?path={child}", None, "checkpoint")
        d.refused(409, "wrong-state", "PATCH", "/v1/vms/web", {"disks": []}, "checkpoint")
        d.refused(409, "wrong-state", "PATCH", "/v1/vms/web", {"disks": [{"path": child}, {"path": "disk.vhdx"}]}, "written")
        d.refused(409, "wrong-state", "POST", "/v1/vms/web/disks", {"path": "disk.vhdx"}, "written")
        # A checkpoint that has the disk of now itself, since it is only read.
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": child, "read_only": True}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "second"})
        require(os.path.basename(disk_of(d)) == child, "nothing is written, nothing is made")
        d.done("POST", "/v1/vms/web/checkpoints/first/apply")
        require(child in vhdx(d), f"{child} is the second's: {vhdx(d)}")
        d.done("POST", "/v1/vms/web/checkpoints/second/apply")
        require(says(d, "two  "), "as it was")


def test_manage_export_of_a_linked_clone(context):
    """What is exported lasts when what it was made of is gone."""
    with Daemon(context["build"]) as d:
        make_web(d)
        write(d, "one  ")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "base"})
        d.done("POST", "/v1/vms/web/clone", {"name": "linked", "checkpoint": "base", "linked": True})
        d.done("POST", "/v1/vms/linked/export", {"directory": d.directory})
        d.refused(409, "wrong-state", "DELETE", "/v1/vms/linked?files=keep", None, "linked clone")
        d.done("DELETE", "/v1/vms/linked")
        d.done("DELETE", "/v1/vms/web?files=keep")
        d.done("POST", "/v1/vms/import", {"directory": os.path.join(d.directory, "linked"), "name": "web"})
        require(says(d, "one  "), "all of it was exported")


def test_manage_half_done_merges(context):
    """A merge that cannot be ended holds up whoever would count on its disks, and a daemon that cannot start waits for it."""
    with Daemon(context["build"]) as d:
        make_web(d)
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "base"})
        child = disk_of(d)
        d.stop()
        with open(child, "wb") as f:
            f.write(b"junk" * 1024)
        half_done(d, {"kind": "checkpoint-merge", "child": os.path.basename(child), "parent": "disk.vhdx"})
        with socket.create_server(("127.0.0.1", 0)) as taken:
            more = d.more
            d.configure(https={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
            with open(d.log, "ab") as log:
                d.process = d.spawn(log)
            require(d.process.wait(60) == 1 and "AddressSanitizer" not in d.log_text(), f"it says why, and ends: {d.log_text()}")
        d.more = more
        d.start()
        for request in (("POST", "/v1/vms/web/clone", {"name": "linked", "checkpoint": "base", "linked": True}),
                        ("POST", "/v1/vms/web/clone", {"name": "full"}), ("PATCH", "/v1/vms/web", {"notes": "n"}),
                        ("POST", "/v1/vms/web/export", {"directory": d.directory})):
            d.refused(409, "busy", *request)
        require([v["name"] for v in d.ok("GET", "/v1/vms")["vms"]] == ["web"] and "base" in tree(d), "nothing came of them")


def test_manage_power_while_a_checkpoint_is_copied(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        raw = os.path.join(d.directory, "raw")
        piece = os.urandom(1 << 20)
        with open(raw, "wb") as f:
            for _ in range(192):
                f.write(piece)
        d.cli("disk", "convert", raw, os.path.join(directory_of(d), "disk.vhdx"), "--format", "vhdx")
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "base"})
        d.done("POST", "/v1/vms/web/start")
        job = d.ok("POST", "/v1/vms/web/clone", {"name": "copy", "checkpoint": "base"})
        d.done("POST", "/v1/vms/web/pause")
        d.done("POST", "/v1/vms/web/turn-off")
        # Off, it waits: its checkpoints have to stay.
        status, answer = d.call("DELETE", "/v1/vms/web/checkpoints/base")
        require(status == 202 or answer["error"]["code"] == "busy", f"{status} {answer}")
        require(d.ok("GET", f"/v1/jobs/{job['id']}?wait=100")["state"] == "done", "the copy is whole")
        copy = d.ok("GET", "/v1/vms/copy")
        require(contents(d, os.path.join(copy["directory"], copy["config"]["disks"][0]["path"])) == piece * 192, "with the same contents")


def test_manage_files_that_were_kept_stay(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/export", {"directory": d.directory})
        exported = os.path.join(d.directory, "web")
        kept = []
        for _ in range(4):
            kept.append(directory_of(d))
            d.done("DELETE", "/v1/vms/web?files=keep")
            d.done("POST", "/v1/vms/import", {"directory": exported, "mode": "restore"})
        require(len(set(kept)) == 4 and all(os.path.exists(os.path.join(k, "vm.json")) for k in kept), f"each has a place of its own: {kept}")


def test_manage_directories_of_an_import(context):
    """They go with the machine; a link in a directory that somebody else has made leads nowhere."""
    with Daemon(context["build"]) as d:
        d.make("web")
        config = d.ok("GET", "/v1/vms/web")["config"]
        source, victim = os.path.join(d.directory, "source"), os.path.join(d.directory, "victim")
        os.makedirs(os.path.join(source, "inner", "most"))
        for path in (victim, os.path.join(source, "inner", "most", "disk.img")):
            with open(path, "wb") as f:
                f.write(bytes(1 << 20))
        config.update(id=str(uuid.uuid4()), name="other", disks=[{"path": "inner/most/disk.img"}])
        config["adapters"][0]["mac"] = "02:00:00:00:00:01"  # no two machines have the same
        with open(os.path.join(source, "vm.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        d.done("POST", "/v1/vms/import", {"directory": source, "outside": True})
        require(os.path.exists(os.path.join(d.state, "machines/other/inner/most/disk.img")), "copied")
        d.done("DELETE", "/v1/vms/other")
        require(os.listdir(os.path.join(d.state, "machines")) == ["web"], "all goes with the machine")
        # A tree of checkpoints that leads out.
        os.symlink(d.directory, os.path.join(source, "up"))
        checkpoint = {"id": str(uuid.uuid4()), "name": "c", "created": 1, "parent": "", "config": config, "state": "up/victim"}
        leads_out = {"version": 1, "now": checkpoint["id"], "checkpoints": [checkpoint], "disks": [{"path": "up/victim", "parent": "up/nothing"}]}
        tree_file = os.path.join(source, "checkpoints.json")

        def write_tree():
            with open(tree_file, "w", encoding="utf-8") as f:
                json.dump(leads_out, f)
        write_tree()
        status, answer = d.call("POST", "/v1/vms/import?wait=100", {"directory": source, "mode": "register", "outside": True})
        require(answer["error"]["code"] == "invalid" and "up/victim" in answer["error"]["message"], f"it is refused: {status} {answer}")
        # Nor does it lead out of a machine that is there.
        os.unlink(tree_file)
        d.done("POST", "/v1/vms/import", {"directory": source, "mode": "register", "outside": True})
        write_tree()
        d.call("POST", "/v1/vms/other/checkpoints/c/apply?wait=100")
        d.done("DELETE", "/v1/vms/other/checkpoints/c")
        require(os.path.exists(victim) and os.stat(victim).st_nlink == 1, "it is not ours")
