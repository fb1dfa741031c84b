# SPDX-License-Identifier: GPL-3.0-or-later
"""Small ISO files, good and bad, made in code: every row of the README's "ISO" section is one."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

from tests.hostile.iso9660_image import (
    FLAG_DIRECTORY,
    ROOT,
    Iso9660Image,
    directory_record,
    good_iso9660,
)
from tests.hostile.udf_image import (
    BLOCK,
    DIRECTORY,
    EMBEDDED,
    EXTENT_MAX,
    FID_DELETED,
    FID_DIRECTORY,
    FID_PARENT,
    PARTITION_START,
    ROOT_ENTRY,
    SYMLINK,
    UdfImage,
    file_entry,
    file_identifier,
    good_udf,
    name8,
    name16,
    short_ad,
    tag,
)

KIND_ALLOCATED, KIND_CONTINUED = 1, 3


def with_file(size: int, allocations: bytes, **options) -> bytes:
    """A root with one file whose entry is bent."""
    image = UdfImage()
    entry = image.add_entry(size, allocations, **options)
    return image.set_root(file_identifier(name8("file"), entry)).build()


def with_name(name: bytes) -> bytes:
    """A root with one file of this name."""
    image = UdfImage()
    return image.set_root(file_identifier(name, image.add_file(b"x"))).build()


def with_root(data: bytes, size: int | None = None) -> bytes:
    """A root directory that holds these bytes."""
    image = UdfImage()
    block = image.allocate(data)
    size = len(data) if size is None else size
    image.blocks[ROOT_ENTRY] = file_entry(
        ROOT_ENTRY, size, short_ad(block, size & 0x3FFFFFFF), file_type=DIRECTORY
    )
    return image.build()


def with_records(*records: bytes, **options) -> bytes:
    """A plain ISO 9660 whose root holds these records."""
    return Iso9660Image(directories={ROOT: list(records)}, **options).build()


def patched(data: bytes, offset: int, patch: bytes) -> bytes:
    return data[:offset] + patch + data[offset + len(patch) :]


def loop_to(target: str) -> bytes:
    image = UdfImage()
    first, second = image.allocate(), image.allocate()
    goal = {"root": ROOT_ENTRY, "itself": first}[target]
    image.set_directory(first, file_identifier(name8("second"), second, FID_DIRECTORY))
    image.set_directory(second, file_identifier(name8("back"), goal, FID_DIRECTORY))
    return image.set_root(file_identifier(name8("first"), first, FID_DIRECTORY)).build()


def directory_twice() -> bytes:
    image = UdfImage()
    shared = image.allocate()
    image.set_directory(shared, b"")
    names = (file_identifier(name8(name), shared, FID_DIRECTORY) for name in "ab")
    return image.set_root(*names).build()


def directories_of_the_same_bytes() -> bytes:
    """Each extent of each directory is the same run of deleted names."""
    image = UdfImage()
    run = file_identifier(b"\x08", ROOT_ENTRY, FID_DELETED) * 1024
    block = image.allocate(run)
    names = []
    for name in "abcdefgh":
        entry = image.add_entry(
            len(run) * 200, short_ad(block, len(run)) * 200, file_type=DIRECTORY
        )
        names.append(file_identifier(name8(name), entry, FID_DIRECTORY))
    return image.set_root(*names).build()


def deep() -> bytes:
    image = UdfImage()
    entries = [image.allocate() for _ in range(200)]
    for entry, child in zip(entries, [*entries[1:], None], strict=True):
        names = file_identifier(name8("d"), child, FID_DIRECTORY) if child else b""
        image.set_directory(entry, names)
    return image.set_root(file_identifier(name8("d"), entries[0], FID_DIRECTORY)).build()


def continued_in_itself() -> bytes:
    image = UdfImage()
    block = image.allocate()
    again = short_ad(block, BLOCK, KIND_CONTINUED)
    image.blocks[block] = tag(258, struct.pack("<II", 0, len(again)) + again, block)
    entry = image.add_entry(1, again)
    return image.set_root(file_identifier(name8("file"), entry)).build()


def descriptors_of_many_files() -> bytes:
    """One chain of descriptors that each file's entry points at."""
    image = UdfImage()
    chain = [image.allocate() for _ in range(40)]
    for block, following in itertools.pairwise([*chain, None]):
        items = short_ad(0, BLOCK, KIND_ALLOCATED) * 250
        items += short_ad(following, BLOCK, KIND_CONTINUED) if following else b""
        image.blocks[block] = tag(258, struct.pack("<II", 0, len(items)) + items, block)
    first = short_ad(chain[0], BLOCK, KIND_CONTINUED)
    names = [
        file_identifier(name8(name), image.add_entry(40 * 250 * BLOCK, first))
        for name in "abcdefghijklmnopqrstuvwxyz"
    ]
    return image.set_root(*names).build()


