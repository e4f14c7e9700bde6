# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests need compiled while they run."""

import subprocess
from pathlib import Path


class CompilerMissing(Exception):
    """There is no compiler."""


def compile_source(source, directory, suffix, *options):
    """The path of what gcc makes of a file, in a directory."""
    made = Path(directory) / f'{source.stem}{suffix}'
    try:
        subprocess.run(['gcc', *options, '-o', made, source], check=True,
                       timeout=120, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        raise CompilerMissing('gcc is not installed') from None
    except subprocess.CalledProcessError as error:
        raise AssertionError(f'{source.name}: {error.stdout}') from None
    return made


def compile_preloaded(source, directory):
    """The path of a library for LD_PRELOAD."""
    return compile_source(source, directory, '.so', '-shared', '-fPIC', '-O2',
                          '-Wall', '-Werror')
