# SPDX-License-Identifier: GPL-3.0-or-later
"""Device elements of a BCD store: which partition, file or virtual disk a boot entry means.

A value is the GUID of an options object (zero: none), then one descriptor: type, flags, size of
the descriptor, a reserved word, and a body that depends on the type. A descriptor may hold
another one: the partition that a ramdisk's file is on, the file that a virtual disk is in.

References: the bytes of real stores and what real boot managers accepted (boot-facts 3.5);
the names are of Microsoft's BCD WMI provider (BcdDeviceData and its subclasses). Its numbers for
partition styles are not those on disk: here 0 is GPT and 1 is MBR.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import assert_never
from uuid import UUID

from mediamaker.errors import FormatError, UsageError

OPTIONS_SIZE = 16
_NO_OPTIONS = bytes(OPTIONS_SIZE)
_HEADER = struct.Struct("<4I")  # type, flags, size, reserved
_PARTITION_BODY_SIZE = 56

_TYPE_BLOCK = 0
_TYPE_BOOT = 5
_TYPE_PARTITION = 6
_TYPE_LOCATE = 8

_BLOCK_RAMDISK = 3
_BLOCK_FILE = 5
_BLOCK_VIRTUAL_DISK = 6
_RAMDISK_FLAGS = 1
_BLOCK_PADDING = bytes(20)  # of a ramdisk: base u64, size u64, offset u32
_FILE_PATH = struct.Struct("<3I")  # version, length, type
_FILE_PATH_VERSION = 1
_FILE_PATH_TYPE = 5

_STYLE_GPT = 0
_STYLE_MBR = 1

_LOCATE = struct.Struct("<3I")  # by what, element, offset of the parent
_LOCATE_BY_ELEMENT = 0
_LOCATE_BY_PATH = 1

_NESTING_MAX = 6


@dataclass(frozen=True, slots=True)
class BootDevice:
    """The partition that the boot manager itself was loaded from."""


@dataclass(frozen=True, slots=True)
class GptPartition:
    """A partition by the identities of its GPT."""

    disk_guid: UUID
    partition_guid: UUID


@dataclass(frozen=True, slots=True)
class MbrPartition:
    """A partition by its disk's MBR signature and where it begins; ``offset`` is bytes."""

    disk_signature: int
    offset: int


@dataclass(frozen=True, slots=True)
class LocateElement:
    """The partition that has the path which another element of the object names.

    ``element_id`` is 0x12000002 (path) for a device, 0x22000002 (systemroot) for an osdevice.
    With a ``parent``, it is looked for there: in a virtual disk.
    """

    element_id: int
    parent: Device | None = None


@dataclass(frozen=True, slots=True)
class LocatePath:
    """The partition that has ``path``."""

    path: str


@dataclass(frozen=True, slots=True)
class Ramdisk:
    """A file that is loaded into memory and booted from: a WIM."""

    options_guid: UUID | None
    parent: Device
    path: str


@dataclass(frozen=True, slots=True)
class FileDevice:
    """A file that is a device."""

    parent: Device
    path: str


@dataclass(frozen=True, slots=True)
class VhdDevice:
    """A disk that is the content of a VHD or VHDX."""

    file: FileDevice


@dataclass(frozen=True, slots=True)
class RawDevice:
    """Bytes that we would not write so, kept as they are.

    ``meaning`` is what they say nevertheless, where that can be told; ``problem`` is what is
    unusual about them.
    """

    data: bytes
    meaning: Device | None = field(default=None, compare=False)
    problem: str = field(default="", compare=False)


Device = (
    BootDevice
    | GptPartition
    | MbrPartition
    | LocateElement
    | LocatePath
    | Ramdisk
    | FileDevice
    | VhdDevice
    | RawDevice
)
PartitionRef = GptPartition | MbrPartition


def parse_device(data: bytes) -> Device:
    """What a device element means; never fails, :class:`RawDevice` holds what is not known."""
    try:
        options, device, end = _parse_value(data)
    except FormatError as error:
        return RawDevice(data, problem=error.message)
    if isinstance(device, Ramdisk):
        device = Ramdisk(options, device.parent, device.path)
        options = None
    try:
        packed = pack_device(device)
    except UsageError as error:
        return RawDevice(data, device, error.message)
    if packed == data:
        return device
    if options is not None:
        problem = f"it has an options object, {{{options}}}, which this kind of device ignores"
    elif end != len(data):
        problem = f"{len(data) - end} bytes follow it"
    else:
        problem = "a field that should be zero is not, or a length differs"
    return RawDevice(data, device, problem)


