# SPDX-License-Identifier: GPL-3.0-or-later
"""An install.wim that is truly over 4 GiB: split as extents, judged by wimlib, booted."""

import hashlib
import json
import subprocess
import sys

import pytest
from command import mediamaker, succeed
from standin.iso import standin_iso

FAT32_FILE_SIZE_MAX = 0xFFFFFFFF


@pytest.fixture(scope="module")
def iso():
    return standin_iso(big=True)


@pytest.fixture(scope="module")
def stick(iso, tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "stick.img"
    result = succeed("create", iso.path, path, "--seed", "big", "--receipt", f"{path}.receipt")
    assert result["is_verified"] is True
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def parts(stick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    subprocess.run(["mcopy", "-i", f"{stick}@@1M", "::/sources/install*.swm", folder], check=True)
    found = sorted(folder.glob("*.swm"))
    yield found
    for path in found:
        path.unlink()


def test_planning_reads_no_data(iso):
    """4.6 GiB planned while reading little of it: /proc counts what was read."""
    plan = succeed("plan", iso.path, "--size", "auto", "--seed", "big")
    assert any("split into" in note for note in plan["notes"])
    script = (
        "import sys; from mediamaker.cli.main import main; code = main(sys.argv[1:]);"
        "io = dict(l.split(': ') for l in open('/proc/self/io').read().splitlines());"
        "print(io['rchar'], file=sys.stderr); sys.exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, "plan", iso.path, "--size", "auto", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    json.loads(process.stdout)
    assert int(process.stderr.split()[-1]) < 64 << 20


def test_the_parts_are_as_large_as_fat32_allows_and_no_larger(parts):
    assert [path.name for path in parts] == ["install.swm", "install2.swm"]
    sizes = [path.stat().st_size for path in parts]
    assert max(sizes) <= FAT32_FILE_SIZE_MAX
    assert sum(sizes) > FAT32_FILE_SIZE_MAX


def test_wimlib_accepts_the_parts_and_the_images_are_equal(iso, parts, tmp_path):
    first = parts[0]
    subprocess.run(
        ["wimlib-imagex", "verify", first, f"--ref={first.parent}/install*.swm"], check=True
    )
    joined = tmp_path / "joined.wim"
    subprocess.run(["wimlib-imagex", "join", joined, *parts], check=True)
    original = tmp_path / "install.wim"
    with original.open("wb") as file:
        subprocess.run(["7z", "x", "-so", iso.path, "sources/install.wim"], check=True, stdout=file)
    assert list_blobs(joined) == list_blobs(original)
    assert len(list_blobs(joined)) > 5
    joined.unlink()
    original.unlink()
    tested = subprocess.run(["7z", "t", first], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def list_blobs(wim):
    """Every image's files with their SHA-1 and size, as wimlib lists them."""
    shown = subprocess.run(
        ["wimlib-imagex", "dir", wim, "1", "--detailed"], check=True, capture_output=True, text=True
    ).stdout
    wanted = ("Full Path", "Hash", "Uncompressed size")
    return [line.strip() for line in shown.splitlines() if line.strip().startswith(wanted)]


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_both_firmwares_boot_it(iso, stick, out_dir, firmware):
    result = succeed(
        "boot", stick, "--firmware", firmware, "--expect", f"token={iso.token}",
        "--screenshot", out_dir, "--timeout", "240",
    )  # fmt: skip
    assert result["proven"] is True


def test_the_receipt_verifies_without_the_source(stick):
    assert succeed("verify", stick, "--receipt", f"{stick}.receipt")["against"] == "receipt"
    with stick.open("r+b") as file:
        file.seek(2 << 30)
        byte = file.read(1)[0]
        file.seek(2 << 30)
        file.write(bytes([byte ^ 1]))
    try:
        assert mediamaker("verify", stick, "--receipt", f"{stick}.receipt").exit_code == 5
    finally:
        with stick.open("r+b") as file:
            file.seek(2 << 30)
            file.write(bytes([byte]))


def test_one_seed_gives_equal_bytes(iso, stick, tmp_path):
    again = tmp_path / "again.img"
    result = succeed("create", iso.path, again, "--seed", "big", "--no-verify")
    plan = succeed("plan", iso.path, "--size", "auto", "--seed", "big")
    assert result["plan_id"] == plan["plan_id"]
    digests = []
    for path in (stick, again):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    assert digests[0] == digests[1]
