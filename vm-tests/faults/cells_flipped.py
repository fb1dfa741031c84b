# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that keep other bytes than they were given, and say nothing: bad cells, and a false size.

``install`` and ``recovery add`` read back what they wrote, and must find and name it; of a WIM
that went bad later ``wim verify`` must. Nothing vouches for a WIM's header and its XML, nor, in
one without an integrity table, for all of its blob table: there it can find what contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from faults.cells_windows_io import GROUP_SIZE, Bad, run_group
from faults.commands import Ran, in_groups, run_json
from faults.disk import Faults
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line
from faults.recovery_rig import make_recovery_rig
from faults.wim_rig import make_wim_rig
from faults.windows_rig import (
    WindowsRig,
    copy_sparse,
    differences,
    make_windows_rig,
    partitions_of,
    run,
)

_SAMPLE_SIZE = 4096
_VERIFY_FAILED = 5
_COMPRESSED = ("contents", "an image's tree")
_TRIES = 5
_FAILED = 6
_ENTRY_SIZE = 50
"""Of the blob table: resource (24), part number (2), count of references (4), SHA-1 (20)."""
_BOOT_FILES = ("bootmgfw.efi", "bootmgfw_EX.efi", "bootmgr.efi")
_PLACE_NAMES = ("Compressed size", "Offset in WIM")


@dataclass(frozen=True, slots=True)
class _Place:
    """A byte, what it is in, and what must be said of it: one of ``words``.

    ``is_planned``: it is of the plan, which is written last and read back then.
    """

    what: str
    at: int
    words: tuple[str, ...]
    is_planned: bool = False


