# SPDX-License-Identifier: GPL-2.0-or-later
"""Running QEMU's configure and ninja, with progress that fits the terminal."""
import json
import os
import re
import shutil
import subprocess
import sys
import time

from treelib import paths
from treelib.report import (Failure, need_disk, run_logged, say,
                            what_failed)

OUT = paths.BUILD / "out"
OUT_SANITIZERS = paths.BUILD / "out-asan"
STAMP = "vmem-configured.json"

# Firmware is not in Debian's tarball but in packages.
FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu")

# Just what a machine with our device and its tests needs.
OPTIONS = ("--without-default-features", "--enable-kvm", "--enable-tcg",
           "--enable-fdt=system", "--enable-vhost-kernel", "--enable-vhost-net",
           "--enable-vhost-user", "--enable-vhost-user-blk-server",
           "--enable-tools", "--enable-coroutine-pool", "--enable-membarrier",
           "--enable-malloc-trim",
           "--firmwarepath=" + ":".join(FIRMWARE),
           # The tree is a git repository, but not one with QEMU's submodules.
           "--with-git-submodules=ignore")

# Tests of QEMU's own that walk through what we replace.
BASE_QTESTS = ("device-introspect-test", "numa-test", "qmp-cmd-test",
               "test-hmp", "device-plug-test", "cpu-plug-test",
               "machine-none-test", "q35-test", "i440fx-test", "qmp-test",
               "qom-test")
TOOLS = ("qemu-img", "storage-daemon/qemu-storage-daemon",
         "contrib/vhost-user-blk/vhost-user-blk")
# What is ours, as far as it is there: not in each commit of the series.
OURS = re.compile(
    r"tests/(bench/vu-lookup"
    r"|unit/test-(virtio-mem|vfio|vhost|libvhost-user|memory|memslot|page"
    r"|report)"
    r"[^/.]*"
    r"|qtest/virtio-mem-[^/.]*-test)")


def build(targets, sanitizers=False):
    out = OUT_SANITIZERS if sanitizers else OUT
    name = "build-asan" if sanitizers else "build"
    # The object files of one target and the tests; measured.
    need_disk(200 if (out / "build.ninja").exists() else 1500, "the build")
    configure(out, targets, sanitizers, name)
    ninja(out, goals(out, targets), name)
    link_firmware(out)


def build_at(tree, out, name):
    """Build another checkout with the default target, tests included."""
    need_disk(1500, "the build of each commit")
    targets = ["x86_64-softmmu"]
    configure(out, targets, False, name, tree)
    ninja(out, goals(out, targets), name)


def configure(out, targets, sanitizers, name, tree=paths.TREE):
    stamp = out / STAMP
    try:
        known = json.loads(stamp.read_text())
    except (FileNotFoundError, ValueError):
        known = {"targets": [], "options": None}
    options = all_options(sanitizers)
    everything = known["targets"] + [t for t in targets
                                     if t not in known["targets"]]
    if known == {"targets": everything, "options": options} \
            and (out / "build.ninja").exists():
        return
    say(f"configuring {', '.join(everything)} in {relative(out)} "
        "(half a minute)")
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    script = os.path.relpath(tree / "configure", out)
    run_logged([script, "--target-list=" + ",".join(everything), *options],
               f"configure-{name}.log", explain_configure, cwd=out,
               env=clean_environment())
    stamp.write_text(json.dumps({"targets": everything, "options": options}))


def all_options(sanitizers):
    options = list(OPTIONS)
    if shutil.which("ccache"):
        options.append("--cc=ccache gcc")
    if sanitizers:
        # gcc sees more "maybe uninitialized" in instrumented code.
        options += ["--enable-sanitizers", "--disable-werror"]
    else:
        options.append("--enable-werror")
    version = json.loads(paths.BASE_STAMP.read_text())["version"]
    options.append("--with-pkgversion=virtio-mem on Debian " + version)
    return options


def clean_environment():
    """configure takes flags from the environment, make adds its own."""
    dropped = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CFLAGS",
               "LDFLAGS", "CC", "TARGETS", "NINJA_STATUS")
    env = {k: v for k, v in os.environ.items()
           if k not in dropped and not k.startswith("GIT_")}
    env.setdefault("CCACHE_BASEDIR", str(paths.ROOT))
    return env


