# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace
from uuid import UUID

import pytest

from mediamaker.errors import VerifyError
from mediamaker.plan.identity import identities_from_seed, read_identities


def test_one_seed_one_disk():
    assert identities_from_seed("a") == identities_from_seed("a")
    first, second = identities_from_seed("a"), identities_from_seed("b")
    assert first.disk_signature != second.disk_signature
    assert first.volume_serial != second.volume_serial
    assert first.disk_guid != second.disk_guid
    assert len({first.disk_guid, first.partition_guid, UUID(int=0)}) == 3
    assert first.disk_guid.version == 4


def test_a_seed_may_hold_what_is_no_utf_8():
    # What Python makes of the argument b"\xff".
    assert identities_from_seed("\udcff") != identities_from_seed("\udcfe")


def test_derived_guids_depend_on_what_the_disk_itself_tells():
    one = identities_from_seed("a")
    assert one.derive_guid("x", b"s") != one.derive_guid("y", b"s")
    assert one.derive_guid("x", b"s") != one.derive_guid("x", b"t")
    assert len(one.derive_guid("x")) == 16
    # The MBR layout can't tell disk GUIDs: they must not matter.
    other = replace(one, disk_guid=UUID(int=1), partition_guid=UUID(int=2))
    assert other.derive_guid("x") == one.derive_guid("x")


@pytest.mark.parametrize("disk", [b"", bytes(1 << 20), bytes(510) + b"\x55\xaa" + bytes(4096)])
def test_a_disk_without_our_tables_is_no_crash(disk):
    with pytest.raises(VerifyError, match="holds no disk") as caught:
        read_identities(lambda offset, size: disk[offset : offset + size], 512)
    assert "--seed" in (caught.value.hint or "")
