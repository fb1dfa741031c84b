# SPDX-License-Identifier: GPL-3.0-or-later
"""Another disk, or other tables on the same one, by the time that the person has typed the answer.

The command runs at a terminal in a guest. While its question stands there the stick is pulled
and another one put into the same port (QMP), or another program partitions it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from guest import ROOT, Guest

from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import make_media_rig
from faults.recovery_rig import make_recovery_rig
from faults.windows_rig import copy_sparse, is_same, make_windows_rig
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk, device_id

_SERIAL = "CHOSEN"
_REFUSED = 4
_TIMEOUT_SECONDS = 900.0
_SHELL = """\
tell() { echo "$*" > /dev/ttyS0; }
ask() { sync; tell "ask $1"; until [ -e "answer-$1" ]; do sleep 0.2; done; }
"""
_SWAP = """
ask pull
while [ -e $DISK ]; do sleep 0.2; done
udevadm settle
ask plug
until lsblk --nodeps --noheadings --output SERIAL | grep -qx {serial}; do sleep 0.2; done
udevadm settle
"""
# Of a disk that is held open, sfdisk says that it is in use, and does it when forced to.
_PARTITION = """
sfdisk --quiet --force --no-reread --no-tell-kernel --wipe always $DISK <<< $'label: dos\\n,,c'
udevadm settle
ask compare
"""


class _Change(StrEnum):
    OTHER = "another stick is in its port"
    TWIN = "another stick with the same serial and bytes is in its port"
    TABLE = "another program wrote a table to it"


_NOTHING_WRITTEN = "nothing was written"
_NOT_CHOSEN = ("is not the disk that was chosen", "that name stands for another device now")
_REASONS = {
    _Change.OTHER: _NOT_CHOSEN,
    _Change.TWIN: _NOT_CHOSEN,
    _Change.TABLE: ("is not as it was when the plan was shown",),
}
"""Of which a refusal has one."""


@dataclass(frozen=True, slots=True)
class _Case:
    """``ahead`` is a command that must succeed first; in both, "@" is the disk."""

    disk: Path
    words: Sequence[object]
    ahead: Sequence[object] = ()


@cell("create", "target replaced after the plan was shown", points=3, short=1)
def replaced_for_create(rig: Rig) -> Iterator[Trial]:
    """A USB stick with an earlier life."""
    media = make_media_rig(rig.work_dir / "rig")
    yield from _replaced(rig, _Case(media.used, media.create_words("@")))


@cell("install", "target replaced after the plan was shown", points=3, short=0)
def replaced_for_install(rig: Rig) -> Iterator[Trial]:
    """A USB disk with an older install."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir.resolve())
    words = ("install", f"{windows.wim}:1", "@", *windows.options, "--erase")
    yield from _replaced(rig, _Case(windows.used, words))


@cell("recovery add", "target replaced after the plan was shown", points=3, short=0)
def replaced_for_recovery(rig: Rig) -> Iterator[Trial]:
    """The disk is held open all the while."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir.resolve())
    words = ("recovery", "add", "@", *recovery.options, "--undo", "undo")
    yield from _replaced(rig, _Case(recovery.before, words))


@cell("undo", "target replaced after the plan was shown", points=3, short=0)
def replaced_for_undo(rig: Rig) -> Iterator[Trial]:
    """Of a ``recovery add`` onto the same disk."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir.resolve())
    ahead = ("recovery", "add", "@", *recovery.options, "--undo", "undo", "--confirm", _SERIAL)
    yield from _replaced(rig, _Case(recovery.before, ("undo", "undo", "@"), ahead))


def _replaced(rig: Rig, case: _Case) -> Iterator[Trial]:
    for number, change in enumerate([*_Change][: rig.count]):
        folder = rig.out_dir.resolve() / f"guest-{number}"
        disk = copy_sparse(case.disk, rig.work_dir / "disk.img")
        other = copy_sparse(case.disk, rig.work_dir / "other.img")
        if change is _Change.OTHER:
            size = other.stat().st_size
            with other.open("wb") as file:
                file.truncate(size)
        yield _run(case, change, disk, other, folder)


def _run(case: _Case, change: _Change, disk: Path, other: Path, folder: Path) -> Trial:
    started = [path.with_suffix(".start") for path in (disk, other)]
    with Guest(
        _script(case, change),
        disks=[Disk(disk, Bus.USB, snapshot=False, serial=_SERIAL)],
        work_dir=folder,
        memory_size=2048 * MIB,
        extra_arguments=["-drive", f"if=none,id=other,file={other},format=raw"],
    ) as guest:
        machine = guest.machine
        for question in ("compare",) if change is _Change.TABLE else ("pull", "plug"):
            machine.wait_for_serial(f"ask {question}", timeout=_TIMEOUT_SECONDS)
            if question == "plug":
                stick = {"driver": "usb-storage", "id": "other", "drive": "other"}
                place = {"bus": "bus0.0", "serial": _serial(change), "removable": True}
                machine.execute("device_add", {**stick, **place})
            else:
                for path, kept in zip((disk, other), started, strict=True):
                    copy_sparse(path, kept)
            if question == "pull":
                machine.execute("device_del", {"id": device_id(0)})
            (folder / f"answer-{question}").touch()
        result = guest.wait(timeout=_TIMEOUT_SECONDS)
    if result.exit_code:
        raise RuntimeError(f"{change}: the script ended with {result.exit_code}: {result.output}")
    code = int((folder / "answer.code").read_text())
    said = _after_question((folder / "answer.txt").read_text(errors="replace"))
    changed = [
        path.stem
        for path, kept in zip((disk, other), started, strict=True)
        if not is_same(path, kept)
    ]
    if changed:
        verdict = Verdict.LOST if code else Verdict.FALSE_DONE
        return Trial(verdict, change, f"bytes of {changed} were written; exit {code}: {said}")
    is_named = any(reason in said for reason in _REASONS[change]) and _NOTHING_WRITTEN in said
    if code != _REFUSED or not is_named or "Traceback" in said:
        return Trial(Verdict.WRONG_WORDS, change, f"exit {code}, not {_REFUSED}: {said[-600:]}")
    return Trial(Verdict.REFUSED, change, said.rpartition("mediamaker: error: ")[2][:400])


def _serial(change: _Change) -> str:
    return "OTHER" if change is _Change.OTHER else _SERIAL


def _script(case: _Case, change: _Change) -> str:
    action = _PARTITION if change is _Change.TABLE else _SWAP.format(serial=_serial(change))
    ahead = ["/dev/sda" if word == "@" else str(word) for word in case.ahead]
    # A question is for a person.
    words = [str(word) for word in case.words if word != "--json"]
    program = f"python3 {ROOT}/vm-tests/guest_terminal.py answer {_SERIAL}"
    at_terminal = f"{program} {shlex.quote(_SHELL + action)} {shlex.join(words)}"
    if not ahead:
        return at_terminal
    return f"python3 -m mediamaker {shlex.join(ahead)}\n{at_terminal}"


def _after_question(said: str) -> str:
    """On one line; the question is there once."""
    _, tail = said.split(f'Type "{_SERIAL}" to ')
    tail = tail.partition("\n")[2]
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", tail)).strip()
