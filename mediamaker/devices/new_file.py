# SPDX-License-Identifier: GPL-3.0-or-later
"""How a new file gets its place and its name; for image files and for WIMs alike.

Until it is complete it has no name, or is ``.NAME.mediamaker-XXXXXXXX.partial`` in the same
directory, so that giving it its name is atomic. Only one run at a time makes a file of a name.
References: open(2), link(2), rename(2), flock(2), unix(7).

Who makes such a file holds a lock: on it, or where a library puts another file in its place, on
``.NAME.mediamaker-XXXXXXXX.lock`` beside it. One whose lock is free was left by a run that was
killed; the next run that makes NAME removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mediamaker.errors import TargetRefusedError

_PARTIAL, _LOCK = ".partial", ".lock"
_DELETED = "#* (deleted)"
_PLACEHOLDER = b"mediamaker: the name of a file that has none yet; may be removed when none runs\n"
_CAN_NOT_FLUSH = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
"""Of fsync(2), by file systems that know it for files only."""
_NAME_SIZE_MAX = 255
"""NAME_MAX of every Linux file system that matters, in bytes."""


@contextmanager
def claimed_name(target: Path) -> Iterator[None]:
    """While the block runs, be the one run on this host that makes ``target``.

    The claim is a socket in the abstract name space, which goes with its process and leaves
    nothing behind: a lock file would outlive SIGKILL, and there is no old file to lock where there
    is a new one to make. Where none can be had, nobody is refused.

    Raises:
        TargetRefusedError: another run is making it.
    """
    with contextlib.ExitStack() as held:
        try:
            folder = target.parent.stat()
            facts = f"{folder.st_dev}:{folder.st_ino}:".encode() + os.fsencode(target.name)
            claim = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            claim.bind(f"\0mediamaker-makes-{hashlib.sha256(facts).hexdigest()}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise TargetRefusedError(
                    f"{target}: another run of mediamaker is making it just now",
                    hint="wait until that one has ended, or name another file",
                ) from None
        yield


def name_beside(target: Path) -> Path:
    """A name for what becomes ``target``, beside it; another one each time."""
    return target.with_name(f"{_stem(target)}{secrets.token_hex(4)}{_PARTIAL}")


def _stem(target: Path) -> str:
    room = _NAME_SIZE_MAX - len(f"..mediamaker-12345678{_PARTIAL}")
    return "." + os.fsdecode(os.fsencode(target.name)[:room]) + ".mediamaker-"


@contextmanager
def held_name(partial: Path) -> Iterator[None]:
    """While the block runs, nobody takes what :func:`name_beside` gave for left behind.

    Raises:
        OSError: no file can be made there.
    """
    lock = partial.with_suffix(_LOCK)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _lock(descriptor)
        except BlockingIOError:  # another run takes it for left behind, just now
            raise
        except OSError:  # a file system without locks: nobody removes anything
            pass
        yield
    finally:
        _remove(lock)
        os.close(descriptor)


def hold_file(descriptor: int) -> None:
    """The same for a file that stays the same one until it has its name; until it is closed."""
    with contextlib.suppress(OSError):  # a file system without locks: nobody removes anything
        _lock(descriptor)


@contextmanager
def shown_name(path: Path) -> Iterator[None]:
    """While the block runs there is a file where ``path``, a link of ``/proc/PID/fd``, leads to.

    The kernel shows a file without a name as ``#INODE (deleted)`` in its directory, where nothing
    is: programs that resolve a path before they open it fail. What SIGKILL leaves of it says what
    it is, and goes with the next run that makes a file beside it.

    Raises:
        OSError: no file can be made there.
    """
    if not path.is_symlink() or (shown := path.readlink()).exists():
        yield
        return
    descriptor = os.open(shown, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        hold_file(descriptor)
        os.write(descriptor, _PLACEHOLDER)
        yield
    finally:
        _remove(shown)
        os.close(descriptor)


def remove_leftovers(target: Path) -> None:
    """Remove what runs left that were killed while they made ``target``."""
    for path in target.parent.glob(_DELETED):
        with _taken(path) as is_free:
            # Empty: killed before it was said what it is.
            if is_free and _read_head(path) in {_PLACEHOLDER, b""}:
                _remove(path)
    stem = glob.escape(_stem(target))
    for name in target.parent.glob(f"{stem}????????{_LOCK}"):
        with _taken(name) as is_free:
            if is_free:
                # Libraries put files of their own beside, with names that are made of this one.
                token = f"{_stem(target)}{name.name[-8 - len(_LOCK) : -len(_LOCK)]}"
                for path in target.parent.glob(f"*{glob.escape(token)}.*"):
                    if path != name:
                        _remove(path)
                _remove(name)
    for path in target.parent.glob(f"{stem}????????{_PARTIAL}"):
        if not path.with_suffix(_LOCK).exists():
            with _taken(path) as is_free:
                if is_free:
                    _remove(path)


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_PLACEHOLDER) + 1)


@contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Whether nobody held ``path``, a file of ours; then we do until the block ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        status = os.fstat(descriptor)
        is_free = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        try:
            _lock(descriptor)
        except OSError:
            is_free = False
        yield is_free
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    # On a disk that is gone it stays, which is no failure beside what has been met already.
    with contextlib.suppress(OSError):
        path.unlink()


def names_to_resume(target: Path) -> tuple[Path, Path]:
    """The partial file and the journal of a write to ``target`` that can be gone on with.

    They are the same each time, and no names that anybody would take for a finished file's.
    """
    folder, name = target.parent, os.fsencode(target.name)
    suffixes = (".mediamaker-partial", ".mediamaker-journal")
    room = _NAME_SIZE_MAX - max(map(len, suffixes))
    partial, journal = (folder / (os.fsdecode(name[:room]) + suffix) for suffix in suffixes)
    return partial, journal


def check_place(target: Path, *, replace: bool) -> int | None:
    """Whether a file may be put at ``target``; the mode of the one that it replaces.

    Raises:
        TargetRefusedError: the name is taken (without ``replace``, or not by a regular file).
    """
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TargetRefusedError(f"{target}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise TargetRefusedError(f"{target}: exists and is not a regular file")
    if not replace:
        raise name_taken(target)
    return stat.S_IMODE(status.st_mode)


def check_new_file(path: Path, *, replace: bool) -> None:
    """Refuse early what making a file at ``path`` would meet, before anything long is begun.

    Raises:
        TargetRefusedError: the name is taken, or there is no such directory that lets us.
    """
    target = Path(os.path.realpath(path))
    check_place(target, replace=replace)
    hint = "name a file in an existing directory that you may write to"
    if not target.parent.is_dir():
        raise TargetRefusedError(f"{path}: there is no directory {target.parent}", hint=hint)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise TargetRefusedError(
            f"{path}: can't create a file in {target.parent}: no permission, or read-only",
            hint=hint,
        )


def give_name(partial: Path, target: Path) -> None:
    """Let the file at ``partial`` be ``target``, which must be free; ``partial`` may stay.

    Raises:
        TargetRefusedError: the name was taken meanwhile; OSError: it can't be named.
    """
    try:
        # link(2), unlike rename(2), fails if the name was taken meanwhile.
        target.hardlink_to(partial)
    except FileExistsError:
        raise name_taken(target) from None
    except OSError:
        # FAT and some network file systems know no links; ask, then rename.
        if target.exists():
            raise name_taken(target) from None
        partial.rename(target)


def flush_name(target: Path) -> None:
    """Have the name of a finished file outlive a power cut, where the file system can say so.

    Raises:
        OSError: it may not; the file is there, and complete.
    """
    try:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one that we may write, and not read
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CAN_NOT_FLUSH:
            raise
    finally:
        os.close(folder)


def name_taken(path: Path) -> TargetRefusedError:
    """The refusal that ``--force`` lifts."""
    return TargetRefusedError(
        f"{path}: exists already", hint="name another file, or replace it with --force"
    )
