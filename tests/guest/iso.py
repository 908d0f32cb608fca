# SPDX-License-Identifier: GPL-2.0-or-later
"""A small ISO 9660 image with one file, `which.txt`."""

import struct

BLOCK = 2048


def both(form, n):
    """Numbers stand there in both byte orders."""
    return struct.pack("<" + form, n) + struct.pack(">" + form, n)


def record(name, block, size, directory):
    body = both("I", block) + both("I", size) + bytes(7) + bytes([2 if directory else 0, 0, 0]) + both("H", 1) + bytes([len(name)]) + name
    body += bytes(len(body) % 2)
    return bytes([len(body) + 2, 0]) + body


def write(path, text, blocks=64):
    """`blocks` is how large it is; the file is in its block 19."""
    root = record(b"\0", 18, BLOCK, True)
    descriptor = (b"\1CD001\1\0" + b" " * 32 + b"MEDIUM".ljust(32) + bytes(8) + both("I", blocks) + bytes(32) + both("H", 1) + both("H", 1) +
                  both("H", BLOCK) + both("I", 0) + bytes(16) + root + b" " * (4 * 128 + 3 * 37) + (b"0" * 16 + b"\0") * 4 + b"\1")
    listing = root + record(b"\1", 18, BLOCK, True) + record(b"WHICH.TXT;1", 19, len(text), False)
    with open(path, "wb") as f:
        for block, content in ((16, descriptor), (17, b"\xffCD001\1"), (18, listing), (19, text.encode())):
            f.seek(block * BLOCK)
            f.write(content)
        f.truncate(blocks * BLOCK)
