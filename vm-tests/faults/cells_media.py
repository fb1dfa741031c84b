# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` onto a stick that already holds another one, with the power cut."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from guest import run_in_guest

from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import SEED, make_media_rig
from faults.power_cut import Recording
from mediamaker.units import MIB


@cell("create", "power cut", points=120, short=8)
def cut_create(rig: Rig) -> Iterator[Trial]:
    """One run in a guest onto a USB stick, recorded; then every state that a cut can leave."""
    media = make_media_rig(rig.work_dir)
    stick, before = media.copy_used(rig.work_dir / "stick.img"), rig.work_dir / "before.img"
    subprocess.run(["cp", stick, before], check=True)
    script = (
        f"python3 -m mediamaker create {media.source} /dev/sda --confirm CUT1 --seed {SEED} --json"
    )
    with FaultyDisk(stick, Faults(is_logging=True), folder=rig.out_dir / "disk") as disk:
        ran = run_in_guest(
            script,
            disks=[disk.attach(serial="CUT1")],
            work_dir=rig.out_dir,
            timeout=600,
            memory_size=1024 * MIB,
        )
    assert ran.exit_code == 0, ran.output
    assert media.judge(stick) == (Verdict.COMPLETE, "every byte is as planned")
    recording = Recording(disk.log, before)
    with recording.states(rig.rng, rig.count) as cuts:
        for cut in cuts:
            verdict, words = media.judge(before)
            total = len(recording.requests)
            if verdict is Verdict.COMPLETE and cut.done_count < total:
                words += ", though the last flush was not answered"
            yield Trial(
                verdict,
                f"request {cut.done_count} of {total}, "
                f"{len(cut.kept)} of {cut.unflushed_count} kept",
                words,
            )
    disk.log.unlink()
