# SPDX-License-Identifier: GPL-2.0-or-later
"""bulkhead-worker with guests of a few bytes and with the bare guests: start, answer, lock, result, end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

from guest import tiny_kernel
from worker_program import Worker, wait_for

RESETS = b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"  # mov al, 0xfe; out 0x64, al; hlt
LOOPS = b"\xeb\xfe"
FAILS = b"\x0f\x01\x1d\x00\x00\x00\x00\xcc"  # lidt; int3
EXITS = b"\xb0\x05\xe6\xf4\xf4\xeb\xfd"  # mov al, 5; out 0xf4, al; hlt


def require(condition, text):
    if not condition:
        raise AssertionError(text)


def tiny(context, code, **configuration):
    """A worker with a guest of a few bytes, not started."""
    worker = Worker(context["worker"], "/", **{"processor": context["processor"], **configuration})
    worker.configuration["boot"]["kernel"] = tiny_kernel(worker.path("kernel"), code)
    return worker


def expect_refusal(worker, code, text, answer=None):
    answer = answer or worker.start()
    require(answer["ok"] is False and answer["code"] == code and text in answer["error"], f"not refused by {code} and {text}: {answer}")
    require(worker.process.wait(30) == 1, "one that does not start has a status of its own")
    require(text in worker.log(), f"the log does not tell it: {worker.log()}")


def test_worker_runs_a_guest(context):
    with Worker(context["worker"], os.path.join(context["directory"], "bare_smp"), processor=context["processor"], cpus=2,
                debug_exit=True) as w:
        pid = w.run()
        require(int(w.read("lock").split()[0]) == pid, f"the lock file says {w.read('lock')!r}, not {pid}")
        require(w.wait() == (0, {"version": 1, "result": "powered-off", "guest_code": 1}), f"its end: {w.wait()}; log: {w.log()}")
        require(re.search(r"^\d+ tests, 0 failed", w.read("serial"), re.MULTILINE), w.read("serial")[-1000:])
        require(not os.path.exists(w.path("control")), "the control socket stays")
        require(w.log() == "", f"it has something to say: {w.log()}")


def test_worker_tells_the_guests_code(context):
    with tiny(context, EXITS, debug_exit=True) as w:
        w.run()
        require(w.wait() == (0, {"version": 1, "result": "powered-off", "guest_code": 11}), f"its end: {w.wait()}; log: {w.log()}")


def test_worker_tells_a_failure(context):
    with tiny(context, FAILS) as w:
        w.run()
        status, result = w.wait()
        require(status == 3 and result["result"] == "guest-failed" and "triple-faulted" in result["error"], f"{status}: {result}")
        require("triple-faulted" in w.log(), w.log())


def test_worker_restarts_a_guest(context):
    with tiny(context, RESETS) as w:
        w.run()
        wait_for(lambda: w.log().count("the guest restarts") >= 3, "three restarts")
        require(w.control("power-off")["ok"], "power-off")
        require(w.wait() == (4, {"version": 1, "result": "power-cut"}), f"its end: {w.wait()}; log: {w.log()}")


def test_worker_ends_by_reset(context):
    with tiny(context, RESETS, no_reboot=True) as w:
        w.run()
        require(w.wait() == (0, {"version": 1, "result": "reset"}), f"its end: {w.wait()}; log: {w.log()}")


def test_worker_runs_once(context):
    with tiny(context, LOOPS) as w:
        pid = w.run()
        with Worker(context["worker"], w.configuration["boot"]["kernel"], directory=w.directory) as second:
            expect_refusal(second, "EBUSY", f"process {pid} runs this machine already")
        require(w.result() is None, "the second wrote a result for the first")
        require(w.control("status")["state"] == "running", "the first is not harmed")
        # Killed, it leaves the lock to the next, and its sockets.
        os.kill(pid, signal.SIGKILL)
        w.process.wait()
        with Worker(context["worker"], w.configuration["boot"]["kernel"], directory=w.directory, processor=context["processor"]) as third:
            wait_for(lambda: third.start()["ok"], "the lock to be free")
            third.control("power-off")
            require(third.wait()[0] == 4, "the third")


def lock_flags(w, pid):
    """The open flags of each descriptor of its lock file that a process has."""
    flags = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{fd}") == w.path("lock"):
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as f:
                flags.append(int(re.search(r"^flags:\s*(\d+)", f.read(), re.MULTILINE)[1], 8))
    return flags


def test_worker_lock_is_out_of_the_machines_reach(context):
    """The machine's process has only a descriptor for reading, which is none of the keeper's."""
    with tiny(context, LOOPS) as w:
        pid = w.run()
        require([f & os.O_ACCMODE for f in lock_flags(w, pid)] == [os.O_RDWR], f"the keeper's: {lock_flags(w, pid)}")
        inside = lock_flags(w, machine_of(pid))
        require([f & os.O_ACCMODE for f in inside] == [os.O_RDONLY], f"the machine's: {inside}")


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def see_it_end(pid):
    """No test leaves one behind."""
    try:
        wait_for(lambda: has_ended(pid), "its end")
    finally:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


def test_worker_survives_its_parent(context):
    start = ("import sys; sys.path.insert(0, sys.argv[1]); from worker_program import Worker\n"
             "w = Worker(sys.argv[2], sys.argv[3], directory=sys.argv[4], processor=sys.argv[5])\n"
             "import os; print(w.run(), flush=True); os._exit(0)")
    with tiny(context, LOOPS) as w:
        r = subprocess.run([sys.executable, "-c", start, os.path.dirname(os.path.abspath(sys.modules["worker_program"].__file__)),
                            context["worker"], w.configuration["boot"]["kernel"], w.directory, context["processor"]],
                           capture_output=True, text=True, timeout=60)
        require(r.returncode == 0, r.stderr)
        pid = int(r.stdout)
        try:
            require(os.getsid(pid) == pid, "it has no session of its own")
            os.kill(pid, signal.SIGHUP)
            require(w.control("status")["state"] == "running", "it does not run")
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: "asked to shut down" in w.log(), "the first signal to be told")
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: w.result() == {"version": 1, "result": "power-cut"}, "the result")
        finally:
            see_it_end(pid)


def machine_of(pid):
    """The process in the sandbox."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return int(f.read().split()[0])


