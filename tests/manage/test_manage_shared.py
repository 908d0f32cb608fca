# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's directory that more than one host can reach: who has it, and what one that died in the middle of something leaves to the other."""

import http.client
import os
import signal
import subprocess

from daemon import Daemon, DaemonError, require, wait_for
from test_manage_checkpoint import contents, make_web, says, write


def register(d, directory):
    return d.ok("POST", "/v1/vms/register", {"directory": directory})


def leave(d):
    d.done("DELETE", "/v1/vms/web?files=keep")


def test_manage_two_daemons_and_one_directory(context):
    """It runs once; who comes later goes on from what the other has left: saved state, checkpoints, disks."""
    with Daemon(context["build"]) as a, Daemon(context["build"]) as b:
        make_web(a)
        write(a, "begin")
        directory = a.ok("GET", "/v1/vms/web")["directory"]
        a.done("POST", "/v1/vms/web/start")
        pid = a.ok("GET", "/v1/vms/web")["pid"]
        # Neither registered nor copied nor killed by another.
        b.refused(409, "busy", "POST", "/v1/vms/register", {"directory": directory}, f"process {pid} runs this machine for another daemon")
        for mode in ("register", "restore", "copy"):
            job = b.job("POST", "/v1/vms/import", {"directory": directory, "mode": mode, "outside": True})
            require(job["state"] == "failed" and job["error"]["code"] == "busy", f"{mode}: {job}")
        require(not b.ok("GET", "/v1/vms")["vms"], "it has nothing of it")
        a.done("POST", "/v1/vms/web/checkpoints", {"name": "ran"})
        a.done("POST", "/v1/vms/web/save")
        register(b, directory)
        require(b.state_of("web") == "saved" and [c["name"] for c in b.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]] == ["ran"], "what A has left")
        b.done("POST", "/v1/vms/web/start")
        # And now the first one is the other.
        vm = a.ok("GET", "/v1/vms/web")
        require(vm["state"] == "broken" and "another daemon" in vm["problem"], f"A knows: {vm}")
        for method, path, body in (("POST", "start", None), ("POST", "turn-off", None), ("POST", "checkpoints", {"name": "late"}), ("POST", "save", None)):
            status, answer = a.call(method, f"/v1/vms/web/{path}", body)
            require(status == 409, f"{path}: {status} {answer}")
        a.refused(409, "wrong-state", "PATCH", "/v1/vms/web", {"notes": "mine"}, "another daemon")
        # Nor does a daemon that starts anew take it.
        a.stop()
        a.start()
        require(a.state_of("web") == "broken" and b.state_of("web") == "running", "as before")
        b.done("DELETE", "/v1/vms/web/checkpoints/ran")
        b.done("POST", "/v1/vms/web/checkpoints", {"name": "later"})
        b.done("POST", "/v1/vms/web/turn-off")
        wait_for(lambda: a.state_of("web") == "off", "A to see that it is free")
        require([c["name"] for c in a.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]] == ["later"] and says(a, "begin"), "what B has left")
        a.done("POST", "/v1/vms/web/checkpoints/later/apply")
        require(a.state_of("web") == "saved", "its state is there, too")
        leave(b)
        a.done("POST", "/v1/vms/web/start")
        a.done("POST", "/v1/vms/web/turn-off")


class Mortal(Daemon):
    """Dies before a given one of the calls by which names come and go, from when it is told to (kill_at.c)."""
    def __init__(self, build, library, at):
        self.library, self.at = library, at
        super().__init__(build)

    def spawn(self, log):
        return subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                env=dict(os.environ, LD_PRELOAD=self.library, KILL_AT=str(self.at), KILL_FILE=os.path.join(self.directory, "kill")))

    def asked_to(self, method, path):
        """True: it has done it, and lives."""
        with open(os.path.join(self.directory, "kill"), "w", encoding="ascii"):
            pass
        try:
            job = self.job(method, path)
            require(job["state"] == "done", f"{path}: {job}")
            wait_for(lambda: self.process.poll() is not None or all(j["state"] != "running" for j in self.ok("GET", "/v1/jobs?limit=20")["jobs"]), "what follows")
            return self.process.poll() is None
        except (OSError, http.client.HTTPException):
            self.process.wait(30)
            return False


def library_of(context):
    out = os.path.join(context["build"], "tests", "kill_at.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kill_at.c")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", out + ".new", source, "-ldl"], check=True)
    except FileNotFoundError:
        raise context["skip"]("there is no C compiler") from None
    os.rename(out + ".new", out)
    return out


