# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``create`` share: a source, a used stick, what should come out, and the judges.

The judges are foreign: sfdisk and blkid say whether there is a table or a file system; whole
disks are compared byte for byte. What should come out is what ``create`` makes of an image file,
with the used stick's bytes where the plan leaves a device as it is.
"""

from __future__ import annotations

import json
import mmap
import random
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from standin.iso import standin_iso

from faults.commands import Ran, mediamaker, run
from faults.matrix import Trial, Verdict
from mediamaker.units import MIB

DISK_SIZE = 96 * MIB
SEED = "fault"
_TREES = Path(__file__).parents[2] / "out" / "fault-trees"


@dataclass(frozen=True, slots=True)
class MediaRig:
    """``expected`` is the used stick after ``create_words``; ``used`` before it."""

    source: Path
    options: tuple[str, ...]
    sector_size: int
    expected: Path
    used: Path
    used_table: str
    partitions: tuple[tuple[int, int], ...]
    """(start, size) of the used stick's: FAT and ext4."""
    plan: dict[str, object]

    def create_words(self, target: object, *more: object) -> list[str]:
        """The command line behind ``mediamaker``; ``--confirm`` is the caller's."""
        words = ["create", self.source, target, "--seed", SEED, *self.options, *more]
        return [str(word) for word in words]

    def create_line(self, target: object, *more: object) -> str:
        """The same for a shell."""
        return shlex.join(self.create_words(target, *more))

    def copy_used(self, path: Path) -> Path:
        """A stick of its own for a trial."""
        run("cp", "--sparse=always", self.used, path)
        return path

    @property
    def written_size(self) -> int:
        """Bytes that a run gives the disk, without the blanking."""
        return sum(
            extent["size"] for extent in self.extents if extent["source"]["kind"] != "unwritten"
        )

    @property
    def extents(self) -> list[dict[str, object]]:
        """The plan's, as its JSON has them."""
        return self.plan["extents"]

    def judge(self, disk: Path) -> tuple[Verdict, str]:
        """What ``disk`` is now, by its bytes; the bytes are read as they are on the medium."""
        if is_equal(disk, self.expected):
            return Verdict.COMPLETE, "every byte is as planned"
        with block_path(disk, self.sector_size) as path:
            if is_blank(disk, path):
                return Verdict.BLANK, "no table, no file system"
            kept = all(is_equal(disk, self.used, start, size) for start, size in self.partitions)
            if kept and read_table(path) == self.used_table:
                return Verdict.AS_BEFORE, "the old table and all that was in its partitions"
            return Verdict.HALF_VALID, describe(path)

    def weigh(
        self, disk: Path, ran: Ran, point: str, *, code: int, words: tuple[str, ...] = ()
    ) -> Trial:
        """The trial of a run that came to its own end: its disk, its exit code, its words."""
        verdict, seen = self.judge(disk)
        return weigh(verdict, seen, ran, point, code=code, words=words)


def weigh(
    verdict: Verdict, seen: str, ran: Ran, point: str, *, code: int, words: tuple[str, ...] = ()
) -> Trial:
    """``verdict`` by the bytes, or worse for what was said: ``code``, each of ``words``."""
    if verdict is Verdict.HALF_VALID:
        return Trial(verdict, point, seen)
    if ran.exit_code == 0 and verdict is not Verdict.COMPLETE:
        return Trial(Verdict.FALSE_DONE, point, seen)
    missing = [word for word in words if word not in ran.words]
    if ran.exit_code != code or missing or ran.errors:
        said = f"exit {ran.exit_code} instead of {code}; not said: {missing}; {seen}; said: "
        return Trial(Verdict.WRONG_WORDS, point, said + (ran.errors or ran.words)[-600:])
    return Trial(verdict, point, ran.message or seen)


