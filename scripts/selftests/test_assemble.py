# SPDX-License-Identifier: GPL-2.0-or-later
"""What assembling makes, leaves alone, and refuses."""
from selftests.sandbox import (BASE_FILES, OUR_FILES, NUMBERED, Sandbox,
                               diff_of)


class Result(Sandbox):
    def test_tree(self):
        self.make_tree()
        for path, text in OUR_FILES.items():
            self.assertTrue((self.tree / path).is_symlink(), path)
            self.assertEqual((self.tree / path).read_text(), text)
        self.assertEqual((self.tree / "softmmu/memory.c").read_text(),
                         NUMBERED.replace("line 20\n", "line twenty\n"))
        self.assertEqual((self.tree / "hw/mem/other.c").read_text(),
                         BASE_FILES["hw/mem/other.c"])
        self.assertEqual(self.git("status", "--short"), "")
        first = self.git("rev-list", "--max-parents=0", "HEAD").strip()
        self.assertEqual(self.git("show", f"{first}:hw/mem/device.c"),
                         BASE_FILES["hw/mem/device.c"])

    def test_again_touches_nothing(self):
        self.make_tree()
        before = self.snapshot()
        self.make_tree()
        self.assertEqual(self.snapshot(), before)

    def test_edit_is_seen_through_the_link(self):
        self.make_tree()
        before = self.snapshot()
        self.put(self.root / "hw/mem/device.c", "int edited;\n")
        self.make_tree()
        self.assertEqual(self.snapshot(), before)
        self.assertEqual((self.tree / "hw/mem/device.c").read_text(),
                         "int edited;\n")

    def test_changed_patch_touches_its_file_only(self):
        self.add_patch("b.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 5", "line five"))
        self.make_tree()
        before = self.snapshot()
        self.add_patch("b.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 5", "line V"))
        self.make_tree()
        after = self.snapshot()
        changed = {p for p in after if after[p] != before.get(p)}
        self.assertEqual(changed, {"softmmu/physmem.c"})

    def test_offset_is_fine(self):
        self.add_patch("b.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 9", "line nine").replace(
                "@@ -6,7 +6,7 @@", "@@ -26,7 +26,7 @@"))
        self.make_tree()
        self.assertIn("line nine",
                      (self.tree / "softmmu/physmem.c").read_text())

    def test_files_come_and_go(self):
        self.make_tree()
        new = self.root / "hw/mem/added.c"
        self.put(new, "int added;\n")
        self.add_patch("new.patch", "mem: add", "", ["hw/mem/a*.c"])
        self.make_tree()
        self.assertTrue((self.tree / "hw/mem/added.c").is_symlink())
        new.rename(self.root / "hw/mem/agile.c")
        self.make_tree()
        self.assertFalse((self.tree / "hw/mem/added.c").is_symlink())
        self.assertEqual((self.tree / "hw/mem/agile.c").read_text(),
                         "int added;\n")
        (self.root / "hw/mem/agile.c").unlink()
        (self.root / "hw/mem/device.c").unlink()
        self.make_tree()
        self.assertFalse((self.tree / "hw/mem/agile.c").is_symlink())
        self.assertFalse((self.tree / "hw/mem/device.c").is_symlink())
        self.assertEqual((self.tree / "hw/mem/device.c").read_text(),
                         BASE_FILES["hw/mem/device.c"])

    def test_broken_links_are_made_again(self):
        self.make_tree()
        link = self.tree / "hw/mem/device.c"
        link.unlink()
        self.make_tree()
        self.assertTrue(link.is_symlink())

    def test_edits_of_other_files_survive(self):
        self.make_tree()
        edited = self.tree / "softmmu/physmem.c"
        text = NUMBERED.replace("line 30\n", "line thirty\n")
        edited.write_text(text)
        self.add_patch("device.patch", "device: replace it", diff_of(
            "softmmu/memory.c", "line 20", "line XX"), OUR_FILES)
        self.make_tree()
        self.assertEqual(edited.read_text(), text)
        self.assertIn("line XX", (self.tree / "softmmu/memory.c").read_text())

    def test_edit_of_a_file_that_patches_change_is_merged(self):
        self.make_tree()
        edited = self.tree / "softmmu/memory.c"
        edited.write_text(edited.read_text().replace("line 30\n", "line X\n"))
        self.add_patch("device.patch", "device: replace it", diff_of(
            "softmmu/memory.c", "line 20", "line XX"), OUR_FILES)
        self.make_tree()
        self.assertIn("line XX\n", edited.read_text())
        self.assertIn("line X\n", edited.read_text())

    def test_settings_of_the_user_do_not_matter(self):
        self.make_tree()
        ids = self.git("log", "--format=%T")
        self.put(self.home / ".gitconfig", """\
[commit]
gpgsign = true
[gpg]
program = /bin/false
[core]
autocrlf = true
hooksPath = /nonexistent
excludesFile = /dev/stdin
[apply]
whitespace = error-all
[diff]
noprefix = true
mnemonicPrefix = true
[init]
templateDir = /nonexistent
defaultBranch = other
""")
        self.run_script("clean")
        self.make_tree(GIT_DIR="/nonexistent", GIT_INDEX_FILE="/nonexistent",
                       GIT_AUTHOR_NAME="")
        self.assertEqual(self.git("log", "--format=%T"), ids)


