# SPDX-License-Identifier: GPL-3.0-or-later
"""Every verb from outside: exit codes, JSON, and that nothing is lost on the way."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mediamaker.cli.main import build_parser
from mediamaker.cli.verbs import VERBS

MIB = 1 << 20


def test_every_verb_has_help_with_an_example(run, capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            build_parser([verb.name]).parse_args([verb.name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert f"example:\n  mediamaker {verb.name}" in shown
        assert "--json" in shown


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["plan"],
        ["plan", "x", "--size", "many"],
        ["create", "x"],
        ["boot", "x"],
        ["boot", "x", "--firmware", "coreboot"],
        ["verify", "x"],
        ["verify", "x", "y", "--plan", "z"],
        ["plan", "x", "--part-size", "5GiB"],
        ["plan", "{folder}", "--sector-size", "513"],
        ["create", "{folder}", "{folder}/../x.img", "--layout", "raw"],
        ["create", "{folder}", "{folder}/../x.img", "--receipt", "/nowhere/at/all"],
    ],
)
def test_usage_errors_are_code_2(run, folder, words):
    code, events = run.json(*[word.format(folder=folder) for word in words])
    # A missing source is found first where the options themselves are sound.
    assert (code, events[-1]["exit_code"]) in {(2, 2), (3, 3)}
    if "x" not in words:
        assert code == 2
    assert not (folder.parent / "x.img").exists()


def test_inspect_says_what_it_is(run, folder):
    code, (event,) = run.json("inspect", folder)
    assert code == 0
    assert event["kind"] == "uefi-tree"
    assert event["layout"] == "gpt-fat32"
    assert event["architectures"] == ["x64"]
    _, out, err = run.text("inspect", folder)
    assert "UEFI x64 from efi/boot/bootx64.efi" in out
    assert not err


def test_plan_is_deterministic_and_writes_nothing(run, folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    words = ("plan", folder, "--size", "64MiB", "--seed", "s")
    first, second = run.json(*words)[1][-1], run.json(*words)[1][-1]
    assert first == second
    assert first["geometry"] == {"size": 64 * MIB, "logical_sector_size": 512}
    assert run.json("plan", folder, "--size", "64MiB", "--seed", "t")[1][-1] != first
    assert sorted(tmp_path.rglob("*")) == before
    _, out, _ = run.text(*words)
    assert first["plan_id"] in out


def test_create_verify_and_the_same_bytes_again(run, folder, tmp_path):
    stick, again, plan = tmp_path / "a.img", tmp_path / "b.img", tmp_path / "plan.json"
    receipt = tmp_path / "receipt.json"
    code, events = run.json("create", folder, stick, "--seed", "s", "--receipt", receipt)
    assert code == 0
    result = events[-1]
    assert result["event"] == "create"
    assert result["is_verified"] is True
    assert {e["phase"] for e in events if e["event"] == "progress"} >= {"write", "verify"}
    assert run.json("verify", stick, folder)[1][-1]["plan_id"] == result["plan_id"]
    assert run.json("verify", stick, "--receipt", receipt)[0] == 0
    size = stick.stat().st_size
    assert run.json("plan", folder, "--size", size, "--seed", "s", "--out", plan)[0] == 0
    assert run.json("verify", stick, "--plan", plan)[0] == 0
    assert run.json("create", folder, again, "--seed", "s")[0] == 0
    assert digest(stick) == digest(again)
    assert subprocess.run(["sgdisk", "-v", stick], capture_output=True, check=True)
    assert subprocess.run(["fsck.fat", "-n", carve(stick)], capture_output=True, check=True)


@pytest.mark.parametrize("offset", [0, 512, MIB, 2 * MIB, -1])
def test_verify_finds_a_flipped_bit_anywhere(run, folder, tmp_path, offset):
    stick = tmp_path / "a.img"
    receipt = tmp_path / "receipt.json"
    assert run.json("create", folder, stick, "--seed", "s", "--receipt", receipt)[0] == 0
    with stick.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        position = file.tell()
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x40]))
    code, events = run.json("verify", stick, folder, "--seed", "s")
    assert code == 5
    assert f"{position:#x}" in events[-1]["message"]
    assert run.json("verify", stick, "--receipt", receipt)[0] == 5


def test_an_existing_file_is_kept_unless_forced(run, folder, tmp_path):
    stick = tmp_path / "a.img"
    stick.write_text("precious")
    code, events = run.json("create", folder, stick)
    assert code == 4
    assert "--force" in events[-1]["hint"]
    assert stick.read_text() == "precious"
    assert run.json("create", folder, stick, "--force")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.img", "tree"]


@pytest.mark.parametrize(
    "name", ["big.bin", "link.bin", "hard.bin", "stick.img", ".", "/dev/loop0"]
)
def test_results_replace_neither_source_nor_target(run, folder, tmp_path, name):
    source, stick = folder / "big.bin", tmp_path / "stick.img"
    (tmp_path / "link.bin").symlink_to(source)
    (tmp_path / "hard.bin").hardlink_to(source)
    before = source.read_bytes()
    path = tmp_path / name if name != "big.bin" else source
    if name == "/dev/loop0":
        os.mknod(path := tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    code, events = run.json("create", folder, stick, "--receipt", path)
    assert (code, events[-1]["error"]) == (2, "UsageError")
    assert "--receipt" in events[-1]["message"]
    assert not stick.exists(), "it was refused before anything was written"
    if name != "stick.img":
        assert run.json("plan", folder, "--out", path)[0] == 2
    assert source.read_bytes() == before


def test_a_receipt_that_could_not_be_kept_is_told_before_writing(run, folder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", full], check=True)
    try:
        code, events = run.json("create", folder, tmp_path / "x.img", "--receipt", full / "r.json")
    finally:
        subprocess.run(["umount", full], check=True)
    assert code == 2
    assert "read-only" in events[-1]["message"]
    assert not (tmp_path / "x.img").exists()


def test_a_plan_goes_to_a_pipe_as_well(folder):
    command = [sys.executable, "-m", "mediamaker", "plan", folder, "--out", "/dev/stderr"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(result.stderr)["format"] == "mediamaker-plan"


def test_a_file_of_the_source_is_not_replaced_even_by_force(run, folder):
    before = (folder / "big.bin").read_bytes()
    code, events = run.json("create", folder, folder / "big.bin", "--force")
    assert code == 4
    assert "source's own files" in events[-1]["message"]
    assert (folder / "big.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.iso", 3),
        ("empty.iso", 3),
        ("text.iso", 3),
        ("nothing-bootable", 3),
    ],
)
def test_unusable_sources_are_code_3(run, tmp_path, name, code):
    (tmp_path / "empty.iso").touch()
    (tmp_path / "text.iso").write_text("x" * 100_000)
    (tmp_path / "nothing-bootable").mkdir()
    (tmp_path / "nothing-bootable" / "file").write_text("x")
    found, events = run.json("create", tmp_path / name, tmp_path / "out.img")
    assert found == code
    assert events[-1]["event"] == "error"
    assert not (tmp_path / "out.img").exists()


def test_too_small_says_how_much_and_is_code_4(run, folder, tmp_path):
    code, events = run.json("create", folder, tmp_path / "x.img", "--size", "4MiB")
    assert code == 4
    assert events[-1]["error"] == "TargetTooSmallError"
    needed = run.json("plan", folder, "--size", "auto")[1][-1]["geometry"]["size"]
    assert str(needed) in events[-1]["message"]
    assert not (tmp_path / "x.img").exists()


@pytest.mark.parametrize("size", ["8388607TiB", "8388608TiB", "99999999999TiB"])
def test_sizes_that_no_file_has(run, folder, tmp_path, size):
    code, events = run.json("create", folder, tmp_path / "x.img", "--size", size)
    assert code == (4 if size == "8388607TiB" else 2)
    assert events[-1]["error"] in {"TargetTooSmallError", "UsageError"}
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("size", [0, 10, 512, 1024, 70000, 70144])
def test_verify_of_what_is_no_disk_is_code_5(run, folder, tmp_path, size):
    stick = tmp_path / "x.img"
    stick.write_bytes((bytes(510) + b"\x55\xaa" + bytes(size))[:size])
    code, events = run.json("verify", stick, folder)
    assert (code, events[-1]["error"]) == (5, "VerifyError")
    assert str(stick) in events[-1]["message"] or "holds no disk" in events[-1]["message"]


@pytest.mark.parametrize(
    ("given", "made"), [("My very long label", "MY VERY LON"), ("ümlaut", "_MLAUT"), ("OK", None)]
)
def test_a_label_that_fat_can_not_hold_is_told(run, folder, given, made):
    plan = run.json("plan", folder, "--label", given)[1][-1]
    assert plan["partitions"][0]["volume_label"] == (made or given)
    told = [note for note in plan["notes"] if "label" in note]
    assert bool(told) == (made is not None)
    assert all(given in note and made in note for note in told)


def test_verify_with_other_options_than_create_had_says_so(run, folder, tmp_path):
    assert run.json("create", folder, tmp_path / "x.img", "--label", "ONE")[0] == 0
    code, events = run.json("verify", tmp_path / "x.img", folder)
    assert code == 5
    assert "--label" in events[-1]["hint"]
    assert run.json("verify", tmp_path / "x.img", folder, "--label", "ONE")[0] == 0


@pytest.mark.parametrize("target", ["missing.img", "empty.img"])
def test_boot_of_a_target_that_is_none_is_code_4(run, folder, tmp_path, target):
    (tmp_path / "empty.img").touch()
    code, events = run.json(
        "boot", tmp_path / target, "--firmware", "bios", "--screenshot", tmp_path / "shots"
    )
    assert (code, events[-1]["error"]) == (4, "TargetRefusedError")


def test_the_size_and_sectors_of_a_device_are_what_they_are(run, folder):
    disks = run.json("devices")[1][-1]["disks"]
    device = disks[0]["path"]
    for option in (("--size", "1GiB"), ("--sector-size", "4096")):
        for words in (("create", folder, device), ("plan", folder, "--target", device)):
            code, events = run.json(*words, *option)
            assert code == 2
            assert "is what it is" in events[-1]["message"] or "are what they are" in str(events)
    for words in (("verify", device, folder), ("boot", device, "--firmware", "bios")):
        assert run.json(*words, "--sector-size", "4096")[0] == 2


@pytest.mark.parametrize("target", ["/dev/does-not-exist", "/dev/null", "/tmp"])
def test_targets_that_are_none_are_code_4(run, folder, target):
    code, events = run.json("create", folder, target)
    assert code == 4
    assert target in events[-1]["message"]


def test_the_systems_own_disk_is_refused(run, folder):
    disks = run.json("devices")[1][-1]["disks"]
    system = [d for d in disks if any(r["rule"] == "system-disk" for r in d["reasons"])]
    assert system, "the disk that holds / was not found"
    for disk in system:
        code, events = run.json(
            "create", folder, disk["path"], "--confirm", disk["confirm"], "--allow-fixed-disk"
        )
        assert code == 4
        assert "[system-disk]" in events[-1]["message"]


def test_a_name_can_not_send_escapes_to_the_terminal(run, tmp_path):
    evil = tmp_path / "tree\x1b[31m"
    evil.mkdir()
    code, out, err = run.text("inspect", evil / "missing\x1b[2J")
    assert code == 3
    assert "\x1b" not in out + err


def test_signals_leave_nothing_behind(tmp_path, folder):
    with (folder / "large.bin").open("wb") as file:
        file.write(os.urandom(MIB) * 600)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(
            [sys.executable, "-m", "mediamaker", "create", folder, tmp_path / "x.img", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in process.stdout:
            event = json.loads(line)
            if event.get("phase") == "write":
                break
        process.send_signal(number)
        # Prompt, but on a busy machine; what is left to write would be done in that time as well,
        # with exit code 0.
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        last = json.loads(out.splitlines()[-1])
        assert last["exit_code"] == 130
        assert "is as it was before" in last["message"]
        assert [p.name for p in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_or_closed_output_is_no_traceback(folder, options):
    def inspect(stdout, stderr):
        command = [sys.executable, "-m", "mediamaker", "inspect", folder, *options]
        result = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)
        return result.returncode, result.stderr

    with Path("/dev/full").open("wb") as full:
        words = "mediamaker: error: No space left on device\n"
        assert inspect(full, subprocess.PIPE) == (1, words)
        assert inspect(full, full) == (1, None)
    reader, writer = os.pipe()
    os.close(reader)
    assert inspect(writer, subprocess.PIPE) == (1, "")
    os.close(writer)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_no_name_is_too_odd_for_the_locale(folder, encoding):
    odd = os.fsencode(folder) + b" \xff\xc3\xbc"
    folder.rename(os.fsdecode(odd))
    environment = {**os.environ, "PYTHONIOENCODING": encoding + ":strict"}
    command = [sys.executable, "-m", "mediamaker", "inspect", odd]
    text = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    assert b"UEFI x64" in text
    result = subprocess.run([*command, "--json"], capture_output=True, env=environment, check=True)
    assert json.loads(result.stdout)["path"] == os.fsdecode(odd)


def test_boot_tells_what_happens_and_proves_nothing_without_a_text(run, tmp_path):
    blank = tmp_path / "blank.img"
    with blank.open("wb") as file:
        file.truncate(4 * MIB)
    words = ("boot", blank, "--firmware", "bios", "--screenshot", tmp_path / "shots")
    code, events = run.json(*words, "--timeout", "20")
    assert code == 7
    assert {event["kind"] for event in events if event["event"] == "machine"} >= {"started"}
    assert events[-1]["proven"] is False
    assert all((tmp_path / path).exists() for path in events[-1]["screenshots"])


def test_a_bug_is_told_without_a_traceback(run, monkeypatch):
    def broken(**_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("mediamaker.cli.devices.list_disks", broken)
    code, events = run.json("devices")
    assert code == 1
    assert "unexpected ZeroDivisionError at test_cli.py" in events[-1]["message"]
    _, _, err = run.text("devices")
    assert "Traceback" not in err


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def carve(stick):
    volume = stick.with_suffix(".volume")
    size = stick.stat().st_size
    with stick.open("rb") as file, volume.open("wb") as out:
        file.seek(MIB)
        out.write(file.read(size - 2 * MIB))
    return volume
