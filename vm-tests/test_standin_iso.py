# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in ISO is what it claims to be, by the word of other programs.

7-Zip, isoinfo, pycdlib, wimlib and mtools each see what they would see of Microsoft's. The one
with over 4 GiB is built where sticks are made from it.
"""

import io
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path, PurePosixPath

import pycdlib
import pytest
from standin import tree
from standin.iso import SUMMED_SIZE_MAX, StandinIso, standin_iso

MAKE_ISO = Path(__file__).parent / "standin" / "make_iso.py"
SECTOR_SIZE = 2048


def run(*arguments: str | Path, exit_code: int = 0) -> str:
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def standin() -> StandinIso:
    return standin_iso()


@pytest.fixture(scope="module")
def extracted(standin, tmp_path_factory) -> Path:
    """The whole tree as 7-Zip reads it."""
    directory = tmp_path_factory.mktemp("extracted")
    run("7z", "x", f"-o{directory}", "-bso0", "-bsp0", standin.path)
    return directory


@pytest.fixture(scope="module")
def udf(standin):
    iso = pycdlib.PyCdlib()
    iso.open(str(standin.path))
    yield iso
    iso.close()


def walk_udf(iso: pycdlib.PyCdlib, directory: str = "/") -> dict[str, int | None]:
    """Path -> size, None for a directory. pycdlib's own walk() fails on mixed name widths."""
    found: dict[str, int | None] = {}
    for entry in iso.list_children(udf_path=directory):
        if entry is None or entry.is_dot() or entry.is_dotdot():
            continue
        name = entry.file_ident.fi.decode(entry.file_ident.encoding)
        path = str(PurePosixPath(directory) / name)
        if entry.is_dir():
            found |= {path: None, **walk_udf(iso, path)}
        else:
            found[path] = entry.get_data_length()
    return found


def walk_directory(root: Path) -> dict[str, int | None]:
    return {
        f"/{path.relative_to(root).as_posix()}": None if path.is_dir() else path.stat().st_size
        for path in root.rglob("*")
    }


def read_udf(iso: pycdlib.PyCdlib, path: str) -> bytes:
    body = io.BytesIO()
    iso.get_file_from_iso_fp(body, udf_path=path)
    return body.getvalue()


def wim_xml(wim: Path, work_dir: Path) -> ET.Element:
    target = work_dir / f"{wim.name}.xml"
    run("wimlib-imagex", "info", wim, "--extract-xml", target)
    return ET.fromstring(target.read_bytes().decode("utf-16"))


def test_iso9660_shows_only_the_readme_and_there_is_no_joliet(standin):
    assert run("isoinfo", "-f", "-i", standin.path).split() == ["/README.TXT;1"]
    described = run("isoinfo", "-d", "-i", standin.path)
    assert "NO Joliet present" in described
    assert "Volume id: CCCOMA_X64FRE_EN-US_DV9\n" in described


def test_7zip_and_pycdlib_see_the_same_udf_tree(standin, extracted, udf):
    listed = run("7z", "l", standin.path)
    assert "Type = Udf" in listed
    assert "Version = 1.02" in listed
    assert walk_udf(udf) == walk_directory(extracted)


def test_udf_holds_the_content_that_was_put_in(extracted, udf):
    wanted = dict(tree.media_files("x64"))
    assert len(wanted) > 300
    for path, body in wanted.items():
        assert (extracted / path).read_bytes() == body, path
    for path in tree.empty_directories():
        assert list((extracted / path).iterdir()) == []
    for path in ("bootmgr", "sources/boot.wim", "boot/boot.sdi"):
        assert read_udf(udf, f"/{path}") == (extracted / path).read_bytes()
    assert not (extracted / "README.TXT").exists()
    assert not (extracted / "boot/boot.cat").exists()


def test_names_are_those_of_a_real_one(extracted):
    for name in (
        *("autorun.inf", "setup.exe", "bootmgr", "bootmgr.efi", "boot/bcd", "boot/boot.sdi"),
        *(
            "boot/bootfix.bin",
            "boot/etfsboot.com",
            "boot/memtest.exe",
            "boot/resources/bootres.dll",
        ),
        *("efi/boot/bootx64.efi", "efi/microsoft/boot/bcd", "efi/microsoft/boot/cdboot.efi"),
        *("sources/boot.wim", "sources/install.wim", "sources/setup.exe", "sources/lang.ini"),
        *("boot/fonts/wgl4_boot.ttf", "boot/en-us/bootmgr.exe.mui", "sources/reagent.xml"),
    ):
        assert (extracted / name).stat().st_size > 0, name
    names = [str(path.relative_to(extracted)) for path in extracted.rglob("*")]
    assert max(len(Path(name).name) for name in names) > 100
    assert max(len(Path(name).parts) for name in names) > 12


def test_el_torito_has_a_bios_and_a_uefi_entry(standin, extracted, udf):
    catalog = udf.eltorito_boot_catalog
    (section,) = catalog.sections
    (uefi_entry,) = section.section_entries
    bios_entry = catalog.initial_entry
    assert (catalog.validation_entry.platform_id, section.platform_id) == (0, 0xEF)
    assert (bios_entry.sector_count, uefi_entry.sector_count) == (8, 2880)
    for entry, path in (
        (bios_entry, "boot/etfsboot.com"),
        (uefi_entry, "efi/microsoft/boot/efisys.bin"),
    ):
        body = (extracted / path).read_bytes()
        with standin.path.open("rb") as file:
            file.seek(entry.get_rba() * SECTOR_SIZE)
            assert file.read(len(body)) == body


