# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian with a network: the default switch, and a tap interface. Hosts are network namespaces that the tests make."""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys

from guest import Guest
from test_debian import Machine, require, shut_down, wait_for
from test_saved import save
from test_worker import start

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 24 << 20


class NamespaceGuest(Guest):
    """The machine's process is in a network namespace."""

    def __init__(self, namespace, *arguments, **options):
        self.namespace = namespace
        super().__init__(*arguments, **options)

    def command(self, name, arguments):
        return ["ip", "netns", "exec", self.namespace, *super().command(name, arguments)]


class Host:
    """A network namespace with addresses, in which a name server and a web server run."""

    def __init__(self, context, directory, addresses):
        if os.geteuid() != 0:
            raise context["skip"]("network namespaces with names need root")
        self.name = f"bulkhead-test-{os.getpid()}"
        self.directory = directory
        self.addresses = addresses
        self.server = None
        self.configuration = os.path.join("/etc/netns", self.name)
        os.makedirs(self.configuration)
        with open(os.path.join(self.configuration, "resolv.conf"), "w", encoding="utf-8") as f:
            f.write(f"nameserver {addresses[0].split('/')[0]}\n")
        r = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if r.returncode:
            self.close()
            raise context["skip"](f"no network namespace can be made: {r.stderr.strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)
        subprocess.run(["rm", "-r", self.configuration], capture_output=True)

    def run(self, *command):
        return subprocess.run(["ip", "netns", "exec", self.name, *command], check=True, capture_output=True, text=True).stdout

    def serve(self):
        names = [a.split("/")[0] for a in self.addresses]
        self.server = subprocess.Popen(["ip", "netns", "exec", self.name, sys.executable, os.path.join(HERE, "network_host.py"), self.directory,
                                        *names], stdout=subprocess.PIPE, text=True)
        require(self.server.stdout.readline() == "ready\n", "the servers did not start")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def random_file(path):
    with open(path, "wb") as f:
        f.write(os.urandom(SIZE))
    return digest(path)


def transfer_both_ways(guest, host, address, what):
    """A big file down and up by HTTP, compared by its hash."""
    url = f"http://{address}"
    sent = random_file(os.path.join(host.directory, f"{what}-down"))
    got = guest.check(f"curl -sS --max-time 200 -o /tmp/file {url}/{what}-down && sha256sum < /tmp/file", 240).split()[0]
    require(got == sent, f"{what}: {got} came down of {sent}")
    guest.check(f"curl -sS --max-time 200 -T /tmp/file {url}/{what}-up", 240)
    require(digest(os.path.join(host.directory, f"{what}-up")) == sent, f"{what}: another file came up")


def wait_for_address(guest, text):
    return wait_for(lambda: re.search(text, guest.check("ip -o addr show dev eth0")), f"an address {text}", 120)


def prepare(machine):
    key = machine.path("key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run([machine.bulkhead, "image", "seed", machine.seed, "--hostname", "under-test", "--user", "user", "--password", "bulkhead",
                    "--ssh-key", key + ".pub"], check=True)
    return key


