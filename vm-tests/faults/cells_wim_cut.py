# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize`` on ext4, with the power cut: a name has a whole file, or the one before.

Of each state e2fsck replays the journal, as the next mount would, and debugfs reads the files.
FAT has no journal: what a cut does to its directories no program on it can help.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guest import run_in_guest

from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.power_cut import Recording
from faults.wim_rig import digest, make_wim_rig
from faults.windows_rig import copy_sparse, run, run_any
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_DISK_SIZE = 48 * MIB


@cell("wim optimize", "power cut", points=120, short=8)
def cut_optimize(rig: Rig) -> Iterator[Trial]:
    """Over an old file to fit a size, then onto a new name."""
    wim = make_wim_rig(rig.work_dir)
    tree = rig.work_dir / "tree"
    tree.mkdir()
    run("cp", wim.source, tree / "source.wim")
    run("cp", wim.old, tree / "replaced.wim")
    disk, before = rig.work_dir / "disk.img", rig.work_dir / "before.img"
    with disk.open("wb") as file:
        file.truncate(_DISK_SIZE)
    run("mkfs.ext4", "-q", "-F", "-d", tree, disk)
    copy_sparse(disk, before)
    fit = " ".join(wim.ways[3].options)
    said = rig.out_dir.resolve() / "said"
    said.mkdir()
    script = f"""
modprobe ext4
mkdir -p /mnt/cut
mount -t ext4 /dev/vda /mnt/cut
cd /mnt/cut
python3 -m mediamaker wim optimize source.wim replaced.wim {fit} --json > {said}/replaced.wim
python3 -m mediamaker wim optimize source.wim new.wim --json > {said}/new.wim
cd /
umount /mnt/cut
"""
    faults = Faults(is_logging=True, watched_folder=str(said))
    with FaultyDisk(disk, faults, folder=rig.out_dir / "disk") as faulty:
        ran = run_in_guest(
            script,
            disks=[faulty.attach(Bus.VIRTIO)],
            work_dir=rig.out_dir,
            timeout=1800,
            memory_size=1024 * MIB,
        )
    assert ran.exit_code == 0, ran.output
    ended = {name: _read(disk, name, rig.work_dir) for name in ("replaced.wim", "new.wim")}
    assert all(wim.find_trouble(wim.ways[0], path) is None for path in ended.values())
    good = {name: digest(path) for name, path in ended.items()}
    old = digest(wim.old)
    recording = Recording(faulty.log, before)
    claims = {name: recording.claimed_at(said / name, "wim-optimize") for name in good}
    with recording.states(rig.rng, rig.count, claims=list(claims.values())) as cuts:
        for cut in cuts:
            claimed = {name for name, claim in claims.items() if cut.done_count >= claim}
            verdict, words = _judge(rig, before, good, old, wim.source_digest, claimed)
            told = f"; called done: {', '.join(sorted(claimed)) or 'nothing yet'}"
            yield Trial(verdict, cut.describe(len(recording.requests)), words + told)
    faulty.log.unlink()


def _judge(
    rig: Rig, state: Path, good: dict[str, str], old: str, source: str, claimed: set[str]
) -> tuple[Verdict, str]:
    """``claimed``: the outputs that the command had called done by then."""
    disk = copy_sparse(state, rig.work_dir / "judged.img")
    # 1: errors were corrected; 4 and more: some were not.
    checked = run_any("e2fsck", "-fy", disk)
    if checked.returncode >= 4:
        return Verdict.HALF_VALID, f"e2fsck: {checked.stdout[-200:]}"
    found = {}
    for name in ("source.wim", "replaced.wim", "new.wim"):
        path = _read(disk, name, rig.work_dir)
        found[name] = digest(path) if path.exists() else None
    if found["source.wim"] != source:
        return Verdict.LOST, "the source is changed"
    if found["replaced.wim"] is None:
        return Verdict.LOST, "the file that was to be replaced is gone"
    if found["replaced.wim"] not in (old, good["replaced.wim"]):
        return Verdict.HALF_VALID, "replaced.wim is neither the old one nor the new one"
    if found["new.wim"] not in (None, good["new.wim"]):
        return Verdict.HALF_VALID, "new.wim is there and is not whole"
    if missing := [name for name in sorted(claimed) if found[name] != good[name]]:
        return Verdict.FALSE_DONE, f"called done, and is not there: {missing}"
    if found["replaced.wim"] == old:
        return Verdict.AS_BEFORE, "the old file whole, no new one"
    if found["new.wim"] is None:
        return Verdict.COMPLETE, "the first is replaced, whole; no second one yet"
    return Verdict.COMPLETE, "both are whole"


def _read(disk: Path, name: str, folder: Path) -> Path:
    """A copy of a file of the file system, if it is there."""
    path = folder / f"read-{name}"
    path.unlink(missing_ok=True)
    listed = run("debugfs", "-R", "ls -p /", disk)
    if f"/{name}/" in listed:
        run("debugfs", "-R", f"dump /{name} {path}", disk)
    return path
