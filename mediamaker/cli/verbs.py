# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs: one row each, and the module that does it, imported only when it is wanted.

Reading an ISO and running QEMU need libraries that take longer to load than ``--help`` should.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode


class VerbModule(Protocol):
    """What the module of a verb offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def run(self, args: argparse.Namespace, output: Output) -> ExitCode:
        """Do it."""


@dataclass(frozen=True, slots=True)
class Verb:
    """``help`` is one line; ``example`` is a whole command."""

    name: str
    help: str
    example: str

    def load(self) -> VerbModule:
        """The module ``mediamaker.cli.NAME``."""
        module_name = self.name.replace("-", "_")
        return cast("VerbModule", import_module(f"mediamaker.cli.{module_name}"))


VERBS = (
    Verb(
        "inspect",
        "say what an ISO or folder is, what it boots on, and what would be made of it",
        "mediamaker inspect Win11.iso",
    ),
    Verb(
        "plan",
        "dry run: show what create would write, byte for byte; no target is touched",
        "mediamaker plan Win11.iso --size 16GiB --out plan.json",
    ),
    Verb(
        "create",
        "write a bootable disk from an ISO or folder, to a block device or an image file",
        "mediamaker create Win11.iso /dev/sdX     (or: ... Win11.iso stick.img)",
    ),
    Verb(
        "install",
        "put an image of Windows on a disk: partitions, files, boot store and recovery",
        "mediamaker install install.wim:6 /dev/nvme0n1 --firmware uefi --erase",
    ),
    Verb(
        "togo",
        "make a removable disk with a Windows that goes from machine to machine",
        "mediamaker togo install.wim:1 /dev/sdX",
    ),
    Verb(
        "verify",
        "read a disk or image file back and compare every byte with what was planned",
        "mediamaker verify /dev/sdX Win11.iso",
    ),
    Verb(
        "boot",
        "boot a disk, image file, plan, ISO or folder in QEMU; nothing is written or copied",
        "mediamaker boot Win11.iso --firmware uefi --trace",
    ),
    Verb(
        "test-matrix",
        "boot a disk, plan, ISO or folder under every firmware and on every bus; one HTML report",
        'mediamaker test-matrix stick.img --expect "Windows Setup" --report report.html',
    ),
    Verb(
        "devices",
        "list disks: model, serial, bus, size, contents, and why each may or may not be a target",
        "mediamaker devices --json",
    ),
    Verb(
        "wim",
        "look into WIM files, verify, split, join, optimize, capture, apply and edit them",
        "mediamaker wim info install.wim",
    ),
    Verb(
        "bootsector",
        "show, write, back up and put back boot code, what bootsect is on Windows",
        "mediamaker bootsector show /dev/sdX",
    ),
    Verb(
        "bcd",
        "show, make and change BCD stores, what bcdedit is on Windows",
        "mediamaker bcd show /mnt/EFI/Microsoft/Boot/BCD",
    ),
    Verb(
        "recovery",
        "add a recovery partition to a disk that has a Windows, or check if its WinRE would start",
        "mediamaker recovery check /dev/nvme0n1",
    ),
    Verb(
        "undo",
        "put back what recovery add changed, or the tables from before a create, as far as can be",
        "mediamaker undo /dev/sdX     (or: mediamaker undo disk.img.undo)",
    ),
)
