# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of switches in /metrics, held against Open vSwitch's own counters."""

import os
import re
import signal
import time

from daemon import require
from lan import Lan, eventually, wire


def figures(d):
    """{(metric, interface): (value, labels)} of the ports of switches."""
    found = {}
    for line in d.ok("GET", "/metrics").splitlines():
        match = re.fullmatch(r"bulkhead_switch_port_(\w+)\{(.*)\} (\d+)", line)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1], labels["interface"]] = int(match[3]), labels
    return found


def counters(d, bridge):
    """The same by ovs-ofctl: {interface: {"rx pkts": number, …}}."""
    ask = ("ovs-ofctl", "-O", "OpenFlow14")
    target = f"unix:{d.runtime}/switches/{bridge}.mgmt"
    shown = d.host.run(*ask, "--no-names", "dump-ports", target).stdout
    names = {number: name for number, name in re.findall(r"^ (\w+)\(([^)]+)\):", d.host.run(*ask, "show", target).stdout + d.host.run(*ask, "dump-ports-desc", target).stdout, re.M)}
    ports = {}
    for number, rx, tx in re.findall(r"port +(\w+): rx (.*?)\n +tx (.*?)\n", shown):
        ports[names[number]] = {f"{way} {key}": int(value) for way, text in (("rx", rx), ("tx", tx)) for key, value in re.findall(r"(\w+)=(\d+)", text)}
    return ports


NAMES = {"received_packets_total": "rx pkts", "received_bytes_total": "rx bytes", "received_dropped_packets_total": "rx drop", "received_errors_total": "rx errs",
         "sent_packets_total": "tx pkts", "sent_bytes_total": "tx bytes", "sent_dropped_packets_total": "tx drop", "sent_errors_total": "tx errs"}


def test_manage_figures(context):
    with Lan(context) as lan:
        host, peer = lan.add(), lan.add()
        for n in (1, 2):
            wire(host, f"eth{n}", peer, f"eth{n}")
            # Nothing but what is asked for.
            for h in (host, peer):
                h.run("sysctl", "-q", "-w", f"net.ipv6.conf.eth{n}.disable_ipv6=1")
        peer.ip("link", "add", "br0", "type", "bridge")
        for n in (1, 2):
            peer.ip("link", "set", f"eth{n}", "master", "br0", "up")
        peer.give("br0", "192.0.2.1/24")
        host.give("eth1", "192.0.2.2/24")
        d = lan.daemon(host)
        require(not figures(d), "without switches there are none")
        d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--adapter", "eth2")
        d.make("web", adapters=[{"port": "switch", "switch": "out"}])
        d.done("POST", "/v1/vms/web/start")
        tap = d.ok("GET", "/v1/switches/out")["ports"][0]["interface"]
        eventually(lambda: host.reaches("192.0.2.1"), "the peer to be reached")
        host.run("ping", "-q", "-c", "20", "-i", "0.01", "-s", "1000", "192.0.2.1")

        def same():
            ours, theirs = figures(d), counters(d, "bs1")
            require(set(theirs) == {"bs1", "eth1", "eth2", tap}, f"{theirs}")
            return all(ours.get((name, interface), [None])[0] == theirs[interface][key] for name, key in NAMES.items() for interface in theirs)
        eventually(same, "the same as Open vSwitch's own", 30)
        ours = figures(d)
        require(ours["received_packets_total", "bs1"][0] >= 20 and ours["received_bytes_total", "bs1"][0] > 20000, f"{ours}")
        require(ours["sent_packets_total", tap][1] == {"switch": "out", "interface": tap, "kind": "vm", "vm": "web"}, f"{ours}")
        require({i: ours["link", i][1]["kind"] for i in ("bs1", "eth1", tap)} == {"bs1": "host", "eth1": "adapter", tap: "vm"}, f"{ours}")

        def team():
            return [[figures(d)[name, f"eth{n}"][0] for name in ("link", "active")] for n in (1, 2)]
        eventually(lambda: team() in ([[1, 1], [1, 0]], [[1, 0], [1, 1]]), "one to be active")
        peer.ip("link", "set", "eth1", "down")
        eventually(lambda: team() == [[0, 0], [1, 1]], "the other to be active")
        # Open vSwitch does not say: what else there is comes all the same.
        pid = d.switch_pids()["ovsdb-server"]
        os.kill(pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            text = d.ok("GET", "/metrics")
            require("bulkhead_vm_up{vm=\"web\"" in text and "bulkhead_switch_port_link{" not in text and time.monotonic() - start < 4, text)
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: ("link", "bs1") in figures(d), "them to come again")
