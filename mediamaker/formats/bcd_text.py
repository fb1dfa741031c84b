# SPDX-License-Identifier: GPL-3.0-or-later
"""BCD identifiers and values as people type and read them.

Forms are bcdedit's where it has one; partitions are named by what tables hold, for there are no
drive letters here: ``partition=gpt:DISK-GUID:PARTITION-GUID``, ``partition=mbr:SIGNATURE:OFFSET``.
What is shown for a value is understood when it is typed, but for devices in bytes unlike ours
(``raw=`` types those) and for paths that end as if options or a ``locate`` followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import assert_never
from uuid import UUID

from mediamaker.errors import UsageError
from mediamaker.formats.bcd import Element, ElementValue, Store, UnknownValue
from mediamaker.formats.bcd_devices import (
    BootDevice,
    Device,
    FileDevice,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    PartitionRef,
    Ramdisk,
    RawDevice,
    VhdDevice,
    parse_device,
)
from mediamaker.formats.bcd_names import (
    WELL_KNOWN,
    Format,
    element_format,
    object_alias,
    value_names,
    well_known,
)

Namer = Callable[[UUID], str]
Resolver = Callable[[str], UUID]

_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_GUID_RE = re.compile(rf"\{{?({_GUID})\}}?")
_GPT_RE = re.compile(rf"gpt:\{{?({_GUID})\}}?:\{{?({_GUID})\}}?", re.IGNORECASE)
_MBR_RE = re.compile(
    r"mbr:(?:0x)?([0-9a-fA-F]{1,8}):(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})", re.IGNORECASE
)
_CUSTOM_RE = re.compile(r"custom:(?:0x)?([0-9a-fA-F]{8})", re.IGNORECASE)
_NUMBER_RE = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")
_PATH_ELEMENT = 0x12000002
_ROOT_ELEMENT = 0x22000002
_YES = {"yes", "on", "true", "1"}
_NO = {"no", "off", "false", "0"}
_DEVICE_HINT = (
    "boot, partition=gpt:DISK-GUID:PARTITION-GUID, partition=mbr:SIGNATURE:OFFSET, locate, "
    r"locate=\path, file=[DEVICE]\path, vhd=[DEVICE]\path, ramdisk=[DEVICE]\path,{OPTIONS}"
)
_LIST_FORMS = {Format.OBJECT_LIST, Format.INTEGER_LIST}


def name_object(guid: UUID) -> str:
    """``{bootmgr}`` for its GUID, or the GUID in braces."""
    return f"{{{object_alias(guid) or guid}}}"


def parse_guid(text: str) -> UUID | None:
    """A GUID, in braces or not; None for other words."""
    match = _GUID_RE.fullmatch(text.strip())
    return UUID(match[1]) if match else None


def find_object(store: Store, text: str) -> UUID:
    """The GUID that ``{guid}``, ``{bootmgr}`` or ``{default}`` stands for, in braces or not.

    Raises:
        UsageError: no such word, or the store has no default.
    """
    guid = parse_guid(text)
    if guid is not None:
        return guid
    word = text.strip().removeprefix("{").removesuffix("}").lower()
    if word in WELL_KNOWN:
        return well_known(word)
    if word == "default":
        manager = store.object(well_known("bootmgr"))
        default = None if manager is None else manager.value(0x23000003)
        if isinstance(default, UUID):
            return default
        raise UsageError(
            "the store has no {default}: its {bootmgr} names none",
            hint="give the GUID; `mediamaker bcd show` lists all objects",
        )
    if word == "current":
        raise UsageError(
            "{current} is the Windows that runs, and none does", hint="use {default} or a GUID"
        )
    known = " ".join(f"{{{name}}}" for name in WELL_KNOWN)
    raise UsageError(f"{text!r} is no object", hint=f"a GUID, {{default}}, or one of {known}")


def format_device(device: Device, *, name: Namer = name_object) -> str:  # noqa: PLR0911 - kinds
    """A device as it is typed."""
    match device:
        case BootDevice():
            return "boot"
        case GptPartition() | MbrPartition():
            return f"partition={format_partition(device)}"
        case LocateElement(element_id=number, parent=None):
            return f"locate=custom:{number:08x}"
        case LocateElement(element_id=number, parent=parent) if parent is not None:
            return f"{format_device(parent, name=name)},locate=custom:{number:08x}"
        case LocatePath(path=path):
            return f"locate={path}"
        case Ramdisk(options_guid=options, parent=parent, path=path):
            suffix = f",{name(options)}" if options is not None else ""
            return f"ramdisk=[{_in_brackets(parent, name)}]{path}{suffix}"
        case FileDevice(parent=parent, path=path):
            return f"file=[{_in_brackets(parent, name)}]{path}"
        case VhdDevice(file=file):
            return f"vhd=[{_in_brackets(file.parent, name)}]{file.path}"
        case RawDevice(data=data):
            return f"raw={data.hex()}"
        case LocateElement():
            raise AssertionError("unreachable: a parent is there or is None")
        case _:
            assert_never(device)


def format_partition(partition: PartitionRef) -> str:
    """``gpt:DISK:PARTITION`` or ``mbr:SIGNATURE:OFFSET``."""
    match partition:
        case GptPartition(disk_guid=disk, partition_guid=guid):
            return f"gpt:{disk}:{guid}"
        case MbrPartition(disk_signature=signature, offset=offset):
            return f"mbr:{signature:08x}:{offset}"
        case _:
            assert_never(partition)


def parse_partition(text: str) -> PartitionRef:
    """A partition from ``gpt:...`` or ``mbr:...``, with ``partition=`` before it or not.

    Raises:
        UsageError: neither.
    """
    words = text.strip().removeprefix("partition=")
    gpt = _GPT_RE.fullmatch(words)
    if gpt is not None:
        return GptPartition(UUID(gpt[1]), UUID(gpt[2]))
    mbr = _MBR_RE.fullmatch(words)
    if mbr is not None:
        return MbrPartition(int(mbr[1], 16), _number(mbr[2]))
    raise UsageError(
        f"{text!r} is no partition",
        hint="gpt:DISK-GUID:PARTITION-GUID or mbr:SIGNATURE:OFFSET (signature in hexadecimal, "
        "offset in bytes); `blkid -o export` and `sfdisk -d` say them",
    )


def parse_device_text(  # noqa: PLR0911 - one for each kind
    text: str, *, resolve: Resolver, located_by: int = _PATH_ELEMENT
) -> Device:
    """A device as it is typed; ``locate`` alone is by the element ``located_by``.

    Raises:
        UsageError: none; the hint lists the forms.
    """
    word, _, rest = text.strip().partition("=")
    match word.lower():
        case "boot" if not rest:
            return BootDevice()
        case "partition":
            return parse_partition(rest)
        case "locate":
            return _parse_locate(rest, located_by)
        case "file":
            parent, path = _split_file(rest, resolve)
            return FileDevice(parent, path)
        case "vhd":
            body, comma, locate = rest.rpartition(",locate")
            if comma:
                parent, path = _split_file(body, resolve)
                found = _parse_locate(locate.removeprefix("="), located_by)
                if isinstance(found, LocateElement):
                    return LocateElement(found.element_id, VhdDevice(FileDevice(parent, path)))
            parent, path = _split_file(rest, resolve)
            return VhdDevice(FileDevice(parent, path))
        case "ramdisk":
            return _parse_ramdisk(rest, resolve)
        case "raw" if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", rest):
            return parse_device(bytes.fromhex(rest))
        case _:
            raise UsageError(f"{text!r} is no device", hint=_DEVICE_HINT)


def format_value(  # noqa: PLR0911 - one for each form
    element: Element, type_code: int | None, *, name: Namer = name_object
) -> tuple[str, ...]:
    """An element's value, one line for each item of a list."""
    value = element.value
    if isinstance(value, UnknownValue):
        return (f"registry type {value.type_code}: {value.data.hex() or 'nothing'}",)
    if isinstance(value, bool):
        return ("Yes" if value else "No",)
    if isinstance(value, int):
        names = value_names(element.id, type_code)
        return (names[value] if value < len(names) else str(value),)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, UUID):
        return (name(value),)
    if isinstance(value, tuple):
        return tuple(name(item) if isinstance(item, UUID) else f"{item:#x}" for item in value)
    return _format_device_lines(value, name)


