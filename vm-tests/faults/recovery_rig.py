# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``recovery add`` and ``undo`` share: a disk with a Windows, and the judge.

Foreign tools made the disk (``tests/install/windows_disk_rig.py``). Whatever a fault leaves,
``undo`` with the file that the command named gives back every byte: all of them are compared.

Complete is what equals a run to the end, which foreign tools judged. Two such runs tell which
8-byte words may differ: the times that ntfs-3g gives to records, and that of a FAT entry.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from faults.matrix import Verdict
from faults.media_rig import block_path, is_equal
from faults.outcomes import last_line
from faults.windows_rig import (
    copy_sparse,
    differences,
    is_same,
    make_windows_rig,
    mediamaker,
    partitions_of,
    run,
    run_any,
)
from mediamaker.units import MIB
from tests.install.windows_disk_rig import make_gpt_disk, make_mbr_disk, make_winre

RECOVERY_SIZE = 32 * MIB
_CLOCK_WORDS_MAX = 150
_FAT_TIME_STEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RecoveryRig:
    """``before`` is the disk without a recovery partition, ``expected`` the one with it.

    ``clock_words`` are what may differ from ``expected``.
    """

    before: Path
    winre: Path
    work_dir: Path
    expected: Path
    clock_words: frozenset[int]
    sector_size: int = 512

    @property
    def options(self) -> tuple[object, ...]:
        """Of ``recovery add``, but for the target, its release and the undo file."""
        return ("--winre", self.winre, "--size", RECOVERY_SIZE, "--seed", "fault", "--json")

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
            words = sorted(differences(disk, self.expected, self.clock_words))
            places = ", ".join(f"{word * 8:#x}" for word in words[:6])
            said = f"differs from a run to the end in {len(words)} words: {places}"
            return Verdict.FALSE_DONE, f"called done, and {said}"
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
        return is_same(disk, self.expected, self.clock_words)


def make_recovery_rig(
    folder: Path,
    *,
    kind: str = "gpt",
    source_dir: Path | None = None,
    windows_size: int = 96 * MIB,
    sectors_more: int = 0,
) -> RecoveryRig:
    """Make the disk in ``folder``, and the Winre.wim in ``source_dir``, if a guest needs it.

    ``kind`` is "gpt", "mbr" or "gpt-4kn"; ``sectors_more`` are at the disk's end.
    """
    before = folder / f"before-{kind}.img"
    sector_size = 4096 if kind == "gpt-4kn" else 512
    if sector_size == 4096:
        # No foreign tool of ours makes a Windows on such a disk.
        (folder / "windows").mkdir()
        make_windows_rig(folder / "windows", sector_size=sector_size).expected.rename(before)
    else:
        make = make_gpt_disk if kind == "gpt" else make_mbr_disk
        make(folder, windows_size=windows_size, filler_size=12 * MIB).path.rename(before)
    if sectors_more:
        with before.open("r+b") as file:
            file.truncate(before.stat().st_size + sectors_more * 512)
        if kind == "gpt":
            run("sgdisk", "--move-second-header", before)
    # The filler is noise; what is free is a hole.
    run("fallocate", "--dig-holes", before)
    expected, again = (folder / f"{name}-{kind}.img" for name in ("expected", "again"))
    winre = make_winre(source_dir or folder)
    rig = RecoveryRig(before, winre, folder, expected, frozenset(), sector_size)
    rig.scratch.mkdir()
    for number, path in enumerate((expected, again)):
        time.sleep(number * _FAT_TIME_STEP_SECONDS)
        copy_sparse(before, path)
        undo = folder / "expected.undo"
        run(*rig.add_words(path, undo))
        undo.unlink()
    clock_words = differences(again, expected)
    again.unlink()
    if len(clock_words) > _CLOCK_WORDS_MAX:
        raise RuntimeError(f"two runs differ in {len(clock_words)} words: more than times do")
    if troubles := list(find_troubles(rig)):
        raise RuntimeError(f"a run to the end is not complete: {'; '.join(troubles)}")
    return replace(rig, clock_words=frozenset(clock_words))


def winre_of(disk: Path, *, sector_size: int = 512) -> bytes:
    """By ntfscat, out of the partition that was made."""
    places = _places(disk, sector_size)
    (place,) = [place for place in places if place[1] == RECOVERY_SIZE]
    with _volume(disk, *place) as volume:
        done = subprocess.run(
            ["ntfscat", "--force", volume, "/Recovery/WindowsRE/Winre.wim"],
            capture_output=True, check=True,
        )  # fmt: skip
    return done.stdout


# What others say of the disk that all are compared with


def find_troubles(rig: RecoveryRig) -> Iterator[str]:
    """Of ``rig.expected``."""
    disk = rig.expected
    check = run_any(*mediamaker("recovery", "check", disk, "--json"))
    if check.returncode:
        yield f"recovery check: {last_line(check.stdout)}"
    if "gpt" not in disk.name:
        table = run_any("sfdisk", "--verify", disk)
        if table.returncode:
            yield table.stdout + table.stderr
    else:
        with block_path(disk, rig.sector_size) as path:
            said = run("sgdisk", "--verify", path)
        if "No problems found" not in said:
            yield said
    if winre_of(disk, sector_size=rig.sector_size) != rig.winre.read_bytes():
        yield "another Winre.wim is on the disk"
    old, new = (dict(_places(path, rig.sector_size)) for path in (rig.before, disk))
    system = min(old)
    windows = max(old.keys() - {system}, key=lambda start: old[start])
    for start, size in old.items():
        if start not in {windows, system} and not is_equal(disk, rig.before, start, size):
            yield f"the partition at {start:#x} is not as before"
    with (
        _mounted(rig, "old", rig.before, windows, old[windows]) as left,
        _mounted(rig, "new", disk, windows, new[windows]) as right,
    ):
        done = run_any("diff", "--recursive", "--brief", left, right)
    lines = (done.stdout + done.stderr).splitlines()
    yield from (line for line in lines if "/Recovery/ReAgent.xml " not in line)


def _places(disk: Path, sector_size: int) -> list[tuple[int, int]]:
    with block_path(disk, sector_size) as path:
        return partitions_of(path)


@contextmanager
def _volume(disk: Path, start: int, size: int) -> Iterator[Path]:
    words = ("--find", "--show", "--read-only", "--offset", start, "--sizelimit", size, disk)
    device = Path(run("losetup", *words).strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def _mounted(rig: RecoveryRig, name: str, disk: Path, start: int, size: int) -> Iterator[Path]:
    place = rig.work_dir / name
    place.mkdir()
    with _volume(disk, start, size) as volume:
        run("ntfs-3g", "-o", "ro", volume, place)
        try:
            yield place
        finally:
            run("umount", place)
    place.rmdir()
