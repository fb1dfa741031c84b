# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m mediamaker``."""

import sys

from mediamaker.cli.main import main

sys.exit(main())
