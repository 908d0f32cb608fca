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
def ping(seconds, *addresses):
    # Prints who answers. They are asked twice a second, as the first frame of all may find nobody's place known.
    wanted = {}
    for a in addresses:
        six = ':' in a
        body = b'\0\0' + struct.pack('!HH', 0x4242, 1) + b'ping' * 4
        head = bytes([128 if six else 8, 0])
        words = sum(struct.unpack('!%dH' % ((len(head) + len(body)) // 2), head + body))
        words = (words & 0xffff) + (words >> 16)
        body = body if six else struct.pack('!H', ~words & 0xffff) + body[2:]
        s = socket.socket(family(a), socket.SOCK_RAW, 58 if six else 1)
        try:
            s.connect(address(a, 0))
        except OSError:
            pass
        wanted[s] = a, head + body
    end = time.monotonic() + float(seconds)
    missing = set(addresses)
    while missing and time.monotonic() < end:
        for s, (a, packet) in wanted.items():
            try:
                if a in missing:
                    s.send(packet)
            except OSError:
                pass
        again = min(end, time.monotonic() + 0.5)
        while missing:
            ready = select.select(wanted, [], [], max(0, again - time.monotonic()))[0]
            if not ready:
                break
            for s in ready:
                a, packet = wanted[s]
                try:
                    got = s.recv(2048)
                except OSError:
                    continue
                got = got if ':' in a else got[(got[0] & 15) * 4:]
                if got[0] == (129 if ':' in a else 0) and got[4:6] == packet[4:6] and a in missing:
                    missing.remove(a)
                    print(a)
    sys.exit(1 if missing else 0)
def serve(port, size, count, detached=''):
    # A hash and that many bytes to the first who come.
    s = socket.create_server(('::', int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    data = open('/dev/urandom', 'rb').read(int(size))
    data = hashlib.sha256(data).digest() + data
    print('ready', flush=True)
    if detached and os.fork():
        return
    for left in reversed(range(int(count))):
        c, _ = s.accept()
        if not left:
            s.close()  # before the last one has all: then somebody else may have the port
        c.sendall(data)
        c.close()
def fetch(port, size, *addresses):
    for a in addresses:
        s = socket.create_connection((a, int(port)), 60)
        data = s.makefile('rb').read()
        if len(data) != int(size) + 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
            sys.exit('from %s: got %d bytes, or wrong ones' % (a, len(data)))
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
def forge(interface, mac):
    # A frame of somebody else.
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    s.send(b'\xff' * 6 + bytes.fromhex(mac.replace(':', '')) + b'\x88\xb5' + b'forged' * 10)
def echo(port):
    # What comes goes back, of both protocols, as long as the machine runs.
    listener = socket.create_server(('::', int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(41, socket.IPV6_V6ONLY, 0)
    datagrams.bind(('::', int(port)))
    print('ready', flush=True)
    if os.fork():
        return
    for fd in (1, 2):
        os.dup2(os.open('/dev/null', os.O_WRONLY), fd)
    all = [listener, datagrams]
    while True:
        for s in select.select(all, [], [])[0]:
            if s is listener:
                all.append(s.accept()[0])
                continue
            try:
                if s is datagrams:
                    s.sendto(*s.recvfrom(65536))
                    continue
                data = s.recv(65536)
                s.sendall(data)
            except OSError:
                data = b''
            if not data and s is not datagrams:
                s.close()
                all.remove(s)
def flood(a, port):
    # As much as goes, as long as the machine runs.
    s = socket.socket(family(a), socket.SOCK_DGRAM)
    s.connect(address(a, port))
    if os.fork():
        return
    while True:
        try:
            s.send(b'x' * 1000)
        except OSError:
            pass
def agent():
    # Each line of standard input is [number, kind, word, ...]: a shell command, or one of these functions.
    for line in sys.stdin:
        number, kind, *words = json.loads(line)
        print('BEGIN%dx' % number, flush=True)
        if kind == 'shell':
            status = subprocess.call(['sh', '-c', *words], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        else:
            child = os.fork()
            if not child:
                globals()[kind](*words)
                sys.exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print('\nEND%dx %d' % (number, status & 255), flush=True)
globals()[sys.argv[1]](*sys.argv[2:])
"""


class Speaker:
    """Who can be asked by net() to do one of these."""

    def reached(self, *addresses, seconds=2):
        """Those who answer a ping."""
        return set(self.net("ping", seconds, *addresses)[1].split()) & set(addresses)

    def reaches(self, *addresses, seconds=2):
        """Whether all do."""
        return self.reached(*addresses, seconds=seconds) == set(addresses)

    def fetch(self, port, size, *addresses):
        status, text = self.net("fetch", port, size, *addresses)
        require(status == 0, text)


class Peer(Speaker):
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

    def serve(self, port, size, count=1):
        self.close()
        server = subprocess.Popen(self.host.argv("/usr/bin/python3", "-c", NET, "serve", str(port), str(size), str(count)), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        require(server.stdout.readline() == "ready\n", "the server does not begin")


class Debian(Speaker, Guest):
    """One of a daemon's machines, which runs."""

    def __init__(self, d, name):  # pylint: disable=super-init-not-called
        self.daemon, self.name = d, name
        self.console_path = d.ok("GET", f"/v1/vms/{name}")["console"]
        self.bulkhead = os.path.join(d.build, "cli/bulkhead")
        self.text, self.seen, self.socket = "", 0, None
        self.process, self.asked, self.echoes = None, 0, False
        self.connect()

    def close(self):
        if self.socket:
            self.socket.close()

    def stderr(self):
        return self.daemon.log_text()

    def prepare(self, alone=False):
        """Logged in, with the programs, and with nobody else who gives addresses; `alone` where a shell is the guest's first program, and the only one."""
        if alone:
            self.expect(r"job control turned off\s+# ", 600)
            self.send("PS1= PS2=; stty -echo; modprobe hv_netvsc; ip link set lo up; echo rea''dy\n")
            self.expect(r"^ready\r?$", 120)
        else:
            self.login(timeout=600)
            # Masked, as whoever asks for it by D-Bus would start it; so Debian's daemon that tells the host of addresses does.
            self.check("systemctl mask --quiet --runtime --now systemd-networkd.socket systemd-networkd.service; ip link set lo up")
        # In pieces that a terminal has room for.
        place, packed = "/run/packed" if alone else "/tmp/packed", base64.b64encode(zlib.compress(NET.encode(), 9)).decode()
        for at in range(0, len(packed), 900):
            self.send(f"printf %s {packed[at:at + 900]} {'>>' if at else '>'} {place}; echo taken\n")
            self.expect(r"^taken\r?$", 60)
        program = f"import base64, zlib; exec(zlib.decompress(base64.b64decode(open(\"{place}\").read())))"
        self.send(f"{'' if alone else 'exec sudo -n '}python3 -u -c '{program}' agent\n")
        self.asked = 1000

    def ask(self, timeout, kind, *words):
        """Without a shell and Python made anew each time, which takes a processor of software a second."""
        self.asked += 1
        self.send(json.dumps([self.asked, kind, *map(str, words)]) + "\n")
        self.expect(rf"^BEGIN{self.asked}x\r?\n", 120)
        start = self.seen
        match = self.expect(rf"^END{self.asked}x (\d+)\r?$", timeout)
        return int(match.group(1)), self.text[start:match.start()].replace("\r", "").strip()

    def run(self, command, timeout=120):
        return self.ask(timeout, "shell", command) if self.asked else super().run(command, timeout)

    def net(self, *words, timeout=300):
        return self.ask(timeout, *words)

    def ip(self, *lines):
        """Each is what `ip` is told."""
        self.check("printf '%s\\n' " + " ".join(f"'{line}'" for line in lines) + " | ip -batch -")

    def give(self, interface, *addresses):
        self.ip(f"address flush dev {interface} scope global", f"link set {interface} up",
                *(f"address add {a} dev {interface}{' nodad' if ':' in a else ''}" for a in addresses))

    def has_link(self, interface):
        return self.check(f"cat /sys/class/net/{interface}/carrier") == "1"

    def serve(self, port, size, count=1):
        """Bytes for who comes to that port."""
        status, text = self.net("serve", port, size, count, "detached")
        require(status == 0 and "ready" in text, f"{self.name}: {text}")

    def echo(self, port):
        """From now on what comes to that port goes back."""
        if not self.echoes:
            status, text = self.net("echo", port)
            require(status == 0 and "ready" in text, f"{self.name}: {text}")
            self.echoes = True


ALONE = " loglevel=1 init=/bin/sh"  # for the kernel: a shell and nothing else, which is there quicker than all of Debian


def make_debian(d, image, name, *adapters, memory=320, processor="soft", append=""):
    """A machine with a disk that continues the image's, so that it is made at once."""
    disk, seed = (os.path.join(d.directory, f"{name}.{kind}") for kind in ("vhdx", "iso"))
    bulkhead, image = os.path.join(d.build, "cli/bulkhead"), os.path.abspath(image)
    with open(os.path.join(image, "image.json"), encoding="utf-8") as f:
        boot = json.load(f)
    for argv in (["disk", "create", disk, "--parent", os.path.join(image, boot["disk"])],
                 ["image", "seed", seed, "--hostname", name, "--user", "user", "--password", "bulkhead"]):
        r = subprocess.run([bulkhead, *argv], capture_output=True, text=True)
        require(r.returncode == 0, f"{argv}: {r.stderr}")
    d.done("POST", "/v1/vms", {"name": name, "memory": memory << 20, "processors": {"kind": processor}, "adapters": list(adapters),
                               "boot": {"kernel": os.path.join(image, boot["kernel"]), "initrd": os.path.join(image, boot["initrd"]), "append": boot["append"] + append},
                               "disks": [{"path": disk}, {"path": seed, "kind": "dvd"}]})
    d.done("POST", f"/v1/vms/{name}/start")
    return Debian(d, name)
