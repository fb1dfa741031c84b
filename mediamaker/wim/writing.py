# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of one or several WIMs into one new file: what optimise, export and prepare share.

Blobs that several images or sources have are stored once. A resource is copied as it is where its
compression and chunk size are the wanted ones, unless ``recompress`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import UsageError
from mediamaker.sources.identity import identify, unchanged_sources
from mediamaker.units import KIB
from mediamaker.wim.meter import WimMeter
from mediamaker.wimlib.flags import (
    COMPRESSION_NAMES,
    CompressionName,
    ExportFlags,
    WriteFlags,
)
from mediamaker.wimlib.library import set_default_level
from mediamaker.wimlib.wim import Wim


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """``images`` (numbers; None: all) of the WIM at ``path``, whose further parts are given."""

    path: Path
    images: tuple[int, ...] | None = None
    part_paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How resources are stored. ``level``: 20 quick, 50 usual, 100 thorough."""

    compression: CompressionName = "LZX"
    chunk_size: int | None = 32 * KIB
    level: int = 50
    is_solid: bool = False
    recompress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenImage:
    """Where an image of the result came from; ``name`` is the one it has there."""

    source_path: Path
    source_number: int
    name: str


def write_images(
    sources: Sequence[ImageSource],
    path: Path,
    encoding: Encoding,
    *,
    threads: int,
    meter: WimMeter,
    extra_flags: WriteFlags = WriteFlags.NONE,
    name: str | None = None,
    description: str | None = None,
    boot_number: int | None = None,
) -> tuple[WrittenImage, ...]:
    """Write the file ``path`` (which has no name of its own yet); its images in order.

    The image that a source boots stays the one that boots; the first source that has one wins,
    unless ``boot_number`` says which it is. ``name`` is for a single image.

    Raises:
        UsageError: no such image, or one twice; SourceError: a source can't be read;
        SourceChangedError: one was changed meanwhile.
    """
    paths = [path for source in sources for path in (source.path, *source.part_paths)]
    with ExitStack() as stack:
        stack.enter_context(unchanged_sources([identify("wim", path) for path in paths]))
        dest = stack.enter_context(Wim.create(encoding.compression, on_event=meter))
        written: list[WrittenImage] = []
        for source in sources:
            wim = stack.enter_context(open_source_wim(source, meter))
            written += export_images(
                wim,
                dest,
                chosen_images(wim, source),
                source.path,
                meter,
                taken=[image.name for image in written],
                name=name,
                description=description,
                boots_already=bool(dest.info.boot_index) or boot_number is not None,
            )
        if boot_number is not None:
            dest.set_boot_index(boot_number)
        flags = set_encoding(dest, encoding) | extra_flags
        dest.write(path, flags=flags, threads=threads, replace=True)
        return tuple(written)


def check_not_a_source(sources: Sequence[ImageSource], path: Path) -> None:
    """A result in the place of a source would take what was not chosen with it.

    Raises:
        UsageError: ``path`` is the file of a source or of one of its parts.
    """
    for source in sources:
        for part in (source.path, *source.part_paths):
            if path.exists() and part.exists() and path.samefile(part):
                raise UsageError(
                    f"{path}: is one of the sources", hint="write to another name, then rename"
                )


def export_images(
    wim: Wim,
    dest: Wim,
    numbers: Sequence[int],
    source_path: Path,
    meter: WimMeter,
    *,
    taken: Sequence[str] = (),
    name: str | None = None,
    description: str | None = None,
    boots_already: bool = False,
) -> tuple[WrittenImage, ...]:
    """Append images to ``dest`` in memory; one whose name is taken gets a number after it.

    Raises:
        UsageError: ``name`` for several images, or one that is taken.
    """
    if name is not None and len(numbers) != 1:
        raise UsageError(
            f"{source_path}: one name for {len(numbers)} images",
            hint="export them one by one, or leave out --name",
        )
    if name and name in taken:
        raise UsageError(f"{source_path}: an image called {name!r} is there already")
    written: list[WrittenImage] = []
    boot_number = wim.info.boot_index
    for number in numbers:
        if number == boot_number and boots_already:
            meter.notify(
                f"{source_path}: image {number} boots there; in the result another one does"
            )
        old_name = wim.property(number, "NAME") or ""
        new_name = _free_name(
            old_name if name is None else name, [*taken, *(image.name for image in written)]
        )
        if name is None and new_name != old_name:
            meter.notify(f"{source_path}: image {number} is called {new_name!r} in the result")
        is_boot = number == boot_number and not boots_already
        wim.export_image(
            number,
            dest,
            name=new_name,
            description=description,
            flags=ExportFlags.BOOT if is_boot else ExportFlags.NONE,
        )
        written.append(WrittenImage(source_path=source_path, source_number=number, name=new_name))
    return tuple(written)


def set_encoding(wim: Wim, encoding: Encoding) -> WriteFlags:
    """Have ``wim`` written in this way; the flags that its writing needs for it."""
    if encoding.compression != "none":
        set_default_level(COMPRESSION_NAMES.index(encoding.compression), encoding.level)
    flags = WriteFlags.NONE
    if encoding.is_solid:
        wim.set_output_pack_compression(encoding.compression)
        if encoding.chunk_size is not None:
            wim.set_output_pack_chunk_size(encoding.chunk_size)
        flags |= WriteFlags.SOLID
    else:
        wim.set_output_compression(encoding.compression)
        if encoding.chunk_size is not None and encoding.compression != "none":
            wim.set_output_chunk_size(encoding.chunk_size)
    if encoding.recompress:
        flags |= WriteFlags.RECOMPRESS
    return flags


@contextmanager
def open_source_wim(source: ImageSource, meter: WimMeter) -> Iterator[Wim]:
    """The source, with its further parts."""
    with Wim.open(source.path, on_event=meter) as wim:
        if source.part_paths:
            wim.reference_files([str(part) for part in source.part_paths])
        yield wim


def chosen_images(wim: Wim, source: ImageSource) -> tuple[int, ...]:
    """The numbers, in the order in which they are wanted.

    Raises:
        UsageError: no such image, or one named twice.
    """
    count = wim.image_count
    if source.images is None:
        return tuple(range(1, count + 1))
    for number in source.images:
        if not 1 <= number <= count:
            raise UsageError(
                f"{source.path}: has the images 1 to {count}, not {number}",
                hint="mediamaker wim info shows them",
            )
    if len(set(source.images)) != len(source.images):
        raise UsageError(f"{source.path}: an image is named twice: {source.images}")
    return source.images


def _free_name(name: str, taken: Sequence[str]) -> str:
    """``name``, or with a number after it where the result has one of that name already."""
    if not name or name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"
