# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with WIM files as a whole: verify, split, join, optimise, capture, apply."""
