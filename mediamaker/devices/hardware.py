# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hardware a disk is: bus, vendor, model, serial, WWN, from sysfs; udev fills the gaps.

sysfs comes first because it is there without udev and does not change while udev is still at
work, so that an identity taken now equals one taken later.

References: kernel Documentation/ABI (sysfs-bus-usb ``serial``, sysfs-class-nvme, sysfs-block
virtio ``serial``), Documentation/mmc/mmc-dev-attrs.rst (``type``, ``name``, ``serial``),
SPC-4 7.8.15 (Unit Serial Number page 80h: length at byte 3, serial from byte 4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mediamaker.devices.sysfs import BlockNode, read_attribute, read_integer

_BUS_PATTERNS = (
    # the first that fits wins: a SATA disk in a USB case is a USB disk
    ("usb", re.compile(r"usb[0-9]+")),
    ("nvme", re.compile(r"nvme|nvme-subsystem")),
    ("mmc", re.compile(r"mmc_host")),
    ("sata", re.compile(r"ata[0-9]+")),
    ("firewire", re.compile(r"fw[0-9]+(\.[0-9]+)?")),
    ("virtio", re.compile(r"virtio[0-9]+")),
    ("xen", re.compile(r"vbd-[0-9]+")),
    ("floppy", re.compile(r"floppy\.[0-9]+")),
    ("scsi", re.compile(r"host[0-9]+")),
    ("loop", re.compile(r"loop[0-9]+")),
    ("nbd", re.compile(r"nbd[0-9]+")),
)
_SCSI_ADDRESS_RE = re.compile(r"[0-9]+:[0-9]+:[0-9]+:([0-9]+)")
_SCSI_TYPE_OPTICAL = 5
_PAGE_HEADER_SIZE = 4


@dataclass(frozen=True, slots=True)
class Hardware:
    """What can be said of a disk without reading its contents."""

    bus: str
    vendor: str | None
    model: str | None
    serial: str | None
    wwn: str | None
    lun: int | None
    is_optical: bool
    is_memory_card: bool


def read_hardware(node: BlockNode, udev: dict[str, str]) -> Hardware:
    """The hardware behind a whole disk."""
    device = node.directory / "device"
    usb_device = _find_usb_device(device)
    vendor, model = _read_vendor(device), read_attribute(device / "model")
    if usb_device is not None:
        vendor = vendor or read_attribute(usb_device / "manufacturer")
        model = model or read_attribute(usb_device / "product")
    bus = _read_bus(node)
    if bus == "mmc":
        model = model or read_attribute(device / "name")
    address = _SCSI_ADDRESS_RE.fullmatch(device.resolve().name)
    return Hardware(
        bus=bus,
        vendor=vendor or udev.get("ID_VENDOR"),
        model=model or udev.get("ID_MODEL"),
        serial=_read_serial(node, usb_device) or udev.get("ID_SERIAL_SHORT"),
        wwn=_read_wwn(node) or udev.get("ID_WWN"),
        lun=int(address[1]) if address else None,
        is_optical=read_integer(device / "type") == _SCSI_TYPE_OPTICAL,
        # eMMC says MMC: it is soldered in and often holds the system
        is_memory_card=bus == "mmc" and read_attribute(device / "type") == "SD",
    )


def _read_bus(node: BlockNode) -> str:
    if node.is_mapper:
        return "device-mapper"
    if node.is_md:
        return "md"
    parts = node.directory.parts
    for bus, pattern in _BUS_PATTERNS:
        if any(pattern.fullmatch(part) for part in parts):
            return bus
    return "other"


def _find_usb_device(device: Path) -> Path | None:
    """The USB device above a SCSI device: the first folder upwards that has a ``idVendor``."""
    directory = device.resolve()
    for folder in (directory, *directory.parents):
        if (folder / "idVendor").is_file():
            return folder
    return None


def _read_vendor(device: Path) -> str | None:
    vendor = read_attribute(device / "vendor")
    # PCI and virtio devices have a number there, and libata says ATA for every maker
    return None if vendor is None or vendor.startswith("0x") or vendor == "ATA" else vendor


def _read_serial(node: BlockNode, usb_device: Path | None) -> str | None:
    if usb_device is not None:
        # before the SCSI page: bridges invent that one, and lsusb shows this one
        serial = read_attribute(usb_device / "serial")
        if serial is not None:
            return serial
    device = node.directory / "device"
    return (
        read_attribute(device / "serial")
        or read_attribute(node.directory / "serial")
        or _read_serial_page(device / "vpd_pg80")
    )


def _read_serial_page(path: Path) -> str | None:
    try:
        page = path.read_bytes()
    except OSError:
        return None
    if len(page) < _PAGE_HEADER_SIZE or page[1] != 0x80:
        return None
    serial = page[_PAGE_HEADER_SIZE : _PAGE_HEADER_SIZE + page[3]]
    return serial.decode("ascii", "replace").strip(" \0") or None


def _read_wwn(node: BlockNode) -> str | None:
    for path in (node.directory / "wwid", node.directory / "device" / "wwid"):
        text = read_attribute(path)
        if text is not None:
            return " ".join(text.split())
    return None
