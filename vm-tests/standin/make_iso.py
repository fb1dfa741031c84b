# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a stand-in Windows Setup ISO: ``python vm-tests/standin/make_iso.py OUT.iso``.

Prints the token that a stick made from it must say; also left in ``OUT.iso.token``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mediamaker.errors import MediaError
from standin import iso


def main() -> int:
    """Builds what the arguments say; returns the exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=details)
    parser.add_argument("output", metavar="OUT.iso", type=Path)
    parser.add_argument("--token", help="what the boot programs say (default: random)")
    parser.add_argument("--arch", choices=get_args(iso.Arch), default="x64")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--big", action="store_true", help="a true install.wim over 4 GiB, sparse")
    kind.add_argument("--bench", action="store_true", help="6 GiB of real bytes for benchmarks")
    options = parser.parse_args()
    variant: iso.Variant = "big" if options.big else "bench" if options.bench else "small"
    token = options.token or iso.new_token()
    try:
        built = iso.build_iso(options.output, token=token, variant=variant, arch=options.arch)
    except MediaError as error:
        print(f"make_iso: {error}", file=sys.stderr)
        return int(error.exit_code)
    Path(f"{built.path}.token").write_text(built.token)
    print(built.token)
    return 0


if __name__ == "__main__":
    sys.exit(main())
