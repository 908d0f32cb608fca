# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with checkpoints, exported and imported."""

import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import time

from daemon import Daemon, require, wait_for

SIZE = 8 << 20


def machine(d, name="web"):
    return d.ok("GET", f"/v1/vms/{name}")


def disk_paths(d, name="web"):
    vm = machine(d, name)
    return [os.path.join(vm["directory"], disk["path"]) for disk in vm["config"]["disks"]]


def written(d, path, text):
    """What a guest would write."""
    library = ctypes.CDLL(os.path.join(d.build, "disk/libbulkhead-disk.so"))
    disk = ctypes.c_void_p()
    require(library.disk_open(ctypes.byref(disk), path.encode(), None, None) == 0, f"{path} cannot be opened")
    require(library.disk_write(disk, ctypes.c_uint64(1 << 20), text.encode(), ctypes.c_size_t(len(text)), None) == 0, "written")
    require(library.disk_close(disk, None) == 0, "closed")


def contents(d, path):
    """Of the whole chain: a hash."""
    raw = os.path.join(d.directory, "contents.raw")
    d.cli("disk", "convert", path, raw, "--format", "raw", "--replace")
    with open(raw, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def hashes(d, name="web"):
    return [contents(d, path) for path in disk_paths(d, name)]


def make_disk(d, path, seed):
    with open(path + ".raw", "wb") as f:
        f.write(random.Random(seed).randbytes(SIZE))
    d.cli("disk", "convert", path + ".raw", path)
    os.unlink(path + ".raw")


def make_tree(d, form="vhdx", **more):
    """first - second, and third beside that; two disks, one of which lies elsewhere. Returns what each has."""
    d.make("web", **more)
    elsewhere = os.path.join(d.directory, f"elsewhere.{form}")
    make_disk(d, os.path.join(machine(d)["directory"], f"disk.{form}"), 1)
    make_disk(d, elsewhere, 2)
    d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": f"disk.{form}"}, {"path": elsewhere}]})
    has = {}

    def keep(name):
        for path in disk_paths(d):
            written(d, path, name)
        has[name] = hashes(d)
        d.done("POST", "/v1/vms/web/checkpoints", {"name": name})

    keep("first")
    keep("second")
    d.done("POST", "/v1/vms/web/checkpoints/first/apply")
    keep("third")
    for path in disk_paths(d):
        written(d, path, "now")
    has["now"] = hashes(d)
    return has


def check_tree(d, has, name="web"):
    """Each checkpoint is what it was, whatever is done with the others."""
    require(hashes(d, name) == has["now"], f"{name}: it is not what it was")
    for checkpoint in ("second", "first", "third"):
        d.done("POST", f"/v1/vms/{name}/checkpoints/{checkpoint}/apply")
        require(hashes(d, name) == has[checkpoint], f"{name}: {checkpoint} is not what it was")
        for path in disk_paths(d, name):
            written(d, path, "more")
    for checkpoint in ("first", "third", "second"):
        d.done("DELETE", f"/v1/vms/{name}/checkpoints/{checkpoint}")
    vm = machine(d, name)
    require(not os.path.exists(os.path.join(vm["directory"], "checkpoints.json")) or d.ok("GET", f"/v1/vms/{name}/checkpoints")["checkpoints"] == [],
            "all checkpoints are gone")


def exported_tree(d, out):
    os.mkdir(out)
    d.cli("vm", "export", "web", out)
    return os.path.join(out, "web")


def tree_in_all_modes(context, form):
    with Daemon(context["build"]) as d:
        has = make_tree(d, form)
        id_before = machine(d)["id"]
        exported = exported_tree(d, os.path.join(d.directory, "out"))
        require(os.listdir(os.path.join(d.directory, "out")) == ["web"], "only the machine is there")
        chain = [f for f in os.listdir(exported) if f.endswith(form)]
        require(len(chain) == 8, f"a chain of files, as it was: {sorted(chain)}")
        for name in chain:
            d.cli("disk", "check", os.path.join(exported, name))
        # Beside the original, as another.
        d.cli("vm", "import", exported, "--copy", "--name", "copy")
        copy = machine(d, "copy")
        require(copy["id"] != id_before, "another machine")
        with open(os.path.join(copy["directory"], "checkpoints.json"), encoding="utf-8") as f:
            require({c["config"]["id"] for c in json.load(f)["checkpoints"]} == {copy["id"]}, "its checkpoints are its own")
        tree = {c["name"]: c for c in d.ok("GET", "/v1/vms/copy/checkpoints")["checkpoints"]}
        require(tree["second"]["parent"] == tree["first"]["id"] == tree["third"]["parent"] and tree["third"]["now"], f"the same tree: {tree}")
        d.done("POST", "/v1/vms/copy/start")
        d.done("POST", "/v1/vms/copy/turn-off")
        # The original is what it was, and nothing that it does is seen in the others.
        check_tree(d, has)
        check_tree(d, has, "copy")
        # Nothing of the original is needed.
        for name in ("web", "copy"):
            d.done("DELETE", f"/v1/vms/{name}")
        os.unlink(os.path.join(d.directory, f"elsewhere.{form}"))
        d.cli("vm", "import", exported, "--restore")
        require(machine(d)["id"] == id_before, "it is the same")
        again = exported_tree(d, os.path.join(d.directory, "again"))
        check_tree(d, has)
        d.done("DELETE", "/v1/vms/web")
        # Where it is, wherever that has been taken.
        moved = os.path.join(d.directory, "moved")
        os.rename(again, moved)
        shutil.rmtree(exported)
        d.cli("vm", "import", moved, "--register")
        require(machine(d)["directory"] == moved and machine(d)["id"] == id_before, "where it is")
        check_tree(d, has)


def test_manage_export_of_a_tree(context):
    tree_in_all_modes(context, "vhdx")


def test_manage_export_of_a_tree_of_vhd(context):
    tree_in_all_modes(context, "vhd")


def ran_for(d, name="web"):
    """The guest's own clock, in seconds."""
    return d.ok("GET", f"/v1/vms/{name}/inspect")["reference_time_100ns"] / 1e7


def test_manage_export_of_checkpoints_that_ran(context):
    """Their saved states go along; the guest's addresses are those that it knows."""
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{"port": "none"}])
        make_disk(d, os.path.join(machine(d)["directory"], "disk.vhdx"), 1)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "off"})
        d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: ran_for(d) > 1, "a second")
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "ran"})
        before = ran_for(d)
        d.done("POST", "/v1/vms/web/turn-off")
        address = machine(d)["config"]["adapters"][0]["mac"]
        exported = exported_tree(d, os.path.join(d.directory, "out"))
        require(len([f for f in os.listdir(exported) if f.endswith(".state")]) == 1, f"a state: {os.listdir(exported)}")
        d.cli("vm", "import", exported, "--copy", "--name", "copy")
        own = machine(d, "copy")["config"]["adapters"][0]["mac"]
        require(own != address, "another address")
        d.done("POST", "/v1/vms/copy/checkpoints/off/apply")
        require(machine(d, "copy")["config"]["adapters"][0]["mac"] == own, "that of one that was off is the machine's own")
        d.refused(409, "exists", "POST", "/v1/vms/copy/checkpoints/ran/apply", None, "web")
        d.done("DELETE", "/v1/vms/web")
        d.done("POST", "/v1/vms/copy/checkpoints/ran/apply")
        require(d.state_of("copy") == "saved" and machine(d, "copy")["config"]["adapters"][0]["mac"] == address, "as its guest knows it")
        # Saved, with checkpoints.
        saved = os.path.join(d.directory, "saved")
        os.mkdir(saved)
        d.cli("vm", "export", "copy", saved)
        d.done("POST", "/v1/vms/copy/start")
        require(1 < ran_for(d, "copy") < before + 1, "it went on where it was")
        d.done("POST", "/v1/vms/copy/turn-off")
        d.done("DELETE", "/v1/vms/copy")
        d.cli("vm", "import", os.path.join(saved, "copy"), "--restore")
        require(d.state_of("copy") == "saved", "and it is saved there, too")
        d.done("POST", "/v1/vms/copy/start")
        require(1 < ran_for(d, "copy") < before + 1, "it went on where it was")


