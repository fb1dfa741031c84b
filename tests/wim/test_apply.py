# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply, judged by ntfs-3g's mount, ntfsinfo, ntfsfix and wimlib-imagex's own capture."""

import os
import random
import threading

import pytest

from mediamaker.errors import FormatError, SourceError, TargetRefusedError, UsageError
from mediamaker.execute.progress import Progress, ignore_event
from mediamaker.wim.apply import apply_image
from mediamaker.wim.capture import CaptureRequest, capture_image
from tests.wim.wim_rig import (
    check,
    detailed,
    listing,
    make_tree,
    make_volume,
    mounted,
    run,
    set_symbolic_link,
)

ACL = bytes.fromhex(
    "0100048014000000240000000000000034000000010200000000000520000000200200000102000000000005"
    "200000002002000002001c000100000000031400ff011f00010100000000000100000000"
)
OTHER_ACL = ACL.replace(bytes.fromhex("ff011f00"), bytes.fromhex("a9001200"))


def apply(path, target, image=1, **options):
    return apply_image(path, image, target, on_event=ignore_event, **options)


def fill_randomly(root, seed):
    """What Windows has in its files, without rhyme or reason."""
    rng = random.Random(seed)
    directories, files = [root], []
    for number in range(30):
        parent = rng.choice(directories)
        kind = rng.randrange(10)
        if kind < 3:
            path = parent / f"dir {number} é"
            path.mkdir()
            directories.append(path)
        elif kind == 3 and files:
            path = parent / f"hard link {number}"
            os.link(rng.choice(files), path)
        elif kind == 4:
            path = parent / f"symbolic {number}"
            set_symbolic_link(path, "..\\somewhere")
            continue
        else:
            path = parent / f"file {number}.text"
            path.write_bytes(rng.randbytes(rng.choice([0, 1, 500, 5000, 70_000])))
            files.append(path)
            if rng.random() < 0.4:
                os.setxattr(path, "system.ntfs_dos_name", f"FILE{number}~1.TEX".encode())
        if rng.random() < 0.4:
            (parent / f"{path.name}:stream{number}").write_bytes(rng.randbytes(rng.randrange(3000)))
        if rng.random() < 0.4:
            os.setxattr(path, "system.ntfs_acl", rng.choice([ACL, OTHER_ACL]))
        times = b"".join(rng.randrange(10**17, 10**18).to_bytes(8, "little") for _ in range(3))
        os.setxattr(path, "system.ntfs_times", times)
    for path in files:
        attributes = rng.choice([0x20, 0x21, 0x22, 0x26, 0x2020])
        os.setxattr(path, "system.ntfs_attrib", attributes.to_bytes(4, "little"))


@pytest.mark.parametrize("seed", range(3))
def test_applied_and_captured_again_is_the_same_image(tmp_path, seed):
    first, second = make_volume(tmp_path / "1.img"), make_volume(tmp_path / "2.img")
    with mounted(first, tmp_path / "m") as root:
        fill_randomly(root, seed)
    path = tmp_path / "first.wim"
    captured = capture_image(CaptureRequest(source=first, name="x"), path, on_event=ignore_event)
    assert captured.not_carried == ()
    result = apply(path, second)
    assert (result.kind, result.number, result.not_carried, result.warnings) == ("ntfs", 1, (), ())
    run("ntfsfix", "--no-action", second)
    run("wimlib-imagex", "capture", second, tmp_path / "second.wim", "x")
    check(path)
    assert detailed(path) == detailed(tmp_path / "second.wim")
    # And what the driver shows is what it was shown before.
    with mounted(first, tmp_path / "m") as one, mounted(second, tmp_path / "n") as other:
        run("diff", "-r", "--no-dereference", one, other)
        for entry in sorted(one.rglob("*")):
            twin = other / entry.relative_to(one)
            for name in ("acl", "attrib", "times", "dos_name", "reparse_data"):
                assert read(entry, name) == read(twin, name), (entry, name)


def read(path, name):
    try:
        value = os.getxattr(path, f"system.ntfs_{name}", follow_symlinks=False)
    except OSError as error:
        return error.errno
    # The fourth time, of the last change of the record, is the file system's own.
    return value[:24] if name == "times" else value


def test_a_directory(tmp_path):
    tree = make_tree(tmp_path / "tree", 1, b"common")
    os.link(tree / "file1", tree / "linked")
    (tree / "link").symlink_to("file1")
    os.utime(tree / "file2", ns=(10**18 + 100, 10**18 + 200))
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tree, path, "Name")
    result = apply(path, tmp_path / "out", "Name")
    assert result.kind == "directory"
    run("diff", "-r", "--no-dereference", tree, tmp_path / "out")
    assert (tmp_path / "out/linked").samefile(tmp_path / "out/file1")
    assert (tmp_path / "out/file2").stat().st_mtime_ns == 10**18 + 200
    with pytest.raises(TargetRefusedError, match="is not empty"):
        apply(path, tmp_path / "out")
    (tmp_path / "out" / "file0").write_bytes(b"other")
    apply(path, tmp_path / "out", merge=True)
    run("diff", "-r", "--no-dereference", tree, tmp_path / "out")


