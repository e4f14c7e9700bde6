# SPDX-License-Identifier: GPL-2.0-or-later
"""Running test programs that speak TAP, and counting what they say.

A program that crashes, hangs, prints no plan, or runs fewer tests than it
planned has failed, whatever its tests said before.
"""
import os
import re
import signal
import subprocess
import threading
import time

from treelib import paths

RESULT = re.compile(r"(ok|not ok)\b\s*(\d*)\s*(?:-\s+)?(.*)")
PLAN = re.compile(r"1\.\.(\d+)\s*(?:#\s*(.*))?$")
SKIP = re.compile(r"\s*#\s*skip\S*\s*(.*)$", re.IGNORECASE)
COLUMN = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


class Tally:
    """Results of everything that ran."""

    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures = []          # (program, test, why)
        self.skips = []

    def add(self, program, test, outcome, why=""):
        self.counts[outcome] += 1
        if outcome == "failed":
            self.failures.append((program, test, why))
        elif outcome == "skipped":
            self.skips.append((program, test, why))
        tail = f"  ({why})" if why else ""
        print(f"  {COLUMN[outcome]:<8}{program.label:<10} {test}{tail}",
              flush=True)

    def summary(self):
        return ", ".join(f"{number} {outcome}"
                         for outcome, number in self.counts.items())

    @property
    def good(self):
        return self.counts["passed"] > 0 and self.counts["failed"] == 0


class Program:
    """One test program; LABEL is what its suite is called."""

    def __init__(self, label, name, command, timeout, env=None, cwd=None):
        self.label = label
        self.name = name
        self.command = [str(word) for word in command]
        self.timeout = timeout
        self.env = env or {}
        self.cwd = cwd or paths.ROOT
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{label}-{name}")
        self.log = paths.LOGS / "check" / f"{safe}.log"


class Run:
    """One execution of a program."""

    def __init__(self, program, tally):
        self.program = program
        self.tally = tally
        self.planned = None
        self.skip_all = None
        self.seen = []              # names of tests with a result
        self.failed = 0
        self.bailed = None
        self.timed_out = False
        self.status = None

    def execute(self, extra=()):
        """Run it and report each test; returns self."""
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        command = program.command + list(extra)
        with open(program.log, "ab", buffering=0) as log:
            log.write(f"$ {' '.join(command)[:2000]}\n".encode())
            try:
                process = subprocess.Popen(
                    command, cwd=program.cwd, env=os.environ | program.env,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=log, start_new_session=True)
            except OSError as error:
                self.bailed = f"cannot be started: {error.strerror}"
                return self
            timer = threading.Timer(program.timeout, self.stop, [process])
            timer.start()
            try:
                for raw in process.stdout:
                    log.write(raw)
                    self.line(raw.decode("utf-8", "replace").rstrip("\r\n"))
                self.status = process.wait()
            finally:
                timer.cancel()
                self.end_group(process)
        return self

    def stop(self, process):
        self.timed_out = True
        self.end_group(process)

    @staticmethod
    def end_group(process):
        """End the program and what it left running; the group is its own."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return
            for _ in range(20):
                process.poll()
                if not group_alive(process.pid):
                    return
                time.sleep(0.05)

    def line(self, text):
        if match := PLAN.match(text):
            self.planned = int(match.group(1))
            if self.planned == 0:
                self.skip_all = match.group(2)
        elif match := RESULT.match(text):
            self.result(*match.group(1, 3))
        elif text.startswith("Bail out!"):
            self.bailed = text.removeprefix("Bail out!").strip() or "bailed out"

    def result(self, verdict, name):
        why = ""
        outcome = "passed" if verdict == "ok" else "failed"
        if outcome == "passed" and (skip := SKIP.search(name)):
            outcome, why = "skipped", skip.group(1)
            name = name[:skip.start()]
        self.seen.append(name)
        self.failed += outcome == "failed"
        self.tally.add(self.program, name or self.program.name, outcome, why)

    def trouble(self):
        """What is wrong apart from the tests that failed; None if nothing."""
        if self.timed_out:
            return f"stopped after {self.program.timeout} s"
        if self.status is not None and self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        if self.bailed:
            return self.bailed
        if self.planned == 0 and not self.seen:
            return None if self.skip_all else "planned no test"
        if self.planned is None:
            return "printed no plan"
        if self.planned != len(self.seen):
            return f"planned {self.planned} tests but ran {len(self.seen)}"
        if self.status and not self.failed:
            return f"exit status {self.status}"
        return None


def lines_about(log, test):
    """What a log has after the failure of a test, up to the next result."""
    found, inside = [], False
    for line in log:
        if match := RESULT.match(line):
            inside = match.group(1) == "not ok" and match.group(3) == test
        if inside:
            found.append(line)
    return found


def group_alive(group):
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def run_program(program, tally):
    run = Run(program, tally).execute()
    trouble = run.trouble()
    if trouble:
        tally.add(program, program.name, "failed", trouble)
    elif run.planned == 0 and not run.seen:
        tally.add(program, program.name, "skipped", run.skip_all)


def run_selected(program, names, tally):
    """Run chosen tests of a GLib program; go on after one that crashes.

    GLib runs them in the order in which it lists them, so the one without a
    result is the one that crashed.
    """
    left = list(names)
    while left:
        run = Run(program, tally).execute(
            word for name in left for word in ("-p", name))
        trouble = run.trouble()
        remaining = [name for name in left if name not in run.seen]
        if trouble and remaining:
            tally.add(program, remaining.pop(0), "failed", trouble)
        elif trouble:
            tally.add(program, program.name, "failed", trouble)
        elif remaining:
            for name in remaining:
                tally.add(program, name, "failed", "was listed, but not run")
            return
        if not trouble:
            return
        left = remaining
