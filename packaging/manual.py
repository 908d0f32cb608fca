#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the manual pages and the completion for bash and zsh from what the programs tell of themselves.

Usage: manual.py OUTPUT BULKHEAD BULKHEAD-MANAGE BULKHEADD BULKHEAD-WORKER PAGE…
Each PAGE (bulkhead-vm.1, …) has to be made, and nothing else: a command without a page in the list is an error.
"""

import json
import os
import re
import subprocess
import sys
import time

SECTIONS = {"1": "User commands", "5": "File formats", "8": "System administration"}
SOCKET = "The manager's socket. Otherwise that of this user's manager is used; root's is /run/bulkhead/api."
STATUS = [("0", "done"), ("1", "failed, and a sentence on standard error says why"), ("2", "the command line was wrong")]
WAITED = ("3", "the time of --wait is over; what was begun goes on")
# What no table says: of each page.
EXAMPLES = {
    "bulkhead": ["bulkhead image build debian-12",
                 "bulkhead vm create web --image debian-12 --memory 1G --cpus 2 --ssh-key ~/.ssh/id_ed25519.pub --start",
                 "bulkhead vm console web"],
    "bulkhead-vm": ["bulkhead vm create web --image debian-12 --user me --ssh-key ~/.ssh/id_ed25519.pub --start",
                    "bulkhead vm list", "bulkhead vm console web", "bulkhead vm shut-down web"],
    "bulkhead-image": ["bulkhead image build debian-12", "bulkhead image list"],
    "bulkhead-disk": ["bulkhead disk create root.vhdx 40G", "bulkhead disk create today.avhdx --parent root.vhdx",
                      "bulkhead disk convert today.avhdx copy.raw"],
    "bulkhead-run": ["bulkhead run --image web --dvd web-seed.iso --memory 2G --cpus 2"],
}
# Where a value has this name, what stands there is completed.
KINDS = {"FILE": "file", "FROM": "file", "TO": "file", "PARENT": "file", "SOCKET": "file", "PATH": "file", "DIR": "dir",
         "DIRECTORY": "dir", "IMAGE": "image", "MACHINE": "machine", "CHECKPOINT": "checkpoint",
         "SWITCH": "switch"}


def run(program, *arguments, name=None):
    return subprocess.run([name or program, *arguments], executable=program, capture_output=True, text=True, check=True).stdout


# --- what there is ------------------------------------------------------------------------------------

def gather(bulkhead, manage):
    """The program's own table, and each command's, by name."""
    top = json.loads(run(bulkhead, "help", "--dump"))
    commands = {}
    for entry in top["verbs"]:
        name = entry["name"]
        command = json.loads(run(bulkhead, name, "--dump"))
        if name == "image":  # half of its verbs are the manager's
            own = command["verbs"]
            command["verbs"] = json.loads(run(manage, "--dump", name="image"))["verbs"]
            for verb in own:
                same = [v for v in command["verbs"] if v["name"] == verb["name"]]
                if same:
                    same[0]["arguments"] += " | " + verb["arguments"]
                    same[0]["text"] += "\n" + verb["text"]
                else:
                    command["verbs"].append(verb)
        command["summary"] = entry["summary"]
        commands[name] = command
    return top, commands


ITEM = re.compile(r"^  (\S.*?)(?:\s{2,}(\S.*))?$")


def blocks(text):
    """Help's text as a list of ("text", words), ("raw", lines) and ("item", head, words)."""
    found = []
    for line in text.rstrip("\n").split("\n"):
        item = ITEM.match(line)
        if not line:
            found.append(("end",))
        elif item and not line.startswith("   "):
            found.append(("item", item[1], item[2] or ""))
        elif line.startswith("      ") and found and found[-1][0] == "item":
            kind, head, words = found.pop()
            found.append((kind, head, (words + " " + line.strip()).strip()))
        elif found and found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + " " + line.strip())
        else:
            found.append(("text", line.strip()))
    return [b for b in found if b[0] != "end"]


def option_values(text, arguments=""):
    """Each long option that help names, with the word that stands for its value ("" for none)."""
    heads = [b[1] for b in blocks(text) if b[0] == "item"] + [arguments]
    options = {}
    for head in heads:
        for option, value in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]*)(?:[ =]([A-Z][A-Z:]*|[a-z0-9-]+(?:\|[a-z0-9-]+)+))?", head):
            options[option] = options.get(option) or value
    return options


# --- manual pages ---------------------------------------------------------------------------------------

def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\u2026", "...").replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + text if text[:1] in (".", "'") else text


