# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual pages and completion: made from the program's tables, and right."""

import glob
import json
import os
import pty
import re
import select
import subprocess
import time

from daemon import Daemon, require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def pages(context):
    found = sorted(glob.glob(os.path.join(context["build"], "packaging", "*.[158]")))
    require(len(found) >= 10, f"pages: {found}")
    return found


def test_manual_pages_are_clean(context):
    for page in pages(context):
        lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True)
        require(lint.returncode == 0 and not lint.stdout, f"mandoc: {lint.stdout}{lint.stderr}")
        man = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True, env=dict(os.environ, LC_ALL="C.UTF-8"))
        require(man.returncode == 0 and not man.stderr, f"man {page}: {man.stderr}")


def test_manual_tells_all_options(context):
    """What getopt takes is what help, manual and completion tell."""
    told = ""
    for page in pages(context):
        with open(page, encoding="utf-8") as f:
            told += f.read().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    taken = set()
    for source in glob.glob(os.path.join(ROOT, "cli", "*.c")) + glob.glob(os.path.join(ROOT, "cli", "*.h")) + [os.path.join(ROOT, "vmms/main.c")]:
        with open(source, encoding="utf-8") as f:
            taken |= set(re.findall(r'\{?"([a-z-]+)",\s*(?:no|required)_argument', f.read()))
    require(len(taken) > 40, f"options found: {taken}")
    missing = {o for o in taken if not re.search(rf"--{o}(?![a-z-])", told)}
    require(not missing, f"options that no page tells: {missing}")


def test_manual_every_help_is_enough(context):
    """Each verb tells its usage, and no option that help names is unknown to it."""
    bulkhead = os.path.join(context["build"], "cli", "bulkhead")

    def run(*words):
        return subprocess.run([bulkhead, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env=dict(os.environ, BULKHEAD_SOCKET="/nonexistent"))
    with open(os.path.join(context["build"], "packaging", "bulkhead"), encoding="utf-8") as f:
        table = re.search(r"_bulkhead_options\(\) \{(.*?)\n\}", f.read(), re.DOTALL)[1]
    verbs = re.findall(r"'([a-z-]+(?: [a-z-]+)?)'\) echo '([^']*)'", table)
    require(len(verbs) > 30, f"verbs: {verbs}")
    for where, options in verbs:
        r = run(*where.split(), "--help")
        require(r.returncode == 0 and r.stdout.startswith(f"Usage: bulkhead {where.split()[0]}"), f"{where} --help: {r}")
        for option in options.split():
            name, _, kind = option.partition(":")
            if name in ("--help", "--json") or where in ("image build", "disk serve", "disk bench"):
                continue
            r = run(*where.split(), *([f"{name}=x"] if kind else [name]))
            require("unrecognized" not in r.stderr and "ambiguous" not in r.stderr, f"{where} {name}: {r.stderr}")


def complete_bash(d, words):
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _bulkhead; '
              'for w in "${COMPREPLY[@]}"; do printf "%s\\n" "$w"; done')
    r = subprocess.run(["bash", "-c", script, "bash", os.path.join(d.build, "packaging", "bulkhead"), *words],
                       capture_output=True, text=True, cwd=d.directory,
                       env=dict(os.environ, BULKHEAD_SOCKET=d.socket, PATH=os.path.join(d.build, "cli") + ":" + os.environ["PATH"]))
    require(r.returncode == 0 and not r.stderr, f"completion of {words}: {r.stderr}")
    return r.stdout.splitlines()


def test_manual_completion_in_bash(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        d.make("two words")
        for words, wanted in ((["bulkhead", "v"], ["vm"]),
                              (["bulkhead", "vm", "sh"], ["show", "shut-down"]),
                              (["bulkhead", "vm", "start", ""], ["two\\ words", "web"]),
                              (["bulkhead", "vm", "start", "w"], ["web"]),
                              (["bulkhead", "vm", "create", ""], []),
                              (["bulkhead", "vm", "create", "new", "--kern"], ["--kernel"]),
                              (["bulkhead", "vm", "create", "new", "--kernel", "ker"], ["kernel"]),
                              (["bulkhead", "vm", "set", "web", "--automatic-start", "if"], ["if-was-running"]),
                              (["bulkhead", "vm", "rename", "web", ""], []),
                              (["bulkhead", "disk", "info", "ker"], ["kernel"]),
                              (["bulkhead", "disk", "create", "x", "1G", "--format", "vhd"], ["vhdx", "vhd"]),
                              (["bulkhead", "disk", "track", "a"], ["add"]),
                              (["bulkhead", "event", "list", "we"], ["web"]),
                              (["bulkhead", "--host", "https://x:1", "vm", "shu"], ["shut-down"]),
                              (["bulkhead", "run", "--in"], ["--initrd"])):
            got = complete_bash(d, words)
            require(got == wanted, f"{words}: {got}, not {wanted}")
        d.kill()
        require(complete_bash(d, ["bulkhead", "vm", "start", ""]) == [], "without a daemon nothing is completed, and nothing said")


def test_manual_completion_in_zsh(context):
    with Daemon(context["build"]) as d:
        d.make("web")
        environment = dict(os.environ, BULKHEAD_SOCKET=d.socket, TERM="dumb", HOME=d.directory,
                           PATH=os.path.join(d.build, "cli") + ":" + os.environ["PATH"])
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(d.directory)
            os.execvpe("zsh", ["zsh", "-f", "-i"], environment)

        def say(text, wanted):
            os.write(fd, text.encode())
            seen, deadline = "", time.monotonic() + 30
            while wanted not in seen:
                require(select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], f"zsh: {text!r} gave {seen!r}, not {wanted!r}")
                seen += os.read(fd, 65536).decode(errors="replace")
        try:
            say(f"PS1='> '; unsetopt zle_bracketed_paste; fpath=({d.build}/packaging $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n",
                "ready")
            for typed, wanted in (("bulkhead vm shut", "bulkhead vm shut-down"), ("bulkhead vm start w", "bulkhead vm start web"),
                                  ("bulkhead vm create new --kern", "--kernel"), ("bulkhead disk create x --format r", "--format raw"),
                                  ("bulkhead disk info ker", "info kernel"), ("bulkhead jo", "bulkhead job")):
                say(typed + "\t", wanted)
                os.write(fd, b"\x15")  # ^U: the line is not run
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(fd)


def test_manual_schema(context):
    """The schema that is installed is the one that is served and that a new vm.json fits."""
    with Daemon(context["build"]) as d, open(os.path.join(context["build"], "packaging", "vm.schema.json"), encoding="utf-8") as f:
        require(json.load(f) == d.ok("GET", "/v1/schema/vm.json"), "another schema is served")
