# SPDX-License-Identifier: GPL-2.0-or-later
"""An unmodified Debian in the sandbox of bulkhead-worker: it boots, writes its disks, gets one more, restarts, shuts down."""

import hashlib
import json
import os
import socket
import subprocess

import iso
from guest import Guest
from test_debian import BOOT, Machine, check_added_disk, check_disk_from_outside, look_for_what_lasted, require, shut_down, wait_for, write_what_must_last
from worker_program import without_metering


class WorkerGuest(Guest):
    """The same guest with bulkhead-worker under it; `arguments` are the keys of its configuration."""

    def command(self, name, arguments):
        self.configuration = {"version": 1, "name": name, "serial": [{"kind": "unix", "path": self.console_path}],
                              "control": self.control_path, "result": os.path.join(self.directory, "result"),
                              "lock": os.path.join(self.directory, "lock"),
                              "sandbox": {"uid": 1879048193, "gid": 1879048193} if os.geteuid() == 0 else None, **arguments}
        prefix = self.configuration.pop("prefix", [])
        return [*prefix, self.bulkhead.replace("cli/bulkhead", "worker/bulkhead-worker")]

    def start(self, command, log):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        process.stdin.write(json.dumps(self.configuration).encode())
        process.stdin.close()
        answer = process.stdout.read()
        process.stdout.close()
        require(json.loads(answer) == {"ok": True, "pid": process.pid}, f"it answers {answer}: {self.stderr()}")
        return process

    def result(self):
        with open(self.configuration["result"], encoding="utf-8") as f:
            return without_metering(json.load(f))


def start(machine, **configuration):
    with open(os.path.join(machine.image, "image.json"), encoding="utf-8") as f:
        image = json.load(f)
    return WorkerGuest(machine.bulkhead, {
        "processor": machine.context["processor"], "memory": 1 << 30, "cpus": 2,
        "boot": {"kernel": os.path.join(machine.image, image["kernel"]), "initrd": os.path.join(machine.image, image["initrd"]),
                 "append": image["append"]},
        "disks": [{"path": machine.disk}, {"path": machine.seed, "dvd": True}], **configuration})


def see_the_walls(guest):
    """From outside, what the machine's process has left."""
    with open(f"/proc/{guest.process.pid}/task/{guest.process.pid}/children", encoding="ascii") as f:
        pid = int(f.read().split()[0])
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in f)}
    require(status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", f"no filter: {status}")
    for name in ("CapPrm", "CapEff", "CapBnd"):
        require(int(status[name], 16) == 0, f"{name} is {status[name]}")
    if os.geteuid() == 0:
        require(status["Uid"].split() == ["1879048193"] * 4 and status["Groups"] == "", f"the user: {status}")
        require(os.listdir(f"/proc/{pid}/root") == [], "the root directory is not empty")
        for kind in ("net", "mnt", "ipc", "uts", "pid", "cgroup"):
            require(os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), f"the {kind} namespace is the host's")
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as f:
        both = [line for line in f if "wx" in line.split()[1]]
    require(not both, f"writable and executable: {both}")
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    # One for each channel of the controller, and nobody else's, which might not be restricted.
    require(opened.count("anon_inode:[io_uring]") == guest.configuration["cpus"], f"rings: {opened}")
    for fd in os.listdir(f"/proc/{pid}/fd"):
        require(not os.path.isdir(f"/proc/{pid}/fd/{fd}"), f"descriptor {fd} is a directory, from which a path leads on")
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
            text = f.read()
        filters = int(text.split("Seccomp_filters:")[1].split()[0])
        # One of the process, one of its own, and a disk's thread that of the thread which starts those.
        require(filters == 1 if task == str(pid) else filters in (2, 3), f"a thread has {filters} filters: {text}")


