# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking edits made in build/tree back into patches and files.

A file of ours is a link, so its edits are back already. An edit of a file of
QEMU's goes into the one patch that touches the file, or into the patch that
the user names. Where that is not the last one that touches it, the edit is
merged into the states in between.
"""
import os
import shutil

from treelib import patchfile, paths, stack
from treelib.assembly import broken_links, relink
from treelib.report import Failure, note, say

TEMPLATE = """\
Subject: TODO: one line, 'area: what the change does'

TODO: what is changed and why.

Needed-by: TODO: the file of ours that needs it
Shown-by: TODO: the test that shows it
---
"""


def take_back_copies(repo, ours):
    """Files that a program wrote in place of our links."""
    previous = repo.resolve(stack.ASSEMBLED)
    for path, link in broken_links(ours):
        if link.is_symlink() or not link.is_file():
            continue
        if stack.entry_at(repo, previous, path)[0] != stack.LINK_MODE:
            continue
        target = paths.ROOT / path
        if link.read_bytes() != target.read_bytes():
            if target.stat().st_mtime > link.stat().st_mtime:
                raise Failure(f"build/tree/{path} is an edited copy of our "
                              f"file, but {path} was changed later; merge the "
                              "two, then remove the copy")
            shutil.copyfile(link, target)
            say(f"{path}: taken over from an edited copy")
        relink(path, link)


def untracked(repo):
    raw = repo.git("ls-files", "--others", "--exclude-standard", "-z")
    return [path for path in raw.split("\0")[:-1]
            if not paths.is_litter(os.path.basename(path))]


def patch_name(name):
    return name if name.endswith(".patch") else name + ".patch"


def ensure_patch(name):
    """Create a patch that the user named and that is not there yet."""
    file = paths.PATCHES / name
    if "/" in name:
        raise Failure(f"PATCH={name}: a name without '/' is needed")
    if name in patchfile.series_names():
        return
    if not file.exists():
        file.write_text(TEMPLATE)
        say(f"patches/{name} is new; fill in its header")
    with open(paths.SERIES, "a", encoding="utf-8") as stream:
        stream.write(name + "\n")


def add_files(repo, wanted, target):
    """Move new files of the tree into the repository.

    Returns those that are not in our directories: they go into the patch.
    """
    for_patch = []
    present = untracked(repo)
    for path in wanted:
        if path not in present:
            raise Failure(f"ADD={path}: there is no new file of that name in "
                          "build/tree")
        if not paths.in_our_dirs(path):
            if not target:
                raise Failure(f"{path} is in none of our directories "
                              f"({', '.join(paths.OUR_DIRS)}); say with "
                              "PATCH=name which patch is to create it")
            for_patch.append(path)
            continue
        (paths.ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(paths.TREE / path, paths.ROOT / path)
        say(f"{path}: moved into the repository")
        if target:
            name_file(target, path)
    return for_patch


def name_file(target, path):
    """Add a 'Files:' line to the patch that a new file belongs to."""
    patch = patchfile.Patch(target)
    if patch.owns(path):
        return
    lines = patch.header.splitlines(keepends=True)
    fields = [n for n, line in enumerate(lines)
              if line.startswith(("Needed-by:", "Shown-by:"))]
    files = [n + 1 for n, line in enumerate(lines) if line.startswith("Files:")]
    at = files[-1] if files else fields[0] if fields else len(lines) - 1
    lines.insert(at, f"Files: {path}\n")
    patch.header = "".join(lines)
    patch.write(patch.diff)


def assign(made, edits, target):
    """Which patch each edit goes into: {path: its position in the series},
    and a line for the user about those that only the user can assign."""
    names = [patch.name for patch, _ in made.states]
    chosen, unclear = {}, []
    for path in edits:
        owners = [patch.name for patch, _ in made.states
                  if path in patch.touched()]
        if target:
            chosen[path] = names.index(target)
        elif len(owners) == 1:
            chosen[path] = names.index(owners[0])
        else:
            why = "touched by " + ", ".join(owners) if owners else \
                "touched by no patch yet"
            unclear.append(f"{path} ({why})")
    question = None
    if unclear:
        question = ("say with PATCH=name which patch this belongs to: "
                    + "; ".join(unclear)
                    + " (a name that does not exist makes a new patch)")
    return chosen, question


def rewrite(repo, made, chosen):
    """Write all patches with the edits in them; returns the names of those
    that changed."""
    edits = {path: stack.worktree_blob(repo, path) for path in chosen}
    top = {path: stack.entry_at(repo, made.patched, path) for path in chosen}
    before, diffs = made.base, []
    for position, (patch, state) in enumerate(made.states):
        index = stack.scratch_index(repo, state)
        for path, first in chosen.items():
            if position < first:
                continue
            entry = stack.entry_at(repo, state, path)
            new = stack.merge_entries(repo, edits[path], top[path], entry)
            if new is None:
                last = [p.name for p, _ in made.states
                        if path in p.touched()][-1]
                raise Failure(f"the edit of {path} meets what a later patch "
                              f"changes there, so {made.states[first][0].name} "
                              f"cannot take it; try PATCH={last}")
            stack.set_entry(repo, path, new, index)
        tree = repo.git("write-tree", index=index).strip()
        diffs.append((patch, stack.diff_between(repo, before, tree)))
        before = tree
    return [patch.name for patch, diff in diffs if patch.write(diff)]


def suggest(repo):
    for path in untracked(repo):
        how = f"ADD={path}"
        if paths.in_our_dirs(path):
            note(f"build/tree/{path} is new; 'make refresh {how}' moves it "
                 "into the repository")
        else:
            note(f"build/tree/{path} is new; 'make refresh {how} PATCH=name' "
                 "puts it into a patch")
