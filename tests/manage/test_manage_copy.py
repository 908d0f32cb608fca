# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines made of others: cloned, exported, imported."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import time
import uuid

import test_manage_checkpoint as checkpointed
from daemon import Daemon, halting_kernel, require, wait_for


def fill(path, seed, megabytes=4):
    """A raw disk with bytes that tell where they come from."""
    with open(path, "wb") as f:
        rng = random.Random(seed)
        for _ in range(megabytes):
            f.write(rng.randbytes(1 << 20))


def disk(d, path, seed, megabytes=4):
    """The same as a VHDX."""
    fill(path + ".raw", seed, megabytes)
    d.cli("disk", "convert", path + ".raw", path, "--format", "vhdx")
    os.unlink(path + ".raw")


def contents(d, path):
    raw = os.path.join(d.directory, "contents.raw")
    d.cli("disk", "convert", path, raw, "--format", "raw", "--replace")
    with open(raw, "rb") as f:
        return f.read()


def directory_of(d, vm):
    return d.ok("GET", f"/v1/vms/{vm}")["directory"]


def disks_of(d, vm):
    vm = d.ok("GET", f"/v1/vms/{vm}")
    return [os.path.join(vm["directory"], disk["path"]) for disk in vm["config"]["disks"]]


def make_web(d):
    """With a disk and a kernel of its own, and a disk and a DVD that lie elsewhere."""
    d.make("web", notes="n", tags=["t"], processors={"kind": "soft", "count": 2})
    directory = directory_of(d, "web")
    disk(d, os.path.join(directory, "disk.vhdx"), 1)
    fill(os.path.join(d.directory, "elsewhere.img"), 2)
    fill(os.path.join(d.directory, "elsewhere.iso"), 3)
    halting_kernel(os.path.join(directory, "vmlinuz"))
    d.ok("PATCH", "/v1/vms/web", {"boot": {"kernel": "vmlinuz"}, "disks": [
        {"path": "disk.vhdx"}, {"path": os.path.join(d.directory, "elsewhere.img")},
        {"path": os.path.join(d.directory, "elsewhere.iso"), "kind": "dvd", "read_only": True}]})


def test_manage_clone(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        d.cli("vm", "clone", "web", "copy")
        web, copy = (d.ok("GET", f"/v1/vms/{n}") for n in ("web", "copy"))
        require(web["id"] != copy["id"] and copy["config"]["notes"] == "n" and copy["config"]["processors"]["count"] == 2, "like the other")
        require([x["path"] for x in copy["config"]["disks"]] == ["disk.vhdx", "elsewhere.img", os.path.join(d.directory, "elsewhere.iso")],
                f"its disks: {copy['config']['disks']}")
        for a, b in list(zip(disks_of(d, "web"), disks_of(d, "copy")))[:2]:
            require(a != b and contents(d, a) == contents(d, b), f"{b} is a copy")
        for name in ("web", "copy"):
            d.done("POST", f"/v1/vms/{name}/start")
        job = d.job("POST", "/v1/vms/web/clone", {"name": "more"})
        require(job["state"] == "failed" and "no VHDX or VHD" in job["error"]["message"], f"there is no checkpoint of a raw disk: {job}")
        require(sorted(v["name"] for v in d.ok("GET", "/v1/vms")["vms"]) == ["copy", "web"], "nothing is left of it")
        d.done("POST", "/v1/vms/web/turn-off")
        d.refused(409, "exists", "POST", "/v1/vms/web/clone", {"name": "copy"})
        d.refused(400, "invalid", "POST", "/v1/vms/web/clone", {"name": "a/b"})
        os.unlink(disks_of(d, "web")[0])
        job = d.job("POST", "/v1/vms/web/clone", {"name": "more"})
        require(job["state"] == "failed" and "disk.vhdx" in job["error"]["message"], f"a disk is missing: {job}")
        require(sorted(v["name"] for v in d.ok("GET", "/v1/vms")["vms"]) == ["copy", "web"], "nothing is left of it")


def test_manage_clone_of_what_runs(context):
    """With its disks as they are, by a checkpoint that is gone when the clone is there."""
    with Daemon(context["build"]) as d:
        checkpointed.make_web(d, adapters=[{"port": "none"}])
        checkpointed.write(d, "begin")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "mine"})
        before = d.ok("GET", "/v1/vms/web")
        for name, state in (("one", "running"), ("two", "paused")):
            d.cli("vm", "clone", "web", name)
            web, clone = d.ok("GET", "/v1/vms/web"), d.ok("GET", f"/v1/vms/{name}")
            require(web["state"] == state and web["pid"] == before["pid"], f"it runs on: {web}")
            require(list(checkpointed.tree(d)) == ["mine"] and web["config"]["disks"] == before["config"]["disks"], "and is what it was")
            require(clone["state"] == "off" and clone["id"] != web["id"] and not d.ok("GET", f"/v1/vms/{name}/checkpoints")["checkpoints"], f"{clone}")
            require(clone["config"]["adapters"][0]["mac"] != web["config"]["adapters"][0]["mac"], "with an address of its own")
            path = os.path.join(clone["directory"], clone["config"]["disks"][0]["path"])
            require(checkpointed.contents(d, path)[1 << 20:].startswith(b"begin"), "with what it had")
            d.done("POST", f"/v1/vms/{name}/start")
            d.done("POST", f"/v1/vms/{name}/turn-off")
            if name == "one":
                d.done("POST", "/v1/vms/web/pause")
        d.refused(409, "exists", "POST", "/v1/vms/web/clone", {"name": "one"})
        # A daemon that dies meanwhile leaves nothing of either.
        d.ok("POST", "/v1/vms/web/clone", {"name": "three"})
        d.kill()
        d.start()
        wait_for(lambda: checkpointed.idle(d) and list(checkpointed.tree(d)) == ["mine"], "its checkpoint to go")
        require("three" not in {v["name"] for v in d.ok("GET", "/v1/vms")["vms"]} or d.state_of("three") == "off", "it is there or not")
        d.done("POST", "/v1/vms/web/turn-off")


def test_manage_export_and_import(context):
    with Daemon(context["build"]) as d:
        make_web(d)
        before = [contents(d, path) for path in disks_of(d, "web")[:2]]
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        d.cli("vm", "export", "web", out)
        exported = os.path.join(out, "web")
        require(os.listdir(out) == ["web"], f"only the machine is there: {os.listdir(out)}")
        require(sorted(os.listdir(exported)) == ["disk.vhdx", "elsewhere.img", "elsewhere.iso", "vm.json", "vmlinuz"],
                f"all of it: {os.listdir(exported)}")
        d.refused(409, "exists", "POST", "/v1/vms/web/export", {"directory": out}, "already")
        d.refused(400, "invalid", "POST", "/v1/vms/web/export", {"directory": "out"}, "from the root on")
        d.refused(404, "not-found", "POST", "/v1/vms/web/export", {"directory": "/nowhere"}, "/nowhere")
        # A new one beside it.
        d.refused(409, "exists", "POST", "/v1/vms/import", {"directory": exported}, "already")
        require("second is imported" in d.cli("vm", "import", exported, "--name", "second"), "it says what")
        d.refused(409, "exists", "POST", "/v1/vms/import", {"directory": exported, "mode": "restore", "name": "third"}, "id of its own")
        # The same one, in place of what was lost.
        id_before = d.ok("GET", "/v1/vms/web")["id"]
        d.done("DELETE", "/v1/vms/web")
        d.cli("vm", "import", exported, "--restore")
        require(d.ok("GET", "/v1/vms/web")["id"] == id_before, "it is the same")
        for name in ("web", "second"):
            require([contents(d, path) for path in disks_of(d, name)[:2]] == before, f"{name} has what was exported")
            require(all(path.startswith(directory_of(d, name)) for path in disks_of(d, name)), "in a directory of its own")
            d.done("POST", f"/v1/vms/{name}/start")
            d.done("POST", f"/v1/vms/{name}/turn-off")
        d.done("DELETE", "/v1/vms/web")
        # And where it is.
        d.cli("vm", "import", exported, "--register", "--name", "here")
        require(directory_of(d, "here") == exported and d.ok("GET", "/v1/vms/here")["id"] == id_before, "where it is")
        with open(os.path.join(exported, "vm.json"), encoding="utf-8") as f:
            require(json.load(f)["name"] == "here", "by its new name")


