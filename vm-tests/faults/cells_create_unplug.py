# SPDX-License-Identifier: GPL-3.0-or-later
"""The stick, or the one that holds the source, is unplugged in the middle of ``create``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from guest import Guest

from faults.commands import SHELL, Ran, guest, read_ran, run
from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import MediaRig, make_media_rig
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk, device_id

_PERCENTS = (50, 99, 1, 25)
_SERIAL = "PULL1"
# Nothing of the source may stay in the guest's cache: its memory holds all of it.
MOUNT_HOLDER = """\
for name in sda sdb; do
    if grep -q 'ID_SERIAL_SHORT=HOLDER$' /run/udev/data/b$(cat /sys/block/$name/dev); then
        mount -o ro /dev/$name /mnt
    else
        stick=$name
    fi
done
echo 1 > /proc/sys/vm/drop_caches
( while sleep 0.2; do echo 1 > /proc/sys/vm/drop_caches; done ) &
"""
_READ_AHEAD_PERCENT = 90
_AHEAD_SIZE = 2 * MIB + 4 * MIB
"""Blanking and probing come ahead of the stream."""


@cell("create", "unplugged, then plugged in again", points=8, short=0)
def unplug(rig: Rig) -> Iterator[Trial]:
    """At a share of the stream; then in another guest ``--resume``, where it is offered."""
    sizes = (24 * MIB, 96 * MIB) if rig.is_short else (110 * MIB, 192 * MIB)
    media = make_media_rig(rig.work_dir / "rig", filler_size=sizes[0], disk_size=sizes[1])
    trials = 0
    for percent in _PERCENTS:
        folder = rig.out_dir / f"at-{percent}"
        size = _AHEAD_SIZE + media.written_size * percent // 100
        point = f"at {percent} %"
        stick = media.copy_used(rig.work_dir / "stick.img")
        with FaultyDisk(stick, Faults(pauses_at_size=size), folder=folder / "disk") as disk:
            pull(folder, _script(media, folder), [disk.attach(Bus.USB, serial=_SERIAL)], disk)
        ran = read_ran(folder, "create")
        trial = media.weigh(stick, ran, point, code=6, words=("vanished while", "unplugged"))
        yield trial
        trials += 1
        if trials >= rig.count:
            return
        yield _plug_in(media, stick, folder, ran, point)
        trials += 1
        if trials >= rig.count:
            return


def _plug_in(media: MediaRig, stick: Path, folder: Path, before: Ran, point: str) -> Trial:
    """Goes on if that was offered; else from the beginning, and ``--resume`` is refused."""
    is_offered = "with --resume goes on from there" in before.message
    point = f"{point}, plugged in again"
    again = folder.with_name(f"{folder.name}-again")
    again.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", folder / "state", again], check=True)
    script = _script(media, again, "--resume")
    if not is_offered:
        script += script.replace("mm create", "mm fresh").replace(" --resume", "")
    with FaultyDisk(stick, folder=again / "disk") as disk:
        guest(script, [disk.attach(Bus.USB, serial=_SERIAL)], again)
    ran = read_ran(again, "create")
    if is_offered:
        trial = media.weigh(stick, ran, point, code=0)
        if trial.verdict is not Verdict.COMPLETE:
            return trial
        at = ran.event("create")["resumed_at"]
        return Trial(Verdict.RESUMED, point, f"went on at {at} bytes")
    if ran.exit_code != 2 or "nothing to go on with" not in ran.words:
        return Trial(Verdict.WRONG_WORDS, point, ran.words + ran.errors)
    return media.weigh(stick, read_ran(again, "fresh"), f"{point}, from the beginning", code=0)


def _script(media: MediaRig, folder: Path, *more: str) -> str:
    words = media.create_line("/dev/sda", "--confirm", _SERIAL, *more)
    return f"export XDG_STATE_HOME={folder.resolve()}/state\nmm create {words}\n"


def pull(
    folder: Path,
    script: str,
    disks: list[Disk],
    paused: FaultyDisk,
    index: int = 0,
    *,
    memory_size: int = 1024 * MIB,
) -> None:
    """Run ``script``; when ``paused`` pauses, the disk of that index is unplugged."""
    with Guest(
        SHELL + script, disks=disks, work_dir=folder, memory_size=memory_size
    ) as machine:  # fmt: skip
        deadline = time.monotonic() + 900
        while not paused.told().has_paused:
            machine.machine.poll()
            if machine.machine.is_off or time.monotonic() > deadline:
                raise RuntimeError(f"the disk never paused: {paused.told()}")
            time.sleep(0.02)
        machine.machine.execute("device_del", {"id": device_id(index)})
        result = machine.wait(timeout=900)
    if result.exit_code:
        raise RuntimeError(f"the script in the guest failed: {result.output}")


@cell("create", "the source's stick is unplugged", points=3, short=0)
def unplug_source(rig: Rig) -> Iterator[Trial]:
    """The ISO lies on another USB stick's file system, as it does for many."""
    media = make_media_rig(rig.work_dir / "rig", filler_size=None)
    for number, percent in enumerate((10, 50, 90)[: rig.count]):
        folder = rig.out_dir / f"at-{percent}"
        holder = rig.work_dir / "holder.img"
        with holder.open("wb") as file:
            file.truncate(128 * MIB)
        file_system = ("vfat", "ext4")[number % 2]
        fill_holder(holder, media.source, file_system)
        stick = media.copy_used(rig.work_dir / "stick.img")
        size = _AHEAD_SIZE + media.written_size * percent // 100
        script = f"""\
export XDG_STATE_HOME={folder.resolve()}/state
{MOUNT_HOLDER}
mm create create /mnt/source.iso /dev/$stick --confirm {_SERIAL} --seed fault
"""
        with (
            FaultyDisk(stick, Faults(pauses_at_size=size), folder=folder / "disk") as disk,
            FaultyDisk(holder, folder=folder / "holder") as source_disk,
        ):
            disks = [
                disk.attach(Bus.USB, serial=_SERIAL),
                source_disk.attach(Bus.USB, serial="HOLDER"),
            ]
            pull(folder, script, disks, disk, 1)
        ran = read_ran(folder, "create")
        point = f"at {percent} %, on {file_system}"
        if ran.exit_code == 0:
            # Late enough the kernel had read all of it ahead; then it is done, or must not say so.
            if percent < _READ_AHEAD_PERCENT:
                raise RuntimeError(f"{point}: the source was not missed")
            yield media.weigh(stick, ran, point, code=0)
            continue
        yield media.weigh(stick, ran, point, code=3, words=("/mnt/source.iso", "left blank"))


def fill_holder(image: Path, source: Path, file_system: str) -> None:
    """Make a file system with ``source`` in it, called source.iso."""
    if file_system == "vfat":
        run("mkfs.fat", "-F", "32", image)
        run("mcopy", "-i", image, source, "::source.iso")
        return
    run("mkfs.ext4", "-q", "-F", image)
    run("debugfs", "-w", "-R", f"write {source} source.iso", image)
