# SPDX-License-Identifier: GPL-2.0-or-later
"""A program on a terminal of its own."""

import os
import pty
import select
import time

from daemon import require


class Terminal:
    def __init__(self, command, environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.text = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, words, timeout=60):
        """Waits until it says these words; what was said up to them is returned and forgotten."""
        deadline = time.monotonic() + timeout
        while words not in self.text:
            require(select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0],
                    f"waited {timeout} s for {words!r}; it says {self.text[-2000:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            require(data or words in self.text, f"it ended without {words!r}: {self.text[-2000:]!r}")
            self.text += data.decode(errors="replace")
        end = self.text.index(words) + len(words)
        before, self.text = self.text[:end], self.text[end:]
        return before

    def status(self):
        """Waits for its end, reading what it still says."""
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status
