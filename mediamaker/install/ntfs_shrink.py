# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes an NTFS volume smaller with ntfsresize, on the file of an overlay.

Sizes are those of the partition, so that the copy of the boot sector, which is behind the
volume's last cluster, is counted: ntfsresize leaves room for it.

References: ntfsresize(8). It sets the volume's dirty flag, so that Windows checks it once.
"""

from __future__ import annotations

import re
from pathlib import Path

from mediamaker.errors import TargetRefusedError, TargetTooSmallError, ToolError
from mediamaker.install.tools import ToolResult, run_tool
from mediamaker.units import format_size

_MINIMUM_RE = re.compile(r"You might resize at ([0-9]+) bytes")
_ERROR_RE = re.compile(r"^ERROR.*", re.MULTILINE | re.DOTALL)
_COMMON = ["--force", "--force", "--no-progress-bar"]


def measure_shrink(volume: Path, *, what: str) -> int:
    """The size in bytes below which the volume can't be made, as ntfsresize sees it.

    Raises:
        TargetRefusedError: ntfsresize does not take the volume as it is.
    """
    done = _run(["--info", *_COMMON, str(volume)])
    if "Volume is full" in done.stdout + done.stderr:
        raise _full(what)
    _check(done, what)
    found = _MINIMUM_RE.search(done.stdout)
    if found is None:
        raise ToolError(f"{what}: ntfsresize named no smallest size: {done.said}")
    return int(found[1])


def shrink_ntfs(volume: Path, size: int, *, what: str) -> None:
    """Make the volume fit a partition of ``size`` bytes; first as ntfsresize's own dry run.

    Raises:
        TargetRefusedError: ntfsresize refuses; the volume is as before.
        TargetTooSmallError: what is on it does not fit.
    """
    arguments = ["--size", str(size), *_COMMON, str(volume)]
    for extra in (["--no-action"], []):
        done = _run([*extra, *arguments])
        words = done.stdout + done.stderr
        if "less than the minimal" in words or "too small" in words:
            raise TargetTooSmallError(
                f"{what} can't be shrunk to {format_size(size)}: {_reason(done)}",
                needed_size=measure_shrink(volume, what=what),
                available_size=size,
                hint="make room in Windows: Disk Cleanup, and move big files away",
            )
        _check(done, what)


def _run(arguments: list[str]) -> ToolResult:
    return run_tool("ntfsresize", arguments, package="ntfs-3g")


def _check(done: ToolResult, what: str) -> None:
    if done.returncode:
        raise TargetRefusedError(
            f"{what} can't be shrunk: ntfsresize says: {_reason(done)}",
            hint="in Windows: chkdsk C: /f, then restart twice and shut down fully",
        )


def _full(what: str) -> TargetTooSmallError:
    return TargetTooSmallError(
        f"{what} is full: it can't be shrunk",
        needed_size=0,
        available_size=0,
        hint="make room in Windows: Disk Cleanup, and move big files away",
    )


def _reason(done: ToolResult) -> str:
    found = _ERROR_RE.search(f"{done.stdout}\n{done.stderr}")
    return " ".join((found[0] if found else done.said).split())[:400]
