# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of an image before it is installed, and what can't be installed."""

import pytest

from mediamaker.errors import SourceError, UsageError
from mediamaker.install.image_facts import check_installable, image_facts
from tests.install.windows_rig import LOADERS, WINRE, boot_contents, make_image, program
from tests.wim.wim_rig import run


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("facts"), rich=True)


def test_facts_of_an_image(path):
    facts = image_facts([path], None)
    assert (facts.number, facts.name) == (1, "Windows Professional")
    assert (facts.architecture, facts.build, facts.edition) == ("x64", "10.0.22621", "Professional")
    assert (facts.languages, facts.default_language) == (("de-DE",), "de-DE")
    assert (facts.winre_path, facts.winre_size) == (WINRE, 16_000)
    assert facts.sdi_path == "Windows/Boot/DVD/EFI/boot.sdi"
    assert not facts.is_pe
    assert {file.path for file in facts.boot_files} == set(boot_contents())
    assert {file.size for file in facts.boot_files} == {
        len(data) for data in boot_contents().values()
    }
    assert facts.loader_paths == LOADERS
    shown = run("wimlib-imagex", "info", path, "1")
    counts = {
        line.split(":")[0]: int(line.split(":")[1])
        for line in shown.splitlines()
        if line.startswith(("Directory Count", "File Count", "Total Bytes", "Hard Link Bytes"))
    }
    assert facts.raw_size == counts["Total Bytes"] - counts["Hard Link Bytes"]
    assert counts["Hard Link Bytes"] > 0
    assert facts.file_count == counts["File Count"] + counts["Directory Count"]
    assert facts.volume_size_min > facts.raw_size
    for firmware in ("uefi", "bios"):
        for generation in ("2011", "2023"):
            check_installable(facts, firmware, generation=generation)


def test_no_such_image(path):
    with pytest.raises(UsageError, match="no image 'Nine'"):
        image_facts([path], "Nine")
    with pytest.raises(UsageError, match="no image '2'"):
        image_facts([path], 2)


def facts_of(tmp_path, **options):
    return image_facts([make_image(tmp_path, **options)], 1)


def refused(facts, firmware, message, **options):
    with pytest.raises(SourceError, match=message) as caught:
        check_installable(facts, firmware, **options)
    return caught.value.hint


def test_windows_pe(tmp_path):
    facts = facts_of(tmp_path, kind="WindowsPE", edition="WindowsPE")
    assert facts.is_pe
    assert "wim info" in refused(facts, "uefi", "is Windows PE")
    check_installable(facts, "uefi", pe_is_wanted=True)


def test_windows_pe_that_the_xml_does_not_name(tmp_path):
    files = boot_contents() | {name: program(name) for name in LOADERS}
    files["Windows/System32/winpeshl.exe"] = program("shell")
    facts = facts_of(tmp_path, files=files, kind=None, edition=None)
    assert facts.is_pe
    assert facts.winre_size is None


def test_another_architecture_than_the_firmware(tmp_path):
    facts = facts_of(tmp_path, arch=12)
    assert facts.architecture == "arm64"
    assert "--firmware uefi" in refused(facts, "bios", "is for arm64, which BIOS")
    check_installable(facts, "uefi")


def test_the_architecture_is_read_from_a_program_if_the_xml_lacks_it(tmp_path):
    files = boot_contents(0xAA64) | {name: program(name, 0xAA64) for name in LOADERS}
    assert facts_of(tmp_path, files=files, arch=None).architecture == "arm64"


def test_no_boot_files_for_the_firmware(tmp_path):
    files = boot_contents(without=("PCAT",)) | {name: program(name) for name in LOADERS}
    facts = facts_of(tmp_path, files=files)
    assert "--firmware uefi" in refused(facts, "bios", r"Windows/Boot/PCAT/bootmgr is not in it")


def test_no_boot_files_of_2023(tmp_path):
    files = boot_contents(without=("EFI_EX",)) | {name: program(name) for name in LOADERS}
    facts = facts_of(tmp_path, files=files)
    hint = refused(facts, "uefi", "bootmgfw_EX.efi is not in it", generation="2023")
    assert "--boot-files 2011" in hint


def test_a_missing_loader(tmp_path):
    facts = facts_of(tmp_path, files=boot_contents() | {LOADERS[1]: program("x")})
    refused(facts, "uefi", r"winload.efi is not in it")
    check_installable(facts, "bios")


def test_no_windows_at_all(tmp_path):
    facts = facts_of(tmp_path, files={"readme.txt": b"x"}, arch=None, kind=None, edition=None)
    assert facts.architecture is None
    refused(facts, "uefi", "is not Windows")


def test_names_in_another_case(tmp_path):
    files = {
        name.lower() if "winload" in name else name.upper(): data
        for name, data in (boot_contents() | {name: program(name) for name in LOADERS}).items()
    }
    # One directory that two spellings would have: NTFS keeps the first.
    files = {name.replace("windows/system32", "WINDOWS/system32"): d for name, d in files.items()}
    facts = facts_of(tmp_path, files=files)
    assert facts.loader_paths == tuple(n.lower().replace("windows", "WINDOWS") for n in LOADERS)
    check_installable(facts, "uefi")
    check_installable(facts, "bios")
