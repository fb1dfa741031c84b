# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker wim capture|append|apply|update|set|delete``: images in and out, and edited."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mediamaker.cli.options import size_argument
from mediamaker.cli.output import Output
from mediamaker.cli.wim_name import all_parts, parse_wim_name
from mediamaker.cli.wim_work import tell_left_behind, working
from mediamaker.cli.wim_write import add_force
from mediamaker.errors import ExitCode, SourceError, UsageError
from mediamaker.units import KIB, format_size
from mediamaker.wim.apply import apply_image
from mediamaker.wim.capture import CaptureRequest, CaptureResult, append_image, capture_image
from mediamaker.wim.edit import EditResult, delete_images, set_properties
from mediamaker.wim.update import update_image
from mediamaker.wim.update_commands import parse_update_commands
from mediamaker.wim.writing import Encoding
from mediamaker.wimlib.flags import COMPRESSION_NAMES


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``capture``."""
    _add_capture(parser)
    group = parser.add_argument_group("how it is stored")
    group.add_argument(
        "--compress",
        choices=COMPRESSION_NAMES,
        default="LZX",
        help="default: LZX, what every Setup reads",
    )
    group.add_argument(
        "--chunk-size",
        type=size_argument,
        metavar="SIZE",
        help="bytes compressed at a time (default: 32 KiB for LZX and XPRESS; other sizes are "
        "smaller or faster, but Microsoft's readers may refuse them)",
    )
    group.add_argument(
        "--solid",
        action="store_true",
        help="compress files together: smallest, slow, not for FAT32",
    )
    group.add_argument(
        "--integrity", action="store_true", help="add a table of hashes of the whole file"
    )
    add_force(parser)


def run_capture(args: argparse.Namespace, output: Output) -> ExitCode:
    """Capture into a new WIM."""
    with working(output) as work:
        result = capture_image(
            _capture_request(args),
            args.out,
            encoding=_encoding(args),
            integrity=args.integrity,
            replace_existing=args.force,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    return _tell_capture(result, output)


def add_append_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``append``."""
    _add_capture(parser)


def run_append(args: argparse.Namespace, output: Output) -> ExitCode:
    """Capture into a WIM that is there."""
    with working(output) as work:
        result = append_image(
            _capture_request(args), args.out, on_event=work.on_event, cancel=work.cancel
        )
    return _tell_capture(result, output)


def add_apply_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``apply``."""
    parser.add_argument("wim", metavar="FILE[:IMAGE]")
    parser.add_argument(
        "target",
        type=Path,
        metavar="DIR|NTFS",
        help="a folder, or an empty unmounted NTFS volume (block device or plain file)",
    )
    parser.add_argument("--merge", action="store_true", help="into a folder that has files")
    parser.add_argument("--strict", action="store_true", help="fail if anything can't be set")
    parser.add_argument(
        "--no-acls", action="store_true", help="leave ACLs out: files get those of their folder"
    )
    parser.add_argument(
        "--unix-data",
        action="store_true",
        help="set owners, modes and device nodes that were captured so (into a folder)",
    )
    parser.add_argument(
        "--ref", type=Path, nargs="*", default=[], metavar="PART", help="parts of a split FILE"
    )


def run_apply(args: argparse.Namespace, output: Output) -> ExitCode:
    """Apply an image."""
    name = parse_wim_name(args.wim)
    path, *parts = all_parts(name.path, args.ref)
    with working(output) as work:
        result = apply_image(
            path,
            name.image,
            args.target,
            part_paths=tuple(parts),
            merge=args.merge,
            unix_data=args.unix_data,
            without_acls=args.no_acls,
            strict=args.strict,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    left = tell_left_behind(output, result.not_carried, result.warnings)
    output.event(
        "wim-apply",
        target=str(result.target),
        kind=result.kind,
        image_number=result.number,
        raw_size=result.raw_size,
        **left,
    )
    output.result(
        f"applied image {result.number} to {result.target} ({result.kind}): "
        f"{format_size(result.raw_size)}"
    )
    return ExitCode.DONE


def add_update_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``update``."""
    parser.add_argument("wim", metavar="FILE[:IMAGE]")
    parser.add_argument(
        "--commands",
        type=Path,
        metavar="FILE",
        help="add, delete and rename commands, one a line (default: standard input)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="exclusions from what is added")
    parser.add_argument("--rebuild", action="store_true", help="leave no unused room in the file")


def run_update(args: argparse.Namespace, output: Output) -> ExitCode:
    """Change an image without mounting it."""
    name = parse_wim_name(args.wim)
    what, text = "standard input", ""
    try:
        if args.commands is None:
            text = sys.stdin.read()
        else:
            what, text = str(args.commands), args.commands.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{what}: the commands can't be read: {error}") from error
    with working(output) as work:
        result = update_image(
            name.path,
            name.image,
            parse_update_commands(text, what=what),
            config_path=args.config,
            rebuild=args.rebuild,
            on_event=work.on_event,
            cancel=work.cancel,
            what=what,
        )
    left = tell_left_behind(output, result.not_carried, result.warnings)
    output.event(
        "wim-update",
        path=str(result.path),
        image_number=result.number,
        added=result.added,
        deleted=result.deleted,
        renamed=result.renamed,
        size_before=result.size_before,
        size_after=result.size_after,
        **left,
    )
    output.result(
        f"{result.path}, image {result.number}: {result.added} added, {result.deleted} deleted, "
        f"{result.renamed} renamed"
    )
    return ExitCode.DONE


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``set``."""
    parser.add_argument("wim", metavar="FILE[:IMAGE]")
    parser.add_argument(
        "properties",
        nargs="*",
        metavar="PATH=TEXT",
        help="texts of the image's XML: NAME, DESCRIPTION, WINDOWS/EDITIONID ...; "
        "an empty text removes one",
    )
    boot = parser.add_mutually_exclusive_group()
    boot.add_argument("--boot", dest="boots", action="store_true", default=None)
    boot.add_argument("--no-boot", dest="boots", action="store_false")


def run_set(args: argparse.Namespace, output: Output) -> ExitCode:
    """Set properties of an image."""
    name = parse_wim_name(args.wim)
    properties: dict[str, str | None] = {}
    for item in args.properties:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} is not PATH=TEXT", hint="for example NAME='Windows 11'")
        properties[key] = text or None
    with working(output) as work:
        result = set_properties(
            name.path,
            name.image,
            properties,
            is_bootable=args.boots,
            on_event=work.on_event,
            cancel=work.cancel,
        )
    return _tell_edit("wim-set", result, output)


def add_delete_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``delete``."""
    parser.add_argument("wim", type=Path, metavar="FILE")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="numbers or names")


