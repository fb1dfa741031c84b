# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bootsector``: show, write, back up and put back boot code, what bootsect.exe does.

See ``docs/bootsector.md`` for how its options compare.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mediamaker.cli.options import size_argument
from mediamaker.cli.output import Output
from mediamaker.cli.subverbs import SubVerb, add_subverbs, run_subverb
from mediamaker.errors import ExitCode, FormatError, UsageError
from mediamaker.formats.boot_sectors import read_start_lba
from mediamaker.formats.mbr import TYPE_GPT_PROTECTIVE
from mediamaker.install.boot_areas import (
    BootArea,
    Piece,
    find_areas,
    open_target,
    place_boot_code,
    write_pieces,
)
from mediamaker.install.boot_backup import load_areas, place_backup, save_areas
from mediamaker.install.disk_file import ChangeableDisk
from mediamaker.plan.geometry import SECTOR_SIZES
from mediamaker.sources.bootcode import load_our_boot_code
from mediamaker.units import format_size

_SLOT_MAX = 128
_TYPE_CODES = slice(0x1C2, 0x1FE, 16)  # of the four partition entries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs and their arguments."""
    add_subverbs(parser, SUBVERBS)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Do what the sub-verb says."""
    return run_subverb(args, output)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        type=Path,
        metavar="TARGET",
        help="a disk, a partition's device, or an image file of either",
    )
    parser.add_argument(
        "--sector-size",
        type=size_argument,
        metavar="BYTES",
        help="bytes a logical sector of an image file (default: as its GPT or volume says, or 512)",
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--partition",
        type=_partition_number,
        action="append",
        default=[],
        metavar="N",
        help="this partition's boot sector (may be given again)",
    )
    parser.add_argument("--mbr", action="store_true", help="the code of the master boot record")


def _add_write(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _add_choice(parser)
    parser.add_argument(
        "--start-lba",
        type=int,
        metavar="LBA",
        help="for the image of one volume: where its partition will start (default: as it says)",
    )
    parser.add_argument(
        "--backup",
        type=Path,
        metavar="FILE",
        help="where the old boot sectors are kept (default: a new file in the state folder)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and stop")


def _add_backup(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup; must not exist")


def _add_restore(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a backup of this target")


def _run_show(args: argparse.Namespace, output: Output) -> ExitCode:
    ours = load_our_boot_code()
    with _opened(args, writable=False) as disk:
        areas = find_areas(disk, args.target, ours)
    output.event(
        "bootsector", target=str(args.target), areas=[_area_to_json(area) for area in areas]
    )
    output.result("\n".join(_show_area(area) for area in areas))
    return ExitCode.DONE


def _run_write(args: argparse.Namespace, output: Output) -> ExitCode:
    ours = load_our_boot_code()
    with _opened(args, writable=not args.dry_run) as disk:
        areas = find_areas(disk, args.target, ours)
        chosen = _choose(args, areas)
        for words in _list_doubts(chosen, areas):
            output.warning(words)
        pieces = [
            piece
            for area in chosen
            for piece in place_boot_code(area, ours, start_lba=_start_lba(args, area))
        ]
        backup = None
        if args.dry_run:
            size = _count_changed(disk, pieces)
        else:
            backup = args.backup or _state_file(args.target)
            save_areas(backup, args.target, chosen)
            size = write_pieces(disk, pieces)
            output.note(f"old boot sectors: {backup}")
    names = [area.what for area in chosen]
    output.event(
        "bootsector-write",
        target=str(args.target),
        areas=names,
        is_dry_run=args.dry_run,
        changed_size=size,
        backup=None if backup is None else str(backup),
    )
    does = "would change" if args.dry_run else "changed"
    output.result(f"{args.target}: {' and '.join(names)}: {does} {size} bytes")
    return ExitCode.DONE


def _run_backup(args: argparse.Namespace, output: Output) -> ExitCode:
    with _opened(args, writable=False) as disk:
        areas = find_areas(disk, args.target, load_our_boot_code())
    save_areas(args.file, args.target, areas)
    size = sum(len(piece.data) for area in areas for piece in area.pieces)
    names = [area.what for area in areas]
    output.event(
        "bootsector-backup",
        target=str(args.target),
        backup=str(args.file),
        areas=names,
        size=size,
    )
    output.result(f"{args.file}: {', '.join(names)}: {format_size(size)}")
    return ExitCode.DONE


def _run_restore(args: argparse.Namespace, output: Output) -> ExitCode:
    saved = load_areas(args.file)
    with _opened(args, writable=True) as disk:
        areas = find_areas(disk, args.target, load_our_boot_code())
        pieces = list(place_backup(saved, areas, what=str(args.target)))
        size = write_pieces(disk, pieces)
    names = [area.what for area in saved]
    output.event(
        "bootsector-restore",
        target=str(args.target),
        backup=str(args.file),
        areas=names,
        changed_size=size,
    )
    output.result(f"{args.target}: {', '.join(names)}: changed {size} bytes")
    return ExitCode.DONE


SUBVERBS = (
    SubVerb(
        "show",
        "whose boot code is in the MBR and in each volume, and what it would load",
        "mediamaker bootsector show /dev/sdX",
        _add_target,
        _run_show,
    ),
    SubVerb(
        "write",
        "put boot code that starts BOOTMGR into a volume or the MBR; all else stays",
        "mediamaker bootsector write /dev/sdX --partition 1 --mbr",
        _add_write,
        _run_write,
    ),
    SubVerb(
        "backup",
        "keep all boot sectors of a disk or volume in a file",
        "mediamaker bootsector backup /dev/sdX old-boot.json",
        _add_backup,
        _run_backup,
    ),
    SubVerb(
        "restore",
        "put boot code back from a backup; table, label and files stay as they are now",
        "mediamaker bootsector restore /dev/sdX old-boot.json",
        _add_restore,
        _run_restore,
    ),
)


class _Opened:
    """A target that is closed again."""

    def __init__(self, disk: ChangeableDisk) -> None:
        self._disk = disk

    def __enter__(self) -> ChangeableDisk:
        return self._disk

    def __exit__(self, *_: object) -> None:
        self._disk.close()


def _opened(args: argparse.Namespace, *, writable: bool) -> _Opened:
    if args.sector_size is not None and args.sector_size not in SECTOR_SIZES:
        known = ", ".join(map(str, SECTOR_SIZES))
        raise UsageError(f"--sector-size {args.sector_size}: disks have one of {known}")
    return _Opened(open_target(args.target, writable=writable, sector_size=args.sector_size))


def _choose(args: argparse.Namespace, areas: Sequence[BootArea]) -> tuple[BootArea, ...]:
    """The areas that the options name."""
    is_volume = areas[0].number is None
    if is_volume:
        if args.partition or args.mbr:
            raise UsageError(f"{args.target} is one volume: it has no --partition and no --mbr")
        return tuple(areas)
    if args.start_lba is not None:
        raise UsageError("--start-lba: this disk's partition table says where partitions start")
    if not args.partition and not args.mbr:
        numbers = ", ".join(str(area.number) for area in areas[1:])
        raise UsageError(
            f"{args.target} is a disk: which boot sector?",
            hint=f"--partition N (there are {numbers}), --mbr, or both",
        )
    by_number = {area.number: area for area in areas}
    wanted = [*dict.fromkeys(args.partition), *([0] if args.mbr else [])]
    for number in wanted:
        if number not in by_number:
            numbers = ", ".join(str(area.number) for area in areas[1:])
            raise UsageError(f"--partition {number}: {args.target} has {numbers}")
    return tuple(by_number[number] for number in wanted)


def _list_doubts(chosen: Sequence[BootArea], areas: Sequence[BootArea]) -> list[str]:
    """What keeps a BIOS from getting as far as this boot code."""
    if areas[0].number is None:
        return []
    if TYPE_GPT_PROTECTIVE in areas[0].head[_TYPE_CODES]:
        return ["the disk has a GPT: a BIOS starts Windows only from a disk with an MBR"]
    active = [area for area in areas if area.is_active]
    if not active:
        return ["no partition is active: MBR code starts the active one (sfdisk --activate)"]
    return [
        f"{area.what} is not active, {active[0].what} is: that one is started"
        for area in chosen
        if area.number and not area.is_active
    ]


def _start_lba(args: argparse.Namespace, area: BootArea) -> int:
    if args.start_lba is not None:
        if args.start_lba < 0:
            raise UsageError(f"--start-lba {args.start_lba}: no sector has such a number")
        return int(args.start_lba)
    if area.number != 0 and area.file_system is None:
        raise FormatError(
            f"{args.target}: {area.what} holds no NTFS, exFAT or FAT32 volume",
            hint="make the volume first; boot code does not make one",
        )
    return area.start_lba or 0


def _count_changed(disk: ChangeableDisk, pieces: Sequence[Piece]) -> int:
    size = disk.logical_sector_size
    changed = 0
    for piece in pieces:
        old = disk.pread(piece.offset, len(piece.data))
        for at in range(0, len(old), size):
            changed += size * (old[at : at + size] != piece.data[at : at + size])
    return changed


def _state_file(target: Path) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = state / "mediamaker" / "bootsector"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{target.name}-{stamp}{f'-{n}' if n else ''}.json" for n in range(_SLOT_MAX))
    return next((folder / name for name in names if not (folder / name).exists()), folder / stamp)


def _partition_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a partition's number") from error
    if number < 1:
        raise argparse.ArgumentTypeError("partitions are numbered from 1")
    return number


def _show_area(area: BootArea) -> str:
    kind = f" ({area.file_system})" if area.file_system else ""
    active = ", active" if area.is_active else ""
    loads = f", loads {area.identity.loads}" if area.identity.loads else ""
    lines = [f"{area.what}{kind}{active}: {area.identity.words}{loads}"]
    said = _says_lba(area)
    if said is not None and area.number and said != area.start_lba:
        lines.append(f"  starts at sector {area.start_lba}, its boot sector says {said}")
    return "\n".join(lines)


def _says_lba(area: BootArea) -> int | None:
    return read_start_lba(area.head)


def _area_to_json(area: BootArea) -> dict[str, Any]:
    return {
        "number": area.number,
        "what": area.what,
        "offset": area.offset,
        "file_system": area.file_system,
        "is_active": area.is_active,
        "start_lba": area.start_lba,
        "said_start_lba": _says_lba(area),
        "owner": area.identity.owner,
        "words": area.identity.words,
        "loads": area.identity.loads,
    }