def test_parts_of_a_split_wim(tmp_path):
    tree = make_tree(tmp_path / "tree", 1, random.Random(1).randbytes(300_000))
    run("wimlib-imagex", "capture", tree, tmp_path / "x.wim", "x")
    run("wimlib-imagex", "split", tmp_path / "x.wim", tmp_path / "s.swm", "0.2")
    first, *others = sorted(tmp_path.glob("s*.swm"), key=lambda path: (len(path.name), path))
    assert others
    apply(first, tmp_path / "out", part_paths=others)
    run("diff", "-r", tree, tmp_path / "out")


def test_a_missing_part_is_found_before_the_target_is_touched(tmp_path):
    tree = make_tree(tmp_path / "tree", 1, random.Random(1).randbytes(300_000))
    run("wimlib-imagex", "capture", tree, tmp_path / "x.wim", "x")
    run("wimlib-imagex", "split", tmp_path / "x.wim", tmp_path / "s.swm", "0.1")
    first, *others = sorted(tmp_path.glob("s*.swm"), key=lambda path: (len(path.name), path))
    assert len(others) >= 2
    volume = make_volume(tmp_path / "v.img")
    before = volume.read_bytes()
    for target in (tmp_path / "out", volume):
        with pytest.raises(SourceError, match="not found") as caught:
            apply(first, target, part_paths=others[1:])
        assert "parts of the split WIM" in caught.value.hint
        assert "incomplete" not in caught.value.message
    assert not (tmp_path / "out").exists()
    assert volume.read_bytes() == before


def test_what_a_directory_does_not_take_is_counted(tmp_path):
    volume = make_volume(tmp_path / "1.img")
    with mounted(volume, tmp_path / "m") as root:
        for name in "abc":
            (root / name).write_bytes(b"x")
        (root / "a:stream").write_bytes(b"x")
        os.setxattr(root / "b", "system.ntfs_attrib", (0x22).to_bytes(4, "little"))
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", volume, path, "x")
    lost = {item.what: item.file_count for item in apply(path, tmp_path / "out").not_carried}
    assert lost["named data streams"] == 1
    assert lost["Windows NT security descriptors"] >= 3
    assert lost["FILE_ATTRIBUTE_HIDDEN"] >= 1


def test_what_ntfs_does_not_take_is_counted(tmp_path):
    tree = make_tree(tmp_path / "tree", 1)
    os.setxattr(tree / "file1", "user.mine", b"value")
    run("wimlib-imagex", "capture", tree, tmp_path / "x.wim", "x", "--unix-data")
    result = apply(tmp_path / "x.wim", make_volume(tmp_path / "1.img"))
    lost = {item.what: item.file_count for item in result.not_carried}
    assert lost["extended attributes"] == 1


def test_targets_that_are_refused_are_not_touched(tmp_path):
    tree = make_tree(tmp_path / "tree", 1)
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tree, path, "x")
    volume = make_volume(tmp_path / "1.img")
    before = volume.read_bytes()
    with pytest.raises(UsageError, match="has no image '2'"):
        apply(path, volume, 2)
    with pytest.raises(UsageError, match="whole images only"):
        apply(path, volume, merge=True)
    assert volume.read_bytes() == before
    with mounted(volume, tmp_path / "m") as root:
        with pytest.raises(TargetRefusedError, match="is mounted on"):
            apply(path, volume)
        (root / "somebody's file").touch()
    before = volume.read_bytes()
    with pytest.raises(TargetRefusedError, match="not empty: somebody's file"):
        apply(path, volume)
    assert volume.read_bytes() == before
    (tmp_path / "fat").write_bytes(bytes(1 << 20))
    with pytest.raises(FormatError, match="not an NTFS volume"):
        apply(path, tmp_path / "fat")
    with pytest.raises(TargetRefusedError):
        apply(path, tmp_path / "no" / "such" / "place")


def test_an_unmounted_block_device(tmp_path):
    tree = make_tree(tmp_path / "tree", 1)
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tree, path, "x")
    volume = make_volume(tmp_path / "1.img")
    device = run("losetup", "--find", "--show", volume).strip()
    try:
        assert apply(path, type(tmp_path)(device)).kind == "ntfs"
    finally:
        run("losetup", "-d", device)
    with mounted(volume, tmp_path / "m") as root:
        run("diff", "-r", tree, root)


def test_an_end_that_is_asked_for_leaves_a_sound_volume(tmp_path):
    tree = make_tree(tmp_path / "tree", 1, bytes(3_000_000))
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tree, path, "x")
    volume = make_volume(tmp_path / "1.img")
    cancel = threading.Event()

    notices = []

    def listen(event):
        if isinstance(event, Progress):
            cancel.set()
        else:
            notices.append(event.message)

    with pytest.raises(KeyboardInterrupt):
        apply_image(path, 1, volume, on_event=listen, cancel=cancel)
    assert notices == [f"what is on {volume} now is incomplete"]
    run("ntfsfix", "--no-action", volume)
    assert listing(tmp_path) == ["1.img", "tree", "x.wim"]
