# SPDX-License-Identifier: GPL-3.0-or-later
"""A BCD store as text that reads like bcdedit's, and as JSON that leaves nothing out."""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any, assert_never
from uuid import UUID

from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, FormatError, SourceError, UsageError
from mediamaker.formats.bcd import (
    BcdObject,
    Element,
    Store,
    UnknownValue,
    find_problems,
    parse_store,
    registry_value,
)
from mediamaker.formats.bcd_devices import (
    BootDevice,
    Device,
    FileDevice,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    Ramdisk,
    RawDevice,
    VhdDevice,
)
from mediamaker.formats.bcd_names import (
    OBJECT_TYPES,
    element_format,
    element_name,
    object_alias,
    object_heading,
    object_type,
    well_known,
)
from mediamaker.formats.bcd_text import Namer, find_object, format_device, format_value, name_object
from mediamaker.units import MIB, format_size

STORE_SIZE_MAX = 64 * MIB
"""Real stores have some 32 KiB; whatever is as large as this is a slip of the keyboard."""

_NAME_WIDTH = 24
_ID_WIDTH = 9
_ORDER = ("fwbootmgr", "bootmgr", "fwapp", "osloader", "resume", "memdiag")


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``show``."""
    parser.add_argument("store", type=Path, metavar="STORE", help="a BCD file")
    parser.add_argument(
        "object", nargs="?", metavar="OBJECT", help="only this one: {default}, {bootmgr}, a GUID"
    )
    parser.add_argument(
        "--type", metavar="TYPE", help="only these: osloader, resume, memdiag, device, settings ..."
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="GUIDs in full, and the elements' ids"
    )


def run_show(args: argparse.Namespace, output: Output) -> ExitCode:
    """Show a store, or one object of it."""
    store = read_store(args.store)
    wanted = _wanted(args, store)
    output.event("bcd-store", **store_to_json(args.store, store, wanted))
    output.result(show_store(store, wanted=wanted, is_verbose=args.verbose))
    for problem in find_problems(store):
        output.warning(f"{args.store}: {problem}")
    return ExitCode.DONE


def _wanted(args: argparse.Namespace, store: Store) -> Collection[UUID] | None:
    """The objects that were asked for; None for all."""
    if args.object is not None:
        guid = find_object(store, args.object)
        if store.object(guid) is None:
            raise no_such_object(args.store, guid)
        return {guid}
    if args.type is None:
        return None
    type_code = object_type(args.type)
    return {item.guid for item in store.objects if item.type_code == type_code}


def read_store(path: Path) -> Store:
    """The store in the file, with what is damaged inside of it.

    Raises:
        SourceError: it can't be read; FormatError: it is no store.
    """
    return parse_store(read_file(path), what=str(path), keep_damaged=True)


def read_file(path: Path) -> bytes:
    """The bytes of a store's file.

    Raises:
        SourceError: it is no file, can't be read, or is far too large.
    """
    if path.exists() and not path.is_file():
        raise SourceError(
            f"{path} is no file",
            hint=r"mount the system volume and name its \Boot\BCD or \EFI\Microsoft\Boot\BCD",
        )
    try:
        with path.open("rb") as file:
            data = file.read(STORE_SIZE_MAX + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if len(data) > STORE_SIZE_MAX:
        raise FormatError(f"{path}: larger than {format_size(STORE_SIZE_MAX)}, no BCD store is")
    return data


def no_such_object(path: Path, guid: UUID) -> UsageError:
    """The error for an object that is not there."""
    return UsageError(
        f"{path} has no object {name_object(guid)}", hint=f"`mediamaker bcd show {path}` lists all"
    )


def namer(store: Store, *, is_verbose: bool) -> Namer:
    """How GUIDs are shown: in full, or ``{default}`` and other words where there are any."""
    if is_verbose:
        return lambda guid: f"{{{guid}}}"
    manager = store.object(well_known("bootmgr"))
    default = None if manager is None else manager.value(0x23000003)
    return lambda guid: "{default}" if guid == default else name_object(guid)


def show_store(store: Store, *, wanted: Collection[UUID] | None, is_verbose: bool) -> str:
    """The text."""
    name = namer(store, is_verbose=is_verbose)
    blocks = [
        _show_object(item, name, is_verbose=is_verbose)
        for item in sorted(store.objects, key=_place(store))
        if wanted is None or item.guid in wanted
    ]
    return "\n\n".join("\n".join(block) for block in blocks) or (
        "The store has no objects." if wanted is None else "No such objects."
    )


def store_to_json(
    path: Path, store: Store, wanted: Collection[UUID] | None = None
) -> dict[str, Any]:
    """Everything that the store says, each value also as the registry holds it."""
    name = namer(store, is_verbose=False)
    return {
        "store": str(path),
        "description": [
            {
                "name": value.name,
                "registry_type": value.type_code,
                "data": value.data.hex(),
                "text": value.text if value.number is None else str(value.number),
            }
            for value in store.description
        ],
        "objects": [
            _object_to_json(item, name)
            for item in store.objects
            if wanted is None or item.guid in wanted
        ],
        "problems": list(find_problems(store)),
    }


def one_line(text: str) -> str:
    """A value must not look like two lines, or like a command to the terminal."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        else character
        for character in text
    )


