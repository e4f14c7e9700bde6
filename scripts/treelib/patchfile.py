# SPDX-License-Identifier: GPL-2.0-or-later
"""patches/series and the patches it names.

A patch is a header (Subject, body, fields), a line "---" and a git diff
without index lines; the diff may be empty.
"""
import re

from treelib import paths
from treelib.report import Failure

FIELDS = ("Files", "Needed-by", "Shown-by")
DIFF_START = re.compile(r"^diff --git a/(.+) b/(.+)$")


class Patch:
    def __init__(self, name):
        self.name = name
        self.file = paths.PATCHES / name
        raw = self.file.read_bytes()
        text = raw.decode("utf-8", "surrogateescape")
        lines = text.splitlines(keepends=True)
        end = next((n for n, line in enumerate(lines)
                    if line.rstrip("\r\n") == "---"), None)
        if end is None:
            raise Failure(f"patches/{name}: no '---' line between the header "
                          "and the diff")
        self.header = "".join(lines[:end + 1])
        self.diff = "".join(lines[end + 1:])

    def field(self, key):
        """The values of all 'KEY: value' lines, in order."""
        prefix = key + ":"
        return [line[len(prefix):].strip()
                for line in self.header.splitlines()
                if line.startswith(prefix)]

    @property
    def subject(self):
        return " ".join(self.field("Subject")[:1])

    @property
    def body(self):
        """Header text between the subject and the first field."""
        kept = []
        for line in self.header.splitlines()[:-1]:
            if line.startswith(tuple(f + ":" for f in FIELDS)):
                continue
            if line.startswith(("Subject:", "From:")) and not kept:
                continue
            kept.append(line)
        return "\n".join(kept).strip("\n")

    def touched(self):
        """The paths that the diff changes, in order."""
        found = []
        for line in self.diff.splitlines():
            if match := DIFF_START.match(line):
                found += [p for p in match.groups() if p not in found]
        return found

    def owns(self, path):
        return any(glob_match(pattern, path) for pattern in self.field("Files"))

    def write(self, diff):
        content = (self.header + diff).encode("utf-8", "surrogateescape")
        if content != self.file.read_bytes():
            self.file.write_bytes(content)
            return True
        return False


def glob_match(pattern, path):
    """'*' and '?' stay within a directory, '**' goes through any number."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(known.get(part) or re.escape(part) for part in parts)
    return re.fullmatch(regex, path) is not None


def series_names():
    if not paths.SERIES.exists():
        raise Failure("patches/series is missing; restore it with "
                      "'git checkout patches/series'")
    names = []
    for line in paths.SERIES.read_text().splitlines():
        name = line.split("#", 1)[0].strip()
        if name:
            names.append(name)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise Failure(f"patches/series names {', '.join(twice)} twice; "
                      "keep one line")
    return names


def load_series():
    patches = []
    for name in series_names():
        if not (paths.PATCHES / name).is_file():
            raise Failure(f"patches/series names {name}, which is not in "
                          "patches/; add the file or remove the line")
        patches.append(Patch(name))
    return patches


def check_ownership(patches, ours):
    """Every file of ours belongs to exactly one entry; no diff touches it."""
    for patch in patches:
        hit = sorted(set(patch.touched()) & set(ours))
        if hit:
            raise Failure(f"patches/{patch.name} changes {hit[0]}, which is a "
                          "whole file of ours; make the change there and "
                          "remove it from the patch")
    for path in ours:
        owners = [p.name for p in patches if p.owns(path)]
        if not owners:
            raise Failure(f"no entry of patches/series names {path}; add a "
                          f"line 'Files: {path}' to the patch it belongs to")
        if len(owners) > 1:
            raise Failure(f"{path} is named by several entries of "
                          f"patches/series ({', '.join(owners)}); keep one")
