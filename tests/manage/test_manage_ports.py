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

    def tell(self, switches):
        r = subprocess.run(self.host.argv(self.program, os.path.join(self.directory, "ovs")), input=json.dumps(switches), capture_output=True, text=True,
                           timeout=60)
        require(r.returncode == 0, f"apply_switch: {r.stderr}")

    def set(self, settings=None, any_mac=()):
        """Settings by machine's number."""
        self.tell([{"name": "bs1", "host": False, "vlan": 0, "team": "active-backup", "ports": [
            {"name": f"p{n}", "number": 100 + n, "mac": self.mac(n), "any_mac": n in any_mac, "must": True, "settings": (settings or {}).get(n, {})}
            for n in self.machines]}])

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
