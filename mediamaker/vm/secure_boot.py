# SPDX-License-Identifier: GPL-3.0-or-later
"""Which keys a machine with Secure Boot has: Microsoft's of either generation, or one's own.

The variable store is written by ``virt-fw-vars`` (virt-firmware, by a maintainer of edk2's
virtual builds), into a copy of the firmware's own. That package brings Microsoft's
certificates too; they are told by their fingerprints, because the names of its files change.

References: UEFI 2.10, 32.3 (PK, KEK, db); Microsoft, "Windows Secure Boot Key Creation and
Management Guidance", 1.3 and 1.4 (which certificates machines have), which the fingerprints are
from as well. PK and KEK say who may change db; for what may start they do not matter.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from mediamaker.errors import SourceError, ToolError, UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_EXTRA_HINT = "pip install 'mediamaker[secure-boot]', or the package virt-firmware"
# What virt-fw-vars calls EFI's "Microsoft" and OVMF's own enrolling program: owners of entries,
# which nobody checks.
_OWNER_MICROSOFT = "77fa9abd-0359-4d32-bd60-28f4e78f784b"
_OWNER_OTHER = "a0baa8a3-041d-48a8-bc87-c36d121b5e3d"
_CERTIFICATE_SIZE_MAX = 1 << 20
_CERTIFICATE_SUFFIXES = (".pem", ".crt", ".cer", ".der")


class MicrosoftKeys(StrEnum):
    """Generations of Microsoft's keys, as ``--keys`` names them."""

    BOTH = "microsoft"
    OF_2011 = "microsoft-2011"
    OF_2023 = "microsoft-2023"


# SHA-1 of the certificates: how Microsoft's documents name them.
_KEK_CA_2011 = "31590bfd89c9d74ed087dfac66334b3931254b30"
_KEK_2K_CA_2023 = "459ab6fb5e284d272d5e3e6abc8ed663829d632b"
_WINDOWS_PCA_2011 = "580a6f4cc4e4b669b9ebdc1b2b3e087b80d0678d"
_UEFI_CA_2011 = "46def63b5ce61cf8ba0de2e6639c1019d0ed14f3"
_WINDOWS_UEFI_CA_2023 = "45a0fa32604773c82433c3b7d59e7466b3ac0c67"
_UEFI_CA_2023 = "b5eeb4a6706048073f0ed296e7f580a790b59eaa"

# (KEK, db) of each generation. Without the option ROM CA 2023: QEMU's machines have none.
_OF_2011 = ((_KEK_CA_2011,), (_WINDOWS_PCA_2011, _UEFI_CA_2011))
_OF_2023 = ((_KEK_2K_CA_2023,), (_WINDOWS_UEFI_CA_2023, _UEFI_CA_2023))
_GENERATIONS = {
    MicrosoftKeys.BOTH: (_OF_2011, _OF_2023),
    MicrosoftKeys.OF_2011: (_OF_2011,),
    MicrosoftKeys.OF_2023: (_OF_2023,),
}


@dataclass(frozen=True, slots=True)
class SecureBootKeys:
    """A machine's certificates, as DER; ``name`` is what it was asked for with."""

    name: str
    exchange_keys: tuple[bytes, ...]
    signature_db: tuple[bytes, ...]
    trusted: tuple[str, ...]
    """The common names in ``signature_db``."""


def load_keys(words: Sequence[str]) -> SecureBootKeys:
    """The keys that ``words`` name together: of :class:`MicrosoftKeys`, files and folders.

    A file is a certificate, PEM (which may hold several) or DER; a folder all that are in it.

    Raises:
        UsageError: nothing is named. SourceError: a file can't be read or is no certificate.
        ToolError: virt-firmware is not installed, or has not Microsoft's certificates.
    """
    if not words:
        raise UsageError("Secure Boot without keys starts anything", hint="use --keys microsoft")
    exchange: dict[bytes, None] = {}
    allowed: dict[bytes, None] = {}
    for word in words:
        try:
            generations = _GENERATIONS[MicrosoftKeys(word)]
        except ValueError:
            own = dict.fromkeys(_read_certificates(Path(word)))
            exchange |= own
            allowed |= own
            continue
        for exchange_prints, allowed_prints in generations:
            exchange |= dict.fromkeys(_find_microsoft(exchange_prints))
            allowed |= dict.fromkeys(_find_microsoft(allowed_prints))
    trusted = tuple(common_name(load_certificate(der)) for der in allowed)
    return SecureBootKeys(" + ".join(words), tuple(exchange), tuple(allowed), trusted)


