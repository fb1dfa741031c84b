# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files in awkward places, and real (loop) block devices. Needs root for the latter."""

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from mediamaker.devices.target import (
    BlockTarget,
    FileTarget,
    is_block_device,
    open_for_reading,
)
from mediamaker.errors import (
    TargetIOError,
    TargetRefusedError,
    TargetTooSmallError,
    VerifyError,
)
from mediamaker.execute.create import execute_plan
from mediamaker.execute.pipeline import aligned_buffer
from mediamaker.execute.progress import Notice
from tests.execute.engine_rig import MIB, OLD, FaultyTarget, execute, make_rig, verify_stick, write

LOOP_CTL_ADD = 0x4C80
LOOP_CTL_REMOVE = 0x4C81


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def loop_device(path: Path, *options):
    device = run("losetup", "--find", "--show", *options, str(path))
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(*arguments):
    run("mount", *map(str, arguments))
    try:
        yield arguments[-1]
    finally:
        run("umount", str(arguments[-1]))


@pytest.fixture
def rig(tmp_path):
    return make_rig(tmp_path)


@pytest.fixture
def backing(tmp_path, rig):
    path = tmp_path / "backing"
    path.write_bytes(OLD * rig.extents.end)
    return path


@pytest.fixture
def no_tmpfile(monkeypatch):
    """FAT, exFAT and NFS: open(2) knows no O_TMPFILE there."""
    real_open = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)


