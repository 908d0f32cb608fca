# SPDX-License-Identifier: GPL-2.0-or-later
"""An unmodified Debian on `bulkhead run`: what a user of Hyper-V expects to find, seen from inside and outside.

Each test boots the image (built once and cached) from a copy of its disk, so tests do not depend on each other.
What is looked at is in functions that take a running guest: the lab calls them on the hardware processor.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from guest import Guest, GuestError, shared_image, tiny_kernel

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
BOOT = 600  # seconds that a boot may take on a busy two-core machine


class Machine:
    """A copy of the image in a directory of its own, and how to start it."""

    def __init__(self, context):
        self.context = context
        self.bulkhead = context["bulkhead"]
        self.directory = tempfile.mkdtemp(prefix="bulkhead-guest-")
        base = base_image(context)
        self.image = os.path.join(self.directory, "image")
        os.mkdir(self.image)
        for name in os.listdir(base):
            subprocess.run(["cp", "--reflink=auto", "--sparse=always", os.path.join(base, name), self.image], check=True)
        self.disk = os.path.join(self.image, "disk.vhdx")
        self.seed = os.path.join(self.directory, "seed.iso")
        subprocess.run([self.bulkhead, "image", "seed", self.seed, "--hostname", "under-test", "--user", "user",
                        "--password", "bulkhead"], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, *options):
        return Guest(self.bulkhead, ["--image", self.image, "--dvd", self.seed, "--processor", self.context["processor"], *options])

    def path(self, name):
        return os.path.join(self.directory, name)


def base_image(context):
    """The test flavour of the image: stock Debian plus fio, stress-ng, curl, iperf3 and ethtool."""
    if "image" not in context:
        context["image"] = shared_image(context["bulkhead"], "test-image", ("fio", "stress-ng", "curl", "iperf3", "ethtool"))
    return context["image"]


def require(condition, text):
    if not condition:
        raise AssertionError(text)


def wait_for(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        require(time.monotonic() < deadline, f"waited {timeout} s for {what}")
        time.sleep(0.05)


def shut_down(guest):
    guest.terminate()
    status = guest.wait(300)
    require(status == 0, f"a requested shutdown ended with {status}: {guest.stderr()}")


def check_disk_from_outside(machine):
    """The VHDX is sound for its peers, and the file system on it clean."""
    subprocess.run(["qemu-img", "check", "-q", machine.disk], check=True)
    raw = machine.path("disk.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", machine.disk, raw], check=True)
    r = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True)
    os.unlink(raw)
    require(r.returncode == 0, f"e2fsck -fn: {r.stdout}{r.stderr}")


def look_for_hyper_v(guest):
    """The guest found the whole of Hyper-V, and the host the guest."""
    log = guest.check("dmesg")
    require("Hypervisor detected: Microsoft Hyper-V" in log, f"no Hyper-V in dmesg:\n{log[:2000]}")
    require(re.search(r"Vmbus version:5\.3", log), "no VMBus 5.3 in dmesg")
    require(guest.check("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == "hyperv_clocksource_tsc_page",
            "the reference TSC page is not the clock source")
    bound = guest.check("ls /sys/bus/vmbus/drivers/hv_storvsc /sys/bus/vmbus/drivers/hv_utils")
    require(len(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}", bound)) >= 4, f"drivers are not bound:\n{bound}")
    require("ext4" in guest.check("findmnt -no FSTYPE /"), "root is not ext4")
    require(guest.check("hostname") == "under-test", "the seed's host name was not taken")
    device = guest.check("findmnt -no SOURCE /")
    require(device.startswith("/dev/sd"), f"root is on {device}")
    wait_for(lambda: guest.control("status")["heartbeat"] == "ok", "the heartbeat")
    require(guest.control("status")["vmbus_version"] == "5.3", "the host saw another VMBus version")


def write_what_must_last(guest):
    guest.check("dd if=/dev/urandom of=/root/kept bs=1M count=8 conv=fsync; sha256sum /root/kept > /root/kept.sum; sync")


def look_for_what_lasted(guest):
    guest.check("sha256sum -c /root/kept.sum")


def test_debian_boots_and_finds_hyper_v(context):
    with Machine(context) as machine:
        with machine.start("--cpus", "1") as guest:
            guest.login(timeout=BOOT)
            look_for_hyper_v(guest)
            write_what_must_last(guest)
            shut_down(guest)
            require("reboot: Power down" in guest.text, "the kernel did not power down cleanly")
        check_disk_from_outside(machine)
        with machine.start("--cpus", "2", "--memory", "512M") as guest:
            guest.login(timeout=BOOT)
            look_for_what_lasted(guest)
            require(guest.check("nproc") == "2", "the second processor is missing")
            guest.check("journalctl --no-pager -b -p err -q | tail -5")
            shut_down(guest)
        check_disk_from_outside(machine)


def test_debian_memory_sizes(context):
    with Machine(context) as machine:
        for memory, cpus, low, high in (("256M", 1, 150, 256), ("8G", 4, 7500, 8192)):
            with machine.start("--memory", memory, "--cpus", str(cpus)) as guest:
                guest.login(timeout=BOOT)
                mib = int(re.search(r"MemTotal:\s+(\d+)", guest.check("cat /proc/meminfo")).group(1)) // 1024
                require(low < mib <= high, f"--memory {memory} gives the guest {mib} MiB")
                require(guest.check("nproc") == str(cpus), f"--cpus {cpus} was not honoured")
                shut_down(guest)


def programs_disk(machine, *names):
    """A disk with programs of tests/guest/programs, which need nothing of the guest but its kernel."""
    directory, raw = machine.path("programs"), machine.path("programs.raw")
    os.mkdir(directory)
    for name in names:
        subprocess.run(["cc", "-O2", "-static", "-pthread", os.path.join(PROGRAMS, f"{name}.c"), "-o", os.path.join(directory, name)], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "programs", "-d", directory, raw, "16M"], check=True, capture_output=True)
    return raw


def keys_protect(context, guest):
    """Debian's kernel finds the protection keys, and what it and the C library make of them holds."""
    flags = guest.check("grep -m 1 ^flags /proc/cpuinfo").split()
    if not context["processor"].startswith("soft") and "pku" not in flags:
        return  # as the host's processor has it
    require({"pku", "ospke"} <= set(flags), f"no protection keys among {flags}")
    guest.check("mkdir /programs && mount -o ro LABEL=programs /programs")
    said = guest.check("/programs/keys", 300)
    require(said.endswith("all as it should be"), said)


