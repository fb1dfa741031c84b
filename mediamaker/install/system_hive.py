# SPDX-License-Identifier: GPL-3.0-or-later
"""Values in the SYSTEM hive of a Windows that is not running, as Windows To Go wants them.

References: Microsoft, "Deploy Windows To Go in your organization" (SAN policy 4: the disks inside
the PC stay offline) and "Microsoft-Windows-PartitionManager, SanPolicy"; where the two values lie
is in wtgutil's description. What ``CurrentControlSet`` stands for on disk: Microsoft, "What are
Control Sets? What is CurrentControlSet?" (KB100010).

The hive is read to a tree and written anew: keys, values of any size, classes, security
descriptors, times, flags and the first block's GUIDs stay what they were; free space and deleted
keys go, and the sequence number goes up by one. Its transaction logs (SYSTEM.LOG1, SYSTEM.LOG2)
do not matter to a hive that was closed cleanly, and one that was not is refused.

Verified: by dissect.regf and hivex, that nothing else changed, on hives that we made; hives of
Windows' own making only by their kind, boot stores. Not verified, as there is no Windows here: that
Windows starts from a SYSTEM hive that was written anew, and what it does with the two values.
Windows has had no support for Windows To Go since version 2004, but the values are still what
tools set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mediamaker.errors import FormatError
from mediamaker.formats.regf import Hive, Key, Value, dword_value, parse_hive
from mediamaker.formats.regf_pack import pack_hive

SAN_POLICY_OFFLINE_INTERNAL = 4
_SEQUENCE_MASK = 0xFFFFFFFF
_CONTROL_SET_NUMBER_MAX = 999


@dataclass(frozen=True, slots=True)
class ControlSetValue:
    """A value of the key that ``path`` leads to from a control set."""

    path: tuple[str, ...]
    value: Value


PORTABLE_VALUES = (
    ControlSetValue(("Control",), dword_value("PortableOperatingSystem", 1)),
    ControlSetValue(
        ("Services", "partmgr", "Parameters"),
        dword_value("SanPolicy", SAN_POLICY_OFFLINE_INTERNAL),
    ),
)


def make_portable(data: bytes, *, what: str = "SYSTEM") -> bytes:
    """The SYSTEM hive in ``data`` with the values of Windows To Go; ``what`` names it in messages.

    A hive that has them comes back byte for byte.

    Raises:
        FormatError: it is no SYSTEM hive, is damaged, or was not closed cleanly.
    """
    return set_control_set_values(data, PORTABLE_VALUES, what=what)


def is_portable(data: bytes, *, what: str = "SYSTEM") -> bool:
    """Whether the SYSTEM hive in ``data`` has the values of Windows To Go.

    Raises:
        FormatError: as :func:`make_portable`.
    """
    hive = parse_hive(data, what=what)
    names = find_control_sets(hive, what=what)
    return all(_has_value(hive.root, name, item) for name in names for item in PORTABLE_VALUES)


def set_control_set_values(data: bytes, items: Sequence[ControlSetValue], *, what: str) -> bytes:
    """The SYSTEM hive with ``items`` in the control sets that Windows uses; keys are made.

    Raises:
        FormatError: as :func:`make_portable`.
    """
    hive = parse_hive(data, what=what)
    root = hive.root
    for name in find_control_sets(hive, what=what):
        for item in items:
            if not _has_value(root, name, item):
                root = _with_value(root, (name, *item.path), item.value)
    if root is hive.root:
        return data
    return pack_hive(replace(hive, root=root, sequence=(hive.sequence + 1) & _SEQUENCE_MASK))


def find_control_sets(hive: Hive, *, what: str) -> tuple[str, ...]:
    r"""The names of the control sets that ``Select\Current`` and ``Select\Default`` name.

    ``Default`` is what the next start uses and ``Current`` what the last one did; nearly always
    both are ControlSet001. ``LastKnownGood`` and all others are left alone.

    Raises:
        FormatError: it is no SYSTEM hive.
    """
    select = hive.root.subkey("Select")
    current = select.value("Current") if select else None
    if select is None or current is None:
        raise FormatError(
            rf"{what}: expected a SYSTEM hive, got one without Select\Current",
            hint=r"it is the file Windows\System32\config\SYSTEM",
        )
    names: list[str] = []
    for value in (current, select.value("Default")):
        if value is None:
            continue
        number = value.number
        if number is None or not 0 < number <= _CONTROL_SET_NUMBER_MAX:
            raise FormatError(
                rf"{what}: Select\{value.name}: expected a REG_DWORD of 1 to "
                f"{_CONTROL_SET_NUMBER_MAX}, got type {value.type_code} and {value.data[:8].hex()}"
            )
        key = hive.root.subkey(f"ControlSet{number:03}")
        if key is None or key.subkey("Control") is None:
            raise FormatError(rf"{what}: no ControlSet{number:03}\Control, which Select names")
        if key.name not in names:
            names.append(key.name)
    return tuple(names)


def _has_value(root: Key, control_set: str, item: ControlSetValue) -> bool:
    key = root.find(control_set, *item.path)
    found = key.value(item.value.name) if key else None
    if found is None:
        return False
    return (found.type_code, found.data) == (item.value.type_code, item.value.data)


def _with_value(key: Key, path: tuple[str, ...], value: Value) -> Key:
    """A copy of ``key`` with ``value`` at the end of ``path``.

    A key that is not there is made as Windows makes one without further wishes: with what its
    parent has for security (here with its time too, as there is no clock).
    """
    if not path:
        return key.with_value(value)
    below = key.subkey(path[0])
    if below is None:
        below = Key(path[0], security=key.security, last_written=key.last_written)
    return key.with_subkey(_with_value(below, path[1:], value))
