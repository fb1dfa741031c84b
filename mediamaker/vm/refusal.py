# SPDX-License-Identifier: GPL-3.0-or-later
"""Why Secure Boot refused a loader: who signed it, and whom the machine trusts.

Firmware says no more than "Access Denied". This reads the loader that it read and compares its
signatures with the machine's keys; the firmware is the judge, these are words about its verdict.
A certificate counts as trusted when it is in db, or one in db signed it; edk2 builds whole chains.

References: UEFI 2.10, 32.5.3.3 (who is authorised), Microsoft, "Windows Authenticode Portable
Executable Signature Format" (the digest, which is in SpcIndirectDataContent).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mediamaker.errors import FormatError
from mediamaker.formats.pe import measure_digest, parse_signatures
from mediamaker.sources.disk_map import DiskMap, volume_pread
from mediamaker.sources.file_map import Kind, PRead
from mediamaker.units import MIB
from mediamaker.vm.firmware import Architecture
from mediamaker.vm.secure_boot import SecureBootKeys, common_name, load_certificate

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_LOADER_SIZE_MAX = 64 * MIB
_DIGESTS = ("sha256", "sha1")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a program; ``is_of_it``: the digest that was signed is that of its bytes."""

    signer: str
    issuer: str
    is_trusted: bool
    is_of_it: bool

    def show(self) -> str:
        """``X (issued by Y)``."""
        return f"{self.signer} (issued by {self.issuer})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``words`` say what is known of the loader, ``hint`` what to do."""

    words: str
    hint: str


def read_signatures(program: bytes, keys: SecureBootKeys, *, what: str) -> tuple[Signature, ...]:
    """Who signed ``program``.

    Raises:
        FormatError: it is no program, or its signatures can't be read.
    """
    pkcs7 = importlib.import_module("cryptography.hazmat.primitives.serialization.pkcs7")
    trusted = [load_certificate(der) for der in keys.signature_db]
    digests = [measure_digest(program, algorithm, what=what) for algorithm in _DIGESTS]
    found = []
    for blob in parse_signatures(program, what=what):
        try:
            chain: list[Certificate] = pkcs7.load_der_pkcs7_certificates(blob)
        except ValueError as error:
            raise FormatError(f"{what}: a signature that is no PKCS#7: {error}") from error
        if not chain:
            continue
        issuers = {certificate.issuer for certificate in chain if not _is_self_signed(certificate)}
        # The signer's own certificate is the one that issued none of the others.
        signer = next((item for item in chain if item.subject not in issuers), chain[0])
        found.append(
            Signature(
                common_name(signer),
                common_name(signer, of_issuer=True),
                any(_is_trusted(item, trusted) for item in chain),
                any(digest in blob for digest in digests),
            )
        )
    return tuple(found)


def explain_refusal(
    disk_map: DiskMap, pread: PRead, keys: SecureBootKeys, *, architecture: Architecture
) -> Refusal:
    """What is known of the loader that the firmware refused, of the disk that ``pread`` reads."""
    path = rf"\efi\boot\{architecture.loader_name}"
    for volume in disk_map.volumes:
        item = volume.files.find(path)
        if volume.files.file_system.startswith("FAT") and item and item.kind is Kind.FILE:
            program = volume.files.read(volume_pread(pread, volume), item, _LOADER_SIZE_MAX)
            try:
                signatures = read_signatures(program, keys, what=item.name)
            except FormatError as error:
                return Refusal(error.message, "take the loader from the original media again")
            return _judge(item.name, signatures, keys)
    return Refusal(f"no FAT volume has {path}: it refused another file", "look at the serial log")


def _judge(name: str, signatures: Sequence[Signature], keys: SecureBootKeys) -> Refusal:
    trusts = f"the machine trusts {', '.join(keys.trusted)} (--keys {keys.name})"
    if not signatures:
        return Refusal(
            f"{name} is not signed; {trusts}",
            "sign it (sbsign) and give the certificate with --keys, or --firmware uefi",
        )
    who = " and by ".join(signature.show() for signature in signatures)
    if not any(signature.is_of_it for signature in signatures):
        return Refusal(
            f"{name} was changed after it was signed by {who}",
            "take the loader from the original media again",
        )
    if not any(signature.is_trusted for signature in signatures):
        return Refusal(
            f"{name} is signed by {who}; {trusts}",
            "a machine with the other keys starts it: --keys microsoft has those of 2011 and "
            "2023, --keys FILE your own",
        )
    return Refusal(
        f"{name} is signed by {who}, and trusted: it is revoked (dbx), or the signature is broken",
        "`sbverify --list` shows the signatures; take the loader from newer media",
    )


def _is_self_signed(certificate: Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _is_trusted(certificate: Certificate, trusted: Sequence[Certificate]) -> bool:
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    for root in trusted:
        if certificate == root:
            return True
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, invalid):
            continue
        return True
    return False