def test_manage_import_of_traps(context):
    """A directory that somebody else has made leads nowhere else."""
    with Daemon(context["build"]) as d:
        d.make("web")
        config = d.ok("GET", "/v1/vms/web")["config"]
        secret = os.path.join(d.directory, "secret")
        fill(secret, 1, 1)
        source = os.path.join(d.directory, "source")
        os.makedirs(os.path.join(source, "inner"))
        os.symlink(secret, os.path.join(source, "link"))
        os.symlink(d.directory, os.path.join(source, "up"))
        os.mkfifo(os.path.join(source, "pipe"))
        for trap in ("link", "up/secret", "pipe", "inner", "missing"):
            with open(os.path.join(source, "vm.json"), "w", encoding="utf-8") as f:
                json.dump(dict(config, disks=[{"path": trap}]), f)
            job = d.job("POST", "/v1/vms/import", {"directory": source, "name": "trap", "outside": True})
            require(job["state"] == "failed" and trap in job["error"]["message"], f"{trap}: {job}")
        with open(os.path.join(source, "vm.json"), "w", encoding="utf-8") as f:
            json.dump(dict(config, disks=[{"path": "../secret"}]), f)
        # What it names elsewhere it gets only if that is asked for, and the error says what that is.
        for mode in ("copy", "restore", "register"):
            status, answer = d.call("POST", "/v1/vms/import?wait=60", {"directory": source, "name": "trap", "mode": mode})
            text = answer["error"]["message"]
            require(answer["error"]["code"] == "invalid" and "../secret" in text and d.kernel in text and "outside" in text, f"{mode}: {status} {answer}")
        require("../secret" in d.cli("vm", "import", source, "--name", "trap", status=1), "the command line says the same")
        require(os.listdir(os.path.join(d.state, "machines")) == ["web"], "nothing came of it")
        d.cli("vm", "import", source, "--name", "trap", "--outside")
        require(d.ok("GET", "/v1/vms/trap")["config"]["disks"][0]["path"].endswith("/source/../secret"), "what lies elsewhere is not copied")
        require(sorted(os.listdir(os.path.join(d.state, "machines"))) == ["trap", "web"], "nothing else is left")
        # All are named, once, as far as there is room.
        with open(os.path.join(source, "vm.json"), "w", encoding="utf-8") as f:
            json.dump(dict(config, disks=[{"path": f"/nowhere/{i}/" + 40 * "x"} for i in range(30)]), f)
        d.refused(400, "invalid", "POST", "/v1/vms/import", {"directory": source, "name": "more"}, " more; if")


