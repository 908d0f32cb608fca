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

from guest import shared_image
from test_debian import BOOT, Machine, require, shut_down

PACKAGES = ("luajit", "gcc", "libc6-dev", "stress-ng", "libstb-dev", "openssl")
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")


def long_image(context):
    """Debian with what is run here."""
    if "long_image" not in context:
        context["long_image"] = shared_image(context["bulkhead"], "test-image-long", PACKAGES)
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


# What the standards say of "abc": FIPS 180-4, FIPS 202, RFC 1321, RFC 7693.
ABC = {
    "md5": "900150983cd24fb0d6963f7d28e17f72",
    "sha1": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
              "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    "sha3-256": "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
    "blake2b512": "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
                  "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
}

# FIPS 197, appendix C: key 00 01 02 …, one block 00 11 22 …
AES = {16: "69c4e0d86a7b0430d8cdb78070b4c55a", 24: "dda97ca4864cdfe06eaf70a0ec0d7191", 32: "8ea2b7ca516745bfeafc49904b496089"}

INPUT = "/usr/lib/gcc/x86_64-linux-gnu/12/cc1"  # some 30 MB that nobody wrote for this
KEY = "".join(f"{i:02x}" for i in range(64))


def known_answers(guest):
    for digest, answer in ABC.items():
        said = guest.check(f"printf abc | openssl dgst -{digest} -r")
        require(said.split()[0] == answer, f"{digest} of abc is {said}, not {answer}")
    for size, answer in AES.items():
        block = "".join(f"\\{17 * i:03o}" for i in range(16))
        said = guest.check(f"printf '{block}' | openssl enc -aes-{8 * size}-ecb -nopad -K {KEY[:2 * size]} | od -An -tx1 | tr -d ' \\n'")
        require(said == answer, f"AES with {8 * size} bits makes {said}, not {answer}")


def speed_rates(text):
    """{what was measured: rates}, from the tables at the end of what `openssl speed` says."""
    rates = {}
    for line in text.splitlines():
        if match := re.match(r"^(\S.*?)\s+((?:[0-9.]+k\s*)+)$", line):
            rates[match.group(1).strip()] = [float(rate[:-1]) for rate in match.group(2).split()]
        elif match := re.match(r"^\s*(\S.*?)(?:\s+[0-9.]+s)+((?:\s+[0-9.]+)+)\s*$", line):
            rates[match.group(1).strip()] = [float(rate) for rate in match.group(2).split()]
    return rates


def test_long_openssl(context):
    """Known answers; each digest and cipher over a big input, and signatures, as on this host; and `openssl speed`."""
    make_keys = ("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out rsa.pem && openssl genpkey -algorithm ED25519 -out ed.pem && "
                 "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem && openssl genpkey -algorithm X25519 -out x.pem && "
                 "openssl pkey -in x.pem -pubout -out x.pub && openssl pkey -in ec.pem -pubout -out ec.pub")
    on_host(context, f"cd /programs && {make_keys} && echo done")
    with Both(context) as both:
        guest = both.guest
        known_answers(guest)
        digests = both.same("openssl list -digest-commands").split()
        require(len(digests) > 10, f"only these digests: {digests}")
        both.same(f"for d in {' '.join(digests)}; do openssl dgst -$d -r {INPUT}; done", 600)
        # A key and a vector that are too long are cut, and it says so.
        ciphers = [name for name in both.same("openssl enc -list | tr ' ' '\\n' | grep -- -").split() if "wrap" not in name]
        require(len(ciphers) > 50, f"only these ciphers: {ciphers}")
        both.same(f"head -c 500000 {INPUT} > /root/part; for c in {' '.join(ciphers)}; do echo $c; openssl enc $c -K {KEY} -iv {KEY[:32]} "
                  "-in /root/part -out /root/hidden 2> /root/why && sha256sum < /root/hidden && "
                  f"openssl enc -d $c -K {KEY} -iv {KEY[:32]} -in /root/hidden 2> /root/why | cmp - /root/part; done", 900)
        both.same(f"openssl dgst -sha256 -sign /programs/rsa.pem {INPUT} | sha256sum; "
                  "head -c 100000 /root/part > /root/few; openssl pkeyutl -sign -rawin -inkey /programs/ed.pem -in /root/few | sha256sum; "
                  "openssl pkeyutl -derive -inkey /programs/x.pem -peerkey /programs/x.pub | sha256sum; "
                  "openssl dgst -sha256 -sign /programs/ec.pem -out /root/signed /root/part && "
                  "openssl dgst -sha256 -verify /programs/ec.pub -signature /root/signed /root/part", 300)
        said = guest.check("openssl speed -seconds 1 -bytes 16384 md5 sha256 sha512 aes-256-cbc 2>&1 && "
                           "openssl speed -seconds 1 -bytes 16384 -evp aes-256-gcm 2>&1 && "
                           "openssl speed -seconds 1 -bytes 16384 -evp chacha20-poly1305 2>&1 && "
                           "openssl speed -seconds 1 rsa2048 ecdsap256 ecdhx25519 ed25519 2>&1", 600)
        rates = speed_rates(said)
        require(len(rates) == 10 and all(rate > 0 for row in rates.values() for rate in row), f"{rates} of\n{said[-3000:]}")
        require(not re.search("fail|(?<!W)error", said, re.IGNORECASE), said[-3000:])
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
          "--sigsuspend 2 --sigfpe 2 --sigsegv 2 --kill 2 --pkey 2")


def test_long_stress(context):
    with Both(context) as both:
        said = both.guest.check(f"stress-ng --verify --metrics-brief {STRESS} --timeout 60s 2>&1", 900)
        require("successful run completed" in said and "fail:" not in said, said[-3000:])
        shut_down(both.guest)