def continued_too_far() -> bytes:
    image = UdfImage()
    block = image.allocate()
    image.blocks[block] = tag(258, struct.pack("<II", 0, 1 << 30), block)
    entry = image.add_entry(1, short_ad(block, BLOCK, KIND_CONTINUED))
    return image.set_root(file_identifier(name8("file"), entry)).build()


def wrong_kind() -> bytes:
    image = UdfImage()
    entry = image.add_file(b"x")
    return image.set_root(file_identifier(name8("file"), entry, FID_DIRECTORY)).build()


def root_is_file() -> bytes:
    image = UdfImage()
    image.blocks[ROOT_ENTRY] = file_entry(ROOT_ENTRY, 0, b"")
    return image.build()


def blank_entry() -> bytes:
    image = UdfImage()
    return image.set_root(file_identifier(name8("file"), image.allocate())).build()


def what_is_left_out() -> bytes:
    image = UdfImage()
    link = image.add_entry(4, short_ad(2, 4), file_type=SYMLINK)
    gone = file_identifier(name8("gone"), 12345, FID_DELETED)
    return image.set_root(gone, file_identifier(name8("link"), link)).build()


def iso9660_directories_of_the_same_bytes() -> bytes:
    """Each directory goes on to the end, and thus holds all that follow it."""
    first, count, last = 60, 10, 160
    image = Iso9660Image(volume_blocks=last)
    names = (f"{number:06}".encode() for number in itertools.count())
    for block in range(first, last):
        image.blocks[block] = b"".join(
            directory_record(name, 25, 6) for name in itertools.islice(names, 50)
        )
    image.directories = {
        ROOT: [
            directory_record(b"D%d" % block, block, (last - block) * BLOCK, FLAG_DIRECTORY)
            for block in range(first, first + count)
        ],
        **{block: [] for block in range(first, first + count)},
    }
    return image.build()


def iso9660_loop() -> bytes:
    image = good_iso9660()
    image.directories[24] = [directory_record(b"BACK", ROOT, BLOCK, FLAG_DIRECTORY)]
    return image.build()


def udf_beside_damaged_iso9660() -> bytes:
    return patched(good_udf().build(), 16 * BLOCK + 140, b"\xff" * 16)