def ask(guest, line, fds=()):
    """A command of which a descriptor is part."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(60)
        s.connect(guest.control_path)
        socket.send_fds(s, [json.dumps({"version": 1, **line}).encode() + b"\n"], fds)
        return json.loads(s.makefile().readline())


def add(guest, path, mode, **more):
    """Adds a disk as a manager does, which opens its file."""
    fd = os.open(path, mode)
    try:
        return ask(guest, {"command": "add-disk", "path": path, "fd": True, **more}, [fd])
    finally:
        os.close(fd)


def expect_refusal(answer, text):
    require(answer["ok"] is False and text in answer["error"], f"no {text!r}: {answer}")


def add_and_remove_disk(machine, guest):
    """Returns the SHA-256 of what the guest wrote to a disk that was added and removed."""
    extra, child = machine.path("extra.vhdx"), machine.path("child.vhdx")
    subprocess.run([machine.bulkhead, "disk", "create", extra, "64M"], check=True)
    subprocess.run([machine.bulkhead, "disk", "create", child, "--parent", extra], check=True)
    expect_refusal(ask(guest, {"command": "add-disk", "path": extra}), "pass its descriptor along")
    expect_refusal(ask(guest, {"command": "add-disk", "path": extra, "fd": True}), "no descriptor came")
    expect_refusal(add(guest, extra, os.O_RDONLY), "is not open for reading and writing")
    expect_refusal(add(guest, child, os.O_RDWR), "a differencing disk")
    expect_refusal(add(guest, machine.disk, os.O_RDWR), "has it open")
    expect_refusal(add(guest, machine.directory, os.O_RDONLY, read_only=True), "this is a directory")
    before = set(guest.check("lsblk -dno NAME").split())
    added = add(guest, extra, os.O_RDWR)
    require(added["ok"], f"not added: {added}")

    def new():
        return set(guest.check("lsblk -dno NAME").split()) - before
    name = wait_for(new, "the new disk to appear").pop()
    guest.check(f"dd if=/dev/urandom of=/dev/{name} bs=1M count=64 oflag=direct && blockdev --flushbufs /dev/{name} && "
                f"sha256sum /dev/{name} > /root/sum && blkdiscard -f -l 1M /dev/{name} && dd if=/dev/zero of=/dev/{name} bs=1M count=1 "
                f"oflag=direct && sha256sum /dev/{name} > /root/sum", 300)
    digest = guest.check("cat /root/sum").split()[0]
    guest.control("remove-disk", f"{added['controller']}:{added['lun']}")
    wait_for(lambda: not new(), "the disk to disappear")
    continue_disk(machine, guest, extra, digest)
    use_dvd(machine, guest)
    return digest


def continue_disk(machine, guest, parent, digest):
    """A disk that continues another, added while the guest runs: it reads the one, and writes the other."""
    child = machine.path("child.vhdx")
    os.unlink(child)
    subprocess.run([machine.bulkhead, "disk", "create", child, "--parent", parent], check=True)
    before = set(guest.check("lsblk -dno NAME").split())
    fds = [os.open(child, os.O_RDWR), os.open(parent, os.O_RDONLY)]
    added = ask(guest, {"command": "add-disk", "path": child, "fd": True, "parents": [parent]}, fds)
    for fd in fds:
        os.close(fd)
    require(added["ok"], f"not added: {added}")
    name = wait_for(lambda: set(guest.check("lsblk -dno NAME").split()) - before, "the disk to appear").pop()
    require(guest.check(f"sha256sum /dev/{name}").split()[0] == digest, "it does not read what it continues")
    guest.check(f"dd if=/dev/urandom of=/dev/{name} bs=1M count=8 seek=8 oflag=direct && sync")
    guest.control("remove-disk", f"{added['controller']}:{added['lun']}")
    wait_for(lambda: set(guest.check("lsblk -dno NAME").split()) == before, "the disk to disappear")


def change_medium(guest, address, path=None, **more):
    """As a manager does, which opens the medium's file."""
    fds = [os.open(path, os.O_RDONLY)] if path else []
    try:
        return ask(guest, {"command": "change-medium", "address": address, **({"path": path, "fd": True} if path else {}), **more}, fds)
    finally:
        for fd in fds:
            os.close(fd)


