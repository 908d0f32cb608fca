# SPDX-License-Identifier: GPL-2.0-or-later
"""Teams of adapters under streams that flow: how long nothing comes when members lose their link, come and go; and that nothing is lost or comes twice."""

import contextlib

from daemon import require
from lan import Lan, OtherSwitch, eventually, wire
from streams import Streams

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
        return Streams(pairs)

    def members(self):
        return self.daemon.ok("GET", "/v1/switches/out")["members"]

    def active(self):
        return [m["name"] for m in self.members() if m.get("active")]

    def plug(self, member, up):
        self.peer.ip("link", "set", member, "up" if up else "down")
        eventually(lambda: {m["name"]: m["link"] for m in self.members()}[member] == up, f"the link of {member} to be seen {'up' if up else 'down'}")


def require_gap(gaps, limit, what):
    longest = max(gaps, key=gaps.get)
    print(f"     {what}: {gaps[longest]:.2f} s at most ({longest})", flush=True)
    require(gaps[longest] < limit, f"{what}: {gaps}")


@contextlib.contextmanager
def bridge_peer(team):
    """A peer that knows nothing of teams."""
    team.peer.ip("link", "add", "br0", "type", "bridge")
    for n in MEMBERS:
        team.peer.ip("link", "set", n, "master", "br0")
    yield "br0"


@contextlib.contextmanager
def lacp_peer(team):
    # Its own kernel hears the members beside Open vSwitch: it is not to answer there for br0.
    team.peer.run("sysctl", "-q", "-w", "net.ipv4.conf.all.arp_ignore=1", *(f"net.ipv6.conf.{n}.disable_ipv6=1" for n in MEMBERS))
    with OtherSwitch(team.peer) as other:
        other.set("set", "bridge", "br0", "other_config:hwaddr=02:00:00:00:02:01")
        other.set("add-bond", "br0", "lag", *MEMBERS, "lacp=active", "bond_mode=balance-tcp", "other_config:lacp-time=fast")
        team.other = other
        yield "br0"


def come_and_go(team, streams, limit):
    """Members added and removed under the streams. The one whose address the switch has is down as long as it is not in it."""
    for change in (("--remove", "eth1"), ("--add", "eth1"), ("--remove", "eth2"), ("--add", "eth2")):
        require_gap(streams.around(lambda: team.daemon.cli("switch", "team", "out", *change)), limit, " ".join(change))  # pylint: disable=cell-var-from-loop
        member, = team.host.json("link", "show", change[1])
        require(("UP" in member["flags"]) == (change != ("--remove", "eth1")), f"{change}: {member}")


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
                for _ in range(2):
                    eventually(lambda: len(team.active()) == 1, "one to be active")
                    member, = team.active()
                    require_gap(streams.around(lambda: team.plug(member, False)), 1, f"{member}, active, unplugged")  # pylint: disable=cell-var-from-loop
                    require(team.active() and team.active() != [member], f"the other one is active: {team.members()}")
                    require_gap(streams.around(lambda: team.plug(member, True)), 1, f"{member} plugged in")  # pylint: disable=cell-var-from-loop
                come_and_go(team, streams, 1)
                finish(team, streams)


def test_manage_team_source_hash(context):
    with Lan(context) as lan:
        team = Team(lan, "balance-slb", more=3)
        with bridge_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            with team.streams() as streams:
                for member in MEMBERS:
                    require_gap(streams.around(lambda: team.plug(member, False)), 3, f"{member} unplugged")  # pylint: disable=cell-var-from-loop
                    require_gap(streams.around(lambda: team.plug(member, True)), 3, f"{member} plugged in")  # pylint: disable=cell-var-from-loop
                come_and_go(team, streams, 3)
                finish(team, streams)


def test_manage_team_lacp(context):
    with Lan(context) as lan:
        team = Team(lan, "lacp", more=3)
        with lacp_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            agreed = lambda: [m.get("lacp") for m in team.members()] == [True, True]
            eventually(agreed, "both members to have agreed")
            mac = team.host.json("link", "show", "bs1")[0]["address"]
            shown = team.other.ask("lacp/show", "lag")
            require("status: active negotiated" in shown and shown.count(f"partner sys_id: {mac}") == 2 and shown.count("current attached") == 2,
                    f"the partner says the same: {shown}")
            with team.streams() as streams:
                for member in MEMBERS:
                    require_gap(streams.around(lambda: team.plug(member, False)), 3, f"{member} unplugged")  # pylint: disable=cell-var-from-loop
                    require_gap(streams.around(lambda: team.plug(member, True)), 3, f"{member} plugged in")  # pylint: disable=cell-var-from-loop
                    eventually(agreed, "both members to have agreed again")
                come_and_go(team, streams, 3)
                eventually(agreed, "both members to have agreed after all")
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
            for member in MEMBERS:
                require_gap(streams.around(lambda: team.plug(member, False)), limit, f"{member} unplugged")  # pylint: disable=cell-var-from-loop
                require_gap(streams.around(lambda: team.plug(member, True)), limit, f"{member} plugged in")  # pylint: disable=cell-var-from-loop
                eventually(agreed, "both members to have agreed again", 60)
            streams.finish()


def test_manage_team_lacp_silent(context):
    """A link that is up, and a partner that is not heard any more: only LACP tells."""
    with Lan(context) as lan:
        team = Team(lan, "lacp")
        with lacp_peer(team) as interface:
            team.peer_is(interface)
            team.create(*MEMBERS)
            eventually(lambda: [m.get("lacp") for m in team.members()] == [True, True], "both members to have agreed")

            def silence():
                for host in (team.host, team.peer):
                    host.run("tc", "qdisc", "add", "dev", "eth1", "root", "blackhole")
                eventually(lambda: [m.get("lacp") for m in team.members()] == [False, True], "LACP on eth1 to end")
            with team.streams() as streams:
                # Three seconds until the partner counts as silent, and what the clocks of both have for steps.
                require_gap(streams.around(silence), 5, "eth1 is silent")
                require(all(m["link"] for m in team.members()), "its link is up all the same")
                streams.finish()
