#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Turns a fresh Debian into an image that is no one's yet. Runs inside it, when all packages are
# installed; the files for the guest lie beside this script.
set -eu
files=$(dirname "$0")/guest

install -D -m 755 "$files/first-boot" /usr/lib/bulkhead/first-boot
install -D -m 755 "$files/apply-seed" /usr/lib/bulkhead/apply-seed
install -D -m 644 "$files/bulkhead-first-boot.service" /usr/lib/systemd/system/bulkhead-first-boot.service
install -D -m 644 "$files/80-ethernet.network" /etc/systemd/network/80-ethernet.network

echo 'LABEL=bulkhead-root / ext4 errors=remount-ro 0 1' >/etc/fstab
echo debian >/etc/hostname
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >/etc/hosts

# Nobody can log in until a seed says who: root has no valid password, and ssh has no keys.
passwd --quiet --lock root

systemctl --quiet enable bulkhead-first-boot.service systemd-networkd.service systemd-resolved.service serial-getty@ttyS0.service
systemctl --quiet disable systemd-networkd-wait-online.service

# Name servers are the network's, not those of the machine that made the image.
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf

# What must differ from guest to guest is made on the first boot.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: >/etc/machine-id

# Options for the installation, not for the guest's own life.
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap

mkdir -p /var/lib/bulkhead
# shellcheck disable=SC2016 # the fields are dpkg's, not the shell's
dpkg-query -W -f '${Package} ${Version}\n' >/var/lib/bulkhead/packages