def ssh(host, key, port, command):
    return host.run("ssh", "-i", key, "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                    "ConnectTimeout=60", "-o", "LogLevel=ERROR", "user@127.0.0.1", command)


def test_network_default(context):
    """The default switch: DHCP, name server, both protocols both ways, ssh by a forwarded port, and what must not be reached."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24", "2001:db8::1/64"]) as host:
        key = prepare(machine)
        host.run("ip", "link", "set", "lo", "up")
        for address in host.addresses: # the host's own, and not of its loopback network
            host.run("ip", "addr", "add", address, "dev", "lo", "nodad")
        host.serve()
        with NamespaceGuest(host.name, os.path.abspath(machine.bulkhead), ["--image", machine.image, "--dvd", machine.seed, "--processor",
                            context["processor"], "--forward", "2222:22"]) as guest:
            guest.login()
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            wait_for_address(guest, r"inet6 fd62:6b68::")
            require("192.0.2.1" in guest.check("getent ahostsv4 server.test"), "the name server did not answer")
            require(guest.run("getent ahosts server.example")[0] != 0, "a name that does not exist was found")
            transfer_both_ways(guest, host, "server.test", "name")
            transfer_both_ways(guest, host, "192.0.2.1", "ipv4")
            transfer_both_ways(guest, host, "[2001:db8::1]", "ipv6")
            require(ssh(host, key, 2222, "hostname").strip() == "under-test", "ssh came to somebody else")
            addresses = guest.control("status")["adapters"][0]["addresses"]
            require("10.0.2.15" in addresses and any(a.startswith("fd62:6b68::") for a in addresses), f"the host knows {addresses}")
            # The host's loopback: neither by the gateway's address nor by its own.
            with subprocess.Popen(["ip", "netns", "exec", host.name, sys.executable, os.path.join(HERE, "network_host.py"), host.directory,
                                   "127.0.0.1"], stdout=subprocess.PIPE, text=True) as loopback:
                require(loopback.stdout.readline() == "ready\n", "the server at the loopback address did not start")
                guest.check("ip route add table local 127.0.0.1 via 10.0.2.2 dev eth0; ip route del local 127.0.0.1 table local; "
                            "ip route del local 127.0.0.0/8 table local; sysctl -qw net.ipv4.conf.all.route_localnet=1 "
                            "net.ipv4.conf.eth0.route_localnet=1")
                for address in ("10.0.2.2", "127.0.0.1"):
                    r = guest.run(f"curl -sS --interface eth0 --max-time 8 http://{address}/name-down -o /tmp/loopback")
                    require(r[0] != 0, f"the host's loopback is reached by {address}")
                loopback.kill()
            counters = guest.control("inspect")["network0"]
            require(counters["version"] == "6.1" and counters["tx_large"] > 100 and counters["rx_large"] > 100,
                    f"large segments were not used: {counters}")
            shut_down(guest)


def test_network_none(context):
    with Machine(context) as machine, machine.start("--network", "none") as guest:
        guest.login()
        require(guest.run("ip link show dev eth0")[0] != 0, "there is an adapter")
        require(guest.control("status")["adapters"] == [], "the host knows of an adapter")
        shut_down(guest)


def test_network_tap(context):
    """A tap interface: offloads are the kernel's, both ways, and what the peer gets is right to the byte."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24", "2001:db8::1/64"]) as host:
        host.run("ip", "link", "set", "lo", "up")
        try:
            host.run("ip", "tuntap", "add", "dev", "guest0", "mode", "tap", "vnet_hdr")
        except subprocess.CalledProcessError as e:
            raise context["skip"](f"no tap interface can be made: {e.stderr.strip()}") from None
        for address in host.addresses:
            host.run("ip", "addr", "add", address, "dev", "guest0", "nodad")
        host.run("ip", "link", "set", "guest0", "mtu", "9000", "up")
        host.serve()
        with NamespaceGuest(host.name, os.path.abspath(machine.bulkhead), ["--image", machine.image, "--dvd", machine.seed, "--processor",
                            context["processor"], "--network", "tap:guest0"]) as guest:
            guest.login()
            guest.check("networkctl down eth0; ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; "
                        "ip addr add 2001:db8::2/64 dev eth0 nodad")
            transfer_both_ways(guest, host, "192.0.2.1", "ipv4")
            transfer_both_ways(guest, host, "[2001:db8::1]", "ipv6")
            counters = guest.control("inspect")["network0"]
            require(counters["tx_large"] > 100 and counters["rx_large"] > 100, f"large segments were not used: {counters}")
            # Without any offload, and with long frames.
            guest.check("ethtool -K eth0 tx off rx off tso off lro off gro off")
            transfer_both_ways(guest, host, "192.0.2.1", "plain")
            guest.check("ip link set eth0 mtu 9000; ip addr replace 192.0.2.2/24 dev eth0; ip addr replace 2001:db8::2/64 dev eth0 nodad")
            before = guest.control("inspect")["network0"]
            transfer_both_ways(guest, host, "192.0.2.1", "long")
            transfer_both_ways(guest, host, "[2001:db8::1]", "long6")
            after = guest.control("inspect")["network0"]
            for way in ("tx", "rx"): # half of the frames carry nothing but acknowledgements
                size = (after[f"{way}_bytes"] - before[f"{way}_bytes"]) / (after[f"{way}_frames"] - before[f"{way}_frames"])
                require(size > 2500, f"frames are not long: {size} bytes, {after}")
            shut_down(guest)


def test_network_worker(context):
    """bulkhead-worker in its sandbox, as a manager starts it: behind the default switch, and at a tap interface."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24", "198.51.100.1/24"]) as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
        try:
            host.run("ip", "tuntap", "add", "dev", "guest0", "mode", "tap", "vnet_hdr")
        except subprocess.CalledProcessError as e:
            raise context["skip"](f"no tap interface can be made: {e.stderr.strip()}") from None
        host.run("ip", "addr", "add", "198.51.100.1/24", "dev", "guest0")
        host.run("ip", "link", "set", "guest0", "up")
        host.serve()
        adapters = [{"mac": "00:15:5d:0a:0b:01", "forwards": ["2222:22"]},
                    {"mac": "00:15:5d:0a:0b:02", "port": "tap", "interface": "guest0"}]
        with start(machine, prefix=["ip", "netns", "exec", host.name], adapters=adapters) as guest:
            guest.login()
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            transfer_both_ways(guest, host, "192.0.2.1", "nat")
            guest.check("networkctl down eth1; ip link set eth1 up; ip addr add 198.51.100.2/24 dev eth1")
            transfer_both_ways(guest, host, "198.51.100.1", "tap")
            require([a["port"] for a in guest.control("status")["adapters"]] == ["nat", "tap"], "the host knows of other adapters")
            shut_down(guest)


def open_tap(namespace, name):
    """The descriptor of a tap interface in a network namespace, which a process outside of it can hand on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as own, open(f"/run/netns/{namespace}", "rb") as there:
        require(libc.setns(there.fileno(), 0) == 0, "the namespace cannot be entered")
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002))  # TUNSETIFF: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
        finally:
            libc.setns(own.fileno(), 0)
    return fd


