# SPDX-License-Identifier: GPL-2.0-or-later
"""The units under a real systemd: in Debian, which runs as a guest."""

import json
import os
import subprocess
import tempfile

from daemon import DaemonError, require
from guest import Guest, GuestError, shared_image, tiny_kernel
from test_package import copy_debs, depends, packages

GROUPS = "/sys/fs/cgroup/system.slice/bulkhead-workers.service"
SPINS = b"\xeb\xfe"
TOUCHES_62_MIB = (b"\xbf\x00\x00\x20\x00"  # mov edi, 2 MiB
                  b"\x89\x3f\x81\xc7\x00\x10\x00\x00"  # again: mov [edi], edi; add edi, 4096
                  b"\x81\xff\x00\x00\xe0\x03\x72\xf0"  # cmp edi, 62 MiB; jb again
                  b"\xfa\xf4\xeb\xfd")  # cli; hlt
ANSWERS = (b"\xbb\x41\x00\x00\x00"  # mov ebx, 'A'
           b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xfb"  # next: mov dx, 0x3fd; again: in al, dx; test al, 1; jz again
           b"\x66\xba\xf8\x03\xec\x88\xd8\xee\x43\xeb\xec")  # mov dx, 0x3f8; in al, dx; mov al, bl; out dx, al; inc ebx; jmp next


def test_systemd_life(context):
    """Socket activation, a machine, an upgrade under it, the manager's death, the host's shutdown and the next boot, over which a saved guest goes on."""
    debs = packages(context)
    # With what the packages depend on, and what switches need.
    image = shared_image(context["bulkhead"], "package-image", [*depends(debs), "openvswitch-switch", "iputils-ping"])
    with tempfile.TemporaryDirectory() as directory:
        copy_debs(context, os.path.join(directory, "debs"))
        for name, code in (("spins", SPINS), ("touches", TOUCHES_62_MIB), ("answers", ANSWERS)):
            tiny_kernel(os.path.join(directory, "debs", name), code)
        seed, disk, copies = (os.path.join(directory, name) for name in ("seed.iso", "root.avhdx", "debs.img"))
        size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(os.path.join(directory, "debs")) for f in files)
        for command in (["truncate", "-s", str(size * 2 + (16 << 20)), copies],
                        ["mke2fs", "-q", "-F", "-L", "debs", "-t", "ext4", "-d", os.path.join(directory, "debs"), copies],
                        [context["bulkhead"], "image", "seed", seed, "--hostname", "host", "--user", "user", "--password", "bulkhead"],
                        [context["bulkhead"], "disk", "create", disk, "--parent", os.path.join(image, "disk.vhdx")]):
            r = subprocess.run(command, capture_output=True, text=True)
            require(r.returncode == 0, f"{command}: {r.stderr}")
        with open(os.path.join(image, "image.json"), encoding="utf-8") as f:
            append = json.load(f)["append"]
        arguments = ["--kernel", os.path.join(image, "vmlinuz"), "--initrd", os.path.join(image, "initrd.img"), "--append", append, "--disk",
                     disk, "--disk", copies + ",ro", "--dvd", seed, "--memory", "1G", "--cpus", "2"]
        try:
            with Guest(context["bulkhead"], arguments, name="host") as guest:
                first_boot(guest)
            with Guest(context["bulkhead"], arguments, name="host") as guest:
                second_boot(guest)
        except GuestError as e:
            raise DaemonError(str(e)) from None


def worker(guest):
    return guest.check("bulkhead vm show web --json | sed -n 's/^ *\"pid\": \\([0-9]*\\).*/\\1/p'")