def make_media_rig(
    folder: Path,
    *,
    filler_size: int | None = 24 * MIB,
    disk_size: int = DISK_SIZE,
    sector_size: int = 512,
    options: tuple[str, ...] = (),
    has_own_tree: bool = False,
) -> MediaRig:
    """Make everything in ``folder``. The source is a tree for UEFI with so many random bytes.

    Without ``filler_size`` it is the stand-in for Windows' ISO, some 57 MiB. What may be changed
    ``has_own_tree``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if filler_size is None:
        source = standin_iso().path
    elif has_own_tree:
        source = make_tree(folder / "tree", filler_size)
    else:
        source = _shared_tree(filler_size)
    used, expected, plan_path = folder / "used.img", folder / "expected.img", folder / "plan.json"
    partitions = _make_used(used, disk_size, sector_size)
    size = ["--seed", SEED, "--size", disk_size, "--sector-size", sector_size, *options]
    run(*mediamaker("create", source, expected, *size))
    run(*mediamaker("plan", source, *size, "--out", plan_path))
    plan = json.loads(plan_path.read_text())
    with expected.open("r+b") as file, used.open("rb") as old:
        for extent in plan["extents"]:
            if extent["source"]["kind"] == "unwritten":
                old.seek(extent["start"])
                file.seek(extent["start"])
                file.write(old.read(extent["size"]))
    with block_path(used, sector_size) as path:
        table = read_table(path)
    return MediaRig(source, options, sector_size, expected, used, table, partitions, plan)


def _shared_tree(filler_size: int) -> Path:
    """A tree that stays; not in /dev/shm, of which a guest has its own."""
    place = _TREES / f"{filler_size // MIB}"
    if not place.exists():
        _TREES.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=_TREES))
        make_tree(fresh, filler_size)
        try:
            fresh.rename(place)
        except OSError:
            shutil.rmtree(fresh)  # another cell was faster
    return place


def make_tree(root: Path, filler_size: int) -> Path:
    """A tree that UEFI would boot, by its names."""
    (root / "efi" / "boot").mkdir(parents=True)
    program = bytearray(4096)
    program[:2] = b"MZ"
    program[0x3C:0x40] = (0x80).to_bytes(4, "little")
    program[0x80:0x84] = b"PE\0\0"
    program[0x84:0x86] = (0x8664).to_bytes(2, "little")
    program[0x98:0x9A] = (0x20B).to_bytes(2, "little")
    (root / "efi" / "boot" / "bootx64.efi").write_bytes(program)
    (root / "read me.txt").write_text("a small file")
    rng = random.Random(filler_size)
    with (root / "big.bin").open("wb") as file:
        for done in range(0, filler_size, MIB):
            file.write(rng.randbytes(min(MIB, filler_size - done)))
    return root


def _make_used(path: Path, disk_size: int, sector_size: int) -> tuple[tuple[int, int], ...]:
    """A stick with an earlier life, by other tools: GPT, FAT with a file, ext4."""
    with path.open("wb") as file:
        file.truncate(disk_size)
    middle = (disk_size // 2 // MIB + 3) * MIB
    partitions = ((MIB, middle - MIB), (middle, disk_size // MIB * MIB - MIB - middle))
    sectors = [f"{s // sector_size}:{(s + n) // sector_size - 1}" for s, n in partitions]
    with block_path(path, sector_size) as disk:
        run("sgdisk", "-n", f"1:{sectors[0]}", "-n", f"2:{sectors[1]}", disk)
    (start, size), (start2, size2) = partitions
    fat = ["-F", "32"] if sector_size == 512 else ["-F", "16", "-S", sector_size]
    run("mkfs.fat", *fat, "--offset", start // sector_size, path, size // 1024)
    payload = path.with_name("payload")
    payload.write_bytes(bytes(range(256)) * (8 * MIB // 256))
    run("mcopy", "-i", f"{path}@@{start}", payload, "::payload")
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={start2}", path, f"{size2 // 1024}k")
    payload.unlink()
    return partitions


# Judges


@contextmanager
def block_path(disk: Path, sector_size: int) -> Iterator[Path]:
    """``disk``, or a loop device with such sectors over it: tools take a file's for 512 bytes."""
    if sector_size == 512:
        yield disk
        return
    with loop_device(disk, sector_size=sector_size) as device:
        yield device


@contextmanager
def loop_device(disk: Path, *, sector_size: int = 512) -> Iterator[Path]:
    """A block device over ``disk``."""
    name = run("losetup", "--find", "--show", "--sector-size", sector_size, disk).strip()
    try:
        yield Path(name)
    finally:
        run("losetup", "--detach", name)


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


def is_blank(disk: Path, path: Path) -> bool:
    """Whether nobody finds a table or a file system at ``path``, and sector 0 is zeros."""
    with disk.open("rb") as file:
        is_zero = file.read(512) == bytes(512)
    probe = subprocess.run(
        ["blkid", "--probe", str(path)], capture_output=True, text=True, check=False
    )
    return is_zero and probe.returncode == 2 and read_table(path) == ""


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
