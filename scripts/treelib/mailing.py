# SPDX-License-Identifier: GPL-2.0-or-later
"""The work as a series of commits and mails: real files, no links."""
import re
import shutil
import subprocess

from treelib import paths, stack
from treelib.gitio import environment
from treelib.report import Failure

SERIES_DIR = paths.BUILD / "series"
MBOX = SERIES_DIR / "virtio-mem.mbox"
COVER_TEXT = paths.PATCHES / "cover-letter"
SERIES_REF = "refs/heads/series"
FALLBACK = ("virtio-mem developers", "virtio-mem@localhost")


def repository_value(*arguments):
    """What git says about our own repository; empty where it is none."""
    env = {k: v for k, v in environment().items()
           if not k.endswith(("_DATE", "_NAME", "_EMAIL"))}
    done = subprocess.run(["git", "-c", "safe.directory=*", "-C",
                           str(paths.ROOT), *arguments], text=True, env=env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else ""


def authorship():
    """(identity, date) of the newest commit here, so that the series depends
    on the content of the repository only."""
    words = repository_value("log", "-1", "--format=%an%n%ae%n%ct").split("\n")
    if len(words) != 3:
        return FALLBACK, "1670976000 +0000"
    return (words[0], words[1]), f"{words[2]} +0000"


def file_mode(path):
    executable = (paths.ROOT / path).stat().st_mode & 0o111
    return "100755" if executable else "100644"


def message(patch):
    text = f"{patch.subject}\n\n{patch.body}".rstrip("\n") + "\n"
    fields = [f"{key}: {value}" for key in ("Needed-by", "Shown-by")
              for value in patch.field(key)]
    return text + ("\n" + "\n".join(fields) + "\n" if fields else "")


def commit_series(repo, patches, ours):
    """One commit per entry: its diff and its files of ours."""
    identity, date = authorship()
    base = parent = stack.base_commit(repo)
    index = stack.scratch_index(repo, base)
    for patch in patches:
        stack.apply_patch(repo, index, patch)
        for path in filter(patch.owns, ours):
            blob = repo.store_blob((paths.ROOT / path).read_bytes())
            stack.set_entry(repo, path, (file_mode(path), blob), index)
        tree = repo.git("write-tree", index=index).strip()
        parent = repo.commit_tree(tree, parent, message(patch),
                                  identity=identity, date=date)
    repo.git("update-ref", SERIES_REF, parent)
    return base, parent


def cover_letter():
    if not COVER_TEXT.is_file():
        raise Failure("patches/cover-letter is missing; write it: a line "
                      "'Subject: ...', an empty line, the text")
    head, _, text = COVER_TEXT.read_text(encoding="utf-8").partition("\n\n")
    match = re.fullmatch(r"Subject: (.+)", head.strip())
    if not match or not text.strip():
        raise Failure("patches/cover-letter has to be a line 'Subject: ...', "
                      "an empty line, and the text")
    return match.group(1), text.strip("\n")


def write_mails(repo, base, last):
    """Write build/series: the mails one by one, and an mbox for git am.

    The cover letter is no patch, so git am would stop at it; it is the file
    0000 and not in the mbox.
    """
    subject, text = cover_letter()
    identity, date = authorship()
    shutil.rmtree(SERIES_DIR, ignore_errors=True)
    SERIES_DIR.mkdir(parents=True)
    options = ["--cover-letter", "--no-signature", "--no-base", "--no-thread",
               "--zero-commit", "--encode-email-headers", "--stat=72",
               *stack.DIFF_OPTIONS]
    repo.git("format-patch", "-q", *options, "-o", str(SERIES_DIR),
             f"{base}..{last}", identity=identity, date=date)
    mails = sorted(SERIES_DIR.glob("*.patch"))
    cover = mails[0].read_text(encoding="utf-8")
    cover = cover.replace("*** SUBJECT HERE ***", subject)
    cover = cover.replace("*** BLURB HERE ***", text)
    # git fills in the time of day, which says nothing here.
    when = repo.git("log", "-1", "--format=%aD", last).strip()
    cover = re.sub(r"(?m)\A((?:.+\n)*?)Date: .*$",
                   lambda m: f"{m.group(1)}Date: {when}", cover)
    mails[0].write_text(cover, encoding="utf-8")
    MBOX.write_bytes(b"".join(mail.read_bytes() for mail in mails[1:]))
    return mails


def subjects(repo, base, last):
    lines = repo.git("log", "--reverse", "--format=%H %s", f"{base}..{last}")
    return [line.split(" ", 1) for line in lines.splitlines()]
