# SPDX-License-Identifier: GPL-2.0-or-later
"""The sandbox's lists of system calls hold nothing that is not made: tests of workers are run under strace, and each line
of worker/sandbox_rules.c must have been used by a thread of each kind that it is for."""

import collections
import importlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile

from guest import tiny_kernel
from test_debian import Machine, require, shut_down
from test_network import Host, command, open_tap, start, wait_for_address
from test_worker import add
from worker_program import Worker, wait_for

# What threads of every kind do now and then (memory, waiting, an end) is in test_worker_threads; the rest is done by guests.
SCENARIOS = {
    "run_worker": ("test_worker_restarts_a_guest", "test_worker_stopped_and_continued", "test_worker_takes_disks_by_descriptor",
                   "test_worker_is_handed_ports", "test_worker_survives_its_parent"),
    "run_saved": ("test_saved_goes_on", "test_saved_paused", "test_checkpoint_goes_on", "test_merged_while_looked_at"),
}

# What no test here reaches: (call, value of the argument that counts or None, kind of thread or None for all): why.
UNREACHED = {
    ("restart_syscall", None, None): "made by the kernel, for whatever call was waiting when the process was stopped",
    ("rt_sigreturn", None, None): "after a signal to the process, which the kernel gives to any thread",
}

# The same of bulkhead-nat, the default switch, which has one list.
UNREACHED_BY_NAT = {
    "restart_syscall": "made by the kernel",
    "clock_gettime": "where the vDSO does not serve the clock",
    "futex": "GLib's, at the first message that libslirp has for the log",
    "getpid": "likewise: it begins with that",
    "lseek": "a resolv.conf with more name servers than libslirp takes is closed before its end",
    "mremap": "realloc() of what is larger than 128 KiB",
}

NAMES = {"vp/": "vp", "clock": "timer", "vmbus": "bus"}  # of threads that every machine has, by which the others' kinds are found
OWN_PROCESS = 2**64 - 1  # SANDBOX_OWN_PROCESS
KINDS = ("vp", "disk", "timer", "bus", "network")
FILTER_SIZE = 16  # struct sock_fprog, of which worker/sandbox_filter.c has one for each kind, in this order
STACK = 0x7ff000000000  # the filter of the first thread is there
CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


def arguments(text):
    found = []
    for word in text.split(","):
        match = re.match(r"\s*(0x[0-9a-f]+|\d+)", word)
        if not match:
            break
        found.append(int(match[1], 0))
    return tuple(found)