def test_manage_export_of_a_linked_clone_with_checkpoints(context):
    """What its disks continue is another machine's: the lowest is made whole, and what continues it is told."""
    with Daemon(context["build"]) as d:
        d.make("base")
        make_disk(d, os.path.join(machine(d, "base")["directory"], "disk.vhdx"), 1)
        d.ok("PATCH", "/v1/vms/base", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/base/checkpoints", {"name": "base"})
        d.cli("vm", "clone", "base", "web", "--checkpoint", "base", "--linked")
        has = {}
        for name in ("first", "second", "third"):
            written(d, disk_paths(d)[0], name)
            has[name] = hashes(d)
            d.done("POST", "/v1/vms/web/checkpoints", {"name": name})
        written(d, disk_paths(d)[0], "now")
        has["now"] = hashes(d)
        exported = exported_tree(d, os.path.join(d.directory, "out"))
        based = exported_tree_of(d, "base", os.path.join(d.directory, "based"))
        expected = hashes(d, "base")
        d.done("DELETE", "/v1/vms/web")
        d.done("DELETE", "/v1/vms/base")
        for directory in (exported, based):
            d.cli("vm", "import", directory)
        require(hashes(d, "base") == expected, "the base is exported with its own checkpoints")
        check_tree(d, has)


def exported_tree_of(d, name, out):
    os.mkdir(out)
    d.cli("vm", "export", name, out)
    return os.path.join(out, name)


def quiet(d):
    return all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=100")["jobs"])


def test_manage_killed_while_a_tree_is_copied(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        has = make_tree(d)
        exported = exported_tree(d, os.path.join(d.directory, "exported"))
        complete = sorted(os.listdir(exported))
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        ended = 0
        for i in range(16):
            verb, body = [("web/export", {"directory": out}), ("import", {"directory": exported, "name": "new"})][i % 2]
            d.ok("POST", f"/v1/vms/{verb}", body)
            time.sleep(rng.random() * 0.4)
            d.kill()
            d.start()
            wait_for(lambda: quiet(d), "jobs to end")
            vms = d.ok("GET", "/v1/vms")["vms"]
            require(all(vm["state"] == "off" for vm in vms), f"{vms}")
            require(set(os.listdir(os.path.join(d.state, "machines"))) == {os.path.basename(vm["directory"]) for vm in vms}, "half of a machine")
            require(set(os.listdir(out)) <= {"web"}, f"half of an export: {os.listdir(out)}")
            if os.listdir(out):
                ended += 1
                require(sorted(os.listdir(os.path.join(out, "web"))) == complete, "what is there is whole")
                shutil.rmtree(os.path.join(out, "web"))
            if any(vm["name"] == "new" for vm in vms):
                ended += 1
                if ended < 4:
                    check_tree(d, has, "new")
                d.done("DELETE", "/v1/vms/new")
        print(f"     {ended} of 16 came to their end")
        check_tree(d, has)


class Trap:
    """A directory that somebody else has made: a copy of an exported one, with something changed."""

    def __init__(self, d, exported):
        self.d = d
        self.path = os.path.join(d.directory, "trap")
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(exported, self.path)
        self.tree = self.load()

    def load(self):
        with open(os.path.join(self.path, "checkpoints.json"), encoding="utf-8") as f:
            return json.load(f)

    def save(self):
        with open(os.path.join(self.path, "checkpoints.json"), "w", encoding="utf-8") as f:
            json.dump(self.tree, f)

    def refused(self, word, modes=("copy", "restore", "register")):
        for mode in modes:
            status, answer = self.d.call("POST", "/v1/vms/import?wait=60", {"directory": self.path, "mode": mode, "name": "trap"})
            require(status >= 400 or answer["state"] == "failed", f"{word}, {mode}: {answer}")
            require(word in answer["error"]["message"] and "failed" != answer["error"]["code"], f"{word}, {mode}: {answer}")
            require(self.d.ok("GET", "/v1/vms")["vms"] == [], f"{word}, {mode}: a machine is left")
            require(os.listdir(os.path.join(self.d.state, "machines")) == [], f"{word}, {mode}: files are left")


def test_manage_import_of_a_tree_of_traps(context):
    with Daemon(context["build"]) as d:
        make_tree(d)
        exported = exported_tree(d, os.path.join(d.directory, "out"))
        d.done("DELETE", "/v1/vms/web")
        secret = os.path.join(d.directory, "secret.vhdx")
        make_disk(d, secret, 9)
        with open(secret, "rb") as f:
            kept = f.read()
        mode = os.stat(secret).st_mode

        def link(name):
            os.unlink(os.path.join(trap.path, name))
            os.symlink(secret, os.path.join(trap.path, name))

        # Names of other places.
        for name in (secret, "../secret.vhdx", "./disk.vhdx", "inner/disk.vhdx"):
            for key in ("path", "parent"):
                trap = Trap(d, exported)
                trap.tree["disks"][0][key] = name
                trap.save()
                trap.refused(name, ("copy", "restore") if key == "parent" else ("copy", "restore", "register"))
            trap = Trap(d, exported)
            trap.tree["checkpoints"][0]["state"] = name
            trap.save()
            trap.refused(name)
            trap = Trap(d, exported)
            trap.tree["checkpoints"][0]["config"]["disks"][0]["path"] = name
            trap.save()
            trap.refused(name, ("copy", "restore"))
        # A parent that lies elsewhere, of which the directory says nothing, or another than the one that is named.
        trap = Trap(d, exported)
        child = os.path.join(trap.path, "outside.vhdx")
        d.cli("disk", "create", child, "--parent", secret)
        for entry in trap.tree["disks"]:
            if entry["parent"] == "disk.vhdx":
                entry["parent"] = "outside.vhdx"
        trap.save()
        trap.refused("outside.vhdx")
        trap = Trap(d, exported)
        d.cli("disk", "create", os.path.join(trap.path, "outside.vhdx"), "--parent", secret)
        trap.tree["disks"].append({"path": "outside.vhdx", "parent": "disk.vhdx"})
        trap.save()
        trap.refused("outside.vhdx")
        # A ring, of disks and of checkpoints.
        trap = Trap(d, exported)
        top = next(x for x in trap.tree["disks"] if x["parent"] == "disk.vhdx")
        trap.tree["disks"].append({"path": "disk.vhdx", "parent": top["path"]})
        trap.save()
        trap.refused("ring")
        trap = Trap(d, exported)
        trap.tree["checkpoints"][0]["parent"] = trap.tree["checkpoints"][1]["id"]
        trap.tree["checkpoints"][1]["parent"] = trap.tree["checkpoints"][0]["id"]
        trap.save()
        trap.refused("ring")
        trap = Trap(d, exported)
        trap.tree["disks"].append(dict(top))
        trap.save()
        trap.refused("twice")
        # A file that is missing, a link, a pipe, other contents.
        for name in ("disk.vhdx", top["path"]):
            trap = Trap(d, exported)
            os.unlink(os.path.join(trap.path, name))
            trap.refused(name)
            os.mkfifo(os.path.join(trap.path, name))
            trap.refused(name, ("copy", "restore"))
        trap = Trap(d, exported)
        link(top["path"])
        trap.refused(top["path"])
        trap = Trap(d, exported)
        os.chmod(os.path.join(trap.path, "disk.vhdx"), 0o640)
        written(d, os.path.join(trap.path, "disk.vhdx"), "other")
        trap.refused("changed since")
        require(os.stat(secret).st_mode == mode, "nobody changed it")
        with open(secret, "rb") as f:
            require(f.read() == kept, "nobody wrote to it")
        # What is not broken is imported.
        trap = Trap(d, exported)
        d.done("POST", "/v1/vms/import", {"directory": trap.path, "name": "trap"})
        for name in os.listdir(trap.path):
            require(not name.endswith(".cbt"), name)
        require(subprocess.run(["diff", "-r", exported, trap.path], check=False).returncode == 0, "what was imported from is not changed")
        # A disk that is something else as well is looked at all the same.
        trap = Trap(d, exported)
        d.cli("disk", "create", os.path.join(trap.path, "outside.vhdx"), "--parent", secret)
        with open(os.path.join(trap.path, "vm.json"), encoding="utf-8") as f:
            config = json.load(f)
        config["boot"]["initrd"] = "outside.vhdx"
        config["disks"].append({"path": "outside.vhdx"})
        with open(os.path.join(trap.path, "vm.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        d.done("DELETE", "/v1/vms/trap")
        trap.refused("outside.vhdx")
        # What is refused is not written to, and what the machine would write is no checkpoint's.
        trap = Trap(d, exported)
        trap.tree["disks"].append(dict(trap.tree["disks"][0]))
        trap.save()
        with open(os.path.join(trap.path, "vm.json"), "rb") as f:
            kept = f.read()
        trap.refused("twice", ("register",))
        with open(os.path.join(trap.path, "vm.json"), "rb") as f:
            require(f.read() == kept, "its vm.json was changed")
        trap = Trap(d, exported)
        config = json.loads(kept)
        config["disks"][0]["path"] = "disk.vhdx"
        with open(os.path.join(trap.path, "vm.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        trap.refused("disk.vhdx is of a checkpoint")
        # Names that the daemon's own files have.
        for name in ("worker.lock/x", "checkpoints.json.new"):
            trap = Trap(d, exported)
            place = os.path.join(trap.path, name)
            if "/" in name:
                os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy(d.kernel, place)
            config = json.loads(kept)
            config["boot"]["kernel"] = name
            with open(os.path.join(trap.path, "vm.json"), "w", encoding="utf-8") as f:
                json.dump(config, f)
            d.done("POST", "/v1/vms/import", {"directory": trap.path, "name": "trap"})
            d.done("POST", "/v1/vms/trap/start")
            d.done("POST", "/v1/vms/trap/turn-off")
            d.done("DELETE", "/v1/vms/trap")
        # Links in the place of what it says of itself.
        for name in ("vm.json", "checkpoints.json"):
            trap = Trap(d, exported)
            os.unlink(os.path.join(trap.path, name))
            os.symlink("/etc/passwd", os.path.join(trap.path, name))
            trap.refused("is a link")


def test_manage_export_of_a_disk_that_came_later(context):
    """It lies in a directory of its own, and only a checkpoint has it any more."""
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = machine(d)["directory"]
        make_disk(d, os.path.join(directory, "disk.vhdx"), 1)
        os.mkdir(os.path.join(directory, "sub"))
        make_disk(d, os.path.join(directory, "sub", "disk2.vhdx"), 2)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
        d.done("POST", "/v1/vms/web/disks", {"path": "sub/disk2.vhdx"})
        had = hashes(d)
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "two"})
        d.done("POST", "/v1/vms/web/checkpoints/one/apply")
        exported = exported_tree(d, os.path.join(d.directory, "out"))
        d.done("DELETE", "/v1/vms/web")
        for mode in ("--copy", "--restore", "--register"):
            d.cli("vm", "import", exported, mode)
            d.done("POST", "/v1/vms/web/checkpoints/two/apply")
            require(hashes(d) == had, f"{mode}: it is not what it was")
            d.done("DELETE", "/v1/vms/web" + ("?files=keep" if mode == "--register" else ""))


def test_manage_import_of_what_runs(context):
    """Its disks are of no one moment."""
    with Daemon(context["build"]) as d, Daemon(context["build"]) as other:
        d.make("web")
        make_disk(d, os.path.join(machine(d)["directory"], "disk.vhdx"), 1)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/start")
        directory = machine(d)["directory"]
        for daemon, mode in ((d, "copy"), (other, "copy"), (other, "restore")):
            job = daemon.job("POST", "/v1/vms/import", {"directory": directory, "mode": mode, "name": "copy", "outside": True})
            require(job["state"] == "failed" and job["error"]["code"] == "busy" and "runs" in job["error"]["message"], f"{mode}: {job}")
        require(os.listdir(os.path.join(other.state, "machines")) == [], "nothing is left")
        d.done("POST", "/v1/vms/web/turn-off")
        other.done("POST", "/v1/vms/import", {"directory": directory, "name": "copy", "outside": True})
        d.done("POST", "/v1/vms/import", {"directory": directory, "name": "copy", "outside": True})
        require(d.state_of("web") == "off", "the original is what it was")


def test_manage_export_without_a_medium(context):
    """What only a checkpoint has, and is gone, is told with that checkpoint's name."""
    with Daemon(context["build"]) as d:
        d.make("web")
        make_disk(d, os.path.join(machine(d)["directory"], "disk.vhdx"), 1)
        medium = os.path.join(d.directory, "medium.iso")
        with open(medium, "wb") as f:
            f.write(bytes(1 << 20))
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}, {"path": medium, "kind": "dvd", "read_only": True}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "with medium"})
        d.done("DELETE", f"/v1/vms/web/disks?path={medium}")
        os.unlink(medium)
        job = d.job("POST", "/v1/vms/web/export", {"directory": d.directory})
        text = job["error"]["message"]
        require(job["state"] == "failed" and 'checkpoint "with medium"' in text and medium in text, f"{job}")
        d.done("DELETE", "/v1/vms/web/checkpoints/with%20medium")
        d.done("POST", "/v1/vms/web/export", {"directory": d.directory})


def idle(d):
    return all(j["state"] != "running" for j in d.ok("GET", "/v1/jobs?limit=20")["jobs"])


def test_manage_export_of_what_runs(context):
    """It runs on, and what was exported goes on from the moment of the export, with its checkpoints."""
    for form in ("vhdx", "vhd"):
        with Daemon(context["build"]) as d:
            d.make("web", adapters=[{"port": "none"}])
            make_disk(d, os.path.join(machine(d)["directory"], f"disk.{form}"), 1)
            d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": f"disk.{form}"}]})
            written(d, disk_paths(d)[0], "first")
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "first"})
            first = os.path.join(machine(d)["directory"], f"disk.{form}")
            first = contents(d, first)
            written(d, disk_paths(d)[0], "now  ")
            now = hashes(d)
            d.done("POST", "/v1/vms/web/start")
            wait_for(lambda: ran_for(d) > 0.5, "it to run")
            before = machine(d)
            files = sorted(os.listdir(before["directory"]))
            out = os.path.join(d.directory, "out")
            os.mkdir(out)
            require("is exported" in d.cli("vm", "export", "web", out), "it says so")
            exported_at = ran_for(d)
            wait_for(lambda: idle(d), "what was made for it to go")
            after = machine(d)
            require(after["state"] == "running" and after["config"] == before["config"], f"it is as it was: {after}")
            require(sorted(os.listdir(before["directory"])) == files, f"so are its files: {os.listdir(before['directory'])} {files}")
            require([c["name"] for c in d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]] == ["first"], "and its checkpoints")
            require("saved-state" in os.listdir(os.path.join(out, "web")) and os.listdir(out) == ["web"], "with its state")
            d.refused(409, "exists", "POST", "/v1/vms/web/export", {"directory": out})
            d.refused(404, "not-found", "POST", "/v1/vms/web/export", {"directory": "/nowhere"}, "/nowhere")
            wait_for(lambda: idle(d) and sorted(os.listdir(before["directory"])) == files, "nothing of it to be left")
            d.done("POST", "/v1/vms/web/turn-off")
            require(hashes(d) == now, "its disk is what it was")
            d.done("DELETE", "/v1/vms/web")
            d.cli("vm", "import", os.path.join(out, "web"), "--restore")
            require(d.state_of("web") == "saved" and hashes(d) == now, "saved, with the disk of then")
            require([c["name"] for c in d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]] == ["first"], "with its checkpoint")
            d.done("POST", "/v1/vms/web/start")
            require(0.5 < ran_for(d) < exported_at + 60, "its clock goes on from there")
            d.done("POST", "/v1/vms/web/turn-off")
            d.done("POST", "/v1/vms/web/checkpoints/first/apply")
            require(hashes(d) == [first], "the checkpoint is what it was")


