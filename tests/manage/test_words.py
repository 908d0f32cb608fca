# SPDX-License-Identifier: GPL-2.0-or-later
"""What a new user meets when something is not right: sentences that say what to do."""

import http.server
import json
import os
import socketserver
import subprocess
import tempfile
import threading

from daemon import Daemon, require
from lan import apart
from terminal import Terminal


def test_words_no_place_for_sockets(context):
    with tempfile.TemporaryDirectory() as home:
        r = subprocess.run([os.path.join(context["build"], "vmms/bulkheadd"), "--user"], capture_output=True, text=True, timeout=60,
                           env={"HOME": home, "XDG_RUNTIME_DIR": "/proc/nowhere"})
        require(r.returncode == 1 and "set XDG_RUNTIME_DIR" in r.stderr and "/proc/nowhere/bulkhead" in r.stderr, f"{r}")


def test_words_that_are_nearly_right(context):
    """What is meant is told, where it can be known."""
    with Daemon(context["build"]) as d:
        require("called bulkhead vm shut-down" in d.cli("vm", "shutdown", "web", status=2), "a verb")
        require("which unit" in d.cli("vm", "create", "web", "--kernel", d.kernel, "--memory", "512", status=2), "a size")


def test_words_names_that_look_alike(context):
    """A name is what is seen of it: characters that are not, that turn others around, or that are spaces of other kinds are refused, whatever it names."""
    with apart(context) as d:
        d.make("web")
        with_nothing = {key: d.ok("GET", path) for key, path in (("vms", "/v1/vms"), ("switches", "/v1/switches"), ("images", "/v1/images"), ("tokens", "/v1/tokens"))}
        for hidden in ("\u200b", "\u202e", "\u2066", "\ufeff", "\u00ad", "\u00a0", "\u3164", "\U000e0041", "\u2028", "\u009b"):
            name = f"we{hidden}b"
            for method, path, body in (("POST", "/v1/vms", {"name": name, "memory": 64 << 20, "boot": {"kernel": d.kernel}}), ("PATCH", "/v1/vms/web", {"name": name}),
                                       ("POST", "/v1/vms/web/clone", {"name": name}), ("POST", "/v1/vms/web/checkpoints", {"name": name}),
                                       ("POST", "/v1/switches", {"name": name, "type": "private"}), ("POST", "/v1/images", {"name": name, "build": "debian-12"}),
                                       ("POST", "/v1/tokens", {"name": name, "role": "viewer"})):
                d.refused(400, "invalid", method, path, body, "control character" if hidden == "\u009b" else "not seen")
        for key, before in with_nothing.items():
            require(d.ok("GET", f"/v1/{key}") == before, f"{key} are as they were")
        # What is text for people is not refused, and cannot disturb a table.
        d.ok("PATCH", "/v1/vms/web", {"notes": "\u202egnp.exe", "name": "Büro 3 🐧"})
        said = d.cli("vm", "list")
        require("\u202e" not in said and "?gnp.exe" in said and "Büro 3 🐧" in said, said)


def test_words_name_behind_dashes(context):
    """As scripts write it: "--" before the name alone."""
    with apart(context) as d:
        d.make("web")
        d.cli("vm", "show", "--", "web")
        if not os.getuid():
            d.cli("switch", "create", "--type", "private", "--", "lan")
            require("private" in d.cli("switch", "show", "--", "lan"), "it is shown")
            d.cli("switch", "show", "--", "lan", "more", status=2)
            d.cli("switch", "delete", "--", "lan")
        d.cli("vm", "show", "--", "-web", status=2)


def test_words_files_by_relative_names(context):
    """Relative names are of the user's directory, and what is not there is said at once."""
    with Daemon(context["build"]) as d:
        def cli(*words, status=0):
            r = subprocess.run([os.path.join(d.build, "cli/bulkhead"), *words], capture_output=True, text=True, cwd=d.directory,
                               env=dict(os.environ, BULKHEAD_SOCKET=d.socket), timeout=120)
            require(r.returncode == status, f"{words}: {r}")
            return r.stdout + r.stderr
        require("vmlinuz: there is no such file" in cli("vm", "create", "web", "--kernel", "vmlinuz", status=1), "a kernel that is not there")
        require("none.vhdx: there is no such file" in cli("vm", "create", "web", "--kernel", "kernel", "--disk", "none.vhdx", status=1), "a disk")
        said = cli("vm", "create", "web", "--image", "debian-12", status=1)
        require('no image "debian-12" in the library' in said and "bulkhead image build debian-12" in said, f"an image that is not there: {said}")
        require("no machines" in cli("vm", "list"), "nothing is made of that")
        cli("vm", "create", "web", "--kernel", "kernel", "--memory", "64M", "--processor", "soft")
        os.mkdir(os.path.join(d.directory, "out"))
        cli("vm", "export", "web", "out")
        require(os.path.exists(os.path.join(d.directory, "out/web/vm.json")), "exported to where the user is")
        cli("vm", "delete", "web", "--force")
        cli("vm", "import", "out/web")
        require("web" in cli("vm", "list", "--names").split(), "and imported from there")


