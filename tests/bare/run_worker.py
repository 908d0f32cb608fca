# SPDX-License-Identifier: GPL-2.0-or-later
"""bulkhead-worker with guests of a few bytes and with the bare guests: start, answer, lock, result, end."""

import json
import os
import re
import signal
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
        require(w.read("lock") == f"{pid}\n", f"the lock file says {w.read('lock')!r}, not {pid}")
        require(w.wait() == (0, {"version": 1, "result": "powered-off", "guest_code": 1}), f"its end: {w.wait()}")
        require(re.search(r"^\d+ tests, 0 failed", w.read("serial"), re.MULTILINE), w.read("serial")[-1000:])
        require(not os.path.exists(w.path("control")), "the control socket stays")
        require(w.log() == "", f"it has something to say: {w.log()}")


def test_worker_tells_the_guests_code(context):
    with tiny(context, EXITS, debug_exit=True) as w:
        w.run()
        require(w.wait() == (0, {"version": 1, "result": "powered-off", "guest_code": 11}), f"its end: {w.wait()}")


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
        require(w.wait() == (4, {"version": 1, "result": "power-cut"}), f"its end: {w.wait()}")


def test_worker_ends_by_reset(context):
    with tiny(context, RESETS, no_reboot=True) as w:
        w.run()
        require(w.wait() == (0, {"version": 1, "result": "reset"}), f"its end: {w.wait()}")


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
