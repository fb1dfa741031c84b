# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bcd set|delete|export``: a store changed or copied, whole or not at all."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from mediamaker.cli.bcd_show import (
    element_to_json,
    namer,
    no_such_object,
    one_line,
    read_file,
    show_store,
    store_to_json,
)
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, MediaError, SourceChangedError, UsageError
from mediamaker.formats.bcd import (
    BcdObject,
    Element,
    ElementValue,
    Store,
    find_problems,
    pack_store,
    parse_store,
)
from mediamaker.formats.bcd_devices import Ramdisk
from mediamaker.formats.bcd_names import element_id, element_name, object_alias
from mediamaker.formats.bcd_text import find_object, format_value, name_object, parse_value
from mediamaker.plan.boot_entries import remove_object
from mediamaker.wim.output import check_outputs, open_output

BACKUP_SUFFIX = ".bak"


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``set``."""
    _add_place(parser)
    parser.add_argument("element", metavar="ELEMENT", help="timeout, osdevice, custom:26000010 ...")
    parser.add_argument(
        "values",
        nargs="+",
        metavar="VALUE",
        help="30, yes, Standard, \\path, {bootmgr}, partition=gpt:DISK:PARTITION, boot ...",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--add-first", action="store_true", help="put it before a list's items")
    where.add_argument("--add-last", action="store_true", help="put it behind a list's items")
    where.add_argument("--remove", action="store_true", help="take it out of a list")
    add_writing(parser)


def run_set(args: argparse.Namespace, output: Output) -> ExitCode:
    """Set one element."""
    old = read_file(args.store)
    store = parse_store(old, what=str(args.store), keep_damaged=True)
    item = _find(store, args)
    number = element_id(args.element, item.type_code)
    value = parse_value(
        args.values, number, item.type_code, resolve=lambda word: find_object(store, word)
    )
    if args.add_first or args.add_last or args.remove:
        value = _change_list(item.value(number), value, args)
    before = item.element(number)
    is_gone = args.remove and value == ()
    after = item.without_element(number) if is_gone else item.with_value(number, value)
    for guid in _mentioned(value):
        if store.object(guid) is None:
            output.warning(f"{args.store} has no object {name_object(guid)}, which this names")
    changed = store.with_object(after)
    _finish(
        args,
        output,
        action="set",
        old=old,
        store=changed,
        item=item,
        before=before,
        after=after.element(number),
    )
    return ExitCode.DONE


def add_delete_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``delete``."""
    _add_place(parser)
    parser.add_argument(
        "element", nargs="?", metavar="ELEMENT", help="only this element of it (/deletevalue)"
    )
    parser.add_argument("--force", action="store_true", help="a well-known object too: {bootmgr}")
    parser.add_argument("--missing-ok", action="store_true", help="no error if it is not there")
    parser.add_argument(
        "--keep-links", action="store_true", help="leave it in the lists of the boot managers"
    )
    add_writing(parser)


def run_delete(args: argparse.Namespace, output: Output) -> ExitCode:
    """Delete an object or one element of it."""
    old = read_file(args.store)
    store = parse_store(old, what=str(args.store), keep_damaged=True)
    guid = find_object(store, args.object)
    item = store.object(guid)
    if item is None:
        if not args.missing_ok:
            raise no_such_object(args.store, guid)
        item = BcdObject(guid, None)
    if args.element is not None:
        number = element_id(args.element, item.type_code)
        before = item.element(number)
        if before is None and not args.missing_ok:
            raise UsageError(
                f"{name_object(guid)} has no element {element_name(number, item.type_code)}",
                hint="--missing-ok accepts that",
            )
        changed = store if before is None else store.with_object(item.without_element(number))
        _finish(
            args,
            output,
            action="delete-element",
            old=old,
            store=changed,
            item=item,
            before=before,
            after=None,
        )
        return ExitCode.DONE
    if object_alias(guid) is not None and not args.force and store.object(guid) is not None:
        raise UsageError(
            f"{name_object(guid)} is an object that Windows expects in a store",
            hint="--force deletes it nevertheless",
        )
    changed = store.without_object(guid) if args.keep_links else remove_object(store, guid)
    _finish(
        args,
        output,
        action="delete-object",
        old=old,
        store=changed,
        item=item,
        before=None,
        after=None,
    )
    return ExitCode.DONE


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``export``."""
    parser.add_argument("store", type=Path, metavar="STORE", help="a BCD file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to make")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("store", "text", "json"),
        default="store",
        help="a store, compact and checked (default), what `show` prints, or its JSON",
    )
    add_force(parser)
    parser.add_argument("--no-backup", action="store_true", help="keep no OUT.bak")


def run_export(args: argparse.Namespace, output: Output) -> ExitCode:
    """Copy a store, or what it says, into a file."""
    store = parse_store(
        read_file(args.store), what=str(args.store), keep_damaged=args.form != "store"
    )
    match args.form:
        case "store":
            data = packed(store)
        case "text":
            data = (show_store(store, wanted=None, is_verbose=True) + "\n").encode(
                "utf-8", "backslashreplace"
            )
        case _:
            data = (json.dumps(store_to_json(args.store, store), indent=2) + "\n").encode()
    backup = write_with_backup(args.out, data, replace=args.force, no_backup=args.no_backup)
    output.event(
        "bcd-export",
        store=str(args.store),
        path=str(args.out),
        form=args.form,
        object_count=len(store.objects),
        size=len(data),
        backup=None if backup is None else str(backup),
    )
    output.result(f"{args.out}: {len(store.objects)} objects, {len(data)} bytes")
    if backup is not None:
        output.note(f"backup: {backup}")
    return ExitCode.DONE


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Declare how a store is written."""
    parser.add_argument("--no-backup", action="store_true", help="keep no STORE.bak")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would change; write nothing"
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Declare that a file may be replaced."""
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def packed(store: Store) -> bytes:
    """The bytes of a store, read back and compared.

    Raises:
        MediaError: what would be written says something else; this is a bug.
    """
    data = pack_store(store)
    if parse_store(data, what="the new store", keep_damaged=True) != store:
        raise MediaError("the store would not read back as it was meant; nothing was written")
    return data


def write_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file, whole or not at all."""
    with open_output(path, replace=replace) as partial_path:
        partial_path.write_bytes(data)


