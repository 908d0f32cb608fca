# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at the wire: every frame that comes to an interface, with its checksums computed anew.

wire.py INTERFACE: prints "ready", then for each line on standard input one of JSON: what came since the line before. Frames that the interface
itself sends are not looked at. The kernel hands over what it would give a driver: who wants to see finished frames captures behind an
interface whose offloads are off.
"""

import collections
import json
import os
import select
import socket
import struct
import sys

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_AUXDATA, PACKET_RCVBUF = 263, 8, 64 << 20
SO_RCVBUFFORCE = 33
VLAN_VALID = 0x10


def ones_sum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Wire:
    def __init__(self):
        self.frames = collections.Counter()
        self.bad = []
        self.largest = 0

    def complain(self, text, frame):
        if len(self.bad) < 5:
            self.bad.append(f"{text}: {frame[:80].hex()}")

    def transport(self, version, protocol, pseudo, segment, tag, frame):
        name = {6: "tcp", 17: "udp"}.get(protocol)
        if not name:
            return
        kind = f"{name}{version}{tag}"
        self.frames[kind] += 1
        if name == "udp" and segment[6:8] == b"\0\0":
            self.frames[kind + " without checksum"] += 1
            if version == 6:
                self.complain("no checksum over IPv6", frame)
            return
        if ones_sum(pseudo + segment) != 0xFFFF:
            self.complain(f"{kind}: checksum", frame)

    def look(self, frame, tag):
        kind, at = struct.unpack(">H", frame[12:14])[0], 14
        if kind == 0x8100:
            tag, kind, at = f" vlan {struct.unpack('>H', frame[14:16])[0] & 0xFFF}", struct.unpack(">H", frame[16:18])[0], 18
        packet = frame[at:]
        if kind == 0x0800:
            head, total = (packet[0] & 15) * 4, struct.unpack(">H", packet[2:4])[0]
            if ones_sum(packet[:head]) != 0xFFFF:
                self.complain("IPv4 header's checksum", frame)
            if not head <= total <= len(packet):
                self.complain("IPv4 length", frame)
                return
            self.largest = max(self.largest, total)
            if struct.unpack(">H", packet[6:8])[0] & 0x3FFF == 0:
                pseudo = packet[12:20] + struct.pack(">HH", packet[9], total - head)
                self.transport(4, packet[9], pseudo, packet[head:total], tag, frame)
        elif kind == 0x86DD:
            length = struct.unpack(">H", packet[4:6])[0]
            if 40 + length > len(packet):
                self.complain("IPv6 length", frame)
                return
            self.largest = max(self.largest, 40 + length)
            self.transport(6, packet[6], packet[8:40] + struct.pack(">II", length, packet[6]), packet[40:40 + length], tag, frame)

    def told(self):
        answer = {"frames": dict(self.frames), "bad": self.bad, "largest": self.largest}
        self.__init__()
        return answer


def tag_of(ancillary):
    """The kernel takes a tag out of the frame."""
    for level, kind, data in ancillary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data)
            if status & VLAN_VALID:
                return f" vlan {tci & 0xFFF}"
    return ""


def main():
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, PACKET_RCVBUF)
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.bind((sys.argv[1], ETH_P_ALL))
    s.setblocking(False)
    wire = Wire()

    def take():
        while True:
            try:
                frame, ancillary, _, address = s.recvmsg(1 << 17, 256)
            except BlockingIOError:
                return
            if address[2] != PACKET_OUTGOING and len(frame) >= 34:
                wire.look(frame, tag_of(ancillary))
    print("ready", flush=True)
    while True:
        ready = select.select([s, sys.stdin], [], [])[0]
        take()
        if sys.stdin in ready:
            if not os.read(0, 100):
                return
            print(json.dumps(wire.told()), flush=True)


if __name__ == "__main__":
    main()
