# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files: complete or absent, sparse, copied by the kernel where it can."""

import errno
import itertools
import os
import signal
import threading

import pytest

from mediamaker.devices.target import FileTarget
from mediamaker.errors import SourceChangedError, TargetIOError, TargetRefusedError, VerifyError
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.execute.progress import Phase, Progress
from tests.execute.engine_rig import MIB, FaultyTarget, execute, fail_at, make_rig


@pytest.fixture
def rig(tmp_path):
    """On a real disk, beside the image: else the kernel could not copy between them."""
    return make_rig(tmp_path)


@pytest.fixture
def image_path(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder / "out.img"


def make(rig, image_path, before=None, *, replace=False):
    target = FileTarget.create(image_path, rig.extents.end, replace=replace)
    return FaultyTarget(target, before) if before else FaultyTarget(target)


def left_in(image_path):
    return sorted(path.name for path in image_path.parent.iterdir())


@pytest.mark.parametrize("is_verifying", [True, False])
@pytest.mark.parametrize("has_digests", [True, False])
def test_holds_what_was_planned_and_zeros(rig, image_path, is_verifying, has_digests):
    target = make(rig, image_path)
    result = execute(rig, target, is_verifying=is_verifying, has_digests=has_digests)
    assert image_path.read_bytes() == rig.expected(unwritten=b"\0")
    assert left_in(image_path) == ["out.img"]
    assert (result.verify is not None) == is_verifying
    assert bool(result.digests) == has_digests


def test_digests_are_the_same_by_every_way(rig, stick, tmp_path):
    on_stick = execute(rig, stick, has_digests=True).digests
    for number, is_verifying in enumerate((True, False)):
        target = make(rig, tmp_path / f"{number}.img")
        assert execute(rig, target, is_verifying=is_verifying, has_digests=True).digests == on_stick


def test_holes_stay_holes(rig, image_path):
    result = execute(rig, make(rig, image_path))
    written = image_path.stat().st_blocks * 512
    source_data = rig.iso_path.stat().st_blocks * 512
    assert source_data <= 8 * MIB + 64 * 1024
    # boot.wim 5 MiB, holes.bin 2 of its 4 MiB, and less than 1 MiB of tables.
    assert 7 * MIB < written < 8.5 * MIB
    assert result.write.bytes_written < 8.5 * MIB


def test_the_kernel_copies_large_ranges(rig, image_path):
    target = make(rig, image_path)
    execute(rig, target)
    copied = sum(entry[2] for entry in target.log if entry[0] == "copy_from")
    written = sum(entry[2] for entry in target.log if entry[0] == "pwrite")
    assert copied >= 5 * MIB
    assert written < 2 * MIB


@pytest.mark.parametrize(
    "number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO]
)
def test_where_the_kernel_can_not_copy_we_do(rig, image_path, number):
    def before(name, call_number, arguments):
        if name == "copy_from":
            raise OSError(number, os.strerror(number))

    target = make(rig, image_path, before)
    execute(rig, target)
    assert image_path.read_bytes() == rig.expected(unwritten=b"\0")
    if number != errno.EIO:
        assert target.counts["copy_from"] == 1


def test_short_copies_are_continued(rig, image_path):
    target = make(rig, image_path)
    whole = target.copy_from
    target.copy_from = lambda fd, source, offset, size: whole(fd, source, offset, min(size, 99999))
    execute(rig, target)
    assert image_path.read_bytes() == rig.expected(unwritten=b"\0")


class TestInterrupted:
    @pytest.mark.parametrize(
        ("name", "number"),
        [
            *(("pwrite", number) for number in range(1, 5)),
            *(("copy_from", number) for number in range(1, 4)),
            *(("preadinto", number) for number in range(1, 4)),
            ("flush", 1),
            ("flush", 2),
            ("drop_caches", 1),
            ("finish", 1),
        ],
    )
    def test_no_file_is_left(self, rig, image_path, name, number):
        def before(called, call_number, arguments):
            if called == name and call_number == number:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            execute(rig, make(rig, image_path, before))
        assert left_in(image_path) == []
        assert f"{image_path} is as it was before" in "".join(caught.value.__notes__)

    def test_the_file_that_was_to_be_replaced_is_as_it_was(self, rig, image_path):
        image_path.write_bytes(b"precious")
        target = make(rig, image_path, fail_at(0, errno.EIO), replace=True)
        with pytest.raises(TargetIOError, match="is as it was before"):
            execute(rig, target)
        assert image_path.read_bytes() == b"precious"
        assert left_in(image_path) == ["out.img"]

    def test_by_ctrl_c_at_any_time(self, rig, tmp_path):
        """A real SIGINT at moments that nobody chose; the outcome is all or nothing."""
        outcomes = []
        for number in range(12):
            image_path = tmp_path / f"{number}.img"
            cancel = threading.Event()
            # As cli does it: SIGINT is held back from before the target is opened.
            with interrupt_sets(cancel):
                timer = threading.Timer(0.004 * number, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                try:
                    execute(rig, make(rig, image_path), cancel=cancel)
                    assert image_path.read_bytes() == rig.expected(unwritten=b"\0")
                    outcomes.append("done")
                except KeyboardInterrupt:
                    assert not image_path.exists()
                    outcomes.append("interrupted")
                timer.join()
                assert cancel.wait(10)
        assert not list(tmp_path.glob(".*"))
        assert "interrupted" in outcomes


class TestFailing:
    def test_verification(self, rig, image_path):
        target = make(rig, image_path)
        honest = target.inner.pwrite

        def lying(offset, buffer):
            return honest(offset, memoryview(bytearray(len(buffer))))

        target.inner.pwrite = lying
        with pytest.raises(VerifyError, match="as it was before"):
            execute(rig, target)
        assert left_in(image_path) == []

    def test_source_that_changes(self, rig, image_path):
        def before(name, number, arguments):
            if name == "flush":
                os.utime(rig.iso_path, ns=(1, 1))

        with pytest.raises(SourceChangedError):
            execute(rig, make(rig, image_path, before))
        assert left_in(image_path) == []

    def test_source_that_shrinks_while_the_kernel_copies(self, rig, image_path):
        def before(name, number, arguments):
            if name == "copy_from":
                os.truncate(rig.iso_path, MIB)

        with pytest.raises(SourceChangedError, match="shrank"):
            execute(rig, make(rig, image_path, before))
        assert left_in(image_path) == []

    def test_name_that_is_taken_meanwhile(self, rig, image_path):
        target = make(rig, image_path)
        image_path.write_bytes(b"somebody else's")
        with pytest.raises(TargetRefusedError, match="exists already"):
            execute(rig, target)
        assert image_path.read_bytes() == b"somebody else's"
        assert left_in(image_path) == ["out.img"]


def test_progress_ends_each_phase_and_counts_only_flushed_bytes(rig, image_path, monkeypatch):
    monkeypatch.setattr("mediamaker.execute.flusher.WINDOW_SIZE_FIRST", 1 << 62)
    events = []
    execute(rig, make(rig, image_path), on_event=events.append, clock=iter(range(10**6)).__next__)
    assert all(isinstance(event, Progress) for event in events)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == [Phase.PREPARE, Phase.WRITE, Phase.FLUSH, Phase.COMMIT, Phase.VERIFY]
    for phase in phases:
        of_phase = [event for event in events if event.phase is phase]
        assert of_phase[0].bytes_done == 0
        assert of_phase[-1].bytes_done == of_phase[-1].bytes_total
        assert all(a.bytes_done <= b.bytes_done for a, b in itertools.pairwise(of_phase))
    writing = [event.bytes_done for event in events if event.phase is Phase.WRITE]
    # No flush came, so nothing is on the device until the phase is over.
    assert set(writing[:-1]) == {0}
