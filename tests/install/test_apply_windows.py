# SPDX-License-Identifier: GPL-3.0-or-later
"""An image with files added in memory, judged by wimlib-imagex's capture, ntfs-3g and ntfsfix."""

import ctypes
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from dissect.ntfs.secure import SecurityDescriptor

from mediamaker.errors import (
    SourceError,
    TargetRefusedError,
    TargetTooSmallError,
    UsageError,
)
from mediamaker.execute.progress import Progress, ignore_event
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.image_facts import image_facts
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.units import MIB
from tests.install.windows_rig import WINRE, make_image
from tests.wim.wim_rig import detailed, listing, mounted, run

TIME_NS = 1_700_000_000 * 10**9
REAGENT = ("Windows", "System32", "Recovery", "ReAgent.xml")


def make_target(path, size=64 * MIB):
    make_ntfs(
        path,
        size=size,
        sector_size=512,
        hidden_sectors=2048,
        volume_label="Windows",
        volume_serial=1,
    )
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("apply"), rich=True)


def apply(paths, volume, **options):
    facts = options.pop("facts", None) or image_facts(paths, 1)
    options.setdefault("on_event", ignore_event)
    return apply_windows(paths, facts, volume, scratch=volume.parent, **options)


def recaptured(volume):
    path = volume.with_suffix(".wim")
    run("wimlib-imagex", "capture", volume, path, "x")
    return detailed(path)


def sums(paths):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in paths}


def test_without_additions_it_is_the_image(tmp_path, image):
    volume = make_target(tmp_path / "v.img")
    result = apply([image], volume)
    assert (result.kind, result.number) == ("ntfs", 1)
    assert (result.not_carried, result.warnings) == ((), ())
    assert recaptured(volume) == detailed(image)
    run("ntfsfix", "--no-action", volume)


def test_files_are_added_and_replaced_and_left_out(tmp_path, image):
    volume = make_target(tmp_path / "v.img")
    here = tmp_path / "here.bin"
    here.write_bytes(b"from a file")
    before = sums([image])
    extra = {
        # Written in another case: it is the image's file that is replaced.
        ("windows", "SYSTEM32", "recovery", "reagent.XML"): b"<new/>",
        ("Recovery", "OEM", "ResetConfig.xml"): b"<reset/>",
        ("recovery", "oem", "other.bin"): here,
        ("unattend.xml",): b"",
    }
    result = apply(
        [image],
        volume,
        extra_files=extra,
        left_out=[tuple(WINRE.upper().split("/")), ("not", "there")],
        modified_ns=TIME_NS,
    )
    assert (result.not_carried, result.warnings) == ((), ())
    assert sums([image]) == before
    run("ntfsfix", "--no-action", volume)
    with mounted(volume, tmp_path / "m") as root:
        recovery = root / "Windows/System32/Recovery"
        assert listing(recovery) == ["ReAgent.xml"]
        assert (recovery / "ReAgent.xml").read_bytes() == b"<new/>"
        assert (root / "Recovery/OEM/ResetConfig.xml").read_bytes() == b"<reset/>"
        assert (root / "Recovery/OEM/other.bin").read_bytes() == b"from a file"
        assert (root / "Recovery/OEM").stat().st_mtime_ns == TIME_NS
        assert (root / "unattend.xml").stat().st_mtime_ns == TIME_NS
        assert listing(root / "Recovery") == ["OEM"]
        # What is added is for SYSTEM and the administrators only, as icacls would show:
        # owner and group, then what each may do.
        for name in ("Recovery", "Recovery/OEM", "Recovery/OEM/other.bin", "unattend.xml"):
            assert grants(root / name) == {("S-1-5-18", 0x1F01FF), ("S-1-5-32-544", 0x1F01FF)}
        assert grants(recovery / "ReAgent.xml") == grants(root / "unattend.xml")
        # What is made in the new directory later inherits it.
        flags = SecurityDescriptor(io.BytesIO(read_acl(root / "Recovery"))).dacl.ace
        assert all(int(ace.header.AceFlags) == 3 for ace in flags)
    # Everything else is as in the image.
    shown = blocks(recaptured(volume))
    expected = blocks(detailed(image))
    changed = {
        path for path in shown.keys() | expected.keys() if shown.get(path) != expected.get(path)
    }
    added = {"/Recovery", "/Recovery/OEM", "/Recovery/OEM/ResetConfig.xml"}
    added |= {"/Recovery/OEM/other.bin", "/unattend.xml"}
    assert changed == {f"/{WINRE}", "/" + "/".join(REAGENT)} | added


