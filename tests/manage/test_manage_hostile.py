# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon where files, workers and moments of its death are against it."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess

from daemon import Daemon, require, wait_for


@contextlib.contextmanager
def elsewhere(d, vm):
    """A machine's directory that is not the daemon's own, taken in."""
    d.make(vm)
    directory = os.path.join(d.directory, vm)
    os.rename(d.ok("GET", f"/v1/vms/{vm}")["directory"], directory)
    d.done("DELETE", f"/v1/vms/{vm}")
    d.ok("POST", "/v1/vms/register", {"directory": directory})
    yield directory


def image_directory(d):
    """What looks like an image."""
    directory = os.path.join(d.directory, "image")
    os.mkdir(directory)
    with open(os.path.join(directory, "image.json"), "w", encoding="ascii") as f:
        json.dump({"version": 1, "name": "i", "key": "k", "disk": "disk.vhdx", "kernel": "vmlinuz", "initrd": "initrd.img", "append": "",
                   "created": "", "size": 1 << 20, "packages": []}, f)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(d.kernel, os.path.join(directory, name))
    d.cli("disk", "create", os.path.join(directory, "disk.vhdx"), "16M")
    return directory


def endless_image(d):
    """A directory whose import takes longer than what is done meanwhile."""
    directory = image_directory(d)
    part = os.urandom(1 << 20)
    with open(os.path.join(directory, "disk.vhdx"), "wb") as f:
        for _ in range(512):
            f.write(part)
    return directory


def test_manage_kept_files_stay_when_the_daemon_dies(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        directory = d.ok("GET", "/v1/vms/web")["directory"]
        directory_of_image = endless_image(d)
        for i in range(8):  # then nobody else gets to the pool
            d.ok("POST", "/v1/images", {"name": f"i{i}", "directory": directory_of_image})
        d.ok("DELETE", "/v1/vms/web?files=keep")
        d.kill()
        d.start()
        require(d.ok("GET", "/v1/vms")["vms"] == [], "it is deleted")
        require(os.path.exists(os.path.join(directory, "vm.json")), "its files were to stay")


def test_manage_renamed_while_the_daemon_was_dead(context):
    with Daemon(context["build"]) as d:
        d.make("aaa")
        d.make("mmm")
        path = os.path.join(d.ok("GET", "/v1/vms/aaa")["directory"], "vm.json")
        d.kill()
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(config, name="zzz"), f)
        d.start()
        names = [vm["name"] for vm in d.ok("GET", "/v1/vms")["vms"]]
        require(names == ["mmm", "zzz"], f"machines: {names}")


def test_manage_no_stranger_is_taken_for_a_worker(context):
    with Daemon(context["build"]) as d, elsewhere(d, "web") as directory:
        stranger = subprocess.Popen(["sleep", "1000"])
        try:
            with open(os.path.join(directory, "worker.lock"), "w", encoding="ascii") as lock:
                lock.write(f"{stranger.pid}\n")
                lock.flush()
                fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
                shown = d.ok("GET", "/v1/vms/web")
                require(shown["state"] == "broken", f"locked by a process that is no worker: {shown}")
                d.refused(409, "wrong-state", "POST", "/v1/vms/web/turn-off?wait=20")
                d.refused(409, "wrong-state", "DELETE", "/v1/vms/web")
                require(stranger.poll() is None, "a process that has nothing to do with it was killed")
            require(d.state_of("web") == "off", "without the lock it is well")
        finally:
            stranger.kill()
            stranger.wait()


