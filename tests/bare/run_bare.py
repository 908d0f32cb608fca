# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the bare guests on a processor; each must say that all its tests passed and exit with 0.

The lab runs the same list on the hardware processor.
"""

import os
import re
import subprocess

LIMIT = 120  # seconds; each takes a few

# Guest, virtual processors.
GUESTS = [("exceptions", 1), ("paging", 1), ("paging32", 1), ("rings", 1), ("legacy", 1), ("realmode", 1), ("selfmod", 1),
          ("devices", 1), ("devices", 2), ("apic", 1), ("apic", 2), ("smp", 1), ("smp", 2), ("smp", 4), ("hyperv", 1), ("hyperv", 2), ("hyperv", 4)]


def run(context, name, cpus, without=()):
    """Run a guest, leaving out the tests named in `without`."""
    path = os.path.join(context["directory"], f"bare_{name}")
    if not os.path.exists(path):
        raise AssertionError(f"{path} was not built")
    r = subprocess.run([context["bulkhead"], "run", "--processor", context["processor"], "--debug-exit", "--no-reboot", "--kernel", path,
                        "--cpus", str(cpus), "--memory", "128M", *(["--append", "without=" + ",".join(without)] if without else [])],
                       capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    failed = [line for line in r.stdout.splitlines() if line.startswith("FAIL")]
    summary = re.search(r"^(\d+) tests, 0 failed", r.stdout, re.MULTILINE)
    # The exit port gives (code << 1) | 1.
    if r.returncode != 1 or failed or not summary or int(summary.group(1)) == 0:
        raise AssertionError(f"status {r.returncode}: " + ("\n".join(failed) or (r.stdout[-1500:] + r.stderr[-1500:])))


def make(name, cpus):
    return lambda context: run(context, name, cpus)


for guest, count in GUESTS:
    globals()[f"test_bare_{guest}_{count}"] = make(guest, count)