@cell("install", "one bit flipped on the medium", points=9, short=0)
def flipped_in_install(rig: Rig) -> Iterator[Trial]:
    """In tables, boot files and contents of files that libwim wrote."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    places = [*_planned_places(rig, windows), *_applied_places(rig, windows, rig.count)]
    places = places[: rig.count]
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    for group in in_groups(places, GROUP_SIZE):
        disks = [copy_sparse(windows.used, rig.work_dir / f"d{n}.img") for n in range(len(group))]
        bad = [Bad(place.what, Faults(flipped=(place.at,))) for place in group]
        rans = run_group(rig, bad, disks, words)
        for place, disk, ran in zip(group, disks, rans, strict=True):
            yield _weigh_flipped(windows, place, disk, ran)


def _weigh_flipped(windows: WindowsRig, place: _Place, disk: Path, ran: Killed) -> Trial:
    """Found ahead of the tables, it leaves a blank disk; else one that is called not verified."""
    point = f"{place.what}, byte {place.at:#x}"
    trouble = judge_refusal(ran, (_VERIFY_FAILED,), place.words)
    if ran.exit_code == 0:
        return Trial(Verdict.FALSE_DONE, point, "not found")
    if trouble is not None:
        return Trial(Verdict.WRONG_WORDS, point, trouble)
    said = last_line(ran.output)
    if place.is_planned:
        is_left = differences(disk, windows.expected, windows.clock_words) == {place.at // 8}
        is_told = "is written, but not verified: do not rely on it" in said
        left = "all but that byte is as in a run to the end"
    else:
        is_left = windows.judge(disk)[0] is Verdict.BLANK
        is_told = said.endswith("looks blank")
        left = "blank"
    if not is_left:
        return Trial(Verdict.HALF_VALID, point, f"{said}; {windows.judge(disk)[1]}"[:400])
    return Trial(Verdict.NAMED if is_told else Verdict.WRONG_WORDS, point, f"{said} [{left}]")


def _planned_places(rig: Rig, windows: WindowsRig) -> list[_Place]:
    """Where the plan itself says what is written."""
    system = partitions_of(windows.expected)[0][0]
    files = [path for path in _tree(rig, windows).rglob("*") if path.name in _BOOT_FILES]
    boot_file = _file_places(rig, windows, files, 0)[0]
    places = [
        _Place("GPT entries", 2 * windows.sector_size + 56, ("[0x400,",)),
        _Place("boot sector of the system volume", system + 3, (f"at {system + 3:#x}",)),
        replace(boot_file, words=(f"at {boot_file.at:#x}",)),
    ]
    return [replace(place, is_planned=True) for place in places]


def _applied_places(rig: Rig, windows: WindowsRig, count: int) -> list[_Place]:
    """In contents of files of the image, which libwim writes."""
    files = [path for path in sorted(_tree(rig, windows).rglob("*")) if path.is_file()]
    return _file_places(rig, windows, rig.rng.sample(files, len(files)), -1)[:count]


def _tree(rig: Rig, windows: WindowsRig) -> Path:
    tree = rig.work_dir / "tree"
    if not tree.exists():
        run("wimlib-imagex", "extract", windows.wim, "1", "--dest-dir", tree, "--no-acls")
    return tree


def _file_places(
    rig: Rig, windows: WindowsRig, files: Iterable[Path], partition: int
) -> list[_Place]:
    """Found by a part of the file's bytes in that partition of the disk that is right."""
    start, size = partitions_of(windows.expected)[partition]
    with windows.expected.open("rb") as file:
        file.seek(start)
        volume = file.read(size)
    places = []
    files = [path for path in files if path.stat().st_size >= 2 * _SAMPLE_SIZE]
    for path in files:
        data = path.read_bytes()
        sample = rig.rng.randrange(len(data) // _SAMPLE_SIZE) * _SAMPLE_SIZE
        part = data[sample : sample + _SAMPLE_SIZE]
        at = volume.find(part)
        if at >= 0:
            at += start + rig.rng.randrange(_SAMPLE_SIZE)
            # What others have as well may be found in one of them.
            twins = tuple(other.name.lower() for other in files if part in other.read_bytes())
            places.append(_Place(f"contents of {path.name}", at, twins))
    return places


@cell("recovery add", "one bit flipped on the medium", points=6, short=0)
def flipped_in_recovery(rig: Rig) -> Iterator[Trial]:
    """In the new volume, in Windows' own, and in the table; then ``undo`` on a disk that works."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    done = copy_sparse(recovery.before, rig.work_dir / "done.img")
    run(*recovery.add_words(done, rig.work_dir / "done.undo"))
    changed = _changed_sectors(recovery.before, done)
    table = [sector for sector in changed if sector < 34]
    sectors = [rig.rng.choice(table), *rig.rng.sample(changed, rig.count)][: rig.count]
    options = " ".join(map(str, recovery.options))
    words = f"recovery add $dev {options} --undo {rig.out_dir.resolve()}/undo$number"
    for group in in_groups(sectors, GROUP_SIZE):
        disks = [
            copy_sparse(recovery.before, rig.work_dir / f"gpt{n}.img") for n in range(len(group))
        ]
        for number in range(len(group)):
            (rig.out_dir / f"undo{number}").unlink(missing_ok=True)
        places = [sector * 512 + rig.rng.randrange(512) for sector in group]
        bad = [Bad("", Faults(flipped=(at,))) for at in places]
        rans = run_group(rig, bad, disks, words)
        for number, (at, disk, ran) in enumerate(zip(places, disks, rans, strict=True)):
            point = f"byte {at:#x}"
            undo = rig.out_dir / f"undo{number}"
            verdict, said = recovery.judge(
                disk, undo, is_done=ran.exit_code == 0, undo_options=("--force",)
            )
            trouble = judge_refusal(ran, (_VERIFY_FAILED,), ("does not hold what was written",))
            if trouble is None and not _is_in_range(at, last_line(ran.output)):
                trouble = f"another place is named: {last_line(ran.output)}"
            if verdict in {Verdict.COMPLETE, Verdict.PUT_BACK}:
                verdict = Verdict.NAMED if trouble is None else Verdict.WRONG_WORDS
                said = trouble or "undo --force gave back every byte"
            yield Trial(verdict, point, f"{last_line(ran.output)}; {said}")


def _changed_sectors(before: Path, after: Path) -> list[int]:
    """That differ, 512 bytes each."""
    old, new = before.read_bytes(), after.read_bytes()
    return [at // 512 for at in range(0, len(new), 512) if old[at : at + 512] != new[at : at + 512]]


def _is_in_range(at: int, words: str) -> bool:
    ranges = re.findall(r"\[0x([0-9a-f]+),0x([0-9a-f]+)\)", words)
    return any(int(start, 16) <= at < int(end, 16) for start, end in ranges)


@cell("wim verify", "one bit flipped on the medium", points=60, short=6)
def flipped_in_wim(rig: Rig) -> Iterator[Trial]:
    """In what ``wim optimize`` made, later: each of its structures, and what it is called by."""
    wims = make_wim_rig(rig.work_dir)
    made = []
    for number, way in enumerate(wims.ways):
        out = rig.work_dir / f"made{number}.wim"
        wims.prepare(way, out)
        run(*wims.words(way, out))
        made.append((way, out, out.read_bytes(), _structures(rig, out)))
        ran = run_json("wim", "verify", out)
        is_good = ran.exit_code == 0 and ran.event("wim-verify")["is_whole"]
        verdict = Verdict.COMPLETE if is_good else Verdict.WRONG_WORDS
        yield Trial(verdict, f"{way.name}: no bit flipped", f"exit {ran.exit_code}: {ran.words}")
    for number in range(rig.count):
        way, out, data, structures = made[number % len(made)]
        names = list(structures)
        name = names[number // len(made) % len(names)]
        for _ in range(_TRIES):
            place = structures[name]()
            changed = bytearray(data)
            changed[place.at] ^= 1 << place.bit
            out.write_bytes(changed)
            ran = run_json("wim", "verify", out)
            is_nothing = name in _COMPRESSED and wims.find_trouble(way, out) is None
            out.write_bytes(data)
            # Some bits of what is compressed say nothing: wimlib-imagex reads the same out of it.
            if ran.exit_code or not is_nothing:
                break
        said = _damage_of(ran)
        point = f"{way.name}: {name}, {place.what}, byte {place.at:#x} of {len(data):#x}"
        if ran.exit_code == 0:
            yield Trial(Verdict.FALSE_DONE, point, "not found")
        elif ran.exit_code != place.code or ran.errors:
            words = f"exit {ran.exit_code}, not {place.code}: {said} {ran.errors[-200:]}"
            yield Trial(Verdict.WRONG_WORDS, point, words[:300])
        elif not any(word in said for word in place.words):
            yield Trial(Verdict.WRONG_WORDS, point, f"{place.words} is not named: {said}"[:300])
        else:
            yield Trial(Verdict.NAMED, point, said[:300])


@dataclass(frozen=True, slots=True)
class _WimPlace:
    """A bit of a WIM, and how ``wim verify`` is to end; one of ``words`` must be said."""

    what: str
    at: int
    bit: int
    words: tuple[str, ...]
    code: int = _VERIFY_FAILED


_HEADER_FIELDS = (
    # (first byte, end, name, what is said, exit code: 3 where it is no WIM that could be read)
    (0x00, 0x08, "magic", "is not a WIM file", 3),
    (0x08, 0x0C, "header size", "WIM header size", 3),
    (0x0C, 0x10, "version", "WIM version", 3),
    (0x14, 0x18, "chunk size", "WIM chunk size", 3),
    (0x28, 0x2A, "part number", "WIM part number", 3),
    (0x2B, 0x2C, "part count", "missing part", _VERIFY_FAILED),
    (0x2D, 0x30, "image count", "WIM image count", _VERIFY_FAILED),
    (0x30, 0x37, "blob table's size", "WIM blob table", _VERIFY_FAILED),
    (0x38, 0x40, "blob table's offset", "WIM ", _VERIFY_FAILED),
    (0x40, 0x48, "blob table's original size", "WIM blob table", _VERIFY_FAILED),
    (0x48, 0x4F, "XML's size", "WIM XML", _VERIFY_FAILED),
    (0x50, 0x58, "XML's offset", "WIM XML", _VERIFY_FAILED),
    (0x58, 0x60, "XML's original size", "WIM XML", _VERIFY_FAILED),
    (0x79, 0x7C, "boot index", "WIM boot index", 3),
)
"""Left out: what neither anything vouches for nor any reader of these files uses.

The flags but those of compression, the GUID, the flags of resources that are never compressed, the
copy of the boot image's entry (no image is to boot), the lowest bits of the boot index (another
image is as good), and the reserved end.
"""

_INTEGRITY_FIELDS = (
    (0x7C, 0x83, "its size", "integrity", _VERIFY_FAILED),
    (0x84, 0x8C, "its offset", "integrity", _VERIFY_FAILED),
    (0x8C, 0x94, "its original size", "integrity", _VERIFY_FAILED),
)


def _structures(rig: Rig, wim: Path) -> dict[str, Callable[[], _WimPlace]]:
    """What draws a place, by the structure that it is in."""
    data = wim.read_bytes()
    blobs = _blobs(wim)
    solid = {blob for blob in blobs if blob.is_solid}
    bit = rig.rng.randrange

    def in_resource(*, is_metadata: bool) -> _WimPlace:
        blob = rig.rng.choice([blob for blob in blobs if blob.is_metadata is is_metadata])
        # A solid resource is read as one: which of its blobs are hit, only its decoder can tell.
        sha1s = tuple(other.sha1 for other in solid) if blob.is_solid else (blob.sha1,)
        at = rig.rng.randrange(blob.start, blob.start + blob.size)
        return _WimPlace(f"blob {blob.sha1[:8]}", at, bit(8), sha1s)

    def in_table() -> _WimPlace:
        start, end = _resource(data, 0x30)
        entry = rig.rng.randrange(start, end, _ENTRY_SIZE)
        # Of its entries nothing vouches for the flags and the count of references; what reads
        # does not use the count. With an integrity table all bytes have a hash.
        left_out = set() if any(data[0x7C:0x83]) else {7, *range(26, 30)}
        inside = rig.rng.choice([n for n in range(_ENTRY_SIZE) if n not in left_out])
        place = _WimPlace(f"entry's byte {inside}", entry + inside, bit(8), ())
        changed = bytearray(data[entry : entry + _ENTRY_SIZE])
        changed[inside] ^= 1 << place.bit
        sha1s = (data[entry + 30 : entry + 50].hex(), changed[30:50].hex())
        return replace(place, words=(*sha1s, "WIM metadata resources", "WIM solid resource"))

    def in_field(fields: tuple[tuple[int, int, str, str, int], ...]) -> _WimPlace:
        start, end, name, words, code = rig.rng.choice(fields)
        return _WimPlace(name, rig.rng.randrange(start, end), bit(8), (words,), code)

    def in_xml() -> _WimPlace:
        # Nothing vouches for texts. A name that has another character has no match.
        start, end = _resource(data, 0x48)
        text = data[start:end].decode("utf-16")
        names = [n for found in re.finditer(r"</?([A-Z]+)", text) for n in range(*found.span(1))]
        at = start + 2 + 2 * rig.rng.choice(names) + 1
        return _WimPlace("a tag's name", at, bit(8), ("WIM XML",))

    def in_integrity() -> _WimPlace:
        start, end = _resource(data, 0x7C)
        # There is one chunk: any larger size of chunks (bytes 8 to 11) tells the same.
        inside = rig.rng.choice([n for n in range(end - start) if not 8 <= n < 12])
        return _WimPlace(f"byte {inside}", start + inside, bit(8), ("integrity",))

    structures: dict[str, Callable[[], _WimPlace]] = {
        "contents": lambda: in_resource(is_metadata=False),
        "an image's tree": lambda: in_resource(is_metadata=True),
        "blob table": in_table,
        "header": lambda: in_field(_HEADER_FIELDS),
        "XML": in_xml,
    }
    if any(data[0x7C:0x83]):
        structures["integrity table"] = in_integrity
        structures["integrity table's entry in the header"] = lambda: in_field(_INTEGRITY_FIELDS)
    return structures


def _resource(data: bytes, entry: int) -> tuple[int, int]:
    """(start, end) of what a header's entry of 24 bytes tells of."""
    start = int.from_bytes(data[entry + 8 : entry + 16], "little")
    return start, start + int.from_bytes(data[entry : entry + 7], "little")


