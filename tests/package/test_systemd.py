# SPDX-License-Identifier: GPL-2.0-or-later
"""The units under a real systemd: in Debian, which runs as a guest."""

import json
import os
import subprocess
import tempfile

from daemon import DaemonError, require
from guest import Guest, GuestError, shared_image
from test_package import copy_debs, depends, packages


def test_systemd_life(context):
    """Socket activation, a machine, an upgrade under it, the manager's death, the host's shutdown and the next boot."""
    debs = packages(context)
    image = shared_image(context["bulkhead"], "package-image", depends(debs))  # with what the packages depend on
    with tempfile.TemporaryDirectory() as directory:
        copy_debs(context, os.path.join(directory, "debs"))
        seed, disk, copies = (os.path.join(directory, name) for name in ("seed.iso", "root.avhdx", "debs.img"))
        size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(os.path.join(directory, "debs")) for f in files)
        for command in (["truncate", "-s", str(size * 2 + (16 << 20)), copies],
                        ["mke2fs", "-q", "-F", "-L", "debs", "-t", "ext4", "-d", os.path.join(directory, "debs"), copies],
                        [context["bulkhead"], "image", "seed", seed, "--hostname", "host", "--user", "user", "--password", "bulkhead"],
                        [context["bulkhead"], "disk", "create", disk, "--parent", os.path.join(image, "disk.vhdx")]):
            r = subprocess.run(command, capture_output=True, text=True)
            require(r.returncode == 0, f"{command}: {r.stderr}")
        with open(os.path.join(image, "image.json"), encoding="utf-8") as f:
            append = json.load(f)["append"]
        arguments = ["--kernel", os.path.join(image, "vmlinuz"), "--initrd", os.path.join(image, "initrd.img"), "--append", append, "--disk",
                     disk, "--disk", copies + ",ro", "--dvd", seed, "--memory", "1G", "--cpus", "2"]
        try:
            with Guest(context["bulkhead"], arguments, name="host") as guest:
                first_boot(guest)
            with Guest(context["bulkhead"], arguments, name="host") as guest:
                second_boot(guest)
        except GuestError as e:
            raise DaemonError(str(e)) from None


def worker(guest):
    return guest.check("bulkhead vm show web --json | sed -n 's/^ *\"pid\": \\([0-9]*\\).*/\\1/p'")


def first_boot(guest):
    guest.login(timeout=600)
    guest.check("mkdir /debs && mount -o ro LABEL=debs /debs")
    guest.check("dpkg -i /debs/1/*.deb", 600)
    require(guest.check("systemctl is-active bulkhead.socket bulkhead.service bulkhead-workers.service bulkhead-machines.service").split()
            == ["active"] * 4, "all units are up")
    require("bulkhead" in guest.check("stat -c '%G %a' /run/bulkhead/api") and guest.check("stat -c %a /run/bulkhead/api") == "660", "the group's socket")
    # The first who connects starts it.
    guest.check("systemctl stop bulkhead.service")
    guest.check("cp /debs/kernel /var/lib/bulkhead/kernel")
    guest.check("bulkhead vm create web --kernel /var/lib/bulkhead/kernel --memory 64M --processor soft --start", 300)
    before = worker(guest)
    group = guest.check(f"cat /proc/{before}/cgroup")
    require("/bulkhead-workers.service/vm-" in group, f"its control group: {group}")
    log = guest.check("cat /var/lib/bulkhead/machines/web/worker.log || true")
    require("sandbox" not in log, f"the service takes nothing away that a worker's sandbox needs: {log}")
    guest.check("dpkg -i /debs/2/*.deb", 600)
    require(worker(guest) == before, "the machine outlived the upgrade and was taken over")
    guest.check("systemctl kill -s KILL --kill-who=main bulkhead.service")
    require("running" in guest.check("until bulkhead vm list 2>/dev/null; do sleep 0.1; done"), "and the manager's death")
    require(worker(guest) == before, "it is the same worker")
    guest.check("systemctl restart bulkhead.service")
    require(worker(guest) == before, "and a restart")
    status, said = guest.run("dpkg -r bulkhead", 300)
    require(status != 0 and "shut them down first" in said, f"it is not removed while a machine runs: {said}")
    guest.check("bulkhead vm set web --automatic-stop turn-off --automatic-start if-was-running")
    # The host's shutdown stops the machine in good order.
    guest.terminate()
    status = guest.wait(300)
    require(status == 0, f"the host went down with {status}: {guest.stderr()}")


def second_boot(guest):
    guest.login(timeout=600)
    guest.check("until [ \"$(bulkhead vm list --json | grep -c '\"state\": \"running\"')\" = 1 ]; do sleep 0.2; done", 120)
    events = guest.check("bulkhead event list web")
    require("the power was cut" in events and "killed or crashed" not in events, f"how it ended: {events}")
    guest.check("bulkhead host stop-machines", 200)
    guest.check("bulkhead vm delete web --force && rm /var/lib/bulkhead/kernel")
    guest.terminate()
    require(guest.wait(300) == 0, "the end")
