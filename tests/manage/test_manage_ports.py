# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of ports: what must not pass does not, as a capture on the other side sees. Here a machine is a network namespace, its port a veth
interface in the place of a tap."""

import json
import os
import shutil
import subprocess
import tempfile
import time

from daemon import require
from lan import Capture, Lan, eventually, wire

SEND_UDP = """
import select, socket, sys
family, source, target, port = (socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET), int(sys.argv[2]), sys.argv[1], int(sys.argv[3])
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.bind(('', source))
for i in range(int(sys.argv[4])):
    if i % 5 == 4:  # a pace that every buffer on the way can follow
        select.select([], [], [], 0.002)
    s.sendto(b'x' * int(sys.argv[5]), (target, port))
"""
SEND_ICMP = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.sendto(bytes([int(sys.argv[2]), 0, 0, 0]) + bytes(12), (sys.argv[1], 0))
"""

# Frames as they are: argument 1 is what is before the IPv4 header of 10.0.0.1 to all, 2 the offset and flags of a packet in pieces; a DHCP server says it.
SEND_FRAME = """
import socket, struct, sys
piece = int(sys.argv[2])
udp = struct.pack('!HHHH', 67, 68, 8 + 64, 0) + b'x' * 64
udp = udp if not piece else udp[:40] if piece & 0x2000 else udp[40:]
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 7, piece, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 255]))
words = sum(struct.unpack('!10H', ip))
words = (words & 0xffff) + (words >> 16)
ip = ip[:10] + struct.pack('!H', ~((words & 0xffff) + (words >> 16)) & 0xffff) + ip[12:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
s.send(b'\\xff' * 6 + bytes.fromhex('020000000001') + bytes.fromhex(sys.argv[1]) + ip + udp)
"""


class Ports:
    """A private switch with some machines on it, number n of which is 10.0.0.n and fd00::n."""

    def __init__(self, lan, count):
        self.program = os.path.join(lan.context["build"], "tests/apply_switch")
        self.directory = tempfile.mkdtemp(prefix="bh-")
        self.host = lan.add()
        self.machines = {}
        self.uplinks, self.rate = [], 0
        for n in range(1, count + 1):
            machine = lan.add()
            wire(self.host, f"p{n}", machine, "eth0")
            machine.ip("link", "set", "eth0", "address", self.mac(n))
            machine.give("eth0", f"10.0.0.{n}/24", f"fd00::{n}/64")
            self.host.ip("link", "set", f"p{n}", "up")
            self.machines[n] = machine

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tell([])
        require(not os.path.exists(os.path.join(self.directory, "ovs")), "the daemons are gone")
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def mac(n):
        return f"02:00:00:00:00:{n:02x}"

    def ask(self, switches, *options):
        return subprocess.run(self.host.argv(self.program, os.path.join(self.directory, "ovs"), *options), input=json.dumps(switches), capture_output=True, text=True,
                              timeout=60)

    def tell(self, switches, *options):
        r = self.ask(switches, *options)
        require(r.returncode == 0, f"apply_switch: {r.stderr}")
        return r.stdout

    def switch(self, settings=None, any_mac=(), must=True):
        """Settings by machine's number."""
        return [{"name": "bs1", "host": False, "vlan": 0, "team": "active-backup", "members": self.uplinks, "rate": self.rate, "ports": [
            {"name": f"p{n}", "number": 100 + n, "mac": self.mac(n), "any_mac": n in any_mac, "must": must, "settings": (settings or {}).get(n, {})}
            for n in self.machines]}]

    def set(self, settings=None, any_mac=(), options=()):
        return self.tell(self.switch(settings, any_mac), *options)

    def refused(self, settings, text, *options):
        r = self.ask(self.switch(settings), *options)
        require(r.returncode == 1 and text in r.stderr, f"wanted \"{text}\", status {r.returncode}: {r.stderr}")

    def database(self, *argv):
        return self.host.run("ovs-vsctl", f"--db=unix:{self.directory}/ovs/db.sock", *argv).stdout

    def reach(self, a, b, version=4):
        return self.machines[a].reaches(f"10.0.0.{b}" if version == 4 else f"fd00::{b}")

    def require(self, a, b, reachable):
        for version in (4, 6):
            if reachable:
                eventually(lambda: self.reach(a, b, version), f"{a} to reach {b} by IPv{version}")  # pylint: disable=cell-var-from-loop
            else:
                require(not self.reach(a, b, version), f"{a} reaches {b} by IPv{version}")

    def capture(self, n, expression=""):
        return Capture(self.machines[n], "eth0", expression)

    def python(self, n, text, *arguments):
        self.machines[n].run("/usr/bin/python3", "-c", text, *map(str, arguments))


