# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of real programs: Microsoft's, Debian's; sbattach is the judge of what they are."""

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError
from mediamaker.formats.pe import (
    measure_digest,
    parse_certificate_range,
    parse_pe_offset,
    parse_signatures,
)

SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
UNSIGNED_SHIM = Path("/usr/lib/shim/shimx64.efi")
GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")


@pytest.mark.parametrize(("path", "count"), [(SHIM, 2), (GRUB, 1), (UNSIGNED_SHIM, 0)])
def test_signatures_are_those_that_sbattach_detaches(path, count, tmp_path):
    found = list(parse_signatures(path.read_bytes(), what="it"))
    assert len(found) == count
    for number, blob in enumerate(found, 1):
        copy, detached = tmp_path / "copy.efi", tmp_path / f"{number}.p7"
        copy.write_bytes(path.read_bytes())
        command = ["sbattach", "--detach", detached, "--signum", str(number), copy]
        subprocess.run(command, check=True, capture_output=True)
        assert detached.read_bytes().rstrip(b"\0") == blob.rstrip(b"\0")
        text = subprocess.run(
            ["openssl", "pkcs7", "-inform", "DER", "-print_certs", "-noout"],
            input=blob, capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert b"CN = " in text


@pytest.mark.parametrize("path", [SHIM, GRUB])
def test_the_digest_is_the_one_that_was_signed(path):
    program = path.read_bytes()
    digest = measure_digest(program, "sha256", what="it")
    for blob in parse_signatures(program, what="it"):
        assert digest in blob


def test_the_digest_counts_code_and_leaves_checksum_and_signatures_out():
    program = SHIM.read_bytes()
    digest = measure_digest(program, "sha256", what="it")
    unsigned = UNSIGNED_SHIM.read_bytes()
    unsigned += bytes(-len(unsigned) % 8)  # as it is padded when it is signed
    assert measure_digest(unsigned, "sha256", what="it") == digest
    start, _ = parse_certificate_range(program, what="it")
    optional = parse_pe_offset(program[:64], what="it") + 24
    for offset, counts in (
        (0x4E, True), (optional + 0x40, False), (0x90000, True), (start + 100, False)
    ):  # fmt: skip
        changed = bytearray(program)
        changed[offset] ^= 1
        assert (measure_digest(bytes(changed), "sha256", what="it") != digest) is counts, offset


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_broken_programs_are_refused_or_read(seed):
    rng = random.Random(seed)
    program = bytearray(GRUB.read_bytes()[:4096])
    for _ in range(rng.choice((1, 2, 8))):
        program[rng.randrange(0x40, 0x400)] = rng.randrange(256)
    if rng.random() < 0.5:
        # Signatures that lie in what is there.
        optional = 0x80 + 24
        program[optional + 0x90 : optional + 0x98] = bytes([0, 8, 0, 0, 0, 8, 0, 0])
    if rng.random() < 0.2:
        del program[rng.randrange(len(program)) :]
    try:
        list(parse_signatures(bytes(program), what="it"))
        measure_digest(bytes(program), "sha256", what="it")
    except FormatError:
        pass


def test_signatures_that_leave_the_file_are_refused():
    program = GRUB.read_bytes()
    start, _ = parse_certificate_range(program, what="it")
    with pytest.raises(FormatError, match="the file ends at"):
        list(parse_signatures(program[:-100], what="it"))
    cut = bytearray(program)
    cut[start : start + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(FormatError, match="a signature at"):
        list(parse_signatures(bytes(cut), what="it"))
