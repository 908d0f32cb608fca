# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages: built, clean, installed, upgraded under a running machine, removed, purged; and their units."""

import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time

from daemon import DaemonError, halting_kernel, require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "tests", "package")
UNUSED_DAYS = 30  # then a cached system is removed
DEBS = os.path.join(ROOT, "build", "package", "debs")


def run(*command, timeout=900, **more):
    r = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, **more)
    require(r.returncode == 0, f"{' '.join(command)[:200]}: status {r.returncode}:\n{(r.stdout + r.stderr)[-4000:]}")
    return r.stdout


def packages(context, revision=1):
    """The .deb files of a revision, without those of debug symbols; built once."""
    done = context.setdefault("debs", {})
    if revision not in done:
        output = f"{DEBS}-{revision}"
        run("scripts/package", "--revision", str(revision), "--output", output, cwd=ROOT, timeout=1800)
        done[revision] = sorted(f for f in glob.glob(output + "/*.deb") if "-dbgsym_" not in f)
        require(len(done[revision]) == 3, f"packages: {done[revision]}")
    return done[revision]


def depends(debs):
    """What they need beyond each other: the first of each group of alternatives."""
    names, own = set(), {os.path.basename(d).split("_")[0] for d in debs}
    for deb in debs:
        for group in run("dpkg-deb", "-f", deb, "Depends").replace("\n", " ").split(","):
            name = re.sub(r"[ (:|].*", "", group.strip())
            if name and name not in own:
                names.add(name)
    return sorted(names)


def cached(name, inputs, make):
    """A file that `make` writes, kept with a name of its inputs."""
    base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bulkhead")
    os.makedirs(base, exist_ok=True)
    path = os.path.join(base, f"{name}-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}")
    with open(os.path.join(base, name + ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            make(path + ".new")
            os.rename(path + ".new", path)
    os.utime(path)
    for other in glob.glob(os.path.join(base, name + "-*")):
        if time.time() - os.stat(other).st_mtime > UNUSED_DAYS * 86400:
            os.unlink(other)
    return path


def base_system(names):
    """A Debian with these packages, as a tar file."""
    return cached("package-base", "\n".join(names), lambda path: run(
        "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", "--include=" + ",".join(names),
        '--aptopt=Acquire::Retries "3"', '--aptopt=APT::Install-Recommends "false"', "bookworm", path))


def copy_debs(context, directory):
    for revision in (1, 2):
        os.makedirs(os.path.join(directory, str(revision)))
        for deb in packages(context, revision):
            shutil.copy(deb, os.path.join(directory, str(revision)))
    halting_kernel(os.path.join(directory, "kernel"))


def test_package_is_clean(context):
    debs = packages(context)
    r = subprocess.run(["lintian", "--fail-on", "error,warning", *debs], capture_output=True, text=True)
    require(r.returncode == 0, r.stdout + r.stderr)
    with open(os.path.join(ROOT, "scripts/dependencies"), encoding="utf-8") as f:
        wanted = set(re.findall(r"[a-z0-9.+-]+-dev\b", re.search(r"^build=\((.*?)\)", f.read(), re.DOTALL | re.MULTILINE)[1]))
    with open(os.path.join(ROOT, "packaging/debian/control"), encoding="utf-8") as f:
        missing = wanted - set(re.findall(r"[a-z0-9.+-]+-dev\b", f.read().split("Package:")[0]))
    # What only tests are linked to.
    missing -= {"libcmocka-dev", "libvhdi-dev", "libclang-rt-14-dev"}
    require(not missing, f"packaging/debian/control does not name {missing}")
    control = run("dpkg-deb", "-f", [d for d in debs if "/bulkhead_" in d][0], "Depends")
    require(all(name in control for name in ("libuv1", "libmicrohttpd12", "libc6")), f"dependencies: {control}")


def verify(arguments):
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *arguments], capture_output=True, text=True,
                       env=dict(os.environ, XDG_RUNTIME_DIR="/tmp"))
    require(r.returncode == 0 and "bulkhead" not in r.stdout + r.stderr, f"systemd-analyze verify: {r.returncode} {r.stdout}{r.stderr}")