def mark(head):
    """Options bold, what is to be replaced in italics."""
    out = []
    for part in re.split(r"(--?[a-z][a-z0-9-]*|\b[A-Z][A-Z]+\b|\b[NA]\b)", head):
        if part.startswith("-") and len(part) > 1:
            out.append(f"\\fB{escape(part)}\\fR")
        elif re.fullmatch(r"[A-Z]+", part):
            out.append(f"\\fI{part}\\fR")
        else:
            out.append(escape(part) if part[:1] not in ".'" else part.replace("\\", "\\e").replace("-", "\\-"))
    return "".join(out)


def render(text):
    out, before = [], None
    for block in blocks(text):
        if block[0] == "item":
            out += [".TP", mark(block[1]), escape(block[2]) if block[2] else "\\&"]
        else:
            out += [".PP"] if before else []
            out.append(escape(block[1]))
        before = block[0]
    return out


def page(title, section, summary, synopsis, body, see, version, examples=()):
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or os.path.getmtime(__file__))))
    out = [f'.TH {escape(title.upper())} {section} {date} "bulkhead {version}" "{SECTIONS[section]}"', ".SH NAME",
           f"{escape(title)} \\- {escape(summary)}"]
    if synopsis:
        out += [".SH SYNOPSIS", ".nf", *[f"\\fB{escape(name)}\\fR {mark(rest)}".rstrip() for name, rest in synopsis], ".fi"]
    out += body
    if examples:
        out += [".SH EXAMPLES", ".nf", *map(escape, examples), ".fi"]
    out += [".SH SEE ALSO", " ,\n".join(f".BR {escape(name)} ({s})" for name, s in see)]
    return "\n".join(out) + "\n"


def status_section(more=()):
    out = [".SH EXIT STATUS"]
    for number, text in [*STATUS, *more]:
        out += [".TP", f".B {number}", escape(text)]
    return out


def split_usage(usage):
    """Help of a program without verbs: its synopsis, and the rest."""
    lines = usage.split("\n")
    synopsis, i = [], 0
    while lines[i]:
        words = re.sub("^ *(Usage: *)?", "", lines[i])
        synopsis.append(words)
        i += 1
    return synopsis, "\n".join(lines[i + 1:])


def verb_page(command, others, version):
    name = "bulkhead-" + command["name"]
    if not command["verbs"]:
        synopsis, rest = split_usage(command["text"])
        prefix = f"bulkhead {command['name']}"
        return page(name, "1", command["summary"], [(prefix, s[len(prefix):].strip()) for s in synopsis],
                    [".SH DESCRIPTION", *render(rest)], others, version, EXAMPLES.get(name, ()))
    body = [".SH DESCRIPTION", *render(command["text"]), ".SH VERBS"]
    for verb in command["verbs"]:
        body += [f".SS {escape(verb['name'])}: {escape(verb['summary'])}", f"\\fBbulkhead {command['name']} {escape(verb['name'])}\\fR "
                 + mark(verb["arguments"])]
        text = render(verb["text"])
        body += text if text[0] == ".TP" else [".PP", *text]
    body += [".SH OPTIONS", "Every verb has these:", ".TP", "\\fB\\-\\-help\\fR", "tells what it does and takes.", ".TP",
             "\\fB\\-\\-json\\fR", "prints one JSON value, of an error too.", *status_section([WAITED] if "--no-wait" in str(command["verbs"]) else ())]
    if command["name"] not in ("disk",):
        body += [".SH ENVIRONMENT", ".TP", ".B BULKHEAD_SOCKET", escape(SOCKET)]
    return page(name, "1", command["summary"], [(f"bulkhead {command['name']}", "VERB [ARGUMENT ...] [--json]")], body, others, version,
                EXAMPLES.get(name, ()))


def top_page(top, commands, version):
    body = [".SH DESCRIPTION", *render(top["text"]), ".SH COMMANDS"]
    for name, command in commands.items():
        body += [".TP", f"\\fB{name}\\fR", escape(command["summary"][0].upper() + command["summary"][1:]) + f". See \\fBbulkhead\\-{name}\\fR(1)."]
    body += [".SH OPTIONS", ".TP", "\\fB\\-\\-help\\fR", "tells what there is; behind a command and a verb, what these take.", ".TP",
             "\\fB\\-\\-version\\fR", "says which this is.", ".PP", *render(top["remote"]), *status_section([WAITED, ("3, 4", "of bulkhead run: see bulkhead-run(1)"),
             ("128 and more", "a signal interrupted it")]), ".SH ENVIRONMENT", ".TP", ".B BULKHEAD_SOCKET", escape(SOCKET)]
    return page("bulkhead", "1", "virtual machines made for Hyper-V, on Linux", [("bulkhead", "COMMAND [ARGUMENT ...]")], body,
                [*[(f"bulkhead-{n}", "1") for n in commands], ("vm.json", "5"), ("bulkheadd", "8")], version, EXAMPLES["bulkhead"])


