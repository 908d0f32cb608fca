# SPDX-License-Identifier: GPL-2.0-or-later
"""iPXE as Debian has it: its own drivers for VMBus and the network adapter, by 32-bit code, polled, with the first version of the protocol. A machine has no BIOS;
what iPXE calls of one is tests/bare/bios.c, which starts it from its bzImage."""

import contextlib
import http.server
import os
import secrets
import threading

from guest import Guest
from test_debian import base_image, require

IPXE = "/boot/ipxe.lkrn"
BIOS = "build/release/tests/bare/bare_bios"
SIZE = 3 << 20


class Files(http.server.BaseHTTPRequestHandler):
    """What the server has; and what was asked for."""

    def do_GET(self):  # pylint: disable=invalid-name
        data = self.server.files.get(self.path)
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")
        self.server.asked.append((self.path, self.headers["User-Agent"]))

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.files, server.asked = files, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def script(at, token, data):
    """What iPXE does when it has a lease: a file of some size; then Debian's kernel and initramfs, which take the adapter from it."""
    return "\n".join(["#!ipxe", f"echo TOKEN {token}", f"imgfetch --name {data} {at}/data", "imgstat", f"imgfree {data}",
                      f"kernel {at}/vmlinuz initrd=initrd.img console=ttyS0 quiet break=top", f"initrd {at}/initrd.img", "boot", ""]).encode()


def test_ipxe(context):
    """A lease of the default switch, files by HTTP, and an operating system from there that goes on with the same adapter."""
    if not os.path.exists(IPXE):
        raise context["skip"](f"there is no {IPXE}: Debian's package ipxe has it")
    image, files, token = base_image(context), {}, secrets.token_hex(8)
    for name in ("vmlinuz", "initrd.img"):
        with open(os.path.join(image, name), "rb") as f:
            files["/" + name] = f.read()
    files["/data"] = os.urandom(SIZE)
    with serving(files) as server:
        at = f"http://10.0.2.2:{server.server_port}"
        files["/script"] = script(at, token, "data")
        commands = f"dhcp net0 && echo LEASE ${{net0/ip}} ${{net0/gateway}} ${{net0/chip}} && chain {at}/script"
        with Guest(context["bulkhead"], ["--processor", context["processor"], "--memory", "512M", "--no-reboot", "--kernel", BIOS, "--module", IPXE,
                                         "--append", commands, "--network", "nat,host"]) as guest:
            guest.expect(r"LEASE 10\.0\.2\.15 10\.0\.2\.2 netvsc", 120)
            guest.expect(f"TOKEN {token}", 60)
            guest.expect(rf"data : {SIZE} bytes", 120)
            guest.expect(r"\(initramfs\) ?$", 240)
            require([path for path, _ in server.asked] == ["/script", "/data", "/vmlinuz", "/initrd.img"] and
                    all(agent.startswith("iPXE/") for _, agent in server.asked), f"{server.asked}")
            guest.send("modprobe hv_netvsc; ipconfig -t 60 eth0\n")
            guest.expect(r"address: 10\.0\.2\.15 ", 120)