def command(guest, fds=(), **request):
    """A control command with descriptors."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(guest.control_path)
        socket.send_fds(s, [json.dumps({"version": 1, **request}).encode() + b"\n"], fds)
        answer = json.loads(s.makefile().readline())
    for fd in fds:
        os.close(fd)
    return answer


def test_network_hot(context):
    """Cables and adapters that come and go under a running Debian; the machine's process is in its sandbox."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24"]) as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
        host.serve()

        def tap(name, number):
            try:
                fd = open_tap(host.name, name)
            except OSError as e:
                raise context["skip"](f"no tap interface can be made: {e}") from None
            host.run("ip", "addr", "add", f"198.51.{number}.1/24", "dev", name)
            host.run("ip", "link", "set", name, "up")
            return fd

        def is_up(name):
            return guest.run(f"test $(cat /sys/class/net/{name}/carrier) = 1")[0] == 0

        def another(last):
            status, index = guest.run("cat /sys/class/net/eth1/ifindex")
            return index if status == 0 and index != last else None
        macs = ["00:15:5d:0a:0b:01", "00:15:5d:0a:0b:02"]
        with start(machine, adapters=[{"mac": macs[0], "port": "none"}]) as guest:
            guest.login()
            # It would take an adapter for its own some time after that has come, and addresses that it has by then off it. Masked, as Debian's
            # daemon that tells the host of addresses would start it.
            guest.check("systemctl mask --quiet --runtime --now systemd-networkd.socket systemd-networkd.service; ip link set eth0 up; ip addr add 198.51.100.2/24 dev eth0; "
                        "ip route add 192.0.2.1 via 198.51.100.1 onlink dev eth0")
            require(not is_up("eth0"), "a cable is plugged in")
            for _ in range(2):
                require(command(guest, [tap("guest0", 100)], command="plug-adapter", mac=macs[0], port="descriptor", label="lan")["ok"], "it is refused")
                wait_for(lambda: is_up("eth0"), "the link", 60)
                guest.check("ip route replace 192.0.2.1 via 198.51.100.1 dev eth0")
                transfer_both_ways(guest, host, "192.0.2.1", "plugged")
                told = guest.control("status")["adapters"][0]
                require((told["port"], told["label"]) == ("descriptor", "lan") and "198.51.100.2" in told["addresses"] and
                        told["counters"]["sent_bytes"] > SIZE and told["counters"]["received_bytes"] > SIZE, f"the host knows of {told}")
                require(command(guest, command="plug-adapter", mac=macs[0], port="none")["ok"], "it is refused")
                wait_for(lambda: not is_up("eth0"), "no link", 60)
                require(host.run("ip", "-o", "link", "show").count("guest0") == 0, "the interface stays")
            last = None
            for at_once in (False, True, True, False):
                require(command(guest, [tap("guest1", 101)], command="add-adapter", mac=macs[1], port="descriptor")["ok"], "it is refused")
                last = wait_for(lambda: another(last), "a second adapter, and another than the one before", 60)
                guest.check("ip link set eth1 up && ip addr add 198.51.101.2/24 dev eth1 && ip route replace 192.0.2.1 via 198.51.101.1")
                transfer_both_ways(guest, host, "192.0.2.1", "added")
                require(command(guest, command="remove-adapter", mac=macs[1])["ok"], "it is refused")
                if not at_once: # else the same comes again while the guest still takes leave of it
                    wait_for(lambda: guest.run("ip link show dev eth1")[0] != 0, "one adapter", 60)
            a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with a, b, open(os.devnull, "rb") as null:
                for fds, request, text in (([], {"command": "plug-adapter", "mac": macs[0], "port": "descriptor"}, "more descriptors"),
                                           ([os.dup(a.fileno())], {"command": "plug-adapter", "mac": macs[0], "port": "descriptor"}, "SOCK_SEQPACKET"),
                                           ([os.dup(null.fileno())], {"command": "plug-adapter", "mac": macs[0], "port": "descriptor"}, "no tap interface"),
                                           ([os.dup(a.fileno())], {"command": "plug-adapter", "mac": macs[0], "port": "none"}, "says nothing of"),
                                           ([], {"command": "add-adapter", "mac": macs[0], "port": "none"}, "already"),
                                           ([], {"command": "add-adapter", "mac": "01:00:00:00:00:00", "port": "none"}, "mac"),
                                           ([], {"command": "remove-adapter", "mac": macs[1]}, "no network adapter"),
                                           ([], {"command": "plug-adapter", "mac": macs[0], "port": "nat"}, "port")):
                    answer = command(guest, fds, **request)
                    require(not answer["ok"] and text in answer["error"], f"{request}: {answer}")
            require(guest.run("dmesg | grep -iE 'hv_netvsc.*(timeout|error|fail)'")[0] == 1, f"the driver has complaints: {guest.check('dmesg | tail -20')}")
            shut_down(guest)


