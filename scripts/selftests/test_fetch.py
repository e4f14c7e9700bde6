# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the base comes from, and what is said where it does not come."""
import contextlib
import hashlib
import io
import os
import sys
from unittest import mock

from selftests.sandbox import Sandbox
from treelib import aptsource, report

FAKE_UPDATE = """#!/bin/sh
case "$*" in
*update*) echo "{update}" ;;
*) echo "E: Failed to fetch something  Could not resolve 'somewhere'"; exit 100
esac
"""
FAKE_SHOWSRC = """#!/bin/sh
printf '{records}'
"""
RECORD = "Package: qemu\\nVersion: {}\\n\\n"


class Directory(Sandbox):
    def refused(self, *needles, source=None):
        self.fails("fetch-base", *needles,
                   QEMU_SRC=str(source or self.source))

    def test_taken_once(self):
        self.assertIn("copying", self.fetch())
        self.assertEqual(self.fetch(), "")

    def test_not_a_source(self):
        self.refused("not an unpacked Debian source", source=self.home)

    def test_other_release(self):
        self.set_base_version("1:8.2.2+dfsg-1")
        self.refused("1:8.2.2+dfsg-1", "7.2+dfsg")

    def test_other_qemu(self):
        (self.source / "VERSION").write_text("8.0.0\n")
        self.refused("QEMU 8.0.0")

    def test_older_revision(self):
        self.set_base_version("1:7.2+dfsg-7+deb12u9")
        self.refused("older than")

    def test_newer_revision(self):
        self.set_base_version("1:7.2+dfsg-7+deb12u19")
        output = self.make_tree()
        self.assertIn("note: the base is 1:7.2+dfsg-7+deb12u19", output)

    def test_same_revision_needs_no_note(self):
        self.assertNotIn("note:", self.make_tree())

    def test_tarball_next_to_it(self):
        tarball = self.top / "qemu_7.2+dfsg.orig.tar.xz"
        tarball.write_bytes(b"another")
        self.refused("checksum differs")
        self.write_lock({}, hashlib.sha256(b"another").hexdigest())
        self.fetch()


class Apt(Sandbox):
    """With programs in place of apt's, so that no network is needed."""

    def fake(self, name, text):
        file = self.top / "bin" / name
        self.put(file, text)
        file.chmod(0o755)

    def refused(self, *needles):
        path = f"{self.top / 'bin'}:{os.environ['PATH']}"
        self.fails("fetch-base", *needles, PATH=path)

    def offer(self, *versions, update=""):
        self.fake("apt-get", FAKE_UPDATE.format(update=update))
        self.fake("apt-cache", FAKE_SHOWSRC.format(
            records="".join(map(RECORD.format, versions))))
        self.fake("dpkg-source", "#!/bin/sh\nexit 1\n")
        self.fake("xz", "#!/bin/sh\n")

    def test_no_network(self):
        self.offer(update="Err: Temporary failure resolving 'somewhere'")
        self.refused("cannot be reached", "QEMU_SRC")

    def test_no_source(self):
        self.offer()
        self.refused("have no source of qemu", "QEMU_SRC")

    def test_other_release(self):
        self.offer("1:10.0.2+ds-2")
        self.refused("offers qemu 1:10.0.2+ds-2", "Debian 12")

    def test_older_revision(self):
        self.offer("1:7.2+dfsg-7+deb12u2")
        self.refused("older than", "security")

    def test_disk_full(self):
        self.offer(update="write error: No space left on device")
        self.refused("is full")

    def test_download_fails(self):
        self.offer("1:7.2+dfsg-7+deb12u18")
        self.refused("download failed", "network")

    def test_damaged_download(self):
        self.offer()
        download = self.root / "build" / "download"
        self.put(download / "qemu_7.2+dfsg-7+deb12u18.dsc", "x")
        self.put(download / "qemu_7.2+dfsg.orig.tar.xz", "x")
        self.refused("checksum differs", "remove it")

    def test_unpacking_fails(self):
        self.offer()
        download = self.root / "build" / "download"
        self.put(download / "qemu_7.2+dfsg-7+deb12u18.dsc", "x")
        self.put(download / "qemu_7.2+dfsg.orig.tar.xz", "x")
        self.write_lock({}, hashlib.sha256(b"x").hexdigest())
        self.refused("cannot be unpacked", "build/download")

    def test_missing_program(self):
        for name in ("env", "git"):
            self.fake(name, f'#!/bin/sh\nexec {"/usr/bin/" + name} "$@"\n')
        self.fake("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.fails("fetch-base", "apt-get", "make setup",
                   PATH=str(self.top / "bin"))

    def test_missing_package(self):
        self.fake("dpkg-query", "#!/bin/sh\nexit 1\n")
        path = f"{self.top / 'bin'}:{os.environ['PATH']}"
        output = self.run_script("setup", "--check", ok=False, PATH=path)
        self.assertEqual(output.count("\n"), 1)
        self.assertIn("dpkg-dev", output)
        self.assertIn("run 'make setup'", output)


class Sources(Sandbox):
    """Binary entries of apt's configuration become source entries."""

    def test_deb822(self):
        self.assertEqual(aptsource.deb822_sources(
            "Types: deb\n# Types: x\nURIs: mirror\nSuites: a\n\n"
            "Types: deb deb-src\nURIs: b\nSuites: b\nSigned-By:\n -----\n .\n"
            "\nTypes: deb\nEnabled: no\nURIs: c\nSuites: c\n"
            "\nTypes: deb\nURIs: cdrom:[x]\nSuites: d\n"),
            "Types: deb-src\nURIs: mirror\nSuites: a\n\n"
            "Types: deb-src\nURIs: b\nSuites: b\nSigned-By:\n -----\n .")

    def test_one_line(self):
        self.assertEqual(aptsource.one_line_sources(
            "# deb x y z\ndeb [arch=amd64 signed-by=/k] u s main # why\n"
            "deb-src u t main\ndeb u t main\ndeb cdrom:[x]/ s main\n"),
            "deb-src [arch=amd64 signed-by=/k] u s main\ndeb-src u t main")

    def test_nothing_configured(self):
        with mock.patch.object(aptsource, "ETC", self.home), \
                mock.patch.object(aptsource, "APT", self.top / "apt"):
            with self.assertRaisesRegex(report.Failure, "QEMU_SRC"):
                aptsource.write_private_sources()
            self.put(self.home / "sources.list", "deb u s main\n")
            aptsource.write_private_sources()
        written = self.top / "apt" / "sources.d" / "sources.list"
        self.assertEqual(written.read_text(), "deb-src u s main\n")

    def test_too_little_space(self):
        with mock.patch.object(report.paths, "BUILD", self.top), \
                self.assertRaisesRegex(report.Failure, "free some space"):
            report.need_disk(1 << 40, "this test")

    def test_disk_fills_up(self):
        def write():
            raise OSError(28, "No space left on device", "/somewhere")
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), \
                self.assertRaises(SystemExit) as ended:
            report.main(write)
        self.assertEqual(ended.exception.code, 1)
        self.assertRegex(errors.getvalue(),
                         r"^error: .*/somewhere is full; free some .*\n$")
