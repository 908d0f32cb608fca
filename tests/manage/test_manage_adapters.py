# SPDX-License-Identifier: GPL-2.0-or-later
"""Network adapters in vm.json, and bulkhead vm ssh."""

import http.server
import json
import os
import pwd
import random
import re
import select
import socket
import socketserver
import subprocess
import threading
import time

from daemon import Daemon, DaemonError, require, wait_for
from lan import apart


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
        d.make("alone", adapters=[])
        d.make("plain")
        require([a["port"] for a in adapters(d, "plain")] == ["nat"], f"what a new machine gets: {adapters(d, 'plain')}")
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


def test_manage_adapters_addresses_that_come_back(context):
    """Of a checkpoint, and of the same saved machine imported twice at once: another machine may have them by now."""
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{}])
        mac = adapters(d, "web")[0]["mac"]
        d.done("POST", "/v1/vms/web/checkpoints", {"name": "one"})
        d.cli("vm", "adapter", "remove", "web", mac)
        d.make("db", adapters=[{"mac": mac}])
        d.refused(409, "exists", "POST", "/v1/vms/web/checkpoints/one/apply", None, "machine \"db\"")
        d.cli("vm", "adapter", "remove", "db", mac)
        d.done("POST", "/v1/vms/web/checkpoints/one/apply")
        require(adapters(d, "web")[0]["mac"] == mac, "it is back")
        d.done("DELETE", "/v1/vms/web/checkpoints/one")
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/save")
        out = os.path.join(d.directory, "out")
        os.mkdir(out)
        d.cli("vm", "export", "web", out)
        d.done("DELETE", "/v1/vms/web")
        jobs = []
        for name in ("one", "two"):
            status, answer = d.call("POST", "/v1/vms/import", {"directory": os.path.join(out, "web"), "mode": "copy", "name": name})
            # The second is refused at once where the first is done by then.
            require(status < 300 or (jobs and status == 409 and answer["error"]["code"] == "exists"), f"{name}: {status} {answer}")
            jobs += [answer] if status < 300 else []
        wait_for(lambda: all(d.ok("GET", f"/v1/jobs/{job['id']}")["state"] != "running" for job in jobs), "both to end")
        have = [vm["name"] for vm in d.ok("GET", "/v1/vms")["vms"] if mac in str(vm)]
        require(have in (["one"], ["two"]), f"one of them has the address: {have}")


def test_manage_adapters_refused(context):
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{}])
        mac = adapters(d, "web")[0]["mac"]
        for bad, text in (({"mac": "00:15:5d:1:2:3"}, "adapters[0].mac"), ({"mac": "01:00:00:00:00:00"}, "adapters[0].mac"),
                          ({"port": "wire"}, "adapters[0].port"), ({"forwards": ["22"]}, "forwards[0]"),
                          ({"forwards": ["70000:22"]}, "forwards[0]"), ({"vlan": 1}, "vlan"),
                          ({"port": "tap"}, "adapters[0].interface"), ({"interface": "t0"}, "adapters[0].interface"),
                          ({"port": "switch"}, "adapters[0].switch"), ({"switch": "lan"}, "adapters[0].switch"),
                          ({"port": "tap", "interface": "t0", "forwards": ["2222:22"]}, "adapters[0].forwards")):
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
        require(len(seen) == 1 and (seen[0]["mac"], seen[0]["port"], seen[0]["label"], seen[0]["addresses"]) ==
                (adapters(d, "web")[0]["mac"], "nat", "nat", []), f"{seen}")
        socket.create_connection(("127.0.0.1", port), 10).close()
        job = d.job("POST", "/v1/vms/db/start")
        require(job["state"] == "failed" and str(port) in job["error"]["message"], f"the port is taken: {job}")
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/db/start")
        socket.create_connection(("127.0.0.1", port), 10).close()


