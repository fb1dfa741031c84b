# SPDX-License-Identifier: GPL-3.0-or-later
"""``install`` onto a disk in a guest, with the power cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from guest import run_in_guest

from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.power_cut import Recording
from faults.windows_rig import copy_sparse, make_windows_rig
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus


@cell("install", "power cut", points=120, short=8)
def cut_install(rig: Rig) -> Iterator[Trial]:
    """GPT on NVMe, over an older Windows."""
    yield from _cut(rig, "uefi", Bus.NVME, "/dev/nvme0n1")


@cell("install", "power cut, BIOS on USB", points=100, short=0)
def cut_install_bios(rig: Rig) -> Iterator[Trial]:
    """MBR on a USB disk, over an older Windows."""
    yield from _cut(rig, "bios", Bus.USB, "/dev/sda")


def _cut(rig: Rig, firmware: str, bus: Bus, device: str) -> Iterator[Trial]:
    """One run, recorded; then every state that a cut can leave."""
    windows = make_windows_rig(rig.work_dir, firmware=firmware, source_dir=rig.out_dir)
    disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
    before = copy_sparse(windows.used, rig.work_dir / "before.img")
    options = " ".join(map(str, windows.options))
    said = rig.out_dir / "said"
    said.mkdir()
    script = (
        f"python3 -m mediamaker install {windows.wim}:1 {device} {options} --erase "
        "--allow-fixed-disk --confirm CUT2 > said/install.json"
    )
    faults = Faults(is_logging=True, watched_folder=str(said))
    with FaultyDisk(disk, faults, folder=rig.out_dir / "disk") as faulty:
        ran = run_in_guest(
            script,
            disks=[faulty.attach(bus, serial="CUT2")],
            work_dir=rig.out_dir,
            timeout=1800,
            memory_size=2048 * MIB,
        )
    assert ran.exit_code == 0, ran.output
    assert windows.judge(disk)[0] is Verdict.COMPLETE, windows.judge(disk)
    # The times are those of this run: not a word may differ from its end.
    this_run = dataclasses.replace(windows, expected=disk, clock_words=frozenset())
    recording = Recording(faulty.log, before)
    claim = recording.claimed_at(said / "install.json", "install")
    with recording.states(rig.rng, rig.count, claims=[claim]) as cuts:
        for cut in cuts:
            verdict, words = cut.weigh(claim, *this_run.judge(before))
            yield Trial(verdict, cut.describe(len(recording.requests)), words)
    faulty.log.unlink()
