#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints how many KiB an open disk adds to this process: after opening it, and after 20000 random reads.

Usage: bench/disk_memory.py reading|writing SMALL LARGE

By the library's own functions (build/release). SMALL is opened and closed first, so that the library itself, and what it
keeps for good, is there already.
"""

import ctypes
import os
import random
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIBRARY = os.path.join(ROOT, "build", "release", "disk", "libbulkhead-disk.so.0")
BLOCK = 4096
READS = 20000


class OpenOptions(ctypes.Structure):
    """struct disk_open_options"""
    _fields_ = [("format", ctypes.c_int), ("read_only", ctypes.c_bool), ("direct", ctypes.c_bool)]


def resident():
    with open("/proc/self/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Rss:"))


class Disk:
    def __init__(self, library, path, read_only):
        self.library, self.handle = library, ctypes.c_void_p()
        self.error = ctypes.create_string_buffer(65536)
        options = OpenOptions(0, read_only, True)
        if library.disk_open(ctypes.byref(self.handle), path.encode(), ctypes.byref(options), self.error) < 0:
            raise SystemExit(f"{path}: cannot be opened")

    def read(self, offset, buffer):
        if self.library.disk_read(self.handle, ctypes.c_uint64(offset), buffer, ctypes.c_size_t(BLOCK), self.error) < 0:
            raise SystemExit(f"reading at {offset} failed")

    def close(self):
        self.library.disk_close(self.handle, self.error)


def main():
    mode, small, large = sys.argv[1:]
    library, buffer, size = ctypes.CDLL(LIBRARY), ctypes.create_string_buffer(BLOCK), 64 << 40
    first = Disk(library, small, mode == "reading")
    first.read(0, buffer)
    first.close()
    before = resident()
    disk = Disk(library, large, mode == "reading")
    opened = resident()
    for _ in range(READS):
        disk.read(random.randrange(size // BLOCK) * BLOCK, buffer)
    print(opened - before, resident() - before)
    disk.close()


if __name__ == "__main__":
    main()
