# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Debians on switches of each type: what reaches whom, by IPv4 and IPv6, and what must not pass, as a capture on the other side sees it; and what
they have under way when members of a team, Open vSwitch and daemons are lost. Hosts are network namespaces."""

import itertools
import json
import os
import re
import subprocess
import sys
import time

from daemon import require
from debian import ALONE, Debian, Peer, make_debian
from lan import Capture, Lan, eventually, wire
from streams import EchoedStream, Streams
from test_manage_switches import in_datapath, network_of, require_nothing_left
from test_manage_ports import COUNT, FLOOD, part
from test_manage_teams import active, lacp_peer, unplugged

SIZE = 1 << 20
PORT = 5000
ECHO = 5001
RELAY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest", "vlan_relay.py")
DHCP = ("--no-hosts", "--no-resolv", "--port=53", "--bind-interfaces", "--interface=br0", "--dhcp-range=192.0.2.100,192.0.2.120,1h",
        "--dhcp-range=2001:db8::100,2001:db8::1ff,64,1h", "--enable-ra", "--address=/server.test/192.0.2.1", "--address=/server.test/2001:db8::1",
        "--leasefile-ro", "--dhcp-authoritative")


class Site:
    """A host with two adapters, a daemon and two guests; and what is beyond both cables."""

    def __init__(self, lan):
        self.host, self.beyond = lan.add(), lan.add()
        self.beyond.ip("link", "add", "br0", "type", "bridge")
        for n in (1, 2):
            wire(self.host, f"eth{n}", self.beyond, f"eth{n}")
            self.beyond.ip("link", "set", f"eth{n}", "up", "master", "br0")
        self.beyond.give("br0", "192.0.2.1/24", "2001:db8::1/64")
        self.host.give("eth1", "192.0.2.2/24", "2001:db8::2/64")
        for word in ("up", "down"):  # it has a queue from then on
            self.host.ip("link", "set", "eth2", word)
        eventually(lambda: "tentative" not in self.host.ip("-6", "address"), "duplicates to be ruled out")
        self.before, self.links = [network_of(self.host, f"eth{n}") for n in (1, 2)], self.host.links()
        self.d = lan.daemon(self.host)
        self.router, self.itself = Peer(self.beyond), Peer(self.host)
        self.guests = []
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (self.router, self.itself, *self.guests):
            one.close()
        for process in self.processes:
            process.kill()
            process.communicate()

    def start(self, *argv):
        """A program beyond the cables, until the end."""
        self.processes.append(subprocess.Popen(self.beyond.argv(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def stop(self, process):
        self.processes.remove(process)
        process.kill()
        process.communicate()

    def connect(self, name):
        for guest in self.guests:
            self.d.cli("vm", "adapter", "connect", guest.name, "0", f"switch:{name}")

    def set(self, guest, **settings):
        self.d.cli("vm", "adapter", "set", guest.name, "0", "--settings", json.dumps(settings))

    def port(self, guest, switch):
        """The interface of a guest's port; None when it has none there."""
        return next((port["interface"] for port in self.d.ok("GET", f"/v1/switches/{switch}")["ports"] if port["vm"] == guest.name), None)

    def members(self):
        return self.d.ok("GET", "/v1/switches/out")["members"]

    def plug(self, cable, up):
        self.beyond.ip("link", "set", cable, "up" if up else "down")
        eventually(lambda: {m["name"]: m["link"] for m in self.members()}[cable] == up, f"the link of {cable} to be seen {'up' if up else 'down'}")


def require_reach(a, a_addresses, b, b_addresses):
    eventually(lambda: a.reaches(*b_addresses) and b.reaches(*a_addresses), f"{a_addresses} and {b_addresses} to reach one another", 120)


def require_together(a, a_addresses, b, b_addresses):
    """Both hear the other by each address, and what they send arrives whole."""
    require_reach(a, a_addresses, b, b_addresses)
    for one, other, addresses in ((a, b, a_addresses), (b, a, b_addresses)):
        one.serve(PORT, SIZE, len(addresses))
        other.fetch(PORT, SIZE, *addresses)


def require_apart(a, a_addresses, b, b_addresses):
    """What is on its way when a setting changes may pass as before."""
    eventually(lambda: not a.reached(*b_addresses, seconds=1) | b.reached(*a_addresses, seconds=1), f"{a_addresses} and {b_addresses} not to reach one another", 120)


