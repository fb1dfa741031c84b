# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test stands on.

``vm-tests`` can't be a package (hyphen): it is put on the path so that tests share its helpers.
A shell's background job ignores SIGINT, and so would all that it starts: tests of Ctrl-C need it.
"""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "vm-tests"))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
