#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: Linux machines made of software (QEMU's TCG, an EPYC with SVM) whose /dev/kvm runs guests of ours.

Usage: tests/lab/lab.py [--list] [CHECK…]     run all checks, or those named
       tests/lab/lab.py --shell               a shell in the lab, on this terminal (Ctrl-A X cuts its power)
       tests/lab/lab.py --bench [ARGUMENT…]   bench/hardware.py in the lab
       tests/lab/lab.py --bench-network [ARGUMENT…]   bench/network.py, on KVM
       tests/lab/lab.py --prepare             only build the machine (cached in $XDG_CACHE_HOME/bulkhead)
Needs build/release; ./test lab makes that first, and counts each check as a test.
"""

import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bare"))
from patience import Patience, held_up  # pylint: disable=wrong-import-position

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "tests", "lab")
BULKHEAD = os.path.join(ROOT, "build", "release", "cli", "bulkhead")
NAT = os.path.join(ROOT, "build", "release", "switch", "bulkhead-nat")
MANAGER = [os.path.join(ROOT, "build", "release", *path) for path in (("vmms", "bulkheadd"), ("worker", "bulkhead-worker"), ("cli", "bulkhead-manage"),
                                                                       ("tests", "apply_switch"))]
SILENCE = 150  # seconds without a sign of life after which a machine is given up (its start takes less)
LIMIT = 2400  # seconds that a whole run of the lab may take. None of these are seconds in which it waits for a processor
NUDGE = 2  # seconds between two bytes sent to the machine
LOST_MAX = 2  # machines that a share of the checks may lose
MACHINES = 2  # side by side, each with its share of the checks; one takes one processor of the host
SCRATCH = 16 << 30  # sparse
# TCG lets a guest's XSETBV by, which SVM intercepts, so KVM would not know what the guest enabled: no XSAVE here.
CPU = "EPYC,+svm,-xsave,-xsaveopt,-xsavec,-xgetbv1,-avx,-avx2,-f16c,-fma"
UNUSED_DAYS = 30  # then a cached machine is removed


class LabError(Exception):
    """There is no lab; the text says why."""


# --- the machine's root file system -----------------------------------------------------------------

def packages():
    """What is installed in the lab: a list of our own and what the program is linked to."""
    with open(os.path.join(HERE, "packages"), encoding="utf-8") as f:
        names = {line.strip() for line in f if line.strip() and not line.startswith("#")}
    linked = subprocess.run(["ldd", BULKHEAD, NAT, *MANAGER], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"=> (/\S+)", linked):
        path = os.path.realpath(path)
        places = {path, re.sub("^/usr/lib", "/lib", path)}
        r = subprocess.run(["dpkg-query", "-S", *sorted(places)], capture_output=True, text=True)
        owner = r.stdout.split(":")[0].strip()
        if not owner:
            raise LabError(f"no Debian package has {path}, which bulkhead is linked to")
        names.add(owner)
    return sorted(names)


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "bulkhead")
    os.makedirs(path, exist_ok=True)
    return path


def remove_tree(path):
    """A tree that may hold files of the users of a namespace."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.exists(path):
        subprocess.run(["unshare", "--map-auto", "--map-root-user", "rm", "-rf", path], check=True)


def bootstrap(variant, names, tar, *options):
    """The command that fetches packages and leaves them, with what they depend on, in a tar file."""
    return ["mmdebstrap", "--mode=root" if os.geteuid() == 0 else "--mode=unshare", f"--variant={variant}", "--format=tar",
            "--include=" + ",".join(names), '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Retries "3"', *options, "bookworm", tar]


def build_root(work, names):
    """Fetch and install the packages and leave root.img, vmlinuz and the tree qemu in the directory `work`."""
    root = os.geteuid() == 0
    tar = os.path.join(work, "root.tar")
    qemu = os.path.join(work, "qemu")
    log = os.path.join(work, "log")
    os.mkdir(qemu)
    commands = (bootstrap("essential", names, tar, "--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*",
                          "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
                          f"--customize-hook={HERE}/add-kernel.sh \"$1\""),
                ([] if root else ["unshare", "--map-auto", "--map-root-user"])
                + [os.path.join(HERE, "make-filesystem.sh"), tar, work, os.path.join(HERE, "init")],
                # TCG's SVM of QEMU 7.2 forgets the interrupt shadow at VMRUN, among others, so guests lose wake-ups: a later QEMU.
                bootstrap("extract", ["qemu-system-x86"], tar, f"--setup-hook={HERE}/add-backports.sh \"$1\"",
                          '--aptopt=APT::Default-Release "bookworm-backports"'),
                ["tar", "--extract", "--no-same-owner", "--exclude=./dev/*", "--file", tar, "--directory", qemu],
                ["rm", tar])
    for command in commands:
        with open(log, "ab") as f:
            r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f)
        if r.returncode != 0:
            with open(log, encoding="utf-8", errors="replace") as f:
                raise LabError(f"{os.path.basename(command[0])} failed with {r.returncode}:\n{f.read()[-3000:]}")


