# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker wim split|join|optimize|export``: new WIM files out of old ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mediamaker.cli.options import size_argument
from mediamaker.cli.output import Output
from mediamaker.cli.wim_name import WimName, all_parts, find_image, parse_wim_name
from mediamaker.cli.wim_work import working
from mediamaker.errors import ExitCode, UsageError
from mediamaker.formats.fat import FILE_SIZE_SAFE_MAX
from mediamaker.units import format_size
from mediamaker.wim.edit import export_to_wim
from mediamaker.wim.join import join_wim_files
from mediamaker.wim.optimize import optimize_wim
from mediamaker.wim.savings import Savings, read_wim_file
from mediamaker.wim.split_file import split_wim_file
from mediamaker.wim.writing import ImageSource

_PURPOSES = ("fat32", "network", "archive")


def add_force(parser: argparse.ArgumentParser) -> None:
    """The one way to replace a file that is there."""
    parser.add_argument("--force", action="store_true", help="replace a file that is already there")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``split``."""
    parser.add_argument("wim", type=Path, metavar="FILE")
    parser.add_argument(
        "out", type=Path, metavar="OUT.swm", help="the first part; the others are OUT2.swm, ..."
    )
    parser.add_argument(
        "--size",
        type=size_argument,
        default=FILE_SIZE_SAFE_MAX,
        metavar="SIZE",
        help=f"largest part (default: {FILE_SIZE_SAFE_MAX} bytes, for FAT32)",
    )
    parser.add_argument(
        "--solid",
        action="store_true",
        help="allow a solid WIM to be cut between chunks: experimental, Windows Setup has not been "
        "seen to take such parts",
    )
    add_force(parser)


def run_split(args: argparse.Namespace, output: Output) -> ExitCode:
    """Split without recompressing."""
    with working(output) as work:
        result = split_wim_file(
            args.wim,
            args.out,
            args.size,
            solid=args.solid,
            replace=args.force,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    output.event(
        "wim-split",
        wim=str(args.wim),
        parts=[
            {"path": str(path), "size": size}
            for path, size in zip(result.paths, result.sizes, strict=True)
        ],
        is_solid=result.is_solid,
        shared_size=result.shared_size,
        copied_size=result.copied_size,
        removed=[str(path) for path in result.removed_paths],
    )
    lines = [
        f"{format_size(size):>10}  {path}"
        for path, size in zip(result.paths, result.sizes, strict=True)
    ]
    lines.append(
        f"{len(result.paths)} parts; {format_size(result.shared_size)} shared with the source, "
        f"{format_size(result.copied_size)} copied"
    )
    if result.removed_paths:
        names = ", ".join(path.name for path in result.removed_paths)
        lines.append(f"removed, as parts of the set that was replaced: {names}")
    output.result("\n".join(lines))
    return ExitCode.DONE


def add_join_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``join``."""
    parser.add_argument("first", type=Path, metavar="FIRST.swm", help="or any other part")
    parser.add_argument("out", type=Path, metavar="OUT.wim")
    parser.add_argument(
        "--ref", type=Path, nargs="+", metavar="PART", help="the other parts (default: found)"
    )
    add_force(parser)


