#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# make-filesystem.sh TAR DIR INIT: unpack TAR and leave in DIR an ext4 file system (root.img, sparse) whose
# /sbin/init is the file INIT, and its kernel (vmlinuz). Runs as root, or as root of a user namespace.
set -eu
tar=$1 dir=$2 init=$3
root=$dir/root

trap 'rm -rf "$root"' EXIT
mkdir "$root"
# Device nodes are devtmpfs's business, and a user namespace may not make them.
tar --extract --numeric-owner --exclude='./dev/*' --file "$tar" --directory "$root"
rm -f "$tar"
cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
rm -f "$root"/sbin/init
install -m 755 "$init" "$root/usr/sbin/init"

used=$(du -sk "$root" | cut -f1)
truncate -s "$((used * 5 / 4 / 1024 + 64))M" "$dir/root.img"
mke2fs -q -F -t ext4 -m 0 -O ^has_journal -E lazy_itable_init=0,assume_storage_prezeroed=1 -d "$root" "$dir/root.img"
