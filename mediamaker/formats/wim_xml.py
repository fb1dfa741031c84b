# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML document of a WIM: what its images are called and what is in them.

UTF-16LE with a byte order mark. Reference: Microsoft, "Windows Imaging File Format (WIM)", and
the documents that DISM and wimlib write::

    <WIM><IMAGE INDEX="1"><NAME>..</NAME><WINDOWS><ARCH>9</ARCH>..</WINDOWS></IMAGE>..</WIM>

The document comes from a file that nobody vouches for. It is read with expat as a stream, so
nothing but the few texts that we want is kept, and a DOCTYPE is refused, so there are no entities
that could expand.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.parsers import expat
from xml.sax.saxutils import escape

from mediamaker.errors import FormatError
from mediamaker.formats.wim import XML_SIZE_MAX

_DEPTH_MAX = 64
_TEXT_SIZE_MAX = 64 * 1024
_VERSION_TAGS = ("MAJOR", "MINOR", "BUILD", "SPBUILD")
_ARCHITECTURES = {0: "x86", 5: "arm", 6: "ia64", 9: "x64", 12: "arm64"}
_ARCHITECTURE_NUMBERS = {name: number for number, name in _ARCHITECTURES.items()}
_NUMBER_RE = re.compile(r"\s*([0-9]{1,20})\s*")
_NOT_XML_RE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Texts of an image by their path below IMAGE: the field that each one fills.
_FIELDS: dict[tuple[str, ...], str] = {
    ("NAME",): "name",
    ("DESCRIPTION",): "description",
    ("DISPLAYNAME",): "display_name",
    ("FLAGS",): "flags",
    ("TOTALBYTES",): "total_bytes",
    ("WINDOWS", "ARCH"): "architecture",
    ("WINDOWS", "EDITIONID"): "edition",
    ("WINDOWS", "INSTALLATIONTYPE"): "installation_type",
    ("WINDOWS", "LANGUAGES", "DEFAULT"): "default_language",
    **{("WINDOWS", "VERSION", tag): tag for tag in _VERSION_TAGS},
}
_LANGUAGE_PATH = ("WINDOWS", "LANGUAGES", "LANGUAGE")


@dataclass(frozen=True, slots=True, kw_only=True)
class WimImageInfo:
    """One image, as the XML describes it; ``None`` where it says nothing."""

    number: int
    name: str = ""
    description: str | None = None
    display_name: str | None = None
    edition: str | None = None
    architecture: str | None = None
    build: str | None = None
    languages: tuple[str, ...] = ()
    default_language: str | None = None
    total_bytes: int | None = None
    installation_type: str | None = None
    flags: str | None = None


class _Reader:
    """Collects the wanted texts while expat calls back."""

    def __init__(self, what: str) -> None:
        self.images: list[WimImageInfo] = []
        self._what = what
        self._path: list[str] = []
        self._number = 0
        self._texts: dict[str, str] = {}
        self._languages: list[str] = []
        self._text: list[str] | None = None
        self._text_size = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > _DEPTH_MAX:
            raise FormatError(f"{self._what}: WIM XML: elements lie deeper than {_DEPTH_MAX}")
        match self._path:
            case [root] if root != "WIM":
                raise FormatError(
                    f"{self._what}: WIM XML: expected the root WIM, got {root[:40]!r}"
                )
            case ["WIM", "ESD", "ENCRYPTED"]:
                raise FormatError(
                    f"{self._what} is an encrypted ESD, which only Microsoft's upgrade can read",
                    hint="use the ISO that Microsoft offers, whose images are not encrypted",
                )
            case ["WIM", "IMAGE"]:
                self._begin_image(attributes.get("INDEX", ""))
            case ["WIM", "IMAGE", *below]:
                wanted = tuple(below) in _FIELDS or tuple(below) == _LANGUAGE_PATH
                self._text = [] if wanted else None
                self._text_size = 0
            case _:
                self._text = None

    def text(self, text: str) -> None:
        if self._text is not None:
            self._text_size += len(text)
            if self._text_size > _TEXT_SIZE_MAX:
                where = "/".join(self._path)
                raise FormatError(
                    f"{self._what}: WIM XML: {where}: expected at most {_TEXT_SIZE_MAX} characters"
                )
            self._text.append(text)

    def end(self, _tag: str) -> None:
        below = tuple(self._path[2:])
        if self._path == ["WIM", "IMAGE"]:
            self._end_image()
        elif self._text is not None:
            text = "".join(self._text)
            if below == _LANGUAGE_PATH:
                self._languages.append(text)
            else:
                self._texts.setdefault(_FIELDS[below], text)
        self._text = None
        self._path.pop()

    def refuse_doctype(self, *_arguments: object) -> None:
        raise FormatError(f"{self._what}: WIM XML: a DOCTYPE is not expected and not read")

    def _begin_image(self, index: str) -> None:
        number = _parse_number(index)
        if not number:
            raise FormatError(
                f"{self._what}: WIM XML: expected an image INDEX from 1 on, got {index[:40]!r}"
            )
        self._number, self._texts, self._languages = number, {}, []

    def _end_image(self) -> None:
        texts = self._texts
        versions: list[str] = []
        for tag in _VERSION_TAGS:
            if tag not in texts:
                break
            versions.append(texts[tag])
        self.images.append(
            WimImageInfo(
                number=self._number,
                name=texts.get("name", ""),
                description=texts.get("description"),
                display_name=texts.get("display_name"),
                edition=texts.get("edition"),
                architecture=_name_architecture(texts.get("architecture")),
                build=".".join(versions) or None,
                languages=tuple(self._languages),
                default_language=texts.get("default_language"),
                total_bytes=_parse_number(texts.get("total_bytes", "")),
                installation_type=texts.get("installation_type"),
                flags=texts.get("flags"),
            )
        )


