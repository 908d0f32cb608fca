# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that are saved and go on later."""

import ctypes
import json
import os
import random
import signal
import struct
import subprocess
import time

from daemon import Daemon, require, wait_for


def files(d, vm="web"):
    return sorted(f for f in os.listdir(d.ok("GET", f"/v1/vms/{vm}")["directory"]) if f.startswith("saved"))


def ran_for(d, vm="web"):
    """The guest's own clock, in seconds."""
    return d.ok("GET", f"/v1/vms/{vm}/inspect")["reference_time_100ns"] / 1e7


def test_manage_save_and_restore(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.refused(409, "wrong-state", "POST", "/v1/vms/web/save")
        d.refused(409, "wrong-state", "DELETE", "/v1/vms/web/saved-state")
        d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: ran_for(d) > 1, "a second")
        d.cli("vm", "save", "web")
        require(d.state_of("web") == "saved" and files(d) == ["saved-disks.json", "saved-state"] and not d.workers(), "it is saved")
        d.refused(409, "wrong-state", "PATCH", "/v1/vms/web", {"memory": 128 << 20}, "off")
        d.ok("PATCH", "/v1/vms/web", {"notes": "at any time"})
        d.kill()
        d.start()
        require(d.state_of("web") == "saved", "another daemon knows it, too")
        before = time.monotonic()
        d.cli("vm", "restore", "web")
        require(d.state_of("web") == "running" and files(d) == [], "it runs; the file is gone")
        require(1 < ran_for(d) < 2 + time.monotonic() - before, "it went on where it was")
        require("not saved" in d.cli("vm", "restore", "web", status=1), "a running one is not restored")
        # One that is paused, and one whose state is discarded.
        d.done("POST", "/v1/vms/web/pause")
        d.done("POST", "/v1/vms/web/save")
        d.cli("vm", "discard", "web")
        require(d.state_of("web") == "off" and files(d) == [], "discarded")
        d.done("POST", "/v1/vms/web/start")
        require(ran_for(d) < 1, "it started anew")
        d.done("POST", "/v1/vms/web/save")
        require("saved-state" in d.ok("GET", "/v1/vms/web/files")["files"], "it is told what would be deleted")
        d.done("DELETE", "/v1/vms/web")
        require(os.listdir(os.path.join(d.state, "machines")) == [], "nothing is left")


def test_manage_saved_state_that_does_not_fit(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/save")
        path = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "saved-state")
        with open(path, "r+b") as f:
            f.seek(8192)
            f.write(b"garbage" * 100)
        for _ in range(2):
            job = d.job("POST", "/v1/vms/web/start")
            require(job["state"] == "failed", f"it started from garbage: {job}")
            require(d.state_of("web") == "saved" and "saved-state" in files(d), "nothing is lost by trying")


def test_manage_saved_with_the_host(context):
    with Daemon(context["build"]) as d:
        d.make("web", automatic={"stop": "save"})
        d.done("POST", "/v1/vms/web/start")
        d.cli("host", "stop-machines")
        require(d.state_of("web") == "saved", "it is saved")
        d.kill()
        d.start()
        wait_for(lambda: d.state_of("web") == "running", "it to go on with the host")
        require(files(d) == [], "from its file")


