# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and words of Secure Boot; vm-tests/test_secure_boot.py has the firmware's own verdicts."""

import subprocess
import sys
from pathlib import Path

import pytest

import mediamaker
from mediamaker.cli.main import main
from mediamaker.errors import SourceError, ToolError, UsageError
from mediamaker.vm.boot import boot_target
from mediamaker.vm.firmware import Architecture, Firmware, OvmfFiles, find_uefi
from mediamaker.vm.refusal import read_signatures
from mediamaker.vm.secure_boot import MicrosoftKeys, load_keys, write_variables

SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
OLD = ("Microsoft Windows Production PCA 2011", "Microsoft Corporation UEFI CA 2011")
NEW = ("Windows UEFI CA 2023", "Microsoft UEFI CA 2023")


def make_certificate(folder, name, form="PEM"):
    pem, out = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj",
         f"/CN={name}", "-keyout", pem, "-outform", form, "-out", out],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


@pytest.mark.parametrize(
    ("word", "trusted"),
    [("microsoft-2011", OLD), ("microsoft-2023", NEW), ("microsoft", OLD + NEW)],
)
def test_microsoft_keys(word, trusted):
    keys = load_keys([word])
    assert keys.trusted == trusted
    for der, name in zip(keys.signature_db, trusted, strict=True):
        shown = subprocess.run(
            ["openssl", "x509", "-inform", "DER", "-noout", "-subject"],
            input=der, capture_output=True, check=True,
        )  # fmt: skip
        assert shown.stdout.decode().strip().endswith(f"CN = {name}")
    assert len(keys.exchange_keys) == len(trusted) // 2


def test_own_keys_add_up(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    first, second = make_certificate(folder, "first"), make_certificate(folder, "second", "DER")
    assert load_keys([str(folder)]).trusted == ("first", "second")
    assert load_keys([str(second), str(first)]).trusted == ("second", "first")
    both = tmp_path / "both.pem"
    both.write_bytes(first.read_bytes() + make_certificate(tmp_path, "third").read_bytes())
    keys = load_keys(["microsoft-2023", str(both), str(first)])
    assert keys.trusted == (*NEW, "first", "third")
    assert keys.name == f"microsoft-2023 + {both} + {first}"


def test_what_is_no_certificate_is_refused(tmp_path):
    key = make_certificate(tmp_path, "own").with_suffix(".key")
    with pytest.raises(SourceError, match=r"no X\.509 certificate"):
        load_keys([str(key)])
    with pytest.raises(SourceError, match="No such file") as caught:
        load_keys(["microsoft-2012"])
    assert "microsoft-2011" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no certificate in this folder"):
        load_keys([str(tmp_path / "empty")])
    with pytest.raises(UsageError):
        load_keys([])
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nzz\n-----END CERTIFICATE-----\n")
    with pytest.raises(SourceError, match=r"no X\.509 certificate"):
        load_keys([str(broken)])


@pytest.mark.parametrize("architecture", list(Architecture))
def test_a_variable_store_has_these_keys_and_no_others(tmp_path, architecture):
    template = find_uefi(architecture, Firmware.UEFI_SECURE).variables_template
    own, old = load_keys([str(make_certificate(tmp_path, "own"))]), load_keys(["microsoft-2011"])
    write_variables(template, tmp_path / "vars", own)
    store = (tmp_path / "vars").read_bytes()
    assert len(store) == template.stat().st_size
    assert store.count(own.signature_db[0]) == 3  # PK, KEK, db
    assert not any(der in store for der in old.signature_db)


def test_a_store_that_is_none(tmp_path):
    template = tmp_path / "template"
    template.write_bytes(b"no store" * 1000)
    with pytest.raises(ToolError, match="put no keys"):
        write_variables(template, tmp_path / "vars", load_keys([MicrosoftKeys.BOTH]))


def test_without_virt_firmware_there_is_a_hint():
    """An interpreter that has no site-packages."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mediamaker.errors import ToolError\n"
        "from mediamaker.vm.secure_boot import load_keys\n"
        "try:\n    load_keys(['microsoft'])\n"
        "except ToolError as error:\n    print(error.message, '|', error.hint)\n"
    )
    root = Path(mediamaker.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    assert "is not installed | pip install 'mediamaker[secure-boot]'" in done.stdout


def test_who_signed_shim():
    program = SHIM.read_bytes()
    for word, trusted in (("microsoft-2011", [True, False]), ("microsoft-2023", [False, True])):
        signatures = read_signatures(program, load_keys([word]), what="shim")
        assert [signature.is_trusted for signature in signatures] == trusted
        assert [signature.issuer for signature in signatures] == [OLD[1], NEW[1]]
        assert all(signature.is_of_it for signature in signatures)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--firmware", "bios", "--arch", "aarch64"], "no BIOS", "--firmware uefi"),
        (["--firmware", "uefi", "--keys", "microsoft"], "starts whatever", "uefi-secure"),
        (["--firmware", "uefi-secure", "--keys", "nowhere"], "nowhere", "microsoft-2023"),
    ],
)
def test_what_can_not_be_asked_for(tmp_path, capsys, words, message, hint):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    assert main(["boot", str(disk), *words]) in (2, 3)
    said = capsys.readouterr().err
    assert message in said
    assert hint in said


def test_missing_firmware_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with pytest.raises(ToolError) as caught:
        boot_target(
            disk, Firmware.UEFI, architecture=Architecture.AARCH64, directory=tmp_path / "vm"
        )
    assert "qemu-system-arm" in caught.value.hint
    assert not OvmfFiles(tmp_path / "code", tmp_path / "vars").requires_smm
