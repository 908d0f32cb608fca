# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host has beside its addresses: settings of its adapters, routes by others, who else uses an adapter; and addresses that come later."""

import concurrent.futures
import http.client
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time

from daemon import Daemon, require
from lan import Lan, LanDaemon, eventually, wire
from test_manage_switches import network_of, ports_of, require_nothing_left, require_reach, two_hosts

MINE, ITS = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")


def setting(host, interface, key, value=None):
    path = f"/proc/sys/net/{key.replace('*', interface)}"
    if value is not None:
        host.run("sh", "-c", f"echo {value} >{path}")
    return host.run("cat", path).stdout.strip()


def addresses(host, interface):
    return {a["local"]: a for e in host.json("address", "show", interface) for a in e["addr_info"]}


def test_manage_switch_host_has_all(context):
    """Labels, settings of the kernel, a route over two routers, and what another interface has to the same targets: there with the switch, and back."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        other = lan.add()
        wire(host, "eth2", other, "eth0")
        host.give("eth2", "198.51.100.2/24", "2001:db8:2::2/64")
        settings = {"ipv6/conf/*/accept_ra": "0", "ipv6/conf/*/hop_limit": "77", "ipv4/conf/*/rp_filter": "2", "ipv4/conf/*/arp_ignore": "1"}
        for key, value in settings.items():
            setting(host, "eth1", key, value)
        host.ip("address", "add", "192.0.2.78/24", "dev", "eth1", "label", "eth1:web")
        # To the same targets, by both interfaces.
        for interface in ("eth2", "eth1"):
            host.ip("-6", "route", "append", "2001:db8:f::/64", "dev", interface, "metric", "77")
            host.ip("route", "append", "203.0.113.0/25", "dev", interface, "metric", "77")
        host.ip("-6", "route", "add", "2001:db8:e::/64", "nexthop", "via", "2001:db8::1", "dev", "eth1", "nexthop", "via", "2001:db8::3", "dev", "eth1")
        host.ip("route", "add", "203.0.113.128/25", "nexthop", "via", "192.0.2.1", "dev", "eth1", "nexthop", "via", "192.0.2.3", "dev", "eth1")
        before, others, links = network_of(host, "eth1"), network_of(host, "eth2"), host.links()
        routes = [host.ip(*family, "route", "show", "table", "all") for family in ([], ["-6"])]
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        require_reach(host, MINE, router, ITS)
        moved = [host.ip(*family, "route", "show", "table", "all").replace("bs1", "eth1") for family in ([], ["-6"])]
        for was, now in zip(routes, moved):
            # Of the kernel's own those of the adapter's multicast differ.
            lost = [line for line in was.splitlines() if line not in now and "multicast" not in line and "fe80" not in line]
            require(not lost, f"lost: {lost} of {now}")
        require(network_of(host, "eth2") == others, f"another interface's: {network_of(host, 'eth2')} {others}")
        require(addresses(host, "bs1")["192.0.2.78"]["label"] == "bs1:web", f"{addresses(host, 'bs1')}")
        require({key: setting(host, "bs1", key) for key in settings} == settings, "settings of the kernel")
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before and network_of(host, "eth2") == others, f"as it was: {network_of(host, 'eth1')} {before}")
        require(addresses(host, "eth1")["192.0.2.78"]["label"] == "eth1:web", f"{addresses(host, 'eth1')}")
        require_reach(host, MINE, router, ITS)
        require_nothing_left(d, host, links)


def test_manage_switch_host_is_given_more(context):
    """What somebody gives the adapter later counts on the switch, and is good for as long as it was told there."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        for seconds, address in ((500, "192.0.2.2"), (700, "192.0.2.2"), (900, "192.0.2.99")):
            host.ip("address", "replace", f"{address}/24", "dev", "eth1", "valid_lft", str(seconds), "preferred_lft", str(seconds))
            eventually(lambda: not [a for a in addresses(host, "eth1") if "." in a], "it to be taken from the adapter")
            left = addresses(host, "bs1")[address]["valid_life_time"]  # pylint: disable=undefined-loop-variable
            require(seconds - 100 < left <= seconds, f"{left} s of {seconds}")
            require_reach(host, (address,), router, ["192.0.2.1"])
        require("problem" not in d.ok("GET", "/v1/switches/out"), "nothing is wrong")
        # Other adapters are none of ours.
        host.ip("link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
        host.give("eth7", "198.51.100.7/24")
        d.cli("switch", "delete", "out")
        require({"192.0.2.2", "192.0.2.77", "192.0.2.99", "2001:db8::2"} <= set(addresses(host, "eth1")), f"{addresses(host, 'eth1')}")
        require("198.51.100.7" in addresses(host, "eth7"), "as it was")


# What a client's script does, as that of Debian's dhclient: the address is good for as long as the lease.
CLIENT = """#!/bin/sh
case $1 in
bound|renew)
    ip address replace "$ip/$mask" dev "$interface" valid_lft "$lease" preferred_lft "$lease"
    ip route replace default via "$router" dev "$interface" metric 50 ;;
deconfig)
    ip -4 address flush dev "$interface" ;;
esac
echo "$1" >>"$0.log"
"""
LEASE = 24
SERVER = f"""start 192.0.2.50
end 192.0.2.50
interface eth0
lease_file leases
pidfile pid
option subnet 255.255.255.0
option router 192.0.2.1
option lease {LEASE}
"""


class Leases:
    """A DHCP server at the router, and a client that the host has on eth1: busybox' both."""

    def __init__(self, host, router):
        self.host = host
        self.directory = tempfile.TemporaryDirectory(prefix="bh-")
        self.script = os.path.join(self.directory.name, "script")
        for name, text, mode in (("script", CLIENT, 0o755), ("server", SERVER, 0o644), ("leases", "", 0o644), ("script.log", "", 0o644)):
            with open(os.path.join(self.directory.name, name), "w", opener=lambda *a, m=mode: os.open(*a, m), encoding="ascii") as f:
                f.write(text)
        self.processes = [self.start(router, "udhcpd", "-f", "server"),
                          self.start(host, "udhcpc", "-f", "-i", "eth1", "-s", self.script, "-t", "1000", "-T", "1", "-A", "1")]

    def start(self, host, *argv):
        return subprocess.Popen(host.argv("busybox", *argv), cwd=self.directory.name, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self.directory.cleanup()

    def count(self):
        """How often the client has been given its lease."""
        with open(self.script + ".log", encoding="ascii") as f:
            return sum(line.strip() in ("bound", "renew") for line in f)

    def await_more(self, number, what):
        wanted = self.count() + number
        eventually(lambda: self.count() >= wanted, what, 120)


# Frames to the host's adapter (argument 2) by eth0: argument 1 is bytes in hexadecimal, of each frame what is behind both addresses.
SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
for frame in sys.argv[1].split(","):
    s.send((bytes.fromhex(sys.argv[2].replace(":", "") + "020000000001" + frame)).ljust(60, b"."))
"""
# Tells the last two bytes of the source address of what is heard by an interface (argument 1), of all that is said to be IPv4; the frame of 9.9 is the last one.
HEAR = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
s.bind((sys.argv[1], 0x800))
s.settimeout(60)
print("begins", flush=True)
while True:
    packet = s.recv(2048)
    if packet[12:14] == bytes((10, 7)):
        print(packet[14:16].hex(), flush=True)
        if packet[14:16].hex() == "0909":
            break
"""


def packet(number, client, *, first=0x45, pieces=0, protocol=17, port=68, options=b"", tag="", cut=None):
    """In hexadecimal, from the frame's type on: an IPv4 packet of 10.7.0.`number` with ports behind its header, and the beginning of an answer to `client`, an
    adapter's address."""
    message = (bytes(28) + bytes.fromhex(client.replace(":", "")) + bytes(10))[:cut]
    header = struct.pack(">BBHHHBBH4s4s", first, 0, 28 + len(options) + len(message), 1, pieces, 9, protocol, 0, bytes((10, 7, number >> 8, number & 255)),
                         bytes((192, 0, 2, 50)))
    return tag + "0800" + (header + options + struct.pack(">HHHH", 67, port, 8 + len(message), 0) + message).hex()


def in_kernel():
    """Whether switches are in the kernel's datapath."""
    return os.path.exists("/sys/module/openvswitch")


def heard_by(interface, host, router, mac, frames):
    with subprocess.Popen(host.argv("python3", "-c", HEAR, interface), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as hearer:
        try:
            require(hearer.stdout.readline() == "begins\n", "it hears")
            router.run("python3", "-c", SEND, ",".join(frames), mac)
            return hearer.stdout.read().split()
        finally:
            hearer.kill()


def require_no_more_passes(host, router):
    """The host hears by the adapter what is for a client of DHCP, and nothing else; in the kernel's datapath what is for its own."""
    mac = host.json("link", "show", "eth1")[0]["address"]
    others = [packet(1, mac, port=67), packet(2, mac, port=69), packet(3, mac, protocol=6), packet(4, mac, pieces=1), packet(5, mac, pieces=0x2000),
              packet(6, mac, tag="81000007"), packet(7, mac, port=53), packet(8, mac, first=0x46, options=bytes((0, 67, 0, 53)), port=53),
              packet(10, mac, first=0x46, options=bytes((0, 67, 0, 68)), port=53), packet(11, mac, tag="88a80ffe", port=53)]
    if in_kernel():
        others += [packet(12, "020000000002"), packet(13, mac[:-1] + ("0" if mac[-1] != "0" else "1")), packet(14, mac, cut=20)]
    ours = [packet(0x101, mac), packet(0x102, mac, first=0x46, options=bytes(4)), packet(0x103, mac, pieces=0x4000), packet(0x909, mac)]
    wanted = ["0101", "0102", "0103", "0909"]
    heard = heard_by("eth1", host, router, mac, others + ours)
    require(heard == wanted, f"{heard}")
    # Somebody may listen on the switch, too; and what is for others goes there alone.
    heard = heard_by("bs1", host, router, mac, ours)
    require(heard == wanted, f"{heard}")
    heard = heard_by("bs1", host, router, mac, [packet(0x909, "020000000002")])
    require(heard == ["0909"], f"{heard}")


def test_manage_switch_host_has_a_lease(context):
    """The host's client of DHCP goes on with the adapter: the address stays on the switch for longer than a lease, and on the adapter when that is deleted."""
    with Lan(context) as lan:
        host, router = lan.add(), lan.add()
        wire(host, "eth1", router, "eth0")
        router.give("eth0", "192.0.2.1/24", "203.0.113.1/32")
        host.ip("link", "set", "eth1", "up")
        with Leases(host, router) as leases:
            eventually(lambda: "192.0.2.50" in addresses(host, "eth1"), "a lease", 120)
            links = host.links()
            d = lan.daemon(host)
            d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
            began = time.monotonic()
            eventually(lambda: addresses(host, "bs1").get("192.0.2.50", {}).get("dynamic"), "the address to be there for a time")
            leases.await_more(2, "the lease to be renewed")
            eventually(lambda: time.monotonic() > began + LEASE + 1, "the first lease to be over")
            eventually(lambda: "192.0.2.50" in addresses(host, "bs1") and "192.0.2.50" not in addresses(host, "eth1"), "the address to be on the switch")
            require_reach(host, ("192.0.2.50",), router, ("192.0.2.1", "203.0.113.1"))
            require_no_more_passes(host, router)
            require(not [e for e in d.ok("GET", "/v1/events")["events"] if e["kind"] == "switch.warning"], "nothing is the matter with it")
            d.cli("switch", "delete", "out")
            leases.await_more(1, "the lease to be renewed on the adapter")
            eventually(lambda: "192.0.2.50" in addresses(host, "eth1"), "the address to be on the adapter")
            require_reach(host, ("192.0.2.50",), router, ("192.0.2.1", "203.0.113.1"))
            require_nothing_left(d, host, links)


def test_manage_switch_host_uses_it(context):
    """An adapter of which another interface is made, and an address that is the host's, are in use."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        host.ip("link", "add", "link", "eth1", "name", "above", "type", "macvlan", "mode", "bridge")
        host.give("above", "198.51.100.1/24")
        before, links = [network_of(host, name) for name in ("eth1", "above")], host.links()
        d = lan.daemon(host)
        body = {"name": "out", "type": "external", "adapters": ["eth1"]}
        d.refused(409, "busy", "POST", "/v1/switches", body, "above is made of it")
        require([network_of(host, name) for name in ("eth1", "above")] == before and host.links() == links, "nothing was done")
        host.ip("link", "delete", "above")
        d.cli("switch", "create", "alone", "--type", "private")
        d.refused(409, "busy", "POST", "/v1/switches", {**body, "adapters": ["ovs-netdev"]}, "Open vSwitch's own")
        # A peer in the same host is none of that.
        host.ip("link", "add", "eth2", "type", "veth", "peer", "name", "eth3")
        for name in ("eth1", "eth2"):
            d.make(name, adapters=[{"mac": host.json("link", "show", name)[0]["address"].upper(), "port": "switch", "switch": "out"}])
        d.ok("POST", "/v1/switches", {**body, "adapters": ["eth1", "eth2"]})
        d.ok("POST", "/v1/switches", {"name": "in", "type": "internal"})
        for name in ("eth1", "eth2"):
            job = d.job("POST", f"/v1/vms/{name}/start")
            require(job["state"] == "failed" and "the host's own" in job["error"]["message"], f"{job}")
        adapter = {"mac": host.json("link", "show", "bs3")[0]["address"], "port": "switch", "switch": "in"}
        d.refused(409, "exists", "POST", "/v1/vms", {"name": "more", "memory": 64 << 20, "boot": {"kernel": d.kernel}, "adapters": [adapter]}, "the host's own")
        d.done("PATCH", "/v1/vms/eth1/adapters/0", {"port": "none"})
        d.done("POST", "/v1/vms/eth1/start")
        d.refused(409, "exists", "PATCH", "/v1/vms/eth1/adapters/0", {"port": "switch", "switch": "out"}, "the host's own")
        require_reach(host, MINE, router, ITS)


def test_manage_switch_host_on_an_internal_one(context):
    """The MAC of the host's adapter on an internal switch stays, whoever comes and goes; so do IP addresses that others have given it."""
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        links = host.links()
        d.cli("switch", "create", "in", "--type", "internal", "--address", "198.51.100.1/24", "--address", "2001:db8:1::1/64")
        mac = host.json("link", "show", "bs1")[0]["address"]
        host.ip("address", "add", "203.0.113.1/24", "dev", "bs1")
        for n in range(4):
            d.make(f"m{n}", adapters=[{"port": "switch", "switch": "in"}])
            d.done("POST", f"/v1/vms/m{n}/start")
        for n in range(4):
            require(host.json("link", "show", "bs1")[0]["address"] == mac, f"{n} machines are off")
            d.done("POST", f"/v1/vms/m{n}/turn-off")
        d.stop()
        d.start()
        eventually(lambda: ports_of(d, "in") == [], "it to be seen to")
        d.cli("switch", "set", "in", "--address", "198.51.100.9/24")
        require({a for a in addresses(host, "bs1") if not a.startswith("fe80")} == {"198.51.100.9", "203.0.113.1"}, f"{addresses(host, 'bs1')}")
        was = d.switch_pids()["ovs-vswitchd"]
        os.kill(was, 9)
        eventually(lambda: "bs1" in host.links() and "198.51.100.9" in addresses(host, "bs1") and d.switch_pids().get("ovs-vswitchd", was) != was, "it to be back")
        require(host.json("link", "show", "bs1")[0]["address"] == mac, "it is the same")
        for n in range(4):
            d.done("DELETE", f"/v1/vms/m{n}")
        d.cli("switch", "delete", "in")
        require_nothing_left(d, host, links)


def test_manage_switch_host_asks_for_nothing(context):
    """Command lines that ask for nothing, or for what cannot be: that is told, and nothing is done."""
    with Lan(context) as lan:
        d = lan.daemon(lan.add())
        d.cli("switch", "create", "lan", "--type", "private")
        before = d.ok("GET", "/v1/switches/lan")
        for words, text in ((("set", "lan"), "what is to change"), (("set", "lan", "--type", "internal"), "when it is made"), (("set", "lan", "--no-host"), "when it is made"),
                            (("team", "lan"), "what is to change"), (("team", "lan", "--remove", "eth1"), "not in the team"),
                            (("set", "lan", "--notes", b"\xff"), "no UTF-8"), (("create", b"\xff", "--type", "private"), "no UTF-8"),
                            (("create", "more", "--type", "private", "--adapter", b"\xff"), "no UTF-8"), (("team", "lan", "--mode", b"\xff"), "no UTF-8")):
            r = subprocess.run([os.path.join(d.build, "cli/bulkhead"), "switch", *words], capture_output=True, env={**os.environ, "BULKHEAD_SOCKET": d.socket}, timeout=60)
            require(r.returncode == 2 and text.encode() in r.stderr, f"{words}: {r}")
        require(d.ok("GET", "/v1/switches")["switches"] == [before], "all is as it was")


class Lacking(LanDaemon):
    """A daemon on a host where a program is not installed: a file that cannot be run is mounted over it."""

    def __init__(self, build, host, program):
        self.program = program
        super().__init__(build, host)

    def command(self):
        return ["unshare", "--mount", "sh", "-c", 'chmod 644 "$1" && mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", self.kernel, self.program, *super().command()]


def test_manage_switch_host_lacks_programs(context):
    """Each that is missing is told by its name; the host keeps its network, and nothing is left."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        before, links = network_of(host, "eth1"), host.links()
        for name in ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-ofctl", "tc"):
            with Lacking(context["build"], host, shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")) as d:
                said = d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", status=1)
                require(f"{name} is not installed" in said, said)
                require(network_of(host, "eth1") == before and d.ok("GET", "/v1/switches")["switches"] == [], f"{name}: {network_of(host, 'eth1')} {before}")
                require_nothing_left(d, host, links)
        require_reach(host, MINE, router, ITS)


class Unprivileged(LanDaemon):
    """A daemon that is nobody in particular."""

    def command(self):
        return self.host.argv("unshare", "--user", *Daemon.command(self))


def test_manage_switch_host_is_no_users(context):
    with Lan(context) as lan:
        host, _ = two_hosts(lan)
        before = network_of(host, "eth1")
        with Unprivileged(context["build"], host) as d:
            for words in (("--type", "private"), ("--type", "external", "--adapter", "eth1")):
                require("need root" in d.cli("switch", "create", "out", *words, status=1), f"{words}")
            require(not d.switch_pids() and network_of(host, "eth1") == before, "nothing was done")


def quietly(d, *request):
    """A request whose answer may never come."""
    try:
        d.call(*request)
    except (OSError, http.client.HTTPException):
        pass


def waits(d):
    """Whether Open vSwitch has been told what it has not done."""
    told = d.host.run("ovs-vsctl", "--timeout=10", f"--db=unix:{d.runtime}/switches/db.sock", "--no-wait", "get", "Open_vSwitch", ".", "next_cfg", "cur_cfg").stdout.split()
    return told[0] != told[1]


def test_manage_switch_host_team_of_a_daemon_that_dies(context):
    """In the middle of one member for another: it is the one team or the other in the end."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        peer = lan.add()
        wire(host, "eth2", peer, "eth0")
        host.ip("link", "set", "eth2", "up")
        before, links = [network_of(host, name) for name in ("eth1", "eth2")], host.links()
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        for adapters in (["eth1", "eth2"], ["eth1"], ["eth2"], ["eth1"]):
            now = d.ok("GET", "/v1/switches/out")["adapters"]
            pid = d.switch_pids()["ovs-vswitchd"]
            os.kill(pid, signal.SIGSTOP)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(quietly, d, "PATCH", "/v1/switches/out", {"adapters": adapters})
                try:
                    eventually(lambda: waits(d) or asked.done(), "it to wait for Open vSwitch")  # pylint: disable=cell-var-from-loop
                    d.kill()
                finally:
                    os.kill(pid, signal.SIGCONT)
            d.start()
            eventually(lambda: "problem" not in d.ok("GET", "/v1/switches/out"), "it to be seen to")
            has = d.ok("GET", "/v1/switches/out")
            require(has["adapters"] in (now, adapters) and sorted(m["name"] for m in has["members"]) == sorted(has["adapters"]), f"{now} to {adapters}: {has}")
            d.ok("PATCH", "/v1/switches/out", {"adapters": adapters})
        require_reach(host, MINE, router, ITS)
        d.cli("switch", "delete", "out")
        require([network_of(host, name) for name in ("eth1", "eth2")] == before, f"as it was: {[network_of(host, name) for name in ('eth1', 'eth2')]} {before}")
        require_nothing_left(d, host, links)


def test_manage_switch_host_is_let_go(context):
    """A switch is deleted while one of Open vSwitch's daemons hangs: the host is reached all the time, and in the end has all back."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        before, links = network_of(host, "eth1"), host.links()
        d = lan.daemon(host)
        for name in ("ovs-vswitchd", "ovsdb-server"):
            d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
            require(host.json("link", "show", "eth1")[0].get("master") == ("ovs-system" if in_kernel() else None), "which datapath it is in")
            require_reach(host, MINE, router, ITS)
            pid = d.switch_pids()[name]
            os.kill(pid, signal.SIGSTOP)
            try:
                d.ok("DELETE", "/v1/switches/out")
                require("cannot be deleted yet" in d.ok("GET", "/v1/switches/out")["problem"], "it is there yet")
                require_reach(host, MINE, router, ITS)
                # Of a database that hangs an ovs-vswitchd that works has not heard yet.
                stays = in_kernel() and name == "ovsdb-server"
                require(("192.0.2.2" in addresses(host, "bs1" if stays else "eth1")) and ("192.0.2.2" not in addresses(host, "eth1" if stays else "bs1")), f"{name}: who has it")
                d.kill()
                require_reach(host, MINE, router, ITS)
                d.start()
                require_reach(host, MINE, router, ITS)
            finally:
                os.kill(pid, signal.SIGCONT)
            eventually(lambda: d.ok("GET", "/v1/switches")["switches"] == [], "it to be gone")
            require(network_of(host, "eth1") == before, f"{name}: as it was: {network_of(host, 'eth1')} {before}")
            require_reach(host, MINE, router, ITS)
            require_nothing_left(d, host, links)


def lost_of(d, name):
    return [adapter["network_lost"] for adapter in d.ok("GET", f"/v1/vms/{name}/adapters")["adapters"]]


def test_manage_switch_host_loses_the_network(context):
    """When no adapter of a switch has a link any more, that is told of each machine on it whose adapter is protected, and when it is back."""
    with Lan(context) as lan:
        host, routers = lan.add(), [lan.add(), lan.add()]
        for n, router in enumerate(routers, 1):
            wire(host, f"eth{n}", router, "eth0")
            router.ip("link", "set", "eth0", "up")
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--adapter", "eth2")
        d.cli("switch", "create", "in", "--type", "internal")

        def told(name):
            return [e["kind"] for e in d.ok("GET", "/v1/events?limit=1000")["events"] if e["kind"].startswith("vm.network") and e["vm_name"] == name]

        def links(*up):
            for router, state in zip(routers, up):
                router.ip("link", "set", "eth0", "up" if state else "down")
        for name, protected in (("web", None), ("other", False)):
            adapter = {"port": "switch", "switch": "out"} | ({} if protected is None else {"settings": {"protected": protected}})
            d.make(name, adapters=[adapter, {"port": "switch", "switch": "in"}, {"port": "nat"}])
            d.done("POST", f"/v1/vms/{name}/start")
        links(True, False)
        eventually(lambda: [m["link"] for m in d.ok("GET", "/v1/switches/out")["members"]].count(False) == 1, "one of them to be without a link")
        require(lost_of(d, "web") == [False] * 3, "one is enough")
        links(False, False)
        eventually(lambda: lost_of(d, "web") == [True, False, False], "the loss to be seen")
        require(told("web") == ["vm.network-lost"] and not told("other") and lost_of(d, "other") == [False] * 3, f"{told('web')} {told('other')}")
        lost, = [e for e in d.ok("GET", "/v1/events?limit=1000")["events"] if e["kind"] == "vm.network-lost"]
        require("\"out\"" in lost["text"] and "eth1, eth2 have no link" in lost["text"], f"{lost}")
        require("its network is lost" in d.cli("vm", "show", "web") and "its network is lost" not in d.cli("vm", "show", "other"), "it is shown")
        # Told otherwise while it is so.
        d.cli("vm", "adapter", "set", "other", "0", "--protected", "yes")
        eventually(lambda: told("other") == ["vm.network-lost"], "it to be told of the other, too")
        d.cli("vm", "adapter", "disconnect", "other", "0")
        eventually(lambda: lost_of(d, "other") == [False] * 3, "one that is unplugged has none to lose")
        links(False, True)
        eventually(lambda: told("web") == ["vm.network-back", "vm.network-lost"] or told("web") == ["vm.network-lost", "vm.network-back"], "it to be back")
        require(lost_of(d, "web") == [False] * 3 and told("other") == ["vm.network-lost"], f"{told('other')}")
        # A machine that begins without.
        links(False, False)
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/web/start")
        eventually(lambda: lost_of(d, "web") == [True, False, False], "the loss to be seen at its start")
        d.kill()
        d.start()
        eventually(lambda: lost_of(d, "web") == [True, False, False], "the loss to be seen by another manager")
