# SPDX-License-Identifier: GPL-3.0-or-later
r"""``\EFI\Microsoft\Boot\boot.stl`` comes out of boot.wim where the media lacks it."""

import subprocess

import pytest

CONTENT = b"a signed list\n" * 300


@pytest.fixture
def media(folder, tmp_path):
    """Windows PE media whose boot.wim, image 2, has a boot.stl."""
    for number, has_stl in ((1, False), (2, True)):
        tree = tmp_path / f"image{number}"
        (tree / "Windows/Boot/EFI").mkdir(parents=True)
        (tree / "Windows/notepad.exe").write_text(f"image {number}")
        if has_stl:
            (tree / "Windows/Boot/EFI/boot.stl").write_bytes(CONTENT)
    (folder / "sources").mkdir()
    wim = folder / "sources/boot.wim"
    for words in (
        ["capture", tmp_path / "image1", wim, "PE"],
        ["append", tmp_path / "image2", wim, "Setup", "--boot"],
    ):
        subprocess.run(["wimlib-imagex", *words], check=True, capture_output=True)
    return folder


def read_stl(stick):
    shown = subprocess.run(
        ["mtype", "-i", f"{stick}@@1M", "::/efi/Microsoft/Boot/boot.stl"],
        capture_output=True, check=False,
    )  # fmt: skip
    return shown.stdout if shown.returncode == 0 else None


def test_it_is_added_and_said(run, media, tmp_path):
    stick = tmp_path / "a.img"
    code, events = run.json("create", media, stick, "--seed", "s")
    assert code == 0
    assert read_stl(stick) == CONTENT
    plan = run.json("plan", media, "--seed", "s")[1][-1]
    assert plan["plan_id"] == events[-1]["plan_id"]
    (note,) = [note for note in plan["notes"] if "boot.stl" in note]
    assert "sources/boot.wim:2" in note
    assert run.json("verify", stick, media)[0] == 0


def test_the_medias_own_is_kept(run, media, tmp_path):
    target = media / "efi/microsoft/boot"
    target.mkdir(parents=True)
    (target / "boot.stl").write_bytes(b"its own")
    stick = tmp_path / "a.img"
    assert run.json("create", media, stick)[0] == 0
    assert read_stl(stick) == b"its own"


def test_a_damaged_boot_wim_is_a_warning_not_the_end(run, media, tmp_path):
    """The stick may still boot without Secure Boot; the person is told."""
    wim = media / "sources/boot.wim"
    data = bytearray(wim.read_bytes())
    info = subprocess.run(
        ["wimlib-imagex", "info", "--blobs", wim], check=True, capture_output=True, text=True
    ).stdout
    blobs = [block for block in info.split("\n\n") if "WIM_RESHDR_FLAG_METADATA" in block]
    for block in blobs:
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        offset = next(int(v.split()[0]) for k, v in fields.items() if k.startswith("Offset"))
        data[offset + 40] ^= 0xFF
        data[offset + 60] ^= 0xFF
    wim.write_bytes(data)
    code, events = run.json("plan", media)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert code == 0
    assert any("boot.stl" in warning for warning in warnings)