def test_manage_import_registers_what_lies_there(context):
    """Neither a link nor what a disk says itself that it continues leads out of the directory, unless that is asked for."""
    with Daemon(context["build"]) as d:
        d.make("web")
        config = d.ok("GET", "/v1/vms/web")["config"]
        d.done("DELETE", "/v1/vms/web")
        source, elsewhere = os.path.join(d.directory, "source"), os.path.join(d.directory, "source-elsewhere")
        for path in (os.path.join(source, "inner"), elsewhere):
            os.makedirs(path)
        fill(os.path.join(elsewhere, "disk.raw"), 1, 1)
        shutil.copy(d.kernel, os.path.join(elsewhere, "kernel"))
        shutil.copy(d.kernel, os.path.join(source, "kernel"))
        for name in ("disk.raw", "kernel"):
            os.symlink(os.path.join(elsewhere, name), os.path.join(source, "link-" + name))
        os.symlink(elsewhere, os.path.join(source, "up"))
        disk(d, os.path.join(elsewhere, "base.vhdx"), 1)
        disk(d, os.path.join(source, "inner", "base.vhdx"), 1)
        d.cli("disk", "create", os.path.join(elsewhere, "middle.vhdx"), "--parent", os.path.join(source, "inner", "base.vhdx"))
        for name, parent in (("leads-out.vhdx", os.path.join(elsewhere, "base.vhdx")), ("and-back.vhdx", os.path.join(elsewhere, "middle.vhdx")),
                             ("stays.vhdx", os.path.join(source, "inner", "base.vhdx"))):
            d.cli("disk", "create", os.path.join(source, name), "--parent", parent)
        checkpoint = {"id": str(uuid.uuid4()), "name": "c", "created": 1, "parent": ""}

        def of(disks=(), **boot):
            return dict(config, name="trap", disks=list(disks), adapters=[], boot=dict(config["boot"], **{"kernel": "kernel", **boot}))

        def write(now, before=None):
            for name, content in (("vm.json", now), ("checkpoints.json", before and {
                    "version": 1, "now": checkpoint["id"], "checkpoints": [dict(checkpoint, config=before)], "disks": []})):
                path = os.path.join(source, name)
                if os.path.exists(path):
                    os.unlink(path)
                if content:
                    with open(path, "w", encoding="utf-8") as f:
                        json.dump(content, f)

        def asked(**more):
            return d.job("POST", "/v1/vms/import", {"directory": source, "mode": "register", **more})

        stays = [{"path": "stays.vhdx"}, {"path": "gone.iso", "kind": "dvd", "read_only": True}]
        for word, traps in (("link-disk.raw", of([{"path": "link-disk.raw"}])), ("up/disk.raw", of([{"path": "up/disk.raw"}])),
                            ("link-disk.raw", of([{"path": "link-disk.raw", "kind": "dvd", "read_only": True}])),
                            ("link-kernel", of(kernel="link-kernel")), ("link-disk.raw", of(initrd="link-disk.raw")),
                            ("base.vhdx", of([{"path": "leads-out.vhdx"}])), ("base.vhdx", of([{"path": "leads-out.vhdx", "read_only": True}])),
                            ("middle.vhdx", of([{"path": "and-back.vhdx"}]))):
            # Of the machine of now, and of a checkpoint.
            for now, before in ((traps, None), (of(stays), traps)):
                write(now, before)
                job = asked()
                require(job["state"] == "failed" and job["error"]["code"] == "invalid", f"{word}: {job}")
                require(word in job["error"]["message"] and "outside" in job["error"]["message"], f"{word}: {job}")
                require(d.ok("GET", "/v1/vms")["vms"] == [], f"{word}: it is taken in")
            write(traps)
            require(asked(outside=True)["state"] == "done", f"{word}: it may have what is elsewhere")
            d.done("DELETE", "/v1/vms/trap?files=keep")
        # Of what is in use it cannot be told, whoever has it open.
        write(of(stays))
        holder = os.open(os.path.join(source, "stays.vhdx"), os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        job = asked()
        require(job["state"] == "failed" and job["error"]["code"] == "busy" and "outside" in job["error"]["message"], f"in use: {job}")
        require(asked(outside=True)["state"] == "done", "in use, and told")
        d.done("DELETE", "/v1/vms/trap?files=keep")
        os.close(holder)
        require(asked()["state"] == "done", "what lies there is taken in, also without its medium")
        d.ok("PATCH", "/v1/vms/trap", {"disks": stays[:1]})
        d.done("POST", "/v1/vms/trap/start")
        d.done("POST", "/v1/vms/trap/turn-off")


def test_manage_register_looks_at_chains(context):
    """A disk that continues one which is missing, or has changed, is told when its machine is taken in."""
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = directory_of(d, "web")
        base = os.path.join(d.directory, "base.vhdx")
        disk(d, base, 1)
        d.cli("disk", "create", os.path.join(directory, "child.vhdx"), "--parent", base)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "child.vhdx"}, {"path": "gone.iso", "kind": "dvd", "read_only": True}]})
        d.done("DELETE", "/v1/vms/web?files=keep")
        away = base + ".away"
        os.rename(base, away)

        def told(code, text):
            d.refused({"not-found": 404, "conflict": 412}[code], code, "POST", "/v1/vms/register", {"directory": directory}, text)
            job = d.job("POST", "/v1/vms/import", {"directory": directory, "mode": "register", "outside": True})
            require(job["state"] == "failed" and job["error"]["code"] == code and text in job["error"]["message"], f"{job}")
            require(d.ok("GET", "/v1/vms")["vms"] == [], "it is not taken in")

        told("not-found", "base.vhdx")
        disk(d, base, 2)
        told("conflict", "base.vhdx")
        os.rename(away, base)
        d.cli("vm", "register", directory)
        require(d.state_of("web") == "off", "what is right is taken in, also without its medium")
        # A worker that has them is no reason to refuse.
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "child.vhdx"}]})
        d.done("POST", "/v1/vms/web/start")
        d.kill()
        os.unlink(os.path.join(d.state, "host.db"))
        for name in ("host.db-wal", "host.db-shm"):
            if os.path.exists(os.path.join(d.state, name)):
                os.unlink(os.path.join(d.state, name))
        d.start()
        d.ok("POST", "/v1/vms/register", {"directory": directory})
        require(d.state_of("web") == "running", "it runs on")