def terminal(d, *words, path=None):
    return Terminal([os.path.join(d.build, "cli/bulkhead"), *words], dict(os.environ, BULKHEAD_SOCKET=path or d.socket))


def test_words_progress_on_a_terminal(context):
    """What takes more than a second says what it is at, and takes that back when it ends; with no terminal it says nothing."""
    with Daemon(context["build"]) as d:
        d.make("web")
        d.done("POST", "/v1/vms/web/start")
        shown = terminal(d, "vm", "shut-down", "web", "--timeout", "3")
        shown.expect("\r\x1b[Kshutting down …")
        shown.expect("\r\x1b[K")
        shown.expect("did not shut down")
        require(shown.status() == 1, "how it ended")
        require("shutting down" not in d.cli("vm", "shut-down", "web", "--timeout", "2", status=1), "a script is told the end alone")
        with Slow(d) as slow:
            shown = terminal(d, "vm", "save", "web", path=slow.path)
            for percent in ("  0 %", " 25 %", " 99 %"):
                shown.expect(f"\r\x1b[Ksaving {percent}")
            shown.expect("\r\x1b[Kweb is saved")
            require(shown.status() == 0, "how it ended")


class Slow(socketserver.ThreadingUnixStreamServer):
    """A daemon whose job takes as long as three questions."""

    def __init__(self, d):
        steps = [{"progress": 0.0}, {"progress": 0.25}, {"progress": 0.99}, {"state": "done"}]

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

            def do_POST(self):  # pylint: disable=invalid-name
                text = json.dumps({"id": 1, "kind": "vm.save", "vm_name": "web", "state": "running", "error": None, **steps.pop(0)}).encode()
                self.send_response(202)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            do_GET = do_POST
        self.path = os.path.join(d.directory, "slow")
        super().__init__(self.path, Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def test_words_delete_on_a_terminal(context):
    """All that goes is listed, what lies elsewhere with it, as what stays; only y deletes."""
    with Daemon(context["build"]) as d:
        d.cli("disk", "create", os.path.join(d.directory, "data.vhdx"), "16M")
        d.make("web", disks=[{"path": os.path.join(d.directory, "data.vhdx")}])
        directory = d.ok("GET", "/v1/vms/web")["directory"]
        os.mkdir(os.path.join(directory, "disks"))
        d.cli("disk", "create", os.path.join(directory, "disks/more.vhdx"), "16M")
        d.ok("PATCH", "/v1/vms/web", {"disks": [{"path": os.path.join(d.directory, "data.vhdx")}, {"path": "disks/more.vhdx"}]})
        d.done("POST", "/v1/vms/web/start")
        d.done("POST", "/v1/vms/web/save")
        goes = ["disks/more.vhdx", *(name for name in os.listdir(directory) if name != "disks")]
        stays = [d.kernel, os.path.join(d.directory, "data.vhdx")]
        lines = sorted([f"  {name}" for name in goes] + [f"  {name} (stays)" for name in stays])
        for keys in ("n\r", "\r", "\x04", "yes\r"):
            shown = terminal(d, "vm", "delete", "web")
            text = shown.expect("delete web? [y/N] ").replace("\r", "").split("\n")
            require(text[0] == f"in {directory}:" and sorted(text[1:-1]) == lines, f"{text} is not {lines}")
            shown.type(keys)
            shown.expect("is deleted" if keys[0] == "y" else "is not deleted (--force does it without asking)")
            require(shown.status() == (0 if keys[0] == "y" else 1), f"{keys!r}")
        require(not os.path.exists(directory) and all(os.path.exists(path) for path in stays), "it did as it said")
