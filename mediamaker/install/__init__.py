# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on disks that hold an installed Windows."""
