# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the foreign programs that write the stand-in's formats."""

from __future__ import annotations

import subprocess

from mediamaker.errors import ToolError


def run_tool(program: str, *arguments: str, package: str, input_bytes: bytes = b"") -> None:
    """Runs ``program`` quietly.

    Raises:
        ToolError: it is missing (the hint names ``package``) or failed (with what it said).
    """
    try:
        done = subprocess.run(
            [program, *arguments], input=input_bytes, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise ToolError(f"{program} is not installed", hint=f"apt-get install {package}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace")
        raise ToolError(f"{program} {' '.join(arguments[:3])} failed:\n{said}")