def test_manage_adapters_any_port(context):
    """A port of the host that is free, the same each time if it can be; it is told as long as the machine runs, whoever manages it."""
    def forwards(vm):
        return d.ok("GET", f"/v1/vms/{vm}/adapters")["adapters"][0]["forwards"]

    def port_of(vm):
        found = [re.fullmatch("127.0.0.1:([0-9]+):22", f) for f in forwards(vm)]
        require(len(found) == 2 and not found[0] and found[1], f"which port it is: {forwards(vm)}")
        return int(found[1].group(1))

    with Daemon(context["build"]) as d:
        fixed = [free_port(), free_port()]
        d.make("web", adapters=[{"forwards": [f"{fixed[0]}:80", "auto:22"]}])
        require(forwards("web") == [f"{fixed[0]}:80", "auto:22"], "off, there is none")
        d.done("POST", "/v1/vms/web/start")
        port = port_of("web")
        require(open_port(port) and f"127.0.0.1:{port}:22" in d.cli("vm", "show", "web"), "it leads there, and is shown")
        require(adapters(d, "web")[0]["forwards"][1] == "auto:22", "vm.json says what was asked for")
        d.kill()
        d.start()
        require(port_of("web") == port, "a daemon that finds the machine knows too")
        d.done("POST", "/v1/vms/web/save")
        # Somebody else has it meanwhile: another is found.
        with socket.create_server(("127.0.0.1", port)):
            d.done("POST", "/v1/vms/web/start")
            other = port_of("web")
            require(other != port and open_port(other), f"{other}, as {port} is taken")
            d.cli("vm", "adapter", "disconnect", "web", "0")
            require(forwards("web")[1] == "auto:22", f"not plugged in, it has none: {forwards('web')}")
        d.cli("vm", "adapter", "connect", "web", "0", "nat")
        require(open_port(port_of("web")), "plugged in while it runs")
        # A copy has one of its own, at the same time.
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/web/clone", {"name": "copy"})
        d.ok("PATCH", "/v1/vms/copy", {"adapters": [{"forwards": [f"{fixed[1]}:80", "auto:22"]}]})
        for vm in ("web", "copy"):
            d.done("POST", f"/v1/vms/{vm}/start")
        require(port_of("web") != port_of("copy") and open_port(port_of("web")) and open_port(port_of("copy")), "each has its own")


def told(d, vm):
    """What the worker knows."""
    return [(a["mac"], a["label"], a["port"]) for a in d.ok("GET", f"/v1/vms/{vm}/inspect")["adapters"]]


def open_port(port):
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return False
    return True


