# SPDX-License-Identifier: GPL-2.0-or-later
"""What 'make check' is made of."""
import os
import re
import subprocess

from treelib import compiling, paths, tap

# Nothing here asserts a time; these only keep a hanging test from blocking.
UNIT_TIMEOUT = 600
QTEST_TIMEOUT = 1200
GUEST_TIMEOUT = 2400
NESTED_TIMEOUT = 5400
SCRIPTS_TIMEOUT = 600

# A leak at exit of an emulator or of libqtest says nothing about our device;
# a unit test is all ours.
SANITIZER_ENV = {
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
}
LEAKS = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1"}


class Suites:
    def __init__(self, targets, sanitizers, tally):
        self.targets = targets
        self.sanitizers = sanitizers
        self.out = compiling.OUT_SANITIZERS if sanitizers else compiling.OUT
        self.tally = tally

    def binary(self, target):
        return self.out / ("qemu-system-" + target.removesuffix("-softmmu"))

    def environment(self):
        return dict(SANITIZER_ENV) if self.sanitizers else {}

    def missing(self, label, name, why):
        self.tally.add(tap.Program(label, name, [name], 0), name, "failed", why)

    def scripts(self):
        program = tap.Program("scripts", "selftest",
                              [paths.ROOT / "scripts" / "selftest"],
                              SCRIPTS_TIMEOUT)
        tap.run_program(program, self.tally)

    def unit(self):
        sources = [p for p in paths.our_files()
                   if re.fullmatch(r"tests/unit/test-[^/]+\.c", p)]
        if not sources:
            self.missing("unit", "tests/unit", "there are no unit tests")
        for source in sources:
            name = os.path.basename(source).removesuffix(".c")
            file = self.out / "tests" / "unit" / name
            if not file.exists():
                self.missing("unit", name, f"{source} is not built; does a "
                             "patch add it to tests/unit/meson.build?")
                continue
            env = self.environment() | (LEAKS if self.sanitizers else {})
            tap.run_program(
                tap.Program("unit", name, [file, "--tap", "-k"], UNIT_TIMEOUT,
                            env, self.out), self.tally)

    def qtest(self):
        for target in self.targets:
            self.qos_tests(target)
            self.own_qtests(target)
        if "x86_64-softmmu" in self.targets and not self.sanitizers:
            for name in compiling.BASE_QTESTS:
                self.base_qtest(name, "x86_64-softmmu")

    def qtest_program(self, name, target):
        env = self.environment() | {
            "QTEST_QEMU_BINARY": str(self.binary(target)),
            "QTEST_QEMU_IMG": str(self.out / "qemu-img"),
            "G_TEST_SRCDIR": str(paths.TREE / "tests" / "qtest"),
            "G_TEST_BUILDDIR": str(self.out / "tests" / "qtest"),
        }
        arch = target.removesuffix("-softmmu")
        label = "qtest" if arch == "x86_64" else f"qtest-{arch}"
        file = self.out / "tests" / "qtest" / name
        return tap.Program(label, name, [file, "--tap", "-k"], QTEST_TIMEOUT,
                           env, self.out)

    def qos_tests(self, target):
        program = self.qtest_program("qos-test", target)
        if not self.binary(target).exists():
            self.missing(program.label, self.binary(target).name,
                         "is not built")
            return
        listed = subprocess.run(
            [program.command[0], "-l"], cwd=program.cwd, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=UNIT_TIMEOUT,
            env=os.environ | program.env)
        names = [line for line in listed.stdout.splitlines()
                 if line.startswith("/") and "virtio-mem" in line]
        if listed.returncode or not names:
            self.missing(program.label, "qos-test",
                         "lists no test of virtio-mem")
            return
        tap.run_selected(program, names, self.tally)

    def own_qtests(self, target):
        """Those of our qtests that start machines of their own."""
        folder = self.out / "tests" / "qtest"
        names = sorted(path.name for path in folder.glob("virtio-mem-*-test")
                       if path.is_file())
        if not names:
            self.missing("qtest", "virtio-mem-*-test", "are not built; does a "
                         "patch add them to tests/qtest/meson.build?")
        for name in names:
            tap.run_program(self.qtest_program(name, target), self.tally)

    def base_qtest(self, name, target):
        program = self.qtest_program(name, target)
        if not os.path.exists(program.command[0]):
            self.missing(program.label, name, "is not built")
            return
        tap.run_program(program, self.tally)

    def guest(self):
        runner = paths.ROOT / "tests" / "guest" / "run"
        tap.run_program(
            tap.Program("guest", "tests/guest",
                        [runner, "--binary", self.binary("x86_64-softmmu")],
                        GUEST_TIMEOUT, self.environment()), self.tally)

    def nested(self):
        runner = paths.ROOT / "tests" / "nested" / "run"
        tap.run_program(
            tap.Program("nested", "tests/nested",
                        [runner, "--binary", self.binary("x86_64-softmmu")],
                        NESTED_TIMEOUT), self.tally)
