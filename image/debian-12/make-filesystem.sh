#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# make-filesystem.sh TAR DIR: unpack TAR and leave in DIR an ext4 file system (root.img, sparse) and what
# boots it (vmlinuz, initrd.img, packages). Runs as root, or as root of a user namespace.
set -eu
tar=$1 dir=$2
root=$dir/root

trap 'rm -rf "$root"' EXIT
mkdir "$root"
# Device nodes are devtmpfs's business, and a user namespace may not make them.
tar --extract --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' --file "$tar" --directory "$root"
rm -f "$tar"

cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$root"/boot/initrd.img-* "$dir/initrd.img"
cp "$root/var/lib/bulkhead/packages" "$dir/packages"

# Room for a first boot; the file system grows to its disk then. The image starts as zeros, so nothing
# needs to be zeroed again, here or in the guest.
used=$(du -sk "$root" | cut -f1)
truncate -s "$(((used * 5 / 4 / 1024 + 384) * 1024 * 1024))" "$dir/root.img"
mke2fs -q -F -t ext4 -L bulkhead-root -m 1 -E lazy_itable_init=0,assume_storage_prezeroed=1 -d "$root" "$dir/root.img"
