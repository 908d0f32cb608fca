#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures virtual disks: ours beside a raw file under fio and beside QEMU's VHDX, on one file system.

Usage: bench/disk.py [--directory DIR] [--rounds N] [--requests N] [--size SIZE] [--cached] [CASE …]

Ours is `bulkhead disk bench`, QEMU's `qemu-img bench` (io_uring), both in their own process without a guest. What they are
compared with, 1.0, is fio (io_uring) on the same bytes of the same file: the media of virtual machines are faster in one
place than in another, by more than all that is looked for here. (Of the chain it is the lowest file, of first writes
and discards a raw file.) All go past the page cache, or all through it with --cached. "Random" is a step
of 0.618 of the disk, the same for ours and QEMU's (which knows no other); fio's is random. The rounds are
interleaved. Prints Markdown tables: median rate, its ratio to fio as minimum/median/maximum of the rounds, and
microseconds of processor time (user and system, of all threads) a request. Use a quiet machine.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import disk_memory

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
MIB = 1 << 20
# What fio is measured on, and who is compared with that.
GROUPS = {"raw": ("raw",), "fixed": ("fixed", "QEMU fixed"), "dynamic": ("dynamic", "QEMU dynamic"), "chain of 4": ("chain of 4",)}


class Case:
    """What is done to a disk. `fresh`: each run gets a disk that is empty, or, for discards, full; `groups`: who can do it."""

    def __init__(self, name, block, depth, write=False, random=False, flush_every=0, discard=False, fresh=False, share=1.0):
        self.name, self.block, self.depth, self.write, self.random = name, block, depth, write, random
        self.flush_every, self.discard, self.fresh, self.share = flush_every, discard, fresh, share
        if discard:
            self.groups = {"raw": ("raw", "fixed", "dynamic")}
        elif fresh:
            self.groups = {"raw": ("dynamic", "QEMU dynamic")}
        else:
            self.groups = {name: rows for name, rows in GROUPS.items() if not (write and name == "chain of 4")}


CASES = (
    Case("4 KiB random read, depth 1", 4096, 1, random=True),
    Case("4 KiB random read, depth 32", 4096, 32, random=True, share=2.0),
    Case("4 KiB random write, depth 1", 4096, 1, write=True, random=True),
    Case("4 KiB random write, depth 32", 4096, 32, write=True, random=True, share=2.0),
    Case("1 MiB sequential read, depth 8", MIB, 8, share=0.05),
    Case("1 MiB sequential write, depth 8", MIB, 8, write=True, share=0.05),
    Case("4 KiB write with a flush each 4, depth 1", 4096, 1, write=True, random=True, flush_every=4, share=0.25),
    Case("4 KiB first write, each in a new block, depth 1", 4096, 1, write=True, fresh=True, share=0.03),
    Case("4 KiB discard, depth 1", 4096, 1, write=True, random=True, discard=True, fresh=True, share=0.1),
)