def pack_device(device: Device) -> bytes:
    """The value of the element.

    Raises:
        UsageError: a path without a leading backslash, or a number that does not fit.
    """
    if isinstance(device, RawDevice):
        return device.data
    options = _NO_OPTIONS
    if isinstance(device, Ramdisk) and device.options_guid is not None:
        options = device.options_guid.bytes_le
    return options + _pack_descriptor(device)


def device_meaning(device: Device) -> Device:
    """The device that is meant, for one whose bytes are unusual; otherwise ``device`` itself."""
    if isinstance(device, RawDevice) and device.meaning is not None:
        return device.meaning
    return device


def device_partition(device: Device) -> PartitionRef | BootDevice | LocatePath | None:
    """Where the files of ``device`` lie: the innermost parent, None when it can't be told."""
    match device_meaning(device):
        case GptPartition() | MbrPartition() | BootDevice() | LocatePath() as found:
            return found
        case Ramdisk(parent=parent) | FileDevice(parent=parent):
            return device_partition(parent)
        case VhdDevice(file=file):
            return device_partition(file)
        case LocateElement(parent=inner):
            return None if inner is None else device_partition(inner)
        case RawDevice():
            return None


def _pack_descriptor(device: Device) -> bytes:  # noqa: PLR0911 - one for each kind
    match device:
        case BootDevice():
            return _descriptor(_TYPE_BOOT, bytes(_PARTITION_BODY_SIZE))
        case GptPartition(disk_guid=disk, partition_guid=partition):
            style = struct.pack("<2I", 0, _STYLE_GPT)
            return _descriptor(
                _TYPE_PARTITION, partition.bytes_le + style + disk.bytes_le + bytes(16)
            )
        case MbrPartition(disk_signature=signature, offset=offset):
            _check_range("an MBR disk signature", signature, 4)
            _check_range("a partition's offset", offset, 8)
            body = struct.pack("<Q8x3I28x", offset, 0, _STYLE_MBR, signature)
            return _descriptor(_TYPE_PARTITION, body)
        case LocateElement(element_id=element_id, parent=parent):
            _check_range("an element's id", element_id, 4)
            inner = b"" if parent is None else _pack_descriptor(parent)
            head_size = _HEADER.size + _LOCATE.size + 2
            body = _LOCATE.pack(_LOCATE_BY_ELEMENT, element_id, head_size if inner else 0)
            return _descriptor(_TYPE_LOCATE, body + bytes(2) + inner)
        case LocatePath(path=path):
            return _descriptor(_TYPE_LOCATE, _LOCATE.pack(_LOCATE_BY_PATH, 0, 0) + _pack_path(path))
        case Ramdisk() | FileDevice() | VhdDevice():
            return _pack_block(device)
        case RawDevice(data=data):
            return data[OPTIONS_SIZE:]
        case _:
            assert_never(device)


def _pack_block(device: Ramdisk | FileDevice | VhdDevice) -> bytes:
    match device:
        case Ramdisk(parent=parent, path=path):
            body = struct.pack("<I", _BLOCK_RAMDISK) + _BLOCK_PADDING + _pack_file(parent, path)
            return _descriptor(_TYPE_BLOCK, body, flags=_RAMDISK_FLAGS)
        case FileDevice(parent=parent, path=path):
            body = struct.pack("<I", _BLOCK_FILE) + _pack_file(parent, path)
            return _descriptor(_TYPE_BLOCK, body)
        case VhdDevice(file=file):
            body = struct.pack("<I", _BLOCK_VIRTUAL_DISK) + _BLOCK_PADDING + _pack_descriptor(file)
            return _descriptor(_TYPE_BLOCK, body)
        case _:
            assert_never(device)


def _descriptor(type_code: int, body: bytes, *, flags: int = 0) -> bytes:
    return _HEADER.pack(type_code, flags, _HEADER.size + len(body), 0) + body


def _pack_file(parent: Device, path: str) -> bytes:
    inner = _pack_descriptor(parent) + _pack_path(path)
    length = _FILE_PATH.size + len(inner)
    return _FILE_PATH.pack(_FILE_PATH_VERSION, length, _FILE_PATH_TYPE) + inner


def _pack_path(path: str) -> bytes:
    # Required by every boot manager seen: a leading backslash, no slash, a final NUL.
    if not path.startswith("\\") or "/" in path or "\0" in path:
        raise UsageError(
            f"{path!r} is not a path that a boot manager opens",
            hint=r"write it from the root of its volume, with backslashes: \sources\boot.wim",
        )
    return (path + "\0").encode("utf-16-le", "surrogatepass")


def _check_range(what: str, number: int, size: int) -> None:
    if not 0 <= number < 1 << 8 * size:
        raise UsageError(f"{what} has {size} bytes; {number} does not fit")


