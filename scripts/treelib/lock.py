# SPDX-License-Identifier: GPL-2.0-or-later
"""base.lock: the base that we are tested with.

    version 1:7.2+dfsg-...
    orig NAME SHA256
    replaced PATH SHA256      one line per file of the base that we replace
"""
import re
import subprocess

from treelib import paths
from treelib.report import Failure

UPSTREAM = "7.2+dfsg"
HEADER = """\
# The base that this work is tested with. Written by 'make lock'; not edited.
"""


class Lock:
    def __init__(self, version, orig_name, orig_sha256, replaced):
        self.version = version
        self.orig_name = orig_name
        self.orig_sha256 = orig_sha256
        self.replaced = replaced

    def text(self):
        lines = [f"version {self.version}",
                 f"orig {self.orig_name} {self.orig_sha256}"]
        lines += [f"replaced {path} {digest}"
                  for path, digest in sorted(self.replaced.items())]
        return HEADER + "\n".join(lines) + "\n"


def read():
    if not paths.LOCK_FILE.exists():
        raise Failure("base.lock is missing; restore it with "
                      "'git checkout base.lock'")
    version = orig = None
    replaced = {}
    for number, line in enumerate(paths.LOCK_FILE.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "version" and len(words) == 2:
            version = words[1]
        elif words[0] == "orig" and len(words) == 3:
            orig = words[1:]
        elif words[0] == "replaced" and len(words) == 3:
            replaced[words[1]] = words[2]
        else:
            raise Failure(f"base.lock:{number}: not understood; run "
                          "'make lock'")
    if not version or not orig:
        raise Failure("base.lock: no version or orig line; restore it with "
                      "'git checkout base.lock'")
    return Lock(version, *orig, replaced)


def is_older(version, than):
    """Compare Debian versions as Debian does."""
    return subprocess.run(["dpkg", "--compare-versions", version, "lt",
                           than]).returncode == 0


def unpacked_version(source):
    """The Debian version of an unpacked source, or a failure that says why
    it is not one that we can use."""
    changelog = source / "debian" / "changelog"
    marker = source / "VERSION"
    if not marker.is_file() or not changelog.is_file():
        raise Failure(f"{source} is not an unpacked Debian source of QEMU "
                      "(no VERSION or debian/changelog); point QEMU_SRC at "
                      f"the directory that 'dpkg-source -x' of qemu {UPSTREAM} "
                      "made")
    with open(changelog, encoding="utf-8", errors="replace") as stream:
        first = stream.readline()
    match = re.match(r"qemu \(([^)]+)\)", first)
    version = match.group(1) if match else "unknown"
    upstream = re.sub(r"^\d+:", "", version).rsplit("-", 1)[0]
    qemu = marker.read_text().strip()
    if upstream != UPSTREAM or not qemu.startswith("7.2."):
        raise Failure(f"{source} is QEMU {qemu}, Debian {version}, but this "
                      f"work goes on top of Debian's {UPSTREAM}; point "
                      "QEMU_SRC at that source or leave it unset")
    return version


def check_base(lock, ours):
    """Compare the base with what we replace in it."""
    for path in ours:
        in_base = paths.BASE / path
        known = lock.replaced.get(path)
        present = in_base.is_file() or in_base.is_symlink()
        if present and known is None:
            raise Failure(f"{path} is a new file of ours, but the base has a "
                          "file of that name; rename ours, or, if it is meant "
                          "to replace the base's, run 'make lock'")
        if not present and in_base.exists():
            raise Failure(f"{path} is a file of ours, but a directory in the "
                          "base; rename ours")
        if known is None:
            continue
        if not present:
            raise Failure(f"{path} replaces a file that is no longer in the "
                          "base; see what became of it there, then run "
                          "'make lock'")
        if paths.sha256(in_base) != known:
            raise Failure(f"{path}, which we replace, changed in the base "
                          "since we were tested with it; carry over what "
                          "changed there, then run 'make lock'")