def parse_value(
    words: Sequence[str], element_id: int, type_code: int | None, *, resolve: Resolver
) -> ElementValue:
    """The value for an element from the words that a person typed for it.

    Raises:
        UsageError: they are not of the element's form; the hint says what is.
    """
    form = element_format(element_id)
    if form is None:
        raise UsageError(f"the form of the element {element_id:08x} is not known")
    if form not in _LIST_FORMS and len(words) != 1:
        raise UsageError(
            f"the element {element_id:08x} has one value, not {len(words)}",
            hint="put it in quotation marks if it has spaces",
        )
    return _parse_form(form, words, element_id, type_code, resolve)


def _parse_form(  # noqa: PLR0911 - one for each form
    form: Format,
    words: Sequence[str],
    element_id: int,
    type_code: int | None,
    resolve: Resolver,
) -> ElementValue:
    match form:
        case Format.DEVICE:
            located_by = _ROOT_ELEMENT if element_id >> 28 == 2 else _PATH_ELEMENT
            return parse_device_text(words[0], resolve=resolve, located_by=located_by)
        case Format.STRING:
            return _check_text(words[0])
        case Format.OBJECT:
            return resolve(words[0])
        case Format.OBJECT_LIST:
            return tuple(resolve(word) for word in words)
        case Format.INTEGER:
            return _parse_integer(words[0], value_names(element_id, type_code))
        case Format.BOOLEAN:
            word = words[0].lower()
            if word not in _YES | _NO:
                raise UsageError(f"{words[0]!r} is neither yes nor no", hint="yes, on, no or off")
            return word in _YES
        case Format.INTEGER_LIST:
            return tuple(_parse_integer(word, ()) for word in words)
        case _:
            assert_never(form)