def test_efisys_starts_the_same_program(extracted, tmp_path):
    image = extracted / "efi/microsoft/boot/efisys.bin"
    run("mcopy", "-i", image, "::EFI/BOOT/BOOTX64.EFI", tmp_path)
    program = (extracted / "efi/boot/bootx64.efi").read_bytes()
    assert (tmp_path / "BOOTX64.EFI").read_bytes() == program


def test_sums_cover_every_small_file_with_an_ascii_name(extracted):
    summed = {}
    for line in (extracted / "standin.sum").read_text("ascii").splitlines():
        crc, size, path = line.split(" ", 2)
        assert path.startswith("\\")
        body = (extracted / path[1:].replace("\\", "/")).read_bytes()
        assert (crc, int(size)) == (f"{zlib.crc32(body):08x}", len(body)), path
        summed["/" + path[1:].replace("\\", "/")] = len(body)
    expected = {
        path: size
        for path, size in walk_directory(extracted).items()
        if size is not None and size <= SUMMED_SIZE_MAX and path.isascii()
    }
    del expected["/standin.sum"]
    assert summed == expected
    assert "/sources/install.wim" not in summed
    assert {"/sources/boot.wim", "/standin.tok", "/bootmgr"} <= summed.keys()


def test_token_is_in_the_boot_programs_and_nowhere_else(standin, extracted):
    token = standin.token.encode()
    holders = {
        str(path.relative_to(extracted))
        for path in extracted.rglob("*")
        if path.is_file() and token in path.read_bytes()
    }
    assert holders == {
        "bootmgr",
        "efi/boot/bootx64.efi",
        "efi/microsoft/boot/efisys.bin",
        "efi/microsoft/boot/efisys_noprompt.bin",
        "standin.tok",
    }


def test_boot_wim_starts_its_second_image(extracted, tmp_path):
    wim = extracted / "sources/boot.wim"
    run("wimlib-imagex", "verify", wim)
    header = run("wimlib-imagex", "info", wim, "--header")
    assert "Boot Index                  = 2" in header
    images = wim_xml(wim, tmp_path).findall("IMAGE")
    assert [image.findtext("NAME") for image in images] == [
        "Microsoft Windows PE (x64)",
        "Microsoft Windows Setup (x64)",
    ]
    setup_files = run("wimlib-imagex", "dir", wim, "2").splitlines()
    assert {"/setup.exe", "/sources/setup.exe", "/Windows/System32/winpeshl.exe"} <= {*setup_files}


def test_install_wim_holds_editions(extracted, tmp_path):
    wim = extracted / "sources/install.wim"
    assert 30_000_000 < wim.stat().st_size < 60_000_000
    run("wimlib-imagex", "verify", wim)
    root = wim_xml(wim, tmp_path)
    editions = [
        (image.findtext("NAME"), image.findtext("WINDOWS/EDITIONID"))
        for image in root.findall("IMAGE")
    ]
    assert editions == [
        ("Windows 11 Home", "Core"),
        ("Windows 11 Education", "Education"),
        ("Windows 11 Pro", "Professional"),
    ]
    for image in root.findall("IMAGE"):
        assert image.findtext("WINDOWS/ARCH") == "9"
        assert image.findtext("WINDOWS/VERSION/BUILD") == "26100"
        assert image.findtext("WINDOWS/LANGUAGES/DEFAULT") == "en-US"
    winre = tmp_path / "Winre.wim"
    path = "/Windows/System32/Recovery/Winre.wim"
    run("wimlib-imagex", "extract", wim, "3", path, f"--dest-dir={tmp_path}")
    run("wimlib-imagex", "verify", winre)


def test_command_builds_the_same_files_for_the_same_token(standin, extracted, tmp_path):
    """Only the container's own times differ from build to build."""
    again = tmp_path / "again.iso"
    assert run(sys.executable, MAKE_ISO, again, "--token", standin.token) == f"{standin.token}\n"
    assert (tmp_path / "again.iso.token").read_text() == standin.token
    directory = tmp_path / "again"
    run("7z", "x", f"-o{directory}", "-bso0", "-bsp0", again)
    run("diff", "-r", extracted, directory)


def test_cache_builds_once_and_another_build_has_another_token(standin, tmp_path):
    first = standin_iso(arch="arm64", cache=tmp_path)
    built_ns = first.path.stat().st_mtime_ns
    assert standin_iso(arch="arm64", cache=tmp_path) == first
    assert first.path.stat().st_mtime_ns == built_ns
    assert first.token != standin.token
    # This one has no BIOS side, as Microsoft's.
    assert "Volume id: CCCOMA_A64FRE_EN-US_DV9\n" in run("isoinfo", "-d", "-i", first.path)
    listed = run("7z", "l", first.path)
    assert "efi/boot/bootaa64.efi" in listed
    assert "bootmgr\n" not in listed


def test_command_refuses_a_token_that_no_program_can_say(tmp_path):
    run(sys.executable, MAKE_ISO, tmp_path / "x.iso", "--token", "two words", exit_code=2)
    assert list(tmp_path.iterdir()) == []
