# SPDX-License-Identifier: GPL-2.0-or-later
"""--wait and --no-wait of the command line's verbs that begin jobs, and the statuses that they end with."""

import json
import os
import re
import socket
import subprocess

from daemon import OBEYS, Daemon, halting_kernel, require, wait_for

WAITS = "[--wait[=SECONDS] | --no-wait]"
# Verbs that begin no job.
QUICK = {"vm": {"list", "show", "set", "rename", "discard", "limits", "metering", "console", "ssh", "inspect", "top", "register"},
         "checkpoint": {"list", "rename"}, "image": {"list", "delete"}, "job": {"list", "show", "cancel"}, "host": {"show", "reload", "token"},
         "event": {"list", "follow"}}


def press(d, name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.ok("GET", f"/v1/vms/{name}")["console"])
        s.sendall(b"x")


def number(text):
    require(re.fullmatch(r"[0-9]+\n", text), f"no job's number: {text}")
    return text.strip()


def dump_of(d, noun):
    """Of an image's verbs those that the daemon's client has."""
    program = os.path.join(d.build, "cli/bulkhead-manage")
    return json.loads(subprocess.run([noun, "--dump"], executable=program, capture_output=True, text=True, check=True).stdout)


def test_wait_not_at_all(context):
    """The job's number comes, and nothing else; whoever has it can wait, or look, or cancel."""
    with Daemon(context["build"]) as d:
        d.make("web")
        job = number(d.cli("vm", "start", "web", "--no-wait"))
        require(f"job {job} is done" in d.cli("job", "wait", job) and d.state_of("web") == "running", "it runs")
        told = json.loads(d.cli("vm", "pause", "web", "--no-wait", "--json"))
        require(told["kind"] == "vm.pause" and told["vm_name"] == "web", f"{told}")
        require(json.loads(d.cli("job", "wait", str(told["id"]), "--json"))["state"] == "done", "it is paused")
        d.cli("job", "wait", number(d.cli("vm", "turn-off", "web", "--no-wait")))
        d.cli("job", "wait", number(d.cli("checkpoint", "create", "web", "one", "--no-wait")))
        d.cli("job", "wait", number(d.cli("vm", "clone", "web", "other", "--no-wait")))
        # The last of the two is what counts; a job that is done is told of as well.
        require("is deleted" in d.cli("vm", "delete", "other", "--force", "--no-wait", "--wait"), "waited for")
        require(number(d.cli("job", "wait", job, "--no-wait")) == job, "a job that is done")
        r = d.cli("vm", "create", "more", "--kernel", d.kernel, "--start", "--no-wait", status=2)
        require("--start" in r and len(d.ok("GET", "/v1/vms")["vms"]) == 1, f"{r}")
        # What is refused at once, and what fails, is no job that goes on.
        d.cli("vm", "start", "nobody", "--no-wait", status=1)
        d.make("lost", disks=[])
        os.rename(d.kernel, d.kernel + ".away")
        r = subprocess.run([os.path.join(d.build, "cli/bulkhead"), "vm", "start", "lost", "--no-wait"], capture_output=True, text=True, timeout=120,
                           env={**os.environ, "BULKHEAD_SOCKET": d.socket}, check=False)
        require(r.returncode == 1 or (r.returncode == 0 and "kernel" in d.cli("job", "wait", number(r.stdout), status=1)), f"{r}")


def test_wait_so_long(context):
    """When the time is over the status is 3, and the job goes on."""
    with Daemon(context["build"]) as d:
        d.make("web", boot={"kernel": halting_kernel(os.path.join(d.directory, "obeys"), OBEYS)})
        require("runs" in d.cli("vm", "start", "web", "--wait=600"), "it is quicker than that")
        text = d.cli("vm", "shut-down", "web", "--timeout", "600", "--wait=1", status=3)
        job = re.fullmatch(r"bulkhead: job ([0-9]+) goes on: bulkhead job wait \1 waits for its end\n", text)
        require(job, text)
        told = json.loads(d.cli("job", "wait", job[1], "--wait=1", "--json", status=3))
        require(told["id"] == int(job[1]) and told["state"] == "running", f"{told}")
        press(d, "web")
        d.cli("job", "wait", job[1], "--wait=600")
        require(d.state_of("web") == "off", "the job went on")
        for wrong in ("--wait=", "--wait=0", "--wait=x", "--wait=1000000", "--wait=-1"):
            require("--wait= takes seconds" in d.cli("vm", "start", "web", wrong, status=2), wrong)
        d.cli("vm", "list", "--no-wait", status=2)
        require(d.state_of("web") == "off", "nothing was begun")


def test_wait_is_cancelled(context):
    """A guest that does not shut down need not be waited for; when it does so later, it is off."""
    with Daemon(context["build"]) as d:
        d.make("web", boot={"kernel": halting_kernel(os.path.join(d.directory, "obeys"), OBEYS)})
        d.done("POST", "/v1/vms/web/start")
        job = number(d.cli("vm", "shut-down", "web", "--timeout", "3600", "--no-wait"))
        wait_for(lambda: d.state_of("web") == "stopping", "it to be asked")
        d.cli("job", "cancel", job)
        told = json.loads(d.cli("job", "show", job, "--json"))
        require(told["state"] == "cancelled" and told["error"]["code"] == "cancelled" and d.state_of("web") == "running", f"{told}")
        d.done("POST", "/v1/vms/web/pause")
        d.done("POST", "/v1/vms/web/resume")
        press(d, "web")
        wait_for(lambda: d.state_of("web") == "off", "it to obey")


def test_wait_in_every_help(context):
    """Each verb that begins a job has both; each noun's help tells the statuses."""
    with Daemon(context["build"]) as d:
        for noun, quick in QUICK.items():
            dump = dump_of(d, noun)
            for verb in dump["verbs"]:
                waits = verb["arguments"].endswith(WAITS)
                require(waits != (verb["name"] in quick), f"{noun} {verb['name']}: {verb['arguments']}")
                require(("\n  --no-wait " in verb["text"]) == (waits or verb["name"] == "ssh"), f"{noun} {verb['name']}: {verb['text']}")
        for noun in (*QUICK, "switch", "disk", "control", ""):
            text = d.cli(*filter(None, [noun, "--help"]))
            require("Exit status: 0 done, 1 failed, 2 the command line was wrong" in text, f"{noun}: {text}")
            require(noun not in QUICK or "3 the time of --wait is over" in text, f"{noun}: {text}")
