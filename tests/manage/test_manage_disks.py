# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks added to machines and taken from them."""

import http.client
import os
import random
import threading
import time

from daemon import Daemon, DaemonError, require, wait_for


def paths(disks):
    return [os.path.basename(disk["path"]) for disk in disks]


def make_disk(d, name):
    path = os.path.join(d.directory, name)
    d.cli("disk", "create", path, "16M")
    return path


def configured(d, vm):
    return paths(d.ok("GET", f"/v1/vms/{vm}")["config"]["disks"])


def running(d, vm):
    return paths(d.ok("GET", f"/v1/vms/{vm}/inspect")["disks"])


def test_manage_disks_of_a_machine_that_is_off(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        a = make_disk(d, "a.vhdx")
        d.cli("vm", "add-disk", "web", f"{a},ro,controller=2")
        require(d.ok("GET", "/v1/vms/web")["config"]["disks"] == [{"path": a, "kind": "disk", "controller": 2, "read_only": True}], "it is there")
        d.refused(409, "exists", "POST", "/v1/vms/web/disks", {"path": a}, "already")
        d.refused(400, "invalid", "POST", "/v1/vms/web/disks", {"path": a, "size": 3}, "size")
        d.refused(400, "invalid", "POST", "/v1/vms/web/disks", {"path": a, "controller": 4}, "controller")
        d.cli("vm", "remove-disk", "web", a)
        require(configured(d, "web") == [] and os.path.exists(a), "it is not there any more; the file is")
        d.refused(404, "not-found", "DELETE", "/v1/vms/web/disks?path=b", None, "no disk b")
        d.refused(404, "not-found", "DELETE", "/v1/vms/nobody/disks?path=b")
        d.refused(400, "invalid", "DELETE", "/v1/vms/web/disks")


def test_manage_disks_of_a_running_machine(context):
    with Daemon(context["build"]) as d:
        a, b, c = (make_disk(d, n) for n in ("a.vhdx", "b.vhdx", "c.vhdx"))
        d.make("web", disks=[{"path": a}])
        d.make("other")
        for vm in ("web", "other"):
            d.done("POST", f"/v1/vms/{vm}/start")
        d.cli("vm", "add-disk", "web", b)
        d.done("POST", "/v1/vms/web/pause")
        d.cli("vm", "add-disk", "web", c)
        d.done("POST", "/v1/vms/web/resume")
        require(running(d, "web") == configured(d, "web") == ["a.vhdx", "b.vhdx", "c.vhdx"], f"{running(d, 'web')} {configured(d, 'web')}")
        require(open_files(d, a) == [], "the daemon has none of them open")
        job = d.job("POST", "/v1/vms/other/disks", {"path": b})
        require(job["state"] == "failed" and "b.vhdx" in job["error"]["message"], f"in use by the first: {job}")
        job = d.job("POST", "/v1/vms/other/disks", {"path": "/nowhere"})
        require(job["state"] == "failed" and "/nowhere" in job["error"]["message"], f"missing: {job}")
        require(configured(d, "other") == running(d, "other") == [], "a disk that was refused is nowhere")
        d.cli("vm", "remove-disk", "web", b)
        require(running(d, "web") == configured(d, "web") == ["a.vhdx", "c.vhdx"], "one less")
        d.done("POST", "/v1/vms/other/disks", {"path": b})
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/web/start")
        require(running(d, "web") == ["a.vhdx", "c.vhdx"], "as before after another start")


def test_manage_disks_that_continue_others(context):
    """The worker gets the files of the whole chain, and looks whether they belong together."""
    for form in ("vhdx", "vhd"):
        with Daemon(context["build"]) as d:
            base, middle, top = (os.path.join(d.directory, f"{n}.{form}") for n in ("base", "middle", "top"))
            d.cli("disk", "create", base, "16M")
            d.cli("disk", "create", middle, "--parent", base)
            d.cli("disk", "create", top, "--parent", middle)
            d.make("web")
            d.done("POST", "/v1/vms/web/start")
            d.cli("vm", "add-disk", "web", top)
            disk = d.ok("GET", "/v1/vms/web/inspect")["disks"][0]
            require([f["path"] for f in disk["chain"]] == [top, middle, base], f"the chain: {disk}")
            require(open_files(d, top) == [], "the daemon has none of them open")
            require("has it open" in d.cli("disk", "merge", top, status=1), "they are the machine's")
            # It is split and merged like any other.
            d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
            require(len(d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["chain"]) == 4, "one more")
            d.done("DELETE", "/v1/vms/web/checkpoints/one")
            require([os.path.basename(f["path"]) for f in d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["chain"]] == [f"{n}.{form}" for n in ("top", "middle", "base")],
                    f"as before: {d.ok('GET', '/v1/vms/web/inspect')['disks']}")
            d.cli("vm", "remove-disk", "web", top)
            require(configured(d, "web") == running(d, "web") == [], "it is gone")
            d.cli("disk", "check", top)
            # One whose parent is missing, or is another by now.
            os.rename(middle, middle + ".away")
            job = d.job("POST", "/v1/vms/web/disks", {"path": top})
            require(job["state"] == "failed" and "middle" in job["error"]["message"], f"missing: {job}")
            d.cli("disk", "create", middle, "16M")
            job = d.job("POST", "/v1/vms/web/disks", {"path": top})
            require(job["state"] == "failed" and "middle" in job["error"]["message"], f"another: {job}")
            require(configured(d, "web") == running(d, "web") == [], "it is nowhere")


def test_manage_dvd_drives_of_a_running_machine(context):
    with Daemon(context["build"]) as d:
        medium = os.path.join(d.directory, "medium.iso")
        with open(medium, "wb") as f:
            f.write(bytes(4 << 20))
        os.chmod(medium, 0o444)
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        require("DVD drive more" in d.cli("vm", "add-disk", "web", medium, "--dvd"), "it says what")
        disk = d.ok("GET", "/v1/vms/web/inspect")["disks"][0]
        require(disk["dvd"] and disk["read_only"] and disk["path"] == medium, f"a drive: {disk}")
        require(d.ok("GET", "/v1/vms/web")["config"]["disks"] == [{"path": medium, "kind": "dvd", "controller": 0, "read_only": False}], "it stays")
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/web/start")
        require(d.ok("GET", "/v1/vms/web/inspect")["disks"][0]["dvd"], "as after another start")
        d.cli("vm", "remove-disk", "web", medium)
        require(configured(d, "web") == running(d, "web") == [], "it is gone")


def media_of(d):
    """What is in the drives, in the order of vm.json, where that and the worker agree."""
    said = [disk.get("path") for disk in d.ok("GET", "/v1/vms/web")["config"]["disks"]]
    if d.state_of("web") == "running":
        has = [disk.get("path") for disk in d.ok("GET", "/v1/vms/web/inspect")["disks"] if disk["dvd"]]
        require(sorted(map(str, has)) == sorted(map(str, said)), f"vm.json says {said}, the worker {has}")
    return said


def make_media(d, count):
    media = [os.path.join(d.directory, f"{i}.iso") for i in range(count)]
    for i, path in enumerate(media):
        with open(path, "wb") as f:
            f.write(bytes((i + 1) << 20))
    return media


def test_manage_media_of_dvd_drives(context):
    """Changed and taken out, while the machine is off and while it runs; kept by saved states and checkpoints."""
    with Daemon(context["build"]) as d:
        a, b, c = make_media(d, 3)
        d.make("web")
        d.refused(400, "invalid", "POST", "/v1/vms/web/disks", {"kind": "disk"}, "path is missing")
        d.refused(404, "not-found", "PATCH", "/v1/vms/web/dvd-drives/0", {"medium": a}, "no DVD drive 0")
        d.cli("vm", "add-disk", "web", "--dvd")
        require(media_of(d) == [None] and "empty" in d.cli("vm", "show", "web"), "an empty drive")
        d.cli("vm", "add-disk", "web", a, "--dvd")
        for running in (False, True):
            if running:
                d.done("POST", "/v1/vms/web/start")
            require(media_of(d) == [None, a], f"{media_of(d)}")
            d.cli("vm", "insert-dvd", "web", b)
            require(media_of(d) == [b, a], f"{media_of(d)}")
            d.refused(409, "exists", "PATCH", "/v1/vms/web/dvd-drives/1", {"medium": b}, "already")
            d.refused(404, "not-found", "PATCH", "/v1/vms/web/dvd-drives/2", {"medium": c}, "no DVD drive 2")
            d.refused(404, "not-found", "PATCH", "/v1/vms/web/dvd-drives/x", {"medium": c})
            d.refused(400, "invalid", "PATCH", "/v1/vms/web/dvd-drives/0", {}, "medium")
            d.cli("vm", "insert-dvd", "web", c, "--drive", "1")
            d.cli("vm", "eject-dvd", "web", "--force")
            d.cli("vm", "eject-dvd", "web", "--drive", "1")
            require(media_of(d) == [None, None], f"{media_of(d)}")
            d.cli("vm", "insert-dvd", "web", a, "--drive", "1")
        require(open_files(d, a) == [], "the daemon has none of them open")
        job = d.job("PATCH", "/v1/vms/web/dvd-drives/0", {"medium": "/nowhere"})
        require(job["state"] == "failed" and "/nowhere" in job["error"]["message"] and media_of(d) == [None, a], f"missing: {job}")
        require("DVD drive 1 has" in d.cli("event", "list"), "it is told")
        keep_media(d, a, b)
        # Drives come and go while it runs.
        d.cli("vm", "add-disk", "web", "--dvd")
        require(media_of(d) == [None, a, None], f"{media_of(d)}")
        d.cli("vm", "remove-disk", "web", "--dvd", "0")
        require(media_of(d) == [a, None], f"{media_of(d)}")
        d.cli("vm", "remove-disk", "web", "--dvd", "1")
        d.cli("vm", "remove-disk", "web", a)
        require(media_of(d) == [], "none is left")


def keep_media(d, a, b):
    d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
    d.cli("vm", "insert-dvd", "web", b)
    d.done("POST", "/v1/vms/web/save")
    d.refused(409, "wrong-state", "PATCH", "/v1/vms/web/dvd-drives/0", {"medium": ""}, "another medium")
    d.done("POST", "/v1/vms/web/start")
    require(media_of(d) == [b, a], f"restored with {media_of(d)}")
    d.done("POST", "/v1/vms/web/export", {"directory": d.directory})
    d.done("POST", "/v1/vms/web/turn-off")
    d.done("POST", "/v1/vms/web/checkpoints/one/apply")
    require(media_of(d) == [None, a], f"applied: {media_of(d)}")
    d.done("POST", "/v1/vms/web/start")
    require(media_of(d) == [None, a], f"goes on with {media_of(d)}")
    d.done("DELETE", "/v1/vms/web/checkpoints/one")
    files = d.ok("GET", "/v1/vms/web/files")["files"]
    require(a in files and "" not in files and None not in files, f"its files: {files}")


def open_files(d, path):
    found = []
    for fd in os.listdir(f"/proc/{d.process.pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{d.process.pid}/fd/{fd}"))
        except OSError:
            pass
    return [f for f in found if os.path.dirname(f) == os.path.dirname(path) and f.endswith(".vhdx")]