def test_manage_adapters_come_and_go(context):
    """Off and on, by the command line; of a machine that runs the worker and vm.json say the same."""
    with Daemon(context["build"]) as d:
        port = free_port()
        d.make("web", adapters=[])
        d.cli("vm", "adapter", "add", "web", "--network", "none", "--forward", f"{port}:22")
        first = adapters(d, "web")[0]["mac"]
        require("disk" not in d.cli("vm", "adapter", "list", "web") and first in d.cli("vm", "adapter", "list", "web"), "it is listed")
        d.done("POST", "/v1/vms/web/start")
        require(told(d, "web") == [(first, "none", "none")] and not open_port(port), f"nothing is behind it: {told(d, 'web')}")
        for _ in range(2):
            d.cli("vm", "adapter", "connect", "web", "0", "nat")
            require(told(d, "web") == [(first, "nat", "descriptor")] and open_port(port), f"connected: {told(d, 'web')}")
            require([a["port"] for a in adapters(d, "web")] == ["nat"], "vm.json says so")
            text = d.cli("vm", "adapter", "set", "web", "0", "--forward", "none", status=1)
            require("disconnect" in text, f"not while it is connected: {text}")
            d.cli("vm", "adapter", "disconnect", "web", first)
            require(told(d, "web") == [(first, "none", "none")], "disconnected")
            wait_for(lambda: not open_port(port), "the port to be closed")
            require(adapters(d, "web")[0]["forwards"] == [f"{port}:22"] and adapters(d, "web")[0]["port"] == "none", "its forwards stay")
        d.cli("vm", "adapter", "add", "web", "--mac", "02:00:00:00:00:07")
        d.cli("vm", "adapter", "add", "web")
        third = adapters(d, "web")[2]["mac"]
        require(told(d, "web") == [(first, "none", "none"), ("02:00:00:00:00:07", "nat", "descriptor"), (third, "nat", "descriptor")], f"{told(d, 'web')}")
        d.cli("vm", "adapter", "remove", "web", "02:00:00:00:00:07")
        d.cli("vm", "adapter", "connect", "web", third, "nat")
        require([t[0] for t in told(d, "web")] == [first, third] == [a["mac"] for a in adapters(d, "web")], f"{told(d, 'web')}")
        # What was given to it while it ran is there after a reset, and after a start.
        d.done("POST", "/v1/vms/web/reset")
        wait_for(lambda: [t[:2] for t in told(d, "web")] == [(first, "none"), (third, "nat")], "the reset")
        d.done("POST", "/v1/vms/web/turn-off")
        d.done("POST", "/v1/vms/web/start")
        require(told(d, "web") == [(first, "none", "none"), (third, "nat", "nat")], f"{told(d, 'web')}")
        for arguments, text in ((("remove", "web", "7"), "no network adapter"), (("connect", "web", "02:00:00:00:00:07", "nat"), "no network adapter"),
                                (("set", "web", "0", "--mac", "02:00:00:00:00:08"), "while machine \"web\" is off"),
                                (("set", "web", "0", "--any-mac", "yes"), "while machine \"web\" is off"),
                                (("add", "web", "--mac", first), "already"), (("connect", "web", "0", "switch:lan"), "lan"),
                                (("connect", "web", "0", "tap:no-such-name-is-so-long"), "interface")):
            require(text in d.cli("vm", "adapter", *arguments, status=1), f"{arguments}")
        require(told(d, "web") == [(first, "none", "none"), (third, "nat", "nat")], "all stayed as it was")
        for wrong in ((), ("fly", "web"), ("connect", "web", "0"), ("connect", "web", "0", "wire"), ("set", "web", "0"), ("list",),
                      ("remove", "web", "0", "--mac", first)):
            d.cli("vm", "adapter", *wrong, status=2)
        d.make("other")
        require("web" in d.cli("vm", "adapter", "add", "other", "--mac", first.upper(), status=1), "another machine's")
        d.done("POST", "/v1/vms/web/turn-off")
        d.cli("vm", "adapter", "set", "web", "0", "--mac", "02:00:00:00:00:08", "--any-mac", "yes", "--forward", "none")
        require(adapters(d, "web")[0] == {"mac": "02:00:00:00:00:08", "port": "none", "forwards": [], "any_mac": True}, f"{adapters(d, 'web')}")


def test_manage_adapters_as_many_as_there_may_be(context):
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[])
        d.done("POST", "/v1/vms/web/start")
        for _ in range(8):
            d.done("POST", "/v1/vms/web/adapters", {"port": "none"})
        d.refused(400, "invalid", "POST", "/v1/vms/web/adapters", {"port": "none"}, "as many as")
        for _ in range(8):
            d.done("DELETE", "/v1/vms/web/adapters/0")
        require(told(d, "web") == [] == adapters(d, "web"), "none is left")
        d.refused(404, "not-found", "DELETE", "/v1/vms/web/adapters/0")


def test_manage_adapters_of_a_daemon_that_dies(context):
    """In the middle of changes, wherever that is: who comes back has in vm.json what the worker has."""
    with Daemon(context["build"]) as d:
        d.make("web", adapters=[{"port": "none"}])
        d.done("POST", "/v1/vms/web/start")
        rng = random.Random(7)
        for i in range(12):
            method, path, body = (("POST", "/v1/vms/web/adapters", {"port": "none"}), ("DELETE", "/v1/vms/web/adapters/1", None),
                                  ("PATCH", "/v1/vms/web/adapters/0", {"port": ("nat", "none")[i % 2]}))[i % 3]
            d.call(method, path, body)
            time.sleep(rng.random() * 0.03)
            d.kill()
            d.start()

            def settled():
                return [t[:2] for t in told(d, "web")] == [(a["mac"], a["port"]) for a in adapters(d, "web")]
            wait_for(settled, f"round {i}: vm.json and the worker to say the same")
            wait_for(lambda: d.job("PATCH", "/v1/vms/web/adapters/0", {"any_mac": False})["state"] == "done", "it to take changes again")
        d.done("POST", "/v1/vms/web/turn-off")


