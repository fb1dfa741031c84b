# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the seeds: ``python -m tests.fuzz.seeds DIR`` writes ``DIR/<harness>/<name>``.

wimlib-imagex and genisoimage make the good ones; the rows of ``tests/hostile`` are the bad ones.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Piece, Unwritten, Zeros
from mediamaker.formats.bcd import pack_store, registry_value
from mediamaker.formats.bcd_devices import GptPartition as BcdGptPartition
from mediamaker.formats.gpt import Gpt, GptPartition, pack_gpt
from mediamaker.formats.mbr import Mbr, MbrPartition, pack_mbr, pack_protective_mbr
from mediamaker.formats.regf import Hive, Key, Value, dword_value, string_value
from mediamaker.formats.regf_pack import pack_hive
from mediamaker.formats.wim import IntegrityTable, pack_integrity_table
from mediamaker.plan.boot_store import BootIds, installed_store, pe_store, vhd_store
from mediamaker.plan.codec import compute_plan_id, plan_to_json
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.model import Plan, PlannedPartition
from mediamaker.plan.request import Layout
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.units import MIB
from tests.fuzz import fuzz_disk_map, fuzz_udf_iso, fuzz_wim_chunks
from tests.hostile import make_iso, make_regf, make_wim
from tests.hostile.iso9660_image import (
    FLAG_ASSOCIATED,
    FLAG_MORE,
    ROOT,
    Iso9660Image,
    directory_record,
)

HOSTILE_SIZE_MAX = 50_000
WIM_OPTIONS = {
    "none": ["--compress=none"],
    "xpress": ["--compress=XPRESS", "--chunk-size=4K"],
    "xpress-check": ["--compress=XPRESS", "--check"],
    "lzx": ["--compress=LZX:20"],
    "lzms": ["--compress=LZMS:20", "--chunk-size=32K"],
    "solid-lzms": ["--solid", "--solid-compress=LZMS:20", "--solid-chunk-size=32K"],
    "solid-lzx": ["--solid", "--solid-compress=LZX:20", "--solid-chunk-size=32K"],
    "solid-xpress": ["--solid", "--solid-compress=XPRESS", "--solid-chunk-size=32K"],
}
ISO_OPTIONS = {
    "udf": ["-udf", "-quiet"],
    "udf-joliet": ["-udf", "-J", "-quiet"],
    "joliet": ["-J", "-quiet"],
    "rockridge": ["-R", "-quiet"],
    "plain": ["-quiet"],
    "boot": ["-quiet", "-b", "boot.img", "-c", "boot.cat", "-no-emul-boot", "-udf"],
    "boot-rockridge": ["-quiet", "-R", "-b", "boot.img", "-c", "boot.cat", "-no-emul-boot"],
}


def make_seeds():
    """Inputs by harness and name."""
    with tempfile.TemporaryDirectory(prefix="mediamaker-fuzz-") as folder:
        tree = _make_tree(Path(folder) / "tree")
        wims = {
            name: _capture(tree, Path(folder) / f"{name}.wim", options)
            for name, options in WIM_OPTIONS.items()
        }
        isos = {
            name: _run("genisoimage", "-o", "-", *options, tree)
            for name, options in ISO_OPTIONS.items()
        }
        (tree / "1/2/3/4/5/6/7/8/9").mkdir(parents=True)
        (tree / "1/2/3/4/5/6/7/8/9/relocated").write_bytes(b"far down")
        isos["rockridge-deep"] = _run("genisoimage", "-o", "-", "-quiet", "-R", tree)
    hostile = {
        f"hostile-{name}": _join(make())
        for name, make in make_wim.CASES.items()
        if sum(piece.size for piece in make()) <= HOSTILE_SIZE_MAX
    }
    isos["multi-extent"] = _multi_extent()
    packed = {name: fuzz_udf_iso.pack(image) for name, image in isos.items()}
    for name, make in make_iso.CASES.items():
        image = make()
        data = fuzz_udf_iso.pack(image, flags=0) if len(image) < 2 * MIB else None
        if data is not None and len(data) <= HOSTILE_SIZE_MAX:
            packed[f"hostile-{name}"] = data
    return {
        "fuzz_wim": {**wims, **hostile},
        "fuzz_wim_metadata": dict(_metadata(wims)),
        "fuzz_wim_chunks": dict(_chunks(wims)),
        "fuzz_wim_tables": dict(_tables(wims)),
        "fuzz_partition_tables": dict(_partition_tables()),
        "fuzz_regf": dict(_hives()),
        "fuzz_bcd": dict(_stores()),
        "fuzz_udf_iso": packed,
        "fuzz_codec_json": dict(_documents()),
        "fuzz_disk_map": dict(_disks()),
    }


