# SPDX-License-Identifier: GPL-2.0-or-later
"""A new user's way, by the README's words: a Debian from an image, broken and brought back, copied, moved and deleted, with a program in it that never ends."""

import json
import os
import re
import subprocess

from daemon import Daemon, require, wait_for
from debian import Debian
from terminal import Terminal
from test_saved import begin_work, clock_is_right, end_work, wait_for_rounds


class Root(Debian):
    """Logged in at its console, whose shell does what it is told itself: it goes on where nothing else does."""

    def again(self):
        """The console of the machine's next process, or by another connection."""
        self.close()
        self.console_path = self.daemon.ok("GET", f"/v1/vms/{self.name}")["console"]
        self.text += "\n"  # the last line's end may not have come by the connection that is closed
        self.seen = len(self.text)
        self.connect()

    def run(self, command, timeout=300):
        self.asked += 1
        self.send(f"printf '%s%s\\n' BEGIN {self.asked}x; {{ {command}\n}} 2>&1; printf '\\n%s%s %s\\n' END {self.asked}x $?\n")
        self.expect(rf"^BEGIN{self.asked}x\r?\n", 120)
        start = self.seen
        match = self.expect(rf"^END{self.asked}x (\d+)\r?$", timeout)
        return int(match.group(1)), self.text[start:match.start()].replace("\r", "").strip()


def terminal(d, *words):
    return Terminal([os.path.join(d.build, "cli/bulkhead"), *words], dict(os.environ, BULKHEAD_SOCKET=d.socket))


def console_goes_on(d, guest):
    """Of the daemon's death the console's user sees nothing, and who comes after it finds the same shell."""
    guest.close()
    console = terminal(d, "vm", "console", "web")
    console.expect("Ctrl-] leaves")

    def say(one, other):
        console.type(f"printf '%s%s\\n' {one} {other}\r")
        console.expect(one + other, 120)
    say("before", "hand")
    d.kill()
    say("mean", "while")
    d.start()
    say("after", "wards")
    console.type("\x1d")
    require(console.status() == 0, "left")
    guest.again()
    require(guest.run("echo $0 $PPID") == guest.run("echo $0 $PPID"), "it is the same shell")


def goes_on(guest, rounds=1):
    """What ran then runs, with all that it wrote, and the clock is right."""
    guest.again()
    wait_for(lambda: clock_is_right(guest), "the clock to be right", 60)
    wait_for_rounds(guest, rounds)


def break_it(d, guest, ssh):
    """No program starts any more."""
    guest.send("rm -f /lib/x86_64-linux-gnu/libc.so.6 /bin/bash /bin/dash /bin/sh; echo go''ne\n")
    guest.expect(r"^gone\r?$", 120)
    status, said = guest.run("ls /")
    require(status == 127 and "libc.so.6" in said, f"a program starts: {status} {said}")
    ssh("--no-wait", "true", status=255)
    require(d.state_of("web") == "running", "a broken guest is the guest's matter")


def delete_on_terminal(d, name):
    """What goes is listed first, all of it and nothing else; who does not say y has it still."""
    directory = d.ok("GET", f"/v1/vms/{name}")["directory"]
    there = sorted(os.listdir(directory))
    for answer in ("n", "y"):
        asked = terminal(d, "vm", "delete", name)
        text = asked.expect(f"delete {name}? [y/N] ").replace("\r", "")
        require(text.startswith(f"in {directory}:\n") and sorted(re.findall("^  (.*)$", text, re.M)) == there, f"of {there} it lists {text}")
        asked.type(answer + "\r")
        asked.expect(f"{name} is deleted" if answer == "y" else f"{name} is not deleted")
        require(asked.status() == (0 if answer == "y" else 1), "how it ended")
        require(os.path.exists(directory) == (answer == "n"), f"{answer}: {directory}")


def make(d, image, key):
    require("no images" in d.cli("image", "list"), "an empty library says what to do")
    d.cli("image", "import", "debian-12", image)
    require("already" in d.cli("image", "import", "debian-12", image, status=1), "no second one of a name")
    require(re.search("debian-12 +debian-12 +8.0 GiB", d.cli("image", "list")), "it is listed")
    said = d.cli("vm", "create", "web", "--image", "debian-12", "--memory", "1G", "--cpus", "2", "--ssh-key", key, "--start")
    port = re.search("vm ssh .*web logs in, by port ([0-9]+) of 127.0.0.1", said)
    require(port and f"forward 127.0.0.1:{port.group(1)}:22" in d.cli("vm", "show", "web"), f"how to log in: {said}")
    d.cli("image", "delete", "debian-12")