def test_debian_work_is_correct(context):
    with Machine(context) as machine:
        with machine.start("--cpus", "2", "--memory", "1G", "--disk", programs_disk(machine, "keys")) as guest:
            guest.login(timeout=BOOT)
            keys_protect(context, guest)
            known = "".join(f"{i:08d}\n" for i in range(100000))
            expected = __import__("hashlib").sha256(known.encode()).hexdigest()
            require(guest.check("seq -f %08.0f 0 99999 | sha256sum").split()[0] == expected, "sha256sum differs")
            guest.check("dd if=/dev/zero of=/root/z bs=1M count=64 conv=fsync && cmp -n 67108864 /root/z /dev/zero && rm /root/z", 300)
            guest.check("fio --name=v --directory=/root --size=24M --rw=randrw --bs=4k --ioengine=libaio --iodepth=32 --numjobs=2 "
                        "--direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --loops=1", 600)
            guest.check("stress-ng --verify --cpu 1 --cpu-method all --vm 1 --vm-bytes 32M --pipe 1 --timeout 20s", 600)
            before = os.stat(machine.disk).st_blocks
            guest.check("fstrim -v / && sync", 120)
            after = os.stat(machine.disk).st_blocks
            require(after < before, f"fstrim left the image's {before} blocks on the host at {after}")
            shut_down(guest)
        check_disk_from_outside(machine)


