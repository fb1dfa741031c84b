# SPDX-License-Identifier: GPL-3.0-or-later
"""A Boot Configuration Data store: objects with elements, in a registry hive.

``Objects\\{guid}\\Description`` has the object's Type, ``Objects\\{guid}\\Elements\\XXXXXXXX``
one value named Element. What a store holds beyond that is kept: an object or element that is not
changed is written as it was read, with its spelling, its flags and its bytes.

References: boot-facts 3.2 and the stores of installed systems and media (boot-facts 4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

from mediamaker.errors import FormatError
from mediamaker.formats.bcd_names import element_name, object_alias
from mediamaker.formats.bcd_values import (
    ELEMENT,
    GUID_RE,
    ElementValue,
    UnknownValue,
    pack_value,
    read_value,
)
from mediamaker.formats.regf import Hive, Key, Value, dword_value, parse_hive
from mediamaker.formats.regf_pack import pack_hive

_ELEMENTS = "Elements"
_DESCRIPTION = "Description"
_OBJECTS = "Objects"
_TYPE = "Type"
_ELEMENT_RE = re.compile(r"[0-9a-fA-F]{8}")


@dataclass(frozen=True, slots=True)
class Element:
    """One setting of an object; the form of ``value`` follows from the second digit of ``id``."""

    id: int
    value: ElementValue
    source: Key | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BcdObject:
    """An object: a boot application, settings that others inherit, or options of a device.

    ``elements`` are ascending by id. ``type_code`` is None where the store does not say.
    """

    guid: UUID
    type_code: int | None
    elements: tuple[Element, ...] = ()
    source: Key | None = field(default=None, compare=False, repr=False)

    def element(self, element_id: int) -> Element | None:
        """The element of that id."""
        return next((item for item in self.elements if item.id == element_id), None)

    def value(self, element_id: int) -> ElementValue | None:
        """The value of the element of that id."""
        found = self.element(element_id)
        return None if found is None else found.value

    def with_element(self, element: Element) -> BcdObject:
        """A copy with ``element``, in place of the one of its id."""
        old = self.element(element.id)
        if element.source is None and old is not None:
            element = replace(element, source=old.source)
        kept = [item for item in self.elements if item.id != element.id]
        return replace(self, elements=tuple(sorted((*kept, element), key=lambda item: item.id)))

    def with_value(self, element_id: int, value: ElementValue) -> BcdObject:
        """A copy with an element of this id and value."""
        return self.with_element(Element(element_id, value))

    def without_element(self, element_id: int) -> BcdObject:
        """A copy without the element of that id; the same if there is none."""
        kept = tuple(item for item in self.elements if item.id != element_id)
        return replace(self, elements=kept)


@dataclass(frozen=True, slots=True)
class Store:
    """A whole store; ``objects`` are ascending by GUID, ``description`` is of the store itself."""

    objects: tuple[BcdObject, ...] = ()
    description: tuple[Value, ...] = ()
    source: Hive | None = field(default=None, compare=False, repr=False)

    def object(self, guid: UUID) -> BcdObject | None:
        """The object of that GUID."""
        return next((item for item in self.objects if item.guid == guid), None)

    def with_object(self, changed: BcdObject) -> Store:
        """A copy with this object, in place of the one of its GUID."""
        kept = [item for item in self.objects if item.guid != changed.guid]
        objects = sorted((*kept, changed), key=lambda item: item.guid.hex)
        return replace(self, objects=tuple(objects))

    def without_object(self, guid: UUID) -> Store:
        """A copy without the object of that GUID; the same if there is none."""
        return replace(self, objects=tuple(item for item in self.objects if item.guid != guid))

    def with_description(self, value: Value) -> Store:
        """A copy whose Description has ``value``, in place of the one of its name."""
        key = Key(_DESCRIPTION, values=self.description).with_value(value)
        return replace(self, description=key.values)


def parse_store(data: bytes, *, what: str, keep_damaged: bool = False) -> Store:
    """The store in ``data``; ``what`` names it in messages.

    With ``keep_damaged``, what a boot manager would refuse inside of the store is kept
    (:func:`find_problems` lists it), so that it can be shown and mended.

    Raises:
        FormatError: no hive, no store, or damaged.
    """
    hive = parse_hive(data, what=what)
    objects_key = hive.root.subkey(_OBJECTS)
    if objects_key is None:
        raise FormatError(
            f"{what}: it is a registry hive, but no BCD store: its root "
            f"{hive.root.name!r} has no key Objects",
            hint=r"stores are \Boot\BCD and \EFI\Microsoft\Boot\BCD of the system volume",
        )
    objects: dict[UUID, BcdObject] = {}
    for key in objects_key.subkeys:
        match = GUID_RE.fullmatch(key.name)
        if match is None:
            continue
        guid = UUID(match[1])
        if guid in objects:
            raise FormatError(f"{what}: the object {key.name} is there twice")
        objects[guid] = _parse_object(guid, key, what)
    description = hive.root.subkey(_DESCRIPTION)
    store = Store(
        objects=tuple(sorted(objects.values(), key=lambda item: item.guid.hex)),
        description=() if description is None else description.values,
        source=hive,
    )
    if not keep_damaged:
        for problem in find_problems(store):
            raise FormatError(
                f"{what}: {problem}",
                hint="`mediamaker bcd show` lists all; `bcd set` and `bcd delete` can mend them",
            )
    return store


def pack_store(store: Store) -> bytes:
    """The file of ``store``; the same bytes for the same store.

    Raises:
        FormatError: a name or size that a hive can't hold; UsageError: a value that does not
            fit its element.
    """
    return pack_hive(store_hive(store))


def store_hive(store: Store) -> Hive:
    """The registry hive of ``store``."""
    hive = store.source or Hive(Key("NewStoreRoot"), minor_version=3)
    root = hive.root
    objects_key = root.subkey(_OBJECTS) or Key(_OBJECTS, security=root.security)
    strays = [key for key in objects_key.subkeys if GUID_RE.fullmatch(key.name) is None]
    keys = [_object_key(item, objects_key.security) for item in store.objects]
    description = root.subkey(_DESCRIPTION) or Key(_DESCRIPTION, security=root.security)
    if store.description or store.source is None or root.subkey(_DESCRIPTION) is not None:
        root = root.with_subkey(replace(description, values=store.description))
    root = root.with_subkey(replace(objects_key, subkeys=_sorted_keys((*strays, *keys))))
    return replace(hive, root=root)


def find_problems(store: Store) -> tuple[str, ...]:
    """What boot managers refuse in a store (boot-facts 3.1, 3.2 and 3.6)."""
    return tuple(_problems(store))


def element_owner(item: BcdObject) -> str:
    """An object as messages name it: its alias where it has one."""
    alias = object_alias(item.guid)
    return f"{{{alias or item.guid}}}"


def registry_value(element: Element) -> Value:
    """The element as the registry holds it.

    Raises:
        UsageError: its value is not of the form that its id asks for.
    """
    if element.source is not None and read_value(element.id, element.source) == element.value:
        return element.source.value(ELEMENT) or Value(ELEMENT, 0, b"")
    return pack_value(element.id, element.value)


def _problems(store: Store) -> Iterator[str]:
    root = store.source.root if store.source else None
    if root is not None and root.subkey(_DESCRIPTION) is None:
        yield "it has no key Description (boot managers stop with 0xc0000034)"
    objects_key = root.subkey(_OBJECTS) if root is not None else None
    for key in objects_key.subkeys if objects_key is not None else ():
        if GUID_RE.fullmatch(key.name) is None:
            yield f"the object {key.name!r} has no GUID in braces for a name"
    for item in store.objects:
        who = element_owner(item)
        for element in item.elements:
            if isinstance(element.value, UnknownValue) and element.value.problem:
                name = element_name(element.id, item.type_code)
                yield f"{who}, {element.id:08x} ({name}): {element.value.problem}"
        yield from _key_problems(item, who)


def _key_problems(item: BcdObject, who: str) -> Iterator[str]:
    if item.source is None:
        return
    type_value = item.source.find(_DESCRIPTION)
    found = None if type_value is None else type_value.value(_TYPE)
    if found is not None and found.number is None and item.type_code is None:
        yield f"{who}: its Type is no REG_DWORD"
    elements = item.source.subkey(_ELEMENTS)
    for key in elements.subkeys if elements is not None else ():
        if _ELEMENT_RE.fullmatch(key.name) is None:
            yield f"{who}: the element {key.name!r} has no eight hexadecimal digits for a name"


def _parse_object(guid: UUID, key: Key, what: str) -> BcdObject:
    description = key.subkey(_DESCRIPTION)
    type_value = None if description is None else description.value(_TYPE)
    type_code = None if type_value is None else type_value.number
    elements: dict[int, Element] = {}
    elements_key = key.subkey(_ELEMENTS)
    for element_key in elements_key.subkeys if elements_key is not None else ():
        if _ELEMENT_RE.fullmatch(element_key.name) is None:
            continue
        number = int(element_key.name, 16)
        if number in elements:
            raise FormatError(f"{what}: {key.name} has the element {number:08x} twice")
        elements[number] = Element(number, read_value(number, element_key), element_key)
    ascending = tuple(sorted(elements.values(), key=lambda item: item.id))
    return BcdObject(guid, type_code, ascending, key)


def _object_key(item: BcdObject, security: bytes | None) -> Key:
    key = item.source or Key(f"{{{item.guid}}}", security=security)
    if item.type_code is not None or key.subkey(_DESCRIPTION) is None:
        description = key.subkey(_DESCRIPTION) or Key(_DESCRIPTION, security=security)
        if item.type_code is not None:
            found = description.value(_TYPE)
            if found is None or found.number != item.type_code:
                description = description.with_value(dword_value(_TYPE, item.type_code))
            key = key.with_subkey(description)
    elements = key.subkey(_ELEMENTS)
    if elements is None and not item.elements and item.source is not None:
        return key
    elements = elements or Key(_ELEMENTS, security=security)
    strays = [child for child in elements.subkeys if _ELEMENT_RE.fullmatch(child.name) is None]
    children = [_element_key(element, security) for element in item.elements]
    return key.with_subkey(replace(elements, subkeys=_sorted_keys((*strays, *children))))


def _element_key(element: Element, security: bytes | None) -> Key:
    key = element.source
    if key is None:
        key = Key(f"{element.id:08x}", security=security)
    elif read_value(element.id, key) == element.value:
        return key
    return key.with_value(pack_value(element.id, element.value))


def _sorted_keys(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    return tuple(sorted(keys, key=lambda key: key.name.upper()))


__all__ = [
    "BcdObject",
    "Element",
    "ElementValue",
    "Store",
    "UnknownValue",
    "element_owner",
    "find_problems",
    "pack_store",
    "parse_store",
    "registry_value",
    "store_hive",
]