def write_variables(template: Path, output: Path, keys: SecureBootKeys) -> None:
    """Copy the variable store ``template`` to ``output``, with no keys but ``keys``, enforcing.

    The platform key is the first exchange key: no machine of ours changes its keys by it.

    Raises:
        ToolError: virt-firmware is not installed, or does not take this store.
    """
    check_virt_firmware()
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        numbered = iter(range(1000))

        def entry(option: str, der: bytes) -> list[str]:
            path = Path(name) / f"{next(numbered)}.pem"
            path.write_text(ssl.DER_cert_to_PEM_cert(der))
            known = hashlib.sha1(der, usedforsecurity=False).hexdigest() in _MICROSOFT
            return [option, _OWNER_MICROSOFT if known else _OWNER_OTHER, str(path)]

        command = [sys.executable, "-m", "virt.firmware.vars", "--loglevel", "warning"]
        command += ["--input", str(template), "--output", str(output), "--sb"]
        for variable in ("PK", "KEK", "db", "dbx"):
            command += ["--delete", variable]
        command += entry("--set-pk", keys.exchange_keys[0])
        for der in keys.exchange_keys:
            command += entry("--add-kek", der)
        for der in keys.signature_db:
            command += entry("--add-db", der)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        raise ToolError(
            f"virt-fw-vars put no keys into a copy of {template}: {done.stderr.strip()[-300:]}",
            hint="`virt-fw-vars --input FILE --print` shows whether it reads it at all",
        )


def check_virt_firmware() -> None:
    """Raise ToolError where virt-firmware is not installed."""
    try:
        found = importlib.util.find_spec("virt.firmware")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ToolError(
            "virt-firmware, which gives a machine its Secure Boot keys, is not installed",
            hint=_EXTRA_HINT,
        )


def load_certificate(der: bytes) -> Certificate:
    """An X.509 certificate; raises ValueError where it is none, ToolError as above."""
    check_virt_firmware()  # cryptography comes with it
    x509 = importlib.import_module("cryptography.x509")
    certificate: Certificate = x509.load_der_x509_certificate(der)
    return certificate


def common_name(certificate: Certificate, *, of_issuer: bool = False) -> str:
    """The CN of whom a certificate is for, or of its issuer; the whole name where it has none."""
    name = certificate.issuer if of_issuer else certificate.subject
    oid = importlib.import_module("cryptography.x509.oid").NameOID.COMMON_NAME
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else name.rfc4514_string()


_MICROSOFT = frozenset(
    fingerprint
    for generation in (_OF_2011, _OF_2023)
    for part in generation
    for fingerprint in part
)


def _find_microsoft(fingerprints: Sequence[str]) -> list[bytes]:
    check_virt_firmware()
    found = {
        hashlib.sha1(der, usedforsecurity=False).hexdigest(): der
        for file in _walk(importlib.resources.files("virt.firmware") / "certs")
        if file.name.endswith(_CERTIFICATE_SUFFIXES)
        for der in _parse_certificates(file.read_bytes(), file.name)
    }
    missing = [fingerprint for fingerprint in fingerprints if fingerprint not in found]
    if missing:
        raise ToolError(
            f"virt-firmware has no certificate of Microsoft's with the SHA-1 {', '.join(missing)}",
            hint="update it, or name a file of it: --keys FILE",
        )
    return [found[fingerprint] for fingerprint in fingerprints]


def _walk(folder: Traversable) -> Iterator[Traversable]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _walk(item)
        else:
            yield item


def _read_certificates(path: Path) -> list[bytes]:
    try:
        if not path.is_dir():
            return _parse_certificates(_read_limited(path), str(path))
        files = sorted(file for file in path.iterdir() if file.suffix in _CERTIFICATE_SUFFIXES)
        found = [
            der for file in files for der in _parse_certificates(_read_limited(file), str(file))
        ]
    except OSError as error:
        raise SourceError(
            f"--keys {path}: {error.strerror}",
            hint=f"a certificate, a folder of them, or {', '.join(MicrosoftKeys)}",
        ) from error
    if not found:
        raise SourceError(
            f"--keys {path}: no certificate in this folder",
            hint=f"certificates are files that end in {', '.join(_CERTIFICATE_SUFFIXES)}",
        )
    return found


def _read_limited(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_CERTIFICATE_SIZE_MAX)


def _parse_certificates(data: bytes, what: str) -> list[bytes]:
    """The certificates of a PEM or DER file, as DER."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    try:
        if begin not in data:
            load_certificate(data)
            return [data]
        texts = [part.split(end)[0] for part in data.split(begin)[1:]]
        ders = [
            ssl.PEM_cert_to_DER_cert((begin + text + end).decode("ascii").strip()) for text in texts
        ]
        for der in ders:
            load_certificate(der)
    except ValueError as error:
        raise SourceError(
            f"{what} is no X.509 certificate: {error}",
            hint="`openssl x509 -in FILE -text` shows what it is; a private key is not wanted",
        ) from error
    return ders
