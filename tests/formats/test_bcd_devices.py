# SPDX-License-Identifier: GPL-3.0-or-later
"""Device elements against the bytes of real stores (boot-facts 3.5), and damaged ones."""

from uuid import UUID

import pytest

from mediamaker.errors import UsageError
from mediamaker.formats.bcd_devices import (
    BootDevice,
    FileDevice,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    Ramdisk,
    RawDevice,
    VhdDevice,
    device_meaning,
    device_partition,
    pack_device,
    parse_device,
)

GPT_ESP = GptPartition(
    UUID("abb775b5-69ef-48f1-8357-f6aee83854ce"), UUID("214817ee-ce88-4e6c-8163-31485a03b7e7")
)
GPT_RECOVERY = GptPartition(
    UUID("58ef6851-2176-4d86-a9d6-e54bb70b7d81"), UUID("d2a17501-85cd-4222-9901-a796b67cdd5f")
)
MBR = MbrPartition(0xD7DA5D02, 0x100000)


def real(*rows):
    """Hex as the facts write it; ``00xN`` is N zero bytes."""
    data = b""
    for word in " ".join(rows).split():
        data += bytes(int(word[3:])) if word.startswith("00x") else bytes.fromhex(word)
    return data


MBR_WORDS = "06000000 00000000 48000000 00000000 0000100000000000 00x8 00000000 01000000 025ddad7"
WINRE_PATH = "\\Recovery\\WindowsRE\\Winre.wim"
WINRE_HEX = (WINRE_PATH + "\0").encode("utf-16-le").hex()

