# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures a directory or an NTFS volume as an image, in a new WIM or in one that exists.

From an NTFS volume (not mounted; a block device or a plain file) libntfs-3g takes ACLs, alternate
streams, reparse points, hard links, short names, attributes, object IDs and times of 100 ns. It
takes no extended attributes and no encrypted files: those are counted by our own survey of the
volume and by libwim's words, and come back as ``not_carried``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from mediamaker.devices.new_file import claimed_name
from mediamaker.errors import NotRepresentableError, SourceError, UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.wim.changing import changed_wim
from mediamaker.wim.meter import NotCarried, WimMeter
from mediamaker.wim.ntfs_volume import NtfsSurvey, is_ntfs_volume, open_ntfs_volume, survey_ntfs
from mediamaker.wim.output import check_outputs
from mediamaker.wim.writing import Encoding, set_encoding
from mediamaker.wimlib.errors import Code, WimlibError
from mediamaker.wimlib.flags import AddFlags, DeleteFlags, WriteFlags
from mediamaker.wimlib.update import Delete
from mediamaker.wimlib.wim import Wim

SourceKind = Literal["directory", "ntfs"]

_NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What is captured, and what the image is called.

    ``config_path`` names a file with an ``[ExclusionList]``; without it what Windows itself leaves
    out (page file, recycle bin, ...) is left out, unless ``takes_everything``.
    """

    source: Path
    name: str
    description: str | None = None
    flags: str | None = None
    is_bootable: bool = False
    config_path: Path | None = None
    takes_everything: bool = False
    takes_unix_data: bool = False
    dereferences: bool = False
    without_acls: bool = False
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureResult:
    """The image ``number`` of ``path``; sizes in bytes, of the file before and after."""

    path: Path
    number: int
    name: str
    kind: SourceKind
    size_before: int
    size_after: int
    excluded: tuple[str, ...] = field(default=(), repr=False)
    not_carried: tuple[NotCarried, ...] = ()
    warnings: tuple[str, ...] = ()


def capture_image(
    request: CaptureRequest,
    path: Path,
    *,
    encoding: Encoding | None = None,
    replace_existing: bool = False,
    integrity: bool = False,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> CaptureResult:
    """Capture into the new file ``path``.

    Raises:
        SourceError: the source can't be read, or names in it are not UTF-8; TargetRefusedError:
            it is in use, or ``path`` is taken, or another run is making it; UsageError: the
            configuration or a name does not do.
    """
    kind, survey = _look_at(request)
    meter = WimMeter(on_event, cancel=cancel)
    wanted = encoding or Encoding()
    check_outputs([path], replace=replace_existing)
    with (
        claimed_name(Path(os.path.realpath(path))),
        Wim.create(wanted.compression, on_event=meter) as wim,
        _names_told(request),
    ):
        number = _add(wim, request, kind)
        _leave_out_output(wim, number, request, path, meter)
        flags = set_encoding(wim, wanted)
        flags |= WriteFlags.CHECK_INTEGRITY if integrity else WriteFlags.NO_CHECK_INTEGRITY
        wim.write(path, flags=flags, threads=threads, replace=replace_existing)
    return _result(
        request,
        path,
        number=number,
        kind=kind,
        survey=survey,
        meter=meter,
        size_before=0,
    )


def append_image(
    request: CaptureRequest,
    path: Path,
    *,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> CaptureResult:
    """Capture into the WIM that is at ``path``, which stays as it is unless all goes well.

    Raises:
        As :func:`capture_image`; UsageError also if an image has that name already.
    """
    kind, survey = _look_at(request)
    meter = WimMeter(on_event, cancel=cancel)
    if not path.is_file():
        raise SourceError(f"{path}: no such file", hint="make a new one with wim capture")
    size_before = path.stat().st_size
    with _names_told(request), changed_wim(path, meter, threads=threads) as wim:
        number = _add(wim, request, kind)
        _leave_out_output(wim, number, request, path, meter)
    return _result(
        request,
        path,
        number=number,
        kind=kind,
        survey=survey,
        meter=meter,
        size_before=size_before,
    )


def _look_at(request: CaptureRequest) -> tuple[SourceKind, NtfsSurvey | None]:
    source = request.source
    if request.config_path is not None and not request.config_path.is_file():
        raise UsageError(f"{request.config_path}: no such file")
    if source.is_dir():
        return "directory", None
    if not is_ntfs_volume(source):
        raise SourceError(f"{source}: no such directory or NTFS volume", hint="check the path")
    if request.takes_unix_data or request.dereferences:
        raise UsageError(f"{source}: Unix data and links are a matter of directories, not of NTFS")
    # Closed again before libntfs-3g opens it: closing a descriptor drops the process's locks.
    with open_ntfs_volume(source, writable=False) as descriptor:
        return "ntfs", survey_ntfs(descriptor, source)


def _add(wim: Wim, request: CaptureRequest, kind: SourceKind) -> int:
    flags = AddFlags.NTFS if kind == "ntfs" else AddFlags.NONE
    if request.is_bootable:
        flags |= AddFlags.BOOT
    if request.takes_unix_data:
        flags |= AddFlags.UNIX_DATA
    if request.dereferences:
        flags |= AddFlags.DEREFERENCE
    if request.without_acls:
        flags |= AddFlags.NO_ACLS
    if request.config_path is None and not request.takes_everything:
        flags |= AddFlags.WINCONFIG
    wim.add_image(request.source, request.name, config=request.config_path, flags=flags)
    number = wim.image_count
    for name, value in (
        ("DESCRIPTION", request.description),
        ("FLAGS", request.flags),
        *request.properties,
    ):
        if value is not None:
            wim.set_property(number, name, value)
    return number


def _leave_out_output(
    wim: Wim, number: int, request: CaptureRequest, path: Path, meter: WimMeter
) -> None:
    """Nobody wants the WIM that is about to be replaced, or is being made, in the WIM."""
    source, target = Path(os.path.realpath(request.source)), Path(os.path.realpath(path))
    if not source.is_dir() or not target.is_relative_to(source):
        return
    names = [target.name]
    for suffix in ("partial", "lock"):
        names.extend(item.name for item in target.parent.glob(f".*.mediamaker-*.{suffix}"))
    for name in names:
        where = target.with_name(name)
        if where.exists():
            inside = f"/{where.relative_to(source)}"
            wim.update_image(number, [Delete(inside, DeleteFlags.FORCE)])
            meter.excluded.append(str(where))


@contextmanager
def _names_told(request: CaptureRequest) -> Iterator[None]:
    """libwim ends at the first name that is not UTF-8; who has to rename wants to know all."""
    try:
        yield
    except WimlibError as error:
        if error.code != Code.INVALID_UTF8_STRING:
            raise
        count = 0
        shown: list[str] = []
        for path in _find_bad_names(os.fsencode(request.source)):
            count += 1
            if len(shown) < _NAMES_SHOWN:
                shown.append(path.decode("utf-8", "backslashreplace"))
        if not count:
            raise
        more = f" and {count - len(shown)} more" if count > len(shown) else ""
        raise NotRepresentableError(
            f"{request.source}: {count} names or link targets are not UTF-8, which a WIM can't "
            f"hold: {', '.join(shown)}{more}",
            hint="rename them (convmv does many at once)",
        ) from error


def _find_bad_names(top: bytes) -> Iterator[bytes]:
    if not _is_utf8(top):  # libwim looks at whole paths
        yield top
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(directory, name)  # noqa: PTH118  (bytes)
            if not _is_utf8(name) or (os.path.islink(path) and not _is_utf8(os.readlink(path))):  # noqa: PTH114, PTH115  (bytes)
                yield path


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _result(
    request: CaptureRequest,
    path: Path,
    *,
    number: int,
    kind: SourceKind,
    survey: NtfsSurvey | None,
    meter: WimMeter,
    size_before: int,
) -> CaptureResult:
    return CaptureResult(
        path=path,
        number=number,
        name=request.name,
        kind=kind,
        size_before=size_before,
        size_after=path.stat().st_size,
        excluded=tuple(meter.excluded),
        not_carried=_not_carried(survey, meter),
        warnings=tuple(meter.warnings),
    )


def _not_carried(survey: NtfsSurvey | None, meter: WimMeter) -> tuple[NotCarried, ...]:
    """libwim's own list, and what the survey saw that libwim does not speak of."""
    if survey is None:
        return meter.not_carried()
    # The only files that libwim calls unsupported on NTFS are the encrypted ones.
    if survey.encrypted_count:
        meter.unsupported.clear()
    found = list(meter.not_carried())
    if survey.extended_attribute_count:
        found.append(
            NotCarried(
                "extended attributes",
                survey.extended_attribute_count,
                survey.extended_attribute_examples,
            )
        )
    if survey.encrypted_count:
        found.append(
            NotCarried(
                "encrypted (EFS) files, and what is in encrypted directories",
                survey.encrypted_count,
                survey.encrypted_examples,
            )
        )
    return tuple(found)