def test_worker_killed_leaves_a_result(context):
    with tiny(context, LOOPS) as w:
        os.kill(machine_of(w.run()), signal.SIGKILL)
        status, result = w.wait()
        require(status == 3 and result["result"] == "guest-failed" and "killed by signal 9" in result["error"], f"{status}: {result}")
        require(not os.path.exists(w.path("control")), "the control socket stays")


def test_worker_and_its_machine_end_together(context):
    with tiny(context, LOOPS) as w:
        inside = machine_of(w.run())
        w.process.kill()
        w.process.wait()
        see_it_end(inside)
        require(w.result() is None, "a result of one that was killed")


def test_worker_stopped_and_continued(context):
    """System calls go on where they were."""
    with tiny(context, RESETS) as w:
        inside = machine_of(w.run())
        for _ in range(20):
            os.kill(inside, signal.SIGSTOP)
            os.kill(inside, signal.SIGCONT)
        before = w.log().count("the guest restarts")
        require(w.control("status")["ok"], "status")
        require(w.control("power-off")["ok"], f"power-off; {before} restarts; log: {w.log()}")
        require(w.wait() == (4, {"version": 1, "result": "power-cut"}), f"its end: {w.wait()}; log: {w.log()}")


def test_worker_refuses_a_kernel_inside(context):
    """The kernel is looked at in the sandbox; what is wrong with it is told nevertheless."""
    with tiny(context, LOOPS, serial=[{"kind": "unix", "path": "/tmp/"}]) as w:
        w.configuration["serial"][0]["path"] = w.path("console")
        with open(w.path("kernel"), "wb") as f:
            f.write(b"no kernel" * 1000)
        expect_refusal(w, "ENOEXEC", "kernel")
        require(w.result()["result"] == "not-started", f"result: {w.result()}")
        for name in ("control", "console"):
            require(not os.path.exists(w.path(name)), f"the socket {name} stays")