def test_network_channels(context):
    """A machine with two processors: a channel for each, flows spread over both by the guest's key and table; saved, it goes on with them."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24"]) as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
        host.serve()
        state = machine.path("state")
        settings = {"prefix": ["ip", "netns", "exec", host.name], "adapters": [{"mac": "00:15:5d:0a:0b:01"}], "cpus": 2}
        ports = iter(range(20000, 30000)) # one after the other: those of the machine's own choice may all be hashed alike

        def packets(direction):
            text = guest.check("ethtool -S eth0")
            return [int(re.search(rf"{direction}_queue_{i}_packets: (\d+)", text)[1]) for i in (0, 1)]

        def interrupted():
            """How often each processor took what came by the network."""
            return [int(n) for n in re.search(r"NET_RX:\s+(\d+)\s+(\d+)", guest.check("cat /proc/softirqs")).groups()]

        def count(expected, what):
            now = re.search(r"Current hardware settings:.*?Combined:\s+(\d+)", guest.check("ethtool -l eth0"), re.DOTALL)[1]
            require(now == str(expected) and guest.control("inspect")["network0"]["channels"] == expected, f"{what}: {now} channels")

        def look(what):
            count(2, what)
            table = guest.check("ethtool -x eth0")
            require("with 2 RX ring" in table and len(re.findall(r"^ +\d+:(?: +[01])+\s*$", table, re.MULTILINE)) == 16 and
                    re.search(r"^(?:[0-9a-f]{2}:){39}[0-9a-f]{2}\s*$", table, re.MULTILINE), f"{what}: no key or table: {table}")
            before = packets("rx"), packets("tx"), interrupted()
            transfer_both_ways(guest, host, "192.0.2.1", what)
            for _ in range(16):
                guest.check(f"curl -sS --max-time 100 --local-port {next(ports)} -o /dev/null http://192.0.2.1/{what}-up")
            after = packets("rx"), packets("tx"), interrupted()
            require(all(b > a for i in range(3) for a, b in zip(before[i], after[i])), f"{what}: {before}, then {after}")
        with start(machine, **settings) as guest:
            guest.login()
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            look("two")
            # All flows to one of them, and to the other.
            for i in (1, 0):
                guest.check("ethtool -X eth0 weight " + ("0 1" if i else "1 0"))
                before = packets("rx")
                transfer_both_ways(guest, host, "192.0.2.1", f"one{i}")
                after = packets("rx")
                require(after[i] - before[i] > 100 and after[1 - i] - before[1 - i] < 50, f"channel {i}: {before}, then {after}")
            guest.check("ethtool -X eth0 default") # a table of the user's own would forbid to have fewer channels
            save(guest, state)
        with start(machine, restore=state, **settings) as guest:
            os.unlink(state)
            look("after")
            guest.check("ethtool -L eth0 combined 1")
            count(1, "one")
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            transfer_both_ways(guest, host, "192.0.2.1", "single")
            guest.check("ethtool -L eth0 combined 2")
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            # Linux forgets its key over having one channel only, and goes on with one of zeros, by which all flows are alike.
            require(re.search(r"^(?:00:){39}00\s*$", guest.check("ethtool -x eth0"), re.MULTILINE), "Linux has kept its key")
            guest.check("ethtool -X eth0 hkey " + ":".join(f"{i * 37 % 256:02x}" for i in range(1, 41)))
            look("again")
            require(guest.run("dmesg | grep -iE 'hv_netvsc.*(timeout|error|fail)'")[0] == 1, f"the driver has complaints: {guest.check('dmesg | tail -20')}")
            shut_down(guest)


def test_network_saved(context):
    """A machine goes on from a file: its adapter is as the guest left it, and what is behind it is new."""
    with Machine(context) as machine, Host(context, machine.directory, ["192.0.2.1/24"]) as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
        host.serve()
        state = machine.path("state")
        settings = {"prefix": ["ip", "netns", "exec", host.name], "adapters": [{"mac": "00:15:5d:0a:0b:01"}]}
        with start(machine, **settings) as guest:
            guest.login()
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            transfer_both_ways(guest, host, "192.0.2.1", "before")
            save(guest, state)
        with start(machine, restore=state, **settings) as guest:
            os.unlink(state)
            transfer_both_ways(guest, host, "server.test", "after")
            require(guest.run("dmesg | grep -iE 'hv_netvsc.*(timeout|error|fail)'")[0] == 1, f"the driver has complaints: {guest.check('dmesg | tail -20')}")
            require(guest.control("status")["adapters"][0]["port"] == "nat", "the host knows of another adapter")
            shut_down(guest)
