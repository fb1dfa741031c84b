# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker wim info|ls|cat|extract|verify``: what only reads."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mediamaker.cli.output import Output
from mediamaker.cli.progress import ProgressView
from mediamaker.cli.wim_name import WimName, find_image, other_parts, parse_wim_name
from mediamaker.errors import ExitCode, FormatError, UsageError
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.execute.progress import Phase
from mediamaker.sources.wim import WimFile
from mediamaker.units import format_size
from mediamaker.wim.extract import extract_paths
from mediamaker.wim.parts import WimParts, open_parts
from mediamaker.wim.tree import ListedEntry, cat, list_tree
from mediamaker.wim.verify import DamagedFile, VerifyReport, verify_wim


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``info``."""
    _add_name(parser)
    parser.add_argument("--xml", action="store_true", help="print the WIM's own XML")


def run_info(args: argparse.Namespace, output: Output) -> ExitCode:
    """Show what the tables say."""
    name = parse_wim_name(args.wim)
    with open_parts((name.path,)) as parts:
        wim = _first(parts, name)
        number = None if name.image is None else find_image(name, wim.images)
        xml = wim.xml.decode("utf-16", "replace").lstrip("\ufeff")
        if args.xml and not output.as_json:
            output.result(xml)
            return ExitCode.DONE
        extra = {"xml": xml} if args.xml else {}
        output.event("wim-info", **_info_to_json(name.path, wim, number), **extra)
        output.result("\n".join(_show_info(name.path, wim, number)))
    return ExitCode.DONE


def add_ls_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ls``."""
    _add_name(parser)
    parser.add_argument("paths", nargs="*", default=["/"], metavar="PATH", help="default: the root")
    parser.add_argument("-r", "--recursive", action="store_true", help="and all that is below")
    _add_parts(parser)


def run_ls(args: argparse.Namespace, output: Output) -> ExitCode:
    """List."""
    with _open_image(args) as (parts, number):
        for path in args.paths:
            for entry in list_tree(parts, number, path, is_recursive=args.recursive):
                output.event("wim-entry", **_entry_to_json(entry))
                output.result(_show_entry(entry))
    return ExitCode.DONE


def add_cat_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``cat``."""
    _add_name(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="one after the other")
    parser.add_argument("--stream", default="", metavar="NAME", help="an alternate stream of it")
    _add_parts(parser)


def run_cat(args: argparse.Namespace, output: Output) -> ExitCode:
    """Write a file's bytes to standard output."""
    if output.as_json:
        raise UsageError("wim cat writes the file's bytes; it has no JSON form")
    with _open_image(args) as (parts, number):
        out = sys.stdout.buffer
        for path in args.paths:
            cat(parts, number, path, out.write, stream=args.stream)
        out.flush()
    return ExitCode.DONE


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``extract``."""
    _add_name(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="'/' is all of the image")
    parser.add_argument(
        "--to", type=Path, default=Path(), metavar="DIR", help="default: the current folder"
    )
    _add_parts(parser)


def run_extract(args: argparse.Namespace, output: Output) -> ExitCode:
    """Copy out of an image."""
    cancel = threading.Event()
    with (
        _open_image(args) as (parts, number),
        interrupt_sets(cancel),
        ProgressView(output) as view,
    ):
        report = extract_paths(
            parts, number, args.paths, args.to, on_event=view.show, cancel=cancel
        )
    for note in report.notes:
        output.warning(note)
    output.event(
        "wim-extract",
        target=str(args.to),
        file_count=report.file_count,
        directory_count=report.directory_count,
        link_count=report.link_count,
        size=report.size,
        notes=list(report.notes),
    )
    output.result(
        f"extracted {report.file_count} files, {report.directory_count} folders and "
        f"{report.link_count} links into {args.to}: {format_size(report.size)}"
    )
    return ExitCode.DONE


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``verify``."""
    parser.add_argument(
        "wim", type=Path, metavar="FILE", help="a WIM, ESD, or any part of a split WIM"
    )
    parser.add_argument(
        "parts", nargs="*", type=Path, metavar="PART", help="the other parts (default: found)"
    )


def run_verify(args: argparse.Namespace, output: Output) -> ExitCode:
    """Compare every blob with its SHA-1."""
    cancel = threading.Event()
    with (
        interrupt_sets(cancel),
        ProgressView(output, words={Phase.VERIFY: "verifying"}) as view,
    ):
        report = verify_wim(
            args.wim, other_parts(args.wim, args.parts), on_event=view.show, cancel=cancel
        )
    output.event("wim-verify", wim=str(args.wim), **_report_to_json(report))
    output.result("\n".join(_show_report(args.wim, report)))
    return ExitCode.DONE if _is_whole(report) else ExitCode.VERIFY_FAILED


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "wim", metavar="FILE[:IMAGE]", help="a WIM, ESD or SWM; the image by number or name"
    )


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ref",
        type=Path,
        nargs="*",
        default=[],
        metavar="PART",
        help="the other parts of a split WIM (default: found by their names)",
    )


@contextmanager
def _open_image(args: argparse.Namespace) -> Iterator[tuple[WimParts, int]]:
    name = parse_wim_name(args.wim)
    with open_parts((name.path, *other_parts(name.path, args.ref))) as parts:
        wim = _first(parts, name)
        yield parts, find_image(name, wim.images, boot_index=wim.boot_index)


