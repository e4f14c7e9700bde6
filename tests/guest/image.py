# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel and the initramfs of the guest are."""

import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

# Debian's name of each architecture that we can boot.
DEBIAN_ARCH = {'x86_64': 'amd64', 'aarch64': 'arm64'}


class ImageMissing(Exception):
    """There is no guest to boot, and none could be made."""


def make_image(script, *arguments):
    """Run one of scripts/; its last words are why there is no image."""
    try:
        done = subprocess.run(
            [REPO / 'scripts' / script, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=900)
    except subprocess.TimeoutExpired:
        raise ImageMissing(f'scripts/{script} took too long') from None
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ['no output']
        raise ImageMissing(lines[-1])


def guest_image(arch):
    """Return (kernel, initramfs) for an architecture, made when needed."""
    debian = DEBIAN_ARCH[arch]
    make_image('guest-image', '--arch', debian)
    directory = REPO / 'build' / 'guest' / debian
    return directory / 'linux', directory / 'initramfs.gz'


def compressed_kernel(arch):
    """The guest's kernel in the form that kexec_file_load() takes."""
    guest_image(arch)
    boot = REPO / 'build' / 'guest' / DEBIAN_ARCH[arch] / 'kernel' / 'boot'
    return next(boot.glob('vmlinuz-*'))
