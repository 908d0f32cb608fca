# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be so before a request succeeds that by chance hardly ever does: machines with disks and checkpoints, saved, exported."""

import os
import re
import socket

from daemon import OBEYS, halting_kernel

BIG = 64 << 20  # what takes long enough to copy that it can be cancelled


class Ways:
    """Of each of many operations the requests that lead to it, the last of which is that one. Of a machine that nobody else is at."""
    def __init__(self, d, number, document):
        self.patient = [(method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"(\?.*)?")) for path, methods in document["paths"].items()
                        for method, o in methods.items() if any(p["name"] == "wait" for p in o.get("parameters", []))]
        self.d, self.name, self.count = d, f"own{number}", 0
        self.vm = f"/v1/vms/{self.name}"
        self.place = os.path.join(d.directory, self.name)
        os.mkdir(self.place)
        self.disk, self.big, self.medium = (os.path.join(self.place, n) for n in ("disk.vhdx", "big.raw", "medium.iso"))
        d.cli("disk", "create", self.disk, "16M")
        with open(self.medium, "wb") as f:
            f.truncate(1 << 20)
        self.obeys = halting_kernel(os.path.join(self.place, "obeys"), OBEYS)
        self.ways = {
            "applyCheckpoint": self.checkpoint() + [self.post("/checkpoints/c/apply")],
            "exportCheckpoint": self.checkpoint() + [self.post("/checkpoints/c/export", directory="{new}")],
            "renameCheckpoint": self.checkpoint() + [("PATCH", f"{self.vm}/checkpoints/c", {"name": "d"})],
            "deleteCheckpoint": self.checkpoint() + [("DELETE", f"{self.vm}/checkpoints/c", None)],
            "mergeCheckpoints": self.fresh() + [self.post("/merge")],
            "exportVm": self.fresh() + [self.post("/export", directory="{new}")],
            "cloneVm": self.fresh() + [self.post("/clone", name=self.name + "-clone")],
            "importVm": self.fresh() + [self.post("/export", directory="{new}"), ("POST", "/v1/vms/import", {"directory": f"{{new}}/{self.name}", "name": self.name + "-clone"})],
            "registerVm": self.fresh() + [self.post("/export", directory="{new}"), ("DELETE", self.vm, None),
                                          ("POST", "/v1/vms/register", {"directory": f"{{new}}/{self.name}"})],
            "cancelJob": self.fresh() + [self.post("/disks", path=self.big), self.post("/export", directory="{new}"), ("DELETE", "/v1/jobs/{job}", None)],
            "addDisk": self.fresh() + [("DELETE", f"{self.vm}/disks?path={self.disk}", None), self.post("/disks", path=self.disk)],
            "removeDisk": self.fresh() + [("DELETE", f"{self.vm}/disks?path={self.disk}", None)],
            "changeMedium": self.running() + [self.post("/disks", kind="dvd"), ("PATCH", f"{self.vm}/dvd-drives/0", {"medium": self.medium})],
            "removeDvdDrive": self.running() + [self.post("/disks", kind="dvd"), ("DELETE", f"{self.vm}/dvd-drives/0", None)],
            "discardSavedState": self.running() + [self.post("/save"), ("DELETE", f"{self.vm}/saved-state", None)],
            "saveVm": self.running() + [self.post("/save")],
            "pauseVm": self.running() + [self.post("/pause")],
            "resumeVm": self.running() + [self.post("/pause"), self.post("/resume")],
            "resetVm": self.running() + [self.post("/reset")],
            "shutDownVm": self.fresh() + [("PATCH", self.vm, {"boot": {"kernel": self.obeys}}), self.post("/start"), self.post("/shut-down")],
            "turnOffVm": self.running() + [self.post("/turn-off")],
            "inspectVm": self.running() + [("GET", f"{self.vm}/inspect", None)],
            "createVm": self.fresh(),
            "startVm": self.running(),
            "deleteVm": self.fresh() + [("DELETE", self.vm, None)],
            "createCheckpoint": self.checkpoint(),
            "addAdapter": self.fresh() + [self.post("/adapters", port="none")],
            "setAdapter": self.fresh() + [self.post("/adapters", port="none"), ("PATCH", f"{self.vm}/adapters/0", {"port": "nat"})],
            "removeAdapter": self.fresh() + [self.post("/adapters", port="none"), ("DELETE", f"{self.vm}/adapters/0", None)],
            "removeToken": [("POST", "/v1/tokens", {"name": self.name, "role": "viewer"}), ("DELETE", f"/v1/tokens/{self.name}", None)],
            "deleteImage": [("POST", "/v1/images", {"name": self.name, "directory": "{image}"}), ("DELETE", f"/v1/images/{self.name}", None)],
            "addImage": [("DELETE", f"/v1/images/{self.name}", None), ("POST", "/v1/images", {"name": self.name, "directory": "{image}"})],
        }

    def post(self, where, **body):
        return ("POST", self.vm + where, body or None)

    def fresh(self):
        """Whatever it was, it is off and as it was made."""
        clone = self.vm + "-clone"
        return [("POST", clone + "/turn-off", None), ("DELETE", clone, None), self.post("/turn-off"), ("DELETE", self.vm, None),
                ("POST", "/v1/vms", {"name": self.name, "memory": 64 << 20, "boot": {"kernel": self.d.kernel}, "processors": {"kind": "soft"},
                                     "disks": [{"path": self.disk}], "adapters": []})]

    def running(self):
        return self.fresh() + [self.post("/start")]

    def checkpoint(self):
        return self.fresh() + [self.post("/checkpoints", name="c")]

    def fill(self, thing):
        """In place of what is named in braces stands what it is by now."""
        if isinstance(thing, dict):
            return {k: self.fill(v) for k, v in thing.items()}
        if not isinstance(thing, str):
            return thing
        for name, value in (("{new}", f"{self.place}/{self.count}"), ("{job}", str(self.job)), ("{image}", os.path.join(self.d.directory, "image"))):
            thing = thing.replace(name, value)
        return thing

    def press(self):
        """A key at the machine's console, for a guest that does as it is told by that."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.d.ok("GET", self.vm)["console"])
            s.sendall(b"x")

    def go(self, operation, ask):
        """`ask(method, path, body)` gives status and answer. True: the operation succeeded, and what it began did."""
        self.count += 1
        os.makedirs(f"{self.place}/{self.count}", exist_ok=True)
        self.job = 0
        steps = self.ways[operation]
        if operation == "cancelJob" and not os.path.exists(self.big):
            with open(self.big, "wb") as f:
                f.write(os.urandom(BIG))
        status, answer = 0, None
        for i, (method, path, body) in enumerate(steps):
            # What is to be cancelled is not waited for, nor is a guest before it is told to go.
            later = (operation == "cancelJob" and i >= len(steps) - 2) or (operation == "shutDownVm" and i == len(steps) - 1)
            waits = not later and any(method == m and p.fullmatch(path) for m, p in self.patient)
            status, answer = ask(method, self.fill(path) + (("&" if "?" in path else "?") + "wait=60" if waits else ""), self.fill(body))
            if status == 202:
                self.job = answer["id"]
        if not 200 <= status < 300:
            return False
        if operation == "shutDownVm":
            self.press()
        if operation in ("cancelJob", "shutDownVm"):
            answer = ask("GET", f"/v1/jobs/{self.job}?wait=60", None)[1]
            return answer["state"] == ("cancelled" if operation == "cancelJob" else "done")
        return status != 202 or answer["state"] == "done"
