# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian machines of a daemon, logged in at their consoles; and what they can be asked to do with a network."""

import base64
import json
import os
import subprocess
import zlib

from daemon import require
from guest import Guest

# A guest has Python. What it does with the network is these programs.
NET = r"""
import hashlib, json, os, select, socket, struct, subprocess, sys, time
def family(a):
    return socket.AF_INET6 if ':' in a else socket.AF_INET
def address(a, port):
    return socket.getaddrinfo(a, port, family(a), socket.SOCK_DGRAM)[0][4]
def ping(a, seconds='2'):
    six = ':' in a
    s = socket.socket(family(a), socket.SOCK_RAW, 58 if six else 1)
    s.connect(address(a, 0))
    body = b'\0\0' + struct.pack('!HH', 0x4242, 1) + b'ping' * 4
    head = bytes([128 if six else 8, 0])
    words = sum(struct.unpack('!%dH' % ((len(head) + len(body)) // 2), head + body))
    words = (words & 0xffff) + (words >> 16)
    body = body if six else struct.pack('!H', ~words & 0xffff) + body[2:]
    end = time.monotonic() + float(seconds)
    try:
        s.send(head + body)
        while select.select([s], [], [], max(0, end - time.monotonic()))[0]:
            got = s.recv(2048)
            got = got if six else got[(got[0] & 15) * 4:]
            if got[0] == (129 if six else 0) and got[4:6] == body[2:4]:
                return
    except OSError:
        pass
    sys.exit(1)
def serve(port, size, detached=''):
    # A hash and that many bytes to the first who comes.
    s = socket.create_server(('::', int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    print('ready', flush=True)
    if detached and os.fork():
        return
    c, _ = s.accept()
    data = open('/dev/urandom', 'rb').read(int(size))
    c.sendall(hashlib.sha256(data).digest() + data)
    c.close()
def fetch(a, port, size):
    s = socket.create_connection((a, int(port)), 20)
    s.settimeout(60)
    data = s.makefile('rb').read()
    if len(data) != int(size) + 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
        sys.exit('got %d bytes, or wrong ones' % len(data))
def udp(a, source, target, scope='', count='1'):
    s = socket.socket(family(a), socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.bind(('', int(source)))
    for _ in range(int(count)):
        s.sendto(b'x' * 300, address(a + scope, int(target)))
def advertise(scope):
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
    s.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255)
    s.sendto(bytes([134, 0, 0, 0]) + bytes(12), address('ff02::1' + scope, 0))
def agent():
    # Each line of standard input is [number, kind, word, ...]: a shell command, or one of these functions.
    for line in sys.stdin:
        number, kind, *words = json.loads(line)
        print('BEGIN%dx' % number, flush=True)
        if kind == 'shell':
            status = subprocess.call(['sh', '-c', *words], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        elif os.fork() == 0:
            globals()[kind](*words)
            sys.exit(0)
        else:
            status = os.waitstatus_to_exitcode(os.wait()[1])
        print('\nEND%dx %d' % (number, status & 255), flush=True)
globals()[sys.argv[1]](*sys.argv[2:])
"""


class Peer:
    """A network namespace that does the same as a guest."""

    def __init__(self, host):
        self.host = host
        self.servers = []

    def close(self):
        for server in self.servers:
            server.kill()
            server.communicate()
        self.servers = []

    def net(self, *words):
        r = self.host.run("/usr/bin/python3", "-c", NET, *map(str, words), check=False)
        return r.returncode, r.stdout + r.stderr

    def reaches(self, address):
        return self.net("ping", address)[0] == 0

    def start(self, *words):
        server = subprocess.Popen(self.host.argv("/usr/bin/python3", "-c", NET, *map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        require(server.stdout.readline() == "ready\n", f"{words} does not begin")
        return server

    def serve(self, port, size):
        self.close()
        self.start("serve", port, size)


class Debian(Guest):
    """One of a daemon's machines, which runs."""

    def __init__(self, d, name):  # pylint: disable=super-init-not-called
        self.daemon, self.name = d, name
        self.console_path = d.ok("GET", f"/v1/vms/{name}")["console"]
        self.bulkhead = os.path.join(d.build, "cli/bulkhead")
        self.text, self.seen, self.socket = "", 0, None
        self.process, self.asked = None, 0
        self.connect()

    def close(self):
        if self.socket:
            self.socket.close()

    def stderr(self):
        return self.daemon.log_text()

    def prepare(self):
        """Logged in, with the programs, and with nobody else who gives addresses."""
        self.login(timeout=600)
        self.check("systemctl stop systemd-networkd.socket systemd-networkd; ip link set lo up")
        # In pieces that a terminal has room for.
        packed = base64.b64encode(zlib.compress(NET.encode(), 9)).decode()
        for at in range(0, len(packed), 900):
            self.check(f"printf %s {packed[at:at + 900]} >> /root/packed")
        self.check("python3 -c 'import base64, sys, zlib; sys.stdout.buffer.write(zlib.decompress(base64.b64decode(open(\"/root/packed\").read())))' > /root/net.py")
        self.send("exec sudo -n python3 -u /root/net.py agent\n")
        self.asked = 1000

    def ask(self, timeout, kind, *words):
        """Without a shell and Python made anew each time, which takes a processor of software a second."""
        self.asked += 1
        self.send(json.dumps([self.asked, kind, *map(str, words)]) + "\n")
        self.expect(rf"^BEGIN{self.asked}x\r?\n", 60)
        start = self.seen
        match = self.expect(rf"^END{self.asked}x (\d+)\r?$", timeout)
        return int(match.group(1)), self.text[start:match.start()].replace("\r", "").strip()

    def run(self, command, timeout=120):
        return self.ask(timeout, "shell", command) if self.asked else super().run(command, timeout)

    def net(self, *words, timeout=90):
        return self.ask(timeout, *words)

    def give(self, interface, *addresses):
        self.check("; ".join([f"ip address flush dev {interface} scope global", f"ip link set {interface} up",
                              *(f"ip address add {a} dev {interface}{' nodad' if ':' in a else ''}" for a in addresses)]))

    def reaches(self, address, seconds=2):
        return self.net("ping", address, seconds)[0] == 0

    def serve(self, port, size):
        """Bytes for who comes to that port."""
        status, text = self.net("serve", port, size, "detached")
        require(status == 0 and "ready" in text, f"{self.name}: {text}")


def make_debian(d, image, name, *adapters, memory=320):
    """A machine with a disk that continues the image's, so that it is made at once."""
    disk, seed = (os.path.join(d.directory, f"{name}.{kind}") for kind in ("vhdx", "iso"))
    bulkhead, image = os.path.join(d.build, "cli/bulkhead"), os.path.abspath(image)
    with open(os.path.join(image, "image.json"), encoding="utf-8") as f:
        boot = json.load(f)
    for argv in (["disk", "create", disk, "--parent", os.path.join(image, boot["disk"])],
                 ["image", "seed", seed, "--hostname", name, "--user", "user", "--password", "bulkhead"]):
        r = subprocess.run([bulkhead, *argv], capture_output=True, text=True)
        require(r.returncode == 0, f"{argv}: {r.stderr}")
    d.done("POST", "/v1/vms", {"name": name, "memory": memory << 20, "processors": {"kind": "soft"}, "adapters": list(adapters),
                               "boot": {"kernel": os.path.join(image, boot["kernel"]), "initrd": os.path.join(image, boot["initrd"]), "append": boot["append"]},
                               "disks": [{"path": disk}, {"path": seed, "kind": "dvd"}]})
    d.done("POST", f"/v1/vms/{name}/start")
    return Debian(d, name)
