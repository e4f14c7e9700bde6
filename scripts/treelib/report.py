# SPDX-License-Identifier: GPL-2.0-or-later
"""Talking to whoever typed the command, and ending with one clear line."""
import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys

from treelib import paths


class Failure(Exception):
    """A message for the user; nothing else is printed for it."""


def say(text):
    print(f"==> {text}", flush=True)


def note(text):
    print(f"note: {text}", flush=True)


def main(function):
    """Run a command's main function, turning failures into one line."""
    sys.dont_write_bytecode = True
    try:
        status = function()
    except Failure as failure:
        status = complain(str(failure))
    except KeyboardInterrupt:
        status = complain("interrupted")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES,
                               errno.EROFS):
            raise
        status = complain(explain_os_error(error))
    sys.exit(status or 0)


def complain(text):
    sys.stdout.flush()
    print(f"error: {text}", file=sys.stderr, flush=True)
    return 1


def explain_os_error(error):
    where = error.filename or paths.BUILD
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full_text(where)
    return (f"{where}: {error.strerror}; give this user write access to it "
            "(files left by root: sudo make clean)")


def disk_full_text(where):
    return (f"the disk that holds {where} is full; free some space "
            "(a whole build takes 3 GiB) and run the command again")


def need_disk(mebibytes, what):
    """Fail now rather than in the middle of a long step."""
    paths.BUILD.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(paths.BUILD).free >> 20
    if free < mebibytes:
        raise Failure(f"{what} needs {mebibytes} MiB in {paths.BUILD}, but "
                      f"only {free} MiB are free; free some space and run "
                      "the command again")


def need_programs(*names):
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        raise Failure(f"{', '.join(missing)} not found; run 'make setup'")


def run_logged(command, log_name, explain, **options):
    """Run a command with its output in build/logs/LOG_NAME.

    Where it fails, explain(output) makes the one line for the user; without
    a line from it, the last line of the output is shown.
    """
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    log = paths.LOGS / log_name
    with open(log, "wb") as stream:
        status = subprocess.run(command, stdin=subprocess.DEVNULL,
                                stdout=stream, stderr=subprocess.STDOUT,
                                **options).returncode
    output = log.read_text(errors="replace")
    if status:
        raise Failure(what_failed(command, output, log, explain))
    return output


def what_failed(command, output, log, explain):
    where = os.path.relpath(log, paths.ROOT)
    if "No space left on device" in output:
        return disk_full_text(paths.BUILD)
    text = explain(output) if explain else None
    if not text:
        lines = [line for line in output.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "it printed nothing"
        text = f"'{os.path.basename(str(command[0]))}' failed: {last}"
    return f"{text} (details: {where})"


@contextlib.contextmanager
def exclusive(what="tree"):
    """Let one command at a time change a part of build/.

    The parts are "tree" (the base, the assembled tree), "out" (the compiled
    files) and "series". Whoever needs two takes them in this order.
    """
    paths.BUILD.mkdir(parents=True, exist_ok=True)
    with open(paths.BUILD / f".lock-{what}", "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that works on build/ ({what})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