class Refusals(Sandbox):
    def refused(self, *needles):
        self.fetch()
        self.fails("assemble", *needles)

    def test_without_base(self):
        self.fails("assemble", "make tree")

    def test_replaced_file_changed(self):
        self.make_tree()
        self.change_base("hw/mem/device.c", "int newer;\n")
        self.refused("hw/mem/device.c", "changed in the base", "make lock")
        self.run_script("lock-base")
        self.make_tree()

    def test_replaced_file_gone(self):
        (self.source / "hw/mem/device.c").unlink()
        self.refused("hw/mem/device.c", "no longer in the base")

    def test_new_file_exists_already(self):
        self.change_base("include/hw/device.h", "int theirs;\n")
        self.refused("include/hw/device.h", "new file of ours")

    def test_patch_needs_fuzz(self):
        self.change_base("softmmu/memory.c",
                         NUMBERED.replace("line 17\n", "line seventeen\n"))
        self.refused("patches/device.patch", "without fuzz",
                     "softmmu/memory.c:17")

    def test_patch_does_not_apply(self):
        self.add_patch("b.patch", "phys: b", diff_of(
            "softmmu/missing.c", "line 5", "line V"))
        self.refused("patches/b.patch", "softmmu/missing.c")

    def test_patch_is_damaged(self):
        self.add_patch("b.patch", "phys: b", diff_of(
            "softmmu/physmem.c", "line 5", "line V") + "@@ -20 +20,9 @@\n x\n")
        self.refused("patches/b.patch", "corrupt")

    def test_patch_touches_ours(self):
        self.add_patch("b.patch", "mem: b", diff_of(
            "hw/mem/device.c", "line 5", "line V"))
        self.refused("patches/b.patch", "hw/mem/device.c", "whole file")

    def test_file_in_no_entry(self):
        self.put(self.root / "hw/mem/added.c", "int added;\n")
        self.refused("hw/mem/added.c", "Files:")

    def test_file_in_two_entries(self):
        self.add_patch("b.patch", "mem: b", "", ["hw/**"])
        self.refused("hw/mem/device.c", "device.patch, b.patch")

    def test_series_names_a_missing_patch(self):
        self.add_patch("b.patch", "phys: b", "")
        (self.root / "patches/b.patch").unlink()
        self.refused("b.patch", "not in patches/")

    def test_edit_conflicts_with_a_patch(self):
        self.make_tree()
        edited = self.tree / "softmmu/memory.c"
        edited.write_text(NUMBERED.replace("line 20\n", "line mine\n"))
        self.add_patch("device.patch", "device: replace it", diff_of(
            "softmmu/memory.c", "line 20", "line XX"), OUR_FILES)
        self.refused("build/tree/softmmu/memory.c", "conflicts")
        self.assertIn("line mine", edited.read_text())

    def test_copy_in_place_of_a_link(self):
        self.make_tree()
        link = self.tree / "hw/mem/device.c"
        link.unlink()
        link.write_text("int by_an_editor;\n")
        self.refused("hw/mem/device.c", "make refresh")
        self.assertEqual(link.read_text(), "int by_an_editor;\n")

    def test_damaged_lock(self):
        self.fetch()
        with open(self.root / "base.lock", "a") as stream:
            stream.write("replaced hw/mem/device.c\n")
        self.fails("assemble", "base.lock:4")