def daemon_page(usage, version):
    synopsis, rest = split_usage(usage)
    body = [".SH DESCRIPTION", *render(rest), *status_section(), ".SH FILES"]
    for path, text in (("/var/lib/bulkhead", "machines, images and what the manager knows of them; not removed with the package while "
                        "there are machines or images in it"),
                       ("/run/bulkhead/api", "the socket of its REST interface, which describes itself at /v1/openapi.json. Whoever may open "
                        "it (root, and the group bulkhead) is as good as root: a machine's disks may be any file"),
                       ("bulkhead.service, bulkhead.socket", "units of systemd: the manager, and its socket, by which it is started"),
                       ("bulkhead-machines.service", "stops the machines with the host, by their automatic stop actions"),
                       ("bulkhead-workers.service", "the control group that has one in it for each machine, which therefore is no part of the "
                        "manager's service and outlives it")):
        body += [".TP", f".I {escape(path)}", escape(text) + "."]
    return page("bulkheadd", "8", "keeps the virtual machines of a host", [("bulkheadd", s[len("bulkheadd"):].strip()) for s in synopsis],
                body, [("bulkhead", "1"), ("bulkhead-vm", "1"), ("vm.json", "5")], version)


def worker_page(usage, version):
    synopsis, rest = split_usage(usage)
    return page("bulkhead-worker", "8", "runs one virtual machine for a manager",
                [("bulkhead-worker", s[len("bulkhead-worker"):].strip()) for s in synopsis], [".SH DESCRIPTION", *render(rest)],
                [("bulkheadd", "8"), ("bulkhead-run", "1")], version)


def bounds(schema):
    words = []
    if "enum" in schema:
        words.append("one of " + ", ".join(schema["enum"]))
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " elements")):
        if low in schema:
            words.append(f"{schema[low]}{unit}" if schema[low] == schema[high] else f"{schema[low]} to {schema[high]}{unit}")
    return words


def describe(path, schema, required):
    out = []
    if path:
        default = schema.get("default")
        words = [schema["type"]] if "enum" not in schema else []
        words += bounds(schema)
        words.append("needed" if required else "" if default in (None, "", [], {}) else f"if left out: {json.dumps(default)}")
        text = schema.get("description", "")
        text = text[:1].upper() + text[1:] + ". " if text else ""
        words = "; ".join(w for w in words if w)
        out += [".TP", f".B {escape(path)}", escape(text + words[:1].upper() + words[1:] + ".")]
    for name, inner in schema.get("properties", {}).items():
        out += describe(f"{path}.{name}" if path else name, inner, name in schema.get("required", []))
    if "properties" in schema.get("items", {}):
        for name, inner in schema["items"]["properties"].items():
            out += describe(f"{path}[].{name}", inner, name in schema["items"].get("required", []))
    return out


def config_page(schema, version):
    body = [".SH DESCRIPTION", "A JSON object in a machine's own directory, written by the manager. It may be changed by hand while the machine "
            "is off. Keys that are not known are refused by their path.", "\\fBbulkheadd \\-\\-schema vm.json\\fR prints the same as a JSON schema.",
            ".SH KEYS", *describe("", schema, True)]
    return page("vm.json", "5", "configuration of a virtual machine", [], body, [("bulkhead-vm", "1"), ("host.json", "5"), ("bulkheadd", "8")],
                version)


def host_page(schema, version):
    body = [".SH DESCRIPTION", "A JSON object, in /etc/bulkhead/host.json or the file that \\fBbulkheadd \\-\\-config\\fR names, which the manager "
            "reads when it starts. Keys that are not known are refused by their path.",
            "\\fBbulkheadd \\-\\-schema host.json\\fR prints the same as a JSON schema.", ".SH KEYS", *describe("", schema, True)]
    return page("host.json", "5", "configuration of a host's manager", [], body, [("vm.json", "5"), ("bulkheadd", "8")], version)


# --- completion -------------------------------------------------------------------------------------------

