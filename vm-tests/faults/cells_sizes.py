# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of odd sizes, and 512e ones: ``install`` and ``recovery add``; ``create`` on 512e.

A 512e disk has sectors of 512 bytes and keeps 4096 at a time. Its bytes must be those of any other
disk, and its partitions must lie on its own sectors. Nothing but a guest has such disks here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from faults.commands import guest, read_ran, run
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import make_media_rig
from faults.outcomes import last_line, run_plain
from faults.recovery_rig import make_recovery_rig
from faults.windows_rig import (
    WindowsRig,
    copy_sparse,
    loop_device,
    make_windows_rig,
    partitions_of,
    run_any,
)
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk

_PHYSICAL_SIZE = 4096
_BUSES = {Bus.AHCI: "/dev/sda", Bus.VIRTIO: "/dev/vda"}
_BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_SIZES = {
    "one sector more": 240 * MIB + 512,
    "one sector less": 240 * MIB - 512,
    "cylinders of 255 x 63": 255 * 63 * 512 * 31,
    "a prime number of sectors": 491_527 * 512,
}
# Of the Windows volume, whose end the new partition gets; what follows begins there, too.
_WINDOWS_SIZES = {
    "one sector more": 96 * MIB + 512,
    "one sector less": 96 * MIB - 512,
    "a prime number of sectors": 196_613 * 512,
    "seven sectors more": 96 * MIB + 7 * 512,
}
_SECTORS_MORE = 1237
"""At the disk's end: their number is odd, too."""


@cell("install", "odd sizes", points=8, short=1)
def odd_install(rig: Rig) -> Iterator[Trial]:
    """UEFI and BIOS; judged by foreign tools, file by file."""
    firmwares = ("uefi", "bios")
    windows: dict[str, WindowsRig] = {}
    cases = [(name, firmware) for name in _SIZES for firmware in firmwares]
    for name, firmware in rig.rng.sample(cases, len(cases))[: rig.count]:
        if firmware not in windows:
            folder = rig.work_dir / firmware
            folder.mkdir()
            windows[firmware] = make_windows_rig(folder, firmware=firmware)
        one = windows[firmware]
        tree = rig.work_dir / firmware / "tree"
        if not tree.exists():
            run("wimlib-imagex", "extract", one.wim, "1", "--dest-dir", tree, "--no-acls")
        disk = rig.work_dir / "odd.img"
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(_SIZES[name])
        with loop_device(disk) as device:
            ran = run_plain(one.install_words(device))
        point = f"{name} ({_SIZES[name]} bytes), {firmware}"
        yield _weigh(ran, point, [] if ran.exit_code else _judge_install(rig, disk, one, tree))


@cell("recovery add", "odd sizes", points=8, short=1)
def odd_recovery(rig: Rig) -> Iterator[Trial]:
    """GPT with a partition right behind, and MBR; ``undo`` gives back every byte."""
    cases = [(name, kind) for name in _WINDOWS_SIZES for kind in ("gpt", "mbr")]
    for number, (name, kind) in enumerate(rig.rng.sample(cases, len(cases))[: rig.count]):
        folder = rig.work_dir / f"{number}"
        folder.mkdir()
        recovery = make_recovery_rig(
            folder, kind=kind, windows_size=_WINDOWS_SIZES[name], sectors_more=_SECTORS_MORE
        )
        disk, undo = folder / f"disk-{kind}.img", folder / "undo"
        copy_sparse(recovery.before, disk)
        ran = run_plain(recovery.add_words(disk, undo))
        verdict, said = recovery.judge(disk, undo, is_done=ran.exit_code == 0)
        yield _only_complete(ran, f"{name}, {kind}", verdict, said)


@cell("create", "512e", points=2, short=0)
def create_512e(rig: Rig) -> Iterator[Trial]:
    """SATA and virtio."""
    media = make_media_rig(rig.work_dir / "rig", options=("--layout", "gpt-fat32"))
    disks = [media.copy_used(rig.work_dir / f"{bus.value}.img") for bus in _BUSES]
    script, folder = "", rig.out_dir / "guest"
    for bus, device in _BUSES.items():
        words = media.create_line(device, "--confirm", _serial(bus), "--allow-fixed-disk")
        script += f"mm {bus.value} {words}\n"
    _run_on_512e(script, disks, folder)
    for bus, disk in zip(_BUSES, disks, strict=True):
        trial = media.weigh(disk, read_ran(folder, bus.value), f"512e on {bus.value}", code=0)
        yield _aligned(trial, disk)