def first_boot(guest):
    guest.login(timeout=600)
    guest.check("mkdir /debs && mount -o ro LABEL=debs /debs")
    guest.check("dpkg -i /debs/1/*.deb", 600)
    require(guest.check("systemctl is-active bulkhead.socket bulkhead.service bulkhead-workers.service bulkhead-machines.service").split()
            == ["active"] * 4, "all units are up")
    require("bulkhead" in guest.check("stat -c '%G %a' /run/bulkhead/api") and guest.check("stat -c %a /run/bulkhead/api") == "660", "the group's socket")
    # The first who connects starts it.
    guest.check("systemctl stop bulkhead.service")
    guest.check("cp /debs/kernel /var/lib/bulkhead/kernel")
    guest.check("bulkhead vm create web --kernel /var/lib/bulkhead/kernel --memory 64M --processor soft --start", 300)
    before = worker(guest)
    group = guest.check(f"cat /proc/{before}/cgroup")
    require("/bulkhead-workers.service/vm-" in group, f"its control group: {group}")
    log = guest.check("cat /var/lib/bulkhead/machines/web/worker.log || true")
    require("sandbox" not in log, f"the service takes nothing away that a worker's sandbox needs: {log}")
    guest.check("dpkg -i /debs/2/*.deb", 600)
    require(worker(guest) == before, "the machine outlived the upgrade and was taken over")
    guest.check("systemctl kill -s KILL --kill-who=main bulkhead.service")
    require("running" in guest.check("until bulkhead vm list 2>/dev/null; do sleep 0.1; done"), "and the manager's death")
    require(worker(guest) == before, "it is the same worker")
    guest.check("systemctl restart bulkhead.service")
    require(worker(guest) == before, "and a restart")
    status, said = guest.run("dpkg -r bulkhead", 300)
    require(status != 0 and "shut them down first" in said, f"it is not removed while a machine runs: {said}")
    limits(guest)
    switches(guest)
    guest.check("bulkhead vm set web --automatic-stop turn-off --automatic-start if-was-running")
    guest.check("cp /debs/answers /var/lib/bulkhead/answers")
    guest.check("bulkhead vm create kept --kernel /var/lib/bulkhead/answers --memory 64M --processor soft --automatic-stop save --start", 120)
    require(answer(guest) + answer(guest) == "AB", "it counts what it is told")
    # The host's shutdown stops the machine in good order.
    guest.terminate()
    status = guest.wait(300)
    require(status == 0, f"the host went down with {status}: {guest.stderr()}")


def limits(guest):
    """What a machine may take, as the kernel says and as it takes."""
    guest.check("bulkhead vm create busy --kernel /debs/spins --memory 64M --processor soft --network none")
    guest.check("bulkhead vm limits busy --processor-weight 250 --processor-maximum 20 --memory-extra 64M")
    guest.check("bulkhead vm start busy", 120)
    group = f"{GROUPS}/vm-{identifier(guest, 'busy')}"
    told = guest.check(f"cd {group} && cat cpu.weight cpu.max memory.max").split("\n")
    require(told == ["250", "20000 100000", str(128 << 20)], f"what is in force: {told}")
    require("limits_problem" not in guest.check("bulkhead vm show busy --json"), "all of it is")
    used, passed = busy(guest, group, 30)
    require(0.1 * passed < used < 0.25 * passed, f"{used} us of processor time in {passed} us, where a fifth may be")
    guest.check("bulkhead vm limits busy --processor-maximum 100")
    require(guest.check(f"cat {group}/cpu.max") == "max 100000", "changed while it runs")
    # From now on it takes what there is.
    guest.check(f"a=$(sed -n s/^usage_usec.//p {group}/cpu.stat) b=$(date +%s%N); until sleep 0.5; c=$(sed -n s/^usage_usec.//p {group}/cpu.stat) "
                "d=$(date +%s%N); [ $((3000 * (c - a))) -gt $((d - b)) ]; do a=$c b=$d; done", 120)
    guest.check(f"bulkhead vm turn-off busy && bulkhead vm delete busy --force && test ! -e {group}", 60)
    guest.check("bulkhead vm create greedy --kernel /debs/touches --memory 64M --processor soft --network none")
    guest.check("bulkhead vm limits greedy --memory-extra 1M")
    guest.run("bulkhead vm start greedy", 120)
    guest.check("until [ \"$(bulkhead vm list --json | grep -c '\"state\": \"off\"')\" = 1 ]; do sleep 0.2; done", 120)
    events = guest.check("bulkhead event list greedy")
    require("limits.memory_extra" in events, f"why it ended: {events}")
    guest.check("bulkhead vm delete greedy --force")


def busy(guest, group, periods):
    """Processor time and time, both in us, in so many periods in which the group was held back."""
    words = guest.check(f"cd {group}; s() {{ sed -n s/^$1.//p cpu.stat; }}; a=$(s usage_usec) b=$(date +%s%N) e=$(($(s nr_throttled) + {periods})); "
                        "until [ $(s nr_throttled) -ge $e ]; do sleep 0.1; done; echo $(($(s usage_usec) - a)) $((($(date +%s%N) - b) / 1000))", 120).split()
    return int(words[0]), int(words[1])


def identifier(guest, name):
    return guest.check(f"bulkhead vm show {name} --json | sed -n 's/^ *\"id\": \"\\([0-9a-f-]*\\)\".*/\\1/p' | head -n 1")


