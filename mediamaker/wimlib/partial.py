# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that appears under its name only when it is complete and flushed.

References: link(2), rename(2), fsync(2). ``wim/output.py`` does the same for several files at
once; a floor below can't use it, and libwim's own files must not be half there either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mediamaker.errors import TargetIOError, TargetRefusedError

_CAN_NOT_FLUSH = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
_NAME_SIZE_MAX = 255
"""NAME_MAX, in bytes."""


@contextmanager
def partial_file(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yields a name beside ``path``; what the block made there becomes ``path`` at its end.

    Raises:
        TargetRefusedError: the name is taken (without ``replace``, or not by a regular file), or
            there is no such directory; TargetIOError: naming the finished file failed.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise TargetRefusedError(f"{path}: there is no directory {target.parent}")
    if os.path.lexists(target):
        if not target.is_file():
            raise TargetRefusedError(f"{path}: exists and is not a regular file")
        if not replace:
            raise _name_taken(target)
    suffix = f".mediamaker-{secrets.token_hex(4)}.partial"
    stem = os.fsdecode(os.fsencode(target.name)[: _NAME_SIZE_MAX - len(suffix) - 1])
    partial = target.with_name(f".{stem}{suffix}")
    try:
        yield partial
        try:
            _publish(partial, target, replace=replace)
        except OSError as error:
            raise TargetIOError(f"{path}: naming the finished file failed: {error}") from error
    finally:
        try:
            _remove(partial)
        except KeyboardInterrupt:
            _remove(partial)
            raise


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)


def _publish(partial: Path, target: Path, *, replace: bool) -> None:
    if replace:
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.replace(target)
    else:
        try:
            target.hardlink_to(partial)  # unlike rename(2), it does not replace
        except FileExistsError:
            raise _name_taken(target) from None
        except OSError:  # FAT and some network file systems have no links
            if os.path.lexists(target):
                raise _name_taken(target) from None
            partial.rename(target)
    # The file is complete; without this its name might not outlive a power cut.
    try:
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a directory that we may write, and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CAN_NOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _name_taken(path: Path) -> TargetRefusedError:
    return TargetRefusedError(
        f"{path}: exists already", hint="name another file, or replace it with --force"
    )