def until_heard(guest, what, *heard):
    """Says all of it until all is seen that is to be: (capture, text). So what was said before has been seen, too, where that is possible."""
    eventually(lambda: [guest.net(*words) for words in what] and all(seen.seen(text, 2) for seen, text in heard), f"{[text for _, text in heard]} to be seen", 120)


def host_hears(site, interface, promised):
    """Whether the host, for all that it tries, hears a guest that calls everybody, and who answers it. The other guest always does."""
    one, two = site.guests
    its, mine, called = ("10.0.0.254", "fd00::fe"), ("10.0.0.1", "fd00::1"), ("10.0.0.1.4444 >", ".4446 >")
    with Capture(site.host, interface, "udp") as seen, Capture(site.host, site.port(two, "inside" if promised else "alone"), "udp") as other:
        if promised:
            require_reach(one, mine, site.itself, its)
        else:
            require_apart(one, mine, site.itself, its)
        until_heard(one, (("udp", "10.0.0.255", 4444, 4445), ("udp", "ff02::1", 4446, 4447, "%eth0")),
                    *((capture, text) for text in called for capture in (other, seen)[:1 + promised]))
        require(promised or not any(seen.seen(text) for text in called), f"{interface}: {seen.text}")


def private_and_internal(site):
    one, two = site.guests
    mine, its = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
    one.give("eth0", "10.0.0.1/24", "fd00::1/64")
    two.give("eth0", "10.0.0.2/24", "fd00::2/64")
    require_together(one, mine, two, its)
    site.host.give("bs1", "10.0.0.254/24", "fd00::fe/64")
    host_hears(site, "bs1", False)
    site.host.ip("address", "flush", "dev", "bs1", "scope", "global")
    site.connect("inside")
    host_hears(site, "bs2", True)
    require_together(one, mine, two, its)
    require_together(one, mine, site.itself, ("10.0.0.254", "fd00::fe"))


def lease(site):
    """What a network gives: addresses of both protocols, a name server."""
    one, _ = site.guests
    site.start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root", *DHCP)
    one.check("ip address flush dev eth0 scope global; systemctl unmask --quiet --runtime systemd-networkd.socket systemd-networkd.service; systemctl start systemd-networkd")
    eventually(lambda: re.search(r"inet 192\.0\.2\.1[0-2]\d/24", one.check("ip -o address show dev eth0")), "a lease", 120)
    eventually(lambda: re.search(r"inet6 2001:db8::1..?/", one.check("ip -o address show dev eth0")), "a lease of IPv6", 120)
    address = re.search(r"inet (192\.0\.2\.1\d\d)/", one.check("ip -o address show dev eth0")).group(1)
    eventually(lambda: one.run("getent ahosts server.test")[0] == 0, "the name server to be asked", 60)
    require({"192.0.2.1", "2001:db8::1"} <= set(one.check("getent ahosts server.test").split()), "the name server's answer")
    require_together(one, (address,), site.router, ("192.0.2.1", "2001:db8::1"))
    eventually(lambda: address in site.d.cli("vm", "show", one.name), "its address to be shown")
    one.check("systemctl mask --quiet --runtime --now systemd-networkd.socket systemd-networkd.service")


def external(site):
    one, two = site.guests
    site.d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
    site.connect("out")
    lease(site)
    one.give("eth0", "192.0.2.11/24", "2001:db8::11/64")
    two.give("eth0", "192.0.2.12/24", "2001:db8::12/64")
    mine, its = ("192.0.2.11", "2001:db8::11"), ("192.0.2.12", "2001:db8::12")
    require_together(one, mine, two, its)
    require_together(two, its, site.router, ("192.0.2.1", "2001:db8::1"))
    require_together(one, mine, site.itself, ("192.0.2.2", "2001:db8::2"))
    require_together(site.itself, ("192.0.2.2", "2001:db8::2"), site.router, ("192.0.2.1", "2001:db8::1"))


