#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# add-kernel.sh ROOT: a hook of mmdebstrap that puts Debian's cloud kernel into the tree, without what its
# package would do next (an initramfs, a boot loader): the lab is booted by -kernel alone.
set -eu
root=$1
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
work=$root/var/tmp/kernel
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')

mkdir -p "$work"
(cd "$work" && apt-get -q download "$package" >&2 && dpkg-deb -x linux-image-*.deb tree)
cp -a "$work/tree/boot/." "$root/boot/"
mkdir -p "$root/usr/lib/modules"
cp -a "$work/tree/lib/modules/." "$root/usr/lib/modules/"
rm -r "$work"
chroot "$root" depmod "$(basename "$root"/usr/lib/modules/*)"
mkdir -p "$root/lab"
