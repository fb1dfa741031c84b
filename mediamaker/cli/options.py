# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import argparse

from mediamaker.errors import UsageError
from mediamaker.formats.fat import FILE_SIZE_MAX, FILE_SIZE_SAFE_MAX
from mediamaker.plan.geometry import DEFAULT_SECTOR_SIZE, SECTOR_SIZES
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.units import MIB, format_size, parse_size

_PART_SIZE_MIN = MIB
_Arguments = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - no public name


def size_argument(text: str) -> int:
    """A size in bytes from ``16GiB`` and the like, for argparse."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint or ''}") from error


def auto_or_size(text: str) -> int | None:
    """As :func:`size_argument`; ``auto`` is None."""
    return None if text.casefold() == "auto" else size_argument(text)


def parse_seconds(text: str) -> float:
    """A positive number of seconds, for argparse."""
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from error
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1,000,000 seconds")
    return seconds


def add_media_options(parser: argparse.ArgumentParser) -> None:
    """Options that shape the plan; verify needs the same ones as create was given."""
    group = parser.add_argument_group("what is made")
    group.add_argument(
        "--layout",
        type=Layout,
        choices=list(Layout),
        metavar="|".join(layout.value for layout in Layout),
        help="how the disk is arranged (default: as suits the source)",
    )
    group.add_argument(
        "--label", metavar="TEXT", help="volume label (default: made from the source's)"
    )
    group.add_argument(
        "--cluster-size", type=size_argument, metavar="SIZE", help="bytes a cluster of the volume"
    )
    group.add_argument(
        "--part-size",
        type=size_argument,
        default=FILE_SIZE_SAFE_MAX,
        metavar="SIZE",
        help=f"split an install.wim that is larger, into parts of this size (default: "
        f"{FILE_SIZE_SAFE_MAX} bytes, what fsck.fat can check; FAT32 holds {FILE_SIZE_MAX})",
    )
    group.add_argument(
        "--images",
        metavar="1,6",
        help="keep only these editions of the install image (numbers or names)",
    )
    group.add_argument(
        "--solid",
        choices=("recompress", "extents", "exfat"),
        default="recompress",
        help="what becomes of a solid install image over 4 GiB: recompressed once and cached "
        "(default), cut between its chunks, or whole on a second, exFAT partition (experimental)",
    )


def add_seed_option(parser: argparse.ArgumentParser) -> None:
    """The seed of the disk's identities."""
    parser.add_argument(
        "--seed",
        metavar="TEXT",
        help="identities (serials, GUIDs) are made from this: the same seed gives equal bytes",
    )


def add_image_options(parser: argparse.ArgumentParser, *, default_size: str) -> None:
    """The geometry of an image file."""
    group = parser.add_argument_group("image files")
    group.add_argument(
        "--size",
        type=auto_or_size,
        default=None,
        metavar="SIZE|auto",
        help=f"size of the disk (default: {default_size})",
    )
    add_sector_size_option(group)


def add_sector_size_option(group: _Arguments) -> None:
    """The sector size of an image file, which alone can't say it."""
    group.add_argument(
        "--sector-size",
        type=size_argument,
        metavar="BYTES",
        help=f"bytes a logical sector of an image file (default: {DEFAULT_SECTOR_SIZE})",
    )


def media_request(args: argparse.Namespace) -> MediaRequest:
    """The request that the options of :func:`add_media_options` make.

    Raises:
        UsageError: a part size that can't be.
    """
    if not _PART_SIZE_MIN <= args.part_size <= FILE_SIZE_MAX:
        raise UsageError(
            f"--part-size {args.part_size}: from {format_size(_PART_SIZE_MIN)} to "
            f"{FILE_SIZE_MAX} bytes (what FAT32 can hold) are possible"
        )
    layout = args.layout
    if layout is None and args.solid == "exfat":
        layout = Layout.MBR_FAT32_EXFAT
    return MediaRequest(
        layout=layout,
        volume_label=args.label,
        cluster_size=args.cluster_size,
        part_size_max=args.part_size,
    )


def image_sector_size(args: argparse.Namespace) -> int:
    """The sector size that an image file has, or is to have.

    Raises:
        UsageError: disks have no such sectors.
    """
    size: int = DEFAULT_SECTOR_SIZE if args.sector_size is None else args.sector_size
    if size not in SECTOR_SIZES:
        known = ", ".join(map(str, SECTOR_SIZES))
        raise UsageError(f"--sector-size {size}: disks have one of {known}")
    return size


def check_sector_size_option(args: argparse.Namespace, *, is_device: bool) -> None:
    """``--sector-size`` is for image files.

    Raises:
        UsageError: it was given for a block device.
    """
    if is_device and args.sector_size is not None:
        raise UsageError(
            f"--sector-size: {args.target} is a block device, its sectors are what they are"
        )
