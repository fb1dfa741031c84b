# SPDX-License-Identifier: GPL-3.0-or-later
"""libwim's progress messages as typed events; the union :data:`WimEvent` is closed.

Reference: the progress messages of libwim.so.15. Messages about mounting, WIMBoot and Windows
don't occur here; a message that we don't know becomes no event, so that a newer libwim works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final

from mediamaker.wimlib.flags import COMPRESSION_NAMES, CompressionName


class Message(IntEnum):
    """libwim's numbers for what it tells."""

    EXTRACT_IMAGE_BEGIN = 0
    EXTRACT_TREE_BEGIN = 1
    EXTRACT_FILE_STRUCTURE = 3
    EXTRACT_STREAMS = 4
    EXTRACT_METADATA = 6
    EXTRACT_IMAGE_END = 7
    EXTRACT_TREE_END = 8
    SCAN_BEGIN = 9
    SCAN_DENTRY = 10
    SCAN_END = 11
    WRITE_STREAMS = 12
    WRITE_METADATA_BEGIN = 13
    WRITE_METADATA_END = 14
    RENAME = 15
    VERIFY_INTEGRITY = 16
    CALC_INTEGRITY = 17
    SPLIT_BEGIN_PART = 19
    SPLIT_END_PART = 20
    UPDATE_BEGIN_COMMAND = 21
    UPDATE_END_COMMAND = 22
    REPLACE_FILE_IN_WIM = 23
    BEGIN_VERIFY_IMAGE = 27
    END_VERIFY_IMAGE = 28
    VERIFY_STREAMS = 29


@dataclass(frozen=True, slots=True)
class ExtractBegan:
    """An image (or, without a name, paths of it) is about to be extracted to ``target``."""

    image_number: int
    image_name: str
    target: str


@dataclass(frozen=True, slots=True)
class StructureProgress:
    """Files and directories created (``metadata`` False), or given times and ACLs (True)."""

    files_done: int
    files_total: int
    metadata: bool


@dataclass(frozen=True, slots=True)
class ExtractProgress:
    """Contents written to where they are extracted to."""

    bytes_done: int
    bytes_total: int
    blobs_done: int
    blobs_total: int


@dataclass(frozen=True, slots=True)
class ExtractEnded:
    """An image or paths of it are extracted."""

    image_number: int


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How much of a tree was looked at; sent a few times a second, and at the begin and end."""

    source: str
    path: str
    directory_count: int
    file_count: int
    size: int


class ScanReason(Enum):
    """What was special about a file that was scanned."""

    EXCLUDED = 1
    UNSUPPORTED = 2
    FIXED_LINK = 3
    KEPT_LINK = 4


@dataclass(frozen=True, slots=True)
class ScanNotice:
    """A file that is left out, or a link whose target is (or could not be) made to fit."""

    path: str
    reason: ScanReason


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """Blobs compressed and written; ``written_size`` is how large they became so far."""

    bytes_done: int
    bytes_total: int
    blobs_done: int
    blobs_total: int
    threads: int
    compression: CompressionName
    written_size: int


@dataclass(frozen=True, slots=True)
class WriteMetadata:
    """The images' trees are being written (``ended`` False) or are written (True)."""

    ended: bool


@dataclass(frozen=True, slots=True)
class FileRenamed:
    """A file was written under another name and now has its own."""

    path: str


@dataclass(frozen=True, slots=True)
class IntegrityProgress:
    """The integrity table is being checked, or made (``made`` True)."""

    bytes_done: int
    bytes_total: int
    made: bool


@dataclass(frozen=True, slots=True)
class SplitProgress:
    """A part of a split WIM is begun or ended."""

    bytes_done: int
    bytes_total: int
    part_number: int
    part_count: int
    part_path: str
    ended: bool


@dataclass(frozen=True, slots=True)
class UpdateProgress:
    """A command of an update is done."""

    commands_done: int
    commands_total: int


@dataclass(frozen=True, slots=True)
class FileReplaced:
    """A file that was there before was replaced by one that was added."""

    path: str


@dataclass(frozen=True, slots=True)
class VerifyImage:
    """The metadata of an image is being checked."""

    image_number: int
    image_count: int
    ended: bool


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Blobs checked against their SHA-1."""

    bytes_done: int
    bytes_total: int
    blobs_done: int
    blobs_total: int


@dataclass(frozen=True, slots=True)
class Warned:
    """What libwim warned of, in its own words; the call went on. Sent when the call ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """Ctrl-C was heard; libwim will end in good order at its next progress message."""


WimEvent = (
    ExtractBegan
    | StructureProgress
    | ExtractProgress
    | ExtractEnded
    | ScanProgress
    | ScanNotice
    | WriteProgress
    | WriteMetadata
    | FileRenamed
    | IntegrityProgress
    | SplitProgress
    | UpdateProgress
    | FileReplaced
    | VerifyImage
    | VerifyProgress
    | Warned
    | Stopping
)
OnWimEvent = Callable[[WimEvent], None]


