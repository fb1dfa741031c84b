# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a disk this disk, and whether the one that is there now is still the same.

A device file is a name that the kernel gives to whoever comes next: ``/dev/sdb`` may be another
stick after a replug. What was shown and confirmed is therefore compared with what is there
when the target is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

from mediamaker.errors import TargetRefusedError


class _Identified(Protocol):
    @property
    def serial(self) -> str | None: ...
    @property
    def wwn(self) -> str | None: ...
    @property
    def vendor(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def size(self) -> int: ...
    @property
    def logical_sector_size(self) -> int: ...
    @property
    def lun(self) -> int | None: ...
    @property
    def sequence(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """The fingerprint of a disk.

    ``lun`` tells the slots of one card reader apart, which share its serial. ``sequence`` is
    the kernel's ``diskseq``: it never repeats while the system runs and grows with every plug
    and every change of medium, so it also tells two sticks without a serial apart. It means
    nothing after a reboot: ``dataclasses.replace(identity, sequence=None)`` before storing.
    """

    serial: str | None
    wwn: str | None
    vendor: str | None
    model: str | None
    size: int
    logical_sector_size: int
    lun: int | None = None
    sequence: int | None = None


_NAMES = {
    "wwn": "WWN",
    "size": "size in bytes",
    "logical_sector_size": "sector size",
    "lun": "LUN",
    "sequence": "plug-in sequence number",
}


def disk_fingerprint(disk: _Identified) -> DiskIdentity:
    """The identity of a listed disk."""
    return DiskIdentity(**{field.name: getattr(disk, field.name) for field in fields(DiskIdentity)})


def check_same_disk(expected: DiskIdentity, found: DiskIdentity, *, what: str = "the disk") -> None:
    """Nothing that was known of the disk may differ now.

    Raises:
        TargetRefusedError: says which fields differ, expected and found.
    """
    differences: list[str] = []
    for field in fields(DiskIdentity):
        before, now = getattr(expected, field.name), getattr(found, field.name)
        if field.name == "sequence" and None in (before, now):
            continue  # a stored identity, or a kernel before 5.15
        if before != now:
            name = _NAMES.get(field.name, field.name)
            differences.append(f"{name}: expected {_show(before)}, found {_show(now)}")
    if differences:
        raise TargetRefusedError(
            f"{what} is not the disk that was chosen: {'; '.join(differences)}",
            hint="look again with `mediamaker devices`; nothing was written",
        )


def _show(value: str | int | None) -> str:
    return "none" if value is None else str(value)
