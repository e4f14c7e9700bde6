# SPDX-License-Identifier: GPL-2.0-or-later
"""The test runner counts what went wrong as wrong."""
import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from treelib import tap


class Runner(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="vmem-selftest-")
        self.addCleanup(holder.cleanup)
        self.top = Path(holder.name)

    def program(self, script, timeout=60):
        file = self.top / "program"
        file.write_text("#!/bin/sh\n" + script)
        file.chmod(0o755)
        program = tap.Program("x", "program", [file], timeout)
        program.log = self.top / "log"
        return program

    def run_it(self, script, timeout=60, names=None):
        self.tally = tap.Tally()
        program = self.program(script, timeout)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if names is None:
                tap.run_program(program, self.tally)
            else:
                tap.run_selected(program, names, self.tally)
        self.printed = printed.getvalue()
        return self.tally.summary()

    def why(self):
        return self.tally.failures[-1][2]

    def test_all_is_well(self):
        self.assertEqual(self.run_it(
            "echo 1..2; echo ok 1 /a; echo 'ok 2 - b c'"),
            "2 passed, 0 failed, 0 skipped")
        self.assertTrue(self.tally.good)
        self.assertIn("/a\n", self.printed)
        self.assertIn("b c\n", self.printed)

    def test_plan_at_the_end(self):
        self.assertEqual(self.run_it("echo ok 1 a; echo 1..1"),
                         "1 passed, 0 failed, 0 skipped")

    def test_failure(self):
        self.assertEqual(self.run_it(
            "echo 1..2; echo ok 1 a; echo not ok 2 b; exit 1"),
            "1 passed, 1 failed, 0 skipped")
        self.assertFalse(self.tally.good)

    def test_what_is_said_of_a_failure(self):
        self.run_it("echo 1..3; echo not ok 1 - a; echo '#   not this'; "
                    "echo not ok 2 - b '(1.5 s)'; echo '#   because'; "
                    "echo ok 3 - c; echo '#   nor this'; exit 1")
        _, test, _ = self.tally.failures[-1]
        self.assertEqual(test, "b (1.5 s)")
        log = (self.top / "log").read_text().splitlines()
        self.assertEqual(tap.lines_about(log, test),
                         ["not ok 2 - b (1.5 s)", "#   because"])
        self.assertEqual(tap.lines_about(log, "c"), [])

    def test_skip_is_no_pass(self):
        self.assertEqual(self.run_it("echo 1..1; echo 'ok 1 a # SKIP no kvm'"),
                         "0 passed, 0 failed, 1 skipped")
        self.assertFalse(self.tally.good)
        self.assertIn("no kvm", self.printed)

    def test_all_skipped(self):
        self.assertEqual(self.run_it("echo '1..0 # SKIP no kernel'"),
                         "0 passed, 0 failed, 1 skipped")

    def test_empty_plan(self):
        self.assertEqual(self.run_it("echo 1..0"),
                         "0 passed, 1 failed, 0 skipped")

    def test_short(self):
        self.assertEqual(self.run_it("echo 1..2; echo ok 1 a"),
                         "1 passed, 1 failed, 0 skipped")
        self.assertEqual(self.why(), "planned 2 tests but ran 1")

    def test_no_plan(self):
        self.assertEqual(self.run_it("echo ok 1 a"),
                         "1 passed, 1 failed, 0 skipped")

    def test_silence(self):
        self.assertEqual(self.run_it(":"), "0 passed, 1 failed, 0 skipped")

    def test_exit_status(self):
        self.run_it("echo 1..1; echo ok 1 a; exit 3")
        self.assertEqual(self.why(), "exit status 3")

    def test_crash(self):
        self.run_it("echo 1..1; echo ok 1 a; kill -SEGV $$")
        self.assertEqual(self.why(), "killed by SIGSEGV")

    def test_bail_out(self):
        self.run_it("echo 1..1; echo ok 1 a; echo 'Bail out! no more'")
        self.assertEqual(self.why(), "no more")

    def test_hang(self):
        self.run_it("echo 1..1; sleep 600", timeout=1)
        self.assertEqual(self.why(), "stopped after 1 s")

    def test_left_behind(self):
        self.run_it("sleep 600 >/dev/null & echo 1..1; echo ok 1 a; "
                    f"echo $! > {self.top}/pid")
        child = Path("/proc", (self.top / "pid").read_text().strip(), "stat")
        with contextlib.suppress(FileNotFoundError):
            self.assertEqual(child.read_text().split()[2], "Z")

    def test_missing(self):
        self.tally = tap.Tally()
        program = tap.Program("x", "no", [self.top / "none"], 1)
        program.log = self.top / "log"
        with contextlib.redirect_stdout(io.StringIO()):
            tap.run_program(program, self.tally)
        self.assertIn("cannot be started", self.why())

    def test_goes_on_after_a_crash(self):
        script = ('n=0; for a; do [ "$a" = -p ] || n=$((n+1)); done\n'
                  'echo 1..$n; for a; do case $a in -p) ;; /b) kill -ABRT $$;;'
                  ' *) echo ok 1 $a;; esac; done')
        self.assertEqual(self.run_it(script, names=["/a", "/b", "/c"]),
                         "2 passed, 1 failed, 0 skipped")
        self.assertEqual(self.tally.failures[0][1], "/b")

    def test_listed_but_not_run(self):
        self.assertEqual(self.run_it("echo 1..1; echo ok 1 /a",
                                     names=["/a", "/b"]),
                         "1 passed, 1 failed, 0 skipped")