def test_manage_export_of_what_runs_in_the_way(context):
    """It is cancelled, cannot be, or finds the machine at something else: nothing of it is left."""
    with Daemon(context["build"]) as d:
        d.make("web")
        path = os.path.join(machine(d)["directory"], "disk.vhdx")
        make_disk(d, path, 1)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/start")
        out, files = os.path.join(d.directory, "out"), sorted(os.listdir(machine(d)["directory"]))
        os.mkdir(out)

        def as_before():
            return idle(d) and [f for f in sorted(os.listdir(machine(d)["directory"])) if f != "checkpoints.json"] == files

        for _ in range(4):
            job = d.ok("POST", "/v1/vms/web/export", {"directory": out})["id"]
            # Also while what was made for it goes.
            while d.ok("GET", f"/v1/jobs/{job}")["state"] == "running":
                d.call("DELETE", f"/v1/jobs/{job}")
            state = d.ok("GET", f"/v1/jobs/{job}")["state"]
            require(state in ("cancelled", "done") and os.listdir(out) == (["web"] if state == "done" else []), f"{state}: {os.listdir(out)}")
            wait_for(as_before, "nothing of it to be left")
            shutil.rmtree(os.path.join(out, "web"), ignore_errors=True)
        # The machine ends in the middle of it.
        job = d.ok("POST", "/v1/vms/web/export", {"directory": out})["id"]
        os.kill(d.machine_process("web"), 9)
        state = d.ok("GET", f"/v1/jobs/{job}?wait=60")["state"]
        wait_for(lambda: idle(d) and d.state_of("web") == "off", "it to be off")
        wait_for(as_before, "nothing of it to be left", 130)
        require(os.listdir(out) == (["web"] if state == "done" else []), f"{state}: {os.listdir(out)}")
        shutil.rmtree(os.path.join(out, "web"), ignore_errors=True)
        # One that has none yet, and one whose disk cannot be split.
        raw = os.path.join(d.directory, "raw.img")
        with open(raw, "wb") as f:
            f.truncate(1 << 20)
        d.done("POST", "/v1/vms/web/disks", {"path": raw})
        d.done("POST", "/v1/vms/web/start")
        job = d.job("POST", "/v1/vms/web/export", {"directory": out})
        require(job["state"] == "failed" and "raw.img" in job["error"]["message"], f"{job}")
        wait_for(as_before, "nothing of it to be left")


