# SPDX-License-Identifier: GPL-2.0-or-later
"""What is checked in the lab, on the hardware processor. The guests and what is looked at in them are those of
tests/bare and tests/guest.

A check is a function that raises when it finds something wrong. ALL has them in the order in which they run.
"""

import fcntl
import os
import re
import resource
import subprocess
import traceback
from collections import namedtuple

import run_bare
import test_debian
import test_manage_guests
import test_manage_ports
import test_manage_switch_host
import test_manage_teams
from guest import Guest
from test_debian import require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
IMAGE = "/var/tmp/image"  # the Debian guest, on the scratch disk

Check = namedtuple("Check", "function limit image")
ALL = {}


class Skip(Exception):
    """The check cannot be made here; its text says why."""


def context(processor):
    return {"bulkhead": BULKHEAD, "skip": Skip, "processor": processor, "image": IMAGE,
            "directory": os.path.join(ROOT, "build", "release", "tests", "bare")}


def check(name, function, *, limit=60, image=False):
    ALL[name] = Check(function, limit, image)


# --- the machine itself ---------------------------------------------------------------------------------

KVM_CHECK_EXTENSION = 0xAE03
CAPABILITIES = {"HYPERV": 44, "HYPERV_TIME": 96, "HYPERV_SYNIC2": 148, "HYPERV_VP_INDEX": 149, "HYPERV_EVENTFD": 154, "HYPERV_TLBFLUSH": 155,
                "HYPERV_SEND_IPI": 161, "HYPERV_CPUID": 167, "HYPERV_ENFORCE_CPUID": 199}


def kvm_is_there():
    with open("/dev/kvm", "rb", buffering=0) as kvm:
        missing = [name for name, number in CAPABILITIES.items() if fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, number) <= 0]
    require(not missing, f"KVM has no {', '.join(missing)}")
    # With any other clock source KVM gives guests no reference TSC page.
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource", encoding="ascii") as f:
        require(f.read().strip() == "tsc", "the TSC is not the lab's clock source")


def auto_takes_kvm():
    """A guest that loops: what runs it, without being told, is KVM, and there is nothing to say about that."""
    path = test_debian.tiny_kernel(os.path.join(os.environ.get("TMPDIR", "/tmp"), "loop"), b"\xeb\xfe")
    with Guest(BULKHEAD, ["--processor", "auto", "--kernel", path]) as guest:
        status = guest.control("status")
        require(status["processor"] == "kvm", f"auto took {status['processor']}")
        require(guest.stderr() == "", f"it says: {guest.stderr()}")
        guest.control("power-off")
        require(guest.wait(30) == 4, "the power was not cut")


def as_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def refused(wanted, *options, before=None):
    """A start that fails: one sentence with `wanted` in it."""
    kernel = test_debian.tiny_kernel(os.path.join(os.environ.get("TMPDIR", "/tmp"), "refused"), b"\xeb\xfe")
    os.chmod(kernel, 0o644)
    r = subprocess.run([BULKHEAD, "run", "--kernel", kernel, "--serial", "none", *options], stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60, preexec_fn=before)
    require(r.returncode == 1 and wanted in r.stderr and r.stderr.count("\n") == 1, f"{options}: status {r.returncode}: {r.stderr}")


def left_behind():
    """What a start that failed could leave on a host."""
    with open("/proc/mounts", encoding="utf-8") as f:
        mounts = f.read()
    return sorted(os.listdir("/run")), sorted(os.listdir("/dev/shm")), mounts


def refusals():
    before = left_behind()
    refused("no permission for /dev/kvm: become a member of the group kvm", "--processor", "kvm", before=as_nobody)
    refused("address space for guest memory are refused", "--processor", "kvm", "--memory", "3G",
            before=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31)))
    refused("more than this host has", "--processor", "kvm", "--memory", "1T")
    refused("Too many open files: raise the limit on open files (ulimit -n)", "--processor", "kvm", "--cpus", "64",
            before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))
    os.rename("/dev/kvm", "/dev/kvm-away")
    try:
        refused("there is no /dev/kvm: load the module (modprobe kvm_amd)", "--processor", "kvm")
        with Guest(BULKHEAD, ["--processor", "auto", "--kernel", os.path.join(os.environ.get("TMPDIR", "/tmp"), "refused")]) as guest:
            require(guest.control("status")["processor"] == "soft", "auto did not take the software processor")
            require("there is no /dev/kvm" in guest.stderr() and guest.stderr().count("\n") == 1, f"it says: {guest.stderr()}")
            guest.control("power-off")
            guest.wait(30)
    finally:
        os.rename("/dev/kvm-away", "/dev/kvm")
    require(left_behind() == before, f"something is left: {left_behind()}, before {before}")


