# SPDX-License-Identifier: GPL-3.0-or-later
"""The Secure Boot table: which signed loader starts under which keys, each cell a real boot.

Microsoft's chains are real ones: Debian's shim-signed is signed by Microsoft, shim starts
Debian's signed GRUB, and GRUB says a token that is nowhere but in its grub.cfg on the stick. The
rest is a token program of our own (standin/token.c) and a key that is made for the run.

Run as a program it boots all cells and writes docs/secure-boot-table.md (``make secure-boot``).
"""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from command import Finished, mediamaker, succeed
from cryptography.hazmat.primitives.serialization import pkcs7
from standin.iso import new_token
from standin.programs import build_token_program

from mediamaker.formats.pe import parse_certificate_range, parse_signatures
from mediamaker.vm.firmware import Architecture, Firmware, find_uefi

SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
KEY_SETS = ("2011", "2011+2023", "2023", "own")
_MICROSOFT = {"2011": "microsoft-2011", "2011+2023": "microsoft", "2023": "microsoft-2023"}
# Under 80 columns, and long enough to be no accident.
_GRUB_SAYS = "MEDIAMAKER-GRUB token="
# In each program a letter of a text that it shows, so that the altered one still runs.
_SHIM_TEXT = "Verification failed".encode("utf-16-le")
_OWN_TEXT = b"mediamaker token program"
DOCUMENT = Path(__file__).parent.parent / "docs" / "secure-boot-table.md"
_PACKAGES = (
    "ovmf", "qemu-system-x86", "shim-signed", "grub-efi-amd64-signed", "sbsigntool",
    "qemu-efi-aarch64", "qemu-system-arm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A stick, the key sets under which it is to start, and what its refusal is to be put to."""

    name: str
    stick: Path
    token: str
    starts_with: frozenset[str]
    reason: str = "the machine trusts"
    is_arm: bool = False


class Bench:
    """Keys, loaders and sticks of one run, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own_key, self.own_certificate = folder / "own.key", folder / "own.pem"
        _run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
            "-subj", "/CN=mediamaker test key", "-keyout", self.own_key,
            "-out", self.own_certificate,
        )  # fmt: skip

    def keys(self, key_set: str) -> str:
        """What ``--keys`` takes for a column of the table."""
        return _MICROSOFT.get(key_set, str(self.own_certificate))

    def shim_rows(self) -> Iterator[Row]:
        """Debian's shim as it is, with one of its signatures, and altered."""
        both = SHIM.read_bytes()
        old, new = self._keep_signature(1), self._keep_signature(2)
        yield self._shim_row("shim, signed by 2011 and 2023", both, "2011", "2011+2023", "2023")
        yield self._shim_row("shim, signed by 2011", old, "2011", "2011+2023")
        yield self._shim_row("shim, signed by 2023", new, "2011+2023", "2023")
        altered = flip_letter(both, _SHIM_TEXT)
        yield self._shim_row("shim, altered", altered, reason="was changed after it was signed")

    def altered_grub_row(self) -> Row:
        """A sound shim, which itself refuses what it finds."""
        grub = flip_letter(GRUB.read_bytes(), b"Welcome to GRUB")
        return self._shim_row("shim, GRUB altered", SHIM.read_bytes(), grub=grub)

    def own_rows(self, *, is_arm: bool = False) -> Iterator[Row]:
        """The token program: signed, unsigned, altered."""
        prefix = "arm-" if is_arm else ""
        for name, starts_with, reason in (
            ("own key", ("own",), "the machine trusts"),
            ("unsigned", (), "is not signed"),
            ("own key, altered", (), "was changed after it was signed"),
        ):
            token = new_token()
            folder = self.folder / f"{prefix}{name}"
            program = build_token_program(token, folder / "build", is_arm=is_arm)
            if name != "unsigned":
                program = self.sign(program, folder)
            if "altered" in name:
                program = flip_letter(program, _OWN_TEXT)
            loader = "bootaa64.efi" if is_arm else "bootx64.efi"
            stick = self._make_stick(folder, {f"efi/boot/{loader}": program})
            yield Row(name, stick, token, frozenset(starts_with), reason, is_arm)

    def sign(self, program: bytes, folder: Path) -> bytes:
        """``program`` with a signature by the key of this run."""
        plain, signed = folder / "plain.efi", folder / "signed.efi"
        plain.write_bytes(program)
        key = ("--key", self.own_key, "--cert", self.own_certificate)
        _run("sbsign", *key, "--output", signed, plain)
        return signed.read_bytes()

    def _keep_signature(self, number: int) -> bytes:
        path = self.folder / f"shim-{number}.efi"
        path.write_bytes(SHIM.read_bytes())
        _run("sbattach", "--remove", "--signum", str(3 - number), path)
        return path.read_bytes()

    def _shim_row(
        self,
        name: str,
        shim: bytes,
        *starts_with: str,
        reason: str = "the machine trusts",
        grub: bytes | None = None,
    ) -> Row:
        token = new_token()
        script = f"serial\nterminal_output serial\necho {_GRUB_SAYS}{token}\nsleep 600\n"
        files = {
            "efi/boot/bootx64.efi": shim,
            "efi/boot/grubx64.efi": grub or GRUB.read_bytes(),
            "efi/debian/grub.cfg": script.encode(),
        }
        stick = self._make_stick(self.folder / name, files)
        return Row(name, stick, token, frozenset(starts_with), reason)

    def _make_stick(self, folder: Path, files: dict[str, bytes]) -> Path:
        for path, body in files.items():
            (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / path).write_bytes(body)
        succeed("create", folder / "tree", folder / "stick.img", "--seed", "secure-boot")
        return folder / "stick.img"


def flip_letter(program: bytes, text: bytes) -> bytes:
    """``program`` with the case of the first letter of ``text`` turned, outside its signatures."""
    start = program.index(text)
    table, size = parse_certificate_range(program, what="the program")
    assert not size or start < table
    changed = bytearray(program)
    changed[start] ^= 0x20
    return bytes(changed)


def signers(path: Path) -> list[list[tuple[str, datetime.datetime]]]:
    """Of each signature of a program: names and ends of validity of its certificates."""
    return [
        [
            (certificate.subject.rfc4514_string(), certificate.not_valid_after_utc)
            for certificate in pkcs7.load_der_pkcs7_certificates(blob)
        ]
        for blob in parse_signatures(path.read_bytes(), what=str(path))
    ]


def boot(row: Row, out_dir: Path, *options: str | Path) -> Finished:
    """One boot; ``options`` are the firmware's."""
    arch = ("--arch", "aarch64") if row.is_arm else ()
    return mediamaker(
        "boot", row.stick, *arch, *options, "--expect", f"token={row.token}",
        "--screenshot", out_dir, "--timeout", "240",
    )  # fmt: skip


def check_starts(row: Row, out_dir: Path, *options: str | Path) -> str:
    """Boot, demand the token, and return the line that had it."""
    finished = boot(row, out_dir, *options)
    assert finished.exit_code == 0, (row.name, finished.last, finished.errors)
    line: str = finished.last["matched_line"]
    assert f"token={row.token}" in line
    return line


def check_cell(bench: Bench, row: Row, key_set: str, out_dir: Path) -> str:
    """Boot with Secure Boot and demand what the row says; ``starts`` or ``refused``."""
    options = ("--firmware", "uefi-secure", "--keys", bench.keys(key_set))
    if key_set in row.starts_with:
        check_starts(row, out_dir, *options)
        return "starts"
    finished = boot(row, out_dir, *options)
    said = finished.last
    assert finished.exit_code == 7, (row.name, key_set, said, finished.errors)
    assert said["refused_by_secure_boot"] is True, said
    assert "Secure Boot refused the loader" in said["words"]
    assert row.reason in said["words"], said
    assert said["hint"], said
    serial = Path(said["serial_log"]).read_text(errors="replace")
    assert "Access Denied" in serial
    assert row.token not in serial
    return "refused"


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)