def test_debian_work_is_correct_interpreted(context):
    """The same without translation, which is the default."""
    if context["processor"] != "soft":
        raise context["skip"]("only the software processor translates")
    test_debian_work_is_correct(dict(context, processor="soft,translate=off"))


def pause_and_resume(guest, seconds=8):
    """A pause stops the guest's time; afterwards its clock follows the host's."""
    def offset():
        before = time.time()
        inside = float(guest.check("date +%s.%N"))
        after = time.time()
        return 0 if before - 0.5 <= inside <= after + 0.5 else inside - after
    wait_for(lambda: offset() == 0, "the guest clock to agree before the pause")
    uptime = float(guest.check("cat /proc/uptime").split()[0])
    guest.control("pause")
    start = time.monotonic()
    require(guest.control("status")["state"] == "paused", "the machine is not paused")
    frozen = guest.control("status")["reference_time_100ns"]
    wait_for(lambda: time.monotonic() - start > seconds, "the pause")
    require(guest.control("status")["reference_time_100ns"] == frozen, "time went on while paused")
    guest.control("resume")
    wait_for(lambda: offset() == 0, "the guest clock to follow the host", 30)
    slept = float(guest.check("cat /proc/uptime").split()[0]) - uptime
    require(slept < time.monotonic() - start + 1, "uptime jumped")


def test_debian_clock_follows_the_host_after_a_pause(context):
    with Machine(context) as machine:
        with machine.start() as guest:
            guest.login(timeout=BOOT)
            pause_and_resume(guest)
            shut_down(guest)


def add_and_remove_disk(machine, guest):
    """Add a disk, fill it and take it away; returns its path and the SHA-256 of what the guest wrote."""
    extra = machine.path("extra.vhdx")
    subprocess.run([machine.bulkhead, "disk", "create", extra, "64M"], check=True)
    before = set(guest.check("lsblk -dno NAME").split())
    added = guest.control("add-disk", extra)
    def new():
        return set(guest.check("lsblk -dno NAME").split()) - before
    name = wait_for(new, "the new disk to appear").pop()
    require(guest.check(f"blockdev --getsize64 /dev/{name}") == str(64 << 20), "the new disk has the wrong size")
    guest.check(f"dd if=/dev/urandom of=/dev/{name} bs=1M count=64 oflag=direct && blockdev --flushbufs /dev/{name} && "
                f"sha256sum /dev/{name} > /root/sum", 300)
    digest = guest.check("cat /root/sum").split()[0]
    # The guest looks again by itself when its next request tells it.
    guest.control("resize-disk", f"{added['controller']}:{added['lun']}", str(96 << 20))
    guest.check(f"dd if=/dev/{name} of=/dev/null bs=4k count=1 iflag=direct")
    wait_for(lambda: guest.check(f"blockdev --getsize64 /dev/{name}") == str(96 << 20), "the guest to see the new size")
    guest.control("resize-disk", f"{added['controller']}:{added['lun']}", str(64 << 20))
    guest.control("remove-disk", f"{added['controller']}:{added['lun']}")
    wait_for(lambda: not new(), "the disk to disappear")
    return extra, digest


def check_added_disk(machine, extra, digest):
    raw = machine.path("extra.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", extra, raw], check=True)
    require(subprocess.run(["sha256sum", raw], capture_output=True, text=True).stdout.split()[0] == digest,
            "what the guest wrote is not what qemu-img reads")


def test_debian_disk_hot_added(context):
    with Machine(context) as machine:
        with machine.start("--cpus", "2") as guest:
            guest.login(timeout=BOOT)
            extra, digest = add_and_remove_disk(machine, guest)
            shut_down(guest)
        check_added_disk(machine, extra, digest)