class TestImageFile:
    def test_appears_only_when_finished(self, tmp_path):
        target = FileTarget.create(tmp_path / "a.img", MIB)
        assert list(tmp_path.iterdir()) == []
        target.finish()
        assert [path.name for path in tmp_path.iterdir()] == ["a.img"]
        assert (tmp_path / "a.img").read_bytes() == bytes(MIB)

    def test_is_removed_when_aborted_or_left(self, tmp_path):
        target = FileTarget.create(tmp_path / "a.img", MIB)
        assert "as it was before" in target.abort()
        target.abort()
        with FileTarget.create(tmp_path / "a.img", MIB):
            pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("no_tmpfile")
    @pytest.mark.parametrize("replace", [False, True])
    def test_where_a_file_must_have_a_name_it_is_hidden(self, tmp_path, replace):
        target = FileTarget.create(tmp_path / "a.img", MIB, replace=replace)
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".a.img.mediamaker-")
        assert partial.name.endswith(".partial")
        target.finish()
        assert [path.name for path in tmp_path.iterdir()] == ["a.img"]
        FileTarget.create(tmp_path / "b.img", MIB).abort()
        assert [path.name for path in tmp_path.iterdir()] == ["a.img"]

    @pytest.mark.parametrize("replace", [False, True])
    def test_sigkill_leaves_nothing(self, tmp_path, replace):
        if replace:
            (tmp_path / "a.img").write_text("old")
        child = os.fork()
        if child == 0:
            target = FileTarget.create(tmp_path / "a.img", MIB, replace=replace)
            target.pwrite(0, memoryview(bytes(4096)))
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert found == ({"a.img": "old"} if replace else {})

    def test_a_name_taken_meanwhile_is_not_replaced(self, tmp_path):
        target = FileTarget.create(tmp_path / "a.img", MIB)
        (tmp_path / "a.img").write_text("precious")
        with pytest.raises(TargetRefusedError, match="exists already"):
            target.finish()
        target.abort()
        assert (tmp_path / "a.img").read_text() == "precious"
        assert len(list(tmp_path.iterdir())) == 1

    def test_an_existing_file_is_replaced_only_if_told(self, tmp_path):
        path = tmp_path / "a.img"
        path.write_bytes(b"old")
        path.chmod(0o640)
        with pytest.raises(TargetRefusedError, match="exists already") as caught:
            FileTarget.create(path, MIB)
        assert "--force" in caught.value.hint
        target = FileTarget.create(path, MIB, replace=True)
        assert path.read_bytes() == b"old"
        target.finish()
        assert path.stat().st_size == MIB
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_a_link_is_followed(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "a.img").symlink_to(tmp_path / "elsewhere" / "real.img")
        FileTarget.create(tmp_path / "a.img", MIB).finish()
        assert (tmp_path / "a.img").is_symlink()
        assert (tmp_path / "elsewhere" / "real.img").stat().st_size == MIB

    def test_the_umask_holds(self, tmp_path):
        old = os.umask(0o027)
        try:
            FileTarget.create(tmp_path / "a.img", MIB).finish()
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "a.img").stat().st_mode) == 0o640

    @pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "with space", "-dash", "new\nline"])
    def test_any_name_will_do(self, tmp_path, name):
        FileTarget.create(tmp_path / name, MIB).finish()
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("name", ["missing/a.img", "file/a.img", "x" * 256, "folder", "fifo"])
    def test_places_where_no_file_can_be(self, tmp_path, name):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(TargetRefusedError) as caught:
            FileTarget.create(tmp_path / name, MIB, replace=True)
        assert name in str(caught.value)
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_read_only_file_system(self, tmp_path):
        with (
            mounted("-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path),
            pytest.raises(TargetRefusedError, match="Read-only file system"),
        ):
            FileTarget.create(tmp_path / "a.img", MIB)

    def test_a_file_larger_than_the_file_system_holds(self, tmp_path):
        with pytest.raises(TargetTooSmallError, match="holds no file of 4096 TiB") as caught:
            FileTarget.create(tmp_path / "a.img", 4096 << 40)
        assert caught.value.needed_size == 4096 << 40
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("no_tmpfile")
    def test_a_file_system_without_links(self, tmp_path, monkeypatch):
        """FAT, exFAT and some network shares: link(2) gives EPERM there."""

        def refuse(*_, **__):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        FileTarget.create(tmp_path / "a.img", MIB).finish()
        target = FileTarget.create(tmp_path / "b.img", MIB)
        (tmp_path / "b.img").touch()
        with pytest.raises(TargetRefusedError, match="exists already"):
            target.finish()
        target.abort()
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert sizes == {"a.img": MIB, "b.img": 0}

    def test_a_full_file_system(self, tmp_path, rig):
        place = tmp_path / "mnt"
        place.mkdir()
        with mounted("-t", "tmpfs", "-o", "size=3m", "tmpfs", place):
            target = FileTarget.create(place / "a.img", rig.extents.end)
            with pytest.raises(TargetIOError) as caught:
                execute(rig, target)
            assert list(place.iterdir()) == []
        message = str(caught.value)
        assert "no room" in message
        assert "the image takes 7." in message
        assert "No space left on device" in message
        assert "boot.wim" in message

    def test_a_limit_on_the_size_of_files(self, tmp_path, rig):
        """RLIMIT_FSIZE, as a quota would: pwrite fails with EFBIG, not the ftruncate."""
        target = FileTarget.create(tmp_path / "a.img", rig.extents.end)
        old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, old_limit[1]))
            with pytest.raises(TargetIOError, match="no room"):
                execute(rig, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
            signal.signal(signal.SIGXFSZ, old_handler)
        assert not (tmp_path / "a.img").exists()

    def test_holes_are_told(self, tmp_path):
        target = FileTarget.create(tmp_path / "a.img", 8 * MIB)
        target.pwrite(2 * MIB, memoryview(b"x" * 4096))
        target.pwrite(6 * MIB, memoryview(b"x" * 4096))
        assert list(target.data_runs(0, 8 * MIB)) == [
            (2 * MIB, 2 * MIB + 4096),
            (6 * MIB, 6 * MIB + 4096),
        ]
        assert list(target.data_runs(2 * MIB + 100, 2 * MIB + 200)) == [
            (2 * MIB + 100, 2 * MIB + 200)
        ]
        assert list(target.data_runs(3 * MIB, 5 * MIB)) == []
        target.abort()

    def test_reading_past_the_end_is_an_error(self, tmp_path):
        path = tmp_path / "a.img"
        path.write_bytes(b"x" * 1000)
        with FileTarget.open(path) as target:
            assert target.pread(990, 10) == b"x" * 10
            with pytest.raises(OSError, match="ends at 0x3e8"):
                target.pread(990, 11)

    def test_opening_what_is_no_image(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for name in ("missing", "fifo", "."):
            with pytest.raises(TargetRefusedError):
                FileTarget.open(tmp_path / name)


class TestBlockDevice:
    def test_a_plan_is_written_and_verified(self, rig, backing):
        events = []
        with loop_device(backing) as device:
            target = BlockTarget.open(device)
            assert (target.size, target.logical_sector_size) == (rig.extents.end, 512)
            assert target.is_durable
            result = execute(rig, FaultyTarget(target), on_event=events.append)
            assert target.is_closed
            assert device.read_bytes() == rig.expected()
        assert result.verify is not None
        assert result.write.out_of_order_writes < 10
        assert not [event for event in events if isinstance(event, Notice)]

    def test_its_name_may_end_in_a_digit_and_be_a_link(self, tmp_path, backing):
        with loop_device(backing) as device:
            assert device.name[-1].isdigit()
            link = tmp_path / "stick"
            link.symlink_to(device)
            assert is_block_device(link)
            BlockTarget.open(link).close()

    def test_sectors_of_4096_bytes(self, tmp_path):
        rig = make_rig(tmp_path, sector_size=4096)
        backing = tmp_path / "backing"
        backing.write_bytes(OLD * rig.extents.end)
        with loop_device(backing, "--sector-size", "4096") as device:
            target = BlockTarget.open(device)
            assert target.logical_sector_size == 4096
            execute(rig, target)
            assert device.read_bytes() == rig.expected()

    def test_a_device_that_refuses_o_direct_is_written_without(self, rig, backing):
        """A device over a file whose loop refuses nothing: refuse it by hand, once."""
        with loop_device(backing) as device:
            target = BlockTarget.open(device)
            misaligned = memoryview(bytearray(4096 + 1))[1:]  # EINVAL under O_DIRECT
            assert target.pwrite(0, misaligned) == 4096
            assert not target.is_durable
            assert not fcntl.fcntl(target._descriptor, fcntl.F_GETFL) & os.O_DIRECT
            log = FaultyTarget(target)
            execute(rig, log)
            assert device.read_bytes() == rig.expected()

    def test_o_excl_is_never_given_up(self, rig, backing, monkeypatch):
        real_open = os.open
        tried = []

        def refusing(path, flags, *rest, **options):
            if str(path).startswith("/dev/loop"):
                tried.append(flags)
                if flags & os.O_DIRECT:
                    raise OSError(errno.EINVAL, "no O_DIRECT here")
            return real_open(path, flags, *rest, **options)

        with loop_device(backing) as device:
            monkeypatch.setattr(os, "open", refusing)
            target = BlockTarget.open(device)
            assert not target.is_durable
            execute(rig, target)
            assert all(flags & os.O_EXCL for flags in tried if flags & os.O_RDWR)
            assert len(tried) == 2
            assert device.read_bytes() == rig.expected()

    def test_a_mounted_device_is_refused_and_the_mount_named(self, tmp_path, backing):
        run("mkfs.ext4", "-q", "-F", str(backing))
        place = tmp_path / "a mount"
        place.mkdir()
        with (
            loop_device(backing) as device,
            mounted(device, place),
            pytest.raises(TargetRefusedError, match=f"{device}: in use.*{place}") as caught,
        ):
            BlockTarget.open(device)
        assert "unmount" in caught.value.hint

    def test_a_device_that_another_program_holds_is_refused(self, backing):
        with loop_device(backing) as device:
            first = BlockTarget.open(device)
            with pytest.raises(TargetRefusedError, match="in use: another program"):
                BlockTarget.open(device)
            first.close()
            BlockTarget.open(device).close()

    def test_a_read_only_device_is_refused(self, backing):
        with (
            loop_device(backing, "--read-only") as device,
            pytest.raises(TargetRefusedError, match="is read-only"),
        ):
            BlockTarget.open(device)

    def test_a_device_without_a_medium_is_refused(self):
        # A number of our own: one that "losetup --find" names may be taken a moment later.
        with Path("/dev/loop-control").open("rb") as control:
            number = fcntl.ioctl(control, LOOP_CTL_ADD, 5000 + os.getpid() % 1000)
            try:
                with pytest.raises(TargetRefusedError, match="no medium"):
                    BlockTarget.open(Path(f"/dev/loop{number}"))
            finally:
                fcntl.ioctl(control, LOOP_CTL_REMOVE, number)

    def test_what_is_no_block_device_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "missing", Path("/dev/null"), tmp_path):
            assert not is_block_device(path)
            with pytest.raises(TargetRefusedError):
                BlockTarget.open(path)

    def test_verification_reads_the_medium_not_the_cache(self, rig, backing):
        """The page cache of the device holds good bytes, what is below it does not."""
        with loop_device(backing) as device:
            target = BlockTarget.open(device)
            digests = write(rig, target, has_digests=True).digests
            assert device.read_bytes() == rig.expected()  # now the cache is warm
            with backing.open("r+b") as file:
                file.seek(6 * MIB)
                file.write(b"rotten")
                os.fsync(file.fileno())
            with pytest.raises(VerifyError, match="first difference at 0x600000"):
                verify_stick(rig, target, digests)
            target.close()

    def test_any_alignment_can_be_read(self, rig, backing):
        backing.write_bytes(bytes(range(256)) * (rig.extents.end // 256))
        with loop_device(backing) as device, open_for_reading(device) as target:
            assert target.pread(511, 3) == bytes([255, 0, 1])
            assert target.pread(rig.extents.end - 1, 1) == b"\xff"
            assert target.pread(7, 0) == b""
            buffer = aligned_buffer(4096)
            target.preadinto(512, buffer)
            assert bytes(buffer[:4]) == bytes([0, 1, 2, 3])

    def test_old_partitions_go_and_a_busy_table_is_told(self, tmp_path):
        """addpart(8) tells the kernel of a partition whatever table formats it was built with."""
        backing = tmp_path / "backing"
        backing.write_bytes(bytes(4 * MIB))
        with loop_device(backing, "--partscan") as device:
            partition = Path("/sys/class/block") / f"{device.name}p1"
            run("addpart", str(device), "1", "2048", "2048")
            major, minor = map(int, (partition / "dev").read_text().split(":"))
            node = tmp_path / "p1"
            os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
            target = BlockTarget.open(device)
            with node.open("rb"):
                warning = target.reread_partition_table()
            assert "the kernel still shows the old partitions" in warning
            assert partition.exists()
            assert target.reread_partition_table() is None
            assert not partition.exists()
            target.close()

    def test_a_vanished_device_is_noticed(self, tmp_path, backing):
        with loop_device(backing) as device:
            node = tmp_path / "stick"
            os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
            target = BlockTarget.open(node)
            assert target.is_present()
            node.unlink()
            assert not target.is_present()
            node.touch()
            assert not target.is_present()
            target.close()

    def test_a_backing_file_that_fails_below(self, tmp_path, rig):
        """A loop device whose file can't grow: real EIO (or ENOSPC) from a real block device."""
        place = tmp_path / "mnt"
        place.mkdir()
        with mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", place):
            backing = place / "thin"
            with backing.open("wb") as file:
                file.truncate(rig.extents.end)
            with loop_device(backing) as device:
                target = BlockTarget.open(device)
                with pytest.raises(TargetIOError, match=r"writing failed at .*left blank"):
                    execute(rig, target)
                for start, end in rig.commit:
                    with device.open("rb") as file:
                        file.seek(start)
                        assert file.read(end - start) == bytes(end - start)

    def test_without_verification(self, rig, backing):
        with loop_device(backing) as device, rig.reader() as reader:
            result = execute_plan(
                extents=rig.extents,
                commit=rig.commit,
                plan_id="x",
                reader=reader,
                target=BlockTarget.open(device),
                is_verifying=False,
            )
            assert (result.verify, result.digests) == (None, ())
            assert device.read_bytes() == rig.expected()


def test_a_file_that_grows_too_large_is_told_by_name(tmp_path):
    path = tmp_path / "disk.img"
    with FileTarget.create(path, 4096) as target:
        with pytest.raises(TargetTooSmallError, match=r"disk\.img: its file system holds no file"):
            target.grow((1 << 63) - 4096)
        target.abort()
    assert not path.exists()
