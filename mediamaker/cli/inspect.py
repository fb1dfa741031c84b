# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker inspect``: what a source is, and what would be made of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.sources.kinds import Inspection, SourceWim, inspect_source
from mediamaker.units import format_size

_KINDS = {
    "windows-setup": "Windows Setup media",
    "windows-pe": "Windows PE media",
    "hybrid": "hybrid ISO",
    "uefi-tree": "tree with a UEFI loader",
    "unbootable": "nothing that boots",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="an ISO file or a folder")


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Look, and tell."""
    inspection = inspect_source(args.source)
    output.event("inspect", **_to_json(inspection))
    output.result(show_inspection(inspection))
    return ExitCode.DONE


def show_inspection(inspection: Inspection) -> str:
    """What a person wants to know."""
    files = sum(not entry.is_dir for entry in inspection.tree.entries)
    lines = [
        f"source         {inspection.path}",
        f"kind           {_KINDS[inspection.kind]}",
        f"label          {inspection.label or '-'}",
        (
            f"size           {format_size(inspection.size)}, {files} files "
            f"({inspection.file_system})"
        ),
        f"architectures  {', '.join(inspection.architectures) or '-'}",
    ]
    lines += [f"boots          {path.serves} from {path.path}" for path in inspection.boot_paths]
    for source in (*inspection.install_wims, *inspection.boot_wims):
        lines += _show_wim(source)
    lines.append(f"would make     {_words(inspection)}")
    lines += [f"note: {note}" for note in inspection.notes]
    lines += [f"warning: {warning}" for warning in inspection.warnings]
    return "\n".join(lines)


def _show_wim(source: SourceWim) -> list[str]:
    wim = source.wim
    compression = f"{wim.compression}, solid" if wim.is_solid else wim.compression
    parts = f", part {wim.part_number} of {wim.part_count}" if wim.part_count > 1 else ""
    lines = [
        (
            f"{source.path_text}: {format_size(wim.size)}, {compression}{parts}, "
            f"{len(wim.images)} image{'s' * (len(wim.images) != 1)}"
        )
    ]
    for image in wim.images:
        facts = [image.edition, image.architecture, image.build, ", ".join(image.languages)]
        if image.total_bytes is not None:
            facts.append(format_size(image.total_bytes))
        marks = " (boots)" if image.number == wim.boot_index else ""
        shown = "; ".join(fact for fact in facts if fact)
        lines.append(f"  {image.number:>3}  {image.name}{marks}" + (f"  [{shown}]" * bool(shown)))
    return lines


def _words(inspection: Inspection) -> str:
    if inspection.layout is None:
        return f"nothing: {'; '.join(inspection.reasons)}"
    layout = Layout(inspection.layout)
    words = f"{layout.value}: {layout.summary}"
    for source in inspection.install_wims:
        if source.entry.size > MediaRequest().part_size_max:
            if source.wim.is_solid:
                words += f"; {source.path_text} is solid and over 4 GiB: recompressed once first"
            else:
                words += f"; {source.path_text} is over 4 GiB and would be split, without a copy"
    return words


def _to_json(inspection: Inspection) -> dict[str, Any]:
    return {
        "path": str(inspection.path),
        "kind": inspection.kind,
        "label": inspection.label,
        "size": inspection.size,
        "file_system": inspection.file_system,
        "file_count": sum(not entry.is_dir for entry in inspection.tree.entries),
        "architectures": list(inspection.architectures),
        "boot_paths": [
            {"firmware": path.firmware, "architecture": path.architecture, "path": path.path}
            for path in inspection.boot_paths
        ],
        "install_wims": [_wim_to_json(source) for source in inspection.install_wims],
        "boot_wims": [_wim_to_json(source) for source in inspection.boot_wims],
        "layout": inspection.layout,
        "words": _words(inspection),
        "notes": list(inspection.notes),
        "warnings": list(inspection.warnings),
    }


def _wim_to_json(source: SourceWim) -> dict[str, Any]:
    wim = source.wim
    return {
        "path": source.path_text,
        "size": wim.size,
        "compression": wim.compression,
        "is_solid": wim.is_solid,
        "part_number": wim.part_number,
        "part_count": wim.part_count,
        "boot_index": wim.boot_index,
        "images": [
            {
                "number": image.number,
                "name": image.name,
                "edition": image.edition,
                "architecture": image.architecture,
                "build": image.build,
                "languages": list(image.languages),
                "total_size": image.total_bytes,
            }
            for image in wim.images
        ],
    }
