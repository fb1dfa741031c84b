# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error that mediamaker raises on purpose.

::

    MediaError                    exit code
    |-- UsageError                2    the request makes no sense as it stands
    |-- SourceError               3    a source can't be used
    |   |-- FormatError                bytes that are not what they claim to be
    |   |-- SourceChangedError         the source is not what was planned with
    |   `-- NotRepresentableError      a name, size or count that the target file system can't hold
    |-- PlanError                 3    the plan's own rules were broken (overlap, gap, misalignment)
    |-- TargetError               4    the target is refused
    |   |-- TargetRefusedError         a guard said no
    |   `-- TargetTooSmallError        says how much is needed
    |-- VerifyError               5    the medium does not hold what was planned
    |-- TargetIOError             6    the target failed while in use
    |   `-- FakeCapacityError          it holds less than it says; gives both sizes
    |-- BootError                 7    a boot was not proven
    |-- RunInterruptedError     130    Ctrl-C, or a request to end
    `-- ToolError                 1    a program or library that we need is missing or failed

Only ``cli`` turns an error into an exit code's process end; the numbers live here so
that they are written down once.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The documented return codes of every verb."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    SOURCE_UNUSABLE = 3
    TARGET_REFUSED = 4
    VERIFY_FAILED = 5
    TARGET_IO = 6
    BOOT_NOT_PROVEN = 7
    INTERRUPTED = 130


class MediaError(Exception):
    """An error with a message for a person and, where there is one, a way out.

    ``message`` says who, where and how much; ``hint`` says what to do now and names
    the option that does it.
    """

    exit_code: ExitCode = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MediaError):
    """The request makes no sense as it stands."""

    exit_code = ExitCode.USAGE


class SourceError(MediaError):
    """A source can't be used."""

    exit_code = ExitCode.SOURCE_UNUSABLE


class FormatError(SourceError):
    """Bytes that are not what they claim to be; the message gives expected and got."""


class SourceChangedError(SourceError):
    """A source is no longer what the plan was made from."""


class NotRepresentableError(SourceError):
    """A name, size or count that the target file system can't hold; names the path."""


class PlanError(MediaError):
    """An extent that overlaps, leaves a gap or is misaligned; names both parties."""

    exit_code = ExitCode.SOURCE_UNUSABLE


class TargetError(MediaError):
    """The target is refused."""

    exit_code = ExitCode.TARGET_REFUSED


class TargetRefusedError(TargetError):
    """A guard said no."""


class TargetTooSmallError(TargetError):
    """The plan does not fit; ``needed_size`` and ``available_size`` are bytes."""

    def __init__(
        self, message: str, *, needed_size: int, available_size: int, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_size = needed_size
        self.available_size = available_size


class VerifyError(MediaError):
    """The medium does not hold what was planned."""

    exit_code = ExitCode.VERIFY_FAILED


class TargetIOError(MediaError):
    """The target failed while in use."""

    exit_code = ExitCode.TARGET_IO


class FakeCapacityError(TargetIOError):
    """The target holds less than it claims; ``claimed_size`` and ``real_size`` are bytes."""

    def __init__(
        self, message: str, *, claimed_size: int, real_size: int, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.claimed_size = claimed_size
        self.real_size = real_size


class BootError(MediaError):
    """A boot was not proven."""

    exit_code = ExitCode.BOOT_NOT_PROVEN


class RunInterruptedError(MediaError):
    """Ctrl-C, or a request to end; says what is left on the target."""

    exit_code = ExitCode.INTERRUPTED


class ToolError(MediaError):
    """A program or library that we need is missing or failed; the hint names the package."""