@dataclass(frozen=True, slots=True)
class _Blob:
    """Where it is stored, by wimlib-imagex; of a solid one, the whole resource."""

    sha1: str
    start: int
    size: int
    is_metadata: bool
    is_solid: bool


def _blobs(wim: Path) -> list[_Blob]:
    blobs = []
    for text in run("wimlib-imagex", "info", "--blobs", wim).split("\n\n"):
        if found := re.search(r"^Hash += 0x(\w+)", text, re.MULTILINE):
            solid = re.search(r"=> (\d+) bytes @ offset (\d+)", text)
            plain = [re.search(rf"^{name} += (\d+)", text, re.MULTILINE) for name in _PLACE_NAMES]
            size, start = solid.groups() if solid else (match[1] for match in plain if match)
            is_metadata = "FLAG_METADATA" in text
            blobs.append(_Blob(found[1], int(start), int(size), is_metadata, bool(solid)))
    return blobs


def _damage_of(ran: Ran) -> str:
    """All that it names."""
    if ran.message:
        return ran.message
    report = ran.event("wim-verify")
    words = [f"missing part {number}" for number in report["missing_parts"][:3]]
    words += [
        f"{file['sha1']} {file['path'] or 'a tree'}: {file['message']}"
        for file in report["damaged_files"]
    ]
    words += [f"{blob['sha1']}: {blob['message']}" for blob in report["damaged_blobs"]]
    return "; ".join([*words, *report["table_damage"]])