def read_acl(path):
    return os.getxattr(path, "system.ntfs_acl")


def grants(path):
    """Who may do what, in dissect's words."""
    descriptor = SecurityDescriptor(io.BytesIO(read_acl(path)))
    assert descriptor.owner == "S-1-5-32-544"
    return {(ace.sid, ace.mask) for ace in descriptor.dacl.ace}


def blocks(text):
    """wimlib's description of each file by its path."""
    found = {}
    for block in text.split("-" * 76):
        lines = [line for line in block.splitlines() if "Link Group" not in line]
        paths = [line.split('"')[1] for line in lines if line.startswith("Full Path")]
        if paths:
            found[paths[0]] = "\n".join(lines)
    assert found
    return found


def split(image, directory, size="0.5"):
    run("wimlib-imagex", "export", image, "1", directory / "plain.wim", "--compress=none")
    run("wimlib-imagex", "split", directory / "plain.wim", directory / "s.swm", size)
    parts = sorted(directory.glob("s*.swm"), key=lambda part: (len(part.name), part))
    assert len(parts) > 2
    return parts


def test_from_a_split_wim_with_additions(tmp_path, image):
    parts = split(image, tmp_path)
    before = sums(parts)
    volume = make_target(tmp_path / "v.img")
    apply(parts, volume, extra_files={REAGENT: b"<new/>"})
    assert sums(parts) == before
    with mounted(volume, tmp_path / "m") as root:
        assert root.joinpath(*REAGENT).read_bytes() == b"<new/>"
        assert hashlib.sha1((root / "big.bin").read_bytes()).hexdigest() in detailed(image)


def test_a_missing_part_is_found_before_the_volume_is_touched(tmp_path, image):
    parts = split(image, tmp_path)
    volume = make_target(tmp_path / "v.img")
    before = sums([volume])
    facts = image_facts(parts, 1)
    with pytest.raises(SourceError, match="not found"):
        apply([parts[0], *parts[2:]], volume, facts=facts)
    assert sums([volume]) == before


def test_a_volume_that_is_too_small(tmp_path, image):
    volume = make_target(tmp_path / "v.img", size=4 * MIB)
    before = sums([volume])
    with pytest.raises(TargetTooSmallError, match="needs a volume of about") as caught:
        apply([image], volume)
    assert caught.value.needed_size > caught.value.available_size
    assert sums([volume]) == before


def test_a_volume_with_files_is_refused(tmp_path, image):
    volume = make_target(tmp_path / "v.img")
    with mounted(volume, tmp_path / "m") as root:
        (root / "precious").write_bytes(b"x")
    before = sums([volume])
    with pytest.raises(TargetRefusedError, match="not empty: precious"):
        apply([image], volume)
    assert sums([volume]) == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({("Windows", "System32"): b""}, "is a directory in the image"),
        ({("Windows", "System32", "winload.exe", "x"): b""}, "is not a directory"),
        ({("a",): b"", ("A",): b""}, "the same for Windows"),
    ],
)
def test_additions_that_can_not_be(tmp_path, image, extra, message):
    volume = make_target(tmp_path / "v.img")
    before = sums([volume])
    with pytest.raises(UsageError, match=message):
        apply([image], volume, extra_files=extra)
    assert sums([volume]) == before


