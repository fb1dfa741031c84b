# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks may be written: one named rule for each way to lose data.

A rule that refuses can't be switched off, except ``fixed-disk`` by ``--allow-fixed-disk``; a
warning is shown and left to the person. Call ``check_may_write`` on a fresh listing right
before the target is opened, not only before asking for confirmation: a desktop may have mounted
the stick meanwhile. Behind all of this stands O_EXCL when the target is opened, which the
kernel refuses for anything that it has in use, seen by us or not.

Loop devices are not fixed disks: a person made each one for the purpose, of a file of his own.
eMMC is (it is soldered in), SD cards are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mediamaker.devices.blockmap import disks_of_path
from mediamaker.devices.disk import Disk, HolderKind
from mediamaker.devices.signatures import Signature
from mediamaker.devices.sysfs import SystemRoots
from mediamaker.devices.writers import is_claimed
from mediamaker.errors import TargetError, TargetRefusedError, TargetTooSmallError
from mediamaker.units import format_size

_SHOWN_MAX = 4


@dataclass(frozen=True, slots=True)
class GuardContext:
    """What a disk is wanted for; ``needed_size`` is bytes, None when not known yet."""

    source_paths: tuple[Path, ...] = ()
    allow_fixed_disk: bool = False
    needed_size: int | None = None
    roots: SystemRoots = field(default_factory=SystemRoots)