def add(w, path, mode=os.O_RDWR, **more):
    """Adds a disk as a manager does, which opens its file."""
    fd = os.open(path, mode)
    try:
        return w.control("add-disk", [fd], path=path, fd=True, **more)
    finally:
        os.close(fd)


def add_chain(w, paths, **more):
    """The same of a disk with all that it continues."""
    fds = [os.open(path, os.O_RDONLY if i else os.O_RDWR) for i, path in enumerate(paths)]
    try:
        return w.control("add-disk", fds, path=paths[0], fd=True, parents=paths[1:], **more)
    finally:
        for fd in fds:
            os.close(fd)


def takes_chains(context, w, parent, child, raw):
    """A chain is of files that belong together, in their order."""
    other, vhd = w.path("other.vhdx"), w.path("parent.vhd")
    for path in (other, vhd):
        subprocess.run([context["bulkhead"], "disk", "create", path, "64M"], check=True)
    for answer, text in ((add_chain(w, [child, other]), "changed since"), (add_chain(w, [child, vhd]), "no VHD file"),
                         (add_chain(w, [child, raw]), "cannot continue it"), (add_chain(w, [parent, other]), "no differencing disk"),
                         (add_chain(w, [child, child]), "a differencing disk"),
                         (add_chain(w, [child] + [parent] * 64), "must be an array of less"),
                         (w.control("add-disk", path=child, fd=True, parents=["x"]), "absolute"),
                         (add(w, child, parents=[parent]), "needs more descriptors")):
        require(answer["ok"] is False and text in answer["error"], f"no {text!r}: {answer}")
    require(add_chain(w, [child, parent])["ok"], f"log: {w.log()}")
    disk = next(d for d in w.control("inspect")["disks"] if d["path"] == child)
    require([f["path"] for f in disk["chain"]] == [child, parent], f"{disk}")
    require(w.control("remove-disk", address=f"0:{disk['lun']}")["ok"], "remove-disk")
    subprocess.run([context["bulkhead"], "disk", "merge", child], check=True, stdout=subprocess.DEVNULL)


def test_worker_takes_disks_by_descriptor(context):
    with tiny(context, LOOPS) as w:
        parent, child, raw = w.path("parent.vhdx"), w.path("child.vhdx"), w.path("raw")
        for arguments in ([parent, "64M"], [child, "--parent", parent]):
            subprocess.run([context["bulkhead"], "disk", "create", *arguments], check=True)
        with open(raw, "wb") as f:
            f.truncate(1 << 20)
        w.run()
        for answer, text in ((w.control("add-disk", path=parent), "pass its descriptor along"),
                             (w.control("add-disk", path=parent, fd=True), "no descriptor came"),
                             (add(w, parent, os.O_RDONLY), "is not open for reading and writing"),
                             (add(w, child), "a differencing disk"),
                             (add(w, w.directory, os.O_RDONLY, read_only=True), "this is a directory")):
            require(answer["ok"] is False and text in answer["error"], f"no {text!r}: {answer}")
        require(add(w, parent) == {"ok": True, "controller": 0, "lun": 0}, f"log: {w.log()}")
        answer = add(w, parent)
        require("has it open" in answer["error"], f"twice: {answer}")
        require(add(w, raw, os.O_RDONLY, read_only=True)["ok"], f"log: {w.log()}")
        disks = w.control("inspect")["disks"]
        require([(d["path"], d["size"]) for d in disks] == [(parent, 64 << 20), (raw, 1 << 20)], f"disks: {disks}")
        require(w.control("remove-disk", address="0:0")["ok"], "remove-disk")
        subprocess.run([context["bulkhead"], "disk", "check", parent], check=True, stdout=subprocess.DEVNULL)
        takes_chains(context, w, parent, child, raw)
        # A block device, where there is one to be had.
        loop = subprocess.run(["losetup", "--find", "--show", raw], capture_output=True, text=True)
        if loop.returncode == 0:
            try:
                require(add(w, loop.stdout.strip())["ok"], f"log: {w.log()}")
                require(w.control("remove-disk", address="0:0")["ok"], "remove-disk")
            finally:
                subprocess.run(["losetup", "--detach", loop.stdout.strip()], check=True)


