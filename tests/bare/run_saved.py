# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines of a few bytes saved by bulkhead-worker and gone on with: what is told, what is refused, what goes on when it fails."""

import json
import os
import resource
import socket
import subprocess
import tempfile
import threading

from run_worker import require, tiny
from worker_program import WorkerError, wait_for

# Counts in memory, 64 KiB apart so that many pages are used, and writes the round's letter to COM1:
#   mov edi, 0x200000; mov al, 'a'
#   again: mov edx, 0x3f8; out dx, al; mov [edi], al; add edi, 0x10000; cmp edi, 0x7000000; jb over; mov edi, 0x200000
#   over: inc al; cmp al, 'z'+1; jne wait; mov al, 'a'; wait: mov ecx, 20000; loop $; jmp again
COUNTS = bytes.fromhex("bf00002000" "b061" "baf8030000" "ee" "8807" "81c700000100" "81ff00000007" "7205" "bf00002000"
                       "fec0" "3c7b" "7502" "b061" "b9204e0000" "e2fe" "ebd9")


def save(worker, path, flags=os.O_WRONLY | os.O_CREAT | os.O_EXCL):
    fd = os.open(path, flags, 0o600)
    try:
        return worker.control("save", [fd], fd=True)
    finally:
        os.close(fd)


def expect_error(answer, text):
    require(answer["ok"] is False and text in answer["error"], f"no {text!r}: {answer}")


def counts(context, **configuration):
    return tiny(context, COUNTS, **configuration)


def wait_for_letters(worker, more=30):
    before = len(worker.read("serial"))
    wait_for(lambda: len(worker.read("serial")) > before + more, "letters on the serial port")


def alphabet_from(text):
    """The first letter that does not follow the one before, None: all do."""
    for i in range(1, len(text)):
        if ord(text[i]) != (ord(text[i - 1]) - 96) % 26 + 97:
            return i
    return None


def test_saved_goes_on(context):
    with counts(context) as w:
        w.run()
        wait_for_letters(w)
        text = ""
        for n in range(3):
            state = w.path(f"state{n}")
            answer = save(w, state)
            require(answer["ok"] and answer["bytes"] == os.path.getsize(state), f"{answer}")
            require(w.wait() == (5, {"version": 1, "result": "saved"}), f"its end: {w.wait()}; log: {w.log()}")
            require(not os.path.exists(w.path("control")), "the control socket stays")
            text += w.read("serial")  # the next worker begins it anew
            w.configuration["restore"] = state
            w.run()
            os.unlink(state)
            wait_for_letters(w)
        text += w.read("serial")
        require(alphabet_from(text) is None, f"letter {alphabet_from(text)} of {len(text)} does not follow: {text}")
        # A reset does not go back to what was saved. By chance the letter before was a z.
        for _ in range(5):
            resets = w.log().count("the guest restarts")
            require(w.control("reset")["ok"], "reset")
            wait_for(lambda: w.log().count("the guest restarts") > resets, "the restart")
            wait_for_letters(w)
            if alphabet_from(w.read("serial")) is not None:
                break
        else:
            raise AssertionError(f"the guest does not begin anew: {w.read('serial')}; log: {w.log()}")
        require(w.control("power-off")["ok"], "power-off")
        require(w.wait()[0] == 4, f"log: {w.log()}")


def test_saved_paused(context):
    """A machine that was paused is saved as any other; one that could not be is still paused."""
    with counts(context) as w:
        w.run()
        wait_for_letters(w)
        require(w.control("pause")["ok"], "pause")
        expect_error(w.control("save", fd=True), "one descriptor")
        require(w.control("status")["state"] == "paused", "not paused any more")
        require(save(w, w.path("state"))["ok"], "save")
        w.wait()
        w.configuration["restore"] = w.path("state")
        w.run()
        wait_for_letters(w)
        require(alphabet_from(w.read("serial")) is None, f"not the alphabet: {w.read('serial')}")


def test_saved_refuses_files(context):
    with counts(context) as w:
        w.run()
        with open(w.path("there"), "wb") as f:
            f.write(b"x" * 10000)
        expect_error(save(w, w.path("there"), os.O_RDONLY), "not open for writing")
        expect_error(save(w, w.path("there"), os.O_WRONLY | os.O_APPEND), "only for appending")
        expect_error(save(w, "/dev/null", os.O_WRONLY), "regular file")
        expect_error(w.control("cancel"), "no command")
        wait_for_letters(w)
        require(save(w, w.path("there"), os.O_WRONLY)["ok"], "a file that is there is overwritten")
        w.wait()
        w.configuration["restore"] = w.path("there")
        w.run()
        wait_for_letters(w)