check("kvm_is_there", kvm_is_there)
check("refusals", refusals)
check("auto_takes_kvm", auto_takes_kvm)


# --- guests with no operating system ----------------------------------------------------------------------

# Tests that are left out for what runs the lab: TCG leaves out checks that processors make.
TCG = {
    "exceptions": {"invalid-opcode": "INTO in long mode", "simd-exception": "no #XM",
                   "general-protection": "reserved bits of CR3 are taken, and stop the next entry into the guest"},
    "paging": {"no-execute": "P is clear in the error code of reserved bits", "reserved-bits": "the same",
               "crossing-data": "reads before it writes, and reports the read"},
    "paging32": {"legacy-large": "P is clear in the error code of reserved bits", "pae-rights": "the same", "pae-large": "the same"},
    "rings": {"privileged-instructions": "WBINVD in any ring", "alignment-check": "no #AC",
              "segment-bases": "takes addresses that are not canonical"},
    "legacy": {"limits": "no limits", "stack-limit": "the same", "code-limit": "the same", "local-table": "the same",
               "types": "any segment can be written", "gates-16bit": "no limits", "ring3": "null segments can be used",
               "double-fault-task": "jumps astray"},
    "realmode": {"exceptions": "no limits"},
    "devices": {"msr-system-calls": "takes addresses that are not canonical", "msr-bases": "the same"},
}
# And for KVM: its own local APIC knows AutoEOI only where KVM serves Hyper-V; CPUID says that it is deprecated.
KVM = {("hyperv", "own"): {"auto-eoi"}}


def bare(name, cpus, hyperv):
    without = set(TCG.get(name, ())) | KVM.get((name, hyperv), set())
    return lambda: run_bare.run(context(f"kvm,hyperv={hyperv}"), name, cpus, sorted(without))


def entry_refused():
    """The host's processor does not enter a guest in a state that cannot be: TCG lets this guest get into one."""
    r = run_bare.start(context("kvm"), "exceptions", 1, sorted(set(TCG["exceptions"]) - {"general-protection"}))
    for wanted in ("cannot go on and the machine was stopped: the host's processor refuses to enter the guest: reason 0x",
                   "bytes at RIP 0f 22 d8", "RIP 0008:", "CR3 "):
        require(wanted in r.stderr, f"not in the report: {wanted}: {r.stderr}")
    require(r.returncode == 3, f"status {r.returncode}")


check("entry_refused", entry_refused)
for by in ("kernel", "own"):
    for guest_name, count in run_bare.GUESTS:
        check(f"bare_{guest_name}_{count}_{by}", bare(guest_name, count, by), limit=run_bare.LIMIT + 10)
    check(f"astray_{by}", lambda by=by: test_debian.test_guests_that_go_astray(context(f"kvm,hyperv={by}")), limit=120)


# --- saved state ------------------------------------------------------------------------------------------

SAVED_STATE = os.path.join(ROOT, "build", "release", "tests", "test_saved_state")
# To the software processor only what is not long: here it is software that runs in software.
MOVES = {"soft to kvm": "*", "soft to kvm, own Hyper-V": "*", "kvm to kvm": "*", "kvm to kvm, own Hyper-V": "*",
         "kvm, own Hyper-V, to kvm": "*", "kvm to soft": "e*", "kvm, own Hyper-V, to soft": "e*"}


def saved_state(move, which):
    """A guest that was stopped on one processor goes on on another."""
    r = subprocess.run([SAVED_STATE, f"{move}: {which}"], capture_output=True, text=True)
    passed = len(re.findall(r"^\[ +OK \]", r.stdout, re.MULTILINE))
    require(r.returncode == 0 and passed >= (10 if which == "*" else 2),
            f"status {r.returncode}, {passed} passed:\n{(r.stdout + r.stderr)[-2500:]}")


for kinds, wanted in MOVES.items():
    check("saved_" + re.sub(r"\W+", "_", kinds).lower(), lambda kinds=kinds, wanted=wanted: saved_state(kinds, wanted), limit=240)


# --- Debian -----------------------------------------------------------------------------------------------

MEMORY = "512M"
BOOT = 600


# What a second boot does not need: it is slow here.
QUICK = "quiet " + " ".join(f"systemd.mask={unit}" for unit in ("e2scrub_reap.service", "systemd-networkd.service", "ssh.service"))