def _disks():
    """Volumes without a table, and one in a partition."""
    with tempfile.TemporaryDirectory(prefix="mediamaker-fuzz-") as folder:
        image, small = Path(folder) / "image", Path(folder) / "file"
        small.write_bytes(b"content" * 300)
        made = {
            "fat12": (128 << 10, ["mkfs.fat", "-F", "12"]),
            "fat16": (5 * MIB, ["mkfs.fat", "-F", "16", "-s", "1"]),
            "ntfs": (2 * MIB, ["mkntfs", "-F", "-Q", "-q"]),
            "exfat": (6 * MIB, ["mkfs.exfat", "-c", "4K"]),
        }
        for name, (size, command) in made.items():
            image.write_bytes(bytes(size))
            _run(*command, image)
            if name.startswith("fat"):
                _run("mmd", "-i", image, "::folder", "::folder/another long name")
                _run("mcopy", "-i", image, small, "::folder/another long name/some file.txt")
            yield name, fuzz_disk_map.pack(image.read_bytes())
        tree = _make_tree(Path(folder) / "tree")
        yield "iso", fuzz_disk_map.pack(_run("genisoimage", "-o", "-", "-quiet", "-J", "-R", tree))
        partition = MbrPartition(0x0C, 8, 2048)
        head = pack_mbr(Mbr(disk_signature=7, partitions=(partition,)))
        image.write_bytes(bytes(MIB))
        _run("mkfs.fat", image)
        yield "partition", fuzz_disk_map.pack(head.ljust(8 * 512, b"\0") + image.read_bytes())


def _stores():
    ids = BootIds.derive(b"seed")
    disk = UUID(int=1)
    esp, windows = (BcdGptPartition(disk, UUID(int=number)) for number in (2, 3))
    installed = installed_store(
        firmware="uefi", system=esp, windows=windows, recovery=esp, ids=ids, locale="de-DE"
    )
    disk_image = vhd_store(
        firmware="bios", system=esp, vhd_on=windows, vhd_path="\\w.vhdx", ids=ids
    )
    stores = {"installed": installed, "media": pe_store("bios"), "vhd": disk_image}
    for name, whole in stores.items():
        # Without the settings, which are all alike: a small hive is a fast one.
        kept = [item for item in whole.objects if item.type_code >> 28 != 2]
        store = replace(whole, objects=tuple(kept))
        yield name, pack_store(store)
        for item in store.objects:
            for element in item.elements:
                if element.id >> 24 & 0xF == 1:
                    yield f"{name}-{element.id:08x}", registry_value(element).data
    texts = [
        "boot",
        "locate=\\sources\\boot.wim",
        f"partition=gpt:{disk}:{disk}",
        "partition=mbr:d7da5d02:1048576",
        "ramdisk=[mbr:1:0x100000]\\sources\\boot.wim,{ramdiskoptions}",
        "vhd=[file=[boot]\\x]\\w.vhd,locate=custom:12000002",
        "0x15000075 12 yes {default} {bootmgr}",
    ]
    for number, text in enumerate(texts):
        yield f"text-{number}", text.encode()