class Process:
    """Threads of one traced program, and what each did before and after it was confined."""

    def __init__(self):
        self.first = set()  # threads that confined a whole process
        self.filters = {}
        self.names = {}
        self.calls = collections.defaultdict(collections.Counter)  # of (thread, whether confined)

    def take(self, thread, call, text):
        made = (call, arguments(text))
        if call == "prctl" and "PR_SET_NAME" in text:
            self.names[thread] = text.split('"')[1]
        if call == "seccomp" and made[1][:2] == (1, 0) and len(made[1]) > 2 and made[1][2] > 0xffff:
            if made[1][2] >= STACK:
                self.first.add(thread)
                return
            self.calls[thread, False][made] += 1
            self.filters[thread] = made[1][2]
        else:
            self.calls[thread, thread in self.filters or thread in self.first][made] += 1

    def base(self):
        for thread, where in self.filters.items():
            for name, kind in NAMES.items():
                if self.names.get(thread, "").startswith(name):
                    return where - FILTER_SIZE * KINDS.index(kind)
        return min(self.filters.values(), default=0)

    def used(self):
        """What each kind has done: {(kind, call, arguments)}; "start" is what threads did before they were confined as their kind."""
        base, found = self.base(), set()
        for (thread, confined), calls in self.calls.items():
            if thread in self.first:
                kind = "first" if confined else None
            elif thread in self.filters:
                kind = KINDS[(self.filters[thread] - base) // FILTER_SIZE] if confined else "start"
            else:
                kind = None
            found |= {(kind, *made) for made in calls if kind}
        return found


def read_trace(path, switches):
    """What the program has done; `switches` gets the calls of default switches in their sandbox."""
    process, programs, others, confined = Process(), set(), set(), set()
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            match = CALL.match(line)
            if not match:
                continue
            thread = int(match[1])
            if match[2] == "execve":  # the default switch is another program, with lists of its own
                (others if programs else programs).add(thread)
            if thread not in others:
                process.take(thread, match[2], match[3])
            elif thread in confined:
                switches.add(match[2])
            elif match[2] == "seccomp" and arguments(match[3])[0] == 1:
                confined.add(thread)
    return process.used()


def fits(rule, call, made):
    if call != rule["call"]:
        return False
    # strace tells these two in words, and no other kind of them is allowed.
    if call in ("prctl", "clone"):
        return True
    return all(len(made) > argument and (made[argument] & mask == value or value == OWN_PROCESS) for argument, mask, value in rule["compares"])


def unused(rules, used):
    """Of each rule the kinds of threads that have not used it."""
    starts = {kind for kind, call, _ in used if call == "clone"}
    for rule in rules:
        kinds = {kind for kind, call, made in used if fits(rule, call, made)}
        # A new thread begins with what its starter has.
        if "start" in kinds:
            kinds |= starts
        for kind in rule["kinds"] or ["first"]:
            if kind not in kinds:
                yield rule["call"], rule["compares"][0][2] if rule["compares"] else None, kind


def is_excused(call, value, kind):
    return any(key in UNREACHED for key in ((call, value, kind), (call, value, None), (call, None, kind), (call, None, None)))


# strace is to have none of the descriptors that the worker is given, and is not its child.
TRACED = """#!{python} -I
import os, time
pid = os.getpid()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        for fd in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), fd)
        os.closerange(3, 65536)
        os.execvp("strace", ["strace", "-f", "-qq", "-e", "raw=!prctl,clone", "-o", "{directory}/trace." + str(pid), "-p", str(pid)])
    os._exit(0)
os.wait()
while "TracerPid:\\t0\\n" in open("/proc/self/status").read():
    time.sleep(0.005)
os.execv("{program}", ["{program}"])
"""


def traced(directory, program, name):
    """A program that runs this one under strace, with its process id."""
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(TRACED.format(python=sys.executable, directory=directory, program=os.path.abspath(program)))
    os.chmod(path, stat.S_IRWXU)
    return path


def run_scenarios(context):
    for module, names in SCENARIOS.items():
        for name in names:
            getattr(importlib.import_module(module), name)(context)


def a_guest_at_work(context):
    """Debian with a disk that comes and is trimmed, behind the default switch and at tap interfaces, one of them plugged in while it runs."""
    tap = {"mac": "00:15:5d:0a:0b:02", "port": "tap", "interface": "guest0"}
    nat = {"mac": "00:15:5d:0a:0b:01", "forwards": ["2222:22"]}
    with Machine(context) as machine, Host(context, machine.directory, ["198.51.100.1/24"]) as host:
        host.run("ip", "tuntap", "add", "dev", "guest0", "mode", "tap", "vnet_hdr")
        host.run("ip", "addr", "add", "198.51.100.1/24", "dev", "guest0")
        host.run("ip", "link", "set", "guest0", "up")
        host.run("ip", "link", "set", "lo", "up")
        host.serve()
        with open(os.path.join(host.directory, "small"), "wb") as f:
            f.write(os.urandom(100000))
        with start(machine, prefix=["ip", "netns", "exec", host.name], adapters=[nat, tap]) as guest:
            guest.login()
            wait_for_address(guest, r"inet 10\.0\.2\.15/24")
            guest.check("curl -sS --max-time 100 -o /tmp/small http://server.test/small && curl -sS --max-time 100 -T /tmp/small http://198.51.100.1/back", 240)
            # Nobody has to answer in the guest.
            subprocess.run(["ip", "netns", "exec", host.name, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:2222/"], capture_output=True)
            guest.check("networkctl down eth1; ip link set eth1 up; ip addr add 198.51.100.2/24 dev eth1")
            ping = ["ip", "netns", "exec", host.name, "ping", "-c", "1", "-W", "1", "198.51.100.2"]
            wait_for(lambda: subprocess.run(ping, capture_output=True).returncode == 0, "the guest to answer")
            before = set(guest.check("lsblk -dno NAME").split())
            extra = machine.path("extra.vhdx")
            subprocess.run([context["bulkhead"], "disk", "create", extra, "64M"], check=True)
            require(add(guest, extra, os.O_RDWR)["ok"], guest.stderr())
            name = wait_for(lambda: set(guest.check("lsblk -dno NAME").split()) - before, "the new disk to appear").pop()
            # What is given back is zeroed when it is taken again.
            write = f"dd if=/dev/zero of=/dev/{name} bs=1M count=33 oflag=direct conv=fsync"
            guest.check(f"{write} && blkdiscard -f /dev/{name} && {write} && {write}", 300)
            fd = open_tap(host.name, "hot0")
            require(command(guest, [fd], command="plug-adapter", mac=tap["mac"], port="descriptor", label="hot")["ok"], guest.stderr())
            shut_down(guest)


TOUCHES_62_MIB = (b"\xbf\x00\x00\x20\x00"  # mov edi, 2 MiB
                  b"\x89\x3f\x81\xc7\x00\x10\x00\x00"  # again: mov [edi], edi; add edi, 4096
                  b"\x81\xff\x00\x00\xe0\x03\x72\xf0"  # cmp edi, 62 MiB; jb again
                  b"\xb0\x2b\xba\xf8\x03\x00\x00\xee\xf4\xeb\xfd")  # mov al, '+'; mov edx, 0x3f8; out dx, al; hlt


def much_is_saved_and_restored(worker):
    """More than is read ahead of."""
    with Worker(worker, "/", processor="soft") as w:
        w.configuration["boot"]["kernel"] = tiny_kernel(w.path("kernel"), TOUCHES_62_MIB)
        w.run()
        wait_for(lambda: "+" in w.read("serial"), "the guest to have written")
        fd = os.open(w.path("saved"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if not w.control("save", [fd], fd=True)["ok"]:
                raise AssertionError(f"it is not saved: {w.log()}")
        finally:
            os.close(fd)
        w.wait()
        w.configuration["restore"] = w.path("saved")
        w.run()
        w.control("power-off")
        w.wait()


def a_guest_on_kvm(worker):
    """Of the list for KVM it is looked whether any thread makes each call, as what KVM is without hardware runs few guests. False: there is none."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with Worker(worker, "/", processor="kvm,hardware=any,hyperv=own") as w:
        w.configuration["boot"]["kernel"] = tiny_kernel(w.path("kernel"), b"\xeb\xfe")
        w.run()
        if not w.control("pause")["ok"] or not w.control("power-off")["ok"]:
            raise AssertionError(f"a guest on KVM: {w.log()}")
        w.wait()
    return True


def test_worker_calls_are_all_made(context):
    if os.geteuid():
        raise context["skip"]("tap interfaces and users of their own need root")
    with tempfile.TemporaryDirectory(prefix="bulkhead-calls-") as directory:
        os.makedirs(os.path.join(directory, "cli"))
        os.symlink(os.path.abspath(context["bulkhead"]), os.path.join(directory, "cli/bulkhead"))
        worker = traced(directory, "build/release/worker/bulkhead-worker", "worker/bulkhead-worker")
        other = dict(context, bulkhead=os.path.join(directory, "cli/bulkhead"), worker=worker, directory="build/release/tests/bare")
        run_scenarios(other)
        much_is_saved_and_restored(worker)
        on_kvm = a_guest_on_kvm(worker)
        a_guest_at_work(other)
        subprocess.run([traced(directory, "build/release/tests/test_worker_threads", "unit")], check=True, capture_output=True)
        # strace is its parent here: nobody is handed descriptors.
        subprocess.run(["strace", "-f", "-qq", "-e", "raw=!prctl,clone", "-o", os.path.join(directory, "trace.nat"), "build/release/tests/test_nat"],
                       check=True, capture_output=True)
        used, switches = set(), set()
        for name in os.listdir(directory):
            if name.startswith("trace."):
                used |= read_trace(os.path.join(directory, name), switches)
        told = subprocess.run(["build/release/tests/list_calls"], check=True, capture_output=True, text=True).stdout
        rules = [json.loads(line) for line in told.splitlines()]
        missing = set(unused([r for r in rules if r["list"] not in ("kvm", "nat")], used))
        never = sorted(f"{call} {'' if value is None else hex(value)} by {kind}" for call, value, kind in missing if not is_excused(call, value, kind))
        never += sorted(f"{r['call']} by bulkhead-nat" for r in rules if r["list"] == "nat" and r["call"] not in switches | set(UNREACHED_BY_NAT))
        if on_kvm:
            never += sorted(f"{r['call']} on KVM" for r in rules if r["list"] == "kvm" and not any(fits(r, call, made) for _, call, made in used))
        if never:
            raise AssertionError("listed and never made (take them out, or add what makes them): " + "; ".join(never))