def told_by_the_guest(d, ssh):
    """What Debian's own daemon tells, of which no frame does: addresses that nobody asks for, nor announces."""
    def addresses():
        return d.ok("GET", "/v1/vms/web/adapters")["adapters"][0]["addresses"]
    ssh("sudo ip address add 2001:db8:7::99/64 dev eth0 nodad && sudo ip address add 198.51.100.99/32 dev eth0")
    wait_for(lambda: {"2001:db8:7::99", "198.51.100.99", "10.0.2.15"} <= set(addresses()), "the addresses to be known", 300)
    shown, kernel = d.cli("vm", "show", "web"), ssh("uname -rm").split()
    for line in ("  address 2001:db8:7::99", "  address 198.51.100.99", f"Debian GNU/Linux 12, {kernel[0].split('-')[0]}, {kernel[1]}"):
        require(f" {line}\n" in shown, f"no {line}: {shown}")
    guest = json.loads(d.cli("vm", "show", "web", "--json"))["guest"]
    require(guest["heartbeat"] == "ok" and guest["items"]["OSName"] == "Debian GNU/Linux" and guest["items"]["OSBuildNumber"] == kernel[0], f"{guest}")
    require(d.ok("GET", "/v1/vms/web/inspect")["adapters"][0]["addresses_from"] == "guest", "whose word it is")
    # What is gone is not told any more.
    ssh("sudo ip address del 198.51.100.99/32 dev eth0")
    wait_for(lambda: "198.51.100.99" not in addresses(), "the address to be forgotten", 300)


def copies(d, guest):
    """A clone that runs, and the machine itself, exported as it runs, deleted, and imported: it goes on."""
    out = os.path.join(d.directory, "out")
    os.mkdir(out)
    d.cli("vm", "export", "web", out)
    wait_for_rounds(guest, 1)
    d.cli("vm", "turn-off", "web")
    d.cli("vm", "clone", "web", "test", "--checkpoint", "good", "--linked")
    d.cli("vm", "start", "test")
    clone = Debian(d, "test")
    clone.expect("login: ", 600)
    clone.close()
    require("linked clone" in d.cli("vm", "delete", "web", "--force", status=1), "its disks are needed")
    d.cli("vm", "shut-down", "test", "--timeout", "300")
    for name in ("test", "web"):
        delete_on_terminal(d, name)
    require(os.listdir(os.path.join(d.state, "machines")) == [], "nothing is left of them")
    d.cli("vm", "import", os.path.join(out, "web"), "--restore")
    require("good" in d.cli("checkpoint", "list", "web"), "its checkpoints came along")
    d.cli("vm", "start", "web")
    goes_on(guest)


def test_manage_story(context):
    image = context["image"]()
    with Daemon(context["build"]) as d:
        key = os.path.join(d.directory, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)

        def ssh(*words, status=0):
            wait = [words[0]] if words[0] == "--no-wait" else []
            return d.cli("vm", "ssh", *wait, "web", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={d.directory}/hosts", "-o",
                         "HashKnownHosts=no", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", *words[len(wait):], status=status)
        make(d, image, key + ".pub")
        # At once: it waits for the guest's server.
        require(ssh("echo root:bulkhead | sudo chpasswd --crypt-method SHA512; hostname").strip() == "web", "whose ssh server answers")
        with open(os.path.join(d.directory, "hosts"), encoding="ascii") as f:
            require(f"bulkhead-{d.ok('GET', '/v1/vms/web')['id']} " in f.read(), "the guest's key is kept under the machine's id")
        require("10.0.2.15" in d.cli("vm", "show", "web"), "the guest's address is known")
        told_by_the_guest(d, ssh)
        meter = d.ok("GET", "/v1/vms/web/metering")
        require(meter["disk"]["read_bytes"] > 10 << 20 and meter["disk"]["written_bytes"] > 0 and meter["cpu_seconds"] > 1, f"{meter}")
        guest = Root(d, "web")
        guest.send("\n")
        guest.login(user="root", timeout=600)
        console_goes_on(d, guest)
        begin_work(guest)
        d.cli("checkpoint", "create", "web", "good")
        wait_for_rounds(guest, 1)
        break_it(d, guest, ssh)
        d.cli("vm", "turn-off", "web")
        d.cli("checkpoint", "apply", "web", "good")
        require(d.state_of("web") == "saved", "with its memory")
        d.cli("vm", "start", "web")
        goes_on(guest)
        require(ssh("hostname").strip() == "web", "it lets in who it let in")
        d.cli("vm", "save", "web")
        require(d.state_of("web") == "saved" and not d.workers(), "saved")
        d.cli("vm", "start", "web")
        goes_on(guest)
        copies(d, guest)
        end_work(guest)
        guest.send("systemctl poweroff\n")
        wait_for(lambda: d.state_of("web") == "off", "the guest to turn itself off", 300)
        require(not d.ok("GET", "/v1/vms/web")["wanted"], "it turned itself off: nobody wants it to run")
        guest.close()
        d.cli("vm", "delete", "web", "--force")
        require(json.loads(d.cli("vm", "list", "--json")) == [] and os.listdir(os.path.join(d.state, "machines")) == [], "nothing is left")