def test_package_units(context):
    """systemd itself has nothing to say against the units, system's and user's."""
    with tempfile.TemporaryDirectory() as root:
        for deb in packages(context):
            run("dpkg-deb", "-x", deb, root)
        os.symlink("usr/bin", os.path.join(root, "bin"))
        for program in ("true", "mkdir", "sh"):  # of other packages
            shutil.copy(f"/bin/{program}", os.path.join(root, "usr/bin"))
        system = sorted(glob.glob(os.path.join(root, "lib/systemd/system/*")))
        require(len(system) == 4, f"units: {system}")
        verify(["--root", root, *map(os.path.basename, system)])
        # For users' units systemd looks at this host's programs.
        user = sorted(glob.glob(os.path.join(root, "usr/lib/systemd/user/*")))
        require(len(user) == 3, f"units: {user}")
        for unit in user:
            with open(unit, "r+", encoding="utf-8") as f:
                text = f.read()
                f.seek(0)
                f.write(text.replace("/usr/sbin/", root + "/usr/sbin/"))
        verify(["--user", *user])
        r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=65", "--root", root, "bulkhead.service"],
                           capture_output=True, text=True)
        require(r.returncode == 0, f"systemd-analyze security: {r.stdout}{r.stderr}")


def test_package_library(context):
    """A program of somebody else's is built with the -dev package and runs with the library."""
    with tempfile.TemporaryDirectory() as root:
        for deb in packages(context):
            run("dpkg-deb", "-x", deb, root)
        source = os.path.join(root, "p.c")
        with open(source, "w", encoding="ascii") as f:
            f.write('#include <disk/disk.h>\n#include <stdio.h>\nint main(int c, char **v) { struct error e = {0};\n'
                    'struct disk_create_options o = {.format = DISK_FORMAT_VHDX, .size = 1 << 30};\n'
                    'int r = disk_create(v[1], &o, &e); if (r) puts(e.text); return !!r; }\n')
        where = glob.glob(os.path.join(root, "usr/lib/*/pkgconfig"))[0]
        flags = run("pkg-config", f"--define-variable=prefix={root}/usr", "--cflags", "--libs", "libbulkhead-disk", env=dict(os.environ, PKG_CONFIG_PATH=where)).split()
        library = os.path.dirname(where)
        run("gcc", "-Wall", "-o", source[:-2], source, *flags)
        run(source[:-2], os.path.join(root, "d.vhdx"), env=dict(os.environ, LD_LIBRARY_PATH=library))
        require("vhdx" in run("qemu-img", "info", os.path.join(root, "d.vhdx")), "it made a VHDX")


def test_package_life(context):
    """Install, a machine, upgrade under it, remove, purge: in a Debian system of its own, without systemd."""
    if os.geteuid():
        raise context["skip"]("a Debian system of its own needs root")
    debs = packages(context)
    base = base_system([*depends(debs), "man-db"])
    with tempfile.TemporaryDirectory() as root:
        run("tar", "--extract", "--numeric-owner", "--exclude=./dev/*", "--file", base, "--directory", root)
        os.makedirs(os.path.join(root, "debs"))
        copy_debs(context, os.path.join(root, "debs"))
        shutil.copy(os.path.join(HERE, "inside.sh"), os.path.join(root, "debs"))
        # Whatever it starts ends with it.
        r = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec",
                            'mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/dev"; mount -t tmpfs tmpfs "$1/run"; '
                            'for n in null zero urandom; do touch "$1/dev/$n"; mount --bind "/dev/$n" "$1/dev/$n"; done; '
                            'exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 '
                            'sh /debs/inside.sh', "sh", root], capture_output=True, text=True, timeout=600)
        if r.returncode or "== done" not in r.stdout:
            raise DaemonError(f"status {r.returncode}:\n{r.stdout[-2000:]}{r.stderr[-4000:]}")
