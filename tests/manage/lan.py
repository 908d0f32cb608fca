# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts as network namespaces, wired by veth pairs, and a daemon in one of them."""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from daemon import Daemon, require, wait_for

NUMBERS = itertools.count()


def run(*argv, check=True):
    r = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    require(not check or r.returncode == 0, f"{' '.join(argv)}: {r.stdout}{r.stderr}")
    return r


class Host:
    """A network namespace; its loopback is up."""

    def __init__(self):
        self.name = f"bh{os.getpid()}-{next(NUMBERS)}"
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def close(self):
        run("ip", "netns", "delete", self.name, check=False)

    def argv(self, *argv):
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv, check=True):
        return run(*self.argv(*argv), check=check)

    def ip(self, *argv):
        return self.run("ip", *argv).stdout

    def json(self, *argv):
        return json.loads(self.run("ip", "-j", *argv).stdout or "[]")

    def links(self):
        return sorted(link["ifname"] for link in self.json("link"))

    def give(self, interface, *addresses):
        for address in addresses:
            self.ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        self.ip("link", "set", interface, "up")

    def reaches(self, address, *more, seconds=1):
        return self.run("ping", "-n", "-q", "-c", "1", "-W", str(seconds), *more, address, check=False).returncode == 0


def wire(a, a_name, b, b_name):
    """A cable: a veth pair. Checksums are filled, as on a wire."""
    run("ip", "link", "add", a_name, "netns", a.name, "type", "veth", "peer", "name", b_name, "netns", b.name)


class Capture:
    """What an interface of a host sees, by tcpdump."""

    def __init__(self, host, interface, expression=""):
        self.process = subprocess.Popen(host.argv("tcpdump", "-n", "-e", "-l", "-U", "-i", interface, *expression.split()), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.text = b""
        require(select.select([self.process.stderr], [], [], 30)[0], "tcpdump does not begin")
        while b"listening on" not in self.process.stderr.readline():
            require(self.process.poll() is None, "tcpdump has ended")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def seen(self, text, seconds=0):
        """Whether a line with this text came by now, or within so many seconds."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.text:
            left = deadline - time.monotonic()
            if not select.select([self.process.stdout], [], [], max(left, 0))[0]:
                return False
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                return False
            self.text += more
        return True


class OtherSwitch:
    """A switch that is not ours: Open vSwitch with a bridge br0 in a host, set up by its own tools."""

    def __init__(self, host):
        self.host = host
        self.directory = tempfile.mkdtemp(prefix="bh-")
        self.run("ovsdb-tool", "create", f"{self.directory}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        for name, arguments in (("ovsdb-server", [f"{self.directory}/conf.db", f"--remote=punix:{self.directory}/db.sock"]),
                                ("ovs-vswitchd", [f"unix:{self.directory}/db.sock"])):
            self.run(name, *arguments, "--detach", "--no-chdir", f"--pidfile={self.directory}/{name}.pid", f"--log-file={self.directory}/{name}.log",
                     f"--unixctl={self.directory}/{name}.ctl", "-vconsole:off")
            if name == "ovsdb-server":
                self.set("init", "--", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true", wait=False)
        self.set("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in ("ovs-vswitchd", "ovsdb-server"):
            try:
                with open(f"{self.directory}/{name}.pid", encoding="ascii") as f:
                    os.kill(int(f.read()), 9)
            except (OSError, ValueError):
                continue
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *argv):
        return self.host.run("env", f"OVS_RUNDIR={self.directory}", f"OVS_DBDIR={self.directory}", f"OVS_LOGDIR={self.directory}", *argv).stdout

    def set(self, *argv, wait=True):
        return self.run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *([] if wait else ["--no-wait"]), *argv)

    def ask(self, *argv):
        return self.run("ovs-appctl", "-t", f"{self.directory}/ovs-vswitchd.ctl", *argv)


class LanDaemon(Daemon):
    """A daemon that has a host of its own."""

    def __init__(self, build, host, **config):
        self.host = host
        super().__init__(build, start=False)
        self.configure(open_vswitch="own", **config)
        self.start()

    def command(self):
        return self.host.argv(*super().command())

    def switch_pids(self):
        """Of Open vSwitch's daemons: {name: pid} of those that live."""
        pids = {}
        for name in ("ovs-vswitchd", "ovsdb-server"):
            try:
                with open(os.path.join(self.runtime, "switches", name + ".pid"), encoding="ascii") as f:
                    pid = int(f.read())
                os.kill(pid, 0)
                pids[name] = pid
            except (OSError, ValueError):
                continue
        return pids

    def __exit__(self, *exception):
        pids = self.switch_pids()
        self.kill()
        for pid in pids.values():
            os.kill(pid, 9)
        super().__exit__(*exception)


class Lan:
    """Hosts that go with everything in them at the end."""

    def __init__(self, context):
        if os.getuid():
            raise context["skip"]("network namespaces need root")
        self.context = context
        self.hosts = []
        self.daemons = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for d in self.daemons:
            d.__exit__(*exception)
        for host in self.hosts:
            host.close()

    def add(self):
        self.hosts.append(Host())
        return self.hosts[-1]

    def daemon(self, host, **config):
        self.daemons.append(LanDaemon(self.context["build"], host, **config))
        return self.daemons[-1]


@contextlib.contextmanager
def apart(context):
    """A daemon whose switches are nobody's: in a host of its own, where that can be made."""
    if os.getuid():
        with Daemon(context["build"]) as d:
            yield d
        return
    with Lan(context) as lan:
        yield lan.daemon(lan.add())


def eventually(condition, what, timeout=60):
    wait_for(condition, what, timeout)
