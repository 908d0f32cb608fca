# SPDX-License-Identifier: GPL-2.0-or-later
"""bulkheadd --user: the manager of a user who is not root, has no entry in any list, and needs nothing of the host but files."""

import json
import os
import pwd
import shutil
import socket
import subprocess

from daemon import Daemon, halting_kernel, require, wait_for

PROGRAMS = ("vmms/bulkheadd", "worker/bulkhead-worker", "switch/bulkhead-nat", "cli/bulkhead", "cli/bulkhead-manage")


def nobody_else():
    """The number of a user who is in no list, nor the next one; also where there are but 65536."""
    known = {user.pw_uid for user in pwd.getpwall()}
    return next(uid for uid in range(30000 + os.getpid() * 2 % 30000, 65000) if not {uid, uid + 1} & known)


class UserDaemon(Daemon):
    """In directories of XDG, of a user who is nobody else; of whoever runs the tests, if that is not root."""

    def __init__(self, build):
        super().__init__(build, start=False)
        self.uid = os.getuid() or nobody_else()
        # That user may not get to where they were built.
        for program in PROGRAMS:
            os.makedirs(os.path.join(self.directory, os.path.dirname(program)), exist_ok=True)
            shutil.copy(os.path.join(build, program), os.path.join(self.directory, program))
        self.build = self.directory
        self.environment = {"PATH": os.environ["PATH"], "HOME": os.path.join(self.directory, "home"), "XDG_DATA_HOME": os.path.join(self.directory, "home/data"),
                            "XDG_RUNTIME_DIR": os.path.join(self.directory, "run")}
        self.state, self.runtime = os.path.join(self.directory, "home/data/bulkhead"), os.path.join(self.directory, "run/bulkhead")
        self.socket = os.path.join(self.runtime, "api")
        for path in (self.environment["HOME"], self.environment["XDG_RUNTIME_DIR"]):
            os.mkdir(path, 0o700)
        self.kernel = halting_kernel(os.path.join(self.environment["HOME"], "kernel"))
        for path in (self.environment["HOME"], self.environment["XDG_RUNTIME_DIR"], self.kernel, self.directory):
            os.chown(path, self.uid, -1)
        os.chmod(self.directory, 0o711)  # the programs are for everybody
        self.start()

    def identity(self, uid):
        return {"user": uid, "group": uid, "extra_groups": []} if os.getuid() == 0 else {}

    def command(self):
        return [os.path.join(self.directory, "vmms/bulkheadd"), "--user", "--verbose"]

    def spawn(self, log):
        return subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/", **self.identity(self.uid))

    def cli(self, *arguments, status=0, text=None, environment=None, uid=None):  # pylint: disable=arguments-differ
        r = subprocess.run([os.path.join(self.directory, "cli/bulkhead"), *arguments], capture_output=True, text=True, timeout=600, input=text,
                           stdin=None if text is not None else subprocess.DEVNULL, env={**self.environment, **(environment or {})}, cwd="/",
                           **self.identity(self.uid if uid is None else uid))
        require(r.returncode == status, f"bulkhead {' '.join(arguments)}: status {r.returncode}: {r.stdout}{r.stderr}")
        return r.stdout + r.stderr


