# SPDX-License-Identifier: GPL-3.0-or-later
"""Secure Boot: a loader starts exactly where its chain is in db, and the refusal is explained.

The 4 x 4 cells of the table; ``make secure-boot`` boots all of it (secure_boot.py).
"""

import json
import subprocess
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
from command import mediamaker
from secure_boot import KEY_SETS, SHIM, Bench, boot, check_cell, check_starts, signers

UNSECURED = ("--firmware", "uefi")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("secure-boot"))


@pytest.fixture(scope="module")
def rows(bench):
    return {row.name: row for row in (*bench.shim_rows(), *bench.own_rows())}


@pytest.mark.parametrize("key_set", KEY_SETS)
@pytest.mark.parametrize("name", ["shim, signed by 2011", "own key", "unsigned", "altered"])
def test_cell(bench, rows, name, key_set, out_dir):
    if name == "altered":
        # Of what would start with these keys.
        name = "own key, altered" if key_set == "own" else "shim, altered"
    check_cell(bench, rows[name], key_set, out_dir)


@pytest.mark.parametrize("key_set", ["2011", "2023"])
def test_a_loader_of_2023_and_the_generations(bench, rows, key_set, out_dir):
    check_cell(bench, rows["shim, signed by 2023"], key_set, out_dir)


@pytest.mark.parametrize("name", ["shim, altered", "own key, altered", "unsigned"])
def test_what_is_refused_starts_without_secure_boot(rows, name, out_dir):
    check_starts(rows[name], out_dir, *UNSECURED)


def test_keys_add_up(bench, rows, out_dir):
    options = ("--firmware", "uefi-secure", "--keys", "microsoft-2023", "--keys")
    check_starts(rows["own key"], out_dir, *options, bench.own_certificate)


def test_shim_refuses_an_altered_grub(bench, out_dir):
    finished = boot(bench.altered_grub_row(), out_dir, "--firmware", "uefi-secure")
    assert finished.exit_code == 7
    assert "shim refused what it was to start" in finished.last["words"], finished.last
    assert "Security Violation" in finished.last["words"]
    assert finished.last["refused_by_secure_boot"] is False, "the firmware started shim"
    assert finished.last["seconds"] < 200


def test_shim_is_what_the_rows_say(rows, tmp_path):
    """sbverify lists the issuers; it takes any certificate for --cert, so it is not asked that."""
    for name, issuers in (
        ("shim, signed by 2011 and 2023", ["UEFI CA 2011", "UEFI CA 2023"]),
        ("shim, signed by 2011", ["UEFI CA 2011"]),
        ("shim, signed by 2023", ["UEFI CA 2023"]),
    ):
        loader = rows[name].stick.parent / "tree/efi/boot/bootx64.efi"
        listed = subprocess.run(
            ["sbverify", "--list", loader], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        heads = [n + 1 for n, line in enumerate(listed) if line == "image signature issuers:"]
        assert [listed[n].rsplit("Microsoft ", 1)[1] for n in heads] == [
            f"Corporation {issuer}" if "2011" in issuer else issuer for issuer in issuers
        ]
        assert len(signers(loader)) == len(issuers)
    assert loader.read_bytes() != SHIM.read_bytes()


def test_a_trace_of_a_refusal(rows, out_dir):
    options = ("--firmware", "uefi-secure", "--trace")
    finished = boot(rows["unsigned"], out_dir, *options)
    found = finished.events[-2]
    assert (finished.exit_code, found["event"]) == (7, "boot_trace")
    assert found["verdict"] == "secure-boot-refused-loader"
    assert any(r"\efi\boot\bootx64.efi" in known for known in found["known"])
    assert finished.last["keys"] == "microsoft"
    schema = (resources.files("mediamaker") / "schemas" / "events.schema.json").read_text()
    for event in finished.events:
        jsonschema.validate(event, json.loads(schema))


def test_no_loader_is_no_refusal(bench, tmp_path, out_dir):
    """The firmware then tries its own shell, which Secure Boot does refuse."""
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1 << 20))
    finished = mediamaker(
        "boot", blank, "--firmware", "uefi-secure", "--screenshot", out_dir, "--timeout", "240"
    )
    assert finished.exit_code == 7
    assert finished.last["refused_by_secure_boot"] is False, finished.last
    assert "the firmware found nothing to start" in finished.last["words"]


# aarch64


@pytest.fixture(scope="module")
def arm_rows(bench):
    return {row.name: row for row in bench.own_rows(is_arm=True)}


def test_aarch64_secure_boot_refuses(bench, arm_rows, out_dir):
    check_cell(bench, arm_rows["unsigned"], "own", out_dir)


def test_aarch64_secure_boot_starts(bench, arm_rows, out_dir):
    check_cell(bench, arm_rows["own key"], "own", out_dir)


def test_a_program_for_aarch64_is_nothing_to_x86_64(arm_rows, out_dir):
    finished = boot(replace(arm_rows["own key"], is_arm=False), out_dir, *UNSECURED)
    assert finished.exit_code == 7
    assert "opened its shell" in finished.last["words"]
