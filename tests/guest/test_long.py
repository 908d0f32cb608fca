# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that lean on the processor, in a Debian guest: cryptography, a compiler that writes code as it goes, a C compiler.

What a command prints in the guest must be what it prints on this host, run by the same binaries: a copy of the guest's file
system is the root of its process. A stage of its own (`./test long`), since it takes minutes.
"""

import os
import re
import shutil
import subprocess
import tempfile

from test_debian import BOOT, Machine, require, shut_down

PACKAGES = ("luajit", "gcc", "libc6-dev", "stress-ng", "libstb-dev")
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")


def long_image(context):
    """Debian with what is run here."""
    if "long_image" not in context:
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        directory = os.path.join(cache, "bulkhead", "test-image-long")
        shutil.rmtree(directory, ignore_errors=True)
        include = [word for package in PACKAGES for word in ("--include", package)]
        subprocess.run([context["bulkhead"], "image", "build", "debian-12", directory, *include], check=True,
                       capture_output=True, text=True)
        context["long_image"] = directory
    return context["long_image"]


def host_tree(context):
    """The guest's /usr and /etc in a directory of this host, and the programs of this stage in /programs."""
    if "long_tree" in context:
        return context["long_tree"].name
    context["long_tree"] = tempfile.TemporaryDirectory(prefix="bulkhead-long-")
    tree = context["long_tree"].name
    raw = os.path.join(tree, "disk.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", os.path.join(long_image(context), "disk.vhdx"), raw], check=True)
    # It cannot give files to other users when it is not root; that is no error to it.
    subprocess.run(["debugfs", "-R", f"rdump /usr /etc {tree}", raw], check=True, capture_output=True)
    os.unlink(raw)
    for name in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{name}", os.path.join(tree, name))
    for name in ("tmp", "root", "dev"):
        os.mkdir(os.path.join(tree, name))
    shutil.copytree(PROGRAMS, os.path.join(tree, "programs"))
    return tree


def on_host(context, command):
    tree = host_tree(context)
    enter = ["chroot", tree] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot", tree]
    r = subprocess.run([*enter, "/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})
    require(r.returncode == 0, f"{command!r} on this host ended with {r.returncode}:\n{r.stdout[-3000:]}")
    return r.stdout.strip()


class Both:
    """A guest with two processors and the tree above; /programs is the same in both, /root is for what is made."""

    def __init__(self, context):
        self.context = context
        self.machine = Machine({**context, "image": long_image(context)})
        raw = self.machine.path("programs.raw")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "programs", "-d", os.path.join(host_tree(context), "programs"), raw, "16M"],
                       check=True, capture_output=True)
        self.guest = self.machine.start("--cpus", "2", "--memory", "2G", "--disk", raw)

    def __enter__(self):
        try:
            self.guest.login(timeout=BOOT)
            self.guest.check("mkdir /programs && mount -o ro LABEL=programs /programs")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.guest.close()
        self.machine.__exit__()

    def same(self, command, timeout=300):
        """Run in both; what it prints must be the same, and is returned."""
        expected = on_host(self.context, command)
        found = self.guest.check(command, timeout)
        require(found == expected, f"{command!r} prints\n{found[-2000:]}\nin the guest, and on this host\n{expected[-2000:]}")
        require(expected, f"{command!r} prints nothing")
        return found


# --- cryptography -----------------------------------------------------------------------------------------

def test_long_kernel_cryptography(context):
    """The kernel's own known answers, with each of its modules of assembly code, at level 0."""
    with Both(context) as both:
        guest = both.guest
        modules = guest.check("cd /lib/modules/$(uname -r)/kernel && find arch/x86/crypto crypto -name \\*.ko | sed s,.*/,,\\;s,.ko$,,").split()
        for module in modules:
            if module not in ("tcrypt", "crypto_user"):
                guest.run(f"modprobe {module}", 300)  # some are for processors that have more
        # Each algorithm has a paragraph.
        tested = [dict(re.findall(r"^(\w+)\s*: (.+)$", paragraph, re.MULTILINE)) for paragraph in
                  guest.check("cat /proc/crypto").split("\n\n")]
        require(len(tested) > 40, f"only {len(tested)} algorithms")
        bad = [t["driver"] for t in tested if t.get("selftest") != "passed"]
        require(not bad, f"these did not pass: {bad}")
        log = guest.check("dmesg | grep alg: || true")
        require("fail" not in log, f"the kernel says:\n{log}")
        drivers = {t["driver"] for t in tested}
        require({"sha256-avx2", "aes-aesni"} & drivers, f"no assembly code among {sorted(drivers)}")
        shut_down(guest)


# --- a compiler that writes code as it goes ---------------------------------------------------------------

def test_long_luajit(context):
    """What gets hot is compiled, and thrown away each round, so that code is written over and over."""
    with Both(context) as both:
        interpreted = both.same("luajit -joff /programs/program.lua 1", 600)
        # The Computer Language Benchmarks Game tells the first three, the fourth is the number of primes below 100000.
        require(interpreted.startswith("1616 22 1.274219991 9592 "), f"LuaJIT's interpreter says {interpreted}")
        compiled = both.same("luajit /programs/program.lua 20", 600).split("\n")
        require(len(compiled) == 20 and set(compiled) == {interpreted}, f"compiled {sorted(set(compiled))}, interpreted {interpreted}")
        shut_down(both.guest)


# --- a C compiler -----------------------------------------------------------------------------------------

def test_long_gcc(context):
    """28000 lines of C in one unit: the same object and the same program; and what that does is the same too."""
    with Both(context) as both:
        for level in ("-O0", "-O2"):
            both.same(f"cd /root && gcc {level} -w -c /programs/libraries.c -o libraries.o && sha256sum libraries.o", 1800)
            both.same(f"cd /root && gcc {level} /programs/pictures.c libraries.o -lm -o pictures && sha256sum pictures", 300)
            require(both.same("/root/pictures", 600).count("unpacked") == 12, "some pictures are missing")
        shut_down(both.guest)


# --- stress-ng --------------------------------------------------------------------------------------------

STRESS = ("--cpu 2 --cpu-method all --vm 2 --vm-bytes 64M --vm-method all --matrix 2 --switch 2 --fork 2 --futex 2 --sigpending 2 "
          "--sigsuspend 2 --sigfpe 2 --sigsegv 2 --kill 2")


def test_long_stress(context):
    with Both(context) as both:
        said = both.guest.check(f"stress-ng --verify --metrics-brief {STRESS} --timeout 60s 2>&1", 900)
        require("successful run completed" in said and "fail:" not in said, said[-3000:])
        shut_down(both.guest)
