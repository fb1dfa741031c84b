# SPDX-License-Identifier: GPL-3.0-or-later
"""What disks there are, what is on them, and which may be written."""