def owners(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return {line.split()[1] for line in f if line.startswith("Uid:")}


def test_manage_user_has_machines(context):
    """Made, started, saved, killed under, started again, and deleted: by the user alone, all of it the user's."""
    with UserDaemon(context["build"]) as d:
        require("no machines" in d.cli("vm", "list"), "the command line finds the user's manager")
        require(owners(d.process.pid) == {str(d.uid)}, "it is the user's process")
        d.cli("vm", "create", "web", "--kernel", d.kernel, "--memory", "64M", "--processor", "soft", "--forward", "auto:22", "--start")
        shown = json.loads(d.cli("vm", "show", "web", "--json"))
        require(shown["state"] == "running" and shown["directory"] == os.path.join(d.state, "machines/web"), f"{shown}")
        machine = d.machine_process("web")
        require(owners(shown["pid"]) == {str(d.uid)} and owners(machine) == {str(d.uid)}, "its worker is the user's")
        # Its sandbox is not less than root's machines have.
        for kind in ("mnt", "net", "ipc", "pid"):
            require(os.readlink(f"/proc/{machine}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), f"it has no {kind} namespace of its own: {d.log_text()}")
        port = int(shown["adapters"][0]["forwards"][0].split(":")[1])
        socket.create_connection(("127.0.0.1", port), 10).close()
        d.cli("disk", "create", os.path.join(d.environment["HOME"], "more.vhdx"), "64M")
        d.cli("vm", "add-disk", "web", os.path.join(d.environment["HOME"], "more.vhdx"))
        d.cli("vm", "save", "web")
        require(d.state_of("web") == "saved" and not d.workers(), "saved")
        d.cli("vm", "start", "web")
        pid = d.ok("GET", "/v1/vms/web")["pid"]
        d.kill()
        d.start()
        require(d.state_of("web") == "running" and d.ok("GET", "/v1/vms/web")["pid"] == pid, "adopted")
        d.cli("checkpoint", "create", "web", "good")
        d.cli("vm", "turn-off", "web")
        d.cli("checkpoint", "apply", "web", "good")
        d.cli("vm", "discard", "web")
        for directory, _, files in os.walk(d.state):
            for path in (directory, *(os.path.join(directory, f) for f in files)):
                require(os.lstat(path).st_uid == d.uid, f"{path} is another's")
        d.cli("vm", "delete", "web", "--force")
        require(os.listdir(os.path.join(d.state, "machines")) == [], "nothing is left")
        require(d.stop() == 0, "it ends")


def test_manage_user_is_alone(context):
    """Another user is refused, by the place of the socket and by who he is; root is not. What takes root is refused, and that is said."""
    with UserDaemon(context["build"]) as d:
        require(os.stat(d.socket).st_uid == d.uid and not os.stat(d.socket).st_mode & 0o007, "the socket is nobody else's")
        if os.getuid() == 0:
            require("switches need root" in d.cli("switch", "create", "lan", "--type", "internal", status=1), "a switch is the host's")
        d.cli("vm", "create", "web", "--kernel", d.kernel, "--memory", "64M", "--processor", "soft", "--network", "tap:bh-none")
        if os.getuid() == 0:
            refused = d.cli("vm", "start", "web", status=1)
            require("tap interface" in refused or "bh-none" in refused, f"a tap interface is the host's: {refused}")
            require(d.state_of("web") == "off", "it is not half started")
        require("control group" in limits_problem(d), "what it may take cannot be put into force")
        r = subprocess.run([*d.command(), "--state", "/bulkhead-of-root"], capture_output=True, text=True, timeout=60, env=d.environment, **d.identity(d.uid))
        require(os.getuid() != 0 or (r.returncode == 1 and "/bulkhead-of-root cannot be made: Permission denied" in r.stderr), f"a place of root's: {r}")
        if os.getuid() != 0:
            raise context["skip"]("to be another user takes root")
        said = d.cli("vm", "list", uid=d.uid + 1, status=1)
        require("ermission" in said, f"the directory is not his: {said}")
        for path in (d.environment["XDG_RUNTIME_DIR"], d.runtime):
            os.chmod(path, 0o755)
        os.chmod(d.socket, 0o666)
        for words in (("vm", "list"), ("vm", "delete", "web", "--force")):
            said = d.cli(*words, uid=d.uid + 1, status=1)
            require("web" not in said and "role" in said, f"another user: {said}")
        require("web" in d.cli("vm", "list", uid=0, environment={"BULKHEAD_SOCKET": d.socket}), "root may")


def limits_problem(d):
    d.cli("vm", "set", "web", "--network", "none")
    d.cli("vm", "limits", "web", "--processor-weight", "250")
    d.cli("vm", "start", "web")
    wait_for(lambda: d.state_of("web") == "running", "it to run")
    problem = d.ok("GET", "/v1/vms/web").get("limits_problem", "")
    d.cli("vm", "turn-off", "web")
    return problem