def test_worker_opens_many_disks(context):
    """More than the soft limit of descriptors, which whoever started it left as it was."""
    with tiny(context, LOOPS) as w:
        paths = [w.path(f"disk{n}") for n in range(60)]
        for path in paths:
            with open(path, "wb") as f:
                f.truncate(1 << 20)
        w.configuration["disks"] = [{"path": path} for path in paths]
        with open(w.path("start"), "w", encoding="ascii") as f:
            f.write(f"#!/bin/sh\nulimit -S -n 40\nexec '{os.path.abspath(w.program)}'\n")
        os.chmod(w.path("start"), 0o700)
        w.program = w.path("start")
        w.run()
        require([d["path"] for d in w.control("status")["disks"]] == paths, f"log: {w.log()}")


def test_worker_is_handed_ports(context):
    """Descriptors that the configuration names are the machine's; all others are closed."""
    mac = "00:15:5d:01:02:03"
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    ours, theirs = zip(*pairs)
    numbers = [s.fileno() for s in theirs]
    with tiny(context, LOOPS) as w:
        w.handed = numbers
        for adapters, text in (([{"mac": mac, "port": "descriptor", "descriptor": 900}], "descriptor 900, which it names, is not open"),
                               ([{"mac": mac, "port": "descriptor", "descriptor": numbers[0]},
                                 {"mac": mac[:-1] + "4", "port": "descriptor", "descriptor": numbers[0]}], "adapters[1].descriptor is named twice")):
            w.configuration["adapters"] = adapters
            expect_refusal(w, "EINVAL", text)
        w.configuration["adapters"] = [{"mac": mac, "port": "descriptor", "descriptor": numbers[1], "label": "lan"}]
        w.run()
        for s in theirs:
            s.close()
        told = w.control("status")["adapters"]
        require([(a["mac"], a["port"], a["label"]) for a in told] == [(mac, "descriptor", "lan")], f"{told}")
        for i, s in enumerate(ours):
            s.settimeout(20)
            if i != 1:
                require(s.recv(1) == b"", "a descriptor that is not named is open")
        require(w.control("plug-adapter", mac=mac, port="none")["ok"], "it is unplugged")
        require(ours[1].recv(1) == b"", "what was unplugged is closed")
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        require(w.control("plug-adapter", [b.fileno()], mac=mac, port="descriptor", label="wan")["ok"], f"log: {w.log()}")
        b.close()
        require(w.control("status")["adapters"][0]["label"] == "wan", "it is plugged into another")
        a.send(bytes(100))
        require(w.control("remove-adapter", mac=mac)["ok"] and w.control("status")["adapters"] == [], "it is gone")


def has_open(keeper, path):
    """Whether the machine's process has; root alone may look."""
    with open(f"/proc/{keeper}/task/{keeper}/children", encoding="ascii") as f:
        machine = f.read().split()[0]
    return path in [os.readlink(f"/proc/{machine}/fd/{fd}") for fd in os.listdir(f"/proc/{machine}/fd")]


