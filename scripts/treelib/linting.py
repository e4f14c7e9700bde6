# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of everything in the repository that need no build.

Every check yields (file, complaint).
"""
import ast
import os
import re
import subprocess

from treelib import lock, patchfile, paths, stack
from treelib.mailing import repository_value

C_FILE = re.compile(r"\.(c|h|c\.inc|h\.inc)$")
SPDX = "SPDX-License-Identifier: GPL-2.0-or-later"
SUBJECT = re.compile(r"[a-z][\w/.,*-]*: \S.*[^.]")
# Where the packages come from is the user's business.
MIRROR = re.compile(r"\b(?:[a-z0-9-]+\.)*(?:debian|ubuntu)\.(?:org|net|com)\b"
                    r"[/:]|\b(?:https?|ftp)://[^\s/]*"
                    r"(?:mirror|debian|deb\.|archive)[^\s]*", re.IGNORECASE)
NO_SPDX = ("README.md", "CONTRIBUTING.md", "COPYING", ".gitignore",
           ".editorconfig", "base.lock", "patches/series",
           "patches/cover-letter")


def repository_files():
    """All files that are, or are about to be, under version control."""
    listed = repository_value("ls-files", "-z", "--cached", "--others",
                              "--exclude-standard")
    names = {n for n in listed.split("\0") if n}
    if not names:                       # an export without .git
        names = set(paths.our_files())
        for top in ("scripts", "patches"):
            names |= {str(f.relative_to(paths.ROOT))
                      for f in (paths.ROOT / top).rglob("*")
                      if "__pycache__" not in f.parts}
    return sorted(n for n in names if (paths.ROOT / n).is_file())


def text_of(name):
    try:
        return (paths.ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def check_text(names):
    for name in names:
        text = text_of(name)
        if text is None:
            yield name, "is not UTF-8 text"
            continue
        is_patch = name.startswith("patches/") and name.endswith(".patch")
        for number, line in enumerate(text.split("\n"), 1):
            # A context line of a patch is a blank and the base's line.
            if line.rstrip() != line and not (is_patch and line[0] in " -"):
                yield f"{name}:{number}", "trailing white space"
            if MIRROR.search(line):
                yield f"{name}:{number}", "names a host to download from"
        if text and not text.endswith("\n"):
            yield name, "no newline at the end"
        head = "\n".join(text.split("\n")[:20])
        if not is_patch and name not in NO_SPDX and SPDX not in head:
            yield name, f"no '{SPDX}' at the top"


def shebang(name):
    with open(paths.ROOT / name, "rb") as stream:
        return stream.readline().decode("utf-8", "replace")


def check_scripts(names):
    for name in names:
        first = shebang(name)
        executable = os.access(paths.ROOT / name, os.X_OK)
        if executable and not first.startswith("#!"):
            yield name, "is executable, but has no '#!' line"
        if name.endswith(".py") or "python" in first and first[:2] == "#!":
            try:
                ast.parse(text_of(name) or "", filename=name)
            except SyntaxError as error:
                yield f"{name}:{error.lineno}", error.msg
        elif first.startswith("#!") and re.search(r"\b(ba)?sh\b", first):
            shell = "bash" if "bash" in first else "sh"
            done = subprocess.run([shell, "-n", str(paths.ROOT / name)],
                                  stdin=subprocess.DEVNULL, text=True,
                                  capture_output=True)
            if done.returncode:
                yield name, done.stderr.strip().split("\n")[0]


def check_headers(patches):
    for patch in patches:
        name = f"patches/{patch.name}"
        if not SUBJECT.fullmatch(patch.subject):
            yield name, ("needs one line 'Subject: area: what it does', with "
                         "no full stop")
        elif len(patch.subject) > 76:
            yield name, "the subject is longer than 76 characters"
        if "TODO" in patch.header:
            yield name, "its header still says TODO"
        if not patch.body.strip():
            yield name, "has no body that says what and why"
        if re.match(r"\d", patch.name) or not patch.name.endswith(".patch"):
            yield name, "is to be called area-topic.patch, without a number"
        if not patch.diff.strip() and not patch.field("Files"):
            yield name, "has neither a diff nor a Files: line"
        yield from check_fields(patch, name)


def check_fields(patch, name):
    ours = paths.our_files()
    for key in ("Needed-by", "Shown-by"):
        values = patch.field(key)
        # An entry that is only files of ours needs nobody to need it.
        if not values and (key == "Shown-by" or patch.diff.strip()):
            yield name, f"has no {key}: line"
        for value in values:
            for path in re.findall(r"[\w./*-]+/[\w.*-]+", value):
                if paths.in_our_dirs(path) and not any(
                        patchfile.glob_match(path, o)
                        or o.startswith(path.rstrip("/") + "/") for o in ours):
                    yield name, f"{key}: {path} is no file of ours"
    for value in patch.field("Files"):
        if not any(patchfile.glob_match(value, path) for path in ours):
            yield name, f"Files: {value} is no file of ours"


def check_series(patches):
    listed = {p.name for p in patches}
    for file in sorted(paths.PATCHES.iterdir()):
        if file.name not in listed | {"series", "cover-letter"} \
                and not paths.is_litter(file.name):
            yield f"patches/{file.name}", "is not in patches/series"
    missing = set(lock.read().replaced) - set(paths.our_files())
    for path in sorted(missing):
        yield "base.lock", f"names {path}, which is no file of ours any more"


def check_normal_form(repo, made):
    for position, (patch, state) in enumerate(made.states):
        if stack.diff_between(repo, made.before(position), state) != patch.diff:
            yield (f"patches/{patch.name}", "is not in the form that 'make "
                   "refresh' writes; run it")


def checkpatch(*arguments):
    """Run in the tree: some rules depend on the directory of a file."""
    done = subprocess.run(
        ["perl", "scripts/checkpatch.pl", "--no-tree", "--no-signoff",
         "--terse", "--no-summary", "-q", *arguments], cwd=paths.TREE,
        stdin=subprocess.DEVNULL, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.splitlines()


# QEMU's list of maintainers is QEMU's.
NOT_OURS = ("does MAINTAINERS need updating",)
# A program that runs in a guest has libc only, and no threads of QEMU's.
GUEST_PROGRAMS = "tests/guest/"
NOT_IN_GUESTS = re.compile(r"qemu_\w+ in preference|Use of volatile|"
                           r"use sigaction")


def check_style(patches, ours):
    """QEMU's own style checker, on whole files and on patches."""
    for path in filter(C_FILE.search, ours):
        for line in checkpatch("-f", path):
            if not (path.startswith(GUEST_PROGRAMS)
                    and NOT_IN_GUESTS.search(line)):
                yield complaint(path, line)
    for patch in patches:
        if not patch.diff.strip():
            continue
        name = f"patches/{patch.name}"
        for line in checkpatch("--patch", str(paths.ROOT / name)):
            if not any(text in line for text in NOT_OURS):
                yield complaint(name, line)


def complaint(name, line):
    """checkpatch's 'PATH:LINE: TEXT' as ours."""
    match = re.match(r".*?:(\d+): (.*)", line)
    return (f"{name}:{match.group(1)}", match.group(2)) if match \
        else (name, line)
