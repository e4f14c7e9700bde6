# SPDX-License-Identifier: GPL-2.0-or-later
"""Turning base, patches and files of ours into build/tree."""
import os

from treelib import lock as lockfile
from treelib import patchfile, paths, stack
from treelib.report import Failure, note, say

KEY_FILE = "vmem-key"


def inputs():
    """Read and check what the tree is made of."""
    ours = paths.our_files()
    patches = patchfile.load_series()
    lockfile.check_base(lockfile.read(), ours)
    patchfile.check_ownership(patches, ours)
    return patches, ours


def assemble(quiet=False):
    """Bring build/tree up to date; returns (repository, stack or None).

    The stack is None where nothing had to be computed.
    """
    patches, ours = inputs()
    repo = stack.open_tree()
    key = stack.key_of(patches, ours)
    key_file = repo.git_dir / KEY_FILE
    known = key_file.read_text() if key_file.exists() else None
    made = None
    if known != key or not repo.resolve(stack.ASSEMBLED):
        made = stack.build_stack(repo, patches, ours)
        save_replaced_links(repo, ours)
        changed = stack.check_out(repo, made.links)
        touch_new_links(repo, changed)
        key_file.write_text(key)
        if not quiet:
            what = "made" if not known else f"{len(changed)} files changed"
            say(f"build/tree: {what}; {len(patches)} patches, {len(ours)} "
                "files of ours")
        mention_idle_lines(patches, ours)
    elif not quiet:
        say(f"build/tree is up to date ({len(patches)} patches, {len(ours)} "
            "files of ours)")
    repair_links(repo, ours)
    return repo, made


def mention_idle_lines(patches, ours):
    for patch in patches:
        for pattern in patch.field("Files"):
            if not any(patchfile.glob_match(pattern, path) for path in ours):
                note(f"patches/{patch.name} names {pattern}, which is no file "
                     "of ours")


def touch_new_links(repo, changed):
    """A file that takes the place of the base's may be older than what was
    compiled from that one; ninja only compares times."""
    for path, (_, (mode, _)) in changed.items():
        target = paths.ROOT / path
        if mode == stack.LINK_MODE and target.is_file():
            os.utime(target)


def broken_links(ours):
    for path in ours:
        link = paths.TREE / path
        if not (link.is_symlink()
                and os.readlink(link) == paths.link_text(path)):
            yield path, link


def save_replaced_links(repo, ours):
    """Do not lose what a program wrote in place of a link."""
    previous = repo.resolve(stack.ASSEMBLED)
    if not previous:
        return
    for path, link in broken_links(ours):
        if link.is_symlink() or not link.is_file():
            continue
        entry = repo.git("ls-tree", previous, "--", path)
        if entry.startswith(stack.LINK_MODE) \
                and link.read_bytes() != (paths.ROOT / path).read_bytes():
            raise Failure(f"build/tree/{path} is no longer a link to our file "
                          "but an edited copy of it; run 'make refresh' to "
                          "take it over")
        if entry.startswith(stack.LINK_MODE):
            relink(path, link)


def repair_links(repo, ours):
    for path, link in broken_links(ours):
        if link.is_file() and not link.is_symlink() \
                and link.read_bytes() != (paths.ROOT / path).read_bytes():
            raise Failure(f"build/tree/{path} is no longer a link to our file "
                          "but an edited copy of it; run 'make refresh' to "
                          "take it over")
        relink(path, link)


def relink(path, link):
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(paths.link_text(path))
