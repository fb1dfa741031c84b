# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear under their names only when they are complete and flushed.

Until then each is ``.NAME.mediamaker-XXXXXXXX.partial`` in the same directory, so that giving it
its name is atomic. Whatever ends the block otherwise (an error, Ctrl-C) removes it, and what
SIGKILL leaves goes with the next run that makes NAME (``devices/new_file.py``).
References: open(2), link(2), rename(2), fsync(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mediamaker.devices.new_file import (
    check_new_file,
    check_place,
    claimed_name,
    flush_name,
    give_name,
    held_name,
    name_beside,
    remove_leftovers,
)
from mediamaker.errors import MediaError, TargetIOError, TargetRefusedError, UsageError


@contextmanager
def open_output(path: Path, *, replace: bool) -> Iterator[Path]:
    """A new, empty file that becomes ``path`` when the block ends well; yields where it is now.

    The block may open, truncate and write it by that name, and must have closed it at its end.

    Raises:
        TargetRefusedError: the name is taken (without ``replace``, or not by a regular file),
            another run is making it, or the directory does not let us; TargetIOError: flushing or
            naming it failed, or flushing its name.
    """
    with open_outputs([path], replace=replace) as (partial_path,):
        yield partial_path


@contextmanager
def open_outputs(paths: Sequence[Path], *, replace: bool) -> Iterator[tuple[Path, ...]]:
    """Several such files, all or none; the first gets its name last.

    So whoever finds the first part of a split WIM finds the others too.

    Raises:
        UsageError: two of the paths are one file; otherwise as :func:`open_output`.
    """
    # A link is followed, so that the new file lands beside the old one and replaces it.
    targets = [Path(os.path.realpath(path)) for path in paths]
    if len(set(targets)) != len(targets):
        raise UsageError(f"two outputs have the same name among {', '.join(map(str, paths))}")
    partial_paths: list[Path] = []
    held = ExitStack()
    try:
        for target in targets:
            mode = check_place(target, replace=replace)
            held.enter_context(claimed_name(target))
            remove_leftovers(target)
            partial_path = name_beside(target)
            _hold(held, partial_path, target)
            # In the list before it is on the disk, or Ctrl-C in between would leave it behind.
            partial_paths.append(partial_path)
            _create(partial_path, target, mode)
        yield tuple(partial_paths)
        for partial_path, target in zip(partial_paths, targets, strict=True):
            _flush(partial_path, target)
        _publish_all(partial_paths, targets, replace=replace)
    except MediaError as error:
        for partial_path, target in zip(partial_paths, targets, strict=False):
            error.message = error.message.replace(str(partial_path), str(target))
        raise
    finally:
        for partial_path in partial_paths:
            with contextlib.suppress(OSError):
                partial_path.unlink(missing_ok=True)
        held.close()


def check_outputs(paths: Sequence[Path], *, replace: bool) -> None:
    """Refuse early what :func:`open_outputs` would refuse, before anything long is begun.

    Raises:
        TargetRefusedError: a name is taken, or there is no such directory.
    """
    for path in paths:
        check_new_file(path, replace=replace)


def _hold(held: ExitStack, partial_path: Path, target: Path) -> None:
    try:
        held.enter_context(held_name(partial_path))
    except OSError as error:
        raise _no_file(target, error) from error


def _create(partial_path: Path, target: Path, mode: int | None) -> None:
    try:
        descriptor = os.open(partial_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _no_file(target, error) from error
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
    except OSError as error:
        raise TargetRefusedError(f"{target}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _no_file(target: Path, error: OSError) -> TargetRefusedError:
    return TargetRefusedError(
        f"{target}: can't create a file in {target.parent}: {error.strerror}",
        hint="name a file in an existing directory that you may write to",
    )


def _flush(partial_path: Path, target: Path) -> None:
    try:
        descriptor = os.open(partial_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TargetIOError(f"{target}: flushing it failed: {error.strerror}") from error


def _publish_all(partial_paths: list[Path], targets: list[Path], *, replace: bool) -> None:
    """Name them, the first one last; without ``replace``, take back the names if one fails."""
    pairs = list(zip(partial_paths, targets, strict=True))[::-1]
    named: list[Path] = []
    is_done = False
    try:
        for partial_path, target in pairs:
            _publish(partial_path, target, named, replace=replace)
        is_done = True
    except OSError as error:
        raise TargetIOError(f"naming the finished file failed: {error}") from error
    finally:
        # What replaced an older file can't be taken back: the older one is gone.
        if not is_done and not replace:
            for target in named:
                with contextlib.suppress(OSError):
                    target.unlink(missing_ok=True)
    for target in {target.parent: target for target in targets}.values():
        try:
            flush_name(target)
        except OSError as error:
            raise TargetIOError(
                f"{target}: is complete, but its name could not be flushed: {error.strerror}; a "
                "power cut may take it back",
                hint="look after the disk that holds it, then make it again",
            ) from error


def _publish(partial_path: Path, target: Path, named: list[Path], *, replace: bool) -> None:
    if replace:
        partial_path.replace(target)
        return
    give_name(partial_path, target)
    named.append(target)
    partial_path.unlink(missing_ok=True)