def parse_message(ffi: Any, message: int, info: Any) -> WimEvent | None:
    """The event for a message, with everything copied that libwim will reuse."""
    maker = _MAKERS.get(message)
    return maker(ffi, message, info) if maker is not None else None


def text(ffi: Any, pointer: Any) -> str:
    """A string of libwim's, which is UTF-8 but for the odd file name; empty for NULL."""
    return ffi.string(pointer).decode("utf-8", "surrogateescape") if pointer else ""


def _extract_begin(ffi: Any, _message: int, info: Any) -> WimEvent:
    e = info.extract
    return ExtractBegan(e.image, text(ffi, e.image_name), text(ffi, e.target))


def _structure(_ffi: Any, message: int, info: Any) -> WimEvent:
    e = info.extract
    metadata = message == Message.EXTRACT_METADATA
    return StructureProgress(e.current_files, e.end_files, metadata)


def _extract_streams(_ffi: Any, _message: int, info: Any) -> WimEvent:
    e = info.extract
    return ExtractProgress(e.completed_bytes, e.total_bytes, e.completed_streams, e.total_streams)


def _extract_end(_ffi: Any, _message: int, info: Any) -> WimEvent:
    return ExtractEnded(info.extract.image)


def _scan(ffi: Any, message: int, info: Any) -> WimEvent:
    s = info.scan
    at_file = message == Message.SCAN_DENTRY
    path = text(ffi, s.path) if at_file else ""
    if at_file and s.status:
        return ScanNotice(path, ScanReason(s.status))
    return ScanProgress(text(ffi, s.source), path, s.dirs, s.nondirs, s.bytes)


def _write_streams(_ffi: Any, _message: int, info: Any) -> WimEvent:
    w = info.write_streams
    return WriteProgress(
        w.completed_bytes,
        w.total_bytes,
        w.completed_streams,
        w.total_streams,
        w.num_threads,
        COMPRESSION_NAMES[w.compression_type],
        w.completed_compressed_bytes,
    )


def _write_metadata(_ffi: Any, message: int, _info: Any) -> WimEvent:
    return WriteMetadata(ended=message == Message.WRITE_METADATA_END)


def _rename(ffi: Any, _message: int, info: Any) -> WimEvent:
    return FileRenamed(text(ffi, info.rename.to))


def _integrity(_ffi: Any, message: int, info: Any) -> WimEvent:
    i = info.integrity
    made = message == Message.CALC_INTEGRITY
    return IntegrityProgress(i.completed_bytes, i.total_bytes, made)


def _split(ffi: Any, message: int, info: Any) -> WimEvent:
    s = info.split
    return SplitProgress(
        s.completed_bytes,
        s.total_bytes,
        s.part_number,
        s.total_parts,
        text(ffi, s.part_name),
        ended=message == Message.SPLIT_END_PART,
    )


def _update(_ffi: Any, _message: int, info: Any) -> WimEvent:
    return UpdateProgress(info.update.completed, info.update.total)


def _replace(ffi: Any, _message: int, info: Any) -> WimEvent:
    return FileReplaced(text(ffi, info.path.path))


def _verify_image(_ffi: Any, message: int, info: Any) -> WimEvent:
    v = info.verify_image
    ended = message == Message.END_VERIFY_IMAGE
    return VerifyImage(v.current_image, v.total_images, ended)


def _verify_streams(_ffi: Any, _message: int, info: Any) -> WimEvent:
    v = info.verify_streams
    return VerifyProgress(v.completed_bytes, v.total_bytes, v.completed_streams, v.total_streams)


_MAKERS: Final[dict[int, Callable[[Any, int, Any], WimEvent]]] = {
    Message.EXTRACT_IMAGE_BEGIN: _extract_begin,
    Message.EXTRACT_TREE_BEGIN: _extract_begin,
    Message.EXTRACT_FILE_STRUCTURE: _structure,
    Message.EXTRACT_METADATA: _structure,
    Message.EXTRACT_STREAMS: _extract_streams,
    Message.EXTRACT_IMAGE_END: _extract_end,
    Message.EXTRACT_TREE_END: _extract_end,
    Message.SCAN_BEGIN: _scan,
    Message.SCAN_DENTRY: _scan,
    Message.SCAN_END: _scan,
    Message.WRITE_STREAMS: _write_streams,
    Message.WRITE_METADATA_BEGIN: _write_metadata,
    Message.WRITE_METADATA_END: _write_metadata,
    Message.RENAME: _rename,
    Message.VERIFY_INTEGRITY: _integrity,
    Message.CALC_INTEGRITY: _integrity,
    Message.SPLIT_BEGIN_PART: _split,
    Message.SPLIT_END_PART: _split,
    Message.UPDATE_END_COMMAND: _update,
    Message.REPLACE_FILE_IN_WIM: _replace,
    Message.BEGIN_VERIFY_IMAGE: _verify_image,
    Message.END_VERIFY_IMAGE: _verify_image,
    Message.VERIFY_STREAMS: _verify_streams,
}