def test_manage_ports_spoofed_addresses(context):
    with Lan(context) as lan, Ports(lan, 2) as ports:
        ports.set()
        ports.require(1, 2, True)
        ports.machines[1].ip("link", "add", "fake", "link", "eth0", "address", "02:00:00:00:00:99", "type", "macvlan")
        ports.machines[1].give("fake", "10.0.1.1/24")
        with ports.capture(2, "ether src 02:00:00:00:00:99") as seen:
            ports.machines[1].reaches("10.0.1.2", "-I", "fake")
            ports.require(1, 2, True)
            require(not seen.seen("02:00:00:00:00:99"), "a spoofed address does not get through")
            ports.set(any_mac=(1,))
            ports.machines[1].reaches("10.0.1.2", "-I", "fake")
            require(seen.seen("02:00:00:00:00:99", 10), "unless it may")


def test_manage_ports_vlans(context):
    def access(n):
        return {"vlan": {"mode": "access", "id": n}}
    with Lan(context) as lan, Ports(lan, 3) as ports:
        ports.set({1: access(7), 2: access(7), 3: access(8)})
        ports.require(1, 2, True)
        ports.require(1, 3, False)
        ports.set({1: access(7)})
        ports.require(1, 2, False)
        ports.require(2, 3, True)
        for allowed, through in (([7, 9], True), ([9], False)):
            ports.set({1: access(7), 3: {"vlan": {"mode": "trunk", "allowed": allowed}}})
            with ports.capture(3, "") as seen:
                ports.machines[1].ip("neighbour", "flush", "all")
                ports.machines[1].reaches("10.0.0.200")
                require(seen.seen("vlan 7", 5 if through else 0) == through, f"a trunk of {allowed}: {seen.text}")


def test_manage_ports_private_vlans(context):
    def mode(word, **more):
        return {"vlan": {"mode": word, "id": 7, **more}}
    with Lan(context) as lan, Ports(lan, 5) as ports:
        ports.set({1: mode("promiscuous"), 2: mode("isolated"), 3: mode("isolated"), 4: mode("community", secondary=70), 5: mode("community", secondary=70)})
        for a, b in ((1, 2), (2, 1), (1, 4), (4, 1), (4, 5), (5, 4)):
            ports.require(a, b, True)
        for a, b in ((2, 3), (2, 4), (4, 2)):
            ports.require(a, b, False)
        ports.set({1: mode("promiscuous"), 4: mode("community", secondary=70), 5: mode("community", secondary=71)})
        ports.require(4, 5, False)
        ports.require(4, 1, True)


def test_manage_ports_guards(context):
    with Lan(context) as lan, Ports(lan, 2) as ports:
        for guarded in (True, False):
            ports.set({1: {"dhcp_guard": guarded, "router_guard": guarded}})
            ports.require(1, 2, True)
            with ports.capture(2, "udp or icmp6") as seen:
                ports.python(1, SEND_UDP, "10.0.0.255", 67, 68, 1, 10)
                ports.python(1, SEND_UDP, "ff02::1%eth0", 547, 546, 1, 10)
                ports.python(1, SEND_ICMP, "ff02::1%eth0", 134)
                ports.python(1, SEND_UDP, "10.0.0.255", 4444, 4445, 1, 10)
                require(seen.seen(".4444 > ", 10), "what is behind it came")
                for what in ("10.0.0.1.67 > ", ".547 > ", "router advertisement"):
                    require((what in seen.text.decode()) != guarded, f"guarded {guarded}: {what}: {seen.text.decode()}")


def test_manage_ports_guards_hidden(context):
    """What a server says in frames of two tags, or in pieces."""
    with Lan(context) as lan, Ports(lan, 2) as ports:
        for guarded in (True, False):
            ports.set({1: {"dhcp_guard": guarded}})
            ports.require(1, 2, True)
            with ports.capture(2, "") as seen:
                ports.python(1, SEND_FRAME, "8100000081000000" + "0800", 0)
                ports.python(1, SEND_FRAME, "810000000800", 0)
                ports.python(1, SEND_FRAME, "0800", 0x2000)
                ports.python(1, SEND_UDP, "10.0.0.255", 4444, 4445, 1, 10)
                require(seen.seen(".4444 > ", 10), "what is behind it came")
                text = seen.text.decode()
                # Frames of two tags pass nobody, guarded or not.
                require("802.1Q" not in text or not guarded, text)
                require(text.count("10.0.0.1.67 > ") == (0 if guarded else 2), f"guarded {guarded}: {text}")