def test_saved_with_no_room(context):
    """A full file system: the machine goes on, and can be saved elsewhere."""
    with counts(context) as w, tempfile.TemporaryDirectory() as small:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], capture_output=True).returncode != 0:
            return limit_file_size(w)
        try:
            w.run()
            wait_for_letters(w, 60)
            answer = save(w, os.path.join(small, "state"))
        finally:
            subprocess.run(["umount", small], check=True)
        if answer["ok"]:
            raise AssertionError(f"the machine fits into 8 KiB: {answer}")
        goes_on_after(w, answer, "No space left on device")


def limit_file_size(w):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        w.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    goes_on_after(w, save(w, w.path("state")), "File too large")


def goes_on_after(w, answer, text):
    expect_error(answer, text)
    require(w.control("status")["state"] == "running", f"{w.control('status')}")
    wait_for_letters(w)
    require(save(w, w.path("elsewhere"))["ok"], "save")
    w.wait()
    require(alphabet_from(w.read("serial")) is None, f"not the alphabet: {w.read('serial')}")


def expect_no_restore(w, text):
    answer = w.start()
    require(answer["ok"] is False and text in answer["error"], f"no {text!r}: {answer}")
    require(w.wait()[0] == 1, "one that does not start has a status of its own")


def test_saved_does_not_fit(context):
    """What the saved machine had and this one has not is told."""
    with counts(context, cpus=2) as w:
        disk = w.path("disk.vhdx")
        subprocess.run([context["worker"].replace("worker/bulkhead-worker", "cli/bulkhead"), "disk", "create", disk, "64M"], check=True)
        w.configuration["disks"] = [{"path": disk}]
        w.run()
        require(save(w, w.path("state"))["ok"], "save")
        w.wait()
        w.configuration["restore"] = w.path("state")
        for changes, text in (({"cpus": 1}, "2 virtual processors and this one 1"),
                              ({"memory": 256 << 20}, "128 MiB of memory, and this one has 256 MiB"),
                              ({"disks": []}, "has 1 disks and this one 0"),
                              ({"disks": [{"path": disk, "controller": 1}]}, "give the machine the disks that it had"),
                              ({"disks": [{"path": disk, "dvd": True}]}, "knows a hard disk"),
                              ({"serial": []}, "other serial ports"),
                              ({"debug_exit": True}, "without the exit port"),
                              ({"restore": w.path("nothing")}, "cannot be opened"),
                              ({"restore": disk}, "is no saved machine"),
                              ({"restore": w.path("kernel")}, "too short"),
                              ({"restore": w.directory}, "no regular file")):
            before = w.configuration
            w.configuration = {**before, **changes}
            expect_no_restore(w, text)
            w.configuration = before
        subprocess.run([context["worker"].replace("worker/bulkhead-worker", "cli/bulkhead"), "disk", "resize", disk, "80M"], check=True)
        expect_no_restore(w, "it is another disk, or was resized")


def test_saved_damaged(context):
    """Every part of the file that changes is found out, with its place."""
    with counts(context) as w:
        w.run()
        wait_for_letters(w)
        require(save(w, w.path("state"))["ok"], "save")
        w.wait()
        with open(w.path("state"), "rb") as f:
            whole = f.read()
        w.configuration["restore"] = w.path("damaged")
        places = [(0, "no saved machine"), (9, "version"), (40, "checksum of the header"), (4200, "at byte 4096"),
                  (whole.index(b"ioapic") + 40, 'section "ioapic"'), (whole.index(b"channels") + 30, 'section "channels"'),
                  (len(whole) - 5, "checksum of the index")]
        for at, text in places:
            with open(w.path("damaged"), "wb") as f:
                f.write(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1:])
            expect_no_restore(w, text)
        for size, text in ((0, "too short"), (4096, "it has 4096 bytes"), (len(whole) - 1, "it has")):
            with open(w.path("damaged"), "wb") as f:
                f.write(whole[:size])
            expect_no_restore(w, text)
        with open(w.path("damaged"), "wb") as f:
            f.write(bytes(4096) + whole[4096:])
        expect_no_restore(w, "did not come to its end")


