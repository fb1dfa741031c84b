# SPDX-License-Identifier: GPL-3.0-or-later
"""A source whose install.wim stands elsewhere: in a file that was prepared from the original."""

from __future__ import annotations

from dataclasses import replace

from mediamaker.extents import FileRange, Piece
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.kinds import Inspection, SourceWim
from mediamaker.sources.tree import Entry, build_source_tree
from mediamaker.sources.wim import WimFile

_NAME = "install.wim"


def replace_install_wim(
    inspection: Inspection, original: SourceWim, file: SourceFile, wim: WimFile
) -> Inspection:
    """``inspection`` with ``original`` given way to the WIM in ``file``, called install.wim.

    Raises:
        FormatError: the source has another file of that name.
    """
    prepared = Entry(
        path=(*original.entry.path[:-1], _NAME),
        is_dir=False,
        size=file.size,
        pieces=(Piece(file.size, FileRange(file.source_id, 0)),),
        modified_ns=original.entry.modified_ns,
    )
    old = inspection.tree
    tree = build_source_tree(
        old.format,
        old.label,
        [prepared if entry.path == original.entry.path else entry for entry in old.entries],
        [*old.files, file],
        what=str(inspection.path),
    )
    return replace(
        inspection,
        tree=tree,
        install_wims=tuple(
            SourceWim(prepared, wim) if source is original else source
            for source in inspection.install_wims
        ),
    )
