# SPDX-License-Identifier: GPL-2.0-or-later
"""Source packages through apt, without a change to the machine.

apt gets directories of its own under build/apt. Its source entries are the
machine's binary ones, turned into source ones; so no host name is known here.
"""
import re
import subprocess
import time
from pathlib import Path

from treelib import paths
from treelib.report import Failure, run_logged, say, what_failed

APT = paths.BUILD / "apt"
DOWNLOAD = paths.BUILD / "download"
ETC = Path("/etc/apt")
INSTEAD = "or point QEMU_SRC at an unpacked source of qemu 7.2+dfsg"
UNREACHABLE = re.compile(r"Could not resolve|Temporary failure resolving|"
                         r"Could not connect|Cannot initiate the connection|"
                         r"Connection (failed|timed out|refused)|"
                         r"Unable to connect|Failed to fetch")


def deb822_sources(text):
    """Source entries made from the stanzas of a .sources file."""
    kept = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        lines = [l for l in stanza.splitlines() if not l.startswith("#")]
        body = "\n".join(lines)
        types = re.search(r"(?mi)^Types:(.*)$", body)
        off = re.search(r"(?mi)^Enabled:\s*(no|false|off|0)\b", body)
        uris = re.search(r"(?mi)^URIs:(.*(?:\n[ \t].*)*)", body)
        if not types or off or not uris or "cdrom:" in uris.group(1):
            continue
        if not {"deb", "deb-src"} & set(types.group(1).split()):
            continue
        kept.append(re.sub(r"(?mi)^Types:.*$", "Types: deb-src", body))
    return "\n\n".join(kept)


def one_line_sources(text):
    """Source entries made from the lines of a .list file."""
    kept = []
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+((?:\[[^]]*\]\s+)?\S+\s+.*)", line)
        if match and "cdrom:" not in line:
            kept.append("deb-src " + match.group(1).split("#")[0].rstrip())
    return "\n".join(dict.fromkeys(kept))


def write_private_sources():
    parts = APT / "sources.d"
    for directory in (parts, APT / "lists" / "partial",
                      APT / "cache" / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    for old in parts.iterdir():
        old.unlink()
    found = 0
    files = [ETC / "sources.list"] + sorted((ETC / "sources.list.d").glob("*"))
    for file in files:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        text = file.read_text(errors="replace")
        make = deb822_sources if file.suffix == ".sources" else one_line_sources
        if entries := make(text):
            (parts / file.name).write_text(entries + "\n")
            found += 1
    if not found:
        raise Failure("/etc/apt names no package archive that sources could "
                      f"come from; add one there, {INSTEAD}")
    # Read after everything in /etc/apt, so that its hooks can be dropped:
    # they refresh caches of the machine, which is not our business.
    (APT / "apt.conf").write_text(f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{parts}";
Dir::State::Lists "{APT / 'lists'}";
Dir::Cache "{APT / 'cache'}";
APT::Sandbox::User "";
APT::Get::List-Cleanup "true";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
""")


def apt(tool, *arguments):
    return [tool, "-c", str(APT / "apt.conf"), "-q", *arguments]


def update_lists():
    """Returns apt's output. One archive of several may fail, so the exit
    status says little: what counts is whether the package is found."""
    say("fetching the lists of source packages (build/apt)")
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    log = paths.LOGS / "apt-update.log"
    with open(log, "wb") as stream:
        subprocess.run(apt("apt-get", "update"), stdin=subprocess.DEVNULL,
                       stdout=stream, stderr=subprocess.STDOUT)
    return log.read_text(errors="replace")


def offered_versions(package):
    done = subprocess.run(apt("apt-cache", "showsrc", package), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    versions = []
    for record in done.stdout.split("\n\n"):
        name = re.search(r"(?m)^Package: (\S+)$", record)
        version = re.search(r"(?m)^Version: (\S+)$", record)
        if name and version and name.group(1) == package:
            versions.append(version.group(1))
    return versions


def why_nothing(output, package, upstream, seen):
    log = "details: build/logs/apt-update.log"
    if "No space left on device" in output:
        return what_failed(["apt-get"], output, paths.LOGS / "apt-update.log",
                           None)
    if seen:
        return (f"apt offers {package} {', '.join(sorted(set(seen)))}, but not "
                f"{upstream}, which is Debian 12's; add Debian 12 to "
                f"/etc/apt, {INSTEAD} ({log})")
    if UNREACHABLE.search(output):
        return ("the package archives of /etc/apt cannot be reached; check "
                f"the network and run the command again, {INSTEAD} ({log})")
    return (f"the archives of /etc/apt have no source of {package}; add "
            f"Debian 12's to /etc/apt, {INSTEAD} ({log})")


def download(package, version):
    """Fetch the parts of a source package; returns the .dsc."""
    DOWNLOAD.mkdir(parents=True, exist_ok=True)
    say(f"downloading the source of {package} {version} (23 MiB)")
    started = time.monotonic()
    run_logged(apt("apt-get", "source", "--only-source", "--download-only",
                   f"{package}={version}"), "apt-source.log",
               explain_download, cwd=DOWNLOAD)
    say(f"downloaded in {time.monotonic() - started:.0f} s")
    return dsc_of(package, version)


def explain_download(output):
    if UNREACHABLE.search(output):
        return ("the download failed; check the network and run the command "
                f"again, {INSTEAD}")
    return None


def dsc_of(package, version):
    return DOWNLOAD / f"{package}_{version.split(':', 1)[-1]}.dsc"