Check = Callable[[Disk, GuardContext], str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """``check`` gives the reason in words, or None; ``is_refusal`` tells it from a warning."""

    name: str
    check: Check
    hint: str
    is_refusal: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule that found something on one disk."""

    rule: str
    is_refusal: bool
    reason: str
    hint: str


def check_disk(disk: Disk, context: GuardContext) -> tuple[Verdict, ...]:
    """Every rule's finding, refusals first; empty means that nothing speaks against the disk."""
    verdicts = [
        Verdict(rule.name, rule.is_refusal, reason, rule.hint)
        for rule in RULES
        if (reason := rule.check(disk, context)) is not None
    ]
    return tuple(sorted(verdicts, key=lambda verdict: not verdict.is_refusal))


def check_may_write(disk: Disk, context: GuardContext) -> tuple[Verdict, ...]:
    """Refuse the disk if any rule does; the warnings that remain are returned.

    Raises:
        TargetTooSmallError: its size is the only reason.
        TargetRefusedError: lists every reason by the name of its rule.
    """
    verdicts = check_disk(disk, context)
    refusals = [verdict for verdict in verdicts if verdict.is_refusal]
    if not refusals:
        return verdicts
    reasons = "; ".join(f"{verdict.reason} [{verdict.rule}]" for verdict in refusals)
    message = f"{disk.path} is refused: {reasons}"
    hint = refusals[0].hint
    error: TargetError = TargetRefusedError(message, hint=hint)
    if {verdict.rule for verdict in refusals} == {"too-small"} and context.needed_size is not None:
        error = TargetTooSmallError(
            message, needed_size=context.needed_size, available_size=disk.size, hint=hint
        )
    raise error


def confirmation_words(disk: Disk) -> str:
    """What a person must type to release the disk: serial, else model, else the kernel's name."""
    return disk.serial or disk.title or disk.name


def check_confirmation(disk: Disk, text: str) -> None:
    """The person named the disk as shown; case and surrounding blanks do not matter.

    Raises:
        TargetRefusedError: other words; says which ones are asked for.
    """
    words = confirmation_words(disk)
    if _folded(text) != _folded(words):
        raise TargetRefusedError(
            f'{disk.path} is not confirmed: expected "{words}", got "{text.strip()}"',
            hint=f'type it as shown, or in scripts pass --confirm "{words}"',
        )


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _check_not_a_disk(disk: Disk, _: GuardContext) -> str | None:
    match disk.kind:
        case "volume":
            return f"it is a volume that the kernel makes of other disks ({disk.bus})"
        case "optical":
            return "it is an optical drive"
        case "disk" | "loop":
            return None


def _check_no_medium(disk: Disk, _: GuardContext) -> str | None:
    return "there is no medium in it (its size is 0)" if disk.size == 0 else None


def _check_read_only(disk: Disk, _: GuardContext) -> str | None:
    return "it is read-only" if disk.is_read_only else None


def _check_mounted(disk: Disk, _: GuardContext) -> str | None:
    return f"mounted: {_join(disk.mounts)}" if disk.mounts else None


def _check_swap(disk: Disk, _: GuardContext) -> str | None:
    return f"the system swaps to it: {_join(disk.swaps)}" if disk.swaps else None


def _check_system_disk(disk: Disk, _: GuardContext) -> str | None:
    if not disk.is_system:
        return None
    return f"the running system lies on it: {_join(disk.system_mountpoints)}"


def _check_source_on_target(disk: Disk, context: GuardContext) -> str | None:
    lying = [
        path for path in context.source_paths if disk.name in disks_of_path(path, context.roots)
    ]
    if lying:
        return f"the source lies on it: {_join(lying)}"
    backing = [path for path in context.source_paths if _is_backed_by(disk, path)]
    return f"it is a loop device over the source itself: {_join(backing)}" if backing else None


def _is_backed_by(disk: Disk, source: Path) -> bool:
    """Whether ``disk`` is a loop device over the file ``source``, or over one in that folder."""
    if disk.backing_file is None:
        return False
    backing = Path(os.path.realpath(disk.backing_file))
    return backing.is_relative_to(os.path.realpath(source)) or _is_same_file(backing, source)


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether both are names of one file; hard links have several."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_zfs(disk: Disk, _: GuardContext) -> str | None:
    if disk.imported_pools:
        return f"it is a member of a ZFS pool in use: {_join(disk.imported_pools)}"
    # ZFS in user space (zfs-fuse) is known to no kernel: its pools do not show in /proc/spl
    labels = dict(_named_signatures(disk))
    using = [
        f"{labels[writer.device].label or 'without a name'} ({writer})"
        for writer in disk.writers
        if writer.device in labels and labels[writer.device].type == "zfs_member"
    ]
    return f"it is a member of a ZFS pool in use: {_join(using)}" if using else None


def _check_open_for_writing(disk: Disk, _: GuardContext) -> str | None:
    if not disk.writers:
        return None
    return f"another program may be writing to it: {_join(disk.writers)}"


def _check_claimed(disk: Disk, context: GuardContext) -> str | None:
    # what is known to use it has a refusal of its own
    if disk.size == 0 or _is_in_use(disk) or not is_claimed(disk.path, disk.device_number):
        return None
    alive = [
        f"{path.parent.name} on {name}"
        for name in (disk.name, *(part.name for part in disk.partitions))
        for path in sorted((context.roots.sysfs / "fs").glob(f"*/{name}"))
    ]
    return "something has it for itself that shows nowhere" + (
        f": a file system that is mounted nowhere any more and still in use: {_join(alive)}"
        if alive
        else " (a program that opened it, or a file system detached by umount -l)"
    )


def _is_in_use(disk: Disk) -> bool:
    return bool(disk.mounts or disk.swaps or disk.holders or disk.imported_pools or disk.writers)


def _named_signatures(disk: Disk) -> tuple[tuple[str, Signature], ...]:
    return (
        (disk.name, disk.signature),
        *((part.name, part.signature) for part in disk.partitions),
    )


def _check_holder(*kinds: HolderKind, what: str) -> Check:
    def check(disk: Disk, _: GuardContext) -> str | None:
        holding = [holder for holder in disk.holders if holder.kind in kinds]
        return f"{what} uses it: {_join(holding)}" if holding else None

    return check


def _check_fixed_disk(disk: Disk, context: GuardContext) -> str | None:
    if disk.is_portable or disk.kind != "disk" or context.allow_fixed_disk:
        return None
    return f"it is a fixed disk ({disk.bus}, not removable)"


def _check_too_small(disk: Disk, context: GuardContext) -> str | None:
    if context.needed_size is None or disk.size >= context.needed_size or disk.size == 0:
        return None
    return (
        f"it is too small: {format_size(context.needed_size)} ({context.needed_size} bytes) "
        f"are needed, it has {format_size(disk.size)} ({disk.size} bytes)"
    )


def _check_inactive_member(disk: Disk, _: GuardContext) -> str | None:
    # what is in use has a refusal of its own, and is not said twice
    if _is_in_use(disk):
        return None
    members = [
        f"{name}: {signature}" for name, signature in _named_signatures(disk) if signature.is_member
    ]
    return (
        f"it holds parts of something that is not active now: {_join(members)}" if members else None
    )


def _check_external_disk(disk: Disk, _: GuardContext) -> str | None:
    if disk.bus != "usb" or disk.is_removable:
        return None
    return "it calls itself a fixed disk on USB, as external backup disks do"


def _check_unknown_contents(disk: Disk, _: GuardContext) -> str | None:
    problems = {signature.problem for signature in disk.signatures if signature.problem}
    if not problems or disk.size == 0:
        return None
    return f"what is on it could not be read in full: {_join(sorted(problems))}"


def _join(items: Iterable[object]) -> str:
    words = [str(item) for item in items]
    rest = len(words) - _SHOWN_MAX
    return ", ".join(words[:_SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


_ANOTHER_DISK = "choose another disk; `mediamaker devices` lists them"
_IF_MEANT = "if this disk is really meant,"

RULES: tuple[Rule, ...] = (
    Rule("not-a-disk", _check_not_a_disk, _ANOTHER_DISK),
    Rule("system-disk", _check_system_disk, _ANOTHER_DISK),
    Rule("source-on-target", _check_source_on_target, "copy the source to another disk first"),
    Rule("mounted", _check_mounted, "unmount it first: umount, or eject it in the desktop"),
    Rule("swap", _check_swap, f"{_IF_MEANT} take it out of use first: swapoff"),
    Rule(
        "lvm-in-use",
        _check_holder("LVM", what="LVM"),
        f"{_IF_MEANT} deactivate its volume group first: vgchange -an",
    ),
    Rule(
        "raid-in-use",
        _check_holder("RAID", what="a RAID array"),
        f"{_IF_MEANT} stop the array first: mdadm --stop",
    ),
    Rule(
        "luks-in-use",
        _check_holder("LUKS", "dm-crypt", what="encryption"),
        f"{_IF_MEANT} lock it first: cryptsetup close",
    ),
    Rule("zfs-in-use", _check_zfs, f"{_IF_MEANT} export the pool first: zpool export"),
    Rule("multipath-in-use", _check_holder("multipath", what="multipath"), _ANOTHER_DISK),
    Rule(
        "held-by-other",
        _check_holder("device-mapper", "loop", "other", what="another device"),
        f"{_IF_MEANT} take what uses it out of use first; lsblk, dmsetup and losetup show it",
    ),
    Rule(
        "open-for-writing",
        _check_open_for_writing,
        f"{_IF_MEANT} wait until that program is done with it, or end it",
    ),
    Rule(
        "claimed",
        _check_claimed,
        f"{_IF_MEANT} end the programs that have files open on it, or unplug it and plug it in",
    ),
    Rule("no-medium", _check_no_medium, "put a card or stick in"),
    Rule("read-only", _check_read_only, "look for a write-protect switch on the card or stick"),
    Rule("fixed-disk", _check_fixed_disk, f"{_IF_MEANT} pass --allow-fixed-disk"),
    Rule("too-small", _check_too_small, "use a bigger disk"),
    Rule(
        "inactive-member",
        _check_inactive_member,
        "its volume, array or pool will lose this part",
        is_refusal=False,
    ),
    Rule(
        "external-disk",
        _check_external_disk,
        "make sure that it is not a backup disk",
        is_refusal=False,
    ),
    Rule("unknown-contents", _check_unknown_contents, "root sees more", is_refusal=False),
)
"""Every rule in the order of telling. A test refuses a rule that has no test."""
