# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as a service: a socket that is handed over, telling when it is ready, control groups of machines."""

import os
import shutil
import socket
import subprocess
import tempfile

from daemon import Daemon, require, wait_for


def test_service_socket_is_handed_over(context):
    with Daemon(context["build"], start=False) as d, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, \
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        notify.bind(os.path.join(d.directory, "notify"))
        notify.settimeout(30)
        d.socket = os.path.join(d.directory, "elsewhere")
        listener.bind(d.socket)
        listener.listen(8)
        # A client that is there first waits until the daemon takes it.
        early = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        early.connect(d.socket)
        early.sendall(b"GET /v1/host HTTP/1.1\r\nHost: bulkhead\r\nConnection: close\r\n\r\n")
        early.settimeout(30)
        d.process = subprocess.Popen(["sh", "-c", 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"', str(listener.fileno()),
                                      *d.command()], pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     env=dict(os.environ, NOTIFY_SOCKET=os.path.join(d.directory, "notify")))
        require(notify.recv(100) == b"READY=1", "it is told that the daemon is ready")
        require(early.recv(100).startswith(b"HTTP/1.1 200"), "who came before it is answered")
        early.close()
        require(not os.path.exists(os.path.join(d.runtime, "api")), "no other socket is made")
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        for pid in d.workers():
            with open(f"/proc/{pid}/environ", encoding="utf-8") as f:
                require("LISTEN_" not in f.read(), "a worker is not told of the socket")
        require(d.stop() == 0 and os.path.exists(d.socket), "the socket is the manager's, and stays")


def own_group():
    """A control group of version 2 that we may use, or None."""
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(os.path.join(mount, "cgroup.procs")) and os.path.exists(os.path.join(mount, "cgroup.controllers")):
            try:
                return tempfile.mkdtemp(prefix="bulkhead-test-", dir=mount)
            except OSError:
                pass
    return None


def group_of(pid):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
        return [line.rstrip("\n")[3:] for line in f if line.startswith("0::")][0]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return f.read().split()


def test_service_control_groups(context):
    group = own_group()
    if not group:
        raise context["skip"]("no control group (version 2) can be made here")
    name = "/" + os.path.basename(group)
    try:
        with Daemon(context["build"], start=False) as d:
            d.more = ["--cgroup", group]
            d.start()
            d.make("web")
            own = f"{name}/vm-{d.ok('GET', '/v1/vms/web')['id']}"
            d.done("POST", "/v1/vms/web/start")
            keeper = d.workers()[0]
            require(group_of(keeper) == own, f"the worker is in {group_of(keeper)}, not in {own}")
            require(children(keeper) and all(group_of(c) == own for c in children(keeper)), "and so is its machine")
            require(group_of(d.process.pid) != own, "the daemon is not")
            # It dies with nobody looking: the next daemon clears up.
            d.kill()
            os.kill(keeper, 9)
            wait_for(lambda: not d.workers(), "the worker to end")
            wait_for(lambda: "populated 0" in open(os.path.join(group, os.path.basename(own), "cgroup.events"), encoding="ascii").read(),
                     "its group to be empty")
            d.start()
            require(not os.path.exists(os.path.join(group, os.path.basename(own))), "an empty group is removed at the start")
            d.done("POST", "/v1/vms/web/start")
            require(os.path.exists(os.path.join(group, os.path.basename(own))), "it is made anew")
            d.done("POST", "/v1/vms/web/turn-off")
            wait_for(lambda: not os.path.exists(os.path.join(group, os.path.basename(own))), "its group to be removed", 10)
    finally:
        os.rmdir(group)


def test_service_bad_control_group(context):
    with Daemon(context["build"], start=False) as d:
        for group, words in ((d.directory, "no control group of version 2"), ("/nonexistent", "No such file")):
            r = subprocess.run([*d.command(), "--cgroup", group], capture_output=True, text=True, timeout=60)
            require(r.returncode == 1 and words in r.stderr, f"--cgroup {group}: {r}")
        shutil.rmtree(d.state, ignore_errors=True)