def test_manage_killed_while_saving(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    seen = set()
    with Daemon(context["build"]) as d:
        d.make("web", memory=256 << 20)
        d.done("POST", "/v1/vms/web/start")
        for i in range(100):
            if i >= 20 and len(seen) >= 3:
                break
            verb = "save" if d.state_of("web") == "running" else "start"
            d.call("POST", f"/v1/vms/web/{verb}")  # one that another daemon began may just have ended
            time.sleep(rng.random() * 0.15)
            d.kill()
            d.start()
            wait_for(lambda: d.state_of("web") in ("running", "saved") and (d.state_of("web") == "running") == bool(d.workers()),
                     f"round {i} ({verb}): it to be one or the other, and not {d.state_of('web')}", 20)
            state = d.state_of("web")
            require([f for f in files(d) if f != "saved-disks.json"] == (["saved-state"] if state == "saved" else []) or state == "running", f"{state} with {files(d)}")
            seen.add((verb, state))
            failed = [e["text"] for e in d.ok("GET", "/v1/events?limit=1000")["events"] if "lost" in e["text"] or "anew" in e["text"]]
            require(not failed, f"round {i} ({verb}): {failed}")
        require(len(seen) >= 3, f"what was seen: {seen}")

        def nothing_left():
            # The worker may only now come to read what a daemon that is dead asked for last.
            if d.state_of("web") == "saved":
                d.call("POST", "/v1/vms/web/start?wait=60")
            return files(d) == []

        wait_for(nothing_left, f"nothing to be left of {files(d)}")
        require(d.state_of("web") == "running", f"it runs, and is not {d.state_of('web')}")


def test_manage_save_that_a_dead_daemon_asked_for(context):
    """The worker reads it when nobody waits for it any more: it is not done, and what the next daemon has told stays so."""
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        vm, worker = d.ok("GET", "/v1/vms/web"), d.machine_process("web")
        os.kill(worker, signal.SIGSTOP)
        d.ok("POST", "/v1/vms/web/save")
        wait_for(lambda: d.asked("web"), "the worker to be asked")
        d.ok("GET", "/v1/vms/web")
        d.kill()
        d.start()
        os.kill(worker, signal.SIGCONT)
        d.ok("GET", "/v1/vms/web/inspect")
        require(d.state_of("web") == "running" and d.ok("GET", "/v1/vms/web")["pid"] == vm["pid"], "it runs")
        wait_for(lambda: files(d) == [], "the file that it was given to be gone")
        d.done("POST", "/v1/vms/web/save")
        require(d.state_of("web") == "saved", "then it is saved")
        d.done("POST", "/v1/vms/web/start")


def test_manage_save_where_there_is_no_room(context):
    with Daemon(context["build"]) as d:
        place = os.path.join(d.directory, "small")
        os.mkdir(place)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True, check=False).returncode:
            raise context["skip"]("a small file system cannot be mounted here")
        try:
            d.make("web")
            directory = os.path.join(place, "web")
            subprocess.run(["cp", "-r", d.ok("GET", "/v1/vms/web")["directory"], directory], check=True)
            d.done("DELETE", "/v1/vms/web")
            d.ok("POST", "/v1/vms/register", {"directory": directory})
            d.done("POST", "/v1/vms/web/start")
            with open(os.path.join(directory, "filling"), "wb") as f:
                try:
                    f.write(bytes(1 << 20))
                    f.flush()
                except OSError:
                    pass
            job = d.job("POST", "/v1/vms/web/save")
            require(job["state"] == "failed" and job["error"]["code"] == "no-space", f"no room: {job}")
            require(d.state_of("web") == "running" and files(d) == [], f"it goes on, and nothing is left: {files(d)}")
            os.unlink(os.path.join(directory, "filling"))
            d.done("POST", "/v1/vms/web/save")
            d.done("POST", "/v1/vms/web/start")
            d.done("POST", "/v1/vms/web/turn-off")
        finally:
            subprocess.run(["umount", "-l", place], check=True)


SIZE = 4 << 20


def disk_path(d, vm="web"):
    vm = d.ok("GET", f"/v1/vms/{vm}")
    return os.path.join(vm["directory"], vm["config"]["disks"][0]["path"])


def with_disk(d, name):
    d.make("web")
    raw = os.path.join(d.directory, "raw")
    with open(raw, "wb") as f:
        f.write(random.Random(1).randbytes(SIZE))
    path = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], name)
    d.cli("disk", "convert", raw, path)
    d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": name}]})


def change(path):
    """As another program does."""
    form = {"vhdx": "vhdx", "vhd": "vpc"}.get(path.rsplit(".", 1)[1], "raw")
    subprocess.run(["qemu-io", "-f", form, "-c", "write -P 7 1M 64k", path], check=True, capture_output=True)