def test_manage_files_that_are_traps(context):
    with Daemon(context["build"]) as d, elsewhere(d, "web") as directory:
        precious = os.path.join(d.directory, "precious")
        with open(precious, "w", encoding="ascii") as f:
            f.write("precious")
        for name in ("worker.log", "vm.json.new", "worker.lock"):
            path = os.path.join(directory, name)
            for trap in (os.mkfifo, lambda p: os.symlink(precious, p), lambda p: os.link(precious, p)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                trap(path)
                d.call("PATCH", "/v1/vms/web", {"notes": name})
                d.call("POST", "/v1/vms/web/start?wait=20")
                if d.state_of("web") == "running":
                    d.done("POST", "/v1/vms/web/turn-off")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with open(precious, encoding="ascii") as f:
            require(f.read() == "precious", "a file outside the machine's directory was written")
        require(d.state_of("web") == "off", "it is well again")


def test_manage_worker_that_does_not_answer(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        os.kill(d.machine_process("web"), signal.SIGSTOP)
        job = d.ok("POST", "/v1/vms/web/pause")["id"]
        d.refused(504, "timed-out", "GET", "/v1/vms/web/inspect")
        job = d.ok("GET", f"/v1/jobs/{job}?wait=60")
        require(job["state"] == "failed" and job["error"]["code"] == "timed-out", f"nobody answered: {job}")
        d.done("POST", "/v1/vms/web/turn-off")
        require(d.state_of("web") == "off", "turned off all the same")


def test_manage_worker_without_a_socket(context):
    """As one is that the daemon finds before it has made it: nothing is missing, and it may be asked again."""
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        control = os.path.join(d.runtime, "vms", d.ok("GET", "/v1/vms/web")["id"], "control")
        os.rename(control, control + ".away")
        d.refused(409, "busy", "GET", "/v1/vms/web/inspect", None, "try again")
        require(d.ok("GET", "/v1/vms/web/metering") and d.state_of("web") == "running", "it is told of as far as it can be")
        os.rename(control + ".away", control)
        d.ok("GET", "/v1/vms/web/inspect")
        d.done("POST", "/v1/vms/web/turn-off")


def test_manage_start_that_hangs_is_turned_off(context):
    with Daemon(context["build"]) as d:
        program = os.path.join(d.directory, "worker")
        with open(program, "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nexec sleep 1000\n")
        os.chmod(program, 0o755)
        d.kill()
        d.more = ["--worker", program]
        d.start()
        d.make("web")
        d.ok("POST", "/v1/vms/web/start")
        require(d.state_of("web") == "starting", "it starts, and starts")
        d.done("POST", "/v1/vms/web/turn-off")
        require(d.state_of("web") == "off", "turned off")
        require([j["state"] for j in d.ok("GET", "/v1/jobs")["jobs"]] == ["done", "cancelled", "done"], "the start ended too")


def test_manage_a_wrong_wait_does_nothing(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.refused(400, "invalid", "POST", "/v1/vms/web/start?wait=long")
        require(d.state_of("web") == "off", "a request that was refused started it")


def test_manage_a_disk_goes_with_its_record_of_changes(context):
    with Daemon(context["build"]) as d:
        d.make("web", disks=[{"path": "data.vhdx"}])
        disk = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "data.vhdx")
        d.cli("disk", "create", disk, "16M")
        d.cli("disk", "track", "add", disk, "point")
        require(os.path.exists(disk + ".cbt"), "there is a record")
        d.done("DELETE", "/v1/vms/web")
        require(os.listdir(os.path.join(d.state, "machines")) == [], "something is left")


def test_manage_a_change_by_hand_is_a_conflict(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        shown = d.ok("GET", "/v1/vms/web")
        path = os.path.join(shown["directory"], "vm.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(shown["config"], notes="by hand"), f)
        for method, body in (("PATCH", {"memory": 128 << 20}), ("DELETE", None)):
            status, answer = d.call(method, "/v1/vms/web", body, {"If-Match": shown["etag"]})
            require(status == 412, f"{method} of what it has not seen: {status} {answer}")


def test_manage_directory_that_is_no_text(context):
    with Daemon(context["build"]) as d, elsewhere(d, "web") as directory:
        d.done("DELETE", "/v1/vms/web")
        strange = os.path.join(os.fsencode(d.directory), b"\xff")
        os.rename(directory, strange)
        os.symlink(strange, os.path.join(d.directory, "link"))
        d.refused(400, "invalid", "POST", "/v1/vms/register", {"directory": os.path.join(d.directory, "link")}, "UTF-8")
        require(d.ok("GET", "/v1/vms")["vms"] == [], "it is not in the list")


def test_manage_a_sentence_that_is_cut_off(context):
    with Daemon(context["build"]) as d:
        for start in ("/", "/a"):  # the cut is in the middle of a character for one of them
            job = d.job("POST", "/v1/images", {"name": "i", "directory": start + "\u00e9" * 600})
            require(job["error"]["message"], f"the job does not say what went wrong: {job}")


def test_manage_terminal_obeys_nobody(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.ok("PATCH", "/v1/vms/web", {"notes": "one\n\x1b]0;evil\x07\u009b2J", "disks": [{"path": "/nowhere/\x1b[2J"}]})
        for arguments, status in ((("show", "web"), 0), (("list",), 0), (("start", "web"), 1), (("delete", "web"), 1)):
            text = d.cli("vm", *arguments, status=status)
            require(not any(c in text for c in "\x1b\x07\u009b"), f"vm {arguments[0]}: {text!r}")
        require("\x1b" not in d.cli("event", "list") + d.cli("job", "list"), "events and jobs")


def test_manage_ends_with_a_job_that_does_not(context):
    with Daemon(context["build"]) as d:
        job = d.ok("POST", "/v1/images", {"name": "i", "directory": endless_image(d)})["id"]
        require(d.stop() == 0, "SIGTERM ends the daemon")
        d.start()
        require(d.ok("GET", f"/v1/jobs/{job}")["state"] in ("failed", "cancelled"), "the job has not come to its end")
        wait_for(lambda: os.listdir(os.path.join(d.state, "images")) == [], "what was half made to go")


def test_manage_image_twice_at_a_time(context):
    """The second one of a name does not take the first one's files."""
    with Daemon(context["build"]) as d:
        d.ok("POST", "/v1/images", {"name": "i", "directory": endless_image(d)})
        temporary = os.path.join(d.state, "images")
        wait_for(lambda: os.listdir(temporary), "the first to be at work")
        first = os.listdir(temporary)
        job = d.job("POST", "/v1/images", {"name": "i", "directory": "/nowhere"})
        require("/nowhere" in job["error"]["message"], f"it is not held up by the other: {job}")
        require(os.listdir(temporary) == first, f"the first one's files: {first}, now {os.listdir(temporary)}")
        d.kill()
        d.start()
        wait_for(lambda: os.listdir(temporary) == [], "what was half made to go")


def test_manage_image_that_is_a_trap(context):
    """Nothing of an imported directory is waited for, and no link in it is followed."""
    with Daemon(context["build"]) as d:
        directory = image_directory(d)
        for name in ("image.json", "vmlinuz", "initrd.img", "disk.vhdx"):
            path = os.path.join(directory, name)
            os.rename(path, path + ".kept")
            for trap in (os.mkfifo, lambda p: os.symlink(p + ".kept", p), os.mkdir):
                trap(path)
                job = d.job("POST", "/v1/images", {"name": "i", "directory": directory})
                require(job["state"] == "failed" and name in job["error"]["message"], f"{name}: {job}")
                (os.rmdir if trap is os.mkdir else os.unlink)(path)
            os.rename(path + ".kept", path)
        d.done("POST", "/v1/images", {"name": "i", "directory": directory})
        # Nor is anything deleted that is none of an image.
        place = os.path.join(d.state, "images", "i")
        with open(os.path.join(place, "mine"), "w", encoding="ascii"):
            pass
        d.refused(409, "exists", "DELETE", "/v1/images/i", None, "mine")
        require(sorted(os.listdir(place)) == ["disk.vhdx", "image.json", "initrd.img", "mine", "vmlinuz"], "all is there")
        os.unlink(os.path.join(place, "mine"))
        d.ok("DELETE", "/v1/images/i")
        require(d.ok("GET", "/v1/images")["images"] == [], "it is gone at once")
        wait_for(lambda: os.listdir(os.path.join(d.state, "images")) == [], "its files to go")
        d.refused(404, "not-found", "DELETE", "/v1/images/i")