def test_manage_killed_while_what_runs_is_exported(context):
    """What was made for the export goes when the daemon is back, and the machine never notices."""
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        d.make("web")
        make_disk(d, os.path.join(machine(d)["directory"], "disk.vhdx"), 1)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/start")
        directory, out = machine(d)["directory"], os.path.join(d.directory, "out")
        wait_for(lambda: ran_for(d) > 0, "it to run")
        files, pid = sorted(os.listdir(directory)), machine(d)["pid"]
        os.mkdir(out)
        for i in range(10):
            d.ok("POST", "/v1/vms/web/export", {"directory": out})
            time.sleep(rng.random() * 0.4)
            d.kill()
            d.start()
            wait_for(lambda: idle(d) and [f for f in sorted(os.listdir(directory)) if f != "checkpoints.json"] == files,
                     f"round {i}: nothing of it to be left", 130)
            require(machine(d)["pid"] == pid and d.state_of("web") == "running", "it runs on")
            require(set(os.listdir(out)) <= {"web"}, f"half of an export: {os.listdir(out)}")
            shutil.rmtree(os.path.join(out, "web"), ignore_errors=True)


def test_manage_export_of_what_runs_again(context):
    """What the export before has left, because a linked clone keeps it, is not what is exported."""
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[])
        make_disk(d, os.path.join(machine(d)["directory"], "disk.vhdx"), 1)
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "base"})
        d.cli("vm", "clone", "web", "linked", "--checkpoint", "base", "--linked")
        d.done("POST", "/v1/vms/web/start")
        at = 0
        for name in ("first", "second"):
            wait_for(lambda: ran_for(d) > at + 2, "two seconds")
            at = ran_for(d)
            os.mkdir(os.path.join(d.directory, name))
            d.done("POST", "/v1/vms/web/export", {"directory": os.path.join(d.directory, name)})
        require(len(d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]) == 3, "what was made for them stays")
        d.done("DELETE", "/v1/vms/linked")
        wait_for(lambda: [c["name"] for c in d.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]] == ["base"] and idle(d), "both to go with the clone")
        require(len([f for f in os.listdir(machine(d)["directory"]) if f.endswith(".vhdx")]) == 2, "and their disks")
        d.done("POST", "/v1/vms/web/turn-off")
        d.cli("vm", "import", os.path.join(d.directory, "second", "web"), "--copy", "--name", "copy")
        d.done("POST", "/v1/vms/copy/start")
        require(ran_for(d, "copy") > at, f"it goes on from {ran_for(d, 'copy')}, and was exported behind {at}")
        d.done("POST", "/v1/vms/copy/turn-off")
