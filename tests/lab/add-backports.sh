#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# add-backports.sh ROOT: a hook of mmdebstrap that adds Debian's backports to where packages come from.
set -eu
list=$1/etc/apt/sources.list

sed -n 's/ bookworm main/ bookworm-backports main/p' "$list" | head -n 1 >"$list.backports"
if ! [ -s "$list.backports" ]; then
    echo "add-backports: $list has no line for bookworm main" >&2
    exit 1
fi
cat "$list.backports" >>"$list"
rm "$list.backports"