def test_manage_ports_acls(context):
    def acl(direction, remote, action):
        return {"direction": direction, "remote": remote, "action": action}
    with Lan(context) as lan, Ports(lan, 3) as ports:
        ports.set({1: {"acls": [acl("out", "10.0.0.2", "deny"), acl("out", "fd00::2/128", "deny")]}})
        ports.require(1, 3, True)
        ports.require(1, 2, False)
        ports.set({1: {"acls": [acl("in", "any", "deny"), acl("in", "10.0.0.0/30", "deny"), acl("in", "10.0.0.3", "allow"), acl("in", "fd00::3", "allow")]}})
        ports.require(3, 1, True)
        ports.require(2, 1, False)
        with ports.capture(1, "udp") as seen:
            # What goes to all, too.
            ports.python(2, SEND_UDP, "10.0.0.255", 5000, 5001, 1, 10)
            ports.python(3, SEND_UDP, "10.0.0.255", 6000, 6001, 1, 10)
            require(seen.seen("10.0.0.3.6000 > ", 10) and not seen.seen("10.0.0.2.5000"), f"{seen.text}")
        ports.set({1: {"acls": [acl("in", Ports.mac(2), "deny")]}})
        ports.require(3, 1, True)
        ports.require(2, 1, False)
        ports.set()
        ports.require(2, 1, True)


