# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the command in this process, and checks every JSON object against the schema."""

import json
from importlib import resources

import jsonschema
import pytest

from mediamaker.cli.main import main

SCHEMA = json.loads((resources.files("mediamaker") / "schemas" / "events.schema.json").read_text())


class Runner:
    def __init__(self, capsys):
        self._capsys = capsys
        self._validator = jsonschema.Draft202012Validator(SCHEMA)

    def json(self, *words):
        """The exit code and every JSON object."""
        code = main([*map(str, words), "--json"])
        captured = self._capsys.readouterr()
        events = [json.loads(line) for line in captured.out.splitlines()]
        for event in events:
            self._validator.validate(event)
        assert captured.err == "", "with --json nothing else is said"
        return code, events

    def text(self, *words):
        """The exit code, standard output and standard error."""
        code = main(list(map(str, words)))
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory, monkeypatch):
    """Journals and undo files of a test are its own."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "mediamaker"


@pytest.fixture
def run(capsys):
    return Runner(capsys)


def pe_program(machine=0x8664):
    """The least that a reader takes for a UEFI program."""
    data = bytearray(4096)
    data[:2] = b"MZ"
    data[0x3C:0x40] = (0x80).to_bytes(4, "little")
    data[0x80:0x84] = b"PE\0\0"
    data[0x84:0x86] = machine.to_bytes(2, "little")
    data[0x98:0x9A] = (0x20B).to_bytes(2, "little")
    return bytes(data)


@pytest.fixture
def folder(tmp_path):
    """A UEFI-only tree."""
    root = tmp_path / "tree"
    (root / "efi" / "boot").mkdir(parents=True)
    (root / "efi" / "boot" / "bootx64.efi").write_bytes(pe_program())
    (root / "Ünïcode and spaces.txt").write_text("hello")
    (root / "big.bin").write_bytes(bytes(range(256)) * 5000)
    return root