def test_manage_adapters_outlive_the_daemon(context):
    """A default switch that was plugged in while the machine ran is there as long as the machine."""
    with Daemon(context["build"]) as d:
        port = free_port()
        d.make("web", adapters=[{"port": "none", "forwards": [f"{port}:22"]}])
        d.done("POST", "/v1/vms/web/start")
        d.cli("vm", "adapter", "connect", "web", "0", "nat")
        d.kill()
        require(open_port(port), "it goes on")
        d.start()
        require(told(d, "web")[0][1] == "nat" and open_port(port), "as it was")
        d.done("POST", "/v1/vms/web/turn-off")
        wait_for(lambda: not open_port(port), "it to end with the machine")


def test_manage_adapters_saved(context):
    """What came while it ran is there when it goes on, in its order."""
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        d.cli("vm", "adapter", "add", "web", "--network", "none")
        d.cli("vm", "adapter", "add", "web")
        d.cli("vm", "adapter", "remove", "web", "0")
        now = adapters(d, "web")
        d.done("POST", "/v1/vms/web/save")
        require("saved" in d.cli("vm", "adapter", "remove", "web", "0", status=1), "a saved machine keeps what it has")
        d.done("POST", "/v1/vms/web/start")
        require([t[:2] for t in told(d, "web")] == [(a["mac"], a["port"]) for a in now], f"{told(d, 'web')} of {now}")


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
        told = d.cli("vm", "ssh", "--no-wait", "user@web", "uname", "-r", environment={"PATH": f"{d.directory}:{os.environ['PATH']}"}).splitlines()
        vm = d.ok("GET", "/v1/vms/web")["id"]
        require(told == ["-p", str(port), "-o", f"HostKeyAlias=bulkhead-{vm}", "-l", "user", "127.0.0.1", "uname", "-r"], f"{told}")


