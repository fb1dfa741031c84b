# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``install`` share: a stand-in Windows, a disk with an older one, and the judges.

The disk that is installed onto holds an earlier install of the same layout, whose file systems lie
where the new ones will: whatever is not taken away in time looks valid.

What ``install`` makes is the same each time but for the times of the moment that ntfs-3g gives to
records of the Windows volume. Two runs tell which 8-byte words those are; no others may differ.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from standin.windows_image import make_windows_wim

from faults.matrix import Verdict
from faults.media_rig import describe, is_blank, is_equal, mediamaker, read_table, run
from mediamaker.units import MIB

SEED = "fault"
_BLOCK_SIZE = 64 << 10
_SETTLE_SECONDS = 30.0
_RECOVERY = """
[[partition]]
role = "recovery"
size = "1GiB"
"""
_LAYOUTS = {
    "uefi": """format = 1
name = "small-uefi"
table = "gpt"
summary = "ESP of 40 MiB, MSR, Windows"

[[partition]]
role = "system"
size = "40MiB"
volume_label = "SYSTEM"

[[partition]]
role = "msr"
size = "16MiB"

[[partition]]
role = "windows"
size = "rest"
""",
    "bios": """format = 1
name = "small-bios"
table = "mbr"
summary = "System (active) of 40 MiB, Windows"

[[partition]]
role = "system"
size = "40MiB"
file_system = "ntfs"
active = true

[[partition]]
role = "windows"
size = "rest"
""",
}


@dataclass(frozen=True, slots=True)
class WindowsRig:
    """``expected`` is ``used`` after an install onto it; ``clock_words`` are what may differ."""

    wim: Path
    firmware: str
    layout: Path
    size: int
    sector_size: int
    used: Path
    expected: Path
    clock_words: frozenset[int]

    @property
    def options(self) -> tuple[object, ...]:
        """Of ``install``, but for the target and what releases it."""
        words = ("--firmware", self.firmware, "--layout", self.layout, "--seed", SEED, "--json")
        return (*words, *(() if self._has_recovery else ("--winre", "native")))

    @property
    def _has_recovery(self) -> bool:
        return "recovery" in self.layout.name

    def install_words(self, device: Path, *more: object) -> list[str]:
        """The command, for a device."""
        words = ("--erase", "--allow-fixed-disk", "--confirm", device.name)
        return mediamaker("install", f"{self.wim}:1", device, *self.options, *words, *more)

    def judge(self, disk: Path) -> tuple[Verdict, str]:
        """What ``disk``, a file, holds now, by its bytes and foreign tools."""
        if is_same(disk, self.expected, self.clock_words):
            return Verdict.COMPLETE, "every byte is as in a run to the end"
        if is_same(disk, self.used):
            return Verdict.AS_BEFORE, "not a byte is changed"
        table = self._read_table(self.used)
        with self._seen(disk) as path:
            if is_blank(disk, path):
                return Verdict.BLANK, "no table, no file system"
        kept = all(is_equal(disk, self.used, start, size) for start, size in _partitions(table))
        if table and kept and self._read_table(disk) == table:
            return Verdict.AS_BEFORE, "the old table and all that was in its partitions"
        return Verdict.HALF_VALID, describe(disk)

    @contextmanager
    def _seen(self, disk: Path) -> Iterator[Path]:
        """Where foreign tools see its sectors; of a file they take 512 bytes for one."""
        if self.sector_size == 512:
            yield disk
            return
        with loop_device(disk, sector_size=self.sector_size) as device:
            yield device

    def _read_table(self, disk: Path) -> str:
        with self._seen(disk) as path:
            return read_table(path)


def make_windows_rig(
    folder: Path,
    *,
    source_dir: Path | None = None,
    firmware: str = "uefi",
    has_recovery: bool = False,
    sector_size: int = 512,
    wim: Path | None = None,
) -> WindowsRig:
    """Make everything in ``folder``, but WIM and layout in ``source_dir``, if a guest needs them.

    A guest does not see what lies in /dev/shm.
    """
    sources = source_dir or folder
    if wim is None:
        wim = sources / "install.wim"
        make_windows_wim(wim, token="fault-1", winre_token="fault-2")
    layout = sources / ("layout-recovery.toml" if has_recovery else "layout.toml")
    layout.write_text(_LAYOUTS[firmware] + (_RECOVERY if has_recovery else ""))
    # FAT32 has at least 65,525 clusters, and each is a sector or more.
    size = (240 + (1024 if has_recovery else 0) + (256 if sector_size > 512 else 0)) * MIB
    used, expected, again = (folder / f"{name}.img" for name in ("used", "expected", "again"))
    rig = WindowsRig(wim, firmware, layout, size, sector_size, used, expected, frozenset())
    with used.open("wb") as file:
        file.truncate(size)
    words = [str(word) for word in rig.options]
    words[words.index(SEED)] = "an older one"
    image = ("--size", size, "--sector-size", sector_size, "--force")
    run(*mediamaker("install", f"{wim}:1", used, *words, *image))
    for disk in (expected, again):
        copy_sparse(used, disk)
        with loop_device(disk, sector_size=sector_size) as device:
            run(*rig.install_words(device))
    words_differ = differences(again, expected)
    again.unlink()
    if len(words_differ) > 4000:
        raise RuntimeError(f"two runs differ in {len(words_differ)} words: more than times do")
    _judge_complete(expected, firmware)
    return WindowsRig(
        wim, firmware, layout, size, sector_size, used, expected, frozenset(words_differ)
    )