def crash(guest):
    """Crash a guest that runs with panic=1 and --no-reboot; what it reports must come through."""
    guest.send("sudo sh -c 'echo c > /proc/sysrq-trigger'\n")
    status = guest.wait(120)
    require(status == 3, f"a crashed guest ended with {status}")
    require("the guest reports a crash" in guest.stderr(), f"no report: {guest.stderr()}")
    require("sysrq" in guest.stderr().lower(), f"the panic's message is missing: {guest.stderr()}")


def test_debian_crash_is_reported(context):
    with Machine(context) as machine:
        with machine.start("--append", "panic=1", "--no-reboot") as guest:
            guest.login(timeout=BOOT)
            crash(guest)


def restart(guest):
    """Restart from inside; the guest is logged in again afterwards."""
    guest.send("sudo systemctl reboot\n")
    guest.expect(r"reboot: Restarting system", BOOT)
    guest.login(timeout=BOOT)
    require("the guest restarts" in guest.stderr(), "the reset was not seen")
    guest.control("inspect")


def test_debian_restarts(context):
    with Machine(context) as machine:
        with machine.start() as guest:
            guest.login(timeout=BOOT)
            restart(guest)
            shut_down(guest)


def idle_guest_is_cheap(context, mebibytes):
    with Machine(context) as machine:
        with machine.start("--memory", "512M") as guest:
            guest.login(timeout=BOOT)
            guest.check("systemctl is-system-running --wait || true", 300)
            memory = guest.memory_kib()
            # The measure is taken over the quietest of several windows: boot jobs end at their own pace.
            best = 1.0
            for _ in range(12):
                start, cpu = time.monotonic(), guest.cpu_seconds()
                time.sleep(5)
                best = min(best, (guest.cpu_seconds() - cpu) / (time.monotonic() - start))
                if best < 0.02:
                    break
            require(best < 0.02, f"an idle guest uses {best * 100:.1f}% of a core")
            require(memory < mebibytes * 1024, f"the worker uses {memory} KiB beyond the guest's memory")
            shut_down(guest)


def test_idle_guest_is_cheap(context):
    """Translated code and what it refers to may take 76 MiB (docs/translator.md)."""
    idle_guest_is_cheap(context, 96)


def test_idle_guest_is_cheap_interpreted(context):
    if context["processor"] != "soft":
        raise context["skip"]("only the software processor translates")
    idle_guest_is_cheap(dict(context, processor="soft,translate=off"), 64)


def run_expecting(context, status, text, *arguments, timeout=60):
    r = subprocess.run([context["bulkhead"], "run", *arguments], capture_output=True, text=True, timeout=timeout,
                       stdin=subprocess.DEVNULL)
    require(r.returncode == status, f"{arguments}: status {r.returncode}, not {status}: {r.stderr}")
    require(text in r.stderr, f"{arguments}: no {text!r} in: {r.stderr}")
    require(r.stderr.startswith("bulkhead: ") and len(r.stderr.strip().splitlines()) == 1, f"not one sentence: {r.stderr}")