def written(d, path):
    """The same by our own library, which knows chains."""
    library = ctypes.CDLL(os.path.join(d.build, "disk/libbulkhead-disk.so"))
    disk = ctypes.c_void_p()
    require(library.disk_open(ctypes.byref(disk), path.encode(), None, None) == 0, f"{path} cannot be opened")
    require(library.disk_write(disk, ctypes.c_uint64(1 << 20), b"other", ctypes.c_size_t(5), None) == 0, "written")
    require(library.disk_close(disk, None) == 0, "closed")


def saved(d):
    d.done("POST", "/v1/vms/web/start")
    wait_for(lambda: ran_for(d) > 0.1, "it to run")
    d.done("POST", "/v1/vms/web/save")


def test_manage_saved_and_a_disk_changed(context):
    for name in ("disk.vhdx", "disk.vhd", "disk.img"):
        with Daemon(context["build"]) as d:
            with_disk(d, name)
            saved(d)
            require(files(d) == ["saved-disks.json", "saved-state"], f"{files(d)}")
            require("saved-disks.json" in d.ok("GET", "/v1/vms/web/files")["files"], "it is told what would be deleted")
            # Looking at it changes nothing, nor does another daemon.
            d.cli("disk", "convert", disk_path(d), os.path.join(d.directory, "copy.raw"))
            d.kill()
            d.start()
            d.done("POST", "/v1/vms/web/start")
            require(files(d) == [], "it went on")
            d.done("POST", "/v1/vms/web/save")
            change(disk_path(d))
            for _ in range(2):
                d.refused(409, "wrong-state", "POST", "/v1/vms/web/start", None, f"{name} was changed since by another program")
                require("vm discard" in d.cli("vm", "restore", "web", status=1), "it says what to do")
            require(d.state_of("web") == "saved" and "saved-state" in files(d), "nothing is lost by trying")
            # What was noted by no version before this one is not compared.
            d.cli("vm", "discard", "web")
            require(files(d) == [], "discarded")
            saved(d)
            os.unlink(os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "saved-disks.json"))
            change(disk_path(d))
            d.done("POST", "/v1/vms/web/start")


def test_manage_saved_copies_know_their_disks(context):
    """What is exported and imported fits as long as nobody changes it, wherever it lies."""
    for name in ("disk.vhdx", "disk.vhd", "disk.img"):
        with Daemon(context["build"]) as d:
            with_disk(d, name)
            if name != "disk.img":
                d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
                d.done("POST", "/v1/vms/web/checkpoints", {"name": "two"})
            saved(d)
            out = os.path.join(d.directory, "out")
            os.mkdir(out)
            d.cli("vm", "export", "web", out)
            exported = os.path.join(out, "web")
            require({"saved-state", "saved-disks.json"} <= set(os.listdir(exported)), f"{os.listdir(exported)}")
            if name != "disk.img":
                # Our own merges are no other program's.
                d.done("DELETE", "/v1/vms/web/checkpoints/two")
            d.done("POST", "/v1/vms/web/start")
            d.done("POST", "/v1/vms/web/save")
            written(d, disk_path(d))
            if name != "disk.img":
                d.done("DELETE", "/v1/vms/web/checkpoints/one")
            d.refused(409, "wrong-state", "POST", "/v1/vms/web/start", None, "was changed since")
            d.done("DELETE", "/v1/vms/web")
            for mode in ("--copy", "--restore"):
                d.cli("vm", "import", exported, mode)
                require(d.state_of("web") == "saved", mode)
                d.done("POST", "/v1/vms/web/start")
                d.done("POST", "/v1/vms/web/turn-off")
                d.done("DELETE", "/v1/vms/web")
            with open(os.path.join(exported, "vm.json"), encoding="utf-8") as f:
                path = os.path.join(exported, json.load(f)["disks"][0]["path"])
            written(d, path)
            for mode in ("--restore", "--copy", "--register"):
                d.cli("vm", "import", exported, mode)
                d.refused(409, "wrong-state", "POST", "/v1/vms/web/start", None, "was changed since")
                d.done("DELETE", "/v1/vms/web" + ("?files=keep" if mode == "--register" else ""))