def _partitions(table: str) -> list[tuple[int, int]]:
    """(start, size) in bytes of each line of ``sfdisk --dump``, which counts sectors."""
    sector_size = int(found[1]) if (found := re.search(r"sector-size: (\d+)", table)) else 512
    places = re.findall(r"start= *(\d+), size= *(\d+)", table)
    return [(int(start) * sector_size, int(size) * sector_size) for start, size in places]


def partitions_of(disk: Path) -> list[tuple[int, int]]:
    """(start, size) of each partition, in bytes, by sfdisk."""
    return _partitions(read_table(disk))


def _judge_complete(disk: Path, firmware: str) -> None:
    """What others say of the disk that all are compared with."""
    if firmware == "uefi" and disk.stat().st_size % 4096 == 0:
        with disk.open("rb") as file:
            file.seek(512)
            if file.read(8) == b"EFI PART" and "No problems found" not in run("sgdisk", "-v", disk):
                raise RuntimeError("sgdisk finds problems on the disk that was installed")


def is_same(left: Path, right: Path, allowed: frozenset[int] = frozenset()) -> bool:
    """Whether all 8-byte words are the same but for those ``allowed``; ends at the first."""
    return next(_differences(left, right, allowed), None) is None


def differences(left: Path, right: Path, allowed: frozenset[int] = frozenset()) -> set[int]:
    """The numbers of the 8-byte words that differ, without those ``allowed``."""
    return set(_differences(left, right, allowed))


def _differences(left: Path, right: Path, allowed: frozenset[int]) -> Iterator[int]:
    """Holes are zeros, and take no time."""
    if left.stat().st_size != right.stat().st_size:
        yield -1
        return
    with left.open("rb", buffering=0) as one, right.open("rb", buffering=0) as other:
        blocks = _data_blocks(one.fileno()) | _data_blocks(other.fileno())
        for block in sorted(blocks):
            at = block * _BLOCK_SIZE
            mine, theirs = (os.pread(f.fileno(), _BLOCK_SIZE, at) for f in (one, other))
            if mine == theirs:
                continue
            for place in range(0, len(mine), 8):
                word = (at + place) // 8
                is_equal = mine[place : place + 8] == theirs[place : place + 8]
                if not is_equal and word not in allowed:
                    yield word


def data_inside(disk: Path, start: int, end: int) -> int:
    """The offset of a block in the middle of the data that lie in ``[start, end)``."""
    with disk.open("rb") as file:
        blocks = sorted(_data_blocks(file.fileno()))
    inside = [b * _BLOCK_SIZE for b in blocks if start <= b * _BLOCK_SIZE < end]
    return inside[len(inside) // 2]


def _data_blocks(descriptor: int) -> set[int]:
    blocks: set[int] = set()
    size, end = os.fstat(descriptor).st_size, 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: holes up to the end
            break
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        blocks.update(range(start // _BLOCK_SIZE, -(-end // _BLOCK_SIZE)))
    return blocks


def run_any(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a tool whose exit code says something."""
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )


def copy_sparse(source: Path, target: Path) -> Path:
    """A copy with the same holes."""
    run("cp", "--sparse=always", source, target)
    return target


@contextmanager
def loop_device(path: Path, *, sector_size: int = 512) -> Iterator[Path]:
    """A block device over a file; what partitions were made of it go with it.

    Raises:
        RuntimeError: something on it is in use still.
    """
    words = ["losetup", "--find", "--show", "--sector-size", str(sector_size), str(path)]
    name = run(*words).strip()
    try:
        yield Path(name)
    finally:
        # Partitions that the kernel was told of by a run that was killed.
        subprocess.run(["partx", "--delete", name], capture_output=True, check=False)
        run("losetup", "--detach", name)


@contextmanager
def ext4_folder(folder: Path, *, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes on a file, mounted."""
    image, place = folder / "ext4.img", folder / "ext4"
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)
        image.unlink()


def find_strays(folder: Path, *, apart_from: str = "ext4") -> list[str]:
    """Loop devices and mounts that hang on what lies in ``folder``, once what lived on has ended.

    A server of files has a session of its own, and needs a moment to notice that it is alone.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while strays := [line for line in _hanging_on(folder) if apart_from not in line]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return strays


def _hanging_on(folder: Path) -> list[str]:
    loops = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    strays = [f"loop device {line}" for line in loops] + [f"mount {line}" for line in mounts]
    return [line for line in strays if str(folder) in line]
