# SPDX-License-Identifier: GPL-3.0-or-later
"""A system made of real files: sysfs, procfs, /dev and udev's database in a folder.

The folder layouts are those of real kernels. Device numbers have majors from 3000 on, which
no kernel hands out, so that nothing is ever mistaken for a device of the machine below.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mediamaker.devices.discover import Disk, list_disks
from mediamaker.devices.sysfs import SystemRoots

MIB = 1 << 20
GIB = 1 << 30


def escape(path) -> str:
    return str(path).replace("\\", "\\134").replace(" ", "\\040")


class FakeSystem:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots = SystemRoots(root / "sys", root / "proc", root / "dev", root / "run")
        for folder in ("sys/block", "sys/devices", "proc/self", "dev", "run"):
            (root / folder).mkdir(parents=True)
        self._numbers: dict[str, str] = {}
        self._mounts: dict[int | None, list[str]] = {None: []}
        self._swaps = ["Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"]
        self.mount("0:21", "/proc", filesystem="proc", source="proc")
        self._flush()
        self.closing = ExitStack()

    # looking

    def disks(self) -> tuple[Disk, ...]:
        roots = self.roots
        return list_disks(
            sysfs_root=roots.sysfs, proc_root=roots.proc, dev_root=roots.dev, run_root=roots.run
        )

    def disk(self, name: str) -> Disk:
        return next(disk for disk in self.disks() if disk.name == name)

    def number(self, name: str) -> str:
        return self._numbers[name]

    # building

    def write(self, path: str | Path, content: object) -> None:
        target = self.root / "sys" / path if isinstance(path, str) else path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else f"{content}\n".encode()
        target.write_bytes(data)

    def _new_number(self, name: str) -> str:
        self._numbers[name] = f"{3000 + len(self._numbers)}:{len(self._numbers)}"
        return self._numbers[name]

    def block(self, name, parent, *, size, removable=False, read_only=False, sector_size=512):
        """A block device in ``sys/devices/<parent>/<name>``, linked from ``sys/block``."""
        directory = self.root / "sys/devices" / parent / name
        for folder in ("queue", "holders", "slaves"):
            (directory / folder).mkdir(parents=True)
        self.write(directory / "dev", self._new_number(name))
        self.write(directory / "size", size // 512)
        self.write(directory / "removable", int(removable))
        self.write(directory / "ro", int(read_only))
        self.write(directory / "hidden", 0)
        self.write(directory / "diskseq", len(self._numbers))
        self.write(directory / "queue/logical_block_size", sector_size)
        self.write(directory / "queue/physical_block_size", max(sector_size, 4096))
        self.write(directory / "queue/rotational", 0)
        link = self.root / "sys/block" / name
        link.symlink_to(os.path.relpath(directory, link.parent))
        return directory

    def directory(self, name: str) -> Path:
        direct = self.root / "sys/block" / name
        if direct.exists():
            return direct.resolve()
        return next(
            entry.resolve()
            for entry in (self.root / "sys/block").glob(f"*/{name}")
            if (entry / "partition").exists()
        )

    def partition(self, disk: str, name: str, number: int, *, size=64 * MIB, start=MIB):
        directory = self.directory(disk) / name
        (directory / "holders").mkdir(parents=True)
        self.write(directory / "partition", number)
        self.write(directory / "dev", self._new_number(name))
        self.write(directory / "start", start // 512)
        self.write(directory / "size", size // 512)
        return name

    def scsi(self, name, parent, *, address="0:0:0:0", vendor=None, model=None, type_=0, **block):
        """A SCSI disk below ``parent``, as usb-storage, uas and libata make them."""
        host = address.split(":")[0]
        target = f"{parent}/host{host}/target{address[: address.rindex(':')]}/{address}"
        directory = self.block(name, f"{target}/block", **block)
        device = self.root / "sys/devices" / target
        (directory / "device").symlink_to(os.path.relpath(device, directory))
        for key, value in (("vendor", vendor), ("model", model), ("type", type_)):
            if value is not None:
                self.write(device / key, value)
        return device

    def usb(self, name="sdb", *, port="2-1", serial="4C530001230101117392", lun=0, **options):
        options = {
            "size": 16 * GIB,
            "removable": True,
            "vendor": "SanDisk ",
            "model": "Ultra Fit       ",
            **options,
        }
        usb = f"pci0000:00/0000:00:14.0/usb2/{port}"
        device = self.root / "sys/devices" / usb
        self.write(device / "idVendor", "0781")
        if serial is not None:
            self.write(device / "serial", serial)
        self.scsi(name, f"{usb}/{port}:1.0", address=f"6:0:0:{lun}", **options)
        return name

    def sata(self, name="sda", *, ata=1, serial=b"WD-WCC4E0000001 ", wwid=None, **options):
        options = {"size": 500 * GIB, "vendor": "ATA     ", "model": "WDC WD5000", **options}
        parent = f"pci0000:00/0000:00:17.0/ata{ata}"
        device = self.scsi(name, parent, address=f"{ata}:0:0:0", **options)
        if serial is not None:
            self.write(device / "vpd_pg80", bytes([0, 0x80, 0, len(serial)]) + serial)
        self.write(device / "wwid", wwid or f"naa.500000000000000{ata}")
        return name

    def nvme(self, name="nvme0n1", *, serial="S4EWNX0R000001      ", **options):
        parent = "pci0000:00/0000:00:1d.0/0000:3b:00.0/nvme/nvme0"
        directory = self.block(name, parent, **{"size": 256 * GIB, **options})
        (directory / "device").symlink_to("..")
        self.write(directory.parent / "model", "Samsung SSD 970 EVO Plus")
        self.write(directory.parent / "serial", serial)
        self.write(directory / "wwid", "eui.0025385b01400001")
        return name

    def mmc(self, name="mmcblk0", *, type_="SD", **options):
        parent = "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa"
        directory = self.block(name, f"{parent}/block", **{"size": 32 * GIB, **options})
        device = self.root / "sys/devices" / parent
        (directory / "device").symlink_to("../..")
        for key, value in (("type", type_), ("name", "SC32G"), ("serial", "0x1b2c3d4e")):
            self.write(device / key, value)
        return name

    def virtio(self, name="vda", *, serial=None, **options):
        parent = "pci0000:00/0000:00:02.0/virtio1"
        directory = self.block(name, f"{parent}/block", **{"size": 8 * GIB, **options})
        device = self.root / "sys/devices" / parent
        (directory / "device").symlink_to("../..")
        self.write(device / "vendor", "0x1af4")
        self.write(directory / "serial", serial or "")
        return name

    def loop(self, name="loop0", *, backing_file=None, **options):
        directory = self.block(name, "virtual/block", **{"size": 64 * MIB, **options})
        if backing_file is not None:
            self.write(directory / "loop/backing_file", backing_file)
        else:
            self.write(directory / "dev", f"7:{200 + len(self._numbers)}")
        return name

    def stack(self, name: str, *below: str, size=32 * MIB, one_sided: str | None = None) -> Path:
        """A device made of others; the kernel notes it at both ends unless ``one_sided``."""
        directory = self.block(name, "virtual/block", size=size)
        for slave in below:
            under = self.directory(slave)
            if one_sided != "holders":
                (directory / "slaves" / slave).symlink_to(under)
            if one_sided != "slaves":
                (under / "holders" / name).symlink_to(directory)
        return directory

    def mapper(self, name: str, *below: str, label: str, uuid: str, **options) -> str:
        directory = self.stack(name, *below, **options)
        self.write(directory / "dm/name", label)
        self.write(directory / "dm/uuid", uuid)
        (self.root / "dev/mapper").mkdir(exist_ok=True)
        (self.root / "dev/mapper" / label).symlink_to(f"../{name}")
        return name

    def md(self, name: str, *below: str, **options) -> str:
        directory = self.stack(name, *below, **options)
        self.write(directory / "md/level", "raid1")
        return name

    def udev(self, name: str, **pairs: str) -> None:
        lines = "".join(f"E:{key}={value}\n" for key, value in pairs.items())
        self.write(self.root / f"run/udev/data/b{self.number(name)}", f"S:disk/by-x\n{lines}")

    # using

    def mount(
        self, device, mountpoint, *, filesystem="ext4", source=None, options="rw", pid=None
    ) -> None:
        """Mount by kernel name, or by number where a file system makes one up (``0:42``)."""
        number = device if ":" in device else self.number(device)
        lines = self._mounts.setdefault(pid, [])
        source = source or f"/dev/{device}"
        place = escape(mountpoint)
        lines.append(
            f"{30 + len(lines)} 1 {number} / {place} rw,relatime shared:1 - "
            f"{filesystem} {escape(source)} {options}"
        )
        self._flush()

    def opened(self, name: str, *, pid=4711, flags: int = os.O_RDWR, process="zfs-fuse") -> None:
        """A process that has a device open, as it shows in /proc/PID/fd and fdinfo."""
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        (folder / "fd/11").symlink_to(f"/dev/{name}")
        self.write(folder / "fdinfo/11", f"pos:\t0\nflags:\t{flags | os.O_CLOEXEC:08o}")
        self.write(folder / "comm", process)

    def swap(self, path: str, type_: str = "partition") -> None:
        self._swaps.append(f"{escape(path)}\t{type_}\t1048572\t0\t-2")
        self._flush()

    def _flush(self) -> None:
        for pid, lines in self._mounts.items():
            folder = self.root / "proc" / ("self" if pid is None else str(pid))
            self.write(folder / "mountinfo", "\n".join(lines))
            self.write(folder / "comm", "systemd" if pid == 1 else "firefox")
            link = folder / "ns/mnt"
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(f"mnt:[{4026531840 + (pid or 0)}]")
        self.write(self.root / "proc/swaps", "\n".join(self._swaps))


@pytest.fixture
def system(tmp_path: Path):
    system = FakeSystem(tmp_path / "system")
    with system.closing:
        yield system