def switches(guest):
    """With an Open vSwitch that the manager starts, by what its unit leaves it: frames pass, and nothing is left."""
    # The image's networkd takes all that is Ethernet for its own, and addresses off it.
    guest.check("systemctl mask --quiet --runtime --now systemd-networkd.socket systemd-networkd.service && systemctl stop openvswitch-switch.service && mkdir -p /etc/bulkhead && "
                "echo '{\"version\": 1, \"open_vswitch\": \"own\"}' >/etc/bulkhead/host.json && systemctl restart bulkhead.service", 120)
    guest.check("ip netns add far && ip link add near type veth peer name eth0 netns far && ip -n far link set eth0 up && "
                "ip -n far address add 192.0.2.1/24 dev eth0 && ip link set near up && ip address add 192.0.2.2/24 dev near")
    links = guest.check("ip -o link | cut -d: -f2")
    guest.check("bulkhead switch create out --type external --adapter near", 120)
    status, said = guest.run("for i in $(seq 30); do ping -n -q -c 1 -W 1 -I bs1 192.0.2.1 >/dev/null && exit; done; ip address; bulkhead switch show out; "
                             "journalctl -n 30 -u bulkhead.service --no-pager; exit 1", 120)
    require(status == 0, f"no frame passes: {said}")
    guest.check("bulkhead vm create talks --kernel /debs/kernel --memory 64M --processor soft --network switch:out --start", 120)
    guest.check("ip -o link | grep -q ' bp'")
    guest.check("bulkhead vm turn-off talks && bulkhead vm delete talks --force", 60)
    guest.check("bulkhead switch delete out", 120)
    require(guest.check("ip -o link | cut -d: -f2") == links, "interfaces are left")
    guest.check("ping -n -c 1 -W 5 -I near 192.0.2.1 && ! pgrep ovs && ip netns delete far && rm -r /etc/bulkhead", 60)


def answer(guest):
    """What the machine that is kept says when it is told something: the next letter."""
    return guest.check("rm -f /tmp/said; printf x | bulkhead vm console kept >/tmp/said & until [ -s /tmp/said ]; do sleep 0.1; done; kill $!; cat /tmp/said", 120)


def second_boot(guest):
    guest.login(timeout=600)
    guest.check("until [ \"$(bulkhead vm list --json | grep -c '\"state\": \"running\"')\" = 2 ]; do sleep 0.2; done", 120)
    # Its state is of the boot before: it counts on.
    events = guest.check("bulkhead event list kept")
    require(answer(guest) == "C" and "saved" in events, f"it was booted anew: {events}")
    require("is deleted" in guest.check("bulkhead vm turn-off kept && bulkhead vm delete kept --force && rm /var/lib/bulkhead/answers", 120), "the kept one")
    events = guest.check("bulkhead event list web")
    require("the power was cut" in events and "killed or crashed" not in events, f"how it ended: {events}")
    guest.check("bulkhead host stop-machines", 200)
    # What the user made stays, and is named.
    said = guest.check("dpkg -P bulkhead", 300)
    require("/var/lib/bulkhead/machines/web stays" in said and "/var/lib/bulkhead/kernel stays" in said, f"what it says: {said}")
    nothing_runs(guest)
    guest.check("mkdir -p /debs && mount -o ro LABEL=debs /debs && dpkg -i /debs/2/*.deb", 600)
    # What was stopped with the host starts with the manager that comes back.
    guest.check("until bulkhead vm list | grep -q 'web *running'; do sleep 0.2; done; bulkhead vm turn-off web", 120)
    guest.check("bulkhead vm delete web --force && rm /var/lib/bulkhead/kernel")
    said = guest.check("dpkg -P bulkhead libbulkhead-disk-dev libbulkhead-disk0", 300)
    nothing_runs(guest)
    # The guest is an image of ours, whose first boot has its notes there.
    stays = {line.split()[1] for line in said.split("\n") if " stays: " in line}
    require(stays == {f"/var/lib/bulkhead/{name}" for name in ("first-boot-done", "packages", "seed-applied")}, f"what it says: {said}")
    left = guest.check("find / -xdev -name '*bulkhead*' -not -path '*/bulkhead-first-boot.service' -not -path /var/lib/bulkhead "
                       "-not -path /usr/lib/bulkhead -not -name 90-bulkhead-seed -not -path '/debs/*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*'")
    require(not left, f"purging left: {left}")
    guest.terminate()
    require(guest.wait(300) == 0, "the end")


def nothing_runs(guest):
    units = guest.check("systemctl list-units --all --plain --no-legend 'bulkhead*' | grep -v bulkhead-first-boot || true")
    processes = guest.check("ls -l /proc/[0-9]*/exe 2>/dev/null | grep bulkhead || true")
    places = guest.run(f"ls -d {GROUPS} {GROUPS}/* /run/bulkhead 2>/dev/null")[1]
    require(not units and not processes and not places, f"what is left running: {units} {processes} {places}")