def guards(site):
    """What a guest of bad will says passes first, and then not, while what is behind it does."""
    one, _ = site.guests
    mac = one.check("cat /sys/class/net/eth0/address")
    bad = ("192.0.2.11.67 > ", ".547 > ", "router advertisement")
    words = (("udp", "192.0.2.255", 67, 68), ("udp", "ff02::1", 547, 546, "%eth0"), ("advertise", "%eth0"), ("udp", "192.0.2.255", 4444, 4445))

    def heard(*wanted):
        with Capture(site.beyond, "br0", f"ether src {mac} and (udp or icmp6)") as seen:
            until_heard(one, words, *((seen, text) for text in (*wanted, ".4444 > ")))
            return [text for text in bad if seen.seen(text)]
    heard(*bad)
    site.set(one, dhcp_guard=True, router_guard=True)
    eventually(lambda: not heard(), "nothing bad to be heard")
    site.set(one, acls=[{"direction": "out", "remote": "192.0.2.1", "action": "deny"}, {"direction": "out", "remote": "2001:db8::1", "action": "deny"}])
    theirs = ("192.0.2.1", "2001:db8::1")
    with Capture(site.beyond, "br0", "udp") as seen:
        require_apart(one, ("192.0.2.11", "2001:db8::11"), site.router, theirs)
        for address in theirs:
            one.net("udp", address, 4450, 4451)
        eventually(lambda: one.reaches("192.0.2.2", "2001:db8::2"), "what it does not deny")
        site.set(one)
        eventually(lambda: one.reaches(*theirs), "it to be gone", 120)
        until_heard(one, [("udp", address, 4452, 4453) for address in theirs], (seen, "192.0.2.11.4452 > "), (seen, "2001:db8::11.4452 > "))
        require(not seen.seen(".4450 > "), f"an ACL: {seen.text}")
    incoming(site)


def incoming(site):
    """What comes to a guest: what an ACL denies does not, what its port's limit holds back comes late, and what another sends comes too if it is to listen."""
    one, two = site.guests
    mine, theirs, hosts = ("192.0.2.11", "2001:db8::11"), ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")
    site.set(one, acls=[{"direction": "in", "remote": address, "action": "deny"} for address in hosts], bandwidth={"maximum_in": 4000000})
    require_apart(one, mine, site.itself, hosts)
    require_reach(one, mine, site.router, theirs)
    site.router.serve(PORT, SIZE, 1)
    before = time.monotonic()
    one.fetch(PORT, SIZE, theirs[0])
    require(time.monotonic() - before > SIZE * 8 / 4000000 / 2, f"{time.monotonic() - before} s for {SIZE} bytes")
    site.set(one, mirror="source")
    site.set(two, mirror="destination")
    require_reach(one, mine, site.itself, hosts)
    with Capture(site.host, site.port(two, "out"), "udp") as seen:
        until_heard(one, [("udp", theirs[0], 4460, 4461)], (seen, "192.0.2.11.4460 > 192.0.2.1.4461"))
    require_apart(two, ("192.0.2.12", "2001:db8::12"), site.router, theirs)
    site.set(two)
    site.set(one)
    require_reach(two, ("192.0.2.12", "2001:db8::12"), site.router, theirs)


def spoofed(site):
    """Frames with another address than the adapter's, and an adapter that is to have another; of one that may not, and of one that may, which comes while
    the machine runs."""
    one, _ = site.guests
    mac, other = one.check("cat /sys/class/net/eth0/address"), "02:00:00:00:00:99"

    def becomes_another(interface, *addresses):
        one.ip(f"link set {interface} down")  # its driver does not change it while it is up
        status, _ = one.run(f"ip link set {interface} address {other}")
        one.give(interface, *addresses)
        return status == 0
    with Capture(site.beyond, "br0", f"ether src {other} or ether src {mac}") as seen:
        until_heard(one, (("forge", "eth0", other), ("udp", "192.0.2.255", 4444, 4445)), (seen, ".4444 > "))
        require(not seen.seen(other), f"a spoofed address gets through: {seen.text}")
        require(not becomes_another("eth0"), "the guest changes its address")
    site.d.cli("vm", "adapter", "add", one.name, "--network", "switch:out", "--any-mac", "yes")
    eventually(lambda: one.run("test -e /sys/class/net/eth1")[0] == 0, "the adapter to be seen", 120)
    one.ip("link set eth1 up")
    with Capture(site.beyond, "br0", f"ether src {other}") as seen:
        until_heard(one, (("forge", "eth1", other),), (seen, "0x88b5"))
        require(becomes_another("eth1", "192.0.2.13/24", "2001:db8::13/64"), "the guest does not change its address")
        eventually(lambda: one.reaches("192.0.2.1", "2001:db8::1"), "it to be let through", 120)
        require(seen.seen("192.0.2.13 > 192.0.2.1: ICMP", 20), f"{seen.text}")
    one.ip("link set eth1 down")
    site.d.cli("vm", "adapter", "remove", one.name, "1")
    eventually(lambda: one.run("test -e /sys/class/net/eth1")[0] != 0, "the adapter to be gone", 120)
    one.give("eth0", "192.0.2.11/24", "2001:db8::11/64")
    eventually(lambda: one.reaches("192.0.2.1", "2001:db8::1"), "its own to get through", 120)


