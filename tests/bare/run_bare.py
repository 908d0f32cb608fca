# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the bare guests on a processor; each must say that all its tests passed and exit with 0.

The lab runs the same list on the hardware processor.
"""

import os
import re
import subprocess

import patience

LIMIT = 120  # seconds of a host that does nothing else; each takes a few

# Guest, virtual processors.
GUESTS = [("exceptions", 1), ("paging", 1), ("paging32", 1), ("rings", 1), ("legacy", 1), ("realmode", 1), ("selfmod", 1),
          ("devices", 1), ("devices", 2), ("apic", 1), ("apic", 2), ("smp", 1), ("smp", 2), ("smp", 4), ("hyperv", 1), ("hyperv", 2), ("hyperv", 4)]


def start(context, name, cpus, without=()):
    """Run a guest to its end, leaving out the tests named in `without`."""
    path = os.path.join(context["directory"], f"bare_{name}")
    if not os.path.exists(path):
        raise AssertionError(f"{path} was not built")
    command = [context["bulkhead"], "run", "--processor", context["processor"], "--debug-exit", "--no-reboot", "--kernel", path, "--cpus",
               str(cpus), "--memory", "128M", *(["--append", "without=" + ",".join(without)] if without else [])]
    try:
        return patience.run(command, LIMIT)
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"no end within {LIMIT} s; it said: {(e.stdout + e.stderr)[-1000:]}") from None


def check(context, r):
    failed = [line for line in r.stdout.splitlines() if line.startswith("FAIL")]
    # The software processor offers all that the guests know of.
    if context["processor"].startswith("soft"):
        failed += [line for line in r.stdout.splitlines() if line.startswith("SKIP") and not line.endswith(": one processor only")]
    summary = re.search(r"^(\d+) tests, 0 failed", r.stdout, re.MULTILINE)
    # The exit port gives (code << 1) | 1.
    if r.returncode != 1 or failed or not summary or int(summary.group(1)) == 0:
        raise AssertionError(f"status {r.returncode}: " + ("\n".join(failed) or (r.stdout[-1500:] + r.stderr[-1500:])))


def run(context, name, cpus, without=()):
    check(context, start(context, name, cpus, without))


def make(name, cpus):
    def test(context):
        processor = "soft,translate=off" if context["processor"] == "soft" else context["processor"]
        run({**context, "processor": processor}, name, cpus)
    return test


def make_translated(name, cpus):
    """The same with every block of 64-bit and flat 32-bit code translated when it is first entered."""
    def test(context):
        if context["processor"] != "soft":
            raise context["skip"]("the software processor only")
        run({**context, "processor": "soft,translate=on,threshold=1"}, name, cpus)
    return test


for guest, count in GUESTS:
    globals()[f"test_bare_{guest}_{count}"] = make(guest, count)
    globals()[f"test_bare_{guest}_{count}_translated"] = make_translated(guest, count)


# --- on KVM ---------------------------------------------------------------------------------------------

# Where nothing virtualizes in hardware a /dev/kvm may emulate every instruction. What such a KVM leaves out, by guest;
# the guests that are not here test instructions that it does not have.
EMULATED = {
    "devices": {"msr-time": "TSC_ADJUST is kept and not added", "msr-memory-types": "reserved types are taken",
                # So a line that is still up sends once more, if the host's kernel leaves the guest before its handler has lowered it.
                "pin-level": "EOI is told when the interrupt is taken, and not at the EOI", "pin-level-masked": "the same",
                "pin-directed-eoi": "the same"},
    "apic": {"nesting": "the ISR is empty while a handler runs", "interrupt-shadows": "STI has no shadow"},
    "hyperv": {},
    "smp": {"atomic-operations": "there is no CMPXCHG16B"},
}


def has_hardware():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        return re.search(r"^flags\s*:.* (vmx|svm)( |$)", f.read(), re.MULTILINE) is not None


def run_on_kvm(context, name, cpus, hyperv):
    """The same guest on the hardware processor: as it should be where there is hardware, else what can be expected."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise context["skip"]("there is no /dev/kvm")
    hardware = has_hardware()
    if not hardware and (name not in EMULATED or (name, cpus) == ("smp", 4)):  # locked instructions take long there
        raise context["skip"]("/dev/kvm has no hardware behind it")
    context = dict(context, processor=f"kvm,hyperv={hyperv}" if hardware else f"kvm,hardware=any,hyperv={hyperv}")
    r = start(context, name, cpus, () if hardware else EMULATED[name])
    # The kernel's way is not everywhere; our own has no excuse.
    if hyperv == "kernel" and r.returncode == 1 and not r.stdout and "this host's kernel does not serve Hyper-V" in r.stderr:
        raise context["skip"](r.stderr.strip())
    check(context, r)


def make_kvm(name, cpus, hyperv):
    return lambda context: run_on_kvm(context, name, cpus, hyperv)


for way in ("own", "kernel"):
    for guest, count in GUESTS:
        globals()[f"test_bare_{guest}_{count}_kvm_{way}"] = make_kvm(guest, count, way)