def test_worker_is_handed_files(context):
    """Kernel, disk with what it continues and its record: all are open, and under none of the names is there anything by then."""
    with tiny(context, LOOPS) as w:
        kernel, parent, child = w.path("kernel"), w.path("parent.vhdx"), w.path("child.vhdx")
        for arguments in (["create", parent, "64M"], ["create", child, "--parent", parent], ["track", "add", child, "point"]):
            subprocess.run([context["bulkhead"], "disk", *arguments], check=True, stdout=subprocess.DEVNULL)
        files = [kernel, child, parent, child + ".cbt"]
        w.handed = fds = [os.open(path, os.O_RDWR if path == child or path.endswith(".cbt") else os.O_RDONLY) for path in files]
        disk = {"path": child, "descriptor": fds[1], "parents": [{"path": parent, "descriptor": fds[2]}], "record": fds[3]}
        w.configuration["boot"]["kernel_descriptor"] = fds[0]
        for wrong, text in (({**disk, "record": fds[2]}, "disks[0].record is named twice"), ({**disk, "descriptor": fds[0]}, "disks[0].descriptor is named"),
                            ({**disk, "parents": [{"path": parent}]}, "disks[0].parents[0].descriptor is missing"),
                            ({"path": child, "record": fds[3]}, "disks[0].descriptor is missing"),
                            ({"dvd": True, "descriptor": fds[1]}, "disks[0].descriptor has no meaning without a path")):
            w.configuration["disks"] = [wrong]
            expect_refusal(w, "EINVAL", text)
        # Without what it continues it is no disk.
        w.configuration["disks"] = [{**disk, "parents": []}]
        expect_refusal(w, "EOPNOTSUPP", "a differencing disk")
        w.configuration["disks"] = [disk]
        for path in files:
            os.rename(path, path + ".away")
        w.run()
        for fd in fds:
            os.close(fd)
        w.handed = []
        told = w.control("inspect")["disks"][0]
        require([f["path"] for f in told["chain"]] == [child, parent], f"{told}")
        require(os.geteuid() or has_open(w.process.pid, child + ".cbt.away"), "it goes on with the record of changes")
        os.rename(parent + ".away", parent)
        check = subprocess.run([context["bulkhead"], "disk", "check", "--repair", child + ".away"], capture_output=True, text=True)
        require(check.returncode and "has it open" in check.stderr, f"it is locked: {check}")
        require(w.control("power-off")["ok"], "power-off")
        require(w.wait()[0] == 4, f"log: {w.log()}")
        subprocess.run([context["bulkhead"], "disk", "check", child + ".away"], check=True, stdout=subprocess.DEVNULL)


def test_worker_refuses(context):
    with tiny(context, LOOPS) as w:
        expect_refusal(w, "EINVAL", "line 1", w.start("{"))
        expect_refusal(w, "EINVAL", "disks[1].path must be an absolute path", w.start(
            '{"version":1,"name":"n","boot":{"kernel":"/k"},"disks":[{"path":"/d"},{"path":"d"}],"result":"/r","lock":"/l"}'))
        expect_refusal(w, "EFBIG", "larger than 1 MiB", w.start(" " * (2 << 20)))
        require(w.result() is None, "there is a result of a configuration that was not taken")
        # It knows where the result goes from here on.
        w.configuration["disks"] = [{"path": w.path("no-disk")}]
        expect_refusal(w, "ENOENT", "no-disk")
        result = w.result()
        require(result["result"] == "not-started" and "no-disk" in result["error"], f"result: {result}")
        del w.configuration["disks"]
        os.mkdir(w.path("directory"))
        w.configuration["lock"] = w.path("directory")
        expect_refusal(w, "EISDIR", "the lock file cannot be opened")
        for option, status in (("--help", 0), ("--version", 0), ("--verbose", 2)):
            r = subprocess.run([context["worker"], option], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
            require(r.returncode == status, f"{option}: {r}")


def test_worker_with_nobody_to_answer(context):
    """A manager that is gone before the guest runs gets no machine that it does not know of."""
    with tiny(context, LOOPS) as w:
        with open(w.path("log"), "ab") as log:
            w.process = subprocess.Popen([w.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        w.process.stdout.close()
        w.process.stdin.write(json.dumps(w.configuration).encode())
        w.process.stdin.close()
        status, result = w.wait()
        require(status == 1 and result["result"] == "not-started" and "nobody reads" in result["error"], f"{status}: {result}")