def _first(parts: WimParts, name: WimName) -> WimFile:
    for file in parts.files:
        if file.path == name.path:
            return file.wim
    raise FormatError(
        f"its tables are damaged: {'; '.join(parts.damage)}",
        hint="wim verify says more",
    )


def _show_info(path: Path, wim: WimFile, number: int | None) -> list[str]:
    solid = ", solid" if wim.is_solid else ""
    integrity = "yes" if wim.header.integrity.size_in_wim else "no"
    lines = [
        f"file         {path}",
        f"size         {format_size(wim.size)}",
        f"compression  {wim.compression}{solid}, chunks of {format_size(wim.chunk_size or 0)}",
        f"part         {wim.part_number} of {wim.part_count}",
        f"GUID         {wim.header.guid.hex()}",
        f"blobs        {len(wim.blobs)}",
        f"boot image   {wim.boot_index or 'none'}",
        f"integrity    {integrity}",
    ]
    for image in wim.images:
        if number not in {None, image.number}:
            continue
        facts = {
            "description": image.description,
            "edition": image.edition,
            "architecture": image.architecture,
            "build": image.build,
            "languages": ", ".join(image.languages),
            "size": None if image.total_bytes is None else format_size(image.total_bytes),
        }
        lines += ["", f"image {image.number}: {image.name}"]
        lines += [f"  {key:<12} {value}" for key, value in facts.items() if value]
    return lines


def _info_to_json(path: Path, wim: WimFile, number: int | None) -> dict[str, Any]:
    return {
        "wim": str(path),
        "size": wim.size,
        "compression": wim.compression,
        "is_solid": wim.is_solid,
        "chunk_size": wim.chunk_size,
        "part_number": wim.part_number,
        "part_count": wim.part_count,
        "guid": wim.header.guid.hex(),
        "blob_count": len(wim.blobs),
        "boot_index": wim.boot_index,
        "has_integrity_table": bool(wim.header.integrity.size_in_wim),
        "images": [
            {
                "number": image.number,
                "name": image.name,
                "description": image.description,
                "edition": image.edition,
                "architecture": image.architecture,
                "build": image.build,
                "languages": list(image.languages),
                "total_size": image.total_bytes,
            }
            for image in wim.images
            if number in {None, image.number}
        ],
    }


def _show_entry(entry: ListedEntry) -> str:
    kind = "d" if entry.is_directory else "l" if entry.reparse_tag else "-"
    size = "" if entry.size is None else str(entry.size)
    streams = "".join(f" :{stream.name}" for stream in entry.streams if stream.name)
    return f"{kind} {size:>12} {_show_time(entry.write_time_ns)} {_one_line(entry.path + streams)}"


def _show_time(time_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a WIM can say any year up to 60056
        return f"{'?':16}"


def _one_line(name: str) -> str:
    """A name with a line feed must not look like two entries."""
    return name.replace("\n", "\\n")


def _entry_to_json(entry: ListedEntry) -> dict[str, Any]:
    return {
        "path": entry.path,
        "is_directory": entry.is_directory,
        "size": entry.size,
        "sha1": None if entry.sha1 is None else entry.sha1.hex(),
        "attributes": entry.attributes,
        "write_time_ns": entry.write_time_ns,
        "short_name": entry.short_name,
        "hard_link_group": entry.hard_link_group,
        "reparse_tag": entry.reparse_tag,
        "streams": [
            {"name": stream.name, "size": stream.size, "sha1": stream.sha1.hex()}
            for stream in entry.streams
            if stream.name
        ],
    }


def _is_whole(report: VerifyReport) -> bool:
    return report.is_good and not report.missing_parts


def _show_report(path: Path, report: VerifyReport) -> list[str]:
    lines = [_show_damage(file) for file in report.damaged]
    lines += [
        f"damaged: blob {blob.sha1.hex()} in {blob.part_path}: {blob.message}"
        for blob in report.damaged_blobs
    ]
    lines += [f"damaged: {words}" for words in report.table_damage]
    if report.missing_parts:
        numbers = ", ".join(map(str, report.missing_parts))
        lines.append(f"not judged: part {numbers} was not given")
    compared = f"{report.blob_count} blobs, {format_size(report.size)}"
    verdict = "whole" if _is_whole(report) else "NOT whole"
    lines.append(f"{path} is {verdict}: {compared} compared with their SHA-1")
    return lines


def _show_damage(file: DamagedFile) -> str:
    stream = f":{file.stream}" if file.stream else ""
    what = _one_line(file.path + stream) if file.path else "the tree of the image"
    return f"damaged: image {file.image_number}: {what}: {file.message}"


def _report_to_json(report: VerifyReport) -> dict[str, Any]:
    return {
        "is_whole": _is_whole(report),
        "blob_count": report.blob_count,
        "size": report.size,
        "damaged_files": [
            {
                "image_number": file.image_number,
                "path": file.path,
                "stream": file.stream,
                "sha1": file.sha1.hex(),
                "reason": file.reason,
                "message": file.message,
            }
            for file in report.damaged
        ],
        "damaged_blobs": [
            {"sha1": blob.sha1.hex(), "part": str(blob.part_path), "message": blob.message}
            for blob in report.damaged_blobs
        ],
        "table_damage": list(report.table_damage),
        "missing_parts": list(report.missing_parts),
        "unjudged_blob_count": report.unjudged_blob_count,
    }
