# SPDX-License-Identifier: GPL-3.0-or-later
"""What cells of ``wim optimize`` share: a WIM with two images, ways to optimize it, the judge.

wimlib-imagex made the source and judges what comes out: all blobs read and hashed, and the lists
of files and hashes of every image as in the source. Whole files are compared where there is a
state to compare with; a new WIM has a new GUID each time.
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from faults.matrix import Verdict
from faults.windows_rig import mediamaker, run

_PARTIAL_RE = re.compile(r"\.mediamaker-[0-9a-f]{8}\.(partial|lock)")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to call it; ``has_old``: there is a file under the output's name already."""

    name: str
    options: tuple[str, ...]
    images: tuple[int, ...] = (1, 2)
    has_old: bool = False


@dataclass(frozen=True, slots=True)
class WimRig:
    """``old`` is another WIM, which the output replaces where there is something."""

    source: Path
    old: Path
    source_digest: str
    listings: tuple[str, ...]
    ways: tuple[Way, ...]

    def words(self, way: Way, out: Path) -> list[str]:
        """The command."""
        return mediamaker("wim", "optimize", self.source, out, *way.options, "--json")

    def prepare(self, way: Way, out: Path) -> None:
        """What is there before a run."""
        out.unlink(missing_ok=True)
        if way.has_old:
            run("cp", self.old, out)

    def judge(self, way: Way, out: Path, *, is_done: bool) -> tuple[Verdict, str]:
        """What became of the output and the source; ``is_done``: the command called it done."""
        if digest(self.source) != self.source_digest:
            return Verdict.LOST, "the source is changed"
        if not out.exists():
            if way.has_old:
                return Verdict.LOST, "the file that was to be replaced is gone"
            return (Verdict.FALSE_DONE if is_done else Verdict.BLANK), "no file of that name"
        if way.has_old and digest(out) == digest(self.old):
            verdict = Verdict.FALSE_DONE if is_done else Verdict.AS_BEFORE
            return verdict, "the file that was there, every byte"
        trouble = self.find_trouble(way, out)
        if trouble is not None:
            return (Verdict.FALSE_DONE if is_done else Verdict.HALF_VALID), trouble
        return Verdict.COMPLETE, "wimlib-imagex reads all of it; every file as in the source"

    def find_trouble(self, way: Way, out: Path) -> str | None:
        """What wimlib-imagex says against it."""
        done = subprocess.run(
            ["wimlib-imagex", "verify", out], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{out.stat().st_size} bytes: {done.stdout[-100:]}{done.stderr[-200:]}"
        for number, image in enumerate(way.images, start=1):
            if list_image(out, number) != self.listings[image - 1]:
                return f"image {number} has not the files of the source's image {image}"
        return None


def make_wim_rig(folder: Path, *, size: int = 1_500_000) -> WimRig:
    """Make everything in ``folder``; ``size`` is about the bytes of the files of an image.

    The source is LZX, so that ``--for fat32`` copies what is stored, unread.
    """
    source, old = folder / "source.wim", folder / "old.wim"
    for number in (1, 2):
        tree = _make_tree(folder / f"tree{number}", random.Random(number), size)
        verb = "capture" if number == 1 else "append"
        options = ["--compress=LZX"] if number == 1 else []
        run("wimlib-imagex", verb, tree, source, f"image {number}", *options)
        run("rm", "-r", tree)
    run("wimlib-imagex", "export", source, "2", old, "--compress=LZX")
    usual = folder / "usual.wim"
    run(*mediamaker("wim", "optimize", source, usual))
    fit = str(usual.stat().st_size - 512)
    usual.unlink()
    return WimRig(
        source,
        old,
        digest(source),
        tuple(list_image(source, number) for number in (1, 2)),
        (
            Way("a new file", ()),
            Way("over an old file", ("--force",), has_old=True),
            Way("to fit", ("--fit", fit)),
            Way("to fit, over an old file", ("--fit", fit, "--force"), has_old=True),
            Way("solid, one image", ("--for", "archive", "--images", "1"), images=(1,)),
            Way("with integrity table", ("--for", "network", "--integrity", "--images", "2"), (2,)),
        ),
    )


def _make_tree(root: Path, rng: random.Random, size: int) -> Path:
    words = [rng.randbytes(6) for _ in range(200)]
    root.mkdir()
    for number in range(12):
        data = b" ".join(rng.choice(words) for _ in range(size // 12 // 7))
        (root / f"file{number}").write_bytes(data)
    (root / "noise").write_bytes(random.Random(3).randbytes(size // 4))
    (root / "empty").touch()
    return root


def list_image(wim: Path, number: int) -> str:
    """Names, sizes and SHA-1 of an image, without where things lie in the file."""
    text = run("wimlib-imagex", "dir", wim, str(number), "--detailed")
    kept = re.findall(r"^(?:Full Path|Attributes|Hash|Uncompressed size) .*$", text, re.MULTILINE)
    return "\n".join(kept)


def leftovers(folder: Path) -> list[str]:
    """Names that runs left."""
    return sorted(path.name for path in folder.iterdir() if _PARTIAL_RE.search(path.name))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
