# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in ISO with a solid install.wim, as consumer downloads have: for ``solid_big.py``."""

from __future__ import annotations

import shutil
import tempfile
from itertools import chain
from pathlib import Path

from standin import iso, wim


def build_solid_iso(output: Path, *, token: str, install_size: int) -> iso.StandinIso:
    """The small stand-in but for its install.wim: two editions, solid, ``install_size`` bytes.

    What is in it does not compress, so that it stays as large once it is no longer solid; XPRESS
    in its solid resources, since LZMS would take an hour to find nothing. Needs room beside
    ``output``: four times ``install_size``.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="standin-", dir=output.parent) as name:
        work_dir = Path(name)
        root, unfinished = work_dir / "tree", work_dir / "unfinished.iso"
        iso._stage(root, work_dir, token=token, variant="small", arch="x64")
        _write_solid_wim(root / "sources/install.wim", work_dir, install_size)
        wim.set_times(root)
        iso._master(root, unfinished, label=iso.LABELS["x64"], has_bios_boot=True)
        unfinished.replace(output)
    return iso.StandinIso(output, token)


def _write_solid_wim(output: Path, work_dir: Path, size: int) -> None:
    output.unlink()
    editions = (("Windows 11 Home", size * 9 // 10), ("Windows 11 Pro", size // 10))
    for index, (name, filler_size) in enumerate(editions):
        directory = work_dir / f"solid-{index}"
        files = chain(wim._installed_files("x64"), wim._filler_files(name, filler_size))
        wim.write_files(directory, files)
        verb = "append" if index else "capture"
        options = ["--no-acls", "--norpfix", "--solid", "--solid-compress=XPRESS"]
        wim._wimlib(verb, str(directory), str(output), name, name, *options)
        shutil.rmtree(directory)
