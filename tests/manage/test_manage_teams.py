# SPDX-License-Identifier: GPL-2.0-or-later
"""Teams of adapters under streams that flow: how long nothing comes when members lose their link, come and go; and that nothing is lost or comes twice."""

import contextlib
import itertools

from daemon import require
from lan import Lan, OtherSwitch, eventually, wire
from streams import Stream, Streams, both_ways

MEMBERS = ("eth1", "eth2")


class Team:
    """A host with a switch "out" on two adapters, and some more hosts on it by interfaces of their own on bs1; and a peer at the other end of both cables."""

    def __init__(self, lan, mode, more=0):
        self.host, self.peer = lan.add(), lan.add()
        self.mode = mode
        for n in MEMBERS:
            wire(self.host, n, self.peer, n)
            self.peer.ip("link", "set", n, "up")
        self.host.give("eth1", "192.0.2.2/24", "2001:db8::2/64")
        self.host.ip("link", "set", "eth2", "up")
        self.daemon = lan.daemon(self.host)
        self.more = [lan.add() for _ in range(more)]

    def create(self, *members):
        self.daemon.cli("switch", "create", "out", "--type", "external", "--team", self.mode, *(f"--adapter={m}" for m in members))
        for i, host in enumerate(self.more):
            self.host.ip("link", "add", "eth0", "netns", host.name, "link", "bs1", "type", "macvlan", "mode", "private")
            host.give("eth0", f"192.0.2.{10 + i}/24", f"2001:db8::{10 + i}/64")

    def peer_is(self, interface):
        self.peer.give(interface, "192.0.2.1/24", "2001:db8::1/64")

    def streams(self, count=None):
        pairs = [(self.host, "192.0.2.2", self.peer, "192.0.2.1"), (self.host, "2001:db8::2", self.peer, "2001:db8::1")]
        pairs += [(host, f"192.0.2.{10 + i}", self.peer, "192.0.2.1") for i, host in enumerate(self.more)]
        pairs = pairs[:count]
        for a, a_address, _, b_address in pairs:
            eventually(lambda: a.reaches(b_address), f"{a_address} to reach {b_address}")  # pylint: disable=cell-var-from-loop
        return Streams(both_ways(pairs))

    def members(self):
        return self.daemon.ok("GET", "/v1/switches/out")["members"]

    def plug(self, member, up):
        self.peer.ip("link", "set", member, "up" if up else "down")
        eventually(lambda: {m["name"]: m["link"] for m in self.members()}[member] == up, f"the link of {member} to be seen {'up' if up else 'down'}")


class Gaps:
    """The shortest gap of each thing that is done again and again: a busy machine may hold up by itself who is asked."""

    def __init__(self, streams, limit, *names):
        self.streams, self.limit, self.least = streams, limit, {name: limit + 1 for name in names}

    def around(self, name, what):
        found = self.streams.around(what)
        longest = max(found, key=found.get)
        print(f"     {name}: {found[longest]:.2f} s at most ({longest})", flush=True)
        self.least[name] = min(self.least[name], found[longest])
        for stream in self.streams.all:
            got = stream.look()
            require(got["wrong"] == 0 and got["twice"] == 0, f"{name}: {stream.name}: {got}")

    def short(self):
        """Whether each was shorter than the limit once."""
        return max(self.least.values()) < self.limit


def unplugged(site, streams, cables, limit, settled=lambda: True):
    """Cables pulled and put back under the streams, until each has been, and was not felt for as long as the limit; `settled`: whether the next can be."""
    gaps = Gaps(streams, limit, *(f"{cable} {what}" for cable in MEMBERS for what in ("unplugged", "plugged in")))
    for cable in itertools.islice(cables, 12):
        gaps.around(f"{cable} unplugged", lambda: site.plug(cable, False))  # pylint: disable=cell-var-from-loop
        eventually(lambda: all(not m.get("active") for m in site.members() if m["name"] == cable), f"{cable} not to be active")  # pylint: disable=cell-var-from-loop
        gaps.around(f"{cable} plugged in", lambda: site.plug(cable, True))  # pylint: disable=cell-var-from-loop
        eventually(settled, "the team to be whole", 120)
        if gaps.short():
            return
    require(False, f"not within {limit} s: {gaps.least}")