def medium_of(guest, name):
    """What the file on it says; it stays mounted."""
    return guest.check(f"umount -l /mnt 2>/dev/null; mount -o ro -t iso9660 /dev/{name} /mnt && cat /mnt/which.txt").strip()


def use_dvd(machine, guest):
    """A DVD drive that comes while the guest runs: it reads the medium, and others that come in its place."""
    media = {n: machine.path(f"{n}.iso") for n in ("one", "two")}
    iso.write(media["one"], "one")
    iso.write(media["two"], "two", blocks=4096)
    with open(media["one"], "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    before = set(guest.check("lsblk -dno NAME").split())
    added = add(guest, media["one"], os.O_RDONLY, dvd=True)
    require(added["ok"], f"not added: {added}")
    address = f"{added['controller']}:{added['lun']}"
    name = wait_for(lambda: set(guest.check("lsblk -dno NAME").split()) - before, "the drive to appear").pop()
    require(name.startswith("sr") and guest.check(f"lsblk -dno TYPE /dev/{name}").strip() == "rom", f"{name} is no drive")
    require(guest.check(f"sha256sum /dev/{name}").split()[0] == digest, "the medium reads otherwise")
    change_media(guest, address, name, media)
    guest.control("remove-disk", address)
    wait_for(lambda: set(guest.check("lsblk -dno NAME").split()) == before, "the drive to disappear")


def change_media(guest, address, name, media):
    require(medium_of(guest, name) == "one", "it does not read one")
    expect_refusal(ask(guest, {"command": "change-medium", "address": address, "path": media["two"]}), "pass its descriptor along")
    expect_refusal(change_medium(guest, "0:0"), "there is no DVD drive")
    # What is mounted is locked in, and a guest that is paused cannot let go of it. Then it is asked, and does.
    guest.control("pause")
    expect_refusal(change_medium(guest, address, media["two"]), "has locked the medium")
    guest.control("resume")
    wait_for(lambda: change_medium(guest, address, media["two"])["ok"], "the guest to let go", 300)
    wait_for(lambda: int(guest.check(f"blockdev --getsize64 /dev/{name}")) == 4096 * 2048, "the size of the other")
    require(medium_of(guest, name) == "two", "it does not read the other")
    # By force at any time.
    answer = change_medium(guest, address, force=True)
    require(answer["ok"], f"not taken out: {answer}")
    wait_for(lambda: "No medium found" in guest.run(f"umount -l /mnt 2>/dev/null; dd if=/dev/{name} of=/dev/null count=1")[1], "the drive to be empty")
    require(change_medium(guest, address, media["one"])["ok"], "not put in")
    wait_for(lambda: "one" in guest.run(f"mount -o ro -t iso9660 /dev/{name} /mnt && cat /mnt/which.txt")[1], "the first again")
    # The guest's systemd may have taken it away by itself, as it does when a drive's medium changes.
    guest.check("umount -l /mnt 2>/dev/null; ! mountpoint -q /mnt")


def test_worker_debian_in_its_sandbox(context):
    with Machine(context) as machine:
        with start(machine) as guest:
            guest.login(timeout=BOOT)
            see_the_walls(guest)
            write_what_must_last(guest)
            guest.control("pause")
            guest.control("resume")
            guest.control("inspect")
            digest = add_and_remove_disk(machine, guest)
            shut_down(guest)
            require(guest.result() == {"version": 1, "result": "powered-off"}, f"result: {guest.result()}")
            require(not os.path.exists(guest.control_path) and not os.path.exists(guest.console_path), "sockets stay")
        check_disk_from_outside(machine)
        check_added_disk(machine, machine.path("extra.vhdx"), digest)
        with start(machine) as guest:
            guest.login(timeout=BOOT)
            look_for_what_lasted(guest)
            guest.send("sudo reboot\n")
            wait_for(lambda: "the guest restarts" in guest.stderr(), "the restart", BOOT)
            guest.login(timeout=BOOT)
            look_for_what_lasted(guest)
            shut_down(guest)
        check_disk_from_outside(machine)