def whole(d):
    """No file and no machine is half made."""
    vms = d.ok("GET", "/v1/vms?limit=1000")["vms"]
    for vm in vms:
        require(vm["state"] == "off", f"{vm['name']} is {vm['state']}: {vm.get('problem')}")
    known = {os.path.basename(vm["directory"]) for vm in vms}
    require(set(os.listdir(os.path.join(d.state, "machines"))) == known, f"directories: {os.listdir(os.path.join(d.state, 'machines'))}")
    return vms


def quiet(d):
    return all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=100")["jobs"])


def test_manage_killed_while_copying(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = directory_of(d, "web")
        for i in range(3):
            disk(d, os.path.join(directory, f"{i}.vhdx"), i, 32)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": f"{i}.vhdx"} for i in range(3)]})
        expected = [contents(d, path) for path in disks_of(d, "web")]
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        d.done("POST", "/v1/vms/web/export", {"directory": out})
        os.rename(os.path.join(out, "web"), os.path.join(d.directory, "exported"))
        ended = 0
        for i in range(12):
            verb, body = [("web/clone", {"name": "new"}), ("web/export", {"directory": out}),
                          ("import", {"directory": os.path.join(d.directory, "exported"), "name": "new"})][i % 3]
            d.ok("POST", f"/v1/vms/{verb}", body)
            time.sleep(rng.random() * 0.6)
            d.kill()
            d.start()
            wait_for(lambda: quiet(d), "jobs to end")
            names = [vm["name"] for vm in whole(d)]
            if "new" in names:
                ended += 1
                require([contents(d, path) for path in disks_of(d, "new")] == expected, "what is there is whole")
                d.done("DELETE", "/v1/vms/new")
            require(set(os.listdir(out)) <= {"web"}, f"half of an export: {os.listdir(out)}")
            if os.listdir(out):
                ended += 1
                require(len(os.listdir(os.path.join(out, "web"))) == 5, "an export that is there is whole")
                subprocess.run(["rm", "-r", os.path.join(out, "web")], check=True)
        print(f"     {ended} of 12 came to their end")


def test_manage_copies_are_cancelled(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = directory_of(d, "web")
        disk(d, os.path.join(directory, "big.vhdx"), 1, 256)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "big.vhdx"}]})
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        for verb, body in (("web/clone", {"name": "new"}), ("web/export", {"directory": out})):
            job = d.ok("POST", f"/v1/vms/{verb}", body)["id"]
            d.refused(409, "busy", "POST", "/v1/vms/web/start")
            d.refused(409, "busy", "DELETE", "/v1/vms/web")
            d.call("DELETE", f"/v1/jobs/{job}")
            job = d.ok("GET", f"/v1/jobs/{job}?wait=60")
            require(job["state"] == "cancelled", f"{verb}: {job}")
            require([vm["name"] for vm in whole(d)] == ["web"] and os.listdir(out) == [], "nothing is left")