def run(*command):
    """Runs a program; returns what it printed, the seconds it took, and its processor time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    r = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if r.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed: {r.stderr or r.stdout}")
    return r.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Bench:
    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.size = options.size * MIB
        self.places = {}

    def path(self, name):
        return os.path.join(self.directory, name)

    def prepare(self):
        """Disks full of data that is not zeros. QEMU's fixed and dynamic disks are the same files as ours."""
        raw = self.path("raw.raw")
        with open("/dev/urandom", "rb") as source, open(raw, "wb") as f:
            for _ in range(self.options.size):
                f.write(source.read(MIB))
        run(BULKHEAD, "disk", "convert", raw, self.path("fixed.vhdx"), "--fixed")
        run(BULKHEAD, "disk", "convert", raw, self.path("dynamic.vhdx"))
        below = self.path("dynamic-0.vhdx")
        run(BULKHEAD, "disk", "convert", raw, below)
        for level in range(1, 4):
            above = self.path(f"dynamic-{level}.avhdx")
            run(BULKHEAD, "disk", "create", above, "--parent", below)
            # A part of the disk is in each.
            run(BULKHEAD, "disk", "bench", above, "--overwrite", "--block", "64K", "--step", str(7 * MIB), "--requests", str(self.options.size // 7))
            below = above
        os.sync()
        for name in ("raw.raw", "fixed.vhdx", "dynamic.vhdx", "dynamic-0.vhdx"):
            self.places[self.path(name)] = self.place_of(self.path(name))

    def place_of(self, path):
        """Where the contents lie in the file, all together."""
        out, _, _ = run(BULKHEAD, "disk", "map", "--json", path)
        extents = json.loads(out)["extents"]
        if len(extents) != 1:
            raise SystemExit(f"{path}: its contents lie in {len(extents)} places, so there is nothing to compare it with; try again")
        return extents[0].get("file_offset", 0)

    def file_of(self, row, way):
        names = {"raw": "raw.raw", "fixed": "fixed.vhdx", "chain of 4": "dynamic-0.vhdx" if way == "fio" else "dynamic-3.avhdx"}
        return self.path(names.get(row.removeprefix("QEMU "), "dynamic.vhdx"))

    def fresh_file(self, row, case):
        path = self.path("new.raw" if row == "raw" else "new.vhdx")
        if os.path.exists(path):
            os.unlink(path)
        if case.discard:
            run(BULKHEAD, "disk", "convert", self.path("raw.raw"), path, *(["--fixed"] if row == "fixed" else []))
        elif row == "raw":
            with open(path, "wb") as f:
                f.truncate(self.size)
        else:
            run(BULKHEAD, "disk", "create", path, str(self.size), "--block-size", "1M")
        return path

    def requests(self, case):
        count = max(16, int(self.options.requests * case.share))
        return min(count, self.size // MIB - 1) if case.fresh and not case.discard else count

    def step(self, case):
        if case.fresh:
            return MIB
        return int(self.size * 0.618034) // case.block * case.block if case.random else case.block

    def measure(self, row, case, way):
        """Returns (requests a second, microseconds of processor a request)."""
        path = self.fresh_file(row, case) if case.fresh else self.file_of(row, way)
        seconds, processor = {"fio": self.fio, "ours": self.ours, "QEMU": self.qemu}[way](path, case)
        count = self.requests(case)
        return count / seconds, processor / count * 1e6

    def fio(self, path, case):
        way = ("trim" if case.discard else "write" if case.write else "read")
        pattern = ("rand" if case.random else "") + way + (f":{self.step(case) - case.block}" if case.fresh else "")
        command = ["fio", "--name=x", f"--filename={path}", f"--rw={pattern}", f"--bs={case.block}", f"--iodepth={case.depth}",
                   f"--ioengine={'falloc' if case.discard else 'io_uring'}", f"--direct={0 if self.options.cached or case.discard else 1}",
                   f"--number_ios={self.requests(case)}", f"--size={self.size}", f"--offset={self.places.get(path, 0)}", "--output-format=json", "--thread", "--norandommap",
                   "--fallocate=none", "--invalidate=0"]
        if case.flush_every:
            command.append(f"--fdatasync={case.flush_every}")
        if case.write and not case.discard:
            command.append("--end_fsync=1")
        out, _, _ = run(*command)
        job = json.loads(out[out.index("{"):])["jobs"][0]
        seconds = max(1, job["job_runtime"]) / 1000
        return seconds, seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100

    def ours(self, path, case):
        command = [BULKHEAD, "disk", "bench", path, "--json", "--block", str(case.block), "--depth", str(case.depth), "--step",
                   str(self.step(case)), "--requests", str(self.requests(case))]
        command += ["--direct"] if not self.options.cached else []
        command += ["--discard"] if case.discard else ["--overwrite"] if case.write else []
        command += ["--flush-every", str(case.flush_every)] if case.flush_every else []
        out, _, _ = run(*command)
        found = json.loads(out)
        return found["seconds"], found["processor_microseconds"] * found["requests"] / 1e6

    def qemu(self, path, case):
        """Its start, which is in the processor time alone, is taken off by a run of one request."""
        def command(count):
            c = ["qemu-img", "bench", "-f", "vhdx", "-i", "io_uring", "-t", "writeback" if self.options.cached else "none", "-c", str(count),
                 "-d", str(case.depth), "-s", str(case.block), "-S", str(self.step(case))]
            c += ["-w"] if case.write else []
            c += [f"--flush-interval={case.flush_every}"] if case.flush_every and count >= case.flush_every else []
            return c + [path]
        nothing = ["qemu-img", "bench", "-f", "vhdx", "-i", "io_uring", "-t", "none", "-c", "1", "-d", "1", path]
        _, _, start = run(*nothing)
        out, _, processor = run(*command(self.requests(case)))
        return float(re.search(r"completed in ([0-9.]+) seconds", out).group(1)), max(0.0, processor - start)

    def round(self, case, number, found):
        """One measurement of each; fio's of a file is next to those that are compared with it."""
        groups = list(case.groups.items())
        for name, rows in groups[number % len(groups):] + groups[:number % len(groups)]:
            # Another order each round: what one leaves in the host's caches is not always the same one's luck.
            ways = [(name, "fio")] + [(row, "QEMU" if row.startswith("QEMU") else "ours") for row in rows]
            results = {(row, way): self.measure(row, case, way) for row, way in ways[::1 if number % 2 == 0 else -1]}
            base = results[ways[0]]
            found.setdefault(f"{name}, fio", []).append((*base, 1.0))
            for row, way in ways[1:]:
                rate, processor = results[row, way]
                found.setdefault(row, []).append((rate, processor, rate / base[0]))

    def cases(self, cases):
        for case in cases:
            found = {}
            for number in range(self.options.rounds):
                self.round(case, number, found)
                print(f"{case.name}: round {number + 1}", file=sys.stderr, flush=True)
            print(f"\n| {case.name} | a second | to fio: minimum | median | maximum | us of processor |\n|---|---|---|---|---|---|")
            for row, results in found.items():
                ratios = [ratio for _, _, ratio in results]
                print(f"| {row} | {statistics.median(rate for rate, _, _ in results):.0f} | {min(ratios):.2f} | {statistics.median(ratios):.2f} "
                      f"| {max(ratios):.2f} | {statistics.median(processor for _, processor, _ in results):.1f} |", flush=True)

    def turns(self):
        """Small requests once more, in one process and by short turns: see bench/disk_turns.c."""
        library = os.path.dirname(disk_memory.LIBRARY)
        program = self.path("disk_turns")
        run("gcc", "-O2", "-std=gnu17", f"-I{ROOT}", os.path.join(ROOT, "bench", "disk_turns.c"), "-o", program, f"-L{library}",
            f"-Wl,-rpath,{library}", "-lbulkhead-disk", "-luring")
        print("\n| 4 KiB, random, by turns; us a request | bare file: lower quartile | median | disk: lower quartile | median "
              "| to the bare file: minimum | median | maximum |\n|---|---|---|---|---|---|---|---|")
        for way, depth in (("read", 1), ("read", 32), ("write", 1), ("write", 32)):
            rows = [name for name in GROUPS if way == "read" or name != "chain of 4"]
            arguments = []
            for name in rows:
                bare = self.file_of(name, "fio")
                arguments += [self.file_of(name, "ours"), bare, str(self.places[bare])]
            found = {name: [] for name in rows}
            count = self.options.requests // 2 if depth == 1 else self.options.requests * 2
            for _ in range(self.options.rounds):
                out, _, _ = run(program, way, str(depth), str(count), str(self.size), *arguments)
                for name, line in zip(rows, out.splitlines()):
                    found[name].append([float(word) for word in line.split()])
            for name, lines in found.items():
                columns = list(zip(*lines))
                print(f"| {way}, depth {depth}, {name} | " + " | ".join(f"{statistics.median(column):.1f}" for column in columns[:4])
                      + f" | {min(columns[4]):.3f} | {statistics.median(columns[4]):.3f} | {max(columns[4]):.3f} |", flush=True)

    def convert(self):
        """Until the new file is on the disk: QEMU's is synced afterwards, and that is counted with it. Either the source is in
        the host's cache, or it is not."""
        raw, vhdx, out = self.path("raw.raw"), self.path("dynamic.vhdx"), self.path("out")
        ways = (("raw to VHDX", raw, "raw", "vhdx", True), ("VHDX to raw", vhdx, "vhdx", "raw", True),
                ("VHDX to VHDX", vhdx, "vhdx", "vhdx", True), ("VHDX to VHD", vhdx, "vhdx", "vhd", True),
                ("raw to raw", raw, "raw", "raw", True), ("VHDX to raw, not in the cache", vhdx, "vhdx", "raw", False))
        print("\n| convert, synced | ours s | QEMU s | ours/QEMU: minimum | median | maximum | processor ours/QEMU |\n|---|---|---|---|---|---|---|")
        for name, source, kind, result, cached in ways:
            commands = ((BULKHEAD, "disk", "convert", source, out, "--format", result),
                        ("qemu-img", "convert", "-f", kind, "-O", "vpc" if result == "vhd" else result, source, out))
            times, processors = ([], []), ([], [])
            for number in range(self.options.rounds):
                for who in ((0, 1), (1, 0))[number % 2]:
                    if os.path.exists(out):
                        os.unlink(out)
                    os.sync()
                    set_cached(source, cached)
                    _, seconds, processor = run(*commands[who])
                    _, sync, sync_processor = run("sync", out)
                    times[who].append(seconds + sync)
                    processors[who].append(processor + sync_processor)
            ratios = [a / b for a, b in zip(*times)]
            print(f"| {name} | {statistics.median(times[0]):.2f} | {statistics.median(times[1]):.2f} | {min(ratios):.2f} "
                  f"| {statistics.median(ratios):.2f} | {max(ratios):.2f} "
                  f"| {statistics.median(processors[0]) / max(1e-9, statistics.median(processors[1])):.2f} |", flush=True)

    def opening(self):
        """An empty disk of 64 TiB: the time of a process that opens it, and the memory that it adds to one."""
        large, small = self.path("large.vhdx"), self.path("small.vhdx")
        run(BULKHEAD, "disk", "create", large, "64T", "--block-size", "1M")
        run(BULKHEAD, "disk", "create", small, "1M")
        print("\n| open, one request, close, as a process | ms: minimum | median | maximum | MiB of memory, all of the process |\n|---|---|---|---|---|")
        reader = (BULKHEAD, "disk", "bench", "--requests", "1", "--depth", "1")
        writer = (*reader, "--overwrite")
        for name, command in (("VHDX, 1 MiB", (*reader, small)), ("VHDX, 64 TiB, for reading", (*reader, large)),
                              ("VHDX, 64 TiB, for writing, with one write", (*writer, large)),
                              ("QEMU: VHDX, 64 TiB", ("qemu-img", "bench", "-f", "vhdx", "-c", "1", "-d", "1", large))):
            found = [peak(command) for _ in range(max(5, self.options.rounds))]
            times = [ms for ms, _ in found]
            print(f"| {name} | {min(times):.1f} | {statistics.median(times):.1f} | {max(times):.1f} "
                  f"| {statistics.median(memory for _, memory in found):.1f} |", flush=True)
        print("\n| KiB that the image adds to a process (Rss) | opened | after 20000 random reads |\n|---|---|---|")
        for name, mode in (("VHDX, 64 TiB, for reading", "reading"), ("VHDX, 64 TiB, for writing", "writing")):
            out, _, _ = run(sys.executable, os.path.join(ROOT, "bench", "disk_memory.py"), mode, small, large)
            opened, used = out.split()
            print(f"| {name} | {opened} | {used} |", flush=True)


def set_cached(path, cached):
    """Has the host read a file into its cache, or forget it."""
    with open(path, "rb", buffering=0) as f:
        if not cached:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while cached and f.read(MIB):
            pass


def peak(command):
    """Returns (milliseconds, MiB at most) of a program."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return (time.monotonic() - start) * 1000, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default=os.path.join(ROOT, "build"), help="on a file system that knows O_DIRECT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20000, help="of 4 KiB cases; others do a part of it")
    parser.add_argument("--size", type=int, default=2048, help="of the disk, MiB")
    parser.add_argument("--cached", action="store_true", help="all through the host's cache")
    parser.add_argument("cases", nargs="*", help='words of the cases wanted; "turns", "convert" and "open" are three more')
    options = parser.parse_args()
    subprocess.run([os.path.join(ROOT, "scripts", "dependencies"), "bench"], check=True)
    if not os.path.exists(BULKHEAD) or not os.path.exists(disk_memory.LIBRARY):
        subprocess.run([os.path.join(ROOT, "scripts", "build"), "release"], check=True)
    wanted = lambda name: not options.cases or any(word in name for word in options.cases)
    directory = tempfile.mkdtemp(prefix="bench-disk-", dir=options.directory)
    try:
        bench = Bench(options, directory)
        bench.prepare()
        bench.cases([case for case in CASES if wanted(case.name)])
        if wanted("turns"):
            bench.turns()
        if wanted("convert"):
            bench.convert()
        if wanted("open"):
            bench.opening()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
