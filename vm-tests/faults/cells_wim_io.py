# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize`` on a disk that fails, lies, or is unplugged meanwhile.

Source and output lie on ext4 on a USB disk of a guest; the old output outlives it, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guest import Guest

from faults.disk import Failing, Faults, FaultyDisk, Told
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line
from faults.power_cut import Recording, Write
from faults.unplug import unplug_at
from faults.wim_rig import WimRig, digest, make_wim_rig
from faults.windows_rig import copy_sparse, mediamaker, run, run_any
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_ENDED = "the command has ended"
_TIMEOUT_SECONDS = 1800.0
_UNCORRECTED = 4
"""e2fsck(8): the least of its exit codes that means that not all was put right."""
_DAMAGED = (3, 5)


@dataclass(frozen=True, slots=True)
class _Holder:
    """The disk as it is before a run; in a whole run ``writes`` were made, of ``size`` bytes."""

    wims: WimRig
    pristine: Path
    source_offset: int
    writes: tuple[Write, ...]
    size: int


@dataclass(frozen=True, slots=True)
class _Ran:
    """A run in a guest, and what its disk met meanwhile."""

    command: Killed
    disk: Path
    told: Told

    @property
    def words(self) -> str:
        return f"exit {self.command.exit_code}: {last_line(self.command.output)}"


class _NeverPulledError(RuntimeError):
    """The run ended ahead of the byte at which it was to be unplugged."""

    def __init__(self, at: int, told: Told) -> None:
        super().__init__(f"ended ahead of {at} bytes: {told}")
        self.written_size = told.written_size


@cell("wim optimize", "EIO", points=9, short=0)
def disk_fails(rig: Rig) -> Iterator[Trial]:
    """While the source is read, and while the output is written."""
    holder = _make_holder(rig)
    for name, faults in list(_bad_disks(holder).items())[: rig.count]:
        ran = _run(rig, holder, faults, None)
        if not ran.told.error_count:
            raise RuntimeError(f"{name}: it never struck: {ran.told}, {ran.words}")
        yield _weigh(rig, holder, name, ran)


@cell("wim optimize", "a flush that lies, then the power cut", points=3, short=0)
def disk_lies(rig: Rig) -> Iterator[Trial]:
    """From 10, 40 and 80 % of what a whole run writes. Nothing that reads can tell until then."""
    holder = _make_holder(rig)
    for percent in (10, 40, 80)[: rig.count]:
        size = holder.size * percent // 100
        ran = _run(rig, holder, Faults(lies_from_size=size), None)
        if ran.told.written_size <= size:
            raise RuntimeError(f"it lied about nothing: {ran.told}, {ran.words}")
        yield _weigh_lie(rig, holder, f"lies from {percent} % on", ran)