CASES: dict[str, Callable[[], bytes]] = {
    # What is no ISO at all.
    "empty": lambda: b"",
    "too-short": lambda: b"\0" * 1000,
    "text": lambda: b"This is not an ISO. " * 5000,
    "web-page": lambda: b"<!DOCTYPE html>" + b" " * 100_000,
    "wim": lambda: b"MSWIM\0\0\0" + bytes(100_000),
    "zip": lambda: b"PK\x03\x04" + bytes(100_000),
    "disk-image": lambda: bytes(512) + b"EFI PART" + bytes(100_000),
    # Truncated.
    "truncated": lambda: good_udf().build()[:-4096],
    "truncated-iso9660": lambda: good_iso9660().build()[: 30 * BLOCK],
    "truncated-after-descriptors": lambda: good_udf().build()[: 20 * BLOCK],
    "truncated-udf-only": lambda: UdfImage(with_iso9660=False).build()[
        : (PARTITION_START + 1) * BLOCK
    ],
    # UDF volume structures.
    "udf-no-anchor": lambda: UdfImage(anchors=()).build(),
    "udf-anchor-damaged": lambda: patched(
        UdfImage(anchors=(256,)).build(), 256 * BLOCK + 16, b"\xff" * 8
    ),
    "udf-sequence-absurd": lambda: UdfImage(anchor_size=(1 << 32) - BLOCK).build(),
    "udf-no-volume": lambda: UdfImage(with_volume=False).build(),
    "udf-block-size": lambda: UdfImage(logical_block_size=512).build(),
    "udf-no-map": lambda: UdfImage(map_count=0).build(),
    "udf-maps-absurd": lambda: UdfImage(map_count=0xFFFFFFFF).build(),
    "udf-metadata-partition": lambda: UdfImage(maps=bytes((2, 64)) + bytes(62)).build(),
    "udf-partition-missing": lambda: UdfImage(partition_number=7).build(),
    "udf-file-set-damaged": lambda: patched(
        good_udf().build(), PARTITION_START * BLOCK + 400, b"\xff" * 4
    ),
    # UDF directories.
    "udf-root-is-file": root_is_file,
    "udf-loop-to-root": lambda: loop_to("root"),
    "udf-loop": lambda: loop_to("itself"),
    "udf-directory-twice": directory_twice,
    "udf-directories-overlap": directories_of_the_same_bytes,
    "udf-deep": deep,
    "udf-directory-absurd": lambda: with_root(b"", 1 << 62),
    "udf-directory-garbage": lambda: with_root(b"\x55" * 200),
    "udf-identifier-cut": lambda: with_root(
        file_identifier(b"", 1, FID_PARENT) + file_identifier(name8("long name"), 2)[:-4]
    ),
    "udf-partition-index": lambda: with_root(
        tag(257, struct.pack("<HBBIIH6xH", 1, 0, 2, BLOCK, 2, 9, 0) + b"\x08a", 0)
    ),
    "udf-name-dotdot": lambda: with_name(name8("..")),
    "udf-name-slash": lambda: with_name(name8("../../etc/passwd")),
    "udf-name-nul": lambda: with_name(name8("a\0b")),
    "udf-name-empty": lambda: with_name(b""),
    "udf-name-surrogate": lambda: with_name(name16("a\ud800")),
    "udf-name-odd": lambda: with_name(name16("a")[:-1]),
    "udf-name-encoding": lambda: with_name(b"\x07abc"),
    "udf-name-twice": lambda: (
        UdfImage(blocks={9: file_entry(9, 0, b"")})
        .set_root(*[file_identifier(name8("same"), 9)] * 2)
        .build()
    ),
    "udf-kinds-differ": wrong_kind,
    # UDF files.
    "udf-entry-past-end": lambda: (
        UdfImage().set_root(file_identifier(name8("file"), 1 << 30)).build()
    ),
    "udf-entry-damaged": lambda: patched(
        good_udf().build(), (PARTITION_START + 3) * BLOCK + 60, b"\xff"
    ),
    "udf-strategy": lambda: with_file(0, b"", strategy=4096),
    "udf-extent-past-end": lambda: with_file(5000, short_ad(1 << 24, 5000)),
    "udf-extent-too-long": lambda: with_file(EXTENT_MAX, short_ad(2, EXTENT_MAX)),
    "udf-size-absurd": lambda: with_file((1 << 64) - 1, short_ad(2, BLOCK)),
    "udf-extent-odd": lambda: with_file(300, short_ad(2, 100) + short_ad(3, 200)),
    "udf-embedded-lies": lambda: with_file(5000, b"x" * 10, kind=EMBEDDED),
    "udf-descriptors-absurd": lambda: with_file(1, b"", allocations_size=(1 << 32) - 1),
    "udf-descriptors-unknown": lambda: with_file(1, bytes(20), kind=2),
    "udf-descriptors-loop": continued_in_itself,
    "udf-descriptors-shared": descriptors_of_many_files,
    "udf-descriptors-too-far": continued_too_far,
    # ISO 9660.
    "iso9660-no-terminator": lambda: Iso9660Image(with_terminator=False).build(),
    "iso9660-block-size": lambda: Iso9660Image(block_size=7).build(),
    "iso9660-path-table-absurd": lambda: Iso9660Image(path_table_size=(1 << 32) - 1).build(),
    "iso9660-root-absurd": lambda: Iso9660Image(root_size=(1 << 32) - 1).build(),
    "iso9660-root-huge": lambda: Iso9660Image(
        root_size=48 << 20, file_blocks=1 << 15, volume_blocks=1 << 15
    ).build(),
    "iso9660-loop": iso9660_loop,
    "iso9660-directories-overlap": iso9660_directories_of_the_same_bytes,
    "iso9660-past-end": lambda: with_records(directory_record(b"FILE.;1", 30, 1 << 30)),
    "iso9660-far": lambda: with_records(directory_record(b"FILE.;1", 1 << 31, 9)),
    "iso9660-interleaved": lambda: with_records(directory_record(b"FILE.;1", 30, 99, unit=1)),
    "iso9660-name-slash": lambda: with_records(directory_record(b"../ETC/X", 30, 1)),
    "iso9660-name-dotdot": lambda: with_records(directory_record(b"..", 30, 1)),
    "iso9660-name-nul": lambda: with_records(directory_record(b"A\0B", 30, 1)),
    "iso9660-name-twice": lambda: with_records(*[directory_record(b"SAME.;1", 30, 100)] * 2),
    "iso9660-directory-twice": lambda: with_records(
        *[directory_record(b"SAME", 30, BLOCK, FLAG_DIRECTORY)] * 2
    ),
    "iso9660-boot-catalog": lambda: Iso9660Image(boot_catalog=1 << 30).build(),
    # What looks wrong and is not.
    "udf-one-anchor": lambda: UdfImage(anchors=(-1,)).set_root().build(),
    "udf-alone": lambda: UdfImage(with_iso9660=False).set_root().build(),
    "udf-blank-entry": blank_entry,
    "udf-left-out": what_is_left_out,
    "udf-beside-damaged-iso9660": udf_beside_damaged_iso9660,
}