def machine_directory():
    """The cached machine (root.img, vmlinuz, qemu); built when there is none from the same inputs."""
    names = packages()
    inputs = "\n".join(names)
    for name in ("add-kernel.sh", "add-backports.sh", "make-filesystem.sh", "init"):
        with open(os.path.join(HERE, name), encoding="utf-8") as f:
            inputs += f"\n--- {name}\n" + f.read()
    cache = cache_directory()
    entry = os.path.join(cache, "lab-" + hashlib.sha256(inputs.encode()).hexdigest()[:16])
    with open(os.path.join(cache, "lab.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(entry):
            print("lab: building the machine from Debian's packages (a minute or two)", file=sys.stderr, flush=True)
            work = entry + ".partial"
            remove_tree(work)
            os.mkdir(work)
            try:
                build_root(work, names)
                os.rename(work, entry)
            finally:
                if os.path.exists(work):
                    remove_tree(work)
        os.utime(entry)
        for name in os.listdir(cache):
            path = os.path.join(cache, name)
            if name.startswith("lab-") and time.time() - os.stat(path).st_mtime > UNUSED_DAYS * 86400:
                remove_tree(path)
    return entry


# --- what a run brings --------------------------------------------------------------------------------

def guest_image():
    """The Debian image that the guest tests boot: kernel, initrd and disk."""
    sys.path.insert(0, os.path.join(ROOT, "tests", "guest"))
    import test_debian  # pylint: disable=import-outside-toplevel,import-error
    return test_debian.base_image({"bulkhead": BULKHEAD})


def make_payload(directory, image, request):
    """The disk that becomes /lab: the program and the tests as they lie in this tree, and what is asked of them."""
    tree = os.path.join(directory, "payload")
    def copy(path, *, to=None):
        target = os.path.join(tree, to or os.path.relpath(path, ROOT))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(path, target)
    for program in (BULKHEAD, NAT, *MANAGER):
        copy(program)
    bare = os.path.join(ROOT, "build", "release", "tests", "bare")
    for name in os.listdir(bare):
        if name.startswith("bare_") and os.path.isfile(os.path.join(bare, name)):
            copy(os.path.join(bare, name))
    copy(os.path.join(ROOT, "build", "release", "tests", "test_saved_state"))
    for folder in ("tests", "tests/guest", "tests/bare", "tests/manage", "tests/lab", "bench"):
        for name in os.listdir(os.path.join(ROOT, folder)):
            if name.endswith((".py", ".sh")):
                copy(os.path.join(ROOT, folder, name))
    for name in ("vmlinuz", "initrd.img", "image.json"):
        copy(os.path.join(image, name), to=f"image/{name}")
    seed = os.path.join(tree, "seed.iso")
    subprocess.run([BULKHEAD, "image", "seed", seed, "--hostname", "under-test", "--user", "user", "--password", "bulkhead"],
                   check=True)
    for name, content in request.get("files", {}).items():
        copy(content, to=name)
    with open(os.path.join(tree, "request.json"), "w", encoding="utf-8") as f:
        json.dump({key: value for key, value in request.items() if key != "files"}, f)
    size = sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(tree) for name in names)
    path = os.path.join(directory, "payload.img")
    with open(path, "wb") as f:
        f.truncate((size * 11 // 10 + (8 << 20)) & ~4095)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", tree, path], check=True)
    shutil.rmtree(tree)
    return path


# --- a run ---------------------------------------------------------------------------------------------

def qemu(machine):
    """The command that starts the QEMU of the lab, which is not installed but lies, with its libraries, in a tree."""
    tree = os.path.join(machine, "qemu")
    return [os.path.join(tree, "lib64/ld-linux-x86-64.so.2"), "--library-path",
            ":".join(os.path.join(tree, path, "x86_64-linux-gnu") for path in ("lib", "usr/lib")),
            os.path.join(tree, "usr/bin/qemu-system-x86_64"), "-L", os.path.join(tree, "usr/share/qemu"),
            "-L", os.path.join(tree, "usr/share/seabios")]


def tsc_khz(seconds=0.2):
    """The frequency of the time stamp counter, which the lab has from its host. Its kernel would measure it while it starts, against a
    timer that stands still whenever the host does something else, and be wrong about time ever after."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
        address = ctypes.c_char.from_buffer(code)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(address))
        before, tsc_before = time.monotonic(), rdtsc()
        time.sleep(seconds)
        after, tsc_after = time.monotonic(), rdtsc()
        del rdtsc, address
    return round((tsc_after - tsc_before) / (after - before) / 1000)


class Lab:
    """The machine, running. report() gives what it says about its checks."""

    def __init__(self, request, machine, image, *, terminal=False, processors=1):
        self.directory = tempfile.mkdtemp(prefix="bulkhead-lab-")
        self.console_path = os.path.join(self.directory, "console")
        self.process = self.socket = None
        self.pending = b""
        try:
            self.start(request, machine, image, terminal, processors)
        except BaseException:
            self.close()
            raise

    def start(self, request, machine, image, terminal, processors):
        payload = make_payload(self.directory, image, request)
        scratch = os.path.join(self.directory, "scratch.img")
        with open(scratch, "wb") as f:
            f.truncate(SCRATCH)
        results = os.path.join(self.directory, "results")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(results)
        listener.listen(1)
        # One processor: with more, TCG loses guests and the lab itself within minutes (docs/testing.md).
        command = [*qemu(machine), "-name", "bulkhead-lab", "-accel", "tcg", "-cpu", CPU, "-machine", "q35", "-smp", str(processors), "-m", "4096", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-kernel", os.path.join(machine, "vmlinuz"),
                   "-append", "root=/dev/nvme0n1 ro console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable clocksource=tsc "
                   f"tsc_early_khz={tsc_khz()} no_timer_check",
                   "-drive", f"file={machine}/root.img,format=raw,if=none,id=root,readonly=on,cache=unsafe",
                   "-device", "nvme,drive=root,serial=root",
                   "-drive", f"file={payload},format=raw,if=virtio,readonly=on,cache=unsafe",
                   "-drive", f"file={scratch},format=raw,if=virtio,cache=unsafe,discard=unmap",
                   "-drive", f"file={image}/disk.vhdx,format=raw,if=virtio,readonly=on,cache=unsafe",
                   "-device", "virtio-serial-pci", "-chardev", f"socket,id=results,path={results}",
                   "-device", "virtserialport,chardev=results,name=lab.results",
                   "-serial", "mon:stdio" if terminal else f"file:{self.console_path}"]
        quiet = {} if terminal else {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        with open(os.path.join(self.directory, "stderr"), "wb") as err:
            self.process = subprocess.Popen(command, stderr=None if terminal else err, **quiet)
        listener.settimeout(30)
        try:
            self.socket, _ = listener.accept()
        except TimeoutError:
            raise LabError(f"QEMU did not start: {self.read('stderr')}") from None
        finally:
            listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        if self.socket:
            self.socket.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def read(self, name):
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def ended(self):
        return self.process.poll() is not None

    def nudge(self):
        """A machine that waits for its timer alone stands still when TCG loses that interrupt (docs/testing.md). Its local APIC
        would still know of it, and tell with the next one: so there always is a next one. It tells how long the machine was kept waiting."""
        try:
            self.socket.send(f"{held_up(self.process.pid):.1f}\n".encode(), socket.MSG_DONTWAIT)
        except OSError:
            pass  # full or gone: reading tells

    def report(self, *patience):
        """The next message of the lab; None when it has ended or one's patience with it has."""
        while b"\n" not in self.pending:
            left = min(p.left() for p in patience)
            if left <= 0:
                return None
            self.nudge()
            self.socket.settimeout(min(left, NUDGE))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                return None
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)


def checks_named(names):
    """The names of all checks, or of those named (with or without lab_ before it), in their order."""
    sys.path[:0] = [os.path.join(ROOT, "tests", folder) for folder in ("lab", "guest", "bare", "manage")]
    import checks  # pylint: disable=import-outside-toplevel,import-error
    return [name for name in checks.ALL if not names or name in names or "lab_" + name in names]


def follow(lab, left, add, patience):
    """Count what the machine tells and take it from `left`, the names of its checks. Returns the check in which it was lost, and what
    is known of that; (None, None) when all is told."""
    running = "its start"
    while left:
        message = lab.report(patience, Patience(SILENCE, lab.process.pid))
        if message is None:
            break
        if "begin" in message:
            running = message["begin"]
        elif "check" in message:
            left.remove(message["check"])
            add("lab_" + message["check"], message["result"], message["seconds"], message["detail"])
    if not left:
        return None, None
    if patience.left() <= 0:
        why = f"the lab reached its limit of {LIMIT} s"
    else:
        why = "the lab ended before" if lab.ended() else f"the lab said nothing for {SILENCE} s"
    return running, f"{why}, in {running}; its console ends with:\n{lab.read('console')[-2000:]}{lab.read('stderr')[-1000:]}"


def run_share(names, machine, image, add, limit):
    """Run these checks in a machine of their own; what it does not tell of has failed. When the machine itself is lost, which no program in
    it should be able to bring about, what is left is done in another; a check with which that happens twice has failed."""
    left, lost, why = list(names), [], ""
    try:
        while left and len(lost) <= LOST_MAX and limit > 0:
            with Lab({"mode": "checks", "names": left}, machine, image) as lab:
                patience = Patience(limit, lab.process.pid)
                where, why = follow(lab, left, add, patience)
                limit = patience.left()
            if where in lost and where in left:
                left.remove(where)
                add("lab_" + where, "failed", 0, why)
            if where:
                lost.append(where)
                print(f"lab: a machine was lost: {why}", file=sys.stderr, flush=True)
    except Exception as e:  # pylint: disable=broad-except
        why = f"{type(e).__name__}: {e}"
    for name in left:
        add("lab_" + name, "failed", 0, why)


def run_checks(names, add, limit=LIMIT):
    """Run the checks (those named, or all). add(name, result, seconds, detail) is called for each as it ends."""
    names = checks_named(names)
    machine = machine_directory()
    image = guest_image()
    lock = threading.Lock()
    def add_alone(*result):
        with lock:
            add(*result)
    shares = [names[first::MACHINES] for first in range(MACHINES)]
    threads = [threading.Thread(target=run_share, args=(share, machine, image, add_alone, limit)) for share in shares if share]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def forward_terminal(request):
    with Lab(request, machine_directory(), guest_image(), terminal=True) as lab:
        return lab.process.wait()


def bench(script, program, arguments):
    """A script of bench/ in the lab, with a program of it that needs a compiler."""
    built = os.path.join(ROOT, "build", program)
    subprocess.run(["gcc", "-O2", "-static", "-o", built, os.path.join(ROOT, "bench", program + ".c")], check=True)
    request = {"mode": "bench", "script": script, "arguments": arguments, "files": {f"bench/{program}": built}}
    # Two, so that a guest and what serves it run at one time. It may be lost, for which see docs/testing.md; then start it again.
    with Lab(request, machine_directory(), guest_image(), processors=2) as lab:
        patience = Patience(3600, lab.process.pid)
        while True:
            message = lab.report(patience)
            if message is None:
                print(f"lab: no end; the console ends with:\n{lab.read('console')[-2000:]}", file=sys.stderr)
                return 1
            if "done" in message:
                return message["done"]
            print(message["line"], file=sys.stderr if message.get("progress") else sys.stdout, flush=True)


def main():
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    option = arguments.pop(0) if arguments and arguments[0].startswith("-") else None
    if option in ("-h", "--help"):
        print(__doc__)
        return 0
    if option == "--list":
        print("\n".join(checks_named(arguments)))
        return 0
    if option == "--prepare":
        print(machine_directory())
        return 0
    if option == "--shell":
        return forward_terminal({"mode": "shell"})
    if option == "--bench":
        return bench("hardware.py", "diskbench", arguments)
    if option == "--bench-network":
        return bench("network.py", "netbench", ["--processor", "kvm", "--image", "/lab/image", *arguments])
    if option:
        print(f"lab: there is no option {option}; see --help", file=sys.stderr)
        return 2
    failed = []
    def add(name, result, seconds, detail):
        print(f"{result} {name} ({seconds:.1f} s){': ' + detail if detail else ''}", flush=True)
        if result == "failed":
            failed.append(name)
    run_checks(arguments, add)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as e:
        sys.exit(f"lab: {e}")