def run_delete(args: argparse.Namespace, output: Output) -> ExitCode:
    """Delete images and what only they refer to."""
    with working(output) as work:
        result = delete_images(args.wim, args.images, on_event=work.on_event, cancel=work.cancel)
    return _tell_edit("wim-delete", result, output)


def _add_capture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="DIR|NTFS",
        help="a folder, or an unmounted NTFS volume (block device or plain file)",
    )
    parser.add_argument("out", type=Path, metavar="OUT.wim")
    parser.add_argument("--name", help="of the image (default: the source's name)")
    parser.add_argument("--description")
    parser.add_argument("--flags", help="the edition flag that Setup knows, such as Professional")
    parser.add_argument("--boot", action="store_true", help="make it the image that boots")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="exclusions: a file with an [ExclusionList]"
    )
    parser.add_argument(
        "--everything", action="store_true", help="leave nothing out, not even the page file"
    )
    parser.add_argument("--no-acls", action="store_true", help="leave ACLs out (of NTFS)")
    parser.add_argument(
        "--unix-data", action="store_true", help="keep owners, modes and device nodes (of a folder)"
    )
    parser.add_argument(
        "--dereference",
        action="store_true",
        help="capture what symbolic links lead to instead of the links (of a folder)",
    )


def _capture_request(args: argparse.Namespace) -> CaptureRequest:
    return CaptureRequest(
        source=args.source,
        name=args.name if args.name is not None else _default_name(args.source),
        description=args.description,
        flags=args.flags,
        is_bootable=args.boot,
        config_path=args.config,
        takes_everything=args.everything,
        takes_unix_data=args.unix_data,
        dereferences=args.dereference,
        without_acls=args.no_acls,
    )


def _encoding(args: argparse.Namespace) -> Encoding:
    if args.compress == "none" and (args.solid or args.chunk_size is not None):
        raise UsageError(
            "--compress none has no chunks, solid or not", hint="leave out --chunk-size and --solid"
        )
    usual = 32 * KIB if args.compress in {"LZX", "XPRESS"} and not args.solid else None
    return Encoding(
        compression=args.compress,
        chunk_size=usual if args.chunk_size is None else args.chunk_size,
        is_solid=args.solid,
    )


def _default_name(source: Path) -> str:
    """The folder's own; what is not UTF-8 in it is replaced, as a WIM can't hold it."""
    return os.fsencode(source.absolute().name).decode("utf-8", "replace")


def _tell_capture(result: CaptureResult, output: Output) -> ExitCode:
    left = tell_left_behind(output, result.not_carried, result.warnings)
    output.event(
        "wim-capture",
        path=str(result.path),
        image_number=result.number,
        name=result.name,
        kind=result.kind,
        size_before=result.size_before,
        size_after=result.size_after,
        excluded=list(result.excluded),
        **left,
    )
    excluded = f", {len(result.excluded)} excluded" if result.excluded else ""
    output.result(
        f"{result.path}: image {result.number} {result.name!r} captured ({result.kind}){excluded}; "
        f"the file has {format_size(result.size_after)}"
    )
    return ExitCode.DONE


def _tell_edit(event: str, result: EditResult, output: Output) -> ExitCode:
    fields: dict[str, Any] = {
        "path": str(result.path),
        "image_count": result.image_count,
        "boot_index": result.boot_index,
        "size_before": result.size_before,
        "size_after": result.size_after,
    }
    output.event(event, **fields)
    output.result(
        f"{result.path}: {result.image_count} images, boot image {result.boot_index or 'none'}, "
        f"{format_size(result.size_after)}"
    )
    return ExitCode.DONE