# The document


def _write_document(folder: Path) -> None:
    bench = Bench(folder)
    out_dir = Path("out") / "secure-boot"
    started = datetime.datetime.now(datetime.UTC)
    tables = []
    for title, rows, columns in (
        ("x86_64 (OVMF)", [*bench.shim_rows(), *bench.own_rows()], KEY_SETS),
        ("aarch64 (AAVMF)", [*bench.own_rows(is_arm=True)], ("2011+2023", "own")),
    ):
        lines = [f"## {title}", "", f"| loader | {' | '.join(columns)} | no Secure Boot |"]
        lines.append(f"|---|{'---|' * (len(columns) + 1)}")
        for row in rows:
            cells = [check_cell(bench, row, key_set, out_dir) for key_set in columns]
            check_starts(row, out_dir, "--firmware", "uefi")
            lines.append(f"| {row.name} | {' | '.join(cells)} | starts |")
            print(lines[-1], flush=True)
        tables.append("\n".join(lines))
    ended = datetime.datetime.now(datetime.UTC)
    DOCUMENT.write_text(_show_document(tables, started, ended))
    print(f"written: {DOCUMENT}, {(ended - started).total_seconds():.0f} s")


def _show_document(tables: list[str], started: datetime.datetime, ended: datetime.datetime) -> str:
    versions = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *_PACKAGES],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    versions.append(f"virt-firmware {importlib.metadata.version('virt-firmware')} (PyPI)")
    seconds = (ended - started).total_seconds()
    lines = [
        "# Secure Boot: what starts under which keys",
        "",
        f"Made by `make secure-boot` on {started:%Y-%m-%d %H:%M} UTC in {seconds:.0f} s.",
        "Each cell is one boot; nothing here is typed by hand.",
        "",
        "- *starts*: the token of this run appeared, which only the started program says: for shim",
        "  it is GRUB, two signatures later.",
        '- *refused*: the firmware said "Access Denied" for the stick; the token never appeared.',
        "- The last column is the same stick without Secure Boot: it can start, altered or not.",
        "",
        *(f"{table}\n" for table in tables),
        "## Who signed Debian's shim",
        "",
    ]
    for number, chain in enumerate(signers(SHIM), 1):
        lines.append(f"Signature {number}:")
        lines += [
            f"- {name}, valid until {end:%Y-%m-%d}"
            + (": **over** when this ran, and it starts" if end < started else "")
            for name, end in chain
        ]
        lines.append("")
    firmware = find_uefi(Architecture.X86_64, Firmware.UEFI_SECURE)
    lines += ["## With", "", f"Firmware `{firmware.code}`.", "", *(f"- {one}" for one in versions)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        _write_document(Path(name))
    sys.exit(0)