def write_with_backup(path: Path, data: bytes, *, replace: bool, no_backup: bool) -> Path | None:
    """Write a store; what had its name before becomes the backup, whose path is given."""
    check_outputs([path], replace=replace)
    backup = None
    if path.is_file() and not no_backup:
        target = Path(os.path.realpath(path))
        backup = target.with_name(target.name + BACKUP_SUFFIX)
        write_file(backup, target.read_bytes(), replace=True)
    write_file(path, data, replace=replace)
    return backup


def replace_store(args: argparse.Namespace, old: bytes, store: Store) -> tuple[bool, Path | None]:
    """Put ``store`` where it was read from: whether it changed, and where the backup is."""
    data = packed(store)
    if store == parse_store(old, what=str(args.store), keep_damaged=True):
        return False, None
    if args.dry_run:
        return True, None
    if read_file(args.store) != old:
        raise SourceChangedError(
            f"{args.store} was changed by another program meanwhile; nothing was written",
            hint="run the command again",
        )
    return True, write_with_backup(args.store, data, replace=True, no_backup=args.no_backup)


def _finish(
    args: argparse.Namespace,
    output: Output,
    *,
    action: str,
    old: bytes,
    store: Store,
    item: BcdObject,
    before: Element | None,
    after: Element | None,
) -> None:
    """Write, and say what was done."""
    is_changed, backup = replace_store(args, old, store)
    name = namer(store, is_verbose=False)
    output.event(
        "bcd-change",
        store=str(args.store),
        action=action,
        object=str(item.guid),
        element=None if action == "delete-object" else _element_of(args, item),
        before=None if before is None else element_to_json(before, item.type_code, name),
        after=None if after is None else element_to_json(after, item.type_code, name),
        is_changed=is_changed,
        is_dry_run=args.dry_run,
        backup=None if backup is None else str(backup),
    )
    who = name_object(item.guid)
    if action == "delete-object":
        what = f"{who} deleted"
    else:
        words = [
            "nothing" if element is None else _shown(element, item) for element in (before, after)
        ]
        label = element_name(element_id(args.element, item.type_code), item.type_code)
        what = f"{who} {label}: {words[0]} -> {words[1]}"
    if not is_changed:
        what = f"{args.store} is unchanged: it was so already"
    if args.dry_run:
        what += " (dry run, nothing was written)"
    output.result(what + (f"\nbackup: {backup}" if backup else ""))
    for problem in find_problems(store):
        output.warning(f"{args.store}: {problem}")


def _element_of(args: argparse.Namespace, item: BcdObject) -> str:
    return f"{element_id(args.element, item.type_code):08x}"


def _shown(element: Element, item: BcdObject) -> str:
    return one_line(" ".join(format_value(element, item.type_code))) or "an empty list"


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="a BCD file")
    parser.add_argument("object", metavar="OBJECT", help="{default}, {bootmgr}, ... or a GUID")


def _find(store: Store, args: argparse.Namespace) -> BcdObject:
    guid = find_object(store, args.object)
    item = store.object(guid)
    if item is None:
        error = no_such_object(args.store, guid)
        error.hint = f"{error.hint}; `bcd create {args.store} --object ...` makes one"
        raise error
    return item


def _change_list(
    before: ElementValue | None, value: ElementValue, args: argparse.Namespace
) -> ElementValue:
    if not isinstance(value, tuple):
        raise UsageError(
            f"{args.element} is no list", hint="--add-first, --add-last and --remove are for lists"
        )
    # The items of a list are all of one kind; `value` was parsed for the same element.
    old: tuple[Any, ...] = before if isinstance(before, tuple) else ()
    kept = tuple(item for item in old if item not in value)
    if args.remove:
        return kept
    return (*value, *kept) if args.add_first else (*kept, *value)


def _mentioned(value: ElementValue) -> Sequence[UUID]:
    if isinstance(value, UUID):
        return [value]
    if isinstance(value, tuple):
        return [item for item in value if isinstance(item, UUID)]
    if isinstance(value, Ramdisk) and value.options_guid is not None:
        return [value.options_guid]
    return []
