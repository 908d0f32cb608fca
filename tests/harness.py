#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs all tests and counts them: unit (under several builds), bare guests, real guests, the lab, fuzzers.

All stages run in two lanes side by side, as most of them wait, or use one processor, for much of their time. The stage `long` takes
minutes a test and is no part of `all`.

Usage: tests/harness.py [unit|sanitize|bare|guest|manage|package|lab|fuzz|long|all] [NAME…]
The last line is "N passed, N failed[, N skipped]".
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.chdir(ROOT)
sys.path[:0] = [os.path.join(ROOT, "tests", name) for name in ("bare", "guest", "lab", "manage", "package")]


class Skip(Exception):
    """Raised by a test that cannot run here; its text says why."""


def indented(text):
    return "".join(f"     {line}\n" for line in text.splitlines()).rstrip("\n")


class Results:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []
        self.names = set()

    def add(self, name, result, seconds, detail=""):
        setattr(self, result, getattr(self, result) + 1)
        self.names.add(name.split(" (")[0].removeprefix("lab_"))
        word = {"passed": "PASS", "failed": "FAIL", "skipped": "SKIP"}[result]
        said = f"{word} {name} ({seconds:.1f} s){': ' + detail if detail and result == 'skipped' else ''}\n"
        if result == "failed":
            self.failures.append((name, detail))
            said += indented(detail) + "\n"
        # In one piece: another lane may write too.
        sys.stdout.write(said)
        sys.stdout.flush()

    def take(self, other):
        """Counts what another lane has counted."""
        for result in ("passed", "failed", "skipped"):
            setattr(self, result, getattr(self, result) + other[result])
        self.failures += other["failures"]
        self.names |= set(other["names"])

    def summary(self):
        """What failed once more, as a log's middle is easily lost; then the counts."""
        for name, detail in self.failures:
            print(f"FAILED: {name}\n{indented(detail[-1500:])}")
        line = f"{self.passed} passed, {self.failed} failed"
        if self.skipped:
            line += f", {self.skipped} skipped"
        print(line, flush=True)
        return 1 if self.failed or not self.passed else 0


def build(results, variant, *targets):
    start = time.monotonic()
    r = subprocess.run(["scripts/build", variant, *targets], capture_output=True, text=True)
    if r.returncode == 0:
        return True
    results.add(f"build {variant}", "failed", time.monotonic() - start, (r.stdout + r.stderr)[-4000:])
    return False


def suite_tests(variant, suite, names):
    """The tests of a suite, of those named if any are: name to executable, relative to the build directory."""
    directory = os.path.join(ROOT, "build", variant)
    r = subprocess.run(["meson", "introspect", directory, "--tests"], capture_output=True, text=True, check=True)
    return {test["name"]: os.path.relpath(test["cmd"][0], directory) for test in json.loads(r.stdout)
            if any(s.split(":")[-1] == suite for s in test["suite"]) and (not names or test["name"] in names)}


