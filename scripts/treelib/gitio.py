# SPDX-License-Identifier: GPL-2.0-or-later
"""Git in build/tree, independent of anybody's configuration.

Neither the user's settings, hooks, templates and signing nor variables that
an enclosing git command exports (we may run from a hook) have any influence.
"""
import os
import subprocess

from treelib.report import Failure, disk_full_text

IDENTITY = ("QEMU virtio-mem tree", "tree@localhost")
# Commits that we make for ourselves depend on their content only.
EPOCH = "1670976000 +0000"
SETTINGS = {
    "core.autocrlf": "false",
    "core.hooksPath": "/dev/null",
    "core.looseCompression": "1",
    "core.quotePath": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "gc.auto": "0",
    "commit.gpgSign": "false",
    "advice.detachedHead": "false",
    "safe.directory": "*",
}


class GitError(Exception):
    def __init__(self, command, output):
        super().__init__(f"git {' '.join(command)}: {output.strip()}")
        self.output = output


def environment(index=None, identity=IDENTITY, date=EPOCH):
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    env |= {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_AUTHOR_NAME": identity[0], "GIT_AUTHOR_EMAIL": identity[1],
        "GIT_COMMITTER_NAME": identity[0],
        "GIT_COMMITTER_EMAIL": identity[1],
        "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date,
        "LC_ALL": "C", "TZ": "UTC",
    }
    # The root of somebody else's home must not add ignore or attribute files.
    env["XDG_CONFIG_HOME"] = "/dev/null"
    env["HOME"] = "/nonexistent"
    if index:
        env["GIT_INDEX_FILE"] = str(index)
    return env


class Repository:
    def __init__(self, worktree, git_dir=None):
        self.worktree = worktree
        self.git_dir = git_dir or worktree / ".git"

    def git(self, *command, data=None, index=None, text=True, worktree=None,
            identity=IDENTITY, date=EPOCH):
        worktree = worktree or self.worktree
        full = ["git", f"--git-dir={self.git_dir}", f"--work-tree={worktree}"]
        for key, value in SETTINGS.items():
            full += ["-c", f"{key}={value}"]
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        done = subprocess.run(full + list(command), input=data or b"",
                              cwd=worktree, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE,
                              env=environment(index, identity, date))
        errors = done.stderr.decode("utf-8", "replace")
        if done.returncode:
            if "No space left on device" in errors:
                raise Failure(disk_full_text(worktree))
            raise GitError(command, errors)
        if not text:
            return done.stdout
        return done.stdout.decode("utf-8", "surrogateescape")

    def init(self):
        self.worktree.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", "--template=",
                        str(self.worktree)], check=True, env=environment(),
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        info = self.git_dir / "info"
        info.mkdir(exist_ok=True)
        # Content is content: no conversions, and hunk headers that do not
        # depend on the patterns which a version of git knows for a language.
        (info / "attributes").write_text("* -text !diff !filter !ident\n")
        (info / "exclude").write_text("*.pyc\n__pycache__/\n")

    def resolve(self, name):
        try:
            return self.git("rev-parse", "--verify", "-q",
                            name + "^{object}").strip()
        except GitError:
            return None

    def commit_tree(self, tree, parent, message, **options):
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", tree, *parents, data=message,
                        **options).strip()

    def blob(self, revision, path):
        """The content of a file in a tree, None where there is none."""
        try:
            return self.git("cat-file", "blob", f"{revision}:{path}",
                            text=False)
        except GitError:
            return None

    def store_blob(self, content):
        return self.git("hash-object", "-w", "--no-filters", "--stdin",
                        data=content).strip()
