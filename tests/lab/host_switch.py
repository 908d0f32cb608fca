# SPDX-License-Identifier: GPL-2.0-or-later
"""A host whose own Open vSwitch, a unit of systemd, has the switches, in the kernel's datapath: made, used, while daemons come and go, and deleted.

Runs as a unit itself (system.sh); prints "passed", or what was wrong.
"""

import os
import subprocess
import sys
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "manage"))

# pylint: disable=wrong-import-position
from daemon import Daemon, require
from lan import Host, eventually, run
from test_manage_switches import give_addresses, network_of, require_reach

BUILD = os.path.join(ROOT, "build", "release")
MINE, ITS = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")


class ThisHost(Host):
    def __init__(self):  # pylint: disable=super-init-not-called
        self.name = None

    def argv(self, *argv):
        return list(argv)


def service(verb):
    subprocess.run(["systemctl", verb, "openvswitch-switch"], check=True, timeout=90)


def in_kernel(interface):
    """Whether the kernel's datapath has it."""
    shown = run("ovs-appctl", "dpctl/show", "system@ovs-system", check=False).stdout
    return any(line.split()[2:3] == [interface] for line in shown.splitlines() if line.split()[:1] == ["port"])


def has_queue(interface, text):
    return text in run("tc", "class", "show", "dev", interface).stdout


def as_it_should_be(d):
    return "problem" not in d.ok("GET", "/v1/switches/out")


def check(d, host, router):
    run("ovs-vsctl", "add-br", "theirs")
    before, links = network_of(host, "eth1"), host.links()
    d.cli("switch", "create", "out", "--type", "external", "--adapter", "eth1", "--bandwidth", "100M")
    require(run("ovs-vsctl", "get", "bridge", "bs1", "datapath_type").stdout.strip() == "system", "it is in the kernel's datapath")
    require(in_kernel("eth1") and in_kernel("bs1") and not os.path.exists(os.path.join(d.runtime, "switches")), "the host's Open vSwitch has it")
    require_reach(host, MINE, router, ITS)
    warned = [e for e in d.ok("GET", "/v1/events")["events"] if e["kind"] == "switch.warning"]
    require(not warned and "bs1-lease" in host.links(), f"a DHCP client, of which the address seems to be, hears: {warned}")
    settings = {"bandwidth": {"minimum": 40000000, "maximum_in": 8000000}}
    d.make("web", adapters=[{"port": "switch", "switch": "out", "settings": settings}])
    d.done("POST", "/v1/vms/web/start")
    port, = d.ok("GET", "/v1/switches/out")["ports"]

    def plugged():
        return in_kernel(port["interface"]) and has_queue(port["interface"], "ceil 8Mbit") and has_queue("eth1", "rate 40Mbit ceil 100Mbit")
    require(plugged(), f"{port} has its queues")
    d.refused(409, "busy", "PATCH", f"/v1/vms/web/adapters/{port['mac']}", {"settings": {"bandwidth": {"minimum": 95000000}}}, "a tenth stays")
    # Open vSwitch is started anew, and stands still for a while.
    service("restart")
    eventually(lambda: as_it_should_be(d) and plugged(), "all to be as before", 60)
    require_reach(host, MINE, router, ITS)
    service("stop")
    eventually(lambda: "start it" in d.ok("GET", "/v1/switches/out").get("problem", ""), "the problem to be told", 90)
    service("start")
    eventually(lambda: as_it_should_be(d) and plugged(), "all to be as before", 90)
    require_reach(host, MINE, router, ITS)
    # So is the manager.
    d.kill()
    require_reach(host, MINE, router, ITS)
    d.start()
    eventually(lambda: as_it_should_be(d) and plugged(), "all to be as before")
    d.done("POST", "/v1/vms/web/turn-off")
    eventually(lambda: not has_queue("eth1", "htb"), "nobody to be promised anything any more")
    d.done("DELETE", "/v1/vms/web")
    d.cli("switch", "delete", "out")
    require(network_of(host, "eth1") == before, f"as it was: {network_of(host, 'eth1')} {before}")
    require(host.links() == links, f"nothing is left: {host.links()} {links}")
    require(run("ovs-vsctl", "list-br").stdout.split() == ["theirs"] and not run("ovs-vsctl", "list", "qos").stdout + run("ovs-vsctl", "list", "queue").stdout,
            "what is not ours is there, and nothing else")
    require_reach(host, MINE, router, ITS)


def main():
    host, router = ThisHost(), Host()
    run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", router.name)
    give_addresses(host, router)
    # As by DHCP.
    host.ip("address", "replace", "192.0.2.2/24", "dev", "eth1", "valid_lft", "40000", "preferred_lft", "40000")
    with Daemon(BUILD) as d:
        try:
            check(d, host, router)
        except BaseException:
            print(f"The manager: {d.log_text()}\nThe units: {run('systemctl', '--no-pager', 'status', 'ovsdb-server', 'ovs-vswitchd', check=False).stdout[-1500:]}", flush=True)
            raise


if __name__ == "__main__":
    try:
        main()
        print("passed", flush=True)
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)