@cell("install", "512e", points=2, short=0)
def install_512e(rig: Rig) -> Iterator[Trial]:
    """SATA and virtio, with an older install on them."""
    sources = rig.out_dir.resolve()
    windows = make_windows_rig(rig.work_dir, source_dir=sources)
    disks = [copy_sparse(windows.used, rig.work_dir / f"{bus.value}.img") for bus in _BUSES]
    script, folder = "", rig.out_dir / "guest"
    options = " ".join(map(str, windows.options)).replace(" --json", "")
    for bus, device in _BUSES.items():
        release = f"--erase --allow-fixed-disk --confirm {_serial(bus)}"
        script += f"mm {bus.value} install {windows.wim}:1 {device} {options} {release}\n"
    _run_on_512e(script, disks, folder)
    for bus, disk in zip(_BUSES, disks, strict=True):
        ran = read_ran(folder, bus.value)
        verdict, said = windows.judge(disk)
        killed = Killed(ran.exit_code, ran.words, ran.errors)
        yield _aligned(_only_complete(killed, f"512e on {bus.value}", verdict, said), disk)


@cell("recovery add", "512e", points=2, short=0)
def recovery_512e(rig: Rig) -> Iterator[Trial]:
    """SATA and virtio."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir.resolve())
    names = [f"{bus.value}-gpt.img" for bus in _BUSES]
    disks = [copy_sparse(recovery.before, rig.work_dir / name) for name in names]
    script, folder = "", rig.out_dir.resolve() / "guest"
    options = " ".join(map(str, recovery.options)).replace(" --json", "")
    for bus, device in _BUSES.items():
        release = f"--undo {folder}/undo-{bus.value} --confirm {_serial(bus)}"
        script += f"mm {bus.value} recovery add {device} {options} {release}\n"
    _run_on_512e(script, disks, folder)
    for bus, disk in zip(_BUSES, disks, strict=True):
        ran = read_ran(folder, bus.value)
        starts = [start for start, _ in partitions_of(disk)]
        undo = folder / f"undo-{bus.value}"
        verdict, said = recovery.judge(disk, undo, is_done=ran.exit_code == 0)
        killed = Killed(ran.exit_code, ran.words, ran.errors)
        trial = _only_complete(killed, f"512e on {bus.value}", verdict, said)
        yield _aligned(trial, starts)


def _serial(bus: Bus) -> str:
    return f"EMULATED-{bus.value}"


def _run_on_512e(script: str, images: Sequence[Path], folder: Path) -> None:
    """Run it in a guest that has ``images`` as 512e disks, and sees that they are such."""
    facts = ""
    for device in _BUSES.values():
        queue = f"/sys/block/{Path(device).name}/queue"
        facts += f'[ "$(cat {queue}/logical_block_size)" = 512 ]\n'
        facts += f'[ "$(cat {queue}/physical_block_size)" = {_PHYSICAL_SIZE} ]\n'
    disks = [
        Disk(
            image,
            bus,
            snapshot=False,
            physical_sector_size=_PHYSICAL_SIZE,
            serial=_serial(bus),
        )
        for bus, image in zip(_BUSES, images, strict=True)
    ]
    state = f"export XDG_STATE_HOME={folder.resolve()}/state\n"
    guest(facts + state + script, disks, folder, memory_size=2048 * MIB)


def _only_complete(ran: Killed, point: str, verdict: Verdict, said: str) -> Trial:
    if ran.exit_code or ran.errors:
        words = f"{said}; exit {ran.exit_code}: {last_line(ran.output)} {ran.errors[-200:]}"
        return Trial(Verdict.WRONG_WORDS, point, words)
    if verdict is not Verdict.COMPLETE:
        return Trial(Verdict.FALSE_DONE, point, f"{verdict.value}: {said}")
    return Trial(verdict, point, said)


def _weigh(ran: Killed, point: str, troubles: list[str]) -> Trial:
    verdict = Verdict.HALF_VALID if troubles else Verdict.COMPLETE
    said = "; ".join(troubles) or "table, volumes and files, by foreign tools"
    return _only_complete(ran, point, verdict, said)


def _aligned(trial: Trial, disk: Path | Sequence[int]) -> Trial:
    """Worse if a partition begins within one of the disk's own sectors."""
    starts = [start for start, _ in partitions_of(disk)] if isinstance(disk, Path) else disk
    bad = [start for start in starts if start % _PHYSICAL_SIZE]
    if bad or not starts:
        return Trial(Verdict.WRONG_WORDS, trial.point, f"partitions begin at {starts}")
    return trial


