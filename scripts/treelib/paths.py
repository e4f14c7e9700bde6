# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are: the repository, what is ours in it, and build/."""
import fnmatch
import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
BASE = BUILD / "base"
BASE_STAMP = BUILD / "base.stamp"
TREE = BUILD / "tree"
LOGS = BUILD / "logs"
LOCK_FILE = ROOT / "base.lock"
PATCHES = ROOT / "patches"
SERIES = PATCHES / "series"

# The directories whose files are whole files of our own. Everything else of
# QEMU's is changed by a patch.
OUR_DIRS = ("accel", "hw", "include", "migration", "softmmu", "stubs",
            "subprojects", "tests", "docs", "util")

# What editors, Python and patch(1) leave behind is never part of the work.
LITTER = ("*.pyc", "*~", "*.orig", "*.rej", "*.swp", ".*", "#*#")
LITTER_DIRS = ("__pycache__",)


def is_litter(name):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LITTER)


def our_files():
    """The repository-relative paths of all files of ours, sorted."""
    found = []
    for top in OUR_DIRS:
        for where, dirs, names in os.walk(ROOT / top):
            dirs[:] = sorted(d for d in dirs
                             if d not in LITTER_DIRS and not is_litter(d))
            here = Path(where).relative_to(ROOT)
            found += [str(here / n) for n in names if not is_litter(n)]
    return sorted(found)


def in_our_dirs(path):
    return path.split("/", 1)[0] in OUR_DIRS and "/" in path


def link_text(path):
    """What the symlink build/tree/PATH contains."""
    return os.path.relpath(ROOT / path, (TREE / path).parent)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
