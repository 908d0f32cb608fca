#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The life of the package in a Debian system with no systemd running: /debs/1 is installed, /debs/2 a higher version.
set -eu

list() {
    find / -xdev \( -path /proc -o -path /sys -o -path /debs -o -path /tmp -o -path /var/log -o -path /var/cache/ldconfig \
        -o -path /var/lib/dpkg -o -path /dev \) -prune -o -print | sort
}

say() { echo "== $*"; }

fail() {
    echo "FAILED: $*" >&2
    cat /tmp/daemon.log >&2
    exit 1
}

start_daemon() {
    bulkheadd --verbose >>/tmp/daemon.log 2>&1 &
    daemon=$!
    # It answers, or has ended.
    while ! bulkhead host show >/dev/null 2>&1; do
        kill -0 $daemon 2>/dev/null || fail "the daemon has ended"
    done
}

stop_daemon() {
    kill $daemon
    wait $daemon || fail "the daemon ended with $?"
}

worker() { bulkhead vm show web --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p'; }

list >/tmp/before
say install
dpkg -i /debs/1/*.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -i"; }
getent group bulkhead >/dev/null || fail "there is no group bulkhead"
man -w bulkhead-vm vm.json bulkheadd >/dev/null || fail "there are no manual pages"

say a machine
start_daemon
bulkhead vm create web --kernel /debs/kernel --memory 64M --processor soft --start
before=$(worker)
[ -n "$before" ] || fail "it has no worker"
! dpkg -r bulkhead >/tmp/dpkg.log 2>&1 || fail "the package was removed while a machine runs"
grep -q "shut them down first" /tmp/dpkg.log || fail "it is not said why"
dpkg-query -W -f '${Status}' bulkhead | grep -q 'ok installed' || fail "the refused removal left something"

say upgrade
dpkg -i /debs/2/*.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "the upgrade"; }
dpkg-query -W bulkhead | grep -q -- '-2$' || fail "it is not the new version"
kill -0 "$before" || fail "the worker did not outlive the upgrade"
stop_daemon
start_daemon
[ "$(worker)" = "$before" ] || fail "the new daemon did not take the machine over"
bulkhead vm list | grep -q 'web *running' || fail "it does not run"
case $(readlink "/proc/$before/exe") in *deleted*) ;; *) fail "the worker is not the one of before the upgrade" ;; esac
bulkhead vm pause web
bulkhead vm resume web
bulkhead vm turn-off web
bulkhead vm start web
case $(readlink "/proc/$(worker)/exe") in /usr/libexec/bulkhead-worker) ;; *) fail "a new start is not of the new version" ;; esac
bulkhead vm turn-off web
stop_daemon

say remove and purge
dpkg -P bulkhead >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "purge"; }
grep -q "/var/lib/bulkhead/machines/.* stays" /tmp/dpkg.log || fail "it is not said that machines stay"
[ -f /var/lib/bulkhead/machines/*/vm.json ] || fail "purging took a machine"
[ ! -e /usr/sbin/bulkheadd ] || fail "the daemon is still there"
dpkg -i /debs/2/*.deb >/tmp/dpkg.log 2>&1
# With what it makes for HTTPS.
mkdir /etc/bulkhead
echo '{"version": 1, "https": {"listen": "127.0.0.1:0"}}' >/etc/bulkhead/host.json
start_daemon
rm -r /etc/bulkhead
[ -f /var/lib/bulkhead/tls-key.pem ] || fail "it has made no key for HTTPS"
bulkhead vm list | grep -q 'web *off' || fail "the machine is not there again"
bulkhead vm delete web --force
stop_daemon
dpkg -P bulkhead libbulkhead-disk-dev libbulkhead-disk0 >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "purge of all"; }
list >/tmp/after
# What the tools of the system keep for themselves: group files, caches of shared libraries and of manual pages.
diff /tmp/before /tmp/after | grep '^[<>]' | grep -v -e ' /etc/group' -e ' /etc/gshadow' -e ' /etc/ld.so.cache' -e ' /var/cache/man' \
    -e ' /etc/.pwd.lock' >/tmp/left || true
[ ! -s /tmp/left ] || { cat /tmp/left; fail "purging left files"; }
say done
