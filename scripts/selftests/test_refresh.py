# SPDX-License-Identifier: GPL-2.0-or-later
"""Edits of build/tree find their way back, and nothing else changes."""
import os

from selftests.sandbox import NUMBERED, Sandbox, diff_of


class Refresh(Sandbox):
    def setUp(self):
        super().setUp()
        self.add_patch("b.patch", "memory: b", diff_of(
            "softmmu/memory.c", "line 5", "line five")
            + diff_of("softmmu/physmem.c", "line 7", "line seven"))
        self.make_tree()

    def edit(self, path, old, new):
        file = self.tree / path
        text = file.read_text()
        self.assertIn(old, text)
        file.write_text(text.replace(old, new))

    def everything(self):
        return {f: f.read_bytes() for top in ("patches", "hw", "include")
                for f in (self.root / top).rglob("*") if f.is_file()}

    def refresh(self, **env):
        return self.run_script("refresh", **env)

    def check_settled(self):
        """A second refresh and a fresh assembly change nothing."""
        files, tree = self.everything(), self.snapshot()
        self.refresh()
        self.run_script("assemble")
        self.assertEqual(self.everything(), files)
        self.assertEqual(self.snapshot(), tree)
        self.assertEqual(self.git("status", "--short"), "")

    def test_nothing_to_do(self):
        before = self.everything()
        self.refresh()
        self.assertEqual(self.everything(), before)
        self.check_settled()

    def test_normal_form(self):
        wanted = self.patch("b.patch")
        (self.root / "patches/b.patch").write_text(wanted.replace(
            "--- a/softmmu/memory.c",
            "index 0123456..789abcd 100644\n--- a/softmmu/memory.c"))
        self.refresh()
        self.assertEqual(self.patch("b.patch"), wanted)

    def test_only_owner(self):
        other = self.patch("device.patch")
        before = self.snapshot()
        self.edit("softmmu/physmem.c", "line 30\n", "line thirty\n")
        edited = self.snapshot()
        self.refresh()
        self.assertIn("+line thirty\n", self.patch("b.patch"))
        self.assertEqual(self.patch("device.patch"), other)
        self.assertNotEqual(edited, before)
        self.assertEqual(self.snapshot(), edited)
        self.check_settled()

    def test_asks_where_several_patches_touch_it(self):
        self.edit("softmmu/memory.c", "line 30\n", "line thirty\n")
        self.fails("refresh", "PATCH=name", "softmmu/memory.c", "b.patch",
                   "device.patch")

    def test_clear_edits_are_taken_before_it_asks(self):
        self.edit("softmmu/memory.c", "line 30\n", "line thirty\n")
        self.edit("softmmu/physmem.c", "line 31\n", "line thirty-one\n")
        self.fails("refresh", "softmmu/memory.c")
        self.assertIn("+line thirty-one\n", self.patch("b.patch"))
        self.assertNotIn("+line thirty\n", self.patch("b.patch"))

    def test_last_patch(self):
        self.edit("softmmu/memory.c", "line 30\n", "line thirty\n")
        self.refresh(PATCH="b")
        self.assertIn("+line thirty\n", self.patch("b.patch"))
        self.assertNotIn("thirty", self.patch("device.patch"))
        self.check_settled()

    def test_earlier_patch(self):
        later = self.patch("b.patch")
        self.edit("softmmu/memory.c", "line 30\n", "line thirty\n")
        self.refresh(PATCH="device.patch")
        self.assertIn("+line thirty\n", self.patch("device.patch"))
        self.assertEqual(self.patch("b.patch"), later)
        self.check_settled()

    def test_earlier_patch_that_a_later_one_builds_on(self):
        before = self.everything()
        self.edit("softmmu/memory.c", "line five\n", "line V\n")
        self.fails("refresh", "softmmu/memory.c", "PATCH=b.patch",
                   PATCH="device")
        self.assertEqual(self.everything(), before)

    def test_new_patch(self):
        self.edit("hw/mem/other.c", "other", "another")
        self.fails("refresh", "hw/mem/other.c", "no patch yet")
        self.refresh(PATCH="other")
        self.assertIn("+int another;\n", self.patch("other.patch"))
        self.assertIn("TODO", self.patch("other.patch"))
        self.assertTrue((self.root / "patches/series").read_text()
                        .endswith("other.patch\n"))
        self.check_settled()

    def test_undone_edit_of_a_patch(self):
        (self.tree / "softmmu/physmem.c").write_text(NUMBERED)
        self.refresh()
        self.assertNotIn("physmem", self.patch("b.patch"))
        self.check_settled()

    def test_removed_file(self):
        (self.tree / "hw/mem/other.c").unlink()
        self.refresh(PATCH="b")
        self.assertIn("deleted file mode 100644", self.patch("b.patch"))
        self.check_settled()

    def test_edit_through_a_link(self):
        self.edit("hw/mem/device.c", "our_device", "my_device")
        self.assertIn("my_device",
                      (self.root / "hw/mem/device.c").read_text())
        self.check_settled()

    def test_copy_in_place_of_a_link(self):
        link = self.tree / "hw/mem/device.c"
        link.unlink()
        link.write_text("int by_an_editor;\n")
        self.refresh()
        self.assertTrue(link.is_symlink())
        self.assertEqual((self.root / "hw/mem/device.c").read_text(),
                         "int by_an_editor;\n")

    def test_older_copy_in_place_of_a_link(self):
        link = self.tree / "hw/mem/device.c"
        link.unlink()
        link.write_text("int by_an_editor;\n")
        os.utime(link, (1, 1))
        self.fails("refresh", "hw/mem/device.c", "changed later")

    def test_new_file_of_ours(self):
        (self.tree / "hw/mem/added.c").write_text("int added;\n")
        self.assertIn("ADD=hw/mem/added.c", self.refresh())
        self.refresh(ADD="hw/mem/added.c", PATCH="b")
        self.assertEqual((self.root / "hw/mem/added.c").read_text(),
                         "int added;\n")
        self.assertTrue((self.tree / "hw/mem/added.c").is_symlink())
        self.assertIn("Files: hw/mem/added.c\n", self.patch("b.patch"))
        self.check_settled()

    def test_new_file_of_qemu(self):
        (self.tree / "qapi").mkdir()
        (self.tree / "qapi/more.json").write_text("{}\n")
        self.assertIn("qapi/more.json", self.refresh())
        self.fails("refresh", "PATCH=name", ADD="qapi/more.json")
        self.refresh(ADD="qapi/more.json", PATCH="b")
        self.assertIn("new file mode 100644", self.patch("b.patch"))
        self.assertEqual((self.tree / "qapi/more.json").read_text(), "{}\n")
        self.check_settled()
