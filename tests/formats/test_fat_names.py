# SPDX-License-Identifier: GPL-3.0-or-later
"""Short names against names seen on Windows machines, and what FAT can't hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import NotRepresentableError
from mediamaker.formats.fat_names import (
    check_name,
    compute_long_name_hash,
    encode_names,
    fat_label,
)


def alias(name: str, *before: str) -> str:
    short = encode_names([*before, name])[-1].short_name.decode("ascii")
    base, extension = short[:8].rstrip(), short[8:].rstrip()
    return f"{base}.{extension}" if extension else base


@pytest.mark.parametrize(
    ("long_name", "short_name"),
    [
        # fatgen103 and Microsoft's examples
        ("The quick brown.fox", "THEQUI~1.FOX"),
        ("longfilename.txt", "LONGFI~1.TXT"),
        ("Program Files", "PROGRA~1"),
        ("Program Files (x86)", "PROGRA~1"),
        ("Documents and Settings", "DOCUME~1"),
        # Wikipedia, "8.3 filename", on Windows' convention
        ("TextFile.Mine.txt", "TEXTFI~1.TXT"),
        ("ver +1.2.text", "VER_12~1.TEX"),
        (".bashrc.swp", "BASHRC~1.SWP"),
        # T. Galvin, "A Tale of Two File Names"
        ("5+6 June Report.doc", "5_6JUN~1.DOC"),
        ("SomeStuff.aspx", "SOMEST~1.ASP"),
        ("a.testing.file.bat", "ATESTI~1.BAT"),
        # by hand from the same rules
        ("bootmgfw_EX.efi", "BOOTMG~1.EFI"),
        ("boot.sdi.original", "BOOTSD~1.ORI"),
        ("cdboot_noprompt.efi", "CDBOOT~1.EFI"),
        ("winsipolicy.p7b", "WINSIP~1.P7B"),
        (".gitignore", "GITIGN~1"),
        ("a=b;[c].txt", "A_B__C~1.TXT"),
        # characters that the code page lacks
        ("éàü long.txt", "___LON~1.TXT"),
        ("日本語.txt", "___~1.TXT"),
    ],
)
def test_windows_aliases(long_name, short_name):
    assert alias(long_name) == short_name


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        # SOBC84~1.ASP: T. Galvin; the rest: a listing in stackoverflow.com question 31526206
        ("SomeStuff.aspx", "BC84"),
        ("Rammstein & Tatu - Moscow.mp3", "8E17"),
        ("Rammstein - Asche zu Asche.mp3", "23A6"),
        ("Rammstein - Du Hast.mp3", "0CAE"),
        ("Rammstein - Haifisch.mp3", "6BAA"),
    ],
)
def test_hash_digits_seen_on_windows(name, digits):
    assert compute_long_name_hash(name) == digits


def test_numbers_go_to_four_then_the_hash_takes_over():
    names = [f"SomeStuff{i}.aspx" for i in range(4)] + ["SomeStuff.aspx"]
    shorts = [entry.short_name for entry in encode_names(names)]
    assert shorts == [
        b"SOMEST~1ASP",
        b"SOMEST~2ASP",
        b"SOMEST~3ASP",
        b"SOMEST~4ASP",
        b"SOBC84~1ASP",
    ]


def test_two_characters_or_fewer_get_the_hash_at_once():
    short = encode_names(["a b"])[0].short_name
    assert short == b"AB" + compute_long_name_hash("a b").encode() + b"~1   "
    assert len(encode_names([" .x"])[0].short_name.split()[0]) == 6


def test_a_name_that_is_short_itself_keeps_its_place():
    encoded = encode_names(["longfilename.txt", "LONGFI~1.TXT", "Longfi~2.txt"])
    assert [entry.short_name for entry in encoded] == [
        b"LONGFI~3TXT",
        b"LONGFI~1TXT",
        b"LONGFI~2TXT",
    ]


@pytest.mark.parametrize(
    ("name", "short_name", "flags", "has_long_name"),
    [
        ("bootmgr", b"BOOTMGR    ", 0x08, False),
        ("setup.exe", b"SETUP   EXE", 0x18, False),
        ("README.TXT", b"README  TXT", 0x00, False),
        ("README.txt", b"README  TXT", 0x10, False),
        ("readme.TXT", b"README  TXT", 0x08, False),
        ("12345678.001", b"12345678001", 0x00, False),
        ("a1.2", b"A1      2  ", 0x08, False),
        ("BCD", b"BCD        ", 0x00, False),
        ("Readme.txt", b"README  TXT", 0x00, True),
        ("setup.Exe", b"SETUP   EXE", 0x00, True),
        ("bootx64.efi", b"BOOTX64 EFI", 0x18, False),
        ("\u0131\u0131.txt", b"__", 0x00, True),
    ],
)
def test_case_flags_spare_the_long_name(name, short_name, flags, has_long_name):
    entry = encode_names([name])[0]
    assert entry.short_name.startswith(short_name)
    assert entry.case_flags == flags
    assert (entry.long_name == name) == has_long_name
    assert entry.entry_count == 1 + has_long_name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is empty"),
        (".", "stands for the directory"),
        ("..", "stands for the parent"),
        ("a\x00b", "control character 0x00"),
        ("a\x1fb", "control character 0x1f"),
        *[(f"a{char}b", f"the character {char}") for char in '"*/:<>?\\|'],
        ("trailing.", "ends with a period"),
        ("trailing ", "ends with a space"),
        ("a\ud83d", "half of a surrogate pair (0xd83d)"),
        ("a\uffff", "U+FFFF"),
        ("x" * 256, "256 UTF-16 units, 255 is the limit"),
        ("💾" * 128, "256 UTF-16 units"),
        ("CON", "reserves CON"),
        ("nul.tar.gz", "reserves NUL"),
        ("Aux .h", "reserves AUX"),
        ("com1", "reserves COM1"),
        ("LPT9.x", "reserves LPT9"),
        ("COM²", "reserves COM²"),
        ("conin$", "reserves CONIN$"),
    ],
)
def test_names_that_fat_cannot_hold(name, reason):
    with pytest.raises(NotRepresentableError) as caught:
        check_name(name, what="\\the\\path")
    assert caught.value.message.startswith("\\the\\path: ")
    assert reason in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["x" * 255, "💾" * 127, " leading", "con1", "COM10", "COM", "a.con", "ünï😀", "a'b", "\x7f"],
)
def test_odd_names_that_fat_holds(name):
    check_name(name, what="x")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("WINDOWS", "WINDOWS"),
        ("CCCOMA_X64FRE_EN-US_DV9", "CCCOMA_X64F"),
        ("esd-iso", "ESD-ISO"),
        ("  Debian 12.5.0 amd64", "DEBIAN 12_5"),
        ("a*b?c/d\\e|f", "A_B_C_D_E_F"),
        ("été", "_T_"),
        ("0123456789 x", "0123456789"),
        ("\x00", "_"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_labels(text, label):
    assert fat_label(text) == label
    assert fat_label(label) == label


@given(st.text())
def test_any_text_gives_a_label_that_stays(text):
    label = fat_label(text)
    assert len(label) <= 11
    assert label.isascii()
    assert fat_label(label) == label


@given(
    st.lists(
        st.text(alphabet="abAB12. ~+_é日💾", min_size=1, max_size=14).filter(
            lambda name: name[-1] not in " ."
        ),
        max_size=60,
        unique_by=str.upper,
    )
)
def test_short_names_are_unique_and_legal(names):
    encoded = encode_names(names)
    shorts = [entry.short_name for entry in encoded]
    assert len(set(shorts)) == len(names)
    for name, entry in zip(names, encoded, strict=True):
        assert len(entry.short_name) == 11
        assert entry.short_name[:1] not in (b" ", b".", b"\xe5")
        assert b"." not in entry.short_name
        assert entry.short_name.decode("ascii").isupper() or not any(
            char.isalpha() for char in entry.short_name.decode("ascii")
        )
        assert entry.long_name in (None, name)


def test_many_names_with_one_beginning_stay_unique():
    names = [f"Microsoft-Windows-Package-{i:05}.cab" for i in range(12_000)]
    assert len({entry.short_name for entry in encode_names(names)}) == len(names)