def active(site):
    """The adapter that carries what the others do not, again and again."""
    while True:
        eventually(lambda: [m for m in site.members() if m.get("active")], "one to be active")
        yield next(m["name"] for m in site.members() if m.get("active"))


@contextlib.contextmanager
def bridge_peer(team):
    """A peer that knows nothing of teams."""
    team.peer.ip("link", "add", "br0", "type", "bridge")
    for n in MEMBERS:
        team.peer.ip("link", "set", n, "master", "br0")
    yield "br0"


@contextlib.contextmanager
def lacp_peer(peer):
    """A switch in a host that speaks LACP on both cables: the host's interface, and the switch."""
    # Its own kernel hears the members beside Open vSwitch: it is not to answer there for br0.
    peer.run("sysctl", "-q", "-w", "net.ipv4.conf.all.arp_ignore=1", *(f"net.ipv6.conf.{n}.disable_ipv6=1" for n in MEMBERS))
    with OtherSwitch(peer) as other:
        other.set("set", "bridge", "br0", "other_config:hwaddr=02:00:00:00:02:01")
        other.set("add-bond", "br0", "lag", *MEMBERS, "lacp=active", "bond_mode=balance-tcp", "other_config:lacp-time=fast")
        yield "br0", other


def come_and_go(team, streams, limit, settled=lambda: True):
    """Members removed and added under the streams. The one whose address the switch has is down as long as it is not in it."""
    for member in MEMBERS:
        gaps = Gaps(streams, limit, f"--remove {member}", f"--add {member}")
        for _ in range(6):
            for change in ("--remove", "--add"):
                gaps.around(f"{change} {member}", lambda: team.daemon.cli("switch", "team", "out", change, member))  # pylint: disable=cell-var-from-loop
                link, = team.host.json("link", "show", member)
                require(("UP" in link["flags"]) == ((change, member) != ("--remove", "eth1")), f"{change}: {link}")
            eventually(settled, "the team to be whole", 120)
            if gaps.short():
                break
        require(gaps.short(), f"not within {limit} s: {gaps.least}")


def finish(team, streams):
    """All that was sent has come; and the host is as it was."""
    streams.finish()
    team.daemon.cli("switch", "team", "out", "--remove", "eth1")
    team.daemon.cli("switch", "delete", "out")
    require(all("UP" in team.host.json("link", "show", n)[0]["flags"] for n in MEMBERS), "both are up, as they were")
    eventually(lambda: team.host.reaches("192.0.2.1", "-I", "eth1"), "the host to have its adapter back")


def test_manage_team_active_backup(context):
    with Lan(context) as lan:
        team = Team(lan, "active-backup")
        with bridge_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            with team.streams() as streams:
                unplugged(team, streams, active(team), 1)
                come_and_go(team, streams, 1)
                finish(team, streams)


# Prints how many of some datagrams the host hears by an adapter as such.
BY_ADAPTER = """
import select, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth1')
s.bind(('', 7001))
print('listening', flush=True)
sys.stdin.read()
heard = 0
while select.select([s], [], [], 0)[0]:
    s.recv(2048)
    heard += 1
print(heard)
"""
TO_HOST = """
import select, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    s.sendto(b'x', ('192.0.2.2', 7001))
    select.select([], [], [], 0.001)
"""


def test_manage_team_added_is_of_the_switch(context):
    """An adapter that comes to a team is the switch's before it has a link: at no moment does the host hear by it what is for the switch, which has its address."""
    with Lan(context) as lan:
        team = Team(lan, "balance-slb")
        with bridge_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            mac = team.host.json("link", "show", "bs1")[0]["address"]
            require(team.host.json("link", "show", "eth1")[0]["address"] == mac, "the switch has its address")
            eventually(lambda: team.host.reaches("192.0.2.1"), "the peer to be reached")
            team.daemon.cli("switch", "team", "out", "--remove", "eth1")
            # Whatever the peer learns, it sends what is for the host by eth1.
            team.peer.run("bridge", "fdb", "replace", mac, "dev", "eth1", "master", "static", "sticky")
            team.peer.ip("neighbour", "replace", "192.0.2.2", "lladdr", mac, "dev", interface)
            listener, sender = Stream.start(team.host, BY_ADAPTER), Stream.start(team.peer, TO_HOST)
            try:
                require(listener.stdout.readline() == "listening\n", "it listens")
                team.daemon.cli("switch", "team", "out", "--add", "eth1")
                before = team.host.json("-s", "link", "show", "eth1")[0]["stats64"]["rx"]["packets"]
                eventually(lambda: team.host.json("-s", "link", "show", "eth1")[0]["stats64"]["rx"]["packets"] > before + 100, "datagrams to come by it")
                heard = listener.communicate("")[0]
                require(heard == "0\n", f"the host hears {heard}")
            finally:
                for process in (listener, sender):
                    process.kill()
                    process.communicate()


def test_manage_team_source_hash(context):
    with Lan(context) as lan:
        team = Team(lan, "balance-slb", more=3)
        with bridge_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            with team.streams() as streams:
                unplugged(team, streams, itertools.cycle(MEMBERS), 3)
                come_and_go(team, streams, 3)
                finish(team, streams)


def test_manage_team_lacp(context):
    with Lan(context) as lan:
        team = Team(lan, "lacp", more=3)
        with lacp_peer(team.peer) as (interface, other):
            team.peer_is(interface)
            team.create(*MEMBERS)
            agreed = lambda: [m.get("lacp") for m in team.members()] == [True, True]
            eventually(agreed, "both members to have agreed")
            mac = team.host.json("link", "show", "bs1")[0]["address"]
            shown = other.ask("lacp/show", "lag")
            require("status: active negotiated" in shown and shown.count(f"partner sys_id: {mac}") == 2 and shown.count("current attached") == 2,
                    f"the partner says the same: {shown}")
            with team.streams() as streams:
                unplugged(team, streams, itertools.cycle(MEMBERS), 3, agreed)
                come_and_go(team, streams, 3, agreed)
                streams.finish()


def test_manage_team_lacp_with_a_bond(context):
    """The partner is the kernel's own, where it has one. In a machine of software gaps are as long as that is slow, and not looked at so closely."""
    limit = context.get("gap", 3)
    with Lan(context) as lan:
        team = Team(lan, "lacp")
        if team.peer.run("ip", "link", "add", "bond0", "type", "bond", "mode", "802.3ad", "lacp_rate", "fast", "miimon", "50", "xmit_hash_policy", "layer3+4",
                         check=False).returncode:
            raise context["skip"]("the kernel has no bonding")
        for n in MEMBERS:
            team.peer.ip("link", "set", n, "down")
            team.peer.ip("link", "set", n, "master", "bond0")
        team.peer_is("bond0")
        team.create(*MEMBERS)

        def agreed():
            return [m.get("lacp") for m in team.members()] == [True, True]
        eventually(agreed, "both members to have agreed", 60)
        mac = team.host.json("link", "show", "bs1")[0]["address"]
        shown = team.peer.run("cat", "/proc/net/bonding/bond0").stdout
        require(f"Partner Mac Address: {mac}" in shown and "Number of ports: 2" in shown, f"the partner says the same: {shown}")
        with team.streams(2 if limit == 3 else 1) as streams:
            unplugged(team, streams, itertools.cycle(MEMBERS), limit, agreed)
            streams.finish()


def test_manage_team_lacp_silent(context):
    """A link that is up, and a partner that is not heard any more: only LACP tells."""
    with Lan(context) as lan:
        team = Team(lan, "lacp")
        with lacp_peer(team.peer) as (interface, _):
            team.peer_is(interface)
            team.create(*MEMBERS)

            def silent(*wanted):
                """What is to be the case by what LACP says."""
                eventually(lambda: [m.get("lacp") for m in team.members()] == [not w for w in wanted], f"members to be silent: {wanted}", 120)

            def silence(verb, wanted):
                for host in (team.host, team.peer):
                    host.run("tc", "qdisc", verb, "dev", "eth1", "root", *(["blackhole"] if wanted else []))
                silent(wanted, False)
            silent(False, False)
            with team.streams() as streams:
                # Three seconds until the partner counts as silent, and what the clocks of both have for steps.
                gaps = Gaps(streams, 5, "eth1 is silent")
                for _ in range(4):
                    gaps.around("eth1 is silent", lambda: silence("add", True))
                    require(all(m["link"] for m in team.members()), "its link is up all the same")
                    if gaps.short():
                        break
                    silence("del", False)
                require(gaps.short(), f"not within 5 s: {gaps.least}")
                streams.finish()