def test_manage_ports_mirror(context):
    with Lan(context) as lan, Ports(lan, 3) as ports:
        ports.set()
        ports.require(1, 2, True)
        with ports.capture(3, "icmp") as seen:
            ports.require(1, 2, True)
            require(not seen.seen("10.0.0.1 > 10.0.0.2"), "a switch tells nobody else")
            ports.set({1: {"mirror": "source"}, 3: {"mirror": "destination"}})
            for way in ("10.0.0.1 > 10.0.0.2", "10.0.0.2 > 10.0.0.1"):
                # What is on its way already may be as before.
                eventually(lambda: ports.reach(1, 2) and seen.seen(way, 1), f"{way} to be seen")  # pylint: disable=cell-var-from-loop
        ports.require(3, 1, False)
        # It listens no more: it is one as the others, also for what it has not stopped to say.
        with subprocess.Popen(ports.machines[3].argv("ping", "-n", "-q", "-i", "0.2", "10.0.0.1"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as said:
            try:
                ports.set()
                ports.require(3, 1, True)
            finally:
                said.kill()
        ports.require(2, 3, True)


def test_manage_ports_bandwidth_in(context):
    """What a machine is sent, on its own and behind a bridge of its own, in the way that its settings need."""
    acls = [{"direction": "in", "remote": "10.0.0.77", "action": "deny"}]

    def received():
        link, = ports.machines[2].json("-s", "link", "show", "eth0")
        return link["stats64"]["rx"]["bytes"]
    with Lan(context) as lan, Ports(lan, 3) as ports:
        for settings in ({"bandwidth": {"maximum_in": 1000000}}, {"bandwidth": {"maximum_in": 1000000}, "acls": acls}, {}):
            ports.set({2: settings})
            ports.require(1, 2, True)
            before, start = received(), time.monotonic()
            ports.python(1, SEND_UDP, "10.0.0.2", 7000, 7001, 1000, 1000)
            if settings:
                # It waits there, and comes at its pace: the last of it after more than two seconds, were none lost.
                eventually(lambda: received() - before > 150000, "what is sent to come")  # pylint: disable=cell-var-from-loop
                seconds, got = time.monotonic() - start, received() - before
                require(got < (seconds + 1.5) * 1000000 / 8, f"{settings}: {got} bytes in {seconds} s")
            else:
                eventually(lambda: received() - before > 800000, "most of what was sent")  # pylint: disable=cell-var-from-loop


def require_queue_refused(context):
    """The kernel refuses the queue: that is an error for who asks for it, and what goes without it is told."""
    settings = {1: {"bandwidth": {"maximum_in": 1000000}}}
    with Lan(context) as lan, Ports(lan, 1) as ports:
        ports.refused(settings, "p1 has no queue of 1000000 bits in a second")
        told = ports.tell(ports.switch(settings, must=False))
        require("p1 has no queue of 1000000 bits in a second" in told, told)
        require(ports.set() == "", "without the setting there is nothing to be told")


def test_manage_ports_queues(context):
    """What the kernel has is looked at: Open vSwitch tells nobody. What is not wanted any more leaves no row behind."""
    def limit(rate):
        return {1: {"bandwidth": {"maximum_in": rate}}}
    with Lan(context) as lan, Ports(lan, 1) as ports:
        for _ in range(2):
            require(ports.set(limit(1000000)) == "", "it is in force")
            require(len(ports.database("--columns=_uuid", "list", "qos").split("_uuid")) == 2, "it has one row")
        # More than its 32 bits of bytes a second.
        ports.refused(limit(40000000000), "p1 has a queue of another rate than 40000000000 bits in a second")
        ports.set(limit(1000000))
        ports.host.run("tc", "qdisc", "del", "dev", "p1", "root")
        told = ports.tell(ports.switch(limit(1000000), must=False))
        require("p1 has no queue of 1000000 bits in a second" in told, told)
        ports.refused(limit(1000000), "p1 has no queue")
        require(ports.set() == "" and ports.database("list", "qos") == "", "no row is left")


class Uplink(Ports):
    """The same with adapters of the host, whose other ends are a host of their own."""

    def __init__(self, lan, count, rate, uplinks=("up1",)):
        super().__init__(lan, count)
        self.beyond = lan.add()
        self.rate = rate
        for n in uplinks:
            wire(self.host, n, self.beyond, n)
            self.host.ip("link", "set", n, "up")
            self.uplinks.append(n)
        self.beyond.give(uplinks[0], "10.0.0.200/24", "fd00::200/64")

    def classes(self, adapter):
        """{minor number: (rate, ceiling)} of the adapter's queue."""
        shown = self.host.run("tc", "class", "show", "dev", adapter).stdout
        return {line.split()[2]: (line.split("rate ")[1].split()[0], line.split("ceil ")[1].split()[0]) for line in shown.splitlines() if "htb" in line}


def part(**bandwidth):
    return {"bandwidth": bandwidth}


def test_manage_ports_minimum_told(context):
    """What Open vSwitch and the kernel are told of a part of the uplink, in whichever datapath."""
    with Lan(context) as lan, Uplink(lan, 3, 100000000, ("up1", "up2")) as ports:
        told = ("as-system",)
        before = [ports.host.run("tc", "qdisc", "show", "dev", n).stdout for n in ports.uplinks]
        ports.set({1: part(minimum=40000000), 2: {**part(weight=20, maximum=5000000), "acls": [{"direction": "in", "remote": "10.0.0.77", "action": "deny"}]}, 3: part(weight=5)},
                  options=told)
        for n in ports.uplinks:
            # A tenth is left; of the rest minus 40 Mbit/s the weights have four and one fifth.
            require(ports.classes(n) == {"1:fffe": ("100Mbit", "100Mbit"), "1:1": ("10Mbit", "100Mbit"), "1:66": ("40Mbit", "100Mbit"), "1:67": ("40Mbit", "100Mbit"),
                                         "1:68": ("10Mbit", "100Mbit")}, f"{n}: {ports.classes(n)}")
        flows = ports.host.run("ovs-ofctl", "-O", "OpenFlow14", "dump-flows", f"unix:{ports.directory}/ovs/bs1.mgmt").stdout
        for wanted in ("in_port=101 actions=set_queue:101,resubmit(,3)", "in_port=102 actions=meter:102,set_queue:102,resubmit(,3)",
                       "in_port=103 actions=set_queue:103,resubmit(,3)"):
            require(wanted in flows, f"{wanted}: {flows}")
        for n in (1, 2, 3):
            eventually(lambda: ports.machines[n].reaches("10.0.0.200"), f"{n} to reach what is beyond")  # pylint: disable=cell-var-from-loop
        # By what others are promised, and by what the adapter can.
        ports.refused({1: part(minimum=50000000), 2: part(minimum=41000000)}, "91000000 bits in a second of 100000000", *told)
        ports.rate = 50000000
        ports.tell(ports.switch({1: part(minimum=50000000), 2: part(minimum=40000000)}, must=False), *told)
        require(ports.classes("up1") == {"1:fffe": ("50Mbit", "50Mbit"), "1:1": ("5Mbit", "50Mbit"), "1:66": ("25Mbit", "50Mbit"), "1:67": ("20Mbit", "50Mbit")},
                f"it has become less: {ports.classes('up1')}")
        ports.rate = 0
        ports.refused({1: part(minimum=1000000)}, "do not tell how much they can send", *told)
        ports.rate = 100000000
        ports.set({1: part(minimum=1000000)}, options=told)
        # A member that goes has the queue that it had before.
        ports.uplinks.remove("up2")
        ports.set({1: part(minimum=1000000)}, options=told)
        require(ports.host.run("tc", "qdisc", "show", "dev", "up2").stdout == before[1] and ports.classes("up1"), f"{ports.classes('up2')}")
        ports.uplinks.remove("up1")
        ports.refused({1: part(minimum=1000000)}, "of an external switch", *told)
        ports.set(options=told)
        require(ports.host.run("tc", "qdisc", "show", "dev", "up1").stdout == before[0], f"{ports.classes('up1')}")
        require(ports.database("list", "qos") + ports.database("list", "queue") == "", "no row is left")


def test_manage_ports_minimum_refused(context):
    """Where Open vSwitch has its userspace datapath alone, nothing can be promised."""
    with Lan(context) as lan, Uplink(lan, 1, 100000000) as ports:
        ports.set()
        if ports.database("get", "bridge", "bs1", "datapath_type").strip() == "system":
            raise context["skip"]("the kernel has a datapath")
        for setting in (part(minimum=1000000), part(weight=50)):
            ports.refused({1: setting}, "Open vSwitch's userspace datapath")
        require(ports.set({1: part(minimum=0, weight=0)}) == "", "nothing is promised, and may be told")


# Sends to 10.0.0.200 as much as goes.
FLOOD = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.0.0.200', int(sys.argv[1])))
while True:
    try:
        s.send(b'x' * 1000)
    except OSError:
        pass
"""
# How many datagrams come to port 7001, and to port 7002, of twice as many as the argument; those before have filled the queues.
COUNT = """
import select, socket, sys
sockets = {}
for port in (7001, 7002):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('10.0.0.200', port))
    sockets[s] = 0
print('listening', flush=True)
for some in (int(sys.argv[1]), 2 * int(sys.argv[1])):
    for s in sockets:
        sockets[s] = 0
    while sum(sockets.values()) < some or some < 2 * int(sys.argv[1]) and not all(sockets.values()):
        for s in select.select(sockets, [], [])[0]:
            s.recv(2048)
            sockets[s] += 1
print(*sockets.values(), flush=True)
"""


def shares(ports):
    """The part of the first of two machines in what comes from both, which send more than the uplink can."""
    def start(host, program, *arguments, **more):
        return subprocess.Popen(host.argv("/usr/bin/python3", "-c", program, *arguments), **more)
    count = start(ports.beyond, COUNT, "2000", stdout=subprocess.PIPE, text=True)
    floods = []
    try:
        require(count.stdout.readline() == "listening\n", "it listens")
        floods = [start(ports.machines[n], FLOOD, f"700{n}") for n in (1, 2)]
        first, second = map(int, count.stdout.readline().split())
        return first / (first + second)
    finally:
        for process in (count, *floods):
            process.kill()
            process.wait()
        count.stdout.close()


def test_manage_ports_minimum(context):
    """Two machines that together ask for more than the uplink can send: each has what it was promised."""
    with Lan(context) as lan, Uplink(lan, 2, 8000000) as ports:
        ports.set()
        if ports.database("get", "bridge", "bs1", "datapath_type").strip() != "system":
            raise context["skip"]("the kernel has no datapath (module openvswitch)")
        for settings, low, high in (({1: part(minimum=6000000)}, 0.65, 0.85), ({2: part(minimum=6000000)}, 0.15, 0.35),
                                    ({1: part(weight=10), 2: part(weight=30)}, 0.15, 0.35), ({1: part(weight=30), 2: part(weight=30)}, 0.4, 0.6)):
            ports.set(settings)
            got = shares(ports)
            print(f"     {settings}: the first has {got:.2f}", flush=True)
            require(low < got < high, f"{settings}: {got}")


def test_manage_ports_bandwidth(context):
    def received():
        link, = ports.machines[2].json("-s", "link", "show", "eth0")
        return link["stats64"]["rx"]["bytes"]
    with Lan(context) as lan, Ports(lan, 2) as ports:
        for limit in (0, 1000000):
            ports.set({1: {"bandwidth": {"maximum": limit}}})
            ports.require(1, 2, True)
            before, start = received(), time.monotonic()
            ports.python(1, SEND_UDP, "10.0.0.2", 7000, 7001, 1000, 1000)
            seconds = time.monotonic() - start
            if limit:
                ports.require(1, 2, True)
                got = received() - before
                # A quarter of a second's worth in one go; and headers, and what else there is.
                require(got < (seconds + 1.5) * limit / 8, f"{got} bytes of 1000000 in {seconds} s")
            else:
                eventually(lambda: received() - before > 800000, "most of what was sent")  # pylint: disable=cell-var-from-loop