def test_manage_ssh_waits_for_a_banner(context):
    """A server that drops the connection, or says half of who it is and no more, is not there yet."""
    with Daemon(context["build"]) as d, socket.create_server(("127.0.0.1", 0)) as server:
        # Not plugged in, so that the port is left to us.
        d.make("web", adapters=[{"port": "none", "forwards": [f"{server.getsockname()[1]}:22"]}])
        d.done("POST", "/v1/vms/web/start")
        with open(os.path.join(d.directory, "ssh"), "w", encoding="ascii") as f:
            f.write("#!/bin/sh\necho it is ssh\n")
        os.chmod(f.name, 0o755)
        seen = []

        def serve():
            for says in ([], [b"SS"], [b"welcome\r\nand more\r\nSS", b"H-2.0-test\r\n"]):
                connection = server.accept()[0]
                with connection:
                    for part in says:
                        connection.sendall(part)
                        select.select([], [], [], 0.1)  # two segments, not one
                    try:
                        seen.append(connection.recv(1) if says else b"")  # until the other end has had enough
                    except ConnectionError:
                        seen.append(b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        told = d.cli("vm", "ssh", "web", environment={"PATH": f"{d.directory}:{os.environ['PATH']}"})
        thread.join(60)
        require(told == "it is ssh\n" and seen == [b"", b"", b""], f"{told} {seen}")


class Teller(socketserver.ThreadingUnixStreamServer):
    """The daemon's socket, with somebody who says what addresses the guests have, as none is there that would."""

    def __init__(self, d):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

            def do_GET(self):  # pylint: disable=invalid-name
                status, answer = d.call("GET", self.path)
                if self.path.endswith("/adapters"):
                    for adapter, addresses in zip(answer["adapters"], self.server.addresses.pop(0) if len(self.server.addresses) > 1 else self.server.addresses[0]):
                        adapter["addresses"] = addresses
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
        self.path, self.addresses = os.path.join(d.directory, "teller"), [[]]
        super().__init__(self.path, Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def test_manage_ssh_to_a_switch(context):
    """Without a forwarded port: to an address of the guest, as soon as there is one, where the host is on the switch."""
    with apart(context) as d, Teller(d) as teller:
        if os.getuid():
            raise context["skip"]("switches need root")
        for name, kind in (("alone", "private"), ("lan", "internal")):
            d.cli("switch", "create", name, "--type", kind)
        d.make("web", adapters=[{"port": "switch", "switch": "alone"}, {"port": "switch", "switch": "lan"}])
        d.done("POST", "/v1/vms/web/start")
        with open(os.path.join(d.directory, "ssh"), "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        os.chmod(f.name, 0o755)

        def ssh(*told, wait=(), status=0):
            teller.addresses = list(told)
            return d.cli("vm", "ssh", *wait, "web", environment={"PATH": f"{d.directory}:{os.environ['PATH']}", "BULKHEAD_SOCKET": teller.path}, status=status)
        elsewhere = ["10.0.0.7"]
        require("a switch that the host is on" in ssh([elsewhere, []], wait=("--no-wait",), status=1), "it has none where the host is")
        for said in (["127.0.0.1"], ["fe80::1"], ["ff02::1"], ["::ffff:127.0.0.1"], ["169.254.1.1"], ["224.0.0.1"], ["0.0.0.0"]):
            ssh([elsewhere, said], wait=("--no-wait",), status=1)
        for said, host in ((["fd00::1", "192.0.2.7"], "192.0.2.7"), (["fe80::1", "fd00::1"], "fd00::1")):
            require(ssh([elsewhere, said], wait=("--no-wait",)).splitlines()[-1] == host, f"{said}")
        # It is waited for, and then for the server there: this host's, that answers late.
        d.host.ip("address", "add", "198.51.100.1/24", "dev", "bs2")
        server = subprocess.Popen(d.host.argv("/usr/bin/python3", "-c", "import socket, time; s = socket.create_server(('198.51.100.1', 22)); c = s.accept()[0]; c.sendall(b'SSH-2.0-x\\r\\n'); time.sleep(60)"))
        try:
            argv = d.host.argv(os.path.join(d.build, "cli/bulkhead"), "vm", "ssh", "web")
            teller.addresses = [[[], []], [[], []], [[], ["198.51.100.1"]]]
            said = subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": f"{d.directory}:{os.environ['PATH']}", "BULKHEAD_SOCKET": teller.path})
            require(said.returncode == 0 and said.stdout.splitlines()[-1] == "198.51.100.1", f"{said}")
        finally:
            server.kill()
            server.wait()


def test_manage_ssh_way_in(context):
    """Who gives a key gets a port of the host that leads to it, unless one is named, or the machine is not behind nat."""
    with Daemon(context["build"]) as d:
        key = os.path.join(d.directory, "key.pub")
        with open(key, "w", encoding="ascii") as f:
            f.write("ssh-ed25519 AAAA somebody\n")
        for name, options, wanted in (("a", (), [["auto:22"]]), ("b", ("--network", "nat", "--forward", "80:80"), [["80:80", "auto:22"]]),
                                      ("c", ("--forward", "2222:22"), [["2222:22"]]), ("d", ("--network", "none"), []),
                                      ("e", ("--network", "tap:t0", "--network", "nat"), [[], ["auto:22"]]), ("f", ("--forward", "udp:22:22"), [["udp:22:22", "auto:22"]])):
            asked = asking(d, "vm", "create", name, "--image", "none", "--ssh-key", key, *options)
            require([a.get("forwards", []) for a in asked.get("adapters", [{}])] == wanted, f"{options}: {asked}")
            require(asked["seed"]["user"] == pwd.getpwuid(os.geteuid()).pw_name, f"whose key it is: {asked}")
        asked = asking(d, "vm", "create", "g", "--image", "none", "--password", "x", "--user", "me")
        require("adapters" not in asked and asked["seed"]["user"] == "me", f"without a key there is none: {asked}")


def asking(d, *words):
    """The body of what the command line asks for: who is asked says no."""
    path, got = os.path.join(d.directory, "asked"), []

    def serve(server):
        connection = server.accept()[0]
        with connection:
            text = b""
            while b"\r\n\r\n" not in text or len(text.split(b"\r\n\r\n", 1)[1]) < int(re.search(rb"Content-Length: (\d+)", text, re.I).group(1)):
                text += connection.recv(65536)
            got.append(json.loads(text.split(b"\r\n\r\n", 1)[1]))
            connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        d.cli(*words, environment={"BULKHEAD_SOCKET": path}, status=1)
        thread.join(60)
    os.unlink(path)
    return got[0]