def vlan_on_the_wire(site):
    """What an access port sends leaves the host with its tag, and what comes with that goes there alone."""
    one, two = site.guests
    relay = site.start(sys.executable, RELAY, "eth1", "7", "tag7")
    require(relay.stdout.readline() == b"ready\n", "the relay does not begin")
    site.beyond.give("tag7", "10.0.7.1/24", "fd00:7::1/64")
    one.give("eth0", "10.0.7.11/24", "fd00:7::11/64")
    two.give("eth0", "10.0.7.12/24", "fd00:7::12/64")
    site.set(one, vlan={"mode": "access", "id": 7})
    require_together(one, ("10.0.7.11", "fd00:7::11"), site.router, ("10.0.7.1", "fd00:7::1"))
    require_apart(two, ("10.0.7.12", "fd00:7::12"), site.router, ("10.0.7.1", "fd00:7::1"))
    for guest, said, tagged in ((one, "10.0.7.11.4444 > ", True), (two, "10.0.7.12.4444 > ", False)):
        with Capture(site.beyond, "eth1", "udp or (vlan and udp)") as seen:
            until_heard(guest, (("udp", "10.0.7.255", 4444, 4445),), (seen, said))
            line = next(line for line in seen.text.decode().splitlines() if said in line)
            require(("vlan 7," in line) == tagged and ("vlan" in line) == tagged, line)
    site.stop(relay)


def vlans(site):
    """A trunk and access ports, by the guests' own tags."""
    one, two = site.guests
    vlan_on_the_wire(site)
    site.connect("alone")
    two.give("eth0", "10.0.10.2/24", "fd00:10::2/64", "10.0.20.2/24", "fd00:20::2/64")
    site.set(one, vlan={"mode": "trunk", "allowed": [10, 20]})
    for vlan in (10, 20):
        one.ip(f"link add link eth0 name eth0.{vlan} type vlan id {vlan}")
        one.give(f"eth0.{vlan}", f"10.0.{vlan}.1/24", f"fd00:{vlan}::1/64")
    for vlan, other in ((10, 20), (20, 10)):
        site.set(two, vlan={"mode": "access", "id": vlan})
        require_reach(one, (f"10.0.{vlan}.1", f"fd00:{vlan}::1"), two, (f"10.0.{vlan}.2", f"fd00:{vlan}::2"))
        with Capture(site.host, site.port(two, "alone"), "udp") as seen:
            require_apart(one, (f"10.0.{other}.1", f"fd00:{other}::1"), two, (f"10.0.{other}.2", f"fd00:{other}::2"))
            until_heard(one, (("udp", f"10.0.{other}.255", 4444, 4445), ("udp", f"10.0.{vlan}.255", 4446, 4447)), (seen, f"10.0.{vlan}.1.4446 >"))
            require(not seen.seen(f"10.0.{other}.1."), f"in VLAN {vlan}: {seen.text}")
    # A tag that the trunk does not allow.
    site.set(one, vlan={"mode": "trunk", "allowed": [10]})
    require_apart(one, ("10.0.20.1", "fd00:20::1"), two, ("10.0.20.2", "fd00:20::2"))
    one.ip("link delete eth0.10", "link delete eth0.20")


def private_vlans(site):
    one, two = site.guests
    mine, its = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
    one.give("eth0", "10.0.0.1/24", "fd00::1/64")
    two.give("eth0", "10.0.0.2/24", "fd00::2/64")

    def mode(word, **more):
        return {"vlan": {"mode": word, "id": 7, **more}}
    combinations = ((mode("promiscuous"), mode("isolated"), True), (mode("isolated"), mode("isolated"), False),
                    (mode("community", secondary=70), mode("community", secondary=70), True),
                    (mode("community", secondary=71), mode("community", secondary=70), False),
                    (mode("promiscuous"), mode("community", secondary=70), True),
                    ({"vlan": {"mode": "access", "id": 8}}, {"vlan": {"mode": "access", "id": 8}}, True))
    with Capture(site.host, site.port(two, "alone"), "udp and src 10.0.0.1") as seen:
        for number, (first, second, together) in enumerate(combinations, 4440):
            site.set(one, **first)
            site.set(two, **second)
            words = ("udp", "10.0.0.255", number, 4439)
            if together:
                require_reach(one, mine, two, its)
                until_heard(one, (words,), (seen, f"10.0.0.1.{number} > "))
            else:
                require_apart(one, mine, two, its)
                one.net(*words)
        for number, (first, second, together) in enumerate(combinations, 4440):
            require(together or not seen.seen(f"10.0.0.1.{number} > "), f"{first} and {second}: {seen.text}")
    for guest in site.guests:
        site.set(guest)


