# SPDX-License-Identifier: GPL-3.0-or-later
"""``vm-tests`` can't be a package (hyphen): put it on the path so tests share its helpers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "vm-tests"))
