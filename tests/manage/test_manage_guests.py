# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Debians on switches of each type: what reaches whom, by IPv4 and IPv6, and what must not pass, as a capture on the other side sees it. Hosts
are network namespaces."""

import json
import re
import subprocess

from daemon import require
from debian import Peer, make_debian
from lan import Capture, Lan, eventually, wire
from test_manage_switches import network_of, require_nothing_left

SIZE = 1 << 20
PORT = 5000
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
        eventually(lambda: "tentative" not in self.host.ip("-6", "address"), "duplicates to be ruled out")
        self.before, self.links = [network_of(self.host, f"eth{n}") for n in (1, 2)], self.host.links()
        self.d = lan.daemon(self.host)
        self.router, self.itself = Peer(self.beyond), Peer(self.host)
        self.guests = []
        self.dhcp = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (self.router, self.itself, *self.guests):
            one.close()
        if self.dhcp:
            self.dhcp.kill()
            self.dhcp.wait()

    def connect(self, name):
        for guest in self.guests:
            self.d.cli("vm", "adapter", "connect", guest.name, "0", f"switch:{name}")

    def set(self, guest, **settings):
        self.d.cli("vm", "adapter", "set", guest.name, "0", "--settings", json.dumps(settings))


def require_together(a, a_addresses, b, b_addresses):
    """Both hear the other by each address, and what they send arrives whole."""
    for one, other, addresses in ((a, b, a_addresses), (b, a, b_addresses)):
        for address in addresses:
            eventually(lambda: other.reaches(address), f"{address} to be reached", 60)  # pylint: disable=cell-var-from-loop
            one.serve(PORT, SIZE)
            status, text = other.net("fetch", address, PORT, SIZE)
            require(status == 0, f"from {address}: {text}")


def require_apart(a, a_addresses, b, b_addresses):
    for one, addresses in ((a, b_addresses), (b, a_addresses)):
        for address in addresses:
            require(not one.reaches(address), f"{address} is reached")


def say(guest, *what):
    for words in what:
        status, text = guest.net(*words)
        require(status == 0, f"{words}: {text}")


def host_hears(site, interface, promised):
    """Whether the host, for all that it tries, hears a guest that calls everybody, and who answers it."""
    one, _ = site.guests
    if promised:
        eventually(lambda: one.reaches("10.0.0.254") and one.reaches("fd00::fe"), "the host to be reached", 60)
    with Capture(site.host, interface, "") as seen:
        say(one, ("udp", "10.0.0.255", 4444, 4445), ("udp", "ff02::1", 4446, 4447, "%eth0"))
        heard = [site.itself.reaches("10.0.0.1"), site.itself.reaches("fd00::1"), one.reaches("10.0.0.254"), one.reaches("fd00::fe"),
                 seen.seen("10.0.0.1.4444 >", 1), seen.seen(".4446 >", 1)]
    require(len(set(heard)) == 1, f"{interface}: {heard}")
    return heard[0]


def private_and_internal(site):
    one, two = site.guests
    mine, its = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
    one.give("eth0", "10.0.0.1/24", "fd00::1/64")
    two.give("eth0", "10.0.0.2/24", "fd00::2/64")
    require_together(one, mine, two, its)
    site.host.give("bs1", "10.0.0.254/24", "fd00::fe/64")
    require(not host_hears(site, "bs1", False), "the host hears a private switch")
    site.host.ip("address", "flush", "dev", "bs1", "scope", "global")
    site.connect("inside")
    require(host_hears(site, "bs2", True), "the host does not hear an internal switch")
    require_together(one, mine, two, its)
    require_together(one, mine, site.itself, ("10.0.0.254", "fd00::fe"))


def lease(site):
    """What a network gives: addresses of both protocols, a name server."""
    one, _ = site.guests
    site.dhcp = subprocess.Popen(site.beyond.argv("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root", *DHCP),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    one.check("ip address flush dev eth0 scope global; systemctl start systemd-networkd")
    eventually(lambda: re.search(r"inet 192\.0\.2\.1[0-2]\d/24", one.check("ip -o address show dev eth0")), "a lease", 120)
    eventually(lambda: re.search(r"inet6 2001:db8::1..?/", one.check("ip -o address show dev eth0")), "a lease of IPv6", 120)
    address = re.search(r"inet (192\.0\.2\.1\d\d)/", one.check("ip -o address show dev eth0")).group(1)
    eventually(lambda: one.run("getent ahosts server.test")[0] == 0, "the name server to be asked", 60)
    require({"192.0.2.1", "2001:db8::1"} <= set(one.check("getent ahosts server.test").split()), "the name server's answer")
    require_together(one, (address,), site.router, ("192.0.2.1", "2001:db8::1"))
    require(address in site.d.cli("vm", "show", one.name), "its address is shown")
    one.check("systemctl stop systemd-networkd.socket systemd-networkd")


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
    for guarded in (False, True):
        site.set(one, **({"dhcp_guard": True, "router_guard": True} if guarded else {}))
        with Capture(site.beyond, "br0", f"ether src {mac} and (udp or icmp6)") as seen:
            say(one, ("udp", "192.0.2.255", 67, 68), ("udp", "ff02::1", 547, 546, "%eth0"), ("advertise", "%eth0"), ("udp", "192.0.2.255", 4444, 4445))
            require(seen.seen(".4444 > ", 20), f"what is behind it came: {seen.text}")
            for what in ("192.0.2.11.67 > ", ".547 > ", "router advertisement"):
                require((what in seen.text.decode()) != guarded, f"guarded {guarded}: {what}: {seen.text.decode()}")
    site.set(one, acls=[{"direction": "out", "remote": "192.0.2.1", "action": "deny"}, {"direction": "out", "remote": "2001:db8::1", "action": "deny"}])
    with Capture(site.beyond, "br0", "icmp or icmp6") as seen:
        require_apart(one, ("192.0.2.11", "2001:db8::11"), site.router, ("192.0.2.1", "2001:db8::1"))
        require(one.reaches("192.0.2.2"), "what it does not deny")
        require(not seen.seen("192.0.2.11 > ") and not seen.seen("2001:db8::11 > 2001:db8::1: ICMP6, echo"), f"an ACL: {seen.text}")
        site.set(one)
        eventually(lambda: one.reaches("192.0.2.1") and one.reaches("2001:db8::1"), "it to be gone", 60)
        require(seen.seen("192.0.2.11 > 192.0.2.1: ICMP echo request", 20), f"without it: {seen.text}")


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
    now = [network_of(site.host, f"eth{n}") for n in (1, 2)]
    require([n[:5] for n in now] == [b[:5] for b in site.before], f"as it was: {now} {site.before}")
    require_nothing_left(d, site.host, site.links)


def test_manage_guests_on_switches(context):
    with Lan(context) as lan, Site(lan) as site:
        start(site, context)
        private_and_internal(site)
        external(site)
        guards(site)
        end(site)