def echoes(site):
    """Streams of both protocols, through the switch's adapters, with both guests, who send them back."""
    one, two = site.guests
    for guest in site.guests:
        guest.echo(ECHO)
    eventually(lambda: site.router.reaches("192.0.2.11", "2001:db8::11", "192.0.2.12", "2001:db8::12"), "both guests to be reached", 120)
    return Streams([EchoedStream(kind, site.beyond, address, ECHO) for kind, address in (("tcp", "192.0.2.11"), ("udp", "2001:db8::11"),
                                                                                         ("tcp", "2001:db8::12"), ("udp", "192.0.2.12"))])


def team(site):
    """Both guests' streams over a team, one adapter of which is active: what carries them is unplugged, and comes back."""
    one, two = site.guests
    site.connect("out")
    one.give("eth0", "192.0.2.11/24", "2001:db8::11/64")
    two.give("eth0", "192.0.2.12/24", "2001:db8::12/64")
    with echoes(site) as streams:
        site.d.cli("switch", "team", "out", "--add", "eth2")
        streams.flow()
        unplugged(site, streams, active(site), 1, lambda: all(m["link"] for m in site.members()))
        killed(site, streams)
        for option in ("--remove", "--add"):
            site.d.cli("switch", "team", "out", option, "eth2")
            streams.flow()
        streams.finish()


def killed(site, streams):
    """Daemons killed under the streams; the switch's cables, and a guest's own."""
    one, two = site.guests
    d = site.d
    for name in ("ovs-vswitchd", "ovsdb-server"):
        was = d.switch_pids()[name]
        os.kill(was, 9)
        eventually(lambda: d.switch_pids().get(name, was) != was, f"{name} to run again", 120)  # pylint: disable=cell-var-from-loop
        streams.flow()
    d.kill()
    streams.flow()
    d.start()
    streams.flow()
    # A switch whose adapters have no link is one all the same.
    for cable in ("eth1", "eth2"):
        site.plug(cable, False)
    require_reach(one, ("192.0.2.11", "2001:db8::11"), two, ("192.0.2.12", "2001:db8::12"))
    eventually(lambda: one.reached("192.0.2.2", "192.0.2.1") == {"192.0.2.2"}, "the host to be reached, and nobody else")
    require(one.has_link("eth0"), "they have a link")
    for cable in ("eth1", "eth2"):
        site.plug(cable, True)
    streams.flow()
    d.cli("vm", "adapter", "disconnect", one.name, "0")
    eventually(lambda: not one.has_link("eth0"), "the guest to see it", 120)
    require(not two.reaches("192.0.2.11"), "it is disconnected")
    d.cli("vm", "adapter", "connect", one.name, "0", "switch:out")
    eventually(lambda: one.has_link("eth0"), "the guest to see it", 120)
    streams.flow()


def worker_killed(site):
    """Its port goes; started again it has what is configured."""
    one, two = site.guests
    d = site.d
    site.set(two, dhcp_guard=True)
    tap = site.port(two, "out")
    os.kill(d.machine_process(two.name), 9)
    eventually(lambda: d.state_of(two.name) == "off" and tap not in site.host.links() and not site.port(two, "out"), "its port to go")
    require(one.reaches("192.0.2.1", seconds=60), "the other stays")
    two.close()
    boot = d.ok("GET", f"/v1/vms/{two.name}")["config"]["boot"]
    d.ok("PATCH", f"/v1/vms/{two.name}", {"boot": {"append": boot["append"] + ALONE}})
    d.done("POST", f"/v1/vms/{two.name}/start")
    two = site.guests[1] = Debian(d, two.name)
    require(in_datapath(d, site.port(two, "out")), "its port is back")
    two.prepare(alone=True)
    eventually(lambda: two.run("test -e /sys/class/net/eth0")[0] == 0, "the adapter to be seen", 120)
    two.give("eth0", "192.0.2.12/24", "2001:db8::12/64")
    require_reach(two, ("192.0.2.12", "2001:db8::12"), site.router, ("192.0.2.1", "2001:db8::1"))
    with Capture(site.beyond, "br0", "udp") as seen:
        until_heard(two, (("udp", "192.0.2.255", 67, 68), ("udp", "192.0.2.255", 4444, 4445)), (seen, "192.0.2.12.4444 > "))
        require(not seen.seen("192.0.2.12.67 > "), f"the setting of before: {seen.text}")


