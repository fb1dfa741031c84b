# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of an applied volume: it finds nothing where nothing is, and each thing that is.

The changes are made by ntfs-3g's driver, or in the bytes.
"""

import contextlib
import os
import random
import shutil
import subprocess
import threading

import pytest

from mediamaker.errors import FormatError, VerifyError
from mediamaker.execute.progress import Phase, Progress, ignore_event
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.check_windows import check_applied, drop_caches
from mediamaker.install.image_facts import image_facts
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.units import MIB
from mediamaker.wim.ntfs_volume import open_ntfs_volume, survey_ntfs
from tests.install.windows_rig import ACL, OTHER_ACL, WINRE, make_image
from tests.wim.wim_rig import listing, mounted, run

REAGENT = ("Windows", "System32", "Recovery", "ReAgent.xml")


def make_target(path, size=24 * MIB, **options):
    options = {"sector_size": 512, "cluster_size": None, **options}
    make_ntfs(path, size=size, hidden_sectors=2048, volume_label="W", volume_serial=1, **options)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("check"), rich=True)


@pytest.fixture(scope="module")
def applied(image, tmp_path_factory):
    volume = make_target(tmp_path_factory.mktemp("applied") / "v.img")
    apply(image, volume)
    return volume


@pytest.fixture
def volume(applied, tmp_path):
    return shutil.copyfile(applied, tmp_path / "copy.img")


def apply(image, volume, **options):
    facts = image_facts([image], 1)
    apply_windows([image], facts, volume, scratch=volume.parent, on_event=ignore_event, **options)


def differences(volume, image, **options):
    result = check_applied(volume, [image], 1, **options)
    return {difference.path: difference.message for difference in result.differences}


@pytest.mark.parametrize(
    "options", [{}, {"sector_size": 4096}, {"cluster_size": 512}, {"cluster_size": 65536}]
)
def test_nothing_differs(image, tmp_path, options):
    volume = make_target(tmp_path / "v.img", **options)
    apply(image, volume)
    result = check_applied(volume, [image], 1)
    assert result.differences == ()
    assert result.unchecked == ()
    assert result.is_equal
    result.check(volume)
    shown = run("wimlib-imagex", "info", image, "1")
    count = {line.split(":")[0]: line.split()[-1] for line in shown.splitlines() if ":" in line}
    assert result.file_count + result.directory_count == (
        int(count["File Count"]) + int(count["Directory Count"])
    )


def test_added_replaced_and_left_out(image, tmp_path):
    volume = make_target(tmp_path / "v.img")
    options = {
        "extra_files": {
            tuple(name.upper() for name in REAGENT): b"<new/>",
            ("Recovery", "OEM", "ResetConfig.xml"): b"x" * 5000,
            ("empty",): b"",
        },
        "left_out": [tuple(WINRE.lower().split("/"))],
    }
    apply(image, volume, **options)
    assert differences(volume, image, **options) == {}
    # Without being told, it is what differs.
    assert set(differences(volume, image)) == {
        f"/{WINRE}",
        "/" + "/".join(REAGENT),
        "/Recovery",
        "/Recovery/OEM",
        "/Recovery/OEM/ResetConfig.xml",
        "/empty",
    }
    # Told that more was done than was.
    more = {
        "extra_files": {**options["extra_files"], ("missing",): b"", ("empty",): b"not"},
        "left_out": [*options["left_out"], ("big.bin",)],
    }
    found = differences(volume, image, **more)
    assert set(found) == {"/missing", "/empty", "/big.bin"}
    assert "was to be added" in found["/missing"]
    assert "left out" in found["/big.bin"]


def long_name(number):
    return f"Windows/WinSxS/part {number % 7} é/a long name {number}.manifest"


def set_xattr(path, name, value):
    os.setxattr(path, f"system.ntfs_{name}", value, follow_symlinks=False)


def link_equal(root):
    (root / "Windows/equal2").unlink()
    os.link(root / "Windows/equal1", root / "Windows/equal2")


def swap_descriptor(path):
    have = os.getxattr(path, "system.ntfs_acl")
    set_xattr(path, "acl", ACL if have == OTHER_ACL else OTHER_ACL)


def remove_dos_name(path):
    os.removexattr(path, "system.ntfs_dos_name")


CHANGES = {
    "content": (
        lambda root: (root / "big.bin").write_bytes(b"other"),
        {"/big.bin": "expected SHA-1"},
    ),
    "resident content": (
        lambda root: (root / "/".join(REAGENT)).write_bytes(b"<WindowsRE version='3.0'/>"),
        {"/" + "/".join(REAGENT): "expected SHA-1"},
    ),
    "gone": (lambda root: (root / WINRE).unlink(), {f"/{WINRE}": "is not there"}),
    "more": (lambda root: (root / "Users/more").touch(), {"/Users/more": "is not in the image"}),
    "more directories": (
        lambda root: (root / "Users/more").mkdir(),
        {"/Users/more": "is not in the image"},
    ),
    "a stream more": (
        lambda root: (root / "big.bin:more").write_bytes(b"x"),
        {"/big.bin:more": "not in the image"},
    ),
    "a stream of a directory": (
        lambda root: (root / "directory with a stream:note").write_bytes(b"other"),
        {"/directory with a stream:note": "expected SHA-1"},
    ),
    "attributes": (
        lambda root: set_xattr(root / "big.bin", "attrib", (0x22).to_bytes(4, "little")),
        {"/big.bin": "expected the attributes 0x20, got 0x22"},
    ),
    "descriptor": (
        lambda root: swap_descriptor(root / long_name(2)),
        {f"/{long_name(2)}": "another security descriptor"},
    ),
    "the root's descriptor": (
        lambda root: set_xattr(root, "acl", OTHER_ACL),
        {"/": "another security descriptor"},
    ),
    "times": (
        lambda root: set_xattr(
            root / "big.bin", "times", b"".join((10**17).to_bytes(8, "little") for _ in range(3))
        ),
        {"/big.bin": "to be"},
    ),
    "short name": (
        lambda root: set_xattr(root / long_name(3), "dos_name", b"OTHER.MAN"),
        {f"/{long_name(3)}": "expected the short name"},
    ),
    "no short name": (
        lambda root: remove_dos_name(root / long_name(3)),
        {f"/{long_name(3)}": "expected the short name"},
    ),
    "renamed": (
        lambda root: (root / "big.bin").rename(root / "BIG.bin"),
        {"/big.bin": "is not there", "/BIG.bin": "is not in the image"},
    ),
    "a copy instead of a link": (
        lambda root: unlink(root / "Windows/System32/linked5.dll"),
        {"/Windows/System32/linked5.dll": ""},
    ),
    "a link more": (
        lambda root: os.link(root / "big.bin", root / "link"),
        {"/link": "is not in the image"},
    ),
    "a link instead of a copy": (link_equal, {"/Windows/equal2": "hard link"}),
}  # fmt: skip


def unlink(path):
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(image, volume, tmp_path, name):
    change, expected = CHANGES[name]
    if name == "a link instead of a copy":
        files = {"Windows/equal1": b"same" * 999, "Windows/equal2": b"same" * 999}
        image = make_image(tmp_path, files=files)
        volume = make_target(tmp_path / "v.img")
        apply(image, volume)
        assert differences(volume, image) == {}
    with mounted(volume, tmp_path / "m") as root:
        change(root)
    found = differences(volume, image)
    for path, message in expected.items():
        assert message in found.pop(path)
    # Beside it only what goes with it: the times of the directory and of the file's other names.
    for path, message in found.items():
        assert "to be" in message, (path, message)
    result = check_applied(volume, [image], 1)
    with pytest.raises(VerifyError, match="is not what the image has"):
        result.check(volume)


def test_a_flipped_bit_anywhere_in_the_contents_is_found(image, volume):
    data = bytearray(volume.read_bytes())
    start = data.find(b"not really a WIM" * 100)
    assert start > 0
    data[start + 777] ^= 1
    volume.write_bytes(data)
    assert list(differences(volume, image)) == [f"/{WINRE}"]


def test_a_name_that_is_lost_from_an_index_is_found(image, volume):
    """The file is there and whole, but Windows would not find it."""
    data = bytearray(volume.read_bytes())
    changed = 0
    for block in range(0, len(data), 4096):
        if data[block : block + 4] == b"INDX":
            at = data.find("linked5.dll".encode("utf-16-le"), block, block + 4096)
            if at > 0:
                data[at : at + 2] = "L".encode("utf-16-le")
                changed += 1
    assert changed
    volume.write_bytes(data)
    found = differences(volume, image)
    assert "not in the index" in found["/Windows/System32/linked5.dll"]
    assert "no file says so" in found["/Windows/System32/Linked5.dll"]


def test_a_torn_file_table_is_said(image, volume):
    data = bytearray(volume.read_bytes())
    at = data.find("big.bin".encode("utf-16-le"))
    record = data.rfind(b"FILE", 0, at)
    data[record + 510] ^= 0xFF
    volume.write_bytes(data)
    with pytest.raises(FormatError, match="torn write"):
        check_applied(volume, [image], 1)


def test_no_volume_and_half_a_volume(image, volume, tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(MIB))
    with pytest.raises(FormatError, match="not an NTFS volume"):
        check_applied(tmp_path / "zeros", [image], 1)
    os.truncate(volume, 10 * MIB)
    with pytest.raises(FormatError, match="cut short"):
        check_applied(volume, [image], 1)


def test_a_fragmented_volume_with_a_large_directory(tmp_path):
    """Files in pieces, a file table in pieces, attribute lists, index blocks, holes."""
    files = {f"Windows/many/{number:05}": b"%d" % number for number in range(1200)}
    image = make_image(tmp_path, files=files)
    volume = make_target(tmp_path / "v.img", size=24 * MIB, cluster_size=512)
    rng = random.Random(1)
    source = tmp_path / "source.img"
    shutil.copyfile(volume, source)
    with mounted(source, tmp_path / "m") as root:
        fillers = []
        with contextlib.suppress(OSError):  # until it is full
            for number in range(2000):
                fillers.append(root / f"{number}")
                fillers[-1].write_bytes(rng.randbytes(24_000))
        for path in fillers[::2]:
            path.unlink()
        for number in range(300):
            (root / f"new {number}").write_bytes(b"x" * (number * 5))
        (root / "fragmented").write_bytes(rng.randbytes(3 * MIB))
        for number in range(60):
            os.link(root / "fragmented", root / f"a long name of the same file {number}")
        with (root / "sparse").open("wb") as file:
            file.seek(MIB)
            file.write(b"x")
            file.truncate(3 * MIB + 7)
    run("wimlib-imagex", "capture", source, tmp_path / "f.wim", "x")
    # The volume itself, against what wimlib has read from it.
    assert differences(source, tmp_path / "f.wim") == {}
    # The survey before an apply sees every record, also those that lie in two places.
    with mounted(source, tmp_path / "m") as root:
        names = listing(root)
    with open_ntfs_volume(source, writable=False) as descriptor:
        shown = survey_ntfs(descriptor, source).root_names
        assert [name for name in shown if not name.startswith(("$", "."))] == sorted(names)
    runs = run("ntfsinfo", "--file", "/fragmented", "--verbose", source)
    assert runs.count("\n\t\t\t0x") > 20
    assert "$ATTRIBUTE_LIST" in runs
    apply(image, volume)
    assert differences(volume, image) == {}


def test_more_descriptors_than_a_block_has_room_for(image, tmp_path):
    """``$Secure`` has them in blocks of 256 KiB with a copy behind each."""
    volume = make_target(tmp_path / "v.img")
    with mounted(volume, tmp_path / "m") as root:
        for number in range(2600):
            path = root / f"{number}"
            path.touch()
            mask = (0x100000 | number << 3 | 1).to_bytes(4, "little")
            set_xattr(path, "acl", ACL.replace(bytes.fromhex("ff011f00"), mask))
    run("wimlib-imagex", "capture", volume, tmp_path / "d.wim", "x")
    result = check_applied(volume, [tmp_path / "d.wim"], 1)
    assert (result.differences, result.file_count) == ((), 2600)
    with mounted(volume, tmp_path / "m") as root:
        swap_descriptor(root / "2599")
    assert list(differences(volume, tmp_path / "d.wim")) == ["/2599"]


def test_broken_records_never_end_in_anything_but_our_errors(tmp_path):
    """Random damage in boot sectors, file records and indexes; two minutes of it found nothing."""
    rng = random.Random(4)
    image = make_image(tmp_path, files={f"Windows/a long name {n}": b"x" * n for n in range(90)})
    volume = make_target(tmp_path / "v.img", size=8 * MIB)
    apply(image, volume)
    data = volume.read_bytes()
    records = [at for at in range(0, len(data), 512) if data[at : at + 4] in {b"FILE", b"INDX"}]
    found = set()
    for _ in range(60):
        broken = bytearray(data)
        at = rng.choice([*records, 0]) + rng.randrange(300)
        broken[at : at + 4] = rng.choice([bytes(4), b"\xff" * 4, rng.randbytes(4)])
        volume.write_bytes(broken)
        try:
            found.add(check_applied(volume, [image], 1).is_equal)
        except FormatError:
            found.add("error")
    assert found == {True, False, "error"}


def test_a_compressed_file_is_counted_as_not_checked(image, volume, tmp_path):
    with mounted(volume, tmp_path / "m", "streams_interface=windows,compression") as root:
        directory = root / "Users/compressed"
        directory.mkdir()
        set_xattr(directory, "attrib", (0x800).to_bytes(4, "little"))
        (directory / "text").write_bytes(b"text " * 50_000)
    run("wimlib-imagex", "capture", volume, tmp_path / "c.wim", "x")
    result = check_applied(volume, [tmp_path / "c.wim"], 1)
    assert result.unchecked == ("/Users/compressed/text",)
    assert result.is_equal


def test_progress_and_interruption(image, volume):
    events = []
    result = check_applied(volume, [image], 1, on_event=events.append)
    done = [event for event in events if isinstance(event, Progress)]
    assert {event.phase for event in done} == {Phase.VERIFY}
    assert done[-1].bytes_done == done[-1].bytes_total == result.size > 5 * MIB
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        check_applied(volume, [image], 1, cancel=cancel)


def test_the_cache_is_dropped(volume):
    def cached():
        shown = subprocess.check_output(["fincore", "--bytes", "--raw", "--noheadings", volume])
        return int(shown.split()[0])

    volume.read_bytes()
    assert cached() > 0
    descriptor = os.open(volume, os.O_RDONLY)
    try:
        drop_caches(descriptor)
    finally:
        os.close(descriptor)
    assert cached() == 0


def test_a_split_wim(image, volume, tmp_path):
    run("wimlib-imagex", "split", image, tmp_path / "s.swm", "1")
    parts = sorted(tmp_path.glob("s*.swm"), key=lambda part: (len(part.name), part))
    assert check_applied(volume, parts, 1).is_equal
