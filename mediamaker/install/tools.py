# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the programs that are needed: found wherever they are, in plain English, with a limit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mediamaker.errors import ToolError

_MESSAGE_SIZE_MAX: Final = 600


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a program ended and what it said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Both outputs on one line, the end of them if there is much, for a message."""
        return " ".join(f"{self.stdout}\n{self.stderr}".split())[-_MESSAGE_SIZE_MAX:]


def run_tool(
    program: str,
    arguments: Sequence[str],
    *,
    package: str,
    timeout_seconds: float | None = None,
    pass_fds: Sequence[int] = (),
) -> ToolResult:
    """Run ``program``, which comes with the Debian ``package``; however it ends is the result.

    It has ``pass_fds`` open, by the same numbers.

    Raises:
        ToolError: it is missing, can't be started, or did not end in time.
    """
    # An ordinary user's PATH often lacks the folders where file system tools lie.
    search_path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    found = shutil.which(program, path=search_path)
    if found is None:
        raise ToolError(f"{program} is missing", hint=f"install {package}")
    try:
        done = subprocess.run(
            [found, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{program} gave no answer within {timeout_seconds:.0f} s") from error
    except OSError as error:
        raise ToolError(f"{program} can't be started: {error.strerror}") from error
    return ToolResult(
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )
