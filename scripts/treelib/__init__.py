# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands in scripts/ share: see each module's first lines."""
