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
import tempfile
from pathlib import Path

from treelib import paths
from treelib.gitio import GitError, Repository
from treelib.report import Failure, exclusive, need_disk, say

ASSEMBLED = "refs/vmem/assembled"
BASE_REF = "refs/heads/base"
BRANCH = "refs/heads/assembled"
LINK_MODE = "120000"
ABSENT = ("000000", "0" * 40)
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
    """{path: (entry in OLD, entry in NEW)}; an entry is (mode, blob)."""
    raw = repo.git("diff-tree", "-r", "-z", "--no-renames", old, new)
    words = raw.split("\0")[:-1]
    found = {}
    for meta, path in zip(words[::2], words[1::2]):
        old_mode, new_mode, old_blob, new_blob = meta[1:].split()[:4]
        found[path] = (old_mode, old_blob), (new_mode, new_blob)
    return found


def worktree_blob(repo, path):
    """(mode, blob) of what is there now."""
    file = paths.TREE / path
    if file.is_symlink():
        return LINK_MODE, repo.store_blob(os.readlink(file))
    if not file.is_file():
        return ABSENT
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
        if changed:
            # Not under the feet of a compiler: ninja would take what it read
            # before for what is there now.
            with exclusive("out"):
                update_worktree(repo, current, commit, changed)
    repo.git("symbolic-ref", "HEAD", BRANCH)
    repo.git("update-ref", BRANCH, commit)
    repo.git("update-ref", ASSEMBLED, commit)
    return changed


def update_worktree(repo, current, commit, changed):
    settle(repo, current, changed)
    try:
        repo.git("read-tree", "-m", "-u", current, commit)
    except GitError as error:
        raise Failure("git cannot update build/tree: "
                      f"{first_line(error.output)}; run 'make refresh' to "
                      "keep what you changed there, or remove build/tree"
                      ) from None


def settle(repo, current, changed):
    """Prepare for a checkout that meets edits in files that have to change.

    An edit that already is what the file is to become is left as it is; any
    other is merged with what the patches now say.
    """
    edited = set(edited_paths(repo, current)) & set(changed)
    edited |= {path for path, (old, _) in changed.items()
               if old == ABSENT and os.path.lexists(paths.TREE / path)}
    merged = {}
    for path in sorted(edited):
        there = worktree_blob(repo, path)
        old, new = changed[path]
        if there != new:
            merged[path] = merge_entries(repo, there, old, new)
            if merged[path] is None:
                raise Failure(f"build/tree/{path} has an edit that conflicts "
                              "with what the patches now change there; save "
                              f"it ('git diff {path}' in build/tree), undo it "
                              f"('git checkout {path}') and make it again")
    for path in edited:
        set_entry(repo, path, changed[path][1])
        if path in merged and merged[path] != worktree_blob(repo, path):
            (paths.TREE / path).write_bytes(
                repo.git("cat-file", "blob", merged[path][1], text=False))


def set_entry(repo, path, entry, index=None):
    mode, blob = entry
    if mode == ABSENT[0]:
        repo.git("update-index", "--force-remove", "--", path, index=index)
    else:
        repo.git("update-index", "--add", "--replace", "--cacheinfo",
                 f"{mode},{blob},{path}", index=index)


def entry_at(repo, revision, path):
    """(mode, blob) of a path in a commit."""
    line = repo.git("ls-tree", revision, "--", path)
    if not line:
        return ABSENT
    mode, _, blob = line.split("\t")[0].split()
    return mode, blob


def merge_entries(repo, mine, old, theirs):
    """Merge two changes of a regular file; None where they conflict."""
    if old == mine:
        return theirs
    if old == theirs or mine == theirs:
        return mine
    entries = (mine, old, theirs)
    if any(not mode.startswith("100") for mode, _ in entries):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for name, (_, blob) in zip(("mine", "old", "theirs"), entries):
            files.append(Path(scratch) / name)
            files[-1].write_bytes(repo.git("cat-file", "blob", blob,
                                           text=False))
        try:
            content = repo.git("merge-file", "-p", "-q", *map(str, files),
                               text=False)
        except GitError:
            return None
    mode = mine[0] if mine[0] != old[0] else theirs[0]
    return mode, repo.store_blob(content)


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
