# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository like ours in miniature, with a base of a few lines."""
import hashlib
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
VERSION = "1:7.2+dfsg-7+deb12u18"

NUMBERED = "".join(f"line {n}\n" for n in range(1, 41))
BASE_FILES = {
    "VERSION": "7.2.22\n",
    "hw/mem/device.c": "int base_device;\n",
    "hw/mem/other.c": "int other;\n",
    "softmmu/memory.c": NUMBERED,
    "softmmu/physmem.c": NUMBERED,
    "scripts/checkpatch.pl": "exit 0;\n",
}
OUR_FILES = {
    "hw/mem/device.c": "/* SPDX-License-Identifier: GPL-2.0-or-later */\n"
                       "int our_device;\n",
    "include/hw/device.h": "/* SPDX-License-Identifier: GPL-2.0-or-later */\n"
                           "extern int our_device;\n",
}
HEADER = """\
Subject: {subject}

Because the tests need it.

{fields}Shown-by: hw/mem/device.c
---
"""


def diff_of(path, old, new, at=None):
    """A diff that replaces one line of NUMBERED."""
    number = at or int(old.split()[1])
    before = [f" line {n}\n" for n in range(number - 3, number)]
    after = [f" line {n}\n" for n in range(number + 1, number + 4)]
    return (f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
            f"@@ -{number - 3},7 +{number - 3},7 @@ line {number - 4}\n"
            + "".join(before) + f"-{old}\n+{new}\n" + "".join(after))


class Sandbox(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="vmem-selftest-")
        self.addCleanup(holder.cleanup)
        self.top = Path(holder.name)
        self.root = self.top / "repo"
        self.source = self.top / "qemu-7.2+dfsg"
        self.tree = self.root / "build" / "tree"
        shutil.copytree(SCRIPTS, self.root / "scripts", ignore=(
            lambda _, names: [n for n in names if n == "__pycache__"]))
        self.home = self.top / "home"
        self.home.mkdir()
        for path, text in BASE_FILES.items():
            self.put(self.source / path, text)
        self.set_base_version(VERSION)
        for path, text in OUR_FILES.items():
            self.put(self.root / path, text)
        self.series = []
        self.add_patch("device.patch", "device: replace it", diff_of(
            "softmmu/memory.c", "line 20", "line twenty"), OUR_FILES)
        self.write_lock({"hw/mem/device.c": BASE_FILES["hw/mem/device.c"]})

    @staticmethod
    def put(file, text):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def set_base_version(self, version):
        self.put(self.source / "debian" / "changelog",
                 f"qemu ({version}) bookworm; urgency=medium\n")

    def write_lock(self, replaced, orig="0" * 64):
        lines = [f"version {VERSION}", f"orig qemu_7.2+dfsg.orig.tar.xz {orig}"]
        lines += [f"replaced {path} {hashlib.sha256(text.encode()).hexdigest()}"
                  for path, text in replaced.items()]
        self.put(self.root / "base.lock", "\n".join(lines) + "\n")

    def add_patch(self, name, subject, diff, files=(), listed=True):
        fields = "".join(f"Files: {path}\n" for path in files)
        fields += "Needed-by: hw/mem/device.c\n" if diff else ""
        header = HEADER.format(subject=subject, fields=fields)
        self.put(self.root / "patches" / name, header + diff)
        if listed and name not in self.series:
            self.series.append(name)
        self.put(self.root / "patches" / "series",
                 "# comment\n" + "".join(f"{n}\n" for n in self.series))

    def patch(self, name):
        return (self.root / "patches" / name).read_text()

    def run_script(self, name, *arguments, ok=True, **env):
        """Run a command; returns what it printed, both streams."""
        full = os.environ | {"HOME": str(self.home)} | env
        if "QEMU_SRC" not in env:
            full.pop("QEMU_SRC", None)
        done = subprocess.run([str(self.root / "scripts" / name), *arguments],
                              env=full, text=True, cwd=self.root,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300)
        self.assertEqual(done.returncode == 0, ok, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        return done.stdout

    def fails(self, name, *needles, **env):
        """The command fails, and its one error line contains the needles."""
        output = self.run_script(name, ok=False, **env)
        errors = [l for l in output.splitlines() if l.startswith("error: ")]
        self.assertEqual(len(errors), 1, output)
        self.assertEqual(output.splitlines()[-1], errors[0], output)
        for needle in needles:
            self.assertIn(needle, errors[0])

    def fetch(self):
        return self.run_script("fetch-base", QEMU_SRC=str(self.source))

    def make_tree(self, **env):
        self.fetch()
        return self.run_script("assemble", **env)

    def change_base(self, path, text):
        """A new revision of the base in which a file differs."""
        self.put(self.source / path, text)
        self.set_base_version("1:7.2+dfsg-7+deb12u19")

    def snapshot(self):
        """What ninja looks at, and more: {path: (time, inode, link)}."""
        found = {}
        for where, dirs, names in os.walk(self.tree):
            if ".git" in dirs:
                dirs.remove(".git")
            for name in names:
                file = Path(where) / name
                info = file.lstat()
                found[str(file.relative_to(self.tree))] = (
                    info.st_mtime_ns, info.st_ino,
                    os.readlink(file) if file.is_symlink() else None)
        return found

    def git(self, *arguments, cwd=None):
        return subprocess.run(
            ["git", "-c", "user.name=T", "-c", "user.email=t@localhost",
             *arguments], cwd=cwd or self.tree, text=True, check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT).stdout
