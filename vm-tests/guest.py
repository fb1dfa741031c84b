# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a shell script under a real Linux kernel, with real block devices.

::

    result = run_in_guest(
        "lsblk /dev/sda; mediamaker create /tmp/win.iso /dev/sda --confirm STICK1",
        disks=[Disk(image, Bus.USB, snapshot=False, serial="STICK1")],
        work_dir=out_dir,
    )
    assert result.exit_code == 0, result.output

The guest is a ``Machine`` with Debian's own kernel. It sees this host's file system live, over
9p, exported read-only by QEMU and covered by an overlay in the guest's memory: everything that is
installed here is installed there, everything seems writable, and nothing that the guest does can
reach the host, save through ``work_dir``, which is shared for writing under the same path, and
through disks given with ``snapshot=False``. There is no network.

How the script ended is told by the guest: it says a token made for this run, with the exit code,
on its serial line. No token, no result.

Debian packages: qemu-system-x86, linux-image-amd64, busybox-static, kmod.

virtme-ng does the like, but takes 42 s under TCG to start a script, where this takes 8 s (it runs
systemd-tmpfiles and a coldplug of everything first), and keeps QEMU's control connection to
itself.
"""

import lzma
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mediamaker.errors import BootError, ToolError
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk
from mediamaker.vm.firmware import Firmware
from mediamaker.vm.machine import Machine
from mediamaker.vm.record import Verdict

ROOT = Path(__file__).parent.parent
BUSYBOX = Path("/bin/busybox")
# In the initramfs: what mounting the host's file system needs. "virtio_pci" must find its devices
# before "9pnet_virtio" serves them.
EARLY_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
BUS_MODULES = {
    Bus.USB: ("xhci_pci", "usb_storage", "uas", "sd_mod"),
    Bus.AHCI: ("ahci", "sd_mod"),
    Bus.NVME: ("nvme",),
    Bus.VIRTIO: ("virtio_blk",),
    Bus.SD: ("sdhci_pci", "mmc_block"),
}
FILE_SYSTEM_MODULES = ("loop", "fuse", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "exfat", "udf")
MOUNT_9P = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
{MOUNT_9P},cache=loose,ro host /host
mount -t tmpfs tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
{MOUNT_9P} work "/root$(cat /work-dir)"
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs tmpfs /root/run
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
exec switch_root /root /bin/bash "$(cat /work-dir)/guest-run.sh"
"""

# Process 1 of the guest. The script runs with -e -u -o pipefail: a command that fails, fails it.
RUN = """\
cd {work_dir}
export PATH={path} HOME=/root LANG=C.UTF-8
modprobe --all {modules}
code=0
for attempt in $(seq 300); do
    count=$(ls /sys/block | grep -Ec '^(sd|vd|nvme|mmcblk)' || true)
    [ "$count" -ge {disk_count} ] && break
    sleep 0.1
done
if [ "$count" -lt {disk_count} ]; then
    echo "of {disk_count} disks $count appeared: $(ls /sys/block | xargs)" > guest-output.txt
    code=125
fi
{udev}
if [ $code = 0 ]; then
    bash -e -u -o pipefail guest-script.sh < /dev/null > guest-output.txt 2>&1
    code=$?
fi
sync
echo "{token} exit=$code" > /dev/ttyS0
cd /
busybox poweroff -f
"""
START_UDEV = """\
/lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=block --action=add
udevadm settle
"""


@dataclass(frozen=True)
class GuestResult:
    """What the guest said; ``output`` is the script's standard output and error."""

    exit_code: int
    output: str
    seconds: float
    directory: Path


