#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# system.sh DIRECTORY PROGRAM: boots systemd, as this root file system has it, in name spaces of its own, but for the network's, and has it run
# PROGRAM as a unit; ends when that has. What the system writes is in DIRECTORY, as are PROGRAM's words (said).
set -eu
directory=$1 program=$2
root=$directory/root

mkdir -p "$directory/upper" "$directory/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" "$root"
trap 'umount -l "$root"' EXIT
cat >"$root/etc/systemd/system/lab.service" <<END
[Unit]
Wants=openvswitch-switch.service
After=openvswitch-switch.service
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
Environment=TMPDIR=/var/tmp
ExecStart=/usr/bin/python3 $program
StandardOutput=file:$directory/said
StandardError=inherit
END
mkdir -p "$root/run" "$root/lab"
# What a container has: it looks after no hardware.
unshare --mount --pid --fork --kill-child sh -euc '
    cd "$1"
    mount --make-rprivate /
    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount --rbind /dev dev
    mount --bind /lab lab
    mount --bind /var/tmp var/tmp
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    pivot_root . mnt
    umount -l mnt
    exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd --unit=lab.service
' sh "$root"