def test_manage_killed_while_disks_come_and_go(context):
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        disks = [make_disk(d, f"{i}.vhdx") for i in range(3)]
        d.make("web")
        d.done("POST", "/v1/vms/web/start")

        def change():
            path = rng.choice(disks)
            if os.path.basename(path) in configured(d, "web"):
                return ("DELETE", f"/v1/vms/web/disks?path={path}", None)
            return ("POST", "/v1/vms/web/disks", {"path": path})

        def ask(request):
            try:
                d.call(*request)
            except (OSError, http.client.HTTPException):
                pass

        for i in range(25):
            thread = threading.Thread(target=ask, args=(change(),))
            thread.start()
            time.sleep(rng.random() * 0.015)
            d.kill()
            thread.join()
            d.start()
            wait_for(lambda: sorted(running(d, "web")) == sorted(configured(d, "web")), f"round {i}: vm.json to be what runs", 10)


def test_manage_killed_while_media_change(context):
    """Whatever the daemon was at, vm.json says then what is in the drives."""
    rng = random.Random(int(os.environ.get("MANAGE_SEED", "1")))
    with Daemon(context["build"]) as d:
        media = make_media(d, 3)
        d.make("web")
        for _ in range(2):
            d.done("POST", "/v1/vms/web/disks", {"kind": "dvd"})
        d.done("POST", "/v1/vms/web/start")

        def ask(drive, medium):
            try:
                d.call("PATCH", f"/v1/vms/web/dvd-drives/{drive}", {"medium": medium})
            except (OSError, http.client.HTTPException):
                pass

        def agreed():
            try:
                return bool(media_of(d))
            except DaemonError:
                return False

        for i in range(20):
            free = [m for m in media if m not in media_of(d)]
            thread = threading.Thread(target=ask, args=(rng.randrange(2), rng.choice([*free, ""])))
            thread.start()
            time.sleep(rng.random() * 0.015)
            d.kill()
            thread.join()
            d.start()
            wait_for(agreed, f"round {i}: vm.json to be what runs", 10)
