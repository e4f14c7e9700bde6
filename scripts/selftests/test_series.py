# SPDX-License-Identifier: GPL-2.0-or-later
"""The series as mails, and what lint finds."""
from selftests.sandbox import OUR_FILES, Sandbox, diff_of

COVER = "Subject: the device\n\nWhy it is\nthere.\n"


class Series(Sandbox):
    def setUp(self):
        super().setUp()
        self.add_patch("b.patch", "memory: b", diff_of(
            "softmmu/memory.c", "line 5", "line five"))
        self.put(self.root / "patches/cover-letter", COVER)
        self.make_tree()

    def mails(self):
        where = self.root / "build" / "series"
        return {f.name: f.read_text() for f in where.iterdir()}

    def test_git_am(self):
        self.run_script("make-series")
        clone = self.top / "clone"
        clone.mkdir()
        self.git("init", "-q", ".", cwd=clone)
        self.git("pull", "-q", str(self.tree), "base", cwd=clone)
        mbox = self.root / "build" / "series" / "virtio-mem.mbox"
        self.git("am", "-q", str(mbox), cwd=clone)
        for path, text in OUR_FILES.items():
            self.assertFalse((clone / path).is_symlink())
            self.assertEqual((clone / path).read_text(), text)
        self.assertEqual((clone / "softmmu/memory.c").read_text(),
                         (self.tree / "softmmu/memory.c").read_text())
        self.assertEqual(self.git("log", "--reverse", "--format=%s",
                                  "HEAD~2..", cwd=clone),
                         "device: replace it\nmemory: b\n")
        text = self.git("log", "-1", "--format=%B", cwd=clone)
        self.assertIn("Because the tests need it.", text)
        self.assertIn("Shown-by: hw/mem/device.c", text)

    def test_cover_letter(self):
        self.run_script("make-series")
        cover = self.mails()["0000-cover-letter.patch"]
        self.assertIn("Subject: [PATCH 0/2] the device\n", cover)
        self.assertIn("\nWhy it is\nthere.\n", cover)
        self.assertIn("device: replace it", cover)
        self.assertNotIn("***", cover)

    def test_same_bytes_again(self):
        self.run_script("make-series")
        before = self.mails()
        self.run_script("make-series")
        self.assertEqual(self.mails(), before)

    def test_without_cover_letter(self):
        (self.root / "patches/cover-letter").unlink()
        self.fails("make-series", "patches/cover-letter")


class Lint(Sandbox):
    def setUp(self):
        super().setUp()
        self.make_tree()

    def finds(self, *needles):
        output = self.run_script("lint", ok=False)
        for needle in needles:
            self.assertIn(needle, output)

    def test_clean(self):
        self.run_script("lint")

    def test_header(self):
        file = self.root / "patches/device.patch"
        good = file.read_text()
        for old, new, needle in (
                ("Shown-by: hw/mem/device.c\n", "", "no Shown-by"),
                ("Needed-by: hw/mem/device.c\n", "", "no Needed-by"),
                ("Needed-by: hw/mem/", "Needed-by: hw/no/", "hw/no/device.c"),
                ("Because the tests need it.\n", "", "no body"),
                ("device: replace it", "device: TODO", "TODO"),
                ("device: replace it", "Replace it.", "Subject: area"),
                ("Files: hw/mem/device.c\n", "Files: hw/mem/device.c\n"
                 "Files: hw/gone.c\n", "hw/gone.c")):
            with self.subTest(needle):
                file.write_text(good.replace(old, new))
                self.finds("patches/device.patch", needle)
        file.write_text(good)

    def test_series(self):
        self.add_patch("left.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 5", "line five"), listed=False)
        self.finds("patches/left.patch: is not in patches/series")

    def test_name(self):
        self.add_patch("0001-b.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 5", "line five"))
        self.finds("patches/0001-b.patch", "without a number")

    def test_normal_form(self):
        file = self.root / "patches/device.patch"
        file.write_text(file.read_text().replace("@@ line 16", "@@"))
        self.finds("make refresh")

    def test_stale_lock(self):
        with open(self.root / "base.lock", "a") as stream:
            stream.write("replaced hw/gone.c 0\n")
        self.finds("hw/gone.c")

    def test_text(self):
        host = "deb.debian" + ".org/debian"
        self.put(self.root / "scripts/bad.sh", "#!/bin/sh\nif then\n")
        self.put(self.root / "scripts/bad.py", "def\n")
        self.put(self.root / "scripts/white", "a \nb")
        self.put(self.root / "scripts/host", f"see {host}\n")
        self.finds("scripts/bad.sh:", "scripts/bad.py:1", "scripts/white:1",
                   "scripts/white: no newline", "scripts/host:1: names a host",
                   "scripts/host: no 'SPDX")

    def test_style(self):
        self.put(self.source / "scripts/checkpatch.pl",
                 'print "x.c:3: ERROR: bad style\\n";')
        self.set_base_version("1:7.2+dfsg-7+deb12u19")
        self.make_tree()
        self.finds("hw/mem/device.c:3: ERROR: bad style",
                   "patches/device.patch:3: ERROR: bad style")
