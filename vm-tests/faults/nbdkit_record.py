# SPDX-License-Identifier: GPL-3.0-or-later
"""The head of a record in the log of ``nbdkit_disk.py``: kind ("W", "F", "J"), offset, size."""

import struct

RECORD = struct.Struct("<cQI")