def parse_wim_xml(data: bytes, *, what: str = "WIM") -> tuple[WimImageInfo, ...]:
    """The images that the XML in ``data`` describes, by number: always 1 to n.

    Raises:
        FormatError: not UTF-16LE with its mark, not well-formed, a DOCTYPE, an encrypted ESD, or
            image numbers that are not 1 to n.
    """
    if len(data) > XML_SIZE_MAX:
        raise FormatError(
            f"{what}: WIM XML: expected at most {XML_SIZE_MAX} bytes, got {len(data)}"
        )
    if data[:2] != codecs.BOM_UTF16_LE:
        raise FormatError(
            f"{what}: WIM XML: expected UTF-16LE with the mark {codecs.BOM_UTF16_LE.hex()}, "
            f"got {bytes(data[:2]).hex() or 'nothing'}"
        )
    try:
        text = bytes(data[2:]).decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{what}: WIM XML: expected UTF-16LE, got something else at byte {error.start + 2}"
        ) from error
    reader = _Reader(what)
    # The argument wins over an encoding that the document itself may claim.
    parser = expat.ParserCreate(encoding="utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        parser.Parse(text.encode(), True)  # noqa: FBT003 - expat's own signature
    except expat.ExpatError as error:
        raise FormatError(f"{what}: WIM XML: expected a document, got: {error}") from error
    images = tuple(sorted(reader.images, key=lambda image: image.number))
    for number, image in enumerate(images, 1):
        if image.number != number:
            raise FormatError(
                f"{what}: WIM XML: expected images 1 to {len(images)}, "
                f"got number {image.number} where {number} should be"
            )
    return images


def pack_wim_xml(images: Iterable[WimImageInfo]) -> bytes:
    """A document that describes ``images``.

    Raises:
        FormatError: a text that XML can't hold.
    """
    body = "".join(_render_image(image) for image in images)
    return codecs.BOM_UTF16_LE + f"<WIM>{body}</WIM>".encode("utf-16-le")


def _render_image(image: WimImageInfo) -> str:
    architecture = image.architecture
    if architecture is not None:
        known = _ARCHITECTURE_NUMBERS.get(architecture)
        architecture = architecture.removeprefix("unknown ") if known is None else str(known)
    versions = zip(_VERSION_TAGS, (image.build or "").split(".", 3), strict=False)
    version = "".join(_element(tag, text) for tag, text in versions) if image.build else ""
    languages = "".join(_element("LANGUAGE", language) for language in image.languages)
    windows = (
        _element("ARCH", architecture)
        + _element("EDITIONID", image.edition)
        + _element("INSTALLATIONTYPE", image.installation_type)
        + f"<LANGUAGES>{languages}{_element('DEFAULT', image.default_language)}</LANGUAGES>"
        + f"<VERSION>{version}</VERSION>"
    )
    total_bytes = None if image.total_bytes is None else str(image.total_bytes)
    return (
        f'<IMAGE INDEX="{image.number}">'
        f"<WINDOWS>{windows}</WINDOWS>"
        + _element("NAME", image.name)
        + _element("DESCRIPTION", image.description)
        + _element("DISPLAYNAME", image.display_name)
        + _element("FLAGS", image.flags)
        + _element("TOTALBYTES", total_bytes)
        + "</IMAGE>"
    )


def _element(tag: str, text: str | None) -> str:
    if text is None:
        return ""
    unfit = _NOT_XML_RE.search(text)
    if unfit:
        raise FormatError(f"WIM XML: {tag} can't hold the character {unfit[0]!r}")
    return f"<{tag}>{escape(text, {chr(13): '&#13;'})}</{tag}>"


def _parse_number(text: str) -> int | None:
    match = _NUMBER_RE.fullmatch(text)
    return int(match[1]) if match else None


def _name_architecture(text: str | None) -> str | None:
    if text is None:
        return None
    number = _parse_number(text)
    return f"unknown {text}" if number is None else _ARCHITECTURES.get(number, f"unknown {text}")
