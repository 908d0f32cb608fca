# SPDX-License-Identifier: GPL-2.0-or-later
"""Network adapters in vm.json, and bulkhead vm ssh."""

import os
import re
import socket
import subprocess

from daemon import Daemon, DaemonError, require, wait_for


def adapters(d, vm):
    return d.ok("GET", f"/v1/vms/{vm}")["config"]["adapters"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_manage_adapters_have_addresses_for_life(context):
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{}])
        d.make("db", adapters=[{}, {"port": "none"}, {"mac": "02:00:00:00:00:01", "port": "tap", "interface": "t0"}])
        d.make("alone")
        web, = adapters(d, "web")
        require(re.fullmatch("00:15:5d(:[0-9a-f]{2}){3}", web["mac"]) and web["port"] == "nat", f"the default switch: {web}")
        db = adapters(d, "db")
        require(len({a["mac"] for a in [web, *db]}) == 4 and [a["port"] for a in db] == ["nat", "none", "tap"], f"{db}")
        require(adapters(d, "alone") == [], "it has none")
        d.cli("vm", "set", "web", "--forward", "2222:22", "--notes", "x")
        require(adapters(d, "web") == [dict(web, forwards=["2222:22"])], f"the address stays: {adapters(d, 'web')}")
        require(web["mac"] in d.cli("vm", "show", "web") and "2222:22" in d.cli("vm", "show", "web"), "it is shown")
        d.cli("vm", "set", "db", "--network", "tap:t1", "--network", "nat")
        now = adapters(d, "db")
        require([(a["mac"], a["port"]) for a in now] == [(db[0]["mac"], "tap"), (db[1]["mac"], "nat")], f"{now}")
        d.done("POST", "/v1/vms/web/clone", {"name": "copy"})
        require(adapters(d, "copy")[0]["mac"] != web["mac"] and adapters(d, "copy")[0]["forwards"] == ["2222:22"], "a clone has its own")
        d.cli("vm", "set", "web", "--network", "none")
        require(adapters(d, "web") == [], "none is left")


def test_manage_adapters_refused(context):
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{}])
        mac = adapters(d, "web")[0]["mac"]
        for bad, text in (({"mac": "00:15:5d:1:2:3"}, "adapters[0].mac"), ({"mac": "01:00:00:00:00:00"}, "adapters[0].mac"),
                          ({"port": "wire"}, "adapters[0].port"), ({"forwards": ["22"]}, "forwards[0]"),
                          ({"forwards": ["70000:22"]}, "forwards[0]"), ({"vlan": 1}, "vlan")):
            d.refused(400, "invalid", "PATCH", "/v1/vms/web", {"adapters": [bad]}, text)
        d.refused(400, "invalid", "PATCH", "/v1/vms/web", {"adapters": [{}] * 9}, "adapters")
        d.make("db", adapters=[{}])
        for body in ({"adapters": [{"mac": mac}]}, {"adapters": [{"mac": mac.upper()}]}):
            d.refused(409, "exists", "PATCH", "/v1/vms/db", body, "web")
        d.refused(409, "exists", "PATCH", "/v1/vms/db", {"adapters": [{"mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:01"}]}, "adapters[0]")
        require(adapters(d, "db")[0]["mac"] != mac and len(adapters(d, "db")) == 1, "all stayed as it was")
        d.cli("vm", "set", "web", "--network", "wire", status=2)


def test_manage_adapters_of_a_running_machine(context):
    """The default switch runs with the machine: its port leads there, and is free again behind it."""
    with Daemon(context["build"]) as d:
        port = free_port()
        d.make("web", adapters=[{"forwards": [f"{port}:22"]}])
        d.make("db", adapters=[{"forwards": [f"{port}:22"]}])
        d.done("POST", "/v1/vms/web/start")
        seen = d.ok("GET", "/v1/vms/web/inspect")["adapters"]
        require(seen == [{"mac": adapters(d, "web")[0]["mac"], "port": "nat", "addresses": []}], f"{seen}")
        socket.create_connection(("127.0.0.1", port), 10).close()
        job = d.job("POST", "/v1/vms/db/start")
        require(job["state"] == "failed" and str(port) in job["error"]["message"], f"the port is taken: {job}")
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/db/start")
        socket.create_connection(("127.0.0.1", port), 10).close()


def test_manage_ssh(context):
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{}])
        require("start it first" in d.cli("vm", "ssh", "web", status=1), "it does not run")
        d.done("POST", "/v1/vms/web/start")
        require("--forward 2222:22" in d.cli("vm", "ssh", "web", status=1), "no port leads to it")
        d.done("POST", "/v1/vms/web/turn-off")
        port = free_port()
        d.cli("vm", "set", "web", "--forward", f"{port}:22")
        d.done("POST", "/v1/vms/web/start")
        # What ssh would do is the guest tests' matter: here is only what it is told.
        with open(os.path.join(d.directory, "ssh"), "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        os.chmod(f.name, 0o755)
        told = d.cli("vm", "ssh", "user@web", "uname", "-r", environment={"PATH": f"{d.directory}:{os.environ['PATH']}"}).splitlines()
        vm = d.ok("GET", "/v1/vms/web")["id"]
        require(told == ["-p", str(port), "-o", f"HostKeyAlias=bulkhead-{vm}", "-l", "user", "127.0.0.1", "uname", "-r"], f"{told}")


def test_manage_ssh_into_debian(context):
    """What a user types: a machine from an image with a port forwarded, and ssh by the machine's name."""
    image = context["image"]()
    with Daemon(context["build"]) as d:
        key = os.path.join(d.directory, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        d.cli("image", "import", "debian-12", image)
        port = free_port()
        d.cli("vm", "create", "web", "--image", "debian-12", "--memory", "512M", "--user", "user", "--ssh-key", key + ".pub", "--forward",
              f"{port}:22", "--processor", "soft", "--start")

        def answers():
            try:
                return d.cli("vm", "ssh", "user@web", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={d.directory}/hosts",
                             "-o", "HashKnownHosts=no", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR", "hostname").strip() == "web"
            except DaemonError:
                return False
        wait_for(answers, "ssh to get in", 300)
        with open(os.path.join(d.directory, "hosts"), encoding="ascii") as f:
            require(f"bulkhead-{d.ok('GET', '/v1/vms/web')['id']} " in f.read(), "the guest's key is kept under the machine's id")
        inspected = d.ok("GET", "/v1/vms/web/inspect")["adapters"][0]
        require("10.0.2.15" in inspected["addresses"], f"the guest's address is known: {inspected}")
        d.cli("vm", "shut-down", "web", "--timeout", "300")