def cancel(w):
    """None: the machine came to its end before that was read."""
    try:
        return w.control("cancel")
    except (WorkerError, ConnectionRefusedError, FileNotFoundError):
        return None


def test_saved_cancelled(context):
    """While it is saved, a machine tells how far that is, does nothing else, and can be let go on."""
    with counts(context, memory=2 << 30) as w:
        w.run()
        wait_for_letters(w)
        fd = os.open(w.path("state"), os.O_WRONLY | os.O_CREAT)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(60)
            s.connect(w.path("control"))
            socket.send_fds(s, [json.dumps({"version": 1, "command": "save", "fd": True}).encode() + b"\n"], [fd])
            os.close(fd)
            status = w.control("status")
            cancelled = cancel(w) if status["state"] == "saving" else None
            answer = json.loads(s.makefile().readline())
        if status["state"] == "saving":
            require(0 <= status["progress"]["done"] <= status["progress"]["total"], f"progress: {status}")
        if not answer["ok"]:
            require(cancelled, f"nobody cancelled: {answer}")
            expect_error(answer, "cancelled")
            wait_for_letters(w)
            require(save(w, w.path("again"))["ok"], "save")
        require(w.wait() == (5, {"version": 1, "result": "saved"}), f"log: {w.log()}")


def bulkhead(context, *arguments):
    return subprocess.run([context["worker"].replace("worker/bulkhead-worker", "cli/bulkhead"), *arguments], check=True, capture_output=True,
                          text=True).stdout


def new_file(path):
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def checkpoint(w, state, disks):
    """`disks`: address, name of the new file, name of the file of now."""
    fds = ([new_file(state)] if state else []) + [new_file(child) for _, child, _ in disks]
    try:
        return w.control("checkpoint", fds, fd=bool(state),
                         disks=[{"address": address, "path": child, "parent": parent} for address, child, parent in disks])
    finally:
        for fd in fds:
            os.close(fd)


def two_disks(context, w):
    paths = [w.path("a.vhdx"), w.path("b.vhdx")]
    for path in paths:
        bulkhead(context, "disk", "create", path, "64M")
    w.configuration["disks"] = [{"path": path} for path in paths]
    return paths


def test_checkpoint_goes_on(context):
    """The guest goes on, and so does what was saved, on disks of its own; the link that is left is merged while it runs."""
    with counts(context) as w:
        a, b = two_disks(context, w)
        w.run()
        wait_for_letters(w)
        answer = checkpoint(w, w.path("state"), [("0:0", w.path("a1.vhdx"), a), ("0:1", w.path("b1.vhdx"), b)])
        require(answer["ok"] and answer["bytes"] == os.path.getsize(w.path("state")), f"{answer}; log: {w.log()}")
        wait_for_letters(w)
        require([d["path"] for d in w.control("status")["disks"]] == [w.path("a1.vhdx"), w.path("b1.vhdx")], f"{w.control('status')}")
        # Of the disks alone.
        require(checkpoint(w, None, [("0:0", w.path("a2.vhdx"), w.path("a1.vhdx"))])["ok"], f"log: {w.log()}")
        require(w.control("merge-disk", address="0:0")["ok"], f"log: {w.log()}")  # a2 into a1
        fd = os.open(b, os.O_RDWR)
        answer = w.control("merge-disk", [fd], address="0:1", parent=True)  # b1 into b
        os.close(fd)
        require(answer["ok"], f"{answer}; log: {w.log()}")
        require([d["path"] for d in w.control("status")["disks"]] == [w.path("a1.vhdx"), b], f"{w.control('status')}")
        expect_error(w.control("merge-disk", address="0:1"), "")
        expect_error(w.control("merge-disk", address="0:7"), "no hard disk")
        wait_for_letters(w)
        text = w.read("serial")
        require(alphabet_from(text) is None, f"not the alphabet: {text}")
        require(w.control("power-off")["ok"], "power-off")
        w.wait()
        for path in (w.path("a2.vhdx"), w.path("b1.vhdx")):
            require(open(path, "rb").read(8) != b"vhdxfile", f"{path} is a disk still")
        # What was saved goes on at its letter.
        bulkhead(context, "disk", "create", w.path("a3.vhdx"), "--parent", a)
        w.configuration["disks"] = [{"path": w.path("a3.vhdx")}, {"path": b}]
        w.configuration["restore"] = w.path("state")
        w.run()
        wait_for_letters(w)
        require(alphabet_from(w.read("serial")) is None, f"not the alphabet: {w.read('serial')}")


