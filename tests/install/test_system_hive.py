# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows To Go's values come into a SYSTEM hive, and nothing else changes."""

from dataclasses import replace

import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.regf import (
    KEY_SYMBOLIC_LINK,
    REG_BINARY,
    REG_SZ,
    Hive,
    Key,
    Value,
    dword_value,
    parse_hive,
    string_value,
)
from mediamaker.formats.regf_pack import DEFAULT_SECURITY, pack_hive
from mediamaker.install.system_hive import (
    ControlSetValue,
    is_portable,
    make_portable,
    set_control_set_values,
)
from tests.formats.regf_judges import (
    check_boot_rules,
    read_with_dissect,
    read_with_hivex,
    read_with_ours,
)

SECURITY = bytes.fromhex(
    "0100048014000000240000000000000034000000"
    "01020000000000052000000020020000"
    "01020000000000052000000020020000"
    "02001c0001000000000214003f000f00010100000000000100000000"
)


def key(name, *subkeys, values=(), **fields):
    fields.setdefault("security", DEFAULT_SECURITY)
    return Key(name, tuple(values), tuple(subkeys), last_written=0x01D0_0000_0000_0000, **fields)


def control_set(name, *, services=("Disk", "partmgr"), parameters=None):
    made = [key(service, values=[dword_value("Start", 0)]) for service in services]
    if parameters is not None:
        made[-1] = made[-1].with_subkey(key("Parameters", values=parameters))
    return key(
        name,
        key(
            "Control",
            key("Class", class_name=b"\x01\0c\0"),
            key("Link", flags=KEY_SYMBOLIC_LINK, values=[Value("SymbolicLinkValue", 6, b"\\\0")]),
            values=[string_value("SystemBootDevice", "x"), Value("big", REG_BINARY, bytes(50000))],
            security=SECURITY,
        ),
        key("Enum", access_bits=2, extra_flags=0x100),
        key("Services", *made, security=SECURITY),
    )


def system(*sets, current=1, default=1, **fields):
    values = [dword_value("Current", current), dword_value("LastKnownGood", 2)]
    if default is not None:
        values.insert(1, dword_value("Default", default))
    found = sets or (control_set("ControlSet001"),)
    root = key("CMI-CreateHive{x}", *found, key("Select", values=values), key("Setup"))
    fields = {"name": "SYSTEM", "sequence": 41, "extra": bytes(range(64)), **fields}
    return Hive(root, **fields)


def expected(hive, *names):
    """The hive as it should be, put together with what is not under test."""
    root = hive.root
    for name in names:
        changed = root.subkey(name)
        control = changed.subkey("Control").with_value(dword_value("PortableOperatingSystem", 1))
        services = changed.subkey("Services")
        manager = services.subkey("partmgr")
        parameters = manager.subkey("Parameters") or key("Parameters")
        parameters = parameters.with_value(dword_value("SanPolicy", 4))
        services = services.with_subkey(manager.with_subkey(parameters))
        root = root.with_subkey(changed.with_subkey(control).with_subkey(services))
    return replace(hive, root=root, sequence=hive.sequence + 1)


def test_the_values_come_and_nothing_else_changes(tmp_path):
    hive = system(control_set("ControlSet001"), control_set("ControlSet002"))
    before = pack_hive(hive)
    after = make_portable(before)
    assert parse_hive(after, what="SYSTEM") == expected(hive, "ControlSet001")
    check_boot_rules(after)
    # two readers that are not ours see the two values more, and the same otherwise
    wanted = read_with_ours(expected(hive, "ControlSet001").root)
    assert read_with_dissect(after) == wanted
    (tmp_path / "SYSTEM").write_bytes(after)
    assert read_with_hivex(tmp_path / "SYSTEM") == wanted
    assert not is_portable(before)
    assert is_portable(after)
    assert make_portable(after) == after


@pytest.mark.parametrize(
    ("current", "default", "changed"),
    [
        (1, 1, ["ControlSet001"]),
        (2, 2, ["ControlSet002"]),
        (2, None, ["ControlSet002"]),
        (1, 2, ["ControlSet001", "ControlSet002"]),
    ],
)
def test_the_control_set_is_the_one_that_select_names(current, default, changed):
    sets = [control_set(f"ControlSet{number:03}") for number in (1, 2, 3)]
    hive = system(*sets, current=current, default=default)
    after = parse_hive(make_portable(pack_hive(hive)), what="SYSTEM")
    assert after == expected(hive, *changed)


def test_values_that_are_there_are_replaced_and_their_neighbours_kept():
    parameters = [string_value("A", "a"), Value("sanpolicy", REG_SZ, b"4\0"), dword_value("Z", 3)]
    hive = system(control_set("ControlSet001", parameters=parameters))
    after = parse_hive(make_portable(pack_hive(hive)), what="SYSTEM")
    found = after.root.find("ControlSet001", "Services", "partmgr", "Parameters")
    assert [(value.name, value.number) for value in found.values] == [
        ("A", None), ("SanPolicy", 4), ("Z", 3),
    ]  # fmt: skip
    assert found.values[0] == parameters[0]


def test_keys_that_are_not_there_are_made_with_their_parents_security():
    hive = system(control_set("ControlSet001", services=()))
    after = parse_hive(make_portable(pack_hive(hive)), what="SYSTEM")
    manager = after.root.find("ControlSet001", "Services", "partmgr")
    assert manager.subkey("Parameters").value("SanPolicy").number == 4
    assert manager.security == manager.subkey("Parameters").security == SECURITY


def test_other_values_can_be_set():
    item = ControlSetValue(("Control", "New", "Newer"), string_value("s", "t"))
    after = set_control_set_values(pack_hive(system()), [item], what="SYSTEM")
    found = parse_hive(after, what="SYSTEM").root
    assert found.find("ControlSet001", "Control", "New", "Newer").value("s").text == "t"


def test_the_sequence_number_wraps():
    after = make_portable(pack_hive(system(sequence=0xFFFFFFFF)))
    assert parse_hive(after, what="SYSTEM").sequence == 0


@pytest.mark.parametrize(
    ("hive", "says"),
    [
        (Hive(key("SOFTWARE", key("Microsoft"))), r"without Select\\Current"),
        (Hive(key("R", key("Select"))), r"without Select\\Current"),
        (system(current=0), r"Select\\Current: expected a REG_DWORD of 1 to 999"),
        (system(default=1000), r"Select\\Default: expected a REG_DWORD of 1 to 999"),
        (system(current=2), r"no ControlSet002\\Control, which Select names"),
        (system(key("ControlSet001")), r"no ControlSet001\\Control"),
        (
            Hive(key("R", key("Select", values=[Value("Current", REG_BINARY, b"\1\0\0\0")]))),
            "got type 3 and 01000000",
        ),
    ],
)
def test_what_is_no_system_hive_is_refused(hive, says):
    for function in (make_portable, is_portable):
        with pytest.raises(FormatError, match=f"^config/SYSTEM: .*{says}"):
            function(pack_hive(hive), what="config/SYSTEM")


def test_a_hive_in_use_is_refused():
    data = bytearray(pack_hive(system()))
    data[4] ^= 1
    data[0x1FC] ^= 1
    with pytest.raises(FormatError, match="not closed cleanly"):
        make_portable(bytes(data))