def lacp(site):
    """The same team by LACP, with another Open vSwitch at its other end."""
    for n in ("eth1", "eth2"):
        site.beyond.ip("link", "set", n, "nomaster")
    site.beyond.ip("link", "delete", "br0")
    site.d.cli("switch", "team", "out", "--mode", "lacp")
    with lacp_peer(site.beyond) as (interface, _):
        site.beyond.give(interface, "192.0.2.1/24", "2001:db8::1/64")

        def agreed():
            return [m.get("lacp") for m in site.members()] == [True, True]
        eventually(agreed, "both members to have agreed", 120)
        with echoes(site) as streams:
            unplugged(site, streams, itertools.cycle(("eth1", "eth2")), 3, agreed)
            streams.finish()


def start(site, context):
    for name, more in (("alone", ["--type", "private"]), ("inside", ["--type", "internal", "--address", "10.0.0.254/24", "--address", "fd00::fe/64"])):
        site.d.cli("switch", "create", name, *more)
    site.guests += [make_debian(site.d, context["image"](), name, {"port": "switch", "switch": "alone"}) for name in ("one", "two")]
    for guest in site.guests:
        guest.prepare()


def end(site):
    """Nothing is left in the host, and it has its own back."""
    d = site.d
    for guest in site.guests:
        if d.state_of(guest.name) != "off":
            d.done("POST", f"/v1/vms/{guest.name}/turn-off")
        d.cli("vm", "delete", guest.name, "--force")
    for name in ("alone", "inside", "out"):
        d.cli("switch", "delete", name)
    was = [n[:5] + n[6:] for n in site.before]  # routes come and go with what routers say

    def now():
        return [n[:5] + n[6:] for n in (network_of(site.host, f"eth{i}") for i in (1, 2))]
    eventually(lambda: now() == was, f"the host to have its own: {now()}, {was}")
    require_nothing_left(d, site.host, site.links)


def test_manage_guests_on_switches(context):
    with Lan(context) as lan, Site(lan) as site:
        start(site, context)
        for step in (private_and_internal, external, guards, spoofed, vlans, private_vlans, team, worker_killed, lacp, end):
            before = time.monotonic()
            step(site)
            print(f"     {step.__name__}: {time.monotonic() - before:.0f} s", flush=True)


def require_minimum(context):
    """In the kernel's datapath: a guest, and its host, who together ask for more than the adapter can send."""
    with Lan(context) as lan:
        host, beyond = lan.add(), lan.add()
        wire(host, "eth1", beyond, "eth1")
        beyond.give("eth1", "10.0.0.200/24")
        host.give("eth1", "10.0.0.2/24")
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--bandwidth", "1M")
        guest = make_debian(d, context["image"], "one", {"port": "switch", "switch": "out"}, processor=context["processor"], append=ALONE)
        guest.prepare(alone=True)
        guest.give("eth0", "10.0.0.1/24")
        eventually(lambda: guest.reaches("10.0.0.200"), "what is beyond to be reached", 120)
        status, text = guest.net("flood", "10.0.0.200", 7001)
        require(status == 0, text)
        flood = subprocess.Popen(host.argv("/usr/bin/python3", "-c", FLOOD, "7002"))
        try:
            for settings, low, high in ((part(minimum=750000), 0.65, 0.95), (part(minimum=100000, maximum=300000), 0.05, 0.4)):
                d.cli("vm", "adapter", "set", "one", "0", "--settings", json.dumps(settings))
                first, second = map(int, beyond.run("/usr/bin/python3", "-c", COUNT, "300").stdout.split()[1:])
                print(f"     {settings}: the guest has {first / (first + second):.2f}", flush=True)
                require(low < first / (first + second) < high, f"{settings}: {first} and {second}")
        finally:
            flood.kill()
            flood.wait()
            guest.close()
