# SPDX-License-Identifier: GPL-3.0-or-later
"""ReAgent.xml (where Windows thinks its recovery environment is) and ResetConfig.xml.

Microsoft documents neither the first nor its defaults; this follows files of Windows 8 to 11
(boot-facts 5): UTF-8, a root ``WindowsRE version="2.0"`` with empty elements whose attributes say
everything. ``WinreLocation`` has the byte offset of the partition, on GPT the GUID of the *disk*,
on MBR a zero GUID and the disk signature as the decimal ``id``. Elements and attributes that we
know nothing of are kept in their order.

ResetConfig.xml: Microsoft Learn, "Push-button reset: ResetConfig XML reference".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from mediamaker.errors import FormatError
from mediamaker.units import MIB

XML_SIZE_MAX = 256 * 1024
ROOT = "WindowsRE"
VERSION = "2.0"
WINRE_FOLDER = "\\Recovery\\WindowsRE"

_ELEMENT_COUNT_MAX = 256
_NO_GUID = UUID(int=0)
_BOM = b"\xef\xbb\xbf"
_LOCATION: tuple[tuple[str, str], ...] = (
    ("path", ""),
    ("id", "0"),
    ("offset", "0"),
    ("guid", f"{{{_NO_GUID}}}"),
)

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class WinreLocation:
    """A folder on a partition that begins ``offset`` bytes into a disk.

    ``disk_guid`` on GPT, ``disk_signature`` on MBR; the other one is None.
    """

    path: str
    offset: int
    disk_guid: UUID | None = None
    disk_signature: int | None = None


@dataclass(frozen=True, slots=True)
class ReAgent:
    """The elements below the root by name, in order, each with its attributes in order."""

    elements: tuple[tuple[str, Attributes], ...]
    version: str = VERSION

    def attribute(self, element: str, name: str) -> str | None:
        """The text of an attribute; None when it is not there."""
        for found, attributes in self.elements:
            if found == element:
                return dict(attributes).get(name)
        return None

    @property
    def is_enabled(self) -> bool:
        """Whether Windows thinks that its recovery environment is set up."""
        return self.attribute("InstallState", "state") == "1"

    @property
    def loader_guid(self) -> UUID | None:
        """The object of the BCD store that boots it; None when there is none or it is no GUID."""
        return _guid(self.attribute("WinreBCD", "id"))

    @property
    def location(self) -> WinreLocation | None:
        """Where Winre.wim is; None when nothing is said."""
        path = self.attribute("WinreLocation", "path")
        offset = _number(self.attribute("WinreLocation", "offset"))
        if not path or offset is None:
            return None
        guid = _guid(self.attribute("WinreLocation", "guid"))
        signature = _number(self.attribute("WinreLocation", "id"))
        return WinreLocation(path, offset, guid, signature or None)

    def with_element(self, name: str, **changed: str) -> ReAgent:
        """A copy in which the element ``name`` has these attributes; others of it stay."""
        elements = list(self.elements)
        for index, (found, attributes) in enumerate(elements):
            if found == name:
                merged = dict(attributes) | changed
                elements[index] = (name, tuple(merged.items()))
                break
        else:
            elements.append((name, tuple(changed.items())))
        return replace(self, elements=tuple(elements))


DISABLED = ReAgent(
    (
        ("WinreBCD", (("id", ""),)),
        ("WinreLocation", _LOCATION),
        ("ImageLocation", _LOCATION),
        ("PBRImageLocation", (*_LOCATION, ("index", "0"))),
        ("PBRCustomImageLocation", (*_LOCATION, ("index", "0"))),
        ("InstallState", (("state", "0"),)),
        ("OsInstallAvailable", (("state", "0"),)),
        ("CustomImageAvailable", (("state", "0"),)),
        ("IsAutoRepairOn", (("state", "1"),)),
        ("WinREStaged", (("state", "0"),)),
        ("OperationParam", (("path", ""),)),
        ("OsBuildVersion", (("path", ""),)),
        ("OemTool", (("state", "0"),)),
        ("ScheduledOperation", (("state", "4"),)),
    )
)
"""What a Windows without a recovery environment says."""


def enable_reagent(before: ReAgent | None, *, loader: UUID, location: WinreLocation) -> ReAgent:
    """What ``reagentc /enable`` leaves, from what is there (or what an image begins with)."""
    guid = location.disk_guid or _NO_GUID
    return (
        (before or DISABLED)
        .with_element("WinreBCD", id=f"{{{loader}}}")
        .with_element(
            "WinreLocation",
            path=location.path,
            id=str(location.disk_signature or 0),
            offset=str(location.offset),
            guid=f"{{{guid}}}",
        )
        .with_element("InstallState", state="1")
        .with_element("WinREStaged", state="0")
    )


def parse_reagent(data: bytes, *, what: str) -> ReAgent:
    """The document ``data``, UTF-8 or UTF-16 with a byte order mark.

    Raises:
        FormatError: too big, no XML, a DOCTYPE, another root, or elements inside elements.
    """
    if len(data) > XML_SIZE_MAX:
        raise FormatError(f"{what}: expected at most {XML_SIZE_MAX} bytes, got {len(data)}")
    reader = _Reader(what)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    # In the order of the document, as name, value, name, value.
    parser.ordered_attributes = True
    try:
        parser.Parse(data, True)  # noqa: FBT003 - pyexpat's parameter has no name
    except expat.ExpatError as error:
        raise FormatError(f"{what} is not XML: {error}") from error
    return ReAgent(tuple(reader.elements), version=reader.version)


def pack_reagent(reagent: ReAgent) -> bytes:
    """The document: UTF-8 with a byte order mark and CR LF, as Windows writes it."""
    lines = ["<?xml version='1.0' encoding='utf-8'?>", "", f"<{ROOT} version={_quoted(reagent)}>"]
    for name, attributes in reagent.elements:
        words = "".join(f" {key}={quoteattr(value)}" for key, value in attributes)
        lines.append(f"  <{name}{words}/>")
    lines.append(f"</{ROOT}>")
    return _BOM + "\r\n".join([*lines, ""]).encode()


def pack_reset_config(
    *,
    partition_script: str,
    windows_number: int,
    recovery_number: int | None,
    recovery_folder: str = "Recovery\\WindowsRE",
    disk_size_min: int | None = None,
) -> bytes:
    r"""``C:\Recovery\OEM\ResetConfig.xml`` for a layout that is not Microsoft's default.

    ``partition_script`` is the name of a diskpart script beside it, without ``select disk`` and
    ``clean``, which the reset does itself; the numbers are those of the partitions it makes.
    Without a recovery partition neither it nor its folder is named, as they go together.
    """
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<Reset>", "  <SystemDisk>"]
    if disk_size_min is not None:
        lines.append(f"    <MinSize>{-(-disk_size_min // MIB)}</MinSize>")
    lines += [
        f"    <DiskpartScriptPath>{escape(partition_script)}</DiskpartScriptPath>",
        f"    <OSPartition>{windows_number}</OSPartition>",
    ]
    if recovery_number is not None:
        lines += [
            f"    <WindowsREPartition>{recovery_number}</WindowsREPartition>",
            f"    <WindowsREPath>{escape(recovery_folder)}</WindowsREPath>",
        ]
    lines += ["    <Compact>False</Compact>", "  </SystemDisk>", "</Reset>", ""]
    return "\r\n".join(lines).encode()


class _Reader:
    def __init__(self, what: str) -> None:
        self.elements: list[tuple[str, Attributes]] = []
        self.version = ""
        self._what = what
        self._depth = 0

    def start(self, name: str, attributes: list[str]) -> None:
        pairs = tuple(zip(attributes[::2], attributes[1::2], strict=True))
        self._depth += 1
        if self._depth == 1:
            if name != ROOT:
                raise FormatError(f"{self._what}: expected a root {ROOT}, got {name[:40]!r}")
            self.version = dict(pairs).get("version", "")
            return
        if self._depth > 2:
            raise FormatError(f"{self._what}: {name[:40]!r} is inside another element")
        if len(self.elements) >= _ELEMENT_COUNT_MAX:
            raise FormatError(f"{self._what}: over {_ELEMENT_COUNT_MAX} elements")
        self.elements.append((name, pairs))

    def end(self, name: str) -> None:
        del name
        self._depth -= 1

    def refuse_doctype(self, *_: object) -> None:
        raise FormatError(f"{self._what}: has a DOCTYPE, which no such file has")


def _quoted(reagent: ReAgent) -> str:
    return quoteattr(reagent.version or VERSION)


def _guid(text: str | None) -> UUID | None:
    try:
        guid = UUID((text or "").strip("{}"))
    except ValueError:
        return None
    return None if guid == _NO_GUID else guid


def _number(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 20:
        return None
    return int(text)