def _multi_extent():
    records = [
        directory_record(b"FILE.;1", 25, 2048, FLAG_MORE),
        directory_record(b"FILE.;1", 26, 100),
        directory_record(b"FORK.;1", 26, 100, FLAG_ASSOCIATED),
    ]
    return Iso9660Image(directories={ROOT: records}, blocks={25: b"a", 26: b"b"}).build()


def _run(*command):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout


def _make_tree(folder):
    noise = random.Random(3)
    folder.mkdir()
    (folder / "text").write_bytes(b"the quick brown fox. " * 30)
    (folder / "noise").write_bytes(noise.randbytes(300))
    (folder / "mixed").write_bytes(noise.randbytes(100) + bytes(9000) + noise.randbytes(60))
    (folder / "empty").write_bytes(b"")
    (folder / "boot.img").write_bytes(b"\xeb\xfe" + bytes(2046))
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "\u00fc \u6f22.txt").write_bytes(b"name")
    os.link(folder / "noise", folder / "deep" / "again")
    (folder / "deep" / "link").symlink_to("../text")
    return folder


def _capture(tree, path, options):
    _run("wimlib-imagex", "capture", tree, path, "Name", "Words", "--threads=1", *options)
    return path.read_bytes()


def _join(pieces):
    with SourceReader([]) as reader:
        return reader.read_pieces(pieces, 0, sum(piece.size for piece in pieces))


def _opened(wims):
    for name, data in wims.items():
        pieces = (Piece(len(data), Literal(data)),)
        with SourceReader([]) as reader:
            wim = read_wim(pieces, len(data), reader, name)
            with BlobReader(wim, pieces, reader) as blobs:
                yield name, data, wim, blobs


def _metadata(wims):
    for name, _, wim, blobs in _opened(wims):
        if name in {"none", "solid-lzms"}:
            yield name, blobs.read(wim.metadata[0])
    yield "no-tree", _no_tree()


def _no_tree():
    return (8).to_bytes(4, "little") + bytes(12)


def _chunks(wims):
    head = fuzz_wim_chunks.HEAD
    codecs = {"none": 0, "XPRESS": 1, "LZX": 2, "LZMS": 3, "unknown": 0}
    for name, data, wim, _ in _opened(wims):
        exponent = wim.chunk_size.bit_length() - 1 if wim.chunk_size else 15
        for index, blob in enumerate(wim.blobs):
            if not blob.flags & 0x10:
                stored = data[blob.offset : blob.resource.end]
                mode = codecs[wim.compression] if blob.flags & 4 else 0
                yield f"{name}-{index}", head.pack(mode, exponent, blob.uncompressed_size) + stored
        for index, solid in enumerate(wim.solid_resources):
            stored = data[solid.resource.offset : solid.resource.end]
            yield f"{name}-solid-{index}", head.pack(4, 15, 0) + stored


def _tables(wims):
    for name, data, wim, _ in _opened(wims):
        yield f"{name}-xml", b"X" + wim.xml
        yield f"{name}-xml-text", b"x" + wim.xml[2:].decode("utf-16-le").encode()
        solid = wim.solid_resources[0].resource.offset if wim.solid_resources else 0
        yield f"{name}-rows", b"t1" + data[solid : solid + 16] + wim.blobs.data
    text = "<WIM><IMAGE INDEX='1'><NAME>n</NAME><WINDOWS><ARCH>9</ARCH><EDITIONID>Pro</EDITIONID>"
    text += "<LANGUAGES><LANGUAGE>en-US</LANGUAGE><DEFAULT>en-US</DEFAULT></LANGUAGES><VERSION>"
    text += "<MAJOR>10</MAJOR><MINOR>0</MINOR><BUILD>1</BUILD><SPBUILD>2</SPBUILD></VERSION>"
    text += "</WINDOWS><TOTALBYTES>12</TOTALBYTES></IMAGE></WIM>"
    yield "windows-xml", b"x" + text.encode()
    yield (
        "integrity",
        b"i"
        + pack_integrity_table(IntegrityTable(chunk_size=10 << 20, sha1s=(bytes(20), b"\1" * 20))),
    )