@cell("wim optimize", "unplugged", points=4, short=0)
def unplugged(rig: Rig) -> Iterator[Trial]:
    """At 1, 25, 50 and 99 % of what a whole run writes."""
    holder = _make_holder(rig)
    for percent in (1, 25, 50, 99)[: rig.count]:
        at = max(1, holder.size * percent // 100)
        try:
            ran = _run(rig, holder, Faults(), at)
        except _NeverPulledError as error:
            # The kernel writes some blocks twice, or once: that run was a shorter one.
            ran = _run(rig, holder, Faults(), error.written_size * percent // 100)
        yield _weigh(rig, holder, f"at {percent} %", ran)


def _bad_disks(holder: _Holder) -> dict[str, Faults]:
    data = max(holder.writes, key=lambda write: write.size)
    # What lies far behind belongs to the file system, and may stay unwritten another time.
    large = [write for write in holder.writes if write.size >= data.size // 2]
    end = max(write.offset + write.size for write in large)
    at = data.offset + data.size // 2 // 4096 * 4096
    source = holder.source_offset + holder.wims.source.stat().st_size // 2 // 4096 * 4096

    def failing(kind: str, start: int, size: int, left: int | None = None) -> Faults:
        return Faults(failing=(Failing(kind, start, start + size, left),))

    return {
        "EIO on one LBA of the source": failing("read", source, 512),
        "EIO on one LBA of the source, once": failing("read", source, 512, 1),
        "EIO on one LBA of the output": failing("write", at, 512),
        "EIO on a range of the output": failing("write", data.offset, data.size),
        "EIO on one LBA of the output, once": failing("write", at, 512, 1),
        "EIO at the end of the output": failing("write", end - 4096, 4096),
        "dead after 2 %": Faults(dead_after_size=holder.size * 2 // 100),
        "dead after 50 %": Faults(dead_after_size=holder.size // 2),
        "dead after 95 %": Faults(dead_after_size=holder.size * 95 // 100),
    }


def _make_holder(rig: Rig) -> _Holder:
    wims = make_wim_rig(rig.work_dir, size=6_000_000)
    tree = rig.work_dir / "tree"
    tree.mkdir()
    run("cp", wims.source, tree / "source.wim")
    run("cp", wims.old, tree / "out.wim")
    pristine = rig.work_dir / "pristine.img"
    with pristine.open("wb") as file:
        file.truncate(96 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", tree, pristine)
    # In one piece on an empty file system.
    source_offset = pristine.read_bytes().index(wims.source.read_bytes())
    holder = _Holder(wims, pristine, source_offset, (), 0)
    ran = _run(rig, holder, Faults(is_logging=True), None)
    trial = _weigh(rig, holder, "", ran)
    if trial.verdict is not Verdict.COMPLETE:
        raise RuntimeError(f"without a fault: {trial}")
    log = rig.out_dir / "disk" / "writes.log"
    writes = [write for write in Recording(log, ran.disk).requests if isinstance(write, Write)]
    log.unlink()
    return _Holder(
        wims, pristine, source_offset, tuple(writes), sum(write.size for write in writes)
    )


def _run(rig: Rig, holder: _Holder, faults: Faults, pulled_at: int | None) -> _Ran:
    disk = copy_sparse(holder.pristine, rig.work_dir / "disk.img")
    script = f"""
modprobe ext4
mkdir -p /mnt/bad
mount -t ext4 /dev/sda /mnt/bad
code=0
python3 -m mediamaker wim optimize /mnt/bad/source.wim /mnt/bad/out.wim --force --for network \\
    --json > run.json 2> run.err || code=$?
echo $code > run.code
echo "{_ENDED}" > /dev/ttyS0
umount -l /mnt/bad || true
"""
    with FaultyDisk(disk, faults, folder=rig.out_dir / "disk") as faulty:
        machine = Guest(
            script,
            disks=[faulty.attach(Bus.USB, serial="BAD0")],
            work_dir=rig.out_dir,
            memory_size=1024 * MIB,
        )
        with machine:
            if pulled_at is None:
                machine.machine.wait_for_serial(_ENDED, timeout=_TIMEOUT_SECONDS)
            elif not unplug_at(machine, faulty, pulled_at):
                raise _NeverPulledError(pulled_at, faulty.told())
            result = machine.wait(timeout=_TIMEOUT_SECONDS)
        told = faulty.told()
    assert result.exit_code == 0, result.output
    texts = [(rig.out_dir / f"run.{ending}").read_text() for ending in ("code", "json", "err")]
    return _Ran(Killed(int(texts[0]), texts[1], texts[2]), disk, told)


def _weigh(rig: Rig, holder: _Holder, name: str, ran: _Ran) -> Trial:
    """By what is found once the disk works again."""
    found = _find(rig, holder, ran)
    if isinstance(found, str):
        return Trial(Verdict.LOST, name, f"{found}; {ran.words}")
    is_old = digest(found) == digest(holder.wims.old)
    trouble = None if is_old else holder.wims.find_trouble(holder.wims.ways[1], found)
    if ran.command.exit_code == 0:
        is_done = not is_old and trouble is None
        verdict = Verdict.COMPLETE if is_done else Verdict.FALSE_DONE
        return Trial(verdict, name, f"{trouble}; {ran.words}" if trouble else ran.words)
    if trouble is not None:
        return Trial(Verdict.HALF_VALID, name, f"{trouble}; {ran.words}")
    trouble = judge_refusal(ran.command, (3, 4, 6), ("input/output", "i/o", "read-only"))
    if trouble is None and "out.wim" not in last_line(ran.command.output):
        trouble = f"names no file: {ran.words}"
    if not is_old and trouble is None and "its name could not be flushed" in ran.words:
        return Trial(Verdict.NAMED, name, ran.words)
    if not is_old:
        trouble = f"the new file is there, whole, and was not called done: {trouble or ran.words}"
    verdict = Verdict.AS_BEFORE if trouble is None else Verdict.WRONG_WORDS
    return Trial(verdict, name, trouble or ran.words)


def _weigh_lie(rig: Rig, holder: _Holder, name: str, ran: _Ran) -> Trial:
    """It must have been called done; then the old file is there, or the new one, whole."""
    found = _find(rig, holder, ran)
    if isinstance(found, str):
        return Trial(Verdict.LOST, name, f"{found}; {ran.words}")
    if ran.command.exit_code or ran.command.errors:
        return Trial(Verdict.WRONG_WORDS, name, f"{ran.words} {ran.command.errors[-200:]}")
    if digest(found) == digest(holder.wims.old):
        return Trial(Verdict.UNKNOWABLE, name, f"the file that was there, every byte; {ran.words}")
    trouble = holder.wims.find_trouble(holder.wims.ways[1], found)
    if trouble is None:
        return Trial(Verdict.COMPLETE, name, ran.words)
    verify = run_any(*mediamaker("wim", "verify", found, "--json"))
    if verify.returncode in _DAMAGED:
        return Trial(Verdict.NAMED, name, f"{ran.words}; wim verify: {last_line(verify.stdout)}")
    return Trial(Verdict.FALSE_DONE, name, f"{trouble}; {ran.words}")


def _find(rig: Rig, holder: _Holder, ran: _Ran) -> Path | str:
    """The output, once the file system's journal is replayed; or what is lost."""
    checked = run_any("e2fsck", "-fy", ran.disk)
    if checked.returncode >= _UNCORRECTED:
        said = f"{checked.stdout}{checked.stderr}"
        raise RuntimeError(f"e2fsck ended with {checked.returncode}: {said[-600:]}")
    found = [rig.work_dir / name for name in ("found-source.wim", "found.wim")]
    for path, name in zip(found, ("source.wim", "out.wim"), strict=True):
        path.unlink(missing_ok=True)
        run("debugfs", "-R", f"dump /{name} {path}", ran.disk)
    if not found[1].exists():
        return "the old output is gone"
    if not found[0].exists() or digest(found[0]) != holder.wims.source_digest:
        return "the source is changed"
    return found[1]
