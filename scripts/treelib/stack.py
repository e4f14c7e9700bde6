# SPDX-License-Identifier: GPL-2.0-or-later
"""build/tree as git objects: the base, one commit per patch, the links.

Everything is computed in git's object store first and then brought into the
worktree by git, which writes only the files whose content differs. So
assembling again costs nothing to ninja.
"""
import hashlib
import json
import os
import re

from treelib import paths
from treelib.gitio import GitError, Repository
from treelib.report import Failure, need_disk, say

ASSEMBLED = "refs/vmem/assembled"
BASE_REF = "refs/heads/base"
BRANCH = "refs/heads/assembled"
LINK_MODE = "120000"
# Without index lines: they name blobs, so that an unrelated change of the
# base would change every patch.
DIFF_OPTIONS = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
                "--unified=3", "--inter-hunk-context=0", "--no-indent-heuristic",
                "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/",
                "--submodule=short", "--no-relative")


class Stack:
    """The commits of an assembled tree."""

    def __init__(self, base, states, links):
        self.base = base
        self.states = states        # (patch, commit), bottom first
        self.links = links          # the commit that is checked out

    def before(self, position):
        return self.states[position - 1][1] if position else self.base

    @property
    def patched(self):
        return self.states[-1][1] if self.states else self.base


def open_tree():
    repo = Repository(paths.TREE)
    if not (repo.git_dir / "info" / "attributes").exists():
        repo.init()
        repo.git("symbolic-ref", "HEAD", BRANCH)
    return repo


def scratch_index(repo, revision):
    index = repo.git_dir / "vmem-index"
    index.unlink(missing_ok=True)
    repo.git("read-tree", revision, index=index)
    return index


def base_commit(repo):
    """The commit with the pristine base, made anew where the base changed."""
    stamp = paths.BASE_STAMP.read_text()
    known = repo.resolve(BASE_REF)
    if known and repo.git("log", "-1", "--format=%B", known).strip() \
            == base_message(stamp).strip():
        return known
    need_disk(700, "the assembled tree")
    say("importing the pristine base into build/tree")
    index = repo.git_dir / "vmem-index"
    index.unlink(missing_ok=True)
    repo.git("add", "-A", "-f", ".", index=index, worktree=paths.BASE)
    tree = repo.git("write-tree", index=index).strip()
    commit = repo.commit_tree(tree, None, base_message(stamp))
    repo.git("update-ref", BASE_REF, commit)
    return commit


def base_message(stamp):
    state = json.loads(stamp)
    return (f"QEMU {state['version']}\n\nThe unpacked source package, "
            f"unchanged.\nUnpacked-as: {state['id']}\n")


def apply_patch(repo, index, patch):
    """Apply a diff to the scratch index: offsets are fine, fuzz is not."""
    if not patch.diff.strip():
        return
    try:
        repo.git("apply", "--cached", "--whitespace=nowarn", "-p1", "-",
                 data=patch.diff, index=index)
    except GitError as error:
        raise Failure(f"patches/{patch.name} does not apply without fuzz"
                      f"{place_in(error.output)}; make it fit the base (see "
                      "\"A patch does not apply\" in CONTRIBUTING.md)"
                      ) from None


def place_in(output):
    if match := re.search(r"patch failed: (\S+:\d+)", output):
        return f" at {match.group(1)}"
    if match := re.search(r"error: (.+)", output):
        return f" ({match.group(1)})"
    return ""


def build_stack(repo, patches, ours):
    base = parent = base_commit(repo)
    index = scratch_index(repo, base)
    states = []
    for patch in patches:
        apply_patch(repo, index, patch)
        tree = repo.git("write-tree", index=index).strip()
        parent = repo.commit_tree(tree, parent,
                                  f"{patch.subject or patch.name}\n\n"
                                  f"patches/{patch.name}\n")
        states.append((patch, parent))
    lines = []
    for path in ours:
        blob = repo.store_blob(paths.link_text(path))
        lines.append(f"{LINK_MODE} {blob}\t{path}\n")
    repo.git("update-index", "--add", "--replace", "--index-info",
             data="".join(lines), index=index)
    tree = repo.git("write-tree", index=index).strip()
    links = repo.commit_tree(tree, parent, "Link the files of the repository\n")
    return Stack(base, states, links)