def positional_kinds(arguments, new=False):
    """What the arguments of a verb are, one after the other: kinds, or words to choose from."""
    ways = arguments.split(" | ")
    if len(ways) > 1 and all(re.match(r"[a-z]", way) for way in ways):
        return ["=" + ",".join(way.split()[0] for way in ways), *positional_kinds(ways[0].split(" ", 1)[1])]
    text = re.sub(r"\[--?[^\]]*\]|\[OPTION[^\]]*\]|\(--[^)]*\)|--[a-z-]+ [A-Z]+", " ", ways[0])
    kinds = []
    for word in text.replace("[", " ").replace("]", " ").split():
        name = word.split("|")[0].split(",")[0]
        if name == "NAME":
            kinds.append("none" if new else "machine")
        elif re.fullmatch("[A-Z]+", name):
            kinds.append(KINDS.get(name, "none"))
    return kinds


def value_kind(value):
    if "|" in value:
        return "=" + value.replace("|", ",")
    return KINDS.get(value, "none") if value else ""


def completion_specs(commands):
    """For each "command verb": its options with what their values are, and what its arguments are."""
    specs = {}
    for name, command in commands.items():
        if not command["verbs"]:
            synopsis, rest = split_usage(command["text"])
            options = option_values(rest, " ".join(synopsis))
            options["--help"] = ""
            words = []
            if name == "control":
                words = ["file", "=" + ",".join(w for b in blocks(rest) if b[0] == "item" for w in re.findall(r"(?:^|, )([a-z-]+)", b[1])), "file"]
            specs[name] = (options, words)
            continue
        for verb in command["verbs"]:
            options = option_values(verb["text"], verb["arguments"])
            options.update({"--help": "", "--json": ""})
            # Names that are yet to be given are not completed.
            words = positional_kinds(verb["arguments"], new=verb["name"] in ("create", "import", "build"))
            if name == "image":
                words = ["image" if w == "machine" else w for w in words]
            if name == "image" and verb["name"] == "build":
                words = ["=debian-12", "dir"]
            specs[f"{name} {verb['name']}"] = (options, words)
    return specs


def shell_tables(commands):
    """Three functions that both shells understand: words of the command line in, words out."""
    specs = completion_specs(commands)
    out = ["_bulkhead_verbs() {", "    case $1 in"]
    out += [f"    {name}) echo '{' '.join(v['name'] for v in c['verbs'])}' ;;" for name, c in commands.items() if c["verbs"]]
    out += [f"    '') echo '{' '.join(commands)}' ;;", "    esac", "}", "", "# OPTION, or OPTION:KIND where a value follows.",
            "_bulkhead_options() {", "    case $1 in"]
    out += [f"    '{where}') echo '{' '.join(o + (':' + value_kind(v) if v else '') for o, v in sorted(options.items()))}' ;;"
            for where, (options, _) in specs.items()]
    out += ["    esac", "}", "", "_bulkhead_arguments() {", "    case $1 in"]
    out += [f"    '{where}') echo '{' '.join(words)}' ;;" for where, (_, words) in specs.items() if words]
    out += ["    esac", "}"]
    return "\n".join(out)


def completion(shell, commands):
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "completion." + shell)
    with open(here, encoding="utf-8") as f:
        return f.read().replace("@tables@", shell_tables(commands))


# --- all of it --------------------------------------------------------------------------------------------

def main():
    output, bulkhead, manage, daemon, worker, *wanted = sys.argv[1:]
    top, commands = gather(bulkhead, manage)
    version = top["version"]
    schema, host = (json.loads(run(daemon, "--schema", name)) for name in ("vm.json", "host.json"))
    made = {"bulkhead.1": top_page(top, commands, version), "bulkheadd.8": daemon_page(run(daemon, "--help"), version),
            "bulkhead-worker.8": worker_page(run(worker, "--help"), version), "vm.json.5": config_page(schema, version), "host.json.5": host_page(host, version),
            "vm.schema.json": json.dumps(schema, indent=2) + "\n", "host.schema.json": json.dumps(host, indent=2) + "\n",
            "bulkhead": completion("bash", commands), "_bulkhead": completion("zsh", commands)}
    for name, command in commands.items():
        others = [("bulkhead", "1"), *[(f"bulkhead-{n}", "1") for n in commands if n != name]]
        made[f"bulkhead-{name}.1"] = verb_page(command, others, version)
    if set(made) != set(wanted):
        sys.exit(f"manual.py: packaging/meson.build and the program's commands differ: {sorted(set(made) ^ set(wanted))}")
    for name, text in made.items():
        with open(os.path.join(output, name), "w", encoding="utf-8") as f:
            f.write(text)


if __name__ == "__main__":
    main()
