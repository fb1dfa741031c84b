# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``recovery add`` and ``undo`` share: a disk with a Windows, and the judge.

Foreign tools made the disk (``tests/install/windows_disk_rig.py``). Whatever a fault leaves,
``undo`` with the file that the command named gives back every byte: all of them are compared.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from faults.matrix import Verdict
from faults.outcomes import last_line
from faults.windows_rig import is_same, mediamaker, run, run_any
from mediamaker.units import MIB
from tests.install.windows_disk_rig import make_gpt_disk, make_mbr_disk, make_winre


@dataclass(frozen=True, slots=True)
class RecoveryRig:
    """``before`` is the disk without a recovery partition."""

    before: Path
    winre: Path
    work_dir: Path

    @property
    def options(self) -> tuple[object, ...]:
        """Of ``recovery add``, but for the target, its release and the undo file."""
        return ("--winre", self.winre, "--size", "32MiB", "--seed", "fault", "--json")

    @property
    def scratch(self) -> Path:
        """Where overlays are made."""
        return self.work_dir / "scratch"

    def add_words(self, target: Path, undo: Path, *more: object) -> list[str]:
        """The command."""
        words = mediamaker("recovery", "add", target, *self.options, "--undo", undo, *more)
        return ["env", f"TMPDIR={self.scratch}", *words]

    def judge(
        self, disk: Path, undo: Path, *, is_done: bool, undo_options: tuple[str, ...] = ()
    ) -> tuple[Verdict, str]:
        """What became of ``disk``, a file that is used up by it: ``undo`` is run on it.

        ``is_done``: the command called it done, and then it must be.
        """
        is_untouched = is_same(disk, self.before)
        is_complete = not is_untouched and self._is_complete(disk)
        if is_done and not is_complete:
            return Verdict.FALSE_DONE, "called done, but `recovery check` or sgdisk say no"
        if not undo.exists():
            if is_untouched:
                return Verdict.AS_BEFORE, "not a byte is changed, and there is no undo file"
            return Verdict.LOST, "changed, and there is no undo file"
        words = mediamaker("undo", undo, disk, *undo_options, "--json")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            return Verdict.LOST, f"undo: exit {done.returncode}: {last_line(done.stdout)}"
        if not is_same(disk, self.before):
            return Verdict.LOST, "undo called it done, and bytes differ from before"
        if is_untouched:
            return Verdict.AS_BEFORE, "not a byte is changed; undo says so too"
        if is_complete:
            return Verdict.COMPLETE, "WinRE would start; undo gave back every byte all the same"
        return Verdict.PUT_BACK, "changed in part; undo gave back every byte"

    def _is_complete(self, disk: Path) -> bool:
        words = mediamaker("recovery", "check", disk, "--json")
        check = subprocess.run(words, capture_output=True, text=True, check=False)
        if check.returncode:
            return False
        if "gpt" in disk.name:
            return "No problems found" in run("sgdisk", "-v", disk)
        return run_any("sfdisk", "--verify", disk).returncode == 0


def make_recovery_rig(
    folder: Path,
    *,
    kind: str = "gpt",
    source_dir: Path | None = None,
    windows_size: int = 96 * MIB,
) -> RecoveryRig:
    """Make the disk in ``folder``, and the Winre.wim in ``source_dir``, if a guest needs it."""
    make = make_gpt_disk if kind == "gpt" else make_mbr_disk
    disk = make(folder, windows_size=windows_size, filler_size=12 * MIB)
    before = folder / f"before-{kind}.img"
    disk.path.rename(before)
    # The filler is noise; what is free is a hole.
    run("fallocate", "--dig-holes", before)
    rig = RecoveryRig(before, make_winre(source_dir or folder), folder)
    rig.scratch.mkdir()
    return rig
