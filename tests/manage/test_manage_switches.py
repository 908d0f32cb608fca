# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual switches on hosts that are network namespaces: what reaches whom, and that nothing is left."""

import concurrent.futures
import http.server
import os
import select
import signal
import socketserver
import threading
import time

from daemon import UnixConnection, require
from lan import Capture, Lan, eventually, wire


def two_hosts(lan):
    """A host with an adapter, addresses and routes, and its router."""
    host, router = lan.add(), lan.add()
    wire(host, "eth1", router, "eth0")
    give_addresses(host, router)
    return host, router


def give_addresses(host, router):
    router.give("eth0", "192.0.2.1/24", "2001:db8::1/64")
    host.give("eth1", "192.0.2.2/24", "192.0.2.77/32", "2001:db8::2/64")
    host.ip("route", "add", "default", "via", "192.0.2.1", "metric", "50")
    host.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.1", "src", "192.0.2.77", "table", "100")
    host.ip("-6", "route", "add", "default", "via", "2001:db8::1")
    eventually(lambda: "tentative" not in host.ip("-6", "address"), "duplicates to be ruled out")


def network_of(host, interface):
    """All that makes the host's network on an interface, as the host's tools tell it."""
    link, = host.json("link", "show", interface)
    addresses = sorted((a["family"], a["local"], a["prefixlen"], a["scope"], a.get("nodad", False)) for e in host.json("address", "show", interface) for a in e["addr_info"])
    routes = [sorted(line.strip() for line in host.ip(*family, "route", "show", "table", "all", "dev", interface).splitlines() if "local" not in line)
              for family in (["-4"], ["-6"])]
    hook = host.run("tc", "qdisc", "show", "dev", interface).stdout
    ipv6 = host.run("cat", f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").stdout
    return [link["address"], "UP" in link["flags"], "PROMISC" in link["flags"], link["mtu"], addresses, routes, hook, ipv6]


def both_ways(a, a_addresses, b, b_addresses):
    return [a.reaches(x) for x in b_addresses] + [b.reaches(x) for x in a_addresses]


def require_reach(a, a_addresses, b, b_addresses):
    # The first frame of all may find nobody's place known.
    eventually(lambda: all(both_ways(a, a_addresses, b, b_addresses)), f"{a_addresses} and {b_addresses} to reach one another")


def require_nothing_left(d, host, links):
    require(host.links() == links and not d.switch_pids() and not os.path.exists(os.path.join(d.runtime, "switches")),
            f"nothing is left: {host.links()} {d.switch_pids()}")


def test_manage_switch_external(context):
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        before, links = network_of(host, "eth1"), host.links()
        mine, its = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")
        d = lan.daemon(host)
        require("bs1" in d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1"), "its interface is told")
        moved = network_of(host, "bs1")
        require([moved[0], moved[4]] == [before[0], before[4]], f"address of the adapter, and the host's: {moved}")
        require([[line.replace("bs1", "eth1") for line in family] for family in moved[5]] == before[5], f"routes: {moved[5]} {before[5]}")
        require(network_of(host, "eth1")[4:6] == [[], [[], []]], "the adapter has none")
        require_reach(host, mine, router, its)
        # Once each: the host itself does not hear the adapter.
        answer = router.run("ping", "-n", "-c", "3", "-i", "0.2", "192.0.2.2").stdout
        require("3 received" in answer and "DUP" not in answer, answer)
        shown = d.ok("GET", "/v1/switches/out")
        require(shown["members"] == [{"name": "eth1", "link": True}] and shown["interface"] == "bs1", f"{shown}")
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")
        require_reach(host, mine, router, its)
        require_nothing_left(d, host, links)


def test_manage_switch_external_without_ipv6(context):
    """Where the adapter has IPv6 off, so has the switch; the host gets all back."""
    with Lan(context) as lan:
        host, router = lan.add(), lan.add()
        wire(host, "eth1", router, "eth0")
        router.give("eth0", "192.0.2.1/24")
        host.run("sysctl", "-q", "-w", "net.ipv6.conf.eth1.disable_ipv6=1")
        host.give("eth1", "192.0.2.2/24")
        host.ip("route", "add", "default", "via", "192.0.2.1")
        before, links = network_of(host, "eth1"), host.links()
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        require_reach(host, ["192.0.2.2"], router, ["192.0.2.1"])
        require(network_of(host, "bs1")[4] == before[4] and network_of(host, "bs1")[7] == "1\n", f"{network_of(host, 'bs1')}")
        # And where the switch has some of it all the same, that does not hinder the rest.
        host.run("sysctl", "-q", "-w", "net.ipv6.conf.bs1.disable_ipv6=0")
        host.ip("address", "add", "2001:db8::2/64", "dev", "bs1", "nodad")
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")
        require_reach(host, ["192.0.2.2"], router, ["192.0.2.1"])
        require_nothing_left(d, host, links)


def test_manage_switch_external_without_host(context):
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        before = network_of(host, "eth1")
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--no-host")
        require(not any(both_ways(host, ("192.0.2.2", "2001:db8::2"), router, ("192.0.2.1", "2001:db8::1"))), "the host is not there any more")
        with Capture(router, "eth0") as seen:
            host.ip("link", "set", "bs1", "up")
            host.run("ping", "-c", "1", "-W", "1", "-I", "bs1", "192.0.2.1", check=False)
            require(not seen.seen(host.json("link", "show", "bs1")[0]["address"]), "not even by the interface that it could use")
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")


def test_manage_switch_internal_and_private(context):
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        links = host.links()
        d.cli("switch", "create", "in", "--type", "internal", "--address", "198.51.100.1/24", "--address", "2001:db8:1::1/64")
        d.cli("switch", "create", "alone", "--type", "private")
        require(host.links() == sorted([*links, "bs1", "bs2", "ovs-netdev"]), f"{host.links()}")
        require([a[1] for a in network_of(host, "bs1")[4] if a[3] == "global"] == ["198.51.100.1", "2001:db8:1::1"], "the host's addresses")
        require(not network_of(host, "bs2")[1], "the host is not on a private switch")
        d.cli("switch", "set", "in", "--address", "198.51.100.9/24", "--notes", "x")
        require([a[1] for a in network_of(host, "bs1")[4] if a[3] == "global"] == ["198.51.100.9"], "others")
        require(d.cli("switch", "list", "--names").split() == ["alone", "in"], "by name")
        d.cli("switch", "delete", "in")
        require(d.switch_pids() and "bs1" not in host.links(), "one is left")
        d.cli("switch", "delete", "alone")
        require_nothing_left(d, host, links)


def test_manage_switch_refused(context):
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        d = lan.daemon(host)
        host.ip("link", "add", "br7", "type", "bridge")
        host.ip("link", "add", "used", "type", "veth", "peer", "name", "usedpeer")
        host.ip("link", "set", "used", "master", "br7")
        before, links = network_of(host, "eth1"), host.links()

        def refused(status, code, text, **body):
            d.refused(status, code, "POST", "/v1/switches", {"name": "x", **body}, text)
        refused(404, "not-found", "no network adapter \"eth9\"", type="external", adapters=["eth9"])
        refused(404, "not-found", "eth9", type="external", adapters=["eth1", "eth9"])
        refused(409, "busy", "is used", type="external", adapters=["used"])
        refused(400, "invalid", "no Ethernet adapter", type="external", adapters=["lo"])
        refused(400, "invalid", "needs an adapter", type="external")
        refused(400, "invalid", "again", type="external", adapters=["eth1", "eth1"])
        refused(400, "invalid", "adapters", type="internal", adapters=["eth1"])
        refused(400, "invalid", "addresses", type="private", addresses=["192.0.2.1/24"])
        for address in ("192.0.2.1", "ff02::1/64", "::/64", "::1/128", "224.0.0.1/24", "127.0.0.1/8", "0.0.0.0/8"):
            refused(400, "invalid", "addresses[0]", type="internal", addresses=[address])
        refused(400, "invalid", "vlan", type="internal", vlan=4095)
        refused(400, "invalid", "type", type="wire")
        d.refused(400, "invalid", "POST", "/v1/switches", {"name": "nat", "type": "private"}, "another meaning")
        require(network_of(host, "eth1") == before and host.links() == links and not d.switch_pids(), "nothing was done")
        d.ok("POST", "/v1/switches", {"name": "out", "type": "external", "adapters": ["eth1"]})
        refused(409, "busy", "switch \"out\"", type="external", adapters=["eth1"])
        refused(409, "busy", "switch \"out\"", type="external", adapters=["bs1"])
        d.refused(409, "exists", "POST", "/v1/switches", {"name": "out", "type": "private"})
        d.refused(404, "not-found", "GET", "/v1/switches/none")
        require_reach(host, ["192.0.2.2"], router, ["192.0.2.1"])


def test_manage_switch_rolled_back(context):
    """Whatever fails on the way to an external switch: the host is as it was, and was never cut off."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        d = lan.daemon(host)
        before, links = network_of(host, "eth1"), host.links()
        # A route over two adapters cannot move.
        host.ip("link", "add", "other", "type", "veth", "peer", "name", "otherpeer")
        host.ip("link", "set", "otherpeer", "up")
        host.give("other", "198.51.100.1/24")
        host.ip("route", "add", "10.0.0.0/8", "nexthop", "via", "192.0.2.1", "dev", "eth1", "nexthop", "via", "198.51.100.2", "dev", "other")
        d.refused(422, "not-supported", "POST", "/v1/switches", {"name": "out", "type": "external", "adapters": ["eth1"]}, "several interfaces")
        host.ip("route", "del", "10.0.0.0/8")
        # An adapter that has addresses cannot be a team's second.
        d.refused(409, "busy", "POST", "/v1/switches", {"name": "out", "type": "external", "adapters": ["eth1", "other"]}, "has addresses")
        host.ip("link", "del", "other")
        require(network_of(host, "eth1") == before and host.links() == links, f"as it was: {network_of(host, 'eth1')} {before}")
        # Open vSwitch hangs in the middle: its database answers, and nobody does what it says.
        d.cli("switch", "create", "in", "--type", "internal")
        os.kill(d.switch_pids()["ovs-vswitchd"], signal.SIGSTOP)
        try:
            d.refused(504, "timed-out", "POST", "/v1/switches", {"name": "out", "type": "external", "adapters": ["eth1"]}, "is it stopped?")
        finally:
            os.kill(d.switch_pids()["ovs-vswitchd"], signal.SIGCONT)
        eventually(lambda: [s["name"] for s in d.ok("GET", "/v1/switches")["switches"]] == ["in"], "no such switch to be there")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")
        require_reach(host, ["192.0.2.2", "2001:db8::2"], router, ["192.0.2.1", "2001:db8::1"])
        # The same at the end: the host has its own back, the bridge goes as soon as it can.
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        os.kill(d.switch_pids()["ovs-vswitchd"], signal.SIGSTOP)
        try:
            d.ok("DELETE", "/v1/switches/out")
            shown = d.ok("GET", "/v1/switches/out")
            require("cannot be deleted yet" in shown["problem"], f"{shown}")
            require(network_of(host, "eth1")[4:] == before[4:], f"back: {network_of(host, 'eth1')} {before}")
            d.kill()
            d.start()
        finally:
            os.kill(d.switch_pids()["ovs-vswitchd"], signal.SIGCONT)
        eventually(lambda: [s["name"] for s in d.ok("GET", "/v1/switches")["switches"]] == ["in"], "it to be gone")
        require("bs2" not in host.links() and network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")


def test_manage_switch_comes_back(context):
    """Daemons killed, ours and Open vSwitch's: what is configured comes back."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        before, links = network_of(host, "eth1"), host.links()
        d = lan.daemon(host)
        mine, its = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        moved = network_of(host, "bs1")
        for name in ("ovs-vswitchd", "ovsdb-server"):
            was = d.switch_pids()[name]
            os.kill(was, 9)
            eventually(lambda: d.switch_pids().get(name, was) != was, f"{name} to run again")  # pylint: disable=cell-var-from-loop
            eventually(lambda: "bs1" in host.links() and network_of(host, "bs1")[4:6] == moved[4:6], f"the host's network after {name}")
            require_reach(host, mine, router, its)
        # While no daemon is there.
        d.kill()
        require_reach(host, mine, router, its)
        for pid in d.switch_pids().values():
            os.kill(pid, 9)
        eventually(lambda: not d.switch_pids(), "them to end")
        d.start()
        require_reach(host, mine, router, its)
        require(network_of(host, "bs1")[4:6] == moved[4:6], f"{network_of(host, 'bs1')} {moved}")
        d.stop()
        d.start()
        require_reach(host, mine, router, its)
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")
        require_nothing_left(d, host, links)


def ports_of(d, name):
    return d.ok("GET", f"/v1/switches/{name}")["ports"]


def in_datapath(d, interface):
    """Whether ovs-vswitchd itself has it as a port."""
    shown = d.host.run("ovs-appctl", "-t", os.path.join(d.runtime, "switches/ovs-vswitchd.ctl"), "dpif/show", check=False).stdout
    return any(line.split()[0] == interface for line in shown.splitlines() if line.strip())


def test_manage_switch_machines(context):
    """Machines on switches: what is plugged in is there, whoever is killed, and nothing is left."""
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        links = host.links()
        d.make("web", adapters=[{"port": "switch", "switch": "lan", "settings": {"vlan": {"mode": "access", "id": 7}}}])
        job = d.job("POST", "/v1/vms/web/start")
        require(job["state"] == "failed" and "no switch \"lan\"" in job["error"]["message"], f"{job}")
        d.cli("switch", "create", "lan", "--type", "private")
        d.cli("switch", "create", "other", "--type", "internal")
        d.done("POST", "/v1/vms/web/start")
        port, = ports_of(d, "lan")
        mac = port["mac"]
        require(port["vm"] == "web" and port["interface"] == "bp" + mac.replace(":", "") and in_datapath(d, port["interface"]), f"{port}")
        require(host.json("link", "show", port["interface"])[0]["flags"].count("UP") and not host.json("address", "show", port["interface"])[0]["addr_info"], "the host has no part in it")
        d.refused(409, "busy", "DELETE", "/v1/switches/lan", None, "machine \"web\"")
        # Settings while it runs; what cannot be is refused.
        path = f"/v1/vms/web/adapters/{mac}"
        d.done("PATCH", path, {"settings": {"vlan": {"mode": "isolated", "id": 9}, "dhcp_guard": True, "acls": [{"direction": "in", "remote": "any", "action": "deny"}]}})
        eventually(lambda: "bq" + mac.replace(":", "") in host.links() and in_datapath(d, port["interface"]), "its bridge")
        for bad, text in (({"vlan": {"mode": "access"}}, "vlan.id"), ({"vlan": {"id": 4095}}, "vlan.id"), ({"vlan": {"mode": "trunk"}}, "vlan.allowed"),
                          ({"bandwidth": {"maximum_in": -1}}, "bandwidth.maximum_in"),
                          *(({"acls": [{"direction": "in", "remote": remote, "action": "deny"}]}, "acls[0].remote")
                            for remote in ("10.0.0.0/40", "10.0.0.0/4294967304", "00:15:5d:\n1:02:03"))):
            d.refused(400, "invalid", "PATCH", path, {"settings": bad}, text)
        for bad, text in (({"minimum": 1000000}, "of an external switch"), ({"weight": 1}, "of an external switch"), ({"weight": 101}, "settings.bandwidth.weight"),
                          ({"minimum": 1000000, "weight": 1}, "not both")):
            d.refused(400, "invalid", "PATCH", path, {"settings": {"bandwidth": bad}}, text)
        require("of an external switch" in d.cli("vm", "adapter", "set", "web", mac, "--minimum", "5M", status=1), "the command line asks for the same")
        require("of an external switch" in d.cli("vm", "adapter", "set", "web", mac, "--weight", "5", status=1), "and the same")
        d.refused(400, "invalid", "POST", "/v1/vms/web/adapters", {"mac": "00:15:5d:\n1:02:03"}, "mac")
        # What looks unusual, and may be.
        for good in ({"bandwidth": {"maximum": 1}}, {"bandwidth": {"maximum": 1 << 32}}, {"vlan": {"mode": "trunk", "id": 7, "allowed": [8, 7, 8]}}):
            d.done("PATCH", path, {"settings": good})
            require("problem" not in d.ok("GET", "/v1/switches/lan"), f"{good}")
        # By options: each changes what it names.
        def told(*options, status=0):
            d.cli("vm", "adapter", "set", "web", mac, *options, status=status)
            return d.ok("GET", "/v1/vms/web")["config"]["adapters"][0].get("settings")
        d.cli("vm", "adapter", "set", "web", mac, "--settings", "{}")
        for options, wanted in ((("--vlan", "7"), {"vlan": {"mode": "access", "id": 7}}),
                                (("--trunk", "8,9:7", "--maximum", "3K"), {"vlan": {"mode": "trunk", "id": 7, "allowed": [8, 9]}, "bandwidth": {"maximum": 3000, "maximum_in": 0}}),
                                (("--maximum-in", "100M"), {"bandwidth": {"maximum": 3000, "maximum_in": 100000000}}),
                                (("--private-vlan", "community:7:70", "--dhcp-guard", "yes"), {"vlan": {"mode": "community", "id": 7, "secondary": 70}, "dhcp_guard": True}),
                                (("--router-guard", "yes", "--mirror", "source"), {"dhcp_guard": True, "router_guard": True, "mirror": "source", "protected": True}),
                                (("--protected", "no"), {"mirror": "source", "protected": False}),
                                (("--acl", "in:deny:2001:db8::/32", "--acl", "out:allow:any"), {"acls": [{"direction": "in", "action": "deny", "remote": "2001:db8::/32"},
                                                                                                        {"direction": "out", "action": "allow", "remote": "any"}]}),
                                (("--vlan", "none", "--acl", "none", "--maximum", "0"), {"vlan": {"mode": "untagged"}, "acls": [], "bandwidth": {"maximum": 0, "maximum_in": 100000000}})):
            has = told(*options)
            require(all(has[key] == value for key, value in wanted.items()), f"{options}: {has}")
        for options in (("--vlan", "0"), ("--trunk", "7,x"), ("--private-vlan", "isolated:7:8"), ("--maximum", "1X"), ("--dhcp-guard", "1"), ("--protected", "1"), ("--acl", "in:deny"), ("--weight", "101"), ("--minimum", "1X"),
                        ("--vlan", "7", "--settings", "{}")):
            told(*options, status=2)
        d.cli("vm", "adapter", "set", "web", mac, "--settings", "{", status=2)
        d.cli("vm", "adapter", "set", "web", mac, "--settings", "{}")
        eventually(lambda: "bq" + mac.replace(":", "") not in host.links(), "its bridge to go")
        # Killed: Open vSwitch, the daemon, both.
        was = d.switch_pids()["ovs-vswitchd"]
        os.kill(was, 9)
        eventually(lambda: d.switch_pids().get("ovs-vswitchd", was) != was and in_datapath(d, port["interface"]), "its port in the new ovs-vswitchd")
        d.kill()
        for pid in d.switch_pids().values():
            os.kill(pid, 9)
        eventually(lambda: not d.switch_pids(), "them to end")
        d.start()
        require(ports_of(d, "lan") == [port] and in_datapath(d, port["interface"]), "as before")
        # To another switch, while it runs.
        d.done("PATCH", path, {"port": "switch", "switch": "other"})
        moved, = ports_of(d, "other")
        require(ports_of(d, "lan") == [] and in_datapath(d, moved["interface"]) and not in_datapath(d, port["interface"]), f"{moved}")
        require(port["interface"] not in host.links(), f"the tap before is gone: {host.links()}")
        d.cli("switch", "delete", "lan")
        # The worker is killed.
        os.kill(d.workers()[0], 9)
        eventually(lambda: d.state_of("web") == "off" and ports_of(d, "other") == [], "its port to go")
        eventually(lambda: moved["interface"] not in host.links(), "the tap to go")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/turn-off")
        require(ports_of(d, "other") == [], "off, it has no port")
        d.done("DELETE", "/v1/vms/web")
        d.cli("switch", "delete", "other")
        require_nothing_left(d, host, links)


def test_manage_switch_queue_lost(context):
    """A limit that the kernel does not have: an error for who asks for it, a problem of the switch if it was there."""
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        d.cli("switch", "create", "lan", "--type", "private")
        d.make("web", adapters=[{"port": "switch", "switch": "lan", "settings": {"bandwidth": {"maximum_in": 8000000}}}])
        d.done("POST", "/v1/vms/web/start")
        port, = ports_of(d, "lan")
        path = f"/v1/vms/web/adapters/{port['mac']}"
        job = d.job("PATCH", path, {"settings": {"bandwidth": {"maximum_in": 40000000000}}})
        require(job["state"] == "failed" and "another rate" in job["error"]["message"], f"{job}")
        require(d.ok("GET", "/v1/vms/web")["config"]["adapters"][0]["settings"]["bandwidth"]["maximum_in"] == 8000000, "as it was")
        eventually(lambda: "ceil 8Mbit" in host.run("tc", "class", "show", "dev", port["interface"]).stdout, "the queue to be as it was")
        eventually(lambda: "problem" not in d.ok("GET", "/v1/switches/lan"), "nothing to be wrong")
        host.run("tc", "qdisc", "del", "dev", port["interface"], "root")
        d.cli("switch", "set", "lan", "--notes", "x")
        eventually(lambda: "has no queue" in d.ok("GET", "/v1/switches/lan").get("problem", ""), "the problem to be told")
        d.done("PATCH", path, {"settings": {}})
        eventually(lambda: "problem" not in d.ok("GET", "/v1/switches/lan"), "nothing to be wrong", 100)


def test_manage_switch_minimum(context):
    """A part of the uplink is promised where it can be: whoever asks for it elsewhere is told, before anything is done."""
    with Lan(context) as lan:
        host, _ = two_hosts(lan)
        d = lan.daemon(host)
        # Of a switch that is not there yet nothing is known.
        d.make("early", adapters=[{"port": "switch", "switch": "out", "settings": {"bandwidth": {"weight": 10}}}])
        require("bandwidth" in d.cli("switch", "create", "x", "--type", "private", "--bandwidth", "1G", status=1), "only an external one has an uplink")
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--bandwidth", "100M")
        require("100000000 bits" in d.cli("switch", "show", "out"), "it is shown")
        if "system@" in host.run("ovs-appctl", "-t", os.path.join(d.runtime, "switches/ovs-vswitchd.ctl"), "dpif/show").stdout:
            raise context["skip"]("the kernel has a datapath")
        job = d.job("POST", "/v1/vms/early/start")
        require(job["state"] == "failed" and "userspace datapath" in job["error"]["message"], f"{job}")
        asks = [{"port": "switch", "switch": "out", "settings": {"bandwidth": {"minimum": 1000000}}}]
        d.refused(422, "not-supported", "POST", "/v1/vms", {"name": "web", "boot": {"kernel": d.kernel}, "adapters": asks}, "userspace datapath")
        require(d.call("GET", "/v1/vms/web")[0] == 404 and os.listdir(os.path.join(d.state, "machines")) == ["early"], "nothing of it is there")
        d.make("web", adapters=[{"port": "switch", "switch": "out"}])
        d.refused(422, "not-supported", "PATCH", "/v1/vms/web", {"adapters": asks}, "userspace datapath")
        mac = d.ok("GET", "/v1/vms/web")["config"]["adapters"][0]["mac"]
        for running in (False, True):
            d.refused(422, "not-supported", "PATCH", f"/v1/vms/web/adapters/{mac}", {"settings": {"bandwidth": {"minimum": 1000000}}}, "userspace datapath")
            d.done("PATCH", f"/v1/vms/web/adapters/{mac}", {"settings": {}})
            if not running:
                d.done("POST", "/v1/vms/web/start")


class Meddler(socketserver.ThreadingUnixStreamServer):
    """The daemon's socket, with somebody who asks for something himself when a client has looked, once."""

    def __init__(self, d, meddle):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

            def relay(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = UnixConnection(d.socket)
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                if self.command == "GET" and self.server.meddle:
                    self.server.meddle()
                    self.server.meddle = None
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            do_GET = do_PATCH = relay
        self.path = os.path.join(d.directory, "meddler")
        self.meddle = meddle
        if os.path.exists(self.path):
            os.unlink(self.path)
        super().__init__(self.path, Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def etag_of(d, path):
    connection = UnixConnection(d.socket)
    connection.request("GET", path)
    etag = connection.getresponse().getheader("ETag")
    connection.close()
    return etag



def test_manage_switch_no_update_is_lost(context):
    """What was changed between a look and a change that follows from it is not undone by that."""
    with Lan(context) as lan:
        d = lan.daemon(lan.add())
        d.cli("switch", "create", "lan", "--type", "private")
        etag = d.ok("GET", "/v1/switches/lan")["etag"]
        require(etag_of(d, "/v1/switches/lan") == etag and not etag_of(d, "/v1/switches"), "the header says it too, of one switch")
        for method, body in (("PATCH", {"notes": "x"}), ("DELETE", None)):
            status, answer = d.call(method, "/v1/switches/lan", body, {"If-Match": '"0123456789abcdef"'})
            require(status == 412 and answer["error"]["code"] == "conflict", f"{method}: {status} {answer}")
        status, answer = d.call("PATCH", "/v1/switches/lan", {"notes": "x"}, {"If-Match": etag})
        require(status == 200 and answer["etag"] != etag, f"{status} {answer}")
        d.make("web", adapters=[{"port": "switch", "switch": "lan"}])
        path = f"/v1/vms/web/adapters/{d.ok('GET', '/v1/vms/web')['config']['adapters'][0]['mac']}"
        for command, meddle in ((("vm", "adapter", "set", "web", "0", "--vlan", "7"), lambda: d.done("PATCH", path, {"settings": {"dhcp_guard": True}})),
                                (("switch", "team", "lan", "--mode", "lacp"), lambda: d.ok("PATCH", "/v1/switches/lan", {"notes": "y"}))):
            with Meddler(d, meddle) as meddler:
                said = d.cli(*command, status=1, environment={"BULKHEAD_SOCKET": meddler.path})
                require("was changed meanwhile" in said, said)
                d.cli(*command, environment={"BULKHEAD_SOCKET": meddler.path})
        settings = d.ok("GET", "/v1/vms/web")["config"]["adapters"][0]["settings"]
        require(settings["dhcp_guard"] and settings["vlan"] == {"mode": "access", "id": 7}, f"both are there: {settings}")
        shown = d.ok("GET", "/v1/switches/lan")
        require(shown["notes"] == "y" and shown["team"] == "lacp", f"{shown}")


def test_manage_switch_adapter_of_a_daemon_that_dies(context):
    """Between what the worker does and what the daemon writes down: the tap that the worker has is in its switch."""
    with Lan(context) as lan:
        host = lan.add()
        d = lan.daemon(host)
        for name in ("lan", "other"):
            d.cli("switch", "create", name, "--type", "private")
        d.make("web", adapters=[{"port": "switch", "switch": "lan"}])
        d.done("POST", "/v1/vms/web/start")
        before, = ports_of(d, "lan")
        worker = d.machine_process("web")
        os.kill(worker, signal.SIGSTOP)
        try:
            job = d.ok("PATCH", f"/v1/vms/web/adapters/{before['mac']}", {"switch": "other"})
            # What is asked of switches later is answered later, and with each request the daemon's loop goes round: then the worker has been asked.
            ports_of(d, "other")
            for _ in range(5):
                require(d.ok("GET", "/v1/vms/web")["config"]["adapters"][0]["switch"] == "lan", "that has not been written down")
            # Open vSwitch may have been too slow, on a host that is.
            job = d.ok("GET", f"/v1/jobs/{job['id']}")
            require(job["state"] == "running", f"the worker was asked: {job}")
            # It is there while the worker does it, as that does nothing for one who is gone, and does not read the answer.
            d.process.send_signal(signal.SIGSTOP)
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: before["interface"] not in host.links(), "the worker to have its other tap")
        d.kill()
        d.start()
        eventually(lambda: ports_of(d, "other"), "it to be on the other switch")
        after, = ports_of(d, "other")
        require(ports_of(d, "lan") == [] and in_datapath(d, after["interface"]) and after["interface"] in host.links(), f"{after}")
        require(d.ok("GET", "/v1/vms/web")["config"]["adapters"][0]["switch"] == "other", "so says its configuration")
        d.done("POST", "/v1/vms/web/turn-off")
        require(ports_of(d, "other") == [], "off, it has no port")


def test_manage_switch_team(context):
    """Members that come, go and lose their link under a host that talks."""
    with Lan(context) as lan:
        host, peer = lan.add(), lan.add()
        for n in (1, 2):
            wire(host, f"eth{n}", peer, f"eth{n}")
            peer.ip("link", "set", f"eth{n}", "up")
        peer.ip("link", "add", "br0", "type", "bridge")
        for n in (1, 2):
            peer.ip("link", "set", f"eth{n}", "master", "br0")
        peer.give("br0", "192.0.2.1/24", "2001:db8::1/64")
        host.give("eth1", "192.0.2.2/24", "2001:db8::2/64")
        eventually(lambda: "tentative" not in host.ip("-6", "address"), "duplicates to be ruled out")
        before, links = [network_of(host, f"eth{n}") for n in (1, 2)], host.links()
        d = lan.daemon(host)
        mine, its = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        require_reach(host, mine, peer, its)
        d.cli("switch", "team", "out", "--add", "eth2")

        def active():
            members = d.ok("GET", "/v1/switches/out")["members"]
            return [m["name"] for m in members if m.get("active")]
        eventually(lambda: len(active()) == 1, "one to be active")
        for _ in range(2):
            unplugged, = active()
            peer.ip("link", "set", unplugged, "down")
            eventually(lambda: active() not in ([], [unplugged]), "the other to be active")  # pylint: disable=cell-var-from-loop
            require_reach(host, mine, peer, its)
            peer.ip("link", "set", unplugged, "up")
            eventually(lambda: all(m["link"] for m in d.ok("GET", "/v1/switches/out")["members"]), "both links")
        d.cli("switch", "team", "out", "--mode", "balance-slb")
        require_reach(host, mine, peer, its)
        d.cli("switch", "team", "out", "--mode", "active-backup", "--remove", "eth1")
        require([m["name"] for m in d.ok("GET", "/v1/switches/out")["members"]] == ["eth2"], "one is left")
        require_reach(host, mine, peer, its)
        d.cli("switch", "team", "out", "--add", "eth1", "--remove", "eth2")
        require_reach(host, mine, peer, its)
        d.cli("switch", "delete", "out")
        require([network_of(host, f"eth{n}")[:5] for n in (1, 2)] == [b[:5] for b in before], f"as it was: {[network_of(host, f'eth{n}') for n in (1, 2)]} {before}")
        require_nothing_left(d, host, links)


def test_manage_switch_team_without_first(context):
    """A team whose first adapter is not the one that had the addresses, and is pulled out."""
    with Lan(context) as lan:
        host, router = two_hosts(lan)
        host.ip("link", "add", "eth2", "type", "veth", "peer", "name", "far")
        before = network_of(host, "eth1")
        mine, its = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")
        d = lan.daemon(host)
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1")
        d.ok("PATCH", "/v1/switches/out", {"adapters": ["eth2", "eth1"]})
        host.ip("link", "delete", "eth2")
        d.stop()
        os.kill(d.switch_pids()["ovs-vswitchd"], 9)
        eventually(lambda: "ovs-vswitchd" not in d.switch_pids(), "it to end")
        d.start()
        require_reach(host, mine, router, its)
        eventually(lambda: "no network adapter \"eth2\"" in d.ok("GET", "/v1/switches/out").get("problem", ""), "the one that is missing to be told")
        host.ip("link", "add", "eth2", "type", "veth", "peer", "name", "far")
        eventually(lambda: "problem" not in d.ok("GET", "/v1/switches/out"), "it to be found", 100)
        d.cli("switch", "delete", "out")
        require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")


def test_manage_switch_hung(context):
    """Open vSwitch that does not answer: what waits for it ends with an error that says so, and nothing else waits."""
    with Lan(context) as lan:
        d = lan.daemon(lan.add())
        d.cli("switch", "create", "lan", "--type", "private")
        d.make("web", adapters=[{"port": "switch", "switch": "lan"}])
        d.make("other", adapters=[])

        def meanwhile(*request):
            """Its answer, and how long others' requests took while it was at work."""
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked, times = pool.submit(d.call, *request), []
                while not asked.done():
                    start = time.monotonic()
                    require(len(d.ok("GET", "/v1/vms")["vms"]) == 2, "the machines are listed")
                    times.append(time.monotonic() - start)
                    select.select([], [], [], 0.02)
                return asked.result(), sorted(times)
        pid = d.switch_pids()["ovsdb-server"]
        os.kill(pid, signal.SIGSTOP)
        try:
            (status, answer), times = meanwhile("POST", "/v1/switches", {"name": "more", "type": "private"})
            require(status == 504 and answer["error"]["code"] == "timed-out" and "ovsdb-server" in answer["error"]["message"], f"{status} {answer}")
            # A host that is too busy may hold one of them for longer, not most.
            require(len(times) > 10 and times[len(times) // 2] < 0.1 and times[-1] < 2, f"{times[len(times) // 2]} s, {times[-1]} s of {len(times)}")
            # Once it is known to hang nobody waits for it any more.
            for _ in range(3):
                start = time.monotonic()
                job = d.job("POST", "/v1/vms/web/start")
                require(job["state"] == "failed" and "ovsdb-server" in job["error"]["message"], f"{job}")
                require(time.monotonic() - start < 3, f"{time.monotonic() - start} s")
            require(d.state_of("web") == "off", "it is off")
            d.done("POST", "/v1/vms/other/start")
            d.done("POST", "/v1/vms/other/turn-off")
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: [(s["name"], s.get("problem")) for s in d.ok("GET", "/v1/switches")["switches"]] == [("lan", None)], "it to be as before", 60)
        d.done("POST", "/v1/vms/web/start")
        port, = ports_of(d, "lan")
        require(in_datapath(d, port["interface"]), "it is plugged in")
        # The daemon ends while one waits.
        os.kill(pid, signal.SIGSTOP)
        try:
            asked = d.sent("POST", "/v1/switches", {"name": "more", "type": "private"})
            # Who was taken and answered came behind it.
            for _ in range(2):
                d.ok("GET", "/v1/vms")
            require(d.stop() == 0, "it ends")
            status, answer = d.answered(asked)
            require(status in (503, 504), f"{status} {answer}")
        finally:
            os.kill(pid, signal.SIGCONT)
        d.start()
        eventually(lambda: [s["name"] for s in d.ok("GET", "/v1/switches")["switches"]] == ["lan"], "the one that was there")


def test_manage_switch_slow(context):
    """What else is asked of a machine and its switch while Open vSwitch, or the worker, has not answered yet."""
    with Lan(context) as lan:
        d = lan.daemon(lan.add())
        for name in ("lan", "other"):
            d.cli("switch", "create", name, "--type", "private")
        d.make("web", adapters=[{"port": "switch", "switch": "lan"}])

        def ended(job):
            eventually(lambda: d.ok("GET", f"/v1/jobs/{job['id']}")["state"] != "running", f"{job['kind']} to end")
            return d.ok("GET", f"/v1/jobs/{job['id']}")
        # The host's machines are stopped while one starts: it is off in the end.
        pid = d.switch_pids()["ovsdb-server"]
        os.kill(pid, signal.SIGSTOP)
        try:
            start = d.ok("POST", "/v1/vms/web/start")
            require(d.state_of("web") == "starting", "it waits for its port")
            stop = d.ok("POST", "/v1/host/stop-machines")
        finally:
            os.kill(pid, signal.SIGCONT)
        require(ended(stop)["state"] == "done", "the machines are off")
        require(ended(start)["state"] == "failed", "it was not started")
        require(d.state_of("web") == "off" and not d.workers(), "it is off")
        # A switch that the worker is about to be given an adapter on is in use.
        d.done("POST", "/v1/vms/web/start")
        before, = ports_of(d, "lan")
        worker = d.machine_process("web")
        os.kill(worker, signal.SIGSTOP)
        try:
            change = d.ok("PATCH", f"/v1/vms/web/adapters/{before['mac']}", {"switch": "other"})
            d.refused(409, "busy", "DELETE", "/v1/switches/other", text="web")
        finally:
            os.kill(worker, signal.SIGCONT)
        require(ended(change)["state"] == "done", "it is plugged in")
        port, = ports_of(d, "other")
        require(in_datapath(d, port["interface"]), f"{port}")
        d.cli("switch", "delete", "lan")
        d.done("POST", "/v1/vms/web/turn-off")