def test_interrupted_it_says_what_is_left(tmp_path, image):
    volume = make_target(tmp_path / "v.img")
    cancel, said = threading.Event(), []

    def hear(event):
        if isinstance(event, Progress):
            cancel.set()
        else:
            said.append(event.message)

    with pytest.raises(KeyboardInterrupt):
        apply([image], volume, cancel=cancel, on_event=hear)
    assert any("incomplete" in message for message in said)


def test_on_a_held_block_device(tmp_path, image):
    path = make_target(tmp_path / "v.img")
    device = subprocess.run(
        ["losetup", "--find", "--show", path], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        held = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            with pytest.raises(TargetRefusedError, match="busy"):
                apply_windows(
                    [image],
                    image_facts([image], 1),
                    path.__class__(device),
                    scratch=tmp_path,
                    on_event=ignore_event,
                )
            apply_windows(
                [image],
                image_facts([image], 1),
                path.__class__(device),
                scratch=tmp_path,
                extra_files={("Users", "Ünïcode name"): b"x"},
                is_held=True,
                on_event=ignore_event,
            )
        finally:
            os.close(held)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    shown, expected = blocks(recaptured(path)), blocks(detailed(image))
    added = shown.pop("/Users/Ünïcode name")
    assert shown == expected
    assert "Security Descriptor" in added


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_without_root(tmp_path, image, monkeypatch, has_namespaces):
    """As for a user whose own files these are: nothing is mounted, no privilege is used."""
    volume = make_target(tmp_path / "v.img")
    if not has_namespaces:
        program = tmp_path / "unshare"
        program.write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = apply([image], volume, extra_files={("unattend.xml",): b"secret"})
    monkeypatch.undo()
    with mounted(volume, tmp_path / "m") as root:
        who = {sid for sid, _ in grants(root / "unattend.xml")}
    if has_namespaces:
        assert (who, result.warnings) == ({"S-1-5-18", "S-1-5-32-544"}, ())
    else:
        assert who == {"S-1-1-0"}
        (warning,) = result.warnings
        assert "every user of the installed Windows may change /unattend.xml" in warning
        assert "Operation not permitted" in warning


def test_a_file_without_a_name(tmp_path, image):
    """What an image file is until it is whole."""
    descriptor = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    try:
        volume = make_target(tmp_path.__class__(f"/proc/{os.getpid()}/fd/{descriptor}"))
        facts = image_facts([image], 1)
        options = {"extra_files": {("unattend.xml",): b"secret"}, "on_event": ignore_event}
        result = apply_windows([image], facts, volume, scratch=tmp_path, **options)
        assert result.warnings == ()
        assert listing(tmp_path) == []
        shutil.copyfile(volume, tmp_path / "named.img")
    finally:
        os.close(descriptor)
    with mounted(tmp_path / "named.img", tmp_path / "m") as root:
        assert {sid for sid, _ in grants(root / "unattend.xml")} == {"S-1-5-18", "S-1-5-32-544"}


def test_a_file_without_a_name_of_an_ordinary_user(image):
    """From a user namespace the descriptors of the process outside of it are out of reach."""
    with tempfile.TemporaryDirectory(prefix="anyone-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copyfile(image, folder / "image.wim")
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                # As of a process that was started by that user: PR_SET_DUMPABLE.
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
                descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR)
                volume = make_target(Path(f"/proc/{os.getpid()}/fd/{descriptor}"))
                facts = image_facts([folder / "image.wim"], 1)
                options = {"extra_files": {("unattend.xml",): b"secret"}, "on_event": ignore_event}
                result = apply_windows(
                    [folder / "image.wim"], facts, volume, scratch=folder, **options
                )
                shutil.copyfile(volume, folder / "named.img")
                (folder / "warnings").write_text("\n".join(result.warnings))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert (folder / "warnings").read_text() == ""
        with mounted(folder / "named.img", folder / "m") as root:
            assert {sid for sid, _ in grants(root / "unattend.xml")} == {"S-1-5-18", "S-1-5-32-544"}
