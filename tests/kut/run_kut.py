#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the x86 suite of kvm-unit-tests on processors of ours and beside it under QEMU's TCG, by hand.

    tests/kut/run_kut.py SOURCE [--on PROCESSOR;…] [--only NAME,…] [--limit SECONDS] [--table]

SOURCE is a kvm-unit-tests tree, configured and built by its own `./configure && make`, outside this repository. Each entry
of its x86/unittests.cfg is run with its own arguments and number of processors; what it said lies in SOURCE/bulkhead/.
Without --table each difference is shown with the lines that failed; docs/testing.md has the reasons.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BULKHEAD = os.path.join(HERE, "..", "..", "build", "release", "cli", "bulkhead")

# What we do not offer: nested virtualization and performance counters.
GROUPS_LEFT_OUT = {"vmx", "svm", "nested", "pmu"}
FILES_LEFT_OUT = {"vmx.flat", "svm.flat", "svm_npt.flat", "pmu.flat", "pmu_lbr.flat", "pmu_pebs.flat", "tscdeadline_latency.flat"}

PROCESSORS = ["soft,translate=off", "soft,translate=on", "tcg"]


def entries(source):
    """The tests of unittests.cfg: dictionaries with a name."""
    found = []
    with open(os.path.join(source, "x86", "unittests.cfg"), encoding="utf-8") as f:
        text = re.sub(r'= """(.*?)"""', lambda m: "= " + " ".join(m.group(1).split()), f.read(), flags=re.DOTALL)
    for line in text.splitlines():
        line = line.split("#")[0].strip() if not line.startswith(("qemu_params", "test_args", "extra_params")) else line.strip()
        if m := re.fullmatch(r"\[(.+)\]", line):
            found.append({"name": m.group(1)})
        elif m := re.match(r"(\w+)\s*=\s*(.*)", line):
            found[-1][m.group(1)] = m.group(2)
    return found


def wanted(entry, source, only):
    if only:
        return entry["name"] in only
    groups = set(entry.get("groups", "").split())
    return (entry.get("arch", "x86_64") == "x86_64" and not groups & GROUPS_LEFT_OUT and entry["file"] not in FILES_LEFT_OUT
            and os.path.exists(os.path.join(source, "x86", entry["file"])))


def option(entry, name, default):
    words = shlex.split(entry.get("qemu_params", entry.get("extra_params", "")))
    return words[words.index(name) + 1] if name in words else default


def command(entry, processor, source):
    kernel = os.path.join(source, "x86", entry["file"])
    memory = option(entry, "-m", "256")
    cpus = entry.get("smp", option(entry, "-smp", "1"))
    arguments = " ".join(shlex.split(entry.get("test_args", option(entry, "-append", ""))))
    if processor == "tcg":
        return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", option(entry, "-cpu", "max") if "x2apic" in entry["name"] else "max",
                "--no-reboot", "-nodefaults", "-device", "pc-testdev", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
                "-display", "none", "-serial", "stdio", "-device", "pci-testdev", "-m", memory, "-smp", cpus, "-kernel", kernel,
                *(["-append", arguments] if arguments else [])]
    # The suite asks QEMU's fw_cfg, or this module, what machine it has.
    environment = os.path.join(source, "bulkhead", f"environment_{cpus}_{memory}")
    with open(environment, "w", encoding="ascii") as f:
        f.write(f"NR_CPUS={cpus}\nMEMSIZE={memory}\nTEST_DEVICE=0\n")
    return [os.environ.get("BULKHEAD", BULKHEAD), "run", "--processor", processor, "--debug-exit", "--no-reboot", "--memory", memory + "M", "--cpus", cpus,
            "--kernel", kernel, "--module", environment, *(["--append", arguments] if arguments else [])]


def run(entry, processor, source, limit):
    """How it ended, and the lines that say what failed."""
    try:
        r = subprocess.run(["nice", *command(entry, processor, source)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, timeout=limit)
        output, status = r.stdout.decode(errors="replace"), r.returncode
    except subprocess.TimeoutExpired as e:
        output, status = (e.stdout or b"").decode(errors="replace"), None
    directory = os.path.join(source, "bulkhead", processor.replace(",", "_"))
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, entry["name"]), "w", encoding="utf-8") as f:
        f.write(output)
    failed = [line for line in output.splitlines() if re.match(r"\s*(FAIL|Unhandled|bulkhead:)", line)]
    if status is None:
        return "time", failed
    # The exit port gives (code << 1) | 1; 77 is "skipped".
    if status == 77 << 1 | 1 or re.search(r"^SUMMARY: 0 tests|^SKIP|, \d+ skipped", output, re.MULTILINE) and not re.search(r"^PASS", output, re.MULTILINE):
        return "skip", failed
    return ("pass" if status == 1 and not failed else "FAIL"), failed or output.splitlines()[-2:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--on", default=";".join(PROCESSORS), help="processors, with ; between")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=int, default=30, help="seconds for each")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    processors = options.on.split(";")
    os.makedirs(os.path.join(options.source, "bulkhead"), exist_ok=True)
    counts = {p: {} for p in processors}
    worse = 0
    for entry in entries(options.source):
        if not wanted(entry, options.source, set(filter(None, options.only.split(",")))):
            continue
        results = {p: run(entry, p, options.source, options.limit) for p in processors}
        for p in processors:
            counts[p][results[p][0]] = counts[p].get(results[p][0], 0) + 1
        print(f"{entry['name']:32}", *(f"{results[p][0]:5}" for p in processors), flush=True)
        if results.get("tcg", ("",))[0] == "pass":
            worse += any(results[p][0] != "pass" for p in processors)
        for p in processors:
            if not options.table and p != "tcg" and results[p][0] not in ("pass", "skip"):
                print(*(f"    {p}: {line}" for line in results[p][1][:8]), sep="\n", flush=True)
    for p in processors:
        print(f"{p:24}", counts[p])
    print(f"{worse} tests pass under TCG and not on each of the others")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
