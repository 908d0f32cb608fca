# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests under test find in their network: a name server and a web server, as a program in a network namespace.

network_host.py DIRECTORY [ADDRESS…]: prints "ready" when it serves on port 53 (UDP) and 80 of each address. GET /NAME gives a file of the
directory, PUT /NAME makes one. Each name ending in .test is the first IPv4 and IPv6 address; other names do not exist.
"""

import http.server
import ipaddress
import os
import socket
import socketserver
import struct
import sys
import threading

DIRECTORY, ADDRESSES = sys.argv[1], sys.argv[2:]


class Web(http.server.BaseHTTPRequestHandler):
    def path_of(self):
        return os.path.join(DIRECTORY, os.path.basename(self.path))

    def do_GET(self):  # pylint: disable=invalid-name
        try:
            with open(self.path_of(), "rb") as f:
                data = f.read()
        except OSError:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):  # pylint: disable=invalid-name
        left = int(self.headers["Content-Length"])
        with open(self.path_of(), "wb") as f:
            while left:
                data = self.rfile.read(min(left, 1 << 20))
                if not data:
                    break
                f.write(data)
                left -= len(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *arguments):  # pylint: disable=redefined-builtin
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class Server6(Server):
    address_family = socket.AF_INET6


def answer(question):
    """A DNS answer (RFC 1035) to one question."""
    at, name = 12, []
    while question[at]:
        name.append(question[at + 1:at + 1 + question[at]].decode())
        at += question[at] + 1
    kind, = struct.unpack_from(">H", question, at + 1)
    end = at + 5
    wanted = {1: 4, 28: 6}.get(kind)
    address = next((a for a in map(ipaddress.ip_address, ADDRESSES) if a.version == wanted), None)
    known = name[-1].lower() == "test"
    found = known and address is not None
    head = question[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, 1 if found else 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(address.packed)) + address.packed if found else b""
    return head + question[12:end] + record


def serve_names(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, 53))

    def run():
        while True:
            question, peer = s.recvfrom(1500)
            s.sendto(answer(question), peer)
    threading.Thread(target=run, daemon=True).start()


def main():
    for address in ADDRESSES:
        serve_names(address)
        server = (Server6 if ":" in address else Server)((address, 80), Web)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


main()