def test_merged_while_looked_at(context):
    """Files leave a disk's chain while others ask for it."""
    with counts(context) as w:
        a, _ = two_disks(context, w)
        w.run()
        stop, failures = threading.Event(), []

        def look():
            while not stop.is_set():
                paths = [f["path"] for f in w.control("status")["disks"][0]["chain"]]
                if paths not in ([a], [w.path("a1.vhdx"), a]):
                    failures.append(paths)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(12):
                answer = checkpoint(w, None, [("0:0", w.path("a1.vhdx"), a)])
                require(answer["ok"], f"{answer}; log: {w.log()}")
                fd = os.open(a, os.O_RDWR)
                answer = w.control("merge-disk", [fd], address="0:0", parent=True)
                os.close(fd)
                require(answer["ok"], f"{answer}; log: {w.log()}")
                os.unlink(w.path("a1.vhdx"))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        require(not failures, f"chains that never were: {failures[:3]}")
        wait_for_letters(w)


def test_checkpoint_fails_whole(context):
    """One disk that cannot be split, and none is; the guest goes on."""
    with counts(context) as w:
        a, b = two_disks(context, w)
        bulkhead(context, "disk", "create", w.path("c.raw"), "64M", "--format", "raw")
        w.configuration["disks"].append({"path": w.path("c.raw")})
        w.run()
        wait_for_letters(w)
        answer = checkpoint(w, w.path("state"), [("0:0", w.path("a1.vhdx"), a), ("0:1", w.path("b1.vhdx"), b),
                                                 ("0:2", w.path("c1.vhdx"), w.path("c.raw"))])
        expect_error(answer, "c.raw")
        require([d["path"] for d in w.control("status")["disks"]] == [a, b, w.path("c.raw")], f"{w.control('status')}; {w.log()}")
        wait_for_letters(w)
        expect_error(checkpoint(w, None, []), "needs a descriptor")
        expect_error(checkpoint(w, None, [("0:9", w.path("x.vhdx"), a)]), "no hard disk")
        expect_error(checkpoint(w, None, [("0:0", w.path("y.vhdx"), a), ("0:0", w.path("z.vhdx"), a)]), "comes twice")
        expect_error(w.control("checkpoint", disks=[{"address": "0:0", "path": "/x", "parent": a}]), "more descriptors")
        expect_error(w.control("checkpoint", disks=[{"address": "0:0", "path": "x", "parent": a}]), "absolute path")
        require(checkpoint(w, w.path("state2"), [("0:0", w.path("a4.vhdx"), a), ("0:1", w.path("b4.vhdx"), b)])["ok"], f"log: {w.log()}")
        wait_for_letters(w)
        require(alphabet_from(w.read("serial")) is None, f"not the alphabet: {w.read('serial')}")


def test_checkpoint_cancelled(context):
    """A checkpoint that is given up leaves the guest and its disk as they were, and the next one is made."""
    with counts(context, memory=2 << 30) as w:
        a, _ = two_disks(context, w)
        w.run()
        wait_for_letters(w)
        fds = [new_file(w.path("state")), new_file(w.path("a1.vhdx"))]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(60)
            s.connect(w.path("control"))
            socket.send_fds(s, [json.dumps({"version": 1, "command": "checkpoint", "fd": True, "disks": [
                {"address": "0:0", "path": w.path("a1.vhdx"), "parent": a}]}).encode() + b"\n"], fds)
            for fd in fds:
                os.close(fd)
            status = w.control("status")
            cancelled = w.control("cancel") if "progress" in status else None
            answer = json.loads(s.makefile().readline())
        require(status["state"] == "running", f"the guest does not run: {status}")
        if answer["ok"]:
            a = w.path("a1.vhdx")  # it was quicker
        else:
            require(cancelled, f"nobody cancelled: {answer}")
            expect_error(answer, "cancelled")
        wait_for_letters(w)
        require(w.control("status")["disks"][0]["path"] == a, f"{w.control('status')}")
        require(checkpoint(w, w.path("state2"), [("0:0", w.path("a2.vhdx"), a)])["ok"], f"log: {w.log()}")
        wait_for_letters(w)
        require(alphabet_from(w.read("serial")) is None, f"not the alphabet: {w.read('serial')}")
