# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bytes of a disk or partition claim to be: file system, LVM, RAID, LUKS, ZFS, swap.

Asked of blkid(8), which util-linux keeps in step with every format (and which is essential on
Debian), by low-level probing past its cache. Without the right to read the device, udev's
database answers, which is blkid's earlier result; both name their fields alike. Our own table
of magic numbers was rejected: it would be a worse copy of libblkid.

References: blkid(8) (``-p``, ``-o udev``, exit codes 0, 2, 8), ``/run/udev/data/bMAJOR:MINOR``
(lines ``E:KEY=VALUE``; ``*_ENC`` values write unsafe bytes as ``\\xNN``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_BLKID_TIMEOUT_S = 20
_AMBIVALENT = "several file systems at once"
_ENCODED_RE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_MEMBER_TYPES = frozenset(
    {
        "LVM2_member",
        "LVM1_member",
        "linux_raid_member",
        "ddf_raid_member",
        "isw_raid_member",
        "crypto_LUKS",
        "zfs_member",
        "mpath_member",
        "bcache",
        "stratis",
        "drbd",
        "VMFS_volume_member",
        "ceph_bluestore",
        "swap",
        "swsuspend",
    }
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What was recognised; every field None means looked at and nothing known found.

    ``problem`` says in short words why nothing can be said, or that several answers fit.
    """

    type: str | None = None
    label: str | None = None
    table_type: str | None = None
    partition_type: str | None = None
    partition_name: str | None = None
    problem: str | None = None

    @property
    def is_member(self) -> bool:
        """Whether it is a part of something bigger (LVM, RAID, LUKS, ZFS, swap), active or not."""
        return self.type is not None and (
            self.type in _MEMBER_TYPES or self.type.endswith("_raid_member")
        )

    def __str__(self) -> str:
        words = [self.type or (f"{self.table_type} table" if self.table_type else "")]
        words += [f'"{self.label}"'] if self.label else []
        words += [self.problem] if self.problem else []
        return ", ".join(word for word in words if word) or "nothing known"


def read_signature(path: Path, *, udev: dict[str, str] | None = None) -> Signature:
    """What lies on ``path``, from its bytes or else from ``udev`` (see ``read_udev``)."""
    probed = probe_signature(path)
    if probed.problem is not None and udev:
        return _signature(udev)
    return probed


def probe_signature(path: Path, *, offset: int = 0, size: int | None = None) -> Signature:
    """What lies in a range of a device or an image file, by its bytes. Never raises."""
    # an ordinary user's PATH often lacks the folders where it lies
    search_path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    program = shutil.which("blkid", path=search_path)
    if program is None:
        return Signature(problem="unknown (blkid is missing: install util-linux)")
    command = [program, "-p", "-o", "udev", "-O", str(offset)]
    command += ["-S", str(size)] if size is not None else []
    try:
        # blkid answers "nothing found" for what it may not open
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        done = subprocess.run(
            [*command, "--", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BLKID_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Signature(problem=f"unknown (no answer within {_BLKID_TIMEOUT_S} s)")
    except OSError as error:
        needs_root = isinstance(error, PermissionError) and os.geteuid() != 0
        why = "run as root" if needs_root else error.strerror
        return Signature(problem=f"unknown ({why})")
    match done.returncode:
        case 0 | 2:  # 2: nothing found
            return _signature(_parse_pairs(done.stdout.splitlines()))
        case 8:
            return Signature(problem=_AMBIVALENT)
        case code:
            return Signature(problem=f"unknown (blkid failed with {code})")


def read_udev(run_root: Path, number: str) -> dict[str, str]:
    """The properties that udev keeps of block device ``major:minor``; empty without udev."""
    try:
        data = (run_root / "udev" / "data" / f"b{number}").read_bytes()
    except OSError:
        return {}
    return _parse_pairs([line[2:] for line in data.splitlines() if line.startswith(b"E:")])


def _parse_pairs(lines: list[bytes]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in lines:
        key, separator, value = line.partition(b"=")
        if not separator:
            continue
        if key.endswith(b"_ENC"):
            value = _ENCODED_RE.sub(lambda match: bytes([int(match[1], 16)]), value)
        pairs[key.decode("ascii", "replace")] = value.decode("utf-8", "replace").strip()
    return pairs


def _signature(pairs: dict[str, str]) -> Signature:
    def get(*keys: str) -> str | None:
        return next((pairs[key] for key in keys if pairs.get(key)), None)

    ambivalent = get("ID_FS_AMBIVALENT") is not None
    return Signature(
        type=get("ID_FS_TYPE"),
        label=get("ID_FS_LABEL_ENC", "ID_FS_LABEL"),
        table_type=get("ID_PART_TABLE_TYPE"),
        partition_type=get("ID_PART_ENTRY_TYPE"),
        # PARTLABEL is reported as ID_PART_ENTRY_NAME, encoded although its key lacks _ENC
        partition_name=_decode(get("ID_PART_ENTRY_NAME")),
        problem=_AMBIVALENT if ambivalent else None,
    )


def _decode(text: str | None) -> str | None:
    if text is None:
        return None
    data = _ENCODED_RE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    return data.decode("utf-8", "replace")
