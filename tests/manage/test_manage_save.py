# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that are saved and go on later."""

import os
import random
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
        require(d.state_of("web") == "saved" and files(d) == ["saved-state"] and not d.workers(), "it is saved")
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
            require(d.state_of("web") == "saved" and files(d) == ["saved-state"], "nothing is lost by trying")


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
        for i in range(20):
            verb = "save" if d.state_of("web") == "running" else "start"
            d.call("POST", f"/v1/vms/web/{verb}")  # one that another daemon began may just have ended
            time.sleep(rng.random() * 0.15)
            d.kill()
            d.start()
            wait_for(lambda: d.state_of("web") in ("running", "saved") and (d.state_of("web") == "running") == bool(d.workers()),
                     f"round {i} ({verb}): it to be one or the other, and not {d.state_of('web')}", 20)
            state = d.state_of("web")
            require(files(d) == (["saved-state"] if state == "saved" else []) or state == "running", f"{state} with {files(d)}")
            seen.add((verb, state))
            failed = [e["text"] for e in d.ok("GET", "/v1/events?limit=1000")["events"] if "lost" in e["text"] or "anew" in e["text"]]
            require(not failed, f"round {i} ({verb}): {failed}")
        require(len(seen) >= 3, f"what was seen: {seen}")
        if d.state_of("web") == "saved":
            d.done("POST", "/v1/vms/web/start")
        wait_for(lambda: files(d) == [], f"nothing to be left of {files(d)}")


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
