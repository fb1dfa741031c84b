# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign readers of exFAT volumes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from dissect.fat.exfat import ExFAT
from dissect.util.stream import RunlistStream

from mediamaker.volumes.exfat import ExfatRequest, ExfatVolume, build_exfat
from mediamaker.volumes.tree import DirectoryNode


def make_exfat(tree: DirectoryNode, size: int, **changes: object) -> ExfatVolume:
    values: dict[str, object] = {
        "size": size,
        "sector_size": 512,
        "partition_offset_sectors": 2048,
        "volume_label": "",
        "volume_serial": 0x1234ABCD,
        "tree": tree,
    }
    return build_exfat(ExfatRequest(**(values | changes)))


def check_exfat_fsck(image: Path, *, directories: int, files: int) -> None:
    """fsck.exfat finds nothing to say but its banner and its summary."""
    done = subprocess.run(["fsck.exfat", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    assert lines[0].startswith("exfatprogs version"), done.stdout
    assert lines[1] == f"{image}: clean. directories {directories}, files {files}", done.stdout


def dump_exfat(image: Path) -> dict[str, str]:
    """What dump.exfat says, by name."""
    done = subprocess.run(["dump.exfat", image], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    found = re.findall(r"^(\S[^:\n]*):[ \t]*(.*)$", done.stdout, re.MULTILINE)
    return {name.split("(")[0].strip(): value for name, value in found}


def read_exfat_with_dissect(image: Path) -> dict[str, bytes | None]:
    """``{"a/b.txt": content, "dir": None}`` as dissect.fat sees it."""
    with image.open("rb") as file:
        volume = ExFAT(file)
        pending = [("", volume.files["/"][1])]
        found: dict[str, bytes | None] = {}
        while pending:
            prefix, entries = pending.pop()
            for name, (entry, children) in entries.items():
                path = prefix + name
                assert path not in found
                if entry.metadata.attributes.directory:
                    found[path] = None
                    pending.append((path + "/", children))
                    continue
                stream = entry.stream
                size = stream.data_length
                if size == 0:
                    found[path] = b""
                    continue
                runs = volume.runlist(stream.location, stream.flags.not_fragmented, size)
                found[path] = RunlistStream(file, runs, size, volume.sector_size).read()
        return found
