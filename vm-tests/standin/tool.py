# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the foreign programs that write the stand-in's formats."""

from __future__ import annotations

import os
import subprocess

from mediamaker.errors import ToolError

FILE_EPOCH = 1_711_980_000
"""UTC, April 2024: what modification times count from, so that builds are alike."""


def tool_environment() -> dict[str, str]:
    """No local time zone or language gets into the formats; mtools heeds the epoch."""
    fixed = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(FILE_EPOCH)}
    return {**os.environ, **fixed}


def run_tool(program: str, *arguments: str, package: str) -> None:
    """Runs ``program`` quietly.

    Raises:
        ToolError: it is missing (the hint names ``package``) or failed (with what it said).
    """
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=tool_environment(),
        )
    except FileNotFoundError as error:
        raise ToolError(f"{program} is not installed", hint=f"apt-get install {package}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace")
        raise ToolError(f"{program} {' '.join(arguments[:3])} failed:\n{said}")