# What real hives hold, digit for digit from the facts; none of it was made by our own writer.
REAL = {
    "boot": (BootDevice(), real("00x16 05000000 00000000 48000000 00000000 00x56"), 88),
    "gpt": (
        GPT_ESP,
        real(
            "00x16 06000000 00000000 48000000 00000000",
            "ee174821 88ce6c4e 81633148 5a03b7e7 00000000 00000000",
            "b575b7ab ef69f148 8357f6ae e83854ce 00x16",
        ),
        88,
    ),
    "mbr": (MBR, real("00x16", MBR_WORDS, "00x28"), 88),
    "iso-wim": (
        Ramdisk(UUID("7619dcc8-fafe-11d9-b411-000476eba25f"), BootDevice(), "\\sources\\boot.wim"),
        real(
            "c8dc1976fefad911b411000476eba25f 00000000 01000000 a0000000 00000000",
            "03000000 00x20 01000000 78000000 05000000",
            "05000000 00000000 48000000 00000000 00x56",
            "5c0073006f0075007200630065007300 5c0062006f006f0074002e00770069006d000000",
        ),
        176,
    ),
    "winre-gpt": (
        Ramdisk(UUID("18364ff5-b6ff-11f0-9de2-ebeaf6fd1f26"), GPT_RECOVERY, WINRE_PATH),
        real(
            "f54f3618ffb6f0119de2ebeaf6fd1f26 00000000 01000000 b8000000 00000000",
            "03000000 00x20 01000000 90000000 05000000",
            "06000000 00000000 48000000 00000000",
            "0175a1d2cd8522429901a796b67cdd5f 00x8 5168ef587621864da9d6e54bb70b7d81 00x16",
            WINRE_HEX,
        ),
        200,
    ),
    "winre-mbr": (
        Ramdisk(UUID("4b6feeb4-e322-11ea-9ed9-91d34fdb5ca7"), MBR, WINRE_PATH),
        real(
            "b4ee6f4b22e3ea119ed991d34fdb5ca7 00000000 01000000 b8000000 00000000",
            "03000000 00x20 01000000 90000000 05000000",
            MBR_WORDS,
            "00x28",
            WINRE_HEX,
        ),
        200,
    ),
    "locate": (
        LocateElement(0x12000002),
        real("00x16 08000000 00000000 1e000000 00000000 00000000 02000012 00000000 0000"),
        46,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_built_devices_equal_the_real_bytes(name):
    device, data, size = REAL[name]
    assert len(data) == size
    assert pack_device(device) == data
    assert parse_device(data) == device


def test_a_virtual_disk_has_the_words_of_the_facts():
    # 3.5: locate {8,0,size,0, 0, element, 0x1e, u16 0} + vhd {0,0,size,0, 6, 20 zeros} + file.
    data = pack_device(LocateElement(0x22000002, VhdDevice(FileDevice(MBR, "\\vhd\\windows.vhdx"))))
    path = "\\vhd\\windows.vhdx\0".encode("utf-16-le")
    block = 12 + 0x48 + len(path)
    file_size = 16 + 4 + block
    disk_size = 16 + 4 + 20 + file_size
    locate_size = 0x1E + disk_size
    words = [
        "00x16 08000000 00000000", locate_size.to_bytes(4, "little").hex(), "00000000",
        "00000000 02000022 1e000000 0000",
        "00000000 00000000", disk_size.to_bytes(4, "little").hex(), "00000000 06000000 00x20",
        "00000000 00000000", file_size.to_bytes(4, "little").hex(), "00000000 05000000",
        "01000000", block.to_bytes(4, "little").hex(), "05000000", MBR_WORDS, "00x28", path.hex(),
    ]  # fmt: skip
    assert data == real(*words)


@pytest.mark.parametrize(
    "device",
    [
        LocatePath("\\sources\\boot.wim"),
        Ramdisk(UUID(int=5), LocatePath("\\sources\\boot.wim"), "\\sources\\boot.wim"),
        Ramdisk(None, BootDevice(), "\\x"),
        FileDevice(BootDevice(), "\\ä\U0001f4bf.img"),
        LocateElement(0x12000002, VhdDevice(FileDevice(LocatePath("\\w.vhd"), "\\w.vhd"))),
        VhdDevice(FileDevice(GPT_ESP, "\\w.vhd")),
    ],
)
def test_round_trip(device):
    assert parse_device(pack_device(device)) == device


@pytest.mark.parametrize(
    ("name", "offset", "byte"),
    [("iso-wim", 0x14, 0), ("iso-wim", 0x24, 7), ("iso-wim", 0x38, 0), ("iso-wim", 0x40, 3)],
)
def test_what_boot_managers_tolerate_is_understood_and_kept(name, offset, byte):
    expected, data, _ = REAL[name]
    changed = bytearray(data)
    changed[offset] = byte
    device = parse_device(bytes(changed))
    assert isinstance(device, RawDevice)
    assert device.problem
    assert device_meaning(device) == expected
    assert pack_device(device) == bytes(changed)


@pytest.mark.parametrize("name", REAL)
def test_any_cut_is_kept_and_never_fails(name):
    data = REAL[name][1]
    for size in range(len(data)):
        device = parse_device(data[:size])
        assert isinstance(device, RawDevice), size
        assert device.problem
        assert pack_device(device) == data[:size]


@pytest.mark.parametrize(
    ("type_code", "word"), [(0, "whole disk"), (2, "legacy"), (4, "network"), (77, "unknown")]
)
def test_other_devices_are_kept(type_code, word):
    data = bytes(16) + type_code.to_bytes(4, "little") + real("00000000 48000000 00x60")
    device = parse_device(data)
    assert isinstance(device, RawDevice)
    assert word in device.problem
    assert device_partition(device) is None
    assert pack_device(device) == data


def test_where_the_files_are():
    assert device_partition(REAL["winre-gpt"][0]) == GPT_RECOVERY
    disk = LocateElement(0x12000002, VhdDevice(FileDevice(MBR, "\\w.vhd")))
    assert device_partition(disk) == MBR
    assert device_partition(LocateElement(0x12000002)) is None


@pytest.mark.parametrize("path", ["sources\\boot.wim", "\\sources/boot.wim", "", "\\a\0b"])
def test_paths_that_no_boot_manager_opens_are_refused(path):
    for device in (Ramdisk(None, BootDevice(), path), LocatePath(path)):
        with pytest.raises(UsageError, match="not a path"):
            pack_device(device)


def test_numbers_that_do_not_fit_are_refused():
    for device in (MbrPartition(1 << 32, 0), MbrPartition(0, 1 << 64), LocateElement(-1)):
        with pytest.raises(UsageError, match="does not fit"):
            pack_device(device)


def test_nesting_is_bounded():
    inner = pack_device(FileDevice(BootDevice(), "\\x"))
    device = parse_device(inner)
    for _ in range(40):
        device = FileDevice(device, "\\x")
    assert isinstance(parse_device(pack_device(device)), RawDevice)