def look_right(b, directory, texts, where):
    """Another daemon, which knows nothing of what the first was at: the machine is what it was, and can be used."""
    # What a keeper that was killed leaves holds the lock until it has ended, too.
    wait_for(lambda: b.call("POST", "/v1/vms/register", {"directory": directory})[0] != 409, "the lock to be free")
    wait_for(lambda: all(j["state"] != "running" for j in b.ok("GET", "/v1/jobs?limit=20")["jobs"]), "what it finds to do")
    require(b.state_of("web") in ("off", "saved"), f"{where}: {b.ok('GET', '/v1/vms/web')}")
    vm = b.ok("GET", "/v1/vms/web")
    bytes_ = contents(b, os.path.join(directory, vm["config"]["disks"][0]["path"]))
    for offset, text in texts.items():
        require(bytes_[offset:].startswith(text.encode()), f"{where}: not {text!r} at {offset}, but {bytes_[offset:offset + 8]!r}; {sorted(os.listdir(directory))}")
    b.done("POST", "/v1/vms/web/start")
    b.done("POST", "/v1/vms/web/checkpoints", {"name": "after"})
    b.done("POST", "/v1/vms/web/turn-off")
    b.done("DELETE", "/v1/vms/web/checkpoints/after")
    for c in b.ok("GET", "/v1/vms/web/checkpoints")["checkpoints"]:
        b.done("DELETE", f"/v1/vms/web/checkpoints/{c['id']}")
    bytes_ = contents(b, os.path.join(directory, b.ok("GET", "/v1/vms/web")["config"]["disks"][0]["path"]))
    for offset, text in texts.items():
        require(bytes_[offset:].startswith(text.encode()), f"{where}: later not {text!r} at {offset}")
    leave(b)


def killed_at_each_step(context, prepare, method, path):
    """The same again and again, killed one step later each time, and its workers with it, until it comes to its end."""
    library = library_of(context)
    with Daemon(context["build"]) as b:
        for at in range(1, 400):
            with Mortal(context["build"], library, at) as a:
                texts = prepare(a)
                directory = a.ok("GET", "/v1/vms/web")["directory"]
                lived = a.asked_to(method, path)
                a.kill()
                for pid in a.workers():
                    os.kill(pid, signal.SIGKILL)
                wait_for(lambda d=a: not d.workers(), "the workers to end")
                try:
                    look_right(b, directory, texts, f"killed at step {at}")
                except DaemonError as e:
                    raise DaemonError(f"killed at step {at} of {method} {path}: {e}\n{b.log_text()}") from e
                if lived:
                    print(f"     {at - 1} steps")
                    return
    raise AssertionError("it never came to its end")


def chain(d, run):
    """Three disks with something of their own in each; the checkpoint in the middle goes."""
    d.make("web")
    path = os.path.join(d.ok("GET", "/v1/vms/web")["directory"], "disk.vhdx")
    with open(path + ".raw", "wb") as f:
        f.truncate(5 << 20)
    d.cli("disk", "convert", path + ".raw", path)
    os.unlink(path + ".raw")
    d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": "disk.vhdx"}]})
    texts = {}
    for i, name in enumerate(("one", "two", "three")):
        texts[(i + 1) << 20] = name
        write(d, name, (i + 1) << 20)
        if name != "three":
            d.done("POST", "/v1/vms/web/checkpoints", {"name": name})
    if run:
        d.done("POST", "/v1/vms/web/start")
    return texts


def test_manage_killed_at_each_step_of_a_merge(context):
    """Of a machine that is off: of its uppermost disk, and in the middle of the chain, where what is above gets another parent."""
    for name in ("two", "one"):
        killed_at_each_step(context, lambda d: chain(d, False), "DELETE", f"/v1/vms/web/checkpoints/{name}")


def test_manage_killed_at_each_step_of_a_live_merge(context):
    for name in ("two", "one"):
        killed_at_each_step(context, lambda d: chain(d, True), "DELETE", f"/v1/vms/web/checkpoints/{name}")


def test_manage_killed_at_each_step_of_applying(context):
    def prepare(d):
        return {offset: text for offset, text in chain(d, False).items() if text != "three"}
    killed_at_each_step(context, prepare, "POST", "/v1/vms/web/checkpoints/two/apply")