def _show_object(item: BcdObject, name: Namer, *, is_verbose: bool) -> list[str]:
    heading = object_heading(item.guid, item.type_code)
    width = _NAME_WIDTH + (_ID_WIDTH if is_verbose else 0)
    rows = [heading, "-" * len(heading), f"{'identifier':<{width}}{name(item.guid)}"]
    for element in item.elements:
        label = element_name(element.id, item.type_code)
        if is_verbose and not label.startswith("custom:"):
            label = f"{element.id:08x} {label}"
        lines = [one_line(line) for line in format_value(element, item.type_code, name=name)]
        rows.append(f"{label + ' ':<{width}}{lines[0] if lines else ''}".rstrip())
        rows += [" " * width + line for line in lines[1:]]
    return rows


def _place(store: Store) -> Any:
    """A sort key: managers, then entries as their menu has them, then the rest."""
    menu: list[UUID] = []
    manager = store.object(well_known("bootmgr"))
    for number in (0x24000001, 0x24000010):
        order = None if manager is None else manager.value(number)
        if isinstance(order, tuple):
            menu += [guid for guid in order if isinstance(guid, UUID)]
    places = {guid: place for place, guid in reversed(list(enumerate(menu)))}

    def key(item: BcdObject) -> tuple[int, int, str]:
        word = OBJECT_TYPES.get(item.type_code or 0, ("", ""))[0]
        kind = _ORDER.index(word) if word in _ORDER else len(_ORDER)
        return kind, places.get(item.guid, len(menu)), item.guid.hex

    return key


def _object_to_json(item: BcdObject, name: Namer) -> dict[str, Any]:
    word = OBJECT_TYPES.get(item.type_code or 0, (None, None))[0]
    return {
        "guid": str(item.guid),
        "alias": object_alias(item.guid),
        "name": name(item.guid),
        "type": None if item.type_code is None else f"{item.type_code:08x}",
        "type_name": word,
        "heading": object_heading(item.guid, item.type_code),
        "elements": [element_to_json(element, item.type_code, name) for element in item.elements],
    }


def element_to_json(element: Element, type_code: int | None, name: Namer) -> dict[str, Any]:
    """One element: its name, its value as JSON has it, as people type it, and its bytes."""
    form = element_format(element.id)
    stored = registry_value(element)
    return {
        "id": f"{element.id:08x}",
        "name": element_name(element.id, type_code),
        "format": None if form is None else form.name.lower().replace("_", "-"),
        "value": _value_to_json(element.value),
        "text": list(format_value(element, type_code, name=name)),
        "registry_type": stored.type_code,
        "data": stored.data.hex(),
    }


def _value_to_json(value: Any) -> Any:
    match value:
        case bool() | int() | str():
            return value
        case UUID():
            return str(value)
        case tuple():
            return [_value_to_json(item) for item in value]
        case UnknownValue():
            return None
        case _:
            return _device_to_json(value)


def _device_to_json(device: Device) -> dict[str, Any]:
    text = format_device(device)
    match device:
        case BootDevice():
            more: dict[str, Any] = {"kind": "boot"}
        case GptPartition(disk_guid=disk, partition_guid=partition):
            more = {
                "kind": "gpt-partition",
                "disk_guid": str(disk),
                "partition_guid": str(partition),
            }
        case MbrPartition(disk_signature=signature, offset=offset):
            more = {
                "kind": "mbr-partition",
                "disk_signature": f"{signature:08x}",
                "offset": offset,
            }
        case LocateElement(element_id=number, parent=parent):
            inner = None if parent is None else _device_to_json(parent)
            more = {"kind": "locate-element", "element": f"{number:08x}", "parent": inner}
        case LocatePath(path=path):
            more = {"kind": "locate-path", "path": path}
        case Ramdisk(options_guid=options, parent=parent, path=path):
            more = {
                "kind": "ramdisk",
                "options": None if options is None else str(options),
                "parent": _device_to_json(parent),
                "path": path,
            }
        case FileDevice(parent=parent, path=path):
            more = {"kind": "file", "parent": _device_to_json(parent), "path": path}
        case VhdDevice(file=file):
            more = {"kind": "vhd", "file": _device_to_json(file)}
        case RawDevice(meaning=meaning, problem=problem):
            inner = None if meaning is None else _device_to_json(meaning)
            more = {"kind": "raw", "meaning": inner, "problem": problem}
        case _:
            assert_never(device)
    return {**more, "text": text}
