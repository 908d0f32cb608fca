#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands in for bulkhead-worker, as an escaped guest would have it: it starts, holds its lock and serves its control socket, and what it
answers is nothing that anybody expects. LIAR_SEED says what, and how often it has been started."""

import fcntl
import json
import os
import random
import socket
import struct
import sys

KEYS = ("state", "disks", "adapters", "progress", "merging", "done", "total", "bytes", "pause_us", "controller", "lun", "address", "path", "chain",
        "mac", "port", "label", "addresses", "counters", "sent_frames", "sent_bytes", "reference_time_100ns", "scsi 0", "channel 0", "requests",
        "read_bytes", "guest", "heartbeat", "OSName", "FullyQualifiedDomainName", "parent", "child", "processors", "name", "uptime", "error", "code")
TEXTS = ("", "running", "paused", "saving", "off", "/etc/passwd", "../../precious", "vm.json", "disk.vhdx", "nat", "\u0000", "\n", "\x1b[2J\u009b",
         'x"} 1\nforged 1', "%s%n", "\U0001f600", "x" * 3000, "0:0", "00:15:5d:00:00:01")


def lie(rng, depth=0):
    kinds = [None, True, False, 0, 1, -1, 2 ** 63 - 1, -2 ** 63, 1e300, rng.choice(TEXTS)]
    if depth < 4:
        kinds += [[lie(rng, depth + 1) for _ in range(rng.randrange(4))], *[lies(rng, depth + 1)] * 3]
    return rng.choice(kinds)


def lies(rng, depth=0):
    return {rng.choice(KEYS): lie(rng, depth + 1) for _ in range(rng.randrange(12))}


def metering(rng, config):
    """What counts for an account, in its form."""
    remotes = [{"mac": rng.choice([a["mac"] for a in config.get("adapters", [])] + list(TEXTS)), "direction": rng.choice(["in", "out", lie(rng)]),
                "remote": rng.choice(["any", lie(rng)]), "bytes": lie(rng)} for _ in range(rng.randrange(4))]
    return {"run": rng.choice([lie(rng)] + [f"00000000-0000-0000-0000-00000000000{n}" for n in range(3)]), "remotes": rng.choice([remotes, lie(rng)]),
            **{part: rng.choice([lies(rng), {key: lie(rng) for key in ("operations", "normalized", "read_bytes", "latency_us", "sent_bytes", "size", "taken")}])
               for part in ("disk", "network", "allocation")}}


def answer(rng, config):
    """Bytes, or None: nothing."""
    way = rng.random()
    if way < 0.05:
        return None
    if way < 0.1:
        return rng.choice([b"\n", b"[]\n", b"{\n", b"\xff\xfe\n", b"[" * 100000 + b"\n", b'{"ok":true}' * 3 + b"\n", b"x" * (5 << 20)])
    if way < 0.2:
        return json.dumps({"ok": False, "error": lie(rng), "code": rng.choice(TEXTS)}).encode() + b"\n"
    told = {**lies(rng), "ok": True}
    # What is asked for most, in its form, so that it is believed as far as that goes.
    if rng.random() < 0.6:
        told["state"] = rng.choice(["running", "paused", "saving", "off"])
        told["disks"] = [{"path": rng.choice([d["path"] for d in config.get("disks", [])] + list(TEXTS)), "controller": lie(rng), "lun": lie(rng),
                          "chain": [rng.choice(TEXTS) for _ in range(rng.randrange(4))]} for _ in range(rng.randrange(4))]
        told["adapters"] = [{"mac": rng.choice([a["mac"] for a in config.get("adapters", [])] + list(TEXTS)), "port": rng.choice(TEXTS),
                             "label": lie(rng), "addresses": lie(rng), "counters": lies(rng)} for _ in range(rng.randrange(4))]
        told["metering"] = metering(rng, config)
        told["heartbeat"] = rng.choice(["ok", *TEXTS])
        told["guest"] = {rng.choice(["OSName", "OSVersion", *TEXTS]): rng.choice(["Debian", lie(rng), *TEXTS]) for _ in range(rng.randrange(60))}
    return json.dumps(told).encode() + b"\n"


def starts(directory):
    """How many there were."""
    path = os.path.join(directory, "starts")
    count = os.path.getsize(path) if os.path.exists(path) else 0
    with open(path, "ab") as f:
        f.write(b".")
    return count


def hold_lock(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())


def serve(connection, rng, config):
    """False: that was the end."""
    request = b""
    while b"\n" not in request:
        data, fds, _, _ = socket.recv_fds(connection, 65536, 64)
        for fd in fds:
            os.close(fd)
        if not data:
            return True
        request += data
    if b'"power-off"' in request:
        return False
    text = answer(rng, config)
    if text is not None:
        connection.settimeout(5)
        try:
            connection.sendall(text)
        except OSError:
            pass
    return True


def main():
    config = json.load(sys.stdin)
    directory = os.path.dirname(config["control"])
    rng = random.Random(f"{os.environ.get('LIAR_SEED', '1')} {starts(directory)}")
    hold_lock(config["lock"])
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(config["control"]):
        os.unlink(config["control"])
    listener.bind(config["control"])
    listener.listen(64)
    os.write(1, b'{"restoring":{"done":-1,"total":0}}\n' + json.dumps({"ok": True, "pid": rng.choice([1, -1, 2 ** 40])}).encode() + b"\n")
    os.close(1)
    going = True
    while going:
        connection, _ = listener.accept()
        with connection:
            going = serve(connection, rng, config)
    with open(config["result"], "w", encoding="utf-8") as f:
        told = {"version": 1, "result": lie(rng), "error": lie(rng), "cpu_us": lie(rng), "metering": rng.choice([lie(rng), json.dumps(metering(rng, config))])}
        f.write(rng.choice(["", "[]", json.dumps(told), '{"version":1,"result":"saved"}']))


if __name__ == "__main__":
    main()
