# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``create`` share: a source, a used stick, what should come out, and the judges.

The judges are foreign: sfdisk and blkid say whether there is a table or a file system; whole
disks are compared byte for byte. What should come out is what ``create`` makes of an image file,
with the used stick's bytes where the plan leaves a device as it is.
"""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from standin.iso import standin_iso

from faults.matrix import Verdict
from mediamaker.units import MIB

DISK_SIZE = 96 * MIB
SEED = "fault"
_PARTITIONS = ((MIB, 50 * MIB), (51 * MIB, 44 * MIB))
"""(start, size) of the used stick's partitions: FAT32 and ext4."""


@dataclass(frozen=True, slots=True)
class MediaRig:
    """``expected`` is the used stick after ``create SOURCE --seed SEED``; ``used`` before it."""

    source: Path
    token: str
    expected: Path
    used: Path
    used_table: str

    def copy_used(self, path: Path) -> Path:
        """A stick of its own for a trial."""
        run("cp", "--sparse=always", self.used, path)
        return path

    def judge(self, disk: Path) -> tuple[Verdict, str]:
        """What ``disk`` is now, by its bytes; the bytes are read as they are on the medium."""
        if is_equal(disk, self.expected):
            return Verdict.COMPLETE, "every byte is as planned"
        if is_blank(disk):
            return Verdict.BLANK, "no table, no file system"
        kept = all(is_equal(disk, self.used, start, size) for start, size in _PARTITIONS)
        if kept and read_table(disk) == self.used_table:
            return Verdict.AS_BEFORE, "the old table and all that was in its partitions"
        return Verdict.HALF_VALID, describe(disk)


def make_media_rig(folder: Path) -> MediaRig:
    """Make everything in ``folder``."""
    iso = standin_iso()
    used, expected = folder / "used.img", folder / "expected.img"
    _make_used(used)
    create = ["create", iso.path, expected, "--seed", SEED, "--size", str(DISK_SIZE)]
    run(*mediamaker(*create))
    plan_path = folder / "plan.json"
    run(*mediamaker("plan", iso.path, "--seed", SEED, "--size", DISK_SIZE, "--out", plan_path))
    plan = json.loads(plan_path.read_text())
    with expected.open("r+b") as file, used.open("rb") as old:
        for extent in plan["extents"]:
            if extent["source"]["kind"] == "unwritten":
                old.seek(extent["start"])
                file.seek(extent["start"])
                file.write(old.read(extent["size"]))
    return MediaRig(iso.path, iso.token, expected, used, read_table(used))


def _make_used(path: Path) -> None:
    """A stick with an earlier life, by other tools: GPT, FAT32 with a file, ext4."""
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    (start, size), (start2, size2) = _PARTITIONS
    sectors = [f"{s // 512}:{(s + n) // 512 - 1}" for s, n in ((start, size), (start2, size2))]
    run("sgdisk", "-n", f"1:{sectors[0]}", "-n", f"2:{sectors[1]}", path)
    run("mkfs.fat", "-F", "32", "--offset", start // 512, path, size // 1024)
    payload = path.with_name("payload")
    payload.write_bytes(bytes(range(256)) * (8 * MIB // 256))
    run("mcopy", "-i", f"{path}@@{start}", payload, "::payload")
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={start2}", path, f"{size2 // 1024}k")
    payload.unlink()


# Judges and tools


def mediamaker(*words: object) -> list[str]:
    """The command, as a person's script has it."""
    return [sys.executable, "-m", "mediamaker", *map(str, words)]


def run(*words: object) -> str:
    """Run a tool that must not fail; gives its standard output."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def is_equal(left: Path, right: Path, start: int = 0, size: int | None = None) -> bool:
    """Whether two files have the same bytes in ``[start, start + size)``."""
    if size is None and left.stat().st_size != right.stat().st_size:
        return False
    end = left.stat().st_size if size is None else start + size
    with left.open("rb") as one, right.open("rb") as other:
        one_map = mmap.mmap(one.fileno(), 0, prot=mmap.PROT_READ)
        other_map = mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ)
        with one_map, other_map:
            return all(
                one_map[at : min(at + MIB, end)] == other_map[at : min(at + MIB, end)]
                for at in range(start, end, MIB)
            )


def is_blank(disk: Path) -> bool:
    """Whether nobody finds a table or a file system, and sector 0 is zeros."""
    with disk.open("rb") as file:
        is_zero = file.read(512) == bytes(512)
    probe = subprocess.run(
        ["blkid", "--probe", str(disk)], capture_output=True, text=True, check=False
    )
    return is_zero and probe.returncode == 2 and read_table(disk) == ""


def read_table(disk: Path) -> str:
    """What sfdisk dumps, without the name of the disk; empty when there is no table."""
    done = subprocess.run(
        ["sfdisk", "--dump", str(disk)], capture_output=True, text=True, check=False
    )
    return done.stdout.replace(str(disk), "DISK") if done.returncode == 0 else ""


def describe(disk: Path) -> str:
    """What foreign tools make of a disk that is neither this nor that."""
    probe = subprocess.run(
        ["blkid", "--probe", str(disk)], capture_output=True, text=True, check=False
    )
    parts = (probe.stdout.strip(), read_table(disk).replace("\n", "; ")[:300])
    return " | ".join(part for part in parts if part) or "sector 0 is not zeros"
