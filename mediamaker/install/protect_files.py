# SPDX-License-Identifier: GPL-3.0-or-later
r"""Gives files on an NTFS volume to SYSTEM and the administrators, and to nobody else.

What is added to an image comes from files here, which have no security descriptor; libntfs-3g
then lets everyone do everything. That must not be so for what Windows runs or trusts as SYSTEM:
``\Recovery\OEM``, an answer file, a registry hive. ntfssecaudit(8) sets the descriptors on the
volume, mounted by nobody, as libwim can't.

Reference: [MS-DTYP] 2.4 (SID, ACE, ACL, SECURITY_DESCRIPTOR in self-relative form).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from mediamaker.devices.new_file import shown_name
from mediamaker.errors import TargetIOError, ToolError
from mediamaker.install.tools import ToolResult, run_tool

_FULL_ACCESS: Final = 0x1F01FF
_OBJECT_INHERIT, _CONTAINER_INHERIT = 0x01, 0x02
_SELF_RELATIVE_PROTECTED_DACL: Final = 0x9004
_HEADER: Final = struct.Struct("<BBHIIII")
_LIST_HEADER: Final = struct.Struct("<BBHHH")
_ENTRY_HEADER: Final = struct.Struct("<BBHI")
_LINE_SIZE: Final = 16
_WORD_SIZE: Final = 4
_DONE_RE: Final = re.compile(r"([0-9]+) ACLs? ha(?:s|ve) been applied")


def protect_files(
    volume: Path, directories: Sequence[str], files: Sequence[str], *, scratch: Path
) -> None:
    """Set the descriptors of these paths (``/Recovery/OEM``) of the NTFS volume.

    Without root it takes a user namespace, which some systems don't allow.

    Raises:
        ToolError: ntfssecaudit is missing or failed; TargetIOError: no room in ``scratch``.
    """
    if not directories and not files:
        return
    request = scratch / "descriptors.txt"
    text = "".join(
        [_show("Directory", path, private_descriptor(is_directory=True)) for path in directories]
        + [_show("File", path, private_descriptor(is_directory=False)) for path in files]
    )
    try:
        request.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetIOError(f"{request}: {error.strerror}") from error
    with _resolvable(volume):
        if os.geteuid() == 0:
            arguments = ["-s", str(volume.absolute()), str(request.absolute())]
            done = run_tool("ntfssecaudit", arguments, package="ntfs-3g")
        else:
            done = _run_as_root_of_a_namespace(volume, request)
    match = _DONE_RE.search(done.stdout)
    count = int(match[1]) if match else 0
    if done.returncode or count != len(directories) + len(files):
        raise ToolError(
            f"{volume}: ntfssecaudit set {count} of {len(directories) + len(files)} security "
            f"descriptors and ended with {done.returncode}: {done.said}"
        )


def _run_as_root_of_a_namespace(volume: Path, request: Path) -> ToolResult:
    """ntfssecaudit asks for root even for a file of one's own; a user namespace has one.

    From in there the descriptors of this process are out of reach (ptrace(2): /proc/PID/fd), so
    it gets one of its own.
    """
    try:
        descriptor = os.open(volume, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TargetIOError(f"{volume}: {error.strerror}") from error
    try:
        arguments = ["--user", "--map-root-user", "ntfssecaudit"]
        arguments += ["-s", f"/proc/self/fd/{descriptor}", str(request.absolute())]
        return run_tool("unshare", arguments, package="util-linux", pass_fds=(descriptor,))
    finally:
        os.close(descriptor)


@contextmanager
def _resolvable(volume: Path) -> Iterator[None]:
    """Let realpath(3) find something for a file without a name, ``/proc/PID/fd/N``.

    libntfs-3g resolves the path to compare it with what is mounted, but opens the one that it was
    given.
    """
    with ExitStack() as shown:
        try:
            shown.enter_context(shown_name(volume))
        except OSError as error:
            raise TargetIOError(f"{volume}: {error.strerror}") from error
        yield


def private_descriptor(*, is_directory: bool) -> bytes:
    """All for SYSTEM and the administrators; nothing is inherited from above."""
    administrators, system = _sid(32, 544), _sid(18)
    flags = _OBJECT_INHERIT | _CONTAINER_INHERIT if is_directory else 0
    entries = b"".join(_entry(sid, flags) for sid in (system, administrators))
    size = _LIST_HEADER.size + len(entries)
    group_offset = _HEADER.size + len(administrators)
    list_offset = group_offset + len(system)
    header = _HEADER.pack(
        1, 0, _SELF_RELATIVE_PROTECTED_DACL, _HEADER.size, group_offset, 0, list_offset
    )
    return header + administrators + system + _LIST_HEADER.pack(2, 0, size, 2, 0) + entries


def _sid(*parts: int) -> bytes:
    """S-1-5 (NT Authority) and ``parts``."""
    return (
        bytes((1, len(parts)))
        + (5).to_bytes(6, "big")
        + b"".join(part.to_bytes(4, "little") for part in parts)
    )


def _entry(sid: bytes, flags: int) -> bytes:
    return _ENTRY_HEADER.pack(0, flags, _ENTRY_HEADER.size + len(sid), _FULL_ACCESS) + sid


def _show(kind: str, path: str, descriptor: bytes) -> str:
    """As ntfssecaudit's own backups have it: words of four bytes in hexadecimal."""
    lines = [f"{kind} {path}"]
    for start in range(0, len(descriptor), _LINE_SIZE):
        line = descriptor[start : start + _LINE_SIZE]
        words = (line[at : at + _WORD_SIZE].hex() for at in range(0, len(line), _WORD_SIZE))
        lines.append(f"        {start:06x}  {' '.join(words)}")
    return "\n".join(lines) + "\n"
