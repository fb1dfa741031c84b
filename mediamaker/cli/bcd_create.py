# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bcd create``: a new store of one of the usual kinds, or an object in a store."""

from __future__ import annotations

import argparse
import secrets
import uuid
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from mediamaker.cli.bcd_change import (
    add_force,
    add_writing,
    packed,
    replace_store,
    write_with_backup,
)
from mediamaker.cli.bcd_show import no_such_object, read_file
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, UsageError
from mediamaker.formats.bcd import BcdObject, Element, Store, parse_store
from mediamaker.formats.bcd_devices import (
    BootDevice,
    GptPartition,
    LocatePath,
    MbrPartition,
    PartitionRef,
)
from mediamaker.formats.bcd_names import OBJECT_TYPES, WELL_KNOWN, object_alias, object_type
from mediamaker.formats.bcd_text import (
    find_object,
    name_object,
    parse_device_text,
    parse_partition,
)
from mediamaker.plan.boot_store import (
    RECOVERY_PATH,
    BootIds,
    Firmware,
    add_windows,
    empty_store,
    esp_recovery_store,
    installed_store,
    pe_store,
    portable_store,
    register_recovery,
    vhd_store,
)
from mediamaker.wim.output import check_outputs

_KINDS = {
    "empty": "no objects (/createstore)",
    "installed": "an installed Windows: --system, --windows, and --recovery for WinRE",
    "recovery": r"\EFI\Microsoft\Recovery\BCD of an ESP: --system, --recovery",
    "media": "WinPE or Setup, its WIM in memory: --wim, --sdi, --media, --server",
    "vhd": "Windows in a virtual disk: --system, --vhd-on, --vhd",
    "portable": "names no disk: --device boot or locate",
}
_DESCRIPTION = 0x12000004


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``create``."""
    parser.add_argument("store", type=Path, metavar="STORE", help="a BCD file")
    what = parser.add_mutually_exclusive_group(required=True)
    kinds = "; ".join(f"{name}: {words}" for name, words in _KINDS.items())
    what.add_argument("--kind", choices=tuple(_KINDS), help=f"a new store. {kinds}")
    what.add_argument(
        "--object", metavar="OBJECT", help="an object in STORE: new, {ramdiskoptions}, a GUID ..."
    )
    store = parser.add_argument_group("a new store")
    store.add_argument("--firmware", choices=("uefi", "bios"), default="uefi", help="default: uefi")
    for name, words in (
        ("system", "where the boot manager is"),
        ("windows", "where Windows is"),
        ("recovery", "where WinRE is"),
    ):
        store.add_argument(
            f"--{name}",
            metavar="PARTITION",
            type=parse_partition,
            help=f"{words}: gpt:DISK:PARTITION or mbr:SIGNATURE:OFFSET",
        )
    store.add_argument("--recovery-path", default=RECOVERY_PATH, metavar=r"\DIR")
    store.add_argument("--wim", default="\\sources\\boot.wim", metavar=r"\PATH")
    store.add_argument("--sdi", default="\\boot\\boot.sdi", metavar=r"\PATH")
    store.add_argument(
        "--media",
        default="boot",
        metavar="DEVICE",
        help=r"where the WIM is: boot, locate=\path ...",
    )
    store.add_argument("--server", action="store_true", help="as on media of Windows Server")
    store.add_argument("--vhd-on", default="boot", metavar="DEVICE", help="where the VHD(X) is")
    store.add_argument("--vhd", metavar=r"\PATH", help="the VHD or VHDX")
    store.add_argument(
        "--device", choices=("boot", "locate"), default="locate", help="of a portable store"
    )
    store.add_argument("--locale", default="en-US", metavar="TAG")
    store.add_argument("--seed", metavar="TEXT", help="gives the same GUIDs each time")
    store.add_argument(
        "--add", action="store_true", help="installed: into the STORE that is there (bcdboot)"
    )
    store.add_argument(
        "--keep-default", action="store_true", help="with --add: behind the others in the menu"
    )
    entry = parser.add_argument_group("an object")
    entry.add_argument(
        "--type", metavar="TYPE", help=", ".join(word for word, _ in OBJECT_TYPES.values())
    )
    entry.add_argument("--like", metavar="OBJECT", help="with the elements of this one (/copy)")
    parser.add_argument("--description", metavar="TEXT", help="what the menu shows")
    add_force(parser)
    add_writing(parser)


def run_create(args: argparse.Namespace, output: Output) -> ExitCode:
    """Make a store, or an object in one."""
    if args.object is not None:
        return _create_object(args, output)
    if args.add:
        return _add_to_store(args, output)
    store = _new_store(args)
    data = packed(store)
    backup = None
    if args.dry_run:
        check_outputs([args.store], replace=args.force)
    else:
        backup = write_with_backup(args.store, data, replace=args.force, no_backup=args.no_backup)
    _say(args, output, store, backup=backup, is_changed=True)
    return ExitCode.DONE


def _new_store(args: argparse.Namespace) -> Store:
    firmware: Firmware = args.firmware
    ids = _ids(args)
    words = {"locale": args.locale}
    if args.description is not None:
        words["description"] = args.description
    match args.kind:
        case "empty":
            return empty_store()
        case "installed":
            return installed_store(
                firmware=firmware,
                system=_needed(args, "system"),
                windows=_needed(args, "windows"),
                recovery=args.recovery,
                recovery_path=args.recovery_path,
                ids=ids,
                **words,
            )
        case "recovery":
            return esp_recovery_store(
                system=_needed(args, "system"),
                recovery=_needed(args, "recovery"),
                recovery_path=args.recovery_path,
                ids=ids,
                locale=args.locale,
            )
        case "media":
            place = _place(args, "media")
            return pe_store(
                firmware,
                media=place,
                wim_path=args.wim,
                sdi_path=args.sdi,
                is_server=args.server,
                **words,
            )
        case "vhd":
            if args.vhd is None:
                raise UsageError("a store of kind vhd needs the disk's path", hint="give --vhd")
            return vhd_store(
                firmware=firmware,
                system=_needed(args, "system"),
                vhd_on=_place(args, "vhd_on"),
                vhd_path=args.vhd,
                ids=ids,
                **words,
            )
        case _:
            return portable_store(firmware, kind=args.device, ids=ids, **words)


def _add_to_store(args: argparse.Namespace, output: Output) -> ExitCode:
    if args.kind != "installed":
        raise UsageError("--add is for --kind installed", hint="leave it out, or name that kind")
    old = read_file(args.store)
    store = parse_store(old, what=str(args.store), keep_damaged=True)
    ids = _ids(args)
    changed = add_windows(
        store,
        firmware=args.firmware,
        system=_needed(args, "system"),
        windows=_needed(args, "windows"),
        ids=ids,
        locale=args.locale,
        description=args.description or "Windows",
        is_default=not args.keep_default,
    )
    if args.recovery is not None:
        changed = register_recovery(
            changed, ids.os, args.recovery, ids, recovery_path=args.recovery_path
        )
    is_changed, backup = replace_store(args, old, changed)
    _say(args, output, changed, backup=backup, is_changed=is_changed)
    return ExitCode.DONE


def _create_object(args: argparse.Namespace, output: Output) -> ExitCode:
    old = read_file(args.store)
    store = parse_store(old, what=str(args.store), keep_damaged=True)
    guid = uuid.uuid4() if args.object == "new" else find_object(store, args.object)
    if store.object(guid) is not None:
        raise UsageError(
            f"{args.store} has an object {name_object(guid)}",
            hint="`bcd set` changes it, `--object new` makes one with a GUID of its own",
        )
    item = _new_object(args, store, guid)
    if args.description is not None:
        item = item.with_value(_DESCRIPTION, args.description)
    changed = store.with_object(item)
    is_changed, backup = replace_store(args, old, changed)
    _say(args, output, changed, backup=backup, is_changed=is_changed, guid=guid)
    return ExitCode.DONE


def _new_object(args: argparse.Namespace, store: Store, guid: UUID) -> BcdObject:
    if args.like is not None:
        model_guid = find_object(store, args.like)
        model = store.object(model_guid)
        if model is None:
            raise no_such_object(args.store, model_guid)
        elements = tuple(Element(item.id, item.value, item.source) for item in model.elements)
        type_code = model.type_code if args.type is None else object_type(args.type)
        return replace(model, guid=guid, type_code=type_code, elements=elements, source=None)
    if args.type is not None:
        return BcdObject(guid, object_type(args.type))
    alias = object_alias(guid)
    if alias is None:
        known = ", ".join(word for word, _ in OBJECT_TYPES.values())
        raise UsageError("an object has a type", hint=f"give --type: {known}; or --like OBJECT")
    return BcdObject(guid, WELL_KNOWN[alias][2])


def _say(
    args: argparse.Namespace,
    output: Output,
    store: Store,
    *,
    backup: Path | None,
    is_changed: bool,
    guid: UUID | None = None,
) -> None:
    output.event(
        "bcd-create",
        store=str(args.store),
        kind="object" if guid is not None else args.kind,
        object=None if guid is None else str(guid),
        objects=[str(item.guid) for item in store.objects],
        is_changed=is_changed,
        is_dry_run=args.dry_run,
        backup=None if backup is None else str(backup),
    )
    text = f"{args.store}: {len(store.objects)} objects"
    if guid is not None:
        text = f"{name_object(guid)}"
    elif not is_changed:
        text += "; unchanged, it was so already"
    output.result(text)
    if backup is not None:
        output.note(f"backup: {backup}")
    if args.dry_run:
        output.note("dry run, nothing was written")


def _ids(args: argparse.Namespace) -> BootIds:
    seed = secrets.token_bytes(16) if args.seed is None else args.seed.encode(errors="replace")
    return BootIds.derive(seed)


def _needed(args: argparse.Namespace, name: str) -> PartitionRef:
    found: PartitionRef | None = getattr(args, name)
    if found is None:
        raise UsageError(
            f"a store of kind {args.kind} needs to know {_NEEDS[name]}",
            hint=f"give --{name} gpt:DISK:PARTITION or mbr:SIGNATURE:OFFSET",
        )
    return found


_NEEDS = {
    "system": "the partition of the boot manager",
    "windows": "the partition of Windows",
    "recovery": "the partition of WinRE",
}


def _place(args: argparse.Namespace, name: str) -> PartitionRef | BootDevice | LocatePath:
    text: str = getattr(args, name)
    if text.startswith(("gpt:", "mbr:")):
        return parse_partition(text)
    device = parse_device_text(text, resolve=lambda word: find_object(Store(), word))
    if isinstance(device, BootDevice | LocatePath | GptPartition | MbrPartition):
        return device
    raise UsageError(
        f"--{name.replace('_', '-')} {text}: files are on partitions",
        hint=r"give boot, locate=\path, gpt:DISK:PARTITION or mbr:SIGNATURE:OFFSET",
    )