def test_bad_input_gets_one_clear_sentence(context):
    with Machine(context) as machine:
        kernel = os.path.join(machine.image, "vmlinuz")
        text = machine.path("text")
        with open(text, "w", encoding="ascii") as f:
            f.write("this is no kernel\n" * 1000)
        run_expecting(context, 1, "text", "--kernel", text)
        run_expecting(context, 1, "no-such-file", "--kernel", machine.path("no-such-file"))
        run_expecting(context, 1, "no-such.vhdx", "--kernel", kernel, "--disk", machine.path("no-such.vhdx"))
        for name, change in (("truncated.vhdx", lambda b: b[:300 * 1024]), ("corrupt.vhdx", corrupt_headers)):
            path = machine.path(name)
            with open(machine.disk, "rb") as f:
                data = change(f.read(4 << 20))
            with open(path, "wb") as f:
                f.write(data)
            run_expecting(context, 1, name, "--kernel", kernel, "--disk", path)
            with open(path, "rb") as f:
                require(f.read() == data, f"{name} was changed by a failed start")
        run_expecting(context, 1, "memory", "--kernel", kernel, "--memory", "1M")
        run_expecting(context, 1, "more than this host has", "--kernel", kernel, "--memory", "200T")
        run_expecting(context, 2, "1 to 64", "--kernel", kernel, "--cpus", "65")
        run_expecting(context, 2, "--image DIR or --kernel FILE")
        run_expecting(context, 1, "kvm", "--kernel", kernel, "--processor", "kvm")
        with machine.start() as guest:
            guest.expect(r"Linux version", 120)
            run_expecting(context, 1, "disk.vhdx", "--kernel", kernel, "--disk", machine.disk)
            guest.control("power-off")
            require(guest.wait(30) == 4, "a power cut has its own status")


def test_guests_that_go_astray(context):
    """Triple fault, garbage, endless loop: one report each, never a hang, never a crash of ours."""
    processor = ["--processor", context["processor"]]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "astray")
        for code in (b"\x0f\x01\x1d\x00\x00\x00\x00\xcc", b"\xff\xff\xff\xff", bytes([0x0F, 0x0B])):
            r = subprocess.run([context["bulkhead"], "run", *processor, "--kernel", tiny_kernel(path, code), "--serial", "none"],
                               capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            require(r.returncode == 3, f"{code}: status {r.returncode}: {r.stderr}")
            require("triple-faulted" in r.stderr and "RIP" in r.stderr, f"{code}: no report: {r.stderr}")
        # mov eax, 0xd0000000; jmp eax: where nothing is, no processor finds an instruction.
        nowhere = tiny_kernel(path, b"\xb8\x00\x00\x00\xd0\xff\xe0")
        r = subprocess.run([context["bulkhead"], "run", *processor, "--kernel", nowhere, "--serial", "none"],
                           capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        require(r.returncode == 3 and "cannot go on" in r.stderr and "RIP 0010:00000000d0000000" in r.stderr,
                f"no instruction: status {r.returncode}: {r.stderr}")
        with Guest(context["bulkhead"], [*processor, "--kernel", tiny_kernel(path, b"\xeb\xfe")]) as guest:
            def runs():
                counts = guest.control("status")["processors"][0]
                return counts["instructions"] + counts["exits"] > 0
            wait_for(runs, "the loop to run")
            guest.terminate()
            wait_for(lambda: "asked to shut down" in guest.stderr(), "the first signal to be told")
            guest.terminate()
            require(guest.wait(30) == 4, "a second signal cuts the power")


def corrupt_headers(data):
    data = bytearray(data)
    for at in (64 << 10, 128 << 10):
        data[at + 8:at + 16] = os.urandom(8)
    return bytes(data)


def test_power_cut_leaves_a_usable_disk(context):
    """kill -9 while the guest writes: the file opens again, and what was synced is there."""
    with Machine(context) as machine:
        with machine.start("--cpus", "2") as guest:
            guest.login(timeout=BOOT)
            guest.check("dd if=/dev/urandom of=/root/kept bs=1M count=8; sha256sum /root/kept > /root/kept.sum; sync")
            guest.send("sudo dd if=/dev/urandom of=/root/growing bs=64k oflag=direct\n")
            size = os.stat(machine.disk).st_blocks
            wait_for(lambda: os.stat(machine.disk).st_blocks > size + 8192, "the disk to grow")
            guest.process.kill()
            guest.process.wait()
        subprocess.run([machine.bulkhead, "disk", "check", machine.disk], check=True, capture_output=True)
        with machine.start("--cpus", "1") as guest:
            guest.login(timeout=BOOT)
            guest.check("sha256sum -c /root/kept.sum")
            shut_down(guest)
        check_disk_from_outside(machine)