def _partition_tables():
    partition = GptPartition(UUID(int=1), UUID(int=2), 2048, 9999, "Data")
    packed = pack_gpt(
        Gpt(disk_guid=UUID(int=3), partitions=(partition,)), disk_sectors=20000, sector_size=512
    )
    yield "gpt", pack_protective_mbr(20000) + packed.primary_header + packed.entry_array[:512]
    yield "mbr", pack_mbr(Mbr(7, (MbrPartition(0x0C, 2048, 9999, is_active=True),), b"\xfa\xeb"))


def _hives():
    """All kinds of cells in three versions, and the bad ones."""
    values = (dword_value("d", 1), string_value("s", "text"), Value("\u6f22", 3, bytes(20)))
    for minor_version in (3, 5, 6):
        big = (Value("big", 3, bytes(17000)),) if minor_version == 5 else ()
        below = Key("below", values=(*values, *big), class_name=b"c\0")
        root = Key(
            "ROOT", subkeys=(below, Key("a", subkeys=(Key("x"),)), Key("\u6f22", flags=0x10))
        )
        yield f"version-{minor_version}", pack_hive(Hive(root, minor_version=minor_version))
    many = Key("ROOT", subkeys=tuple(Key(f"{number:x}") for number in range(520)))
    yield "list-of-lists", pack_hive(Hive(many))
    for name, make in make_regf.CASES.items():
        data = make()
        if len(data) <= HOSTILE_SIZE_MAX:
            yield f"hostile-{name}", data


def _documents():
    yield "plan", b"p" + json.dumps(plan_to_json(make_plan())).encode()
    receipt = {
        "format": "mediamaker-receipt",
        "version": 1,
        "plan_id": "x",
        "layout": "raw",
        "identities": {"disk_signature": "cafe0001"},
        "geometry": {"size": 1 << 20, "logical_sector_size": 512},
        "piece_size": 65536,
        "written": [[0, 512], [65536, 131072]],
        "pieces": [
            {"index": 0, "size": 512, "sha256": "0" * 64},
            {"index": 1, "size": 65536, "sha256": "0" * 64},
        ],
    }
    yield "receipt", b"r" + json.dumps(receipt).encode()
    for kind in b"pr":
        for depth in (100, 900, 970, 990, 5000):
            nested = "[" * depth + "]" * depth
            yield f"{kind}-deep-{depth}", bytes([kind]) + nested.encode()
            inside = {**receipt, "size": 0} if kind == ord("r") else plan_to_json(make_plan())
            inside |= {"format_version" if kind == ord("p") else "version": "HERE"}
            text = json.dumps(inside).replace('"HERE"', nested)
            yield f"{kind}-deep-inside-{depth}", bytes([kind]) + text.encode()


def make_plan():
    size = 4 * MIB
    builder = ExtentMapBuilder()
    builder.add("MBR", 512, Literal(b"\1" * 512))
    builder.pad_to(MIB, "zeros", Zeros())
    builder.add("file", 1024, FileRange("iso", 4096))
    builder.pad_to(size - MIB, "free clusters", Unwritten())
    builder.pad_to(size, "the end", Zeros())
    geometry, extents, commit = Geometry(size), builder.build(), ((0, MIB),)
    sources = (SourceFile("iso", "/x/a.iso", 99999, 5, 7, 8),)
    return Plan(
        plan_id=compute_plan_id(geometry, Layout.MBR_FAT32, extents, commit, sources),
        geometry=geometry,
        layout=Layout.MBR_FAT32,
        extents=extents,
        commit=commit,
        sources=sources,
        identities={"disk_signature": "cafe0001"},
        partitions=(
            PlannedPartition(1, "FAT32", MIB, size - 2 * MIB, True, "FAT32", "W", 4096, 9),
        ),
        boots=("BIOS",),
        notes=("a note",),
        warnings=("careful",),
    )


def main():
    for harness, inputs in make_seeds().items():
        folder = Path(sys.argv[1]) / harness
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
