# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test stands on.

``vm-tests`` can't be a package (hyphen): it is put on the path so that tests share its helpers.
A shell's background job ignores SIGINT, nohup's SIGHUP, and so would all that they start: tests of
interruptions need both.
"""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "vm-tests"))
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