@cell("install", "fake capacity", points=6, short=0)
def fake_for_install(rig: Rig) -> Iterator[Trial]:
    """Found before anything is applied, called by its name, with the true size."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    kinds = [(share, beyond) for beyond in ("wraps", "zeros") for share in (0.5, 0.34, 0.9)]
    for group in in_groups(kinds[: rig.count], GROUP_SIZE):
        bad, disks = [], []
        for number, (share, beyond) in enumerate(group):
            disk = copy_sparse(windows.used, rig.work_dir / f"d{number}.img")
            run("truncate", "--size", int(windows.size * share) // 512 * 512, disk)
            bad.append(Bad("", Faults(claimed_size=windows.size, beyond=beyond)))
            disks.append(disk)
        for (share, beyond), disk, ran in zip(
            group, disks, run_group(rig, bad, disks, words), strict=True
        ):
            yield _weigh_fake(windows, f"{share} of what it claims, then {beyond}", disk, ran)


def _weigh_fake(windows: WindowsRig, point: str, disk: Path, ran: Killed) -> Trial:
    verdict, said = windows.judge(disk)
    size = disk.stat().st_size
    trouble = judge_refusal(ran, (_FAILED,), (f"({windows.size} bytes), but holds",))
    if trouble is None and f"({size} bytes" not in last_line(ran.output):
        trouble = f"not {size} bytes: {last_line(ran.output)}"
    if trouble is None and '"phase": "apply"' in ran.output:
        trouble = "found when it was applying already"
    if ran.exit_code == 0:
        return Trial(Verdict.FALSE_DONE, point, said)
    if trouble is not None:
        return Trial(Verdict.WRONG_WORDS, point, trouble)
    return Trial(verdict, point, last_line(ran.output))