def _parse_value(data: bytes) -> tuple[UUID | None, Device, int]:
    if len(data) < OPTIONS_SIZE + _HEADER.size:
        raise FormatError(f"a device has at least 32 bytes, got {len(data)}")
    options = None
    if data[:OPTIONS_SIZE] != _NO_OPTIONS:
        options = UUID(bytes_le=data[:OPTIONS_SIZE])
    device, size = _parse_descriptor(data[OPTIONS_SIZE:], 0)
    return options, device, OPTIONS_SIZE + size


def _parse_descriptor(data: bytes, depth: int) -> tuple[Device, int]:
    """The descriptor at the start of ``data``, and its size."""
    if depth > _NESTING_MAX:
        raise FormatError(f"devices are nested more than {_NESTING_MAX} deep")
    if len(data) < _HEADER.size:
        raise FormatError(f"a device descriptor has at least 16 bytes, got {len(data)}")
    type_code, _flags, size, _ = _HEADER.unpack_from(data)
    if not _HEADER.size <= size <= len(data):
        raise FormatError(f"a device says it has {size} bytes, there are {len(data)}")
    body = data[_HEADER.size : size]
    match type_code:
        case 5:
            device: Device = BootDevice()
        case 6:
            device = _parse_partition(body)
        case 8:
            device = _parse_locate(body, depth)
        case 0:
            device = _parse_block(body, depth)
        case _:
            name = {2: "a legacy partition", 3: "a serial port", 4: "a network"}.get(type_code)
            raise FormatError(f"device type {type_code} ({name or 'unknown'}) is not decoded")
    return device, size


def _parse_partition(body: bytes) -> Device:
    _expect(body, _PARTITION_BODY_SIZE, "a partition")
    local_type, style = struct.unpack_from("<2I", body, 16)
    if local_type != 0:
        raise FormatError(f"a partition of block device type {local_type} is not decoded")
    if style == _STYLE_GPT:
        return GptPartition(UUID(bytes_le=body[24:40]), UUID(bytes_le=body[:16]))
    if style == _STYLE_MBR:
        return MbrPartition(
            int.from_bytes(body[24:28], "little"), int.from_bytes(body[:8], "little")
        )
    raise FormatError(f"a partition of table style {style} is not decoded")


def _parse_locate(body: bytes, depth: int) -> Device:
    _expect(body, _LOCATE.size + 2, "a locate device")
    by_what, element_id, parent_offset = _LOCATE.unpack_from(body)
    parent = None
    if parent_offset:
        if not _HEADER.size <= parent_offset <= _HEADER.size + len(body):
            raise FormatError(f"a locate device's parent is at {parent_offset:#x}, past its end")
        parent, _ = _parse_descriptor(body[parent_offset - _HEADER.size :], depth + 1)
    if by_what == _LOCATE_BY_ELEMENT:
        return LocateElement(element_id, parent)
    if by_what == _LOCATE_BY_PATH and parent is None:
        return LocatePath(_parse_path(body[_LOCATE.size :]))
    raise FormatError(f"a locate device of type {by_what} is not decoded")


def _parse_block(body: bytes, depth: int) -> Device:
    _expect(body, 4, "a block device")
    kind = int.from_bytes(body[:4], "little")
    after_padding = body[4 + len(_BLOCK_PADDING) :]
    match kind:
        case 3:
            parent, path = _parse_file(after_padding, depth)
            return Ramdisk(None, parent, path)
        case 5:
            return FileDevice(*_parse_file(body[4:], depth))
        case 6:
            file, _ = _parse_descriptor(after_padding, depth + 1)
            if not isinstance(file, FileDevice):
                raise FormatError("a virtual disk that is not in a file is not decoded")
            return VhdDevice(file)
        case _:
            names = {0: "a whole disk", 1: "a floppy", 2: "a CD"}
            name = names.get(kind, "unknown")
            raise FormatError(f"block device type {kind} ({name}) is not decoded")


def _parse_file(data: bytes, depth: int) -> tuple[Device, str]:
    _expect(data, _FILE_PATH.size, "a file's path")
    _version, length, _type = _FILE_PATH.unpack_from(data)
    if not _FILE_PATH.size <= length <= len(data):
        raise FormatError(f"a file's path says it has {length} bytes, there are {len(data)}")
    inner = data[_FILE_PATH.size : length]
    parent, parent_size = _parse_descriptor(inner, depth + 1)
    return parent, _parse_path(inner[parent_size:])


def _parse_path(data: bytes) -> str:
    return data[: len(data) // 2 * 2].decode("utf-16-le", "surrogatepass").partition("\0")[0]


def _expect(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise FormatError(f"{what} has at least {size} bytes, got {len(data)}")
