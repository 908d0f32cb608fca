# SPDX-License-Identifier: GPL-2.0-or-later
"""Every offload of the synthetic adapter, both ways, with Debian's driver; checksums are looked at on the wire.

The guest's tap interface is in a bridge with one end of a pair of interfaces, whose own offloads are off: what the other end, in another
namespace, sees are the frames of a cable. Towards the guest that interface may leave segments whole: the adapter then hands them on coalesced.
"""

import json
import os
import re
import subprocess
import sys

from test_debian import Machine, require, shut_down
from test_network import HERE, Host, NamespaceGuest, digest

SIZE = 3 << 18
DATAGRAMS = 20
# What the guest leaves to the adapter, and what it takes of it: they do not depend on each other.
MODES = [("tx off tso off", "rx off lro off gro off"), ("tx on tso off", "rx on lro off gro off"), ("tx on tso on", "rx on lro on gro on")]
PEER_OFF, PEER_ON = "tx off sg off tso off gso off gro off", "tx on sg on tso on gso on gro off"
SEND_DATAGRAMS = """
import socket, sys
for address in sys.argv[2:]:
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(int(sys.argv[1])):
        s.sendto(bytes([i]) * (i * 61 + 1), (address, 9))
"""


class Peer:
    """Another host on the guest's cable, which sees what is on it."""

    def __init__(self, host):
        self.name = host.name + "-peer"
        self.directory = host.directory
        self.processes = []

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)

    def run(self, *command):
        return subprocess.run(["ip", "netns", "exec", self.name, *command], check=True, capture_output=True, text=True).stdout

    def start(self, program, *arguments):
        process = subprocess.Popen(["ip", "netns", "exec", self.name, sys.executable, os.path.join(HERE, program), *arguments],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        require(process.stdout.readline() == "ready\n", f"{program} did not start")
        return process

    def watch(self, interface):
        self.wire = self.start("wire.py", interface)

    def seen(self):
        self.wire.stdin.write("\n")
        self.wire.stdin.flush()
        return json.loads(self.wire.stdout.readline())


def make_cable(context, host, peer):
    try:
        host.run("ip", "tuntap", "add", "dev", "guest0", "mode", "tap", "vnet_hdr")
    except subprocess.CalledProcessError as e:
        raise context["skip"](f"no tap interface can be made: {e.stderr.strip()}") from None
    host.run("ip", "link", "add", "bridge0", "mtu", "9000", "type", "bridge", "mcast_snooping", "0")
    host.run("ip", "link", "add", "here", "mtu", "9000", "type", "veth", "peer", "name", "there", "netns", peer.name)
    host.run("ip", "link", "set", "guest0", "mtu", "9000", "master", "bridge0", "up")
    host.run("ip", "link", "set", "here", "master", "bridge0", "up")
    host.run("ip", "link", "set", "bridge0", "up")
    host.run("ethtool", "-K", "here", *"tx off tso off gso off gro off txvlan off rxvlan off".split())
    peer.run("ip", "link", "set", "there", "mtu", "9000", "up")
    peer.run("ip", "link", "set", "lo", "up")
    peer.start("vlan_relay.py", "there", "5", "tagged")
    peer.run("ip", "link", "set", "tagged", "mtu", "9000", "up")
    for interface, number in (("there", 1), ("tagged", 2)):
        peer.run("ip", "addr", "add", f"192.0.{number}.1/24", "dev", interface)
        peer.run("ip", "addr", "add", f"2001:db8:{number}::1/64", "dev", interface, "nodad")
    peer.start("network_host.py", peer.directory, *(a for n in (1, 2) for a in (f"192.0.{n}.1", f"2001:db8:{n}::1")))
    peer.watch("there")


def set_up_guest(guest, peer, mtu):
    """A new length of frames closes the adapter, and with it what was set."""
    for interface in ("there", "tagged"):
        peer.run("ip", "link", "set", interface, "mtu", str(mtu))
    guest.check(f"ip link set eth0 mtu {mtu} up; ip addr replace 192.0.1.2/24 dev eth0 && ip addr replace 2001:db8:1::2/64 dev eth0 nodad")


def set_up_vlan(guest, coalesced):
    """Tags: by an interface for them; beside that, which does not want it, Linux takes nothing coalesced. Then rules give and take the tag."""
    interface = "eth0" if coalesced else "eth0.5"
    guest.check("ip link add link eth0 name eth0.5 type vlan id 5 && ip link set eth0.5 up" if not coalesced else
                "tc qdisc add dev eth0 clsact && tc filter add dev eth0 egress matchall action vlan push id 5 && "
                "tc filter add dev eth0 ingress protocol 802.1q matchall action vlan pop")
    guest.check(f"ip addr add 192.0.2.2/24 dev {interface} && ip addr add 2001:db8:2::2/64 dev {interface} nodad")


def drop_vlan(guest, coalesced):
    guest.check("ip link del eth0.5" if not coalesced else
                "tc qdisc del dev eth0 clsact; ip addr del 192.0.2.2/24 dev eth0; ip addr del 2001:db8:2::2/64 dev eth0")


def counters(guest):
    """Datagrams that nobody wanted, and what had a wrong checksum, as the guest's kernel counted."""
    text = guest.check("grep -E '^(Tcp|Udp): [0-9]' /proc/net/snmp; grep -E '^Udp6(NoPorts|InCsumErrors)' /proc/net/snmp6")
    tcp, udp = (re.search(rf"^{name}: (.*)$", text, re.M)[1].split() for name in ("Tcp", "Udp"))
    six = dict(re.findall(r"^(Udp6\w+)\s+(\d+)", text, re.M))
    return {"udp4": int(udp[1]), "udp6": int(six["Udp6NoPorts"]), "bad": int(tcp[-1]) + int(udp[6]) + int(six["Udp6InCsumErrors"])}


def transfer(guest, peer, number, sent, mtu, what):
    """Files down and up and datagrams up and down, over both protocols."""
    tag = " vlan 5" if number == 2 else ""
    before = counters(guest)
    peer.seen()
    text = guest.check(f"n=0; for a in 192.0.{number}.1 [2001:db8:{number}::1]; do n=$((n + 1)); curl -sS --max-time 100 -o /tmp/got "
                       "http://$a/down && sha256sum < /tmp/got && curl -sS --max-time 100 -T /tmp/file http://$a/up$n || echo failed; done; "
                       f"python3 /tmp/datagrams {DATAGRAMS} 192.0.{number}.1 2001:db8:{number}::1", 300)
    require(re.findall(r"\b[0-9a-f]{64}\b", text) == [sent] * 2 and "failed" not in text, f"{what}: other files came down: {text}")
    for name in os.listdir(peer.directory):
        if name.startswith("up"):
            require(digest(os.path.join(peer.directory, name)) == sent, f"{what}: another file came up")
            os.unlink(os.path.join(peer.directory, name))
    peer.run(sys.executable, "-c", SEND_DATAGRAMS, str(DATAGRAMS), f"192.0.{number}.2", f"2001:db8:{number}::2")
    after = counters(guest)
    require(after["bad"] == before["bad"] and after["udp4"] - before["udp4"] == DATAGRAMS == after["udp6"] - before["udp6"],
            f"{what}: what the guest got: {before}, then {after}")
    seen = peer.seen()
    require(not seen["bad"], f"{what}: on the wire: {seen['bad']}")
    for kind in ("tcp4", "tcp6", "udp4", "udp6"):
        least = DATAGRAMS if kind[:3] == "udp" else SIZE // mtu
        require(seen["frames"].get(kind + tag, 0) >= least, f"{what}: {kind}{tag} of {seen}")
    require(mtu - 100 < seen["largest"] <= mtu, f"{what}: the longest packet has {seen['largest']} bytes")


def test_network_offloads(context):
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24"]) as host, Peer(host) as peer:
        make_cable(context, host, peer)
        with NamespaceGuest(host.name, os.path.abspath(machine.bulkhead), ["--image", machine.image, "--dvd", machine.seed, "--processor",
                            context["processor"], "--network", "tap:guest0"]) as guest:
            guest.login()
            guest.check(f"networkctl down eth0; modprobe 8021q; head -c {SIZE} /dev/urandom > /tmp/file")
            sent = guest.check("sha256sum < /tmp/file").split()[0]
            set_up_guest(guest, peer, 1500)
            with open(machine.path("datagrams"), "w", encoding="ascii") as f:
                f.write(SEND_DATAGRAMS)
            guest.check("curl -sS --max-time 100 -T /tmp/file http://192.0.1.1/down && curl -sS -o /tmp/datagrams http://192.0.1.1/datagrams")
            require(digest(os.path.join(peer.directory, "down")) == sent, "the file came up")
            for mtu in (1500, 9000):
                set_up_guest(guest, peer, mtu)
                for send, receive in MODES:
                    coalesced = "lro on" in receive
                    guest.check(f"ethtool -K eth0 {send} {receive}")
                    for number in (1, 2):
                        if number == 2:
                            set_up_vlan(guest, coalesced)
                        for offloads in (PEER_ON, PEER_OFF):
                            for interface in ("there", "tagged"):
                                peer.run("ethtool", "-K", interface, *offloads.split())
                            what = f"{mtu} bytes, guest: {send} {receive}, peer: {offloads}, " + ("plain", "vlan")[number - 1]
                            before = guest.control("inspect")["network0"]
                            transfer(guest, peer, number, sent, mtu, what)
                            after = guest.control("inspect")["network0"]
                            used = {key: after[key] - before[key] for key in ("tx_large", "rx_large", "tx_checksums", "tx_dropped", "rx_dropped")}
                            require((used["tx_large"] > 10) == ("tso on" in send) and (used["tx_checksums"] > 10) == ("tx on" in send) and
                                    (used["rx_large"] > 10) == (coalesced and offloads == PEER_ON), f"{what}: other offloads were used: {used}")
                    drop_vlan(guest, coalesced)
            shut_down(guest)