def _check_text(text: str) -> str:
    if "\0" in text:
        raise UsageError("a string can't hold a NUL")
    return text


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)


def _parse_integer(text: str, names: Sequence[str]) -> int:
    for number, name in enumerate(names):
        if name.lower() == text.lower():
            return number
    if _NUMBER_RE.fullmatch(text) and _number(text) < 1 << 64:
        return _number(text)
    known = ", ".join(names)
    raise UsageError(
        f"{text!r} is no value of this element",
        hint=f"{known}, or a number" if known else "a number below 2^64, or 0x and hexadecimal",
    )


def _format_device_lines(device: Device, name: Namer) -> tuple[str, ...]:
    if not isinstance(device, RawDevice):
        return (format_device(device, name=name),)
    if device.meaning is None:
        return (format_device(device), f"({device.problem})")
    return (
        format_device(device.meaning, name=name),
        f"(in other bytes than ours: {device.problem})",
    )


def _in_brackets(parent: Device, name: Namer) -> str:
    return format_device(parent, name=name).removeprefix("partition=")


def _parse_locate(text: str, located_by: int) -> Device:
    if not text:
        return LocateElement(located_by)
    custom = _CUSTOM_RE.fullmatch(text)
    if custom is not None:
        return LocateElement(int(custom[1], 16))
    return LocatePath(_check_path(text))


def _parse_ramdisk(text: str, resolve: Resolver) -> Ramdisk:
    options = None
    body, comma, last = text.rpartition(",")
    if comma and last.startswith("{") and last.endswith("}"):
        options, text = resolve(last), body
    parent, path = _split_file(text, resolve)
    return Ramdisk(options, parent, path)


def _split_file(text: str, resolve: Resolver) -> tuple[Device, str]:
    """``[DEVICE]\\path``; the brackets may hold brackets."""
    index = _closing_bracket(text)
    if index < 2:
        raise UsageError(f"{text!r}: expected [DEVICE]\\path", hint=_DEVICE_HINT)
    inner = text[1:index]
    is_partition = inner.lower().startswith(("gpt:", "mbr:"))
    parent = parse_partition(inner) if is_partition else parse_device_text(inner, resolve=resolve)
    return parent, _check_path(text[index + 1 :])


def _closing_bracket(text: str) -> int:
    """Where the bracket that ``text`` begins with is closed; 0 if it does not, or is not."""
    depth = 0
    for index, character in enumerate(text):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth == 0:
            return index
    return 0


def _check_path(path: str) -> str:
    if not path.startswith("\\") or "/" in path or "\0" in path:
        raise UsageError(
            f"{path!r} is not a path that a boot manager opens",
            hint=r"write it from the root of its volume, with backslashes: \sources\boot.wim",
        )
    return path