def test_manage_import_of_a_saved_one_beside_its_original(context):
    """Its guest knows its address: it is said what can be done, and that can be done."""
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{"port": "none"}])
        saved(d)
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        d.cli("vm", "export", "web", out)
        exported = os.path.join(out, "web")
        for text in ('machine "web" has', "adapter remove", "take the state, saved-state, out"):
            d.refused(409, "exists", "POST", "/v1/vms/import", {"directory": exported, "name": "copy"}, text)
        os.rename(os.path.join(exported, "saved-state"), os.path.join(out, "kept"))
        d.cli("vm", "import", exported, "--name", "copy")
        require(d.state_of("copy") == "off", "without its state")
        d.done("DELETE", "/v1/vms/copy")
        os.rename(os.path.join(out, "kept"), os.path.join(exported, "saved-state"))
        d.cli("vm", "discard", "web")
        d.cli("vm", "adapter", "remove", "web", "0")
        d.cli("vm", "import", exported, "--name", "copy")
        d.done("POST", "/v1/vms/copy/start")


def filling_kernel(path, start, size):
    """A multiboot kernel that fills memory with numbers that nothing packs, and halts."""
    code = struct.pack("<BBBIBIBI", 0xFA, 0xFC, 0xBF, start, 0xB9, size // 4, 0xB8, 1)
    loop = struct.pack("<BBIBIBB", 0x69, 0xC0, 1664525, 0x05, 1013904223, 0xAB, 0x49)
    code += loop + struct.pack("<Bb", 0x75, -len(loop) - 2) + b"\xf4\xeb\xfd"
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path, "wb") as f:
        f.write(header + code + bytes(64))
    return path


def test_manage_restore_progress_and_cancel(context):
    with Daemon(context["build"]) as d:
        size = 384 << 20
        d.make("web", memory=512 << 20, boot={"kernel": filling_kernel(os.path.join(d.directory, "filling"), 2 << 20, size)})
        d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: d.ok("GET", "/v1/vms/web/metering")["memory_resident"] > size, "it to fill its memory")
        time_then = ran_for(d)
        d.done("POST", "/v1/vms/web/save")
        cancelled, seen = 0, []
        for early in (True, False, False, False):
            job = d.ok("POST", "/v1/vms/web/start")["id"]

            def progress():
                now = d.ok("GET", f"/v1/jobs/{job}")  # pylint: disable=cell-var-from-loop
                if now.get("progress"):
                    seen.append(now["progress"])
                return now.get("progress") or now["state"] != "running"

            if not early:
                wait_for(progress, "progress")
            status = d.call("DELETE", f"/v1/jobs/{job}")[0]
            ended = d.ok("GET", f"/v1/jobs/{job}?wait=60")
            require(ended["state"] in ("cancelled", "done") and status in (202, 409), f"{status} {ended}")
            if ended["state"] == "done":
                # It was too late: the guest runs, and is not hurt.
                require(d.state_of("web") == "running" and files(d) == [] and ran_for(d) > time_then, "it runs")
                d.done("POST", "/v1/vms/web/save")
                continue
            cancelled += 1
            require(ended["error"]["code"] == "cancelled", f"{ended}")
            require(d.state_of("web") == "saved" and files(d) == ["saved-disks.json", "saved-state"] and not d.workers(), f"as before: {files(d)}")
        require(cancelled, "none was cancelled")
        require(seen and all(0 < p <= 1 for p in seen), f"no progress was told: {seen}")
        d.done("POST", "/v1/vms/web/start")
        require(ran_for(d) > time_then, "it went on where it was")
        failed = [e["text"] for e in d.ok("GET", "/v1/events?limit=1000")["events"] if e["kind"] == "vm.failed"]
        require(not failed, f"{failed}")
        print(f"     {cancelled} of 4 were cancelled, progress {[round(p, 2) for p in seen]}")
