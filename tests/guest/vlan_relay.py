# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual LAN's interface for hosts whose kernel has none: what comes to INTERFACE with the tag goes without it to a tap interface, and back.

vlan_relay.py INTERFACE TAG TAP: makes TAP, prints "ready", and relays until it is killed. What TAP leaves undone (`ethtool -K TAP tso on`) is
left to INTERFACE: segments stay whole, checksums open.
"""

import fcntl
import os
import select
import socket
import struct
import sys

from wire import ETH_P_ALL, PACKET_AUXDATA, PACKET_OUTGOING, SOL_PACKET, tag_of

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
TUNSETOFFLOAD, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x400454D0, 1, 2, 4
PACKET_VNET_HDR = 15
HEADER = struct.Struct("<BBHHHH")  # struct virtio_net_hdr
NEEDS_CSUM = 1


def tagged(data, tag):
    """A frame of the tap interface, behind its header, with the tag in it."""
    flags, gso, length, size, start, offset = HEADER.unpack_from(data)
    if flags & NEEDS_CSUM:
        start += 4
    if gso:
        length += 4
    frame = data[HEADER.size:]
    return HEADER.pack(flags, gso, length, size, start, offset) + frame[:12] + struct.pack(">HH", 0x8100, tag) + frame[12:]


def main():
    interface, tag, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    s.bind((interface, ETH_P_ALL))
    print("ready", flush=True)
    while True:
        ready = select.select([s, tap], [], [])[0]
        try:
            if s in ready:
                frame, ancillary, _, address = s.recvmsg(1 << 17, 256)
                if address[2] != PACKET_OUTGOING and tag_of(ancillary) == f" vlan {tag}":
                    os.write(tap, frame)
            if tap in ready:
                s.send(tagged(os.read(tap, 1 << 17), tag))
        except OSError:  # one of the two is down
            pass


main()