def changed_paths(repo, old, new):
    """{path: (mode, blob)} of what NEW has in place of OLD's; a path that is
    gone has the mode 000000."""
    raw = repo.git("diff-tree", "-r", "-z", "--no-renames", old, new)
    words = raw.split("\0")[:-1]
    return {path: (meta.split()[1], meta.split()[3])
            for meta, path in zip(words[::2], words[1::2])}


def worktree_blob(repo, path):
    """(mode, blob) of what is there now."""
    file = paths.TREE / path
    if file.is_symlink():
        return LINK_MODE, repo.store_blob(os.readlink(file))
    if not file.is_file():
        return "000000", "0" * 40
    mode = "100755" if os.access(file, os.X_OK) else "100644"
    return mode, repo.store_blob(file.read_bytes())


def edited_paths(repo, revision):
    """What in the worktree differs from a commit, new files apart."""
    try:
        repo.git("update-index", "-q", "--refresh")
    except GitError:
        pass                            # says that there are differences
    raw = repo.git("diff", "--name-only", "-z", "--no-renames",
                   "--ignore-submodules", revision, "--")
    return raw.split("\0")[:-1]


def check_out(repo, commit):
    """Make the worktree that of COMMIT. Returns the changed paths.

    Edits of the user stay, unless the same file has to change.
    """
    current = repo.resolve(ASSEMBLED)
    if current is None:
        (repo.git_dir / "index.lock").unlink(missing_ok=True)
        need_disk(500, "the assembled tree")
        repo.git("read-tree", "--reset", "-u", commit)
        changed = {}
    else:
        changed = changed_paths(repo, current, commit)
        settle(repo, changed, set(edited_paths(repo, current)))
        try:
            repo.git("read-tree", "-m", "-u", current, commit)
        except GitError as error:
            raise Failure("git cannot update build/tree: "
                          f"{first_line(error.output)}; run 'make refresh' "
                          "to keep what you changed there, or remove "
                          "build/tree") from None
    repo.git("symbolic-ref", "HEAD", BRANCH)
    repo.git("update-ref", BRANCH, commit)
    repo.git("update-ref", ASSEMBLED, commit)
    return changed


def settle(repo, changed, edited):
    """Let git know of edits that already are what a file is to become."""
    for path in sorted(edited & set(changed)):
        wanted = changed[path]
        there = worktree_blob(repo, path)
        if there != wanted:
            raise Failure(f"build/tree/{path} has an edit that is in no patch, "
                          "and the patches now change that file; run 'make "
                          "refresh' first, or undo the edit with 'git "
                          f"checkout {path}' in build/tree")
        if there[0] == "000000":
            repo.git("update-index", "--force-remove", "--", path)
        else:
            repo.git("update-index", "--add", "--cacheinfo",
                     f"{there[0]},{there[1]},{path}")


def first_line(text):
    line = next((l for l in text.splitlines() if l.strip()), "no reason given")
    return re.sub(r"^(error|fatal): ", "", line)


def key_of(patches, ours):
    """Changes whenever the assembled tree has to."""
    digest = hashlib.sha256(paths.BASE_STAMP.read_bytes())
    for patch in patches:
        digest.update(f"\0{patch.name}\0{patch.header}\0{patch.diff}".encode(
            "utf-8", "surrogateescape"))
    for path in ours:
        digest.update(f"\0{path}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def diff_between(repo, old, new):
    """A normalised diff: the same bytes for the same change, everywhere."""
    text = repo.git("diff-tree", "-p", "-r", *DIFF_OPTIONS, old, new)
    kept, in_header = [], False
    for line in text.splitlines(keepends=True):
        if line.startswith("diff --git "):
            in_header = True
        elif line.startswith("@@ "):
            in_header = False
        if in_header and line.startswith("Binary files "):
            raise Failure("a binary file of the base was changed "
                          f"({line.strip()}); patches hold text only")
        if not (in_header and line.startswith("index ")):
            kept.append(line)
    return "".join(kept)