def explain_configure(output):
    for line in output.splitlines():
        match = re.search(r"ERROR: (?:Dependency \"([^\"]+)\" not found"
                          r"|(?:Program|Compiler) '?([^' ]+)'? not found)", line)
        if match:
            what = match.group(1) or match.group(2)
            return f"configure misses {what}; run 'make setup'"
    found = [l.strip() for l in output.splitlines() if "ERROR" in l]
    return f"configure failed: {found[0]}" if found else None


def goals(out, targets):
    """The files to make: not everything that QEMU could build here."""
    # What a changed meson.build adds or removes is not known before this.
    subprocess.run(["ninja", "-C", str(out), "build.ninja"],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listed = subprocess.run(["ninja", "-C", str(out), "-t", "targets", "all"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True, check=True).stdout
    known = {line.split(":", 1)[0] for line in listed.splitlines()}
    chosen = ["qemu-system-" + t.removesuffix("-softmmu") for t in targets]
    chosen += TOOLS
    chosen += ["tests/qtest/qos-test"]
    if "x86_64-softmmu" in targets:
        chosen += [f"tests/qtest/{test}" for test in BASE_QTESTS]
    chosen += [path for path in sorted(known) if OURS.fullmatch(path)]
    lost = [path for path in chosen if path not in known]
    if lost:
        raise Failure(f"QEMU's build does not know {', '.join(lost)} in this "
                      "configuration; does a patch remove it?")
    return chosen


def ninja(out, goals_, name):
    jobs = os.environ.get("JOBS") or str(len(os.sched_getaffinity(0)))
    command = ["ninja", "-C", str(out), "-j", jobs, *goals_]
    started = time.monotonic()
    say(f"compiling in {relative(out)} with {jobs} jobs")
    log = paths.LOGS / f"{name}.log"
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    status = run_with_progress(command, log)
    if status:
        text = log.read_text(errors="replace")
        raise Failure(what_failed(command, text, log,
                                  lambda _: explain_ninja(text)))
    say(f"{relative(out)} is up to date "
        f"({time.monotonic() - started:.0f} s): " + " ".join(goals_[:1]))


def link_firmware(out):
    """A QEMU that runs in its build directory looks for everything below
    qemu-bundle there, also for files at absolute paths."""
    for place in FIRMWARE:
        link = out / "qemu-bundle" / place.lstrip("/")
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(place)


def explain_ninja(text):
    failed = re.findall(r"(?m)^FAILED: (\S+)", text)
    error = re.search(r"(?m)^(?:\.\./tree/)?(\S+:\d+:\d+: (?:fatal )?error: .*)",
                      text)
    if error:
        return f"the build failed: {error.group(1)}"
    return f"the build failed at {failed[0]}" if failed else None


def run_with_progress(command, log):
    """On a terminal one line that moves, else a line for every tenth."""
    tty = sys.stdout.isatty()
    env = clean_environment() | {"NINJA_STATUS": "[%f/%t] "}
    width = shutil.get_terminal_size().columns - 1
    next_tenth, line_open = 10, False
    with open(log, "w", encoding="utf-8", errors="replace") as stream, \
            subprocess.Popen(command, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, errors="replace", env=env) as process:
        for line in process.stdout:
            stream.write(line)
            match = re.match(r"\[(\d+)/(\d+)\] ", line)
            if match and tty:
                print("\r" + line.rstrip()[:width].ljust(width), end="",
                      flush=True)
                line_open = True
            elif match:
                done, total = map(int, match.groups())
                if done * 100 >= total * next_tenth and total >= 20:
                    print(f"    {done} of {total} steps", flush=True)
                    next_tenth = done * 100 // total // 10 * 10 + 10
            elif not line.startswith(("ninja: Entering", "ninja: no work")):
                if line_open:
                    print()
                    line_open = False
                print(line, end="", flush=True)
    if line_open:
        print()
    return process.returncode


def relative(path):
    return os.path.relpath(path, paths.ROOT)