def debian(by, cpus, then, append="", options=()):
    """Two lives of a guest: it finds Hyper-V and writes, and finds what it wrote; then something more happens to it."""
    with test_debian.Machine(context(f"kvm,hyperv={by}")) as machine:
        always = ["--cpus", str(cpus), "--memory", MEMORY]
        with machine.start(*always, "--append", "quiet") as guest:
            guest.login(timeout=BOOT)
            test_debian.look_for_hyper_v(guest)
            require(guest.check("nproc") == str(cpus), "not all processors are there")
            test_debian.write_what_must_last(guest)
            test_debian.shut_down(guest)
            require("reboot: Power down" in guest.text, "the kernel did not power down cleanly")
        test_debian.check_disk_from_outside(machine)
        with machine.start(*always, "--append", QUICK + append, *options) as guest:
            guest.login(timeout=BOOT)
            test_debian.look_for_what_lasted(guest)
            then(machine, guest)


def pause(_, guest):
    test_debian.pause_and_resume(guest)
    test_debian.shut_down(guest)


def hot_disk(machine, guest):
    extra, digest = test_debian.add_and_remove_disk(machine, guest)
    test_debian.shut_down(guest)
    test_debian.check_added_disk(machine, extra, digest)


def restart(_, guest):
    test_debian.restart(guest)
    test_debian.look_for_what_lasted(guest)
    test_debian.shut_down(guest)


def crash(_, guest):
    test_debian.crash(guest)


for suffix, *parameters in (("kernel_1_restart", "kernel", 1, restart), ("own_2_hot_disk", "own", 2, hot_disk),
                            ("kernel_2_crash", "kernel", 2, crash, " panic=1", ["--no-reboot"]), ("own_1_pause", "own", 1, pause)):
    check(f"debian_{suffix}", lambda parameters=parameters: debian(*parameters), limit=1200, image=True)


# --- Open vSwitch in the kernel's datapath ------------------------------------------------------------------

BUILD = os.path.join(ROOT, "build", "release")


def context_of_manage():
    return {"build": BUILD, "skip": Skip, "gap": 30, "image": IMAGE, "processor": "kvm"}


def manage(function):
    """A test of the stage manage, with daemons of Open vSwitch that the manager starts; here the kernel has a datapath, and bonding."""
    subprocess.run(["modprobe", "-a", "openvswitch", "bonding", "tun"], check=True)
    function(context_of_manage())


def system(program):
    """A program that runs as a unit of a Debian system, with the host's own Open vSwitch, in this machine's network."""
    directory = os.path.join(os.environ.get("TMPDIR", "/tmp"), "system")
    r = subprocess.run([os.path.join(ROOT, "tests", "lab", "system.sh"), directory, os.path.join(ROOT, "tests", "lab", program)], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, errors="replace")
    said = ""
    if os.path.exists(os.path.join(directory, "said")):
        with open(os.path.join(directory, "said"), encoding="utf-8", errors="replace") as f:
            said = f.read()
    require(said.startswith("passed\n"), f"status {r.returncode}: {said[-3000:]}{r.stdout[-500:]}{r.stderr[-500:]}")


def queue_without_module():
    """A kernel that cannot make the queue that holds back what a machine is sent."""
    subprocess.run(["modprobe", "-r", "sch_htb"], check=True)
    subprocess.run(["modprobe", "-a", "openvswitch", "veth", "cls_bpf"], check=True)
    with open("/proc/sys/kernel/modprobe", encoding="ascii") as f:
        before = f.read()

    def set_program(path):
        with open("/proc/sys/kernel/modprobe", "w", encoding="ascii") as f:
            f.write(path)
    set_program("/bin/false")
    try:
        test_manage_ports.require_queue_refused(context_of_manage())
    finally:
        set_program(before)


check("switch_of_the_host", lambda: system("host_switch.py"), limit=240)
check("switch_queue_without_module", queue_without_module)
check("switch_minimum", lambda: manage(test_manage_ports.test_manage_ports_minimum), limit=120)
check("switch_minimum_guest", lambda: manage(test_manage_guests.require_minimum), limit=300, image=True)
check("switch_lease", lambda: manage(test_manage_switch_host.test_manage_switch_host_has_a_lease), limit=180)
check("switch_let_go", lambda: manage(test_manage_switch_host.test_manage_switch_host_is_let_go), limit=180)
check("switch_bond", lambda: manage(test_manage_teams.test_manage_team_lacp_with_a_bond), limit=240)


def run(name):
    """Make a check; returns its result and what to say about it."""
    try:
        ALL[name].function()
        return "passed", ""
    except Skip as e:
        return "skipped", str(e)
    except AssertionError as e:
        return "failed", str(e)
    except Exception as e:  # pylint: disable=broad-except
        return "failed", f"{type(e).__name__}: {e}\n" + traceback.format_exc().splitlines()[-3]