def run_meson(results, variant, suite, tests):
    """Run tests of a suite in one build; each counts."""
    directory = f"build/{variant}"
    log = f"{directory}/meson-logs/testlog.json"
    if os.path.exists(log):
        os.unlink(log)
    # TSAN_OPTIONS of a test (suppressions) replace these: there a race still fails the test at its end.
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
                       TSAN_OPTIONS="halt_on_error=1")
    subprocess.run(["meson", "test", "-C", directory, "--no-rebuild", "--suite", suite, "--num-processes", str(os.cpu_count() or 2),
                    "--timeout-multiplier", "1" if variant == "debug" else "4", *sorted(tests)],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    if not os.path.exists(log):
        results.add(f"{suite} ({variant})", "failed", 0, "meson ran no test")
        return
    with open(log, encoding="utf-8") as f:
        for line in f:
            test = json.loads(line)
            name = f"{test['name'].split(' / ')[-1]} ({variant})"
            outcome = {"OK": "passed", "SKIP": "skipped", "EXPECTEDFAIL": "passed"}.get(test["result"], "failed")
            detail = ""
            if outcome == "failed":
                detail = (test.get("stdout", "") + test.get("stderr", ""))[-3000:] or test["result"]
            elif outcome == "skipped":
                detail = test.get("stdout", "").strip().splitlines()[-1] if test.get("stdout", "").strip() else "it says it cannot run here"
            results.add(name, outcome, test["duration"], detail)


def run_unit(results, variant, suite, names):
    if not build(results, variant, "build.ninja"):
        return
    tests = suite_tests(variant, suite, names)
    # The plain build is of everything: it shows that all of it compiles.
    if tests and build(results, variant, *([] if variant == "debug" else sorted(tests.values()))):
        run_meson(results, variant, suite, tests)


def stage_unit(results, names):
    """All unit tests plain."""
    run_unit(results, "debug", "unit", names)


def stage_sanitize(results, names):
    """All unit tests under the address sanitizer; those with threads under the thread sanitizer."""
    run_unit(results, "asan", "unit", names)
    run_unit(results, "tsan", "threads", names)


def stage_fuzz(results, names):
    if not build(results, "fuzz", "fuzzers"):
        return
    seconds = int(os.environ.get("FUZZ_SECONDS", "10"))
    directory = "build/fuzz/fuzz"
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if not name.startswith("fuzz_") or not os.access(path, os.X_OK) or os.path.isdir(path):
            continue
        if names and name not in names:
            continue
        start = time.monotonic()
        corpus = f"build/fuzz/corpus-{name}"
        os.makedirs(corpus, exist_ok=True)
        r = subprocess.run([path, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3000", "-verbosity=0",
                            f"-artifact_prefix={corpus}/", corpus], capture_output=True, text=True, errors="replace")
        results.add(name, "passed" if r.returncode == 0 else "failed", time.monotonic() - start, r.stderr[-3000:])


def run_functions(results, path, names, context):
    """Every function test_* of a Python file is a test; it gets the context."""
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in list(vars(module).items()):
        if not name.startswith("test_") or not callable(function):
            continue
        short = name[5:]
        if names and short not in names:
            continue
        start = time.monotonic()
        try:
            function(context)
            results.add(short, "passed", time.monotonic() - start)
        except Skip as e:
            results.add(short, "skipped", time.monotonic() - start, str(e))
        except Exception as e:  # pylint: disable=broad-except
            detail = f"{type(e).__name__}: {e}\n" + traceback.format_exc().splitlines()[-3]
            if isinstance(e, subprocess.CalledProcessError) and e.stderr:
                detail += "\n" + str(e.stderr)[-2000:]
            results.add(short, "failed", time.monotonic() - start, detail)


def stage_bare(results, names):
    context = {"bulkhead": "build/release/cli/bulkhead", "worker": "build/release/worker/bulkhead-worker", "skip": Skip,
               "processor": "soft", "directory": "build/release/tests/bare"}
    if build(results, "release"):
        run_functions(results, "tests/bare/run_bare.py", names, context)
        run_functions(results, "tests/bare/run_worker.py", names, context)
        run_functions(results, "tests/bare/run_saved.py", names, context)


def run_guests(results, names, *paths):
    if build(results, "release"):
        context = {"bulkhead": "build/release/cli/bulkhead", "skip": Skip, "processor": os.environ.get("TEST_PROCESSOR", "soft")}
        for path in paths:
            run_functions(results, path, names, context)


def stage_guest(results, names):
    files = ("test_debian.py", "test_worker.py", "test_network.py", "test_ipxe.py", "test_offloads.py", "test_saved.py", "test_calls.py")
    run_guests(results, names, *(f"tests/guest/{name}" for name in files))


def stage_long(results, names):
    run_guests(results, names, "tests/guest/test_long.py")
    run_packages(results, names, "tests/package/test_systemd.py")
    run_functions(results, "tests/manage/long_killed.py", names, {"build": os.path.join(ROOT, "build/release"), "skip": Skip})


def stage_manage(results, names):
    """The daemon and its command line."""
    if build(results, "release"):
        import test_debian  # pylint: disable=import-outside-toplevel,import-error
        context = {"bulkhead": "build/release/cli/bulkhead"}
        for name in sorted(os.listdir("tests/manage")):
            if not name.startswith("test_"):
                continue
            run_functions(results, f"tests/manage/{name}", names,
                          {"build": os.path.join(ROOT, "build/release"), "skip": Skip, "image": lambda: test_debian.base_image(context)})


def run_packages(results, names, path):
    if build(results, "release"):
        context = {"bulkhead": "build/release/cli/bulkhead", "build": os.path.join(ROOT, "build/release"), "skip": Skip}
        scripts = subprocess.run(["scripts/dependencies", "package"], capture_output=True, text=True)
        if scripts.returncode:
            results.add("package dependencies", "failed", 0, scripts.stderr)
        else:
            run_functions(results, path, names, context)


def stage_package(results, names):
    """The Debian packages, installed for real."""
    run_packages(results, names, "tests/package/test_package.py")


def stage_lab(results, names):
    """The hardware processor, in a machine of software that has one."""
    if not build(results, "release"):
        return
    import lab  # pylint: disable=import-outside-toplevel,import-error
    start = time.monotonic()
    try:
        lab.run_checks(names, results.add)
    except (lab.LabError, OSError, subprocess.CalledProcessError) as e:
        results.add("lab", "failed", time.monotonic() - start, str(e))


STAGES = {"unit": stage_unit, "sanitize": stage_sanitize, "bare": stage_bare, "guest": stage_guest, "manage": stage_manage,
          "package": stage_package, "lab": stage_lab, "fuzz": stage_fuzz, "long": stage_long}


# What takes both processors is in one lane (or, like the lab, beside what does not).
LANES = (("unit", "guest", "bare", "sanitize"), ("manage", "lab", "package", "fuzz"))


def run_stages(stages, names):
    results = Results()
    for stage in stages:
        STAGES[stage](results, names)
    return results


def start_lane(stages, names):
    """A process that runs these stages. Returns it, and where it tells in the end what it has counted."""
    told, tell = os.pipe()
    process = os.fork()
    if process:
        os.close(tell)
        return process, os.fdopen(told, encoding="utf-8")
    status = 1
    try:
        os.close(told)
        with os.fdopen(tell, "w", encoding="utf-8") as f:
            json.dump(vars(run_stages(stages, names)), f, default=list)
        status = 0
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run_lanes(names):
    results = Results()
    lanes = [(stages, *start_lane(stages, names)) for stages in LANES]
    for stages, process, told in lanes:
        with told:
            text = told.read()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status == 0:
            results.take(json.loads(text))
        else:
            results.add(" ".join(stages), "failed", 0, f"the process that ran these stages ended with {status}; what it had counted is lost")
    return results


def main():
    arguments = sys.argv[1:]
    stages = [stage for lane in LANES for stage in lane]
    if arguments and arguments[0] in STAGES:
        stages = [arguments.pop(0)]
        results = run_stages(stages, arguments)
    else:
        if arguments and arguments[0] == "all":
            arguments.pop(0)
        results = run_lanes(arguments)
    for name in arguments:
        if name.removeprefix("lab_") not in results.names:
            results.add(name, "failed", 0, f"no test of {', '.join(stages)} has this name; without a name all of them run, and each is printed")
    return results.summary()


if __name__ == "__main__":
    sys.exit(main())