# What foreign tools say of an installed disk


def _judge_install(rig: Rig, disk: Path, windows: WindowsRig, tree: Path) -> list[str]:
    troubles = []
    if windows.firmware == "uefi":
        if "No problems found" not in (said := run("sgdisk", "--verify", disk)):
            troubles.append(said)
    elif (done := run_any("sfdisk", "--verify", disk)).returncode:
        troubles.append(done.stdout + done.stderr)
    places = partitions_of(disk)
    end = max(start + size for start, size in places)
    if end > disk.stat().st_size:
        troubles.append(f"partitions end at {end}, the disk at {disk.stat().st_size}")
    with _volume(rig, disk, *places[0]) as volume:
        look = _look_at_esp if windows.firmware == "uefi" else _look_at_bios_volume
        troubles += look(rig, volume, tree)
    with _volume(rig, disk, *places[-1]) as volume:
        troubles += _said_by("ntfsfix", "--no-action", volume)
        troubles += _files_that_differ(rig, volume, tree)
    return troubles


def _look_at_esp(rig: Rig, volume: Path, tree: Path) -> list[str]:
    """Loaders as the image has them, and a hive under the store's name."""
    troubles = _said_by("fsck.fat", "-n", volume)
    boot = "EFI/Microsoft/Boot"
    names = {f"{boot}/bootmgfw.efi": "EFI/bootmgfw.efi", "EFI/Boot/bootx64.efi": "EFI/bootmgfw.efi"}
    place = rig.work_dir / "copied"
    place.mkdir(exist_ok=True)
    copies = {name: place / Path(name).name for name in (*names, f"{boot}/BCD")}
    for name, copy in copies.items():
        copy.unlink(missing_ok=True)
        troubles += _said_by("mcopy", "-n", "-i", volume, f"::/{name}", copy)
    if troubles:
        return troubles
    for name, source in names.items():
        if copies[name].read_bytes() != (tree / "Windows/Boot" / source).read_bytes():
            troubles.append(f"{name} is not the image's {source}")
    return troubles + _look_at_store(copies[f"{boot}/BCD"])


def _look_at_bios_volume(rig: Rig, volume: Path, tree: Path) -> list[str]:
    """The same of an NTFS system volume."""
    troubles = _said_by("ntfsfix", "--no-action", volume)
    with _mounted(rig, volume) as place:
        missing = [name for name in ("bootmgr", "Boot/BCD") if not (place / name).is_file()]
        if missing:
            return [*troubles, f"the system volume has no {', '.join(missing)}"]
        if (place / "bootmgr").read_bytes() != (tree / "Windows/Boot/PCAT/bootmgr").read_bytes():
            troubles.append("bootmgr is not the image's")
        return troubles + _look_at_store(place / "Boot/BCD")


def _look_at_store(store: Path) -> list[str]:
    """Whether hivex reads it, down to the boot manager's default entry."""
    default = run_any("hivexget", store, f"Objects\\{_BOOT_MANAGER}\\Elements\\23000003", "Element")
    if default.returncode or not default.stdout.strip().startswith("{"):
        return [f"hivexget: no default entry: {default.stdout}{default.stderr}"]
    return _said_by("hivexget", store, f"Objects\\{default.stdout.strip()}\\Elements\\21000001")


def _said_by(*words: object) -> list[str]:
    done = run_any(*words)
    return [f"{words[0]}: {done.stdout}{done.stderr}"] if done.returncode else []


@contextmanager
def _volume(rig: Rig, disk: Path, start: int, size: int) -> Iterator[Path]:
    path = rig.work_dir / "volume"
    run("dd", f"if={disk}", f"of={path}", "bs=1M", "iflag=skip_bytes,count_bytes",
        f"skip={start}", f"count={size}", "conv=sparse")  # fmt: skip
    with path.open("r+b") as file:
        file.truncate(size)
    try:
        yield path
    finally:
        path.unlink()


@contextmanager
def _mounted(rig: Rig, volume: Path) -> Iterator[Path]:
    place = rig.work_dir / "mounted"
    place.mkdir(exist_ok=True)
    run("ntfs-3g", "-o", "ro", volume, place)
    try:
        yield place
    finally:
        run("umount", place)


def _files_that_differ(rig: Rig, volume: Path, tree: Path) -> list[str]:
    with _mounted(rig, volume) as place:
        done = run_any("diff", "--recursive", "--brief", tree, place)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    return [line for line in lines if not line.startswith(f"Only in {place}")]