def run_join(args: argparse.Namespace, output: Output) -> ExitCode:
    """One WIM of its parts."""
    with working(output) as work:
        result = join_wim_files(
            args.first,
            args.out,
            parts=args.ref,
            replace=args.force,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    output.event(
        "wim-join",
        path=str(result.path),
        size=result.size,
        parts=[str(path) for path in result.part_paths],
        shared_size=result.shared_size,
        copied_size=result.copied_size,
    )
    output.result(
        f"joined {len(result.part_paths)} parts: {result.path} {format_size(result.size)}"
    )
    return ExitCode.DONE


def add_optimize_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``optimize``."""
    parser.add_argument("wims", nargs="+", metavar="FILE", help="one or several WIMs to merge")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--images", metavar="1,6", help="keep only these images (numbers or names; one FILE)"
    )
    parser.add_argument(
        "--fit",
        type=size_argument,
        metavar="SIZE",
        help="of at most this size; for fat32 only as much is compressed again as that needs",
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=_PURPOSES,
        default="fat32",
        help="fat32: what every Setup reads (default); network: smallest that decodes fast; "
        "archive: solid LZMS",
    )
    parser.add_argument("--solid", action="store_true", default=None, help="one solid resource")
    parser.add_argument(
        "--integrity", action="store_true", help="add a table of hashes of the whole file"
    )
    add_force(parser)


def run_optimize(args: argparse.Namespace, output: Output) -> ExitCode:
    """Keep what is wanted, as small as the purpose allows."""
    sources = [_image_source(text, args.images, many=len(args.wims) > 1) for text in args.wims]
    with working(output) as work:
        result = optimize_wim(
            sources,
            args.out,
            purpose=args.purpose,
            fit_size=args.fit,
            solid=args.solid,
            integrity=args.integrity,
            replace_existing=args.force,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    output.event(
        "wim-optimize",
        path=str(result.path),
        images=[image.name for image in result.images],
        boot_index=result.boot_index,
        is_recompressed=result.copied_count < result.blob_count,
        blob_count=result.blob_count,
        copied_blob_count=result.copied_count,
        **_savings_to_json(result.savings),
    )
    anew = result.blob_count - result.copied_count
    how = (
        f"{anew} of {result.blob_count} blobs compressed again, the others copied as stored"
        if anew
        else "everything copied as stored"
    )
    output.result(
        "\n".join([f"{result.path}: {len(result.images)} images, {how}", *_show(result.savings)])
    )
    return ExitCode.DONE


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``export``."""
    parser.add_argument("wim", metavar="FILE[:IMAGE]", help="without IMAGE: all")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--name", help="the image's name in OUT")
    parser.add_argument("--description", help="the image's description in OUT")
    parser.add_argument("--boot", action="store_true", help="make it the image that boots")
    parser.add_argument("--append", action="store_true", help="to the WIM that OUT is already")
    parser.add_argument(
        "--ref", type=Path, nargs="*", default=[], metavar="PART", help="parts of a split FILE"
    )
    add_force(parser)


def run_export(args: argparse.Namespace, output: Output) -> ExitCode:
    """Copy images into another WIM."""
    name = parse_wim_name(args.wim)
    path, *parts = all_parts(name.path, args.ref)
    images = None
    if name.image is not None:
        images = (find_image(name, read_wim_file(name.path).images),)
    with working(output) as work:
        result = export_to_wim(
            ImageSource(path=path, images=images, part_paths=tuple(parts)),
            args.out,
            name=args.name,
            description=args.description,
            is_bootable=args.boot,
            append=args.append,
            replace_existing=args.force,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    output.event(
        "wim-export",
        path=str(result.path),
        images=[image.name for image in result.images],
        boot_index=result.boot_index,
        **_savings_to_json(result.savings),
    )
    output.result(
        "\n".join([f"{result.path}: {len(result.images)} images", *_show(result.savings)])
    )
    return ExitCode.DONE


def _image_source(text: str, images: str | None, *, many: bool) -> ImageSource:
    name = parse_wim_name(text)
    chosen: tuple[int, ...] | None = None
    if name.image is not None or images is not None:
        if images is not None and (many or name.image is not None):
            raise UsageError(
                "--images is for one FILE without an image of its own",
                hint="name images as FILE:IMAGE",
            )
        known = read_wim_file(name.path).images
        wanted = [name.image] if name.image is not None else str(images).split(",")
        chosen = tuple(find_image(WimName(name.path, str(item).strip()), known) for item in wanted)
    path, *parts = all_parts(name.path, ())
    return ImageSource(path=path, images=chosen, part_paths=tuple(parts))


def _savings_to_json(savings: Savings) -> dict[str, Any]:
    return {
        "size_before": savings.size_before,
        "size_after": savings.size_after,
        "saved_by_dropping": savings.dropped,
        "saved_by_dedup": savings.shared,
        "saved_by_recompressing": savings.recompressed,
        "saved_in_tables": savings.tables,
    }


def _show(savings: Savings) -> list[str]:
    facts = {"before": savings.size_before, "after": savings.size_after}
    for key, size in (
        ("by dropping", savings.dropped),
        ("by dedup", savings.shared),
        ("by recompressing", savings.recompressed),
        ("in tables", savings.tables),
    ):
        # What takes more than before is called so: nobody saves less than nothing.
        facts[f"saved {key}" if size >= 0 else f"more {key}"] = abs(size)
    return [f"  {key:<22} {format_size(size):>10}" for key, size in facts.items()]