class Guest:
    """A script that runs in a machine of its own; ``machine`` is there to be tampered with.

    Args:
        script: run by bash with ``-e -u -o pipefail``, as root, in ``work_dir``.
        disks: in the order in which the kernel finds them per bus; the first USB or AHCI disk is
            ``sda``. A disk is written only if it says ``snapshot=False``.
        work_dir: shared with the guest, for reading and writing, under its own path.
        memory_size: bytes; what the guest writes outside ``work_dir`` takes memory too.
        with_udev: start udev, as a real system does, for the block devices only (about 2 s).
        extra_arguments: more of QEMU's own, for disks that ``Disk`` can't say.
    """

    def __init__(
        self,
        script: str,
        *,
        work_dir: Path,
        disks: Sequence[Disk] = (),
        memory_size: int = 768 * MIB,
        with_udev: bool = True,
        extra_arguments: Sequence[str] = (),
    ) -> None:
        self._work_dir = work_dir.resolve()
        self._token = f"guest-{secrets.token_hex(8)}"
        version = _find_kernel_version()
        buses = {disk.bus for disk in disks}
        modules = [name for bus in buses for name in BUS_MODULES[bus]]
        self._work_dir.mkdir(parents=True, exist_ok=True)
        (self._work_dir / "guest-output.txt").write_bytes(b"")
        (self._work_dir / "guest-script.sh").write_text(script)
        (self._work_dir / "guest-run.sh").write_text(
            RUN.format(
                work_dir=shlex.quote(str(self._work_dir)),
                path=f"{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                modules=" ".join((*dict.fromkeys(modules), *FILE_SYSTEM_MODULES)),
                disk_count=len(disks),
                udev=START_UDEV if with_udev else "",
                token=self._token,
            )
        )
        initramfs = self._work_dir / "guest-initramfs.cpio"
        initramfs.write_bytes(_pack_initramfs(version, self._work_dir))
        self.machine = Machine(
            "guest",
            disks,
            firmware=Firmware.BIOS,
            directory=self._work_dir,
            memory_size=memory_size,
            extra_arguments=[
                *("-kernel", f"/boot/vmlinuz-{version}", "-initrd", str(initramfs), "-append"),
                "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off usb-storage.delay_use=0",
                *_share("host", Path("/"), "readonly=on"),
                *_share("work", self._work_dir, "readonly=off"),
                *extra_arguments,
            ],
        )

    def __enter__(self) -> Self:
        self.machine.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        # It has said its own token, or nothing: the machine's last look is for the report.
        self.machine.__exit__(None, None, None)
        (self._work_dir / "guest-initramfs.cpio").unlink()

    def wait(self, *, timeout: float) -> GuestResult:
        """Wait until the guest has said how the script ended, and has switched itself off.

        Raises:
            BootError: it did not, within ``timeout`` seconds; the kernel panicked; it reset.
        """
        pattern = re.compile(rf"^{self._token} exit=(\d+)$", re.MULTILINE)
        deadline = time.monotonic() + timeout
        while True:
            self.machine.poll()
            said = self.machine.serial_text()
            match = pattern.search(said)
            if match is not None and self.machine.is_off:
                words = f"proven: the serial line says {match[0]!r}"
                self.machine.verdict = Verdict(is_proven=True, words=words, line=match[0])
                return GuestResult(
                    exit_code=int(match[1]),
                    output=self._read_output(),
                    seconds=self.machine.seconds,
                    directory=self.machine.directory,
                )
            if self.machine.is_off or self.machine.reset_count or time.monotonic() > deadline:
                ending = "\n".join(
                    [*said.splitlines()[-20:], *self._read_output().splitlines()[-20:]]
                )
                words = "not proven: the guest did not say how its script ended"
                self.machine.verdict = Verdict(is_proven=False, words=words)
                raise BootError(
                    f"the guest did not say how its script ended within {timeout:g} s "
                    f"(off: {self.machine.is_off}, resets: {self.machine.reset_count}):\n{ending}",
                    hint=f"look at {self.machine.serial_log}",
                )
            time.sleep(0.2)

    def _read_output(self) -> str:
        return (self._work_dir / "guest-output.txt").read_text(errors="replace")


def run_in_guest(
    script: str,
    *,
    work_dir: Path,
    disks: Sequence[Disk] = (),
    timeout: float = 180,
    memory_size: int = 768 * MIB,
    with_udev: bool = True,
) -> GuestResult:
    """Run ``script`` in a guest to its end; see ``Guest``."""
    with Guest(
        script, work_dir=work_dir, disks=disks, memory_size=memory_size, with_udev=with_udev
    ) as guest:
        return guest.wait(timeout=timeout)


def _share(tag: str, path: Path, access: str) -> tuple[str, ...]:
    """QEMU's arguments for a folder of the host; "remap" keeps inodes of many disks apart."""
    quoted = str(path).replace(",", ",,")
    return (
        "-fsdev",
        f"local,id={tag},path={quoted},security_model=none,multidevs=remap,{access}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    )


def _find_kernel_version() -> str:
    """The newest kernel of Debian that is installed with its modules."""
    found = [
        path.name.removeprefix("vmlinuz-")
        for path in Path("/boot").glob("vmlinuz-*")
        if Path("/lib/modules", path.name.removeprefix("vmlinuz-"), "modules.dep").exists()
    ]
    if not found or not BUSYBOX.exists():
        raise ToolError(
            "guests need a kernel with its modules in /boot and /lib/modules, and /bin/busybox",
            hint="apt install linux-image-amd64 busybox-static kmod",
        )
    return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def _find_modules(version: str) -> list[Path]:
    """The files of the early modules, each after those that it needs."""
    shown = subprocess.run(
        ["modprobe", "--show-depends", "--all", "--set-version", version, *EARLY_MODULES],
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("insmod ")]
    return [Path(path) for path in dict.fromkeys(paths)]


def _pack_initramfs(version: str, work_dir: Path) -> bytes:
    """A cpio archive (format "newc", Documentation/driver-api/early-userspace in Linux)."""
    modules = {}
    for path in _find_modules(version):
        data = path.read_bytes()
        modules[path.name.split(".")[0] + ".ko"] = (
            lzma.decompress(data) if path.suffix == ".xz" else data
        )
    folders = ("bin", "dev", "host", "memory", "modules", "proc", "root", "sys")
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [("bin/busybox", 0o100755, BUSYBOX.read_bytes()), ("init", 0o100755, INIT.encode())]
    entries += [("work-dir", 0o100644, str(work_dir).encode())]
    entries += [("modules/order", 0o100644, "\n".join(modules).encode())]
    entries += [(f"modules/{name}", 0o100644, data) for name, data in modules.items()]
    packed = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        packed += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        packed += b"\0" * (-len(packed) % 4) + data
        packed += b"\0" * (-len(packed) % 4)
    return bytes(packed)
