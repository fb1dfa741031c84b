# SPDX-License-Identifier: GPL-3.0-or-later
"""The create benchmark: one table, one run, one machine; figures are ratios and counts.

``create`` of a Windows-like ISO of about 6 GiB, to an image file and to a block device (a loop
device), against (a) ``dd`` of as many bytes to the same kind of target, and (b) what people do
today: mkfs.fat, ``wimlib-imagex split`` into a temporary folder, mcopy. For (b) the ISO's tree
lies unpacked on disk already, as a mounted ISO would; unpacking is not counted.

Needs root (loop devices, dropping caches), strace, and about 30 GiB of room.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "vm-tests"))

MEDIAMAKER = ROOT / ".venv" / "bin" / "mediamaker"
MIB = 1 << 20
PAYLOAD_SIZE = 6 << 30


@dataclass(frozen=True)
class Measure:
    name: str
    seconds: float
    read_size: int
    written_size: int
    peak_memory: int
    out_of_order_writes: int | None = None


def measure(name: str, *commands: list[str | Path]) -> Measure:
    """Run ``commands``; bytes are those of read and write calls, children included."""
    drop_caches()
    before = own_io()
    peak = 0
    start = time.monotonic()
    for command in commands:
        with subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            words = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name}: {command} failed: {words.decode()[-2000:]}")
        peak = max(peak, usage.ru_maxrss * 1024)
    seconds = time.monotonic() - start
    after = own_io()
    return Measure(
        name, seconds, after["rchar"] - before["rchar"], after["wchar"] - before["wchar"], peak
    )


def own_io() -> dict[str, int]:
    text = Path("/proc/self/io").read_text()
    return {key: int(value) for key, value in re.findall(r"(\w+): (\d+)", text)}


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


class LoopDevice:
    """A block device over a sparse file."""

    def __init__(self, backing: Path, size: int) -> None:
        self.backing = backing
        backing.unlink(missing_ok=True)
        with backing.open("wb") as file:
            file.truncate(size)

    def __enter__(self) -> str:
        command = ["losetup", "--find", "--show", "--direct-io=on", str(self.backing)]
        self.path = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.strip()
        return self.path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["losetup", "--detach", self.path], check=True)
        self.backing.unlink()


def count_out_of_order(trace: Path, target: str) -> int:
    """Writes to ``target`` that do not continue the one before, from strace's log."""
    call = re.compile(
        r"(?:pwrite64|pwritev2?)\(\d+<([^>]*)>.*?(?:, (\d+)(?:, 0)?)\)\s+= (\d+)"
        r"|copy_file_range\(\d+<[^>]*>, \[\d+[^\]]*\], \d+<([^>]*)>, \[(\d+)[^\]]*\].*= (\d+)"
    )
    position = 0
    count = 0
    for line in trace.read_text(errors="replace").splitlines():
        match = call.search(line)
        if not match:
            continue
        path = match[1] or match[4]
        if not path.startswith(target):
            continue
        offset, size = int(match[2] or match[5]), int(match[3] or match[6])
        count += offset != position
        position = offset + size
    return count


def create_command(iso: Path, target: str, *extra: str) -> list[str | Path]:
    return [MEDIAMAKER, "create", iso, target, "--seed", "bench", "--json", *extra]


def traced(name: str, trace: Path, target_prefix: str, command: list[str | Path]) -> Measure:
    # Untraced for the time, traced once more for the order of writes.
    plain = measure(name, command)
    strace = ["strace", "-f", "-y", "-s", "0", "-o", trace]
    strace += ["-e", "trace=pwrite64,pwritev,pwritev2,copy_file_range"]
    measure(name, [*strace, *command])
    count = count_out_of_order(trace, target_prefix)
    return Measure(**{**plain.__dict__, "out_of_order_writes": count})


def todays_way(tree: Path, work: Path, size: int) -> Measure:
    image, parts = work / "today.img", work / "parts"
    for path in (image, parts):
        remove(path)
    parts.mkdir()
    others = work / "others"
    remove(others)
    shutil.copytree(tree, others, copy_function=os.link)
    (others / "sources" / "install.wim").unlink()
    volume = f"{image}@@1M"
    result = measure(
        "today: split, mkfs.fat, mcopy",
        ["truncate", "-s", str(size), image],
        ["sh", "-c", f"echo 'start=2048, type=c, bootable' | sfdisk -q {image}"],
        ["mkfs.fat", "-F", "32", "--offset", "2048", image, str((size - MIB) // 1024)],
        ["wimlib-imagex", "split", tree / "sources/install.wim", parts / "install.swm", "3800"],
        ["sh", "-c", f"mcopy -s -i {volume} {others}/* ::/"],
        ["sh", "-c", f"mcopy -i {volume} {parts}/* ::/sources/"],
        ["sync", image],
    )
    for path in (image, parts, others):
        remove(path)
    return result


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def show(measures: list[Measure], payload_size: int, baseline: dict[str, Measure]) -> str:
    lines = [
        "| what | time | x dd | read / payload | written / payload | out-of-order writes | peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in measures:
        base = baseline.get(item.name)
        ratio = f"{item.seconds / base.seconds:.2f}" if base else "-"
        order = "-" if item.out_of_order_writes is None else str(item.out_of_order_writes)
        lines.append(
            f"| {item.name} | {item.seconds:.1f} s | {ratio} | "
            f"{item.read_size / payload_size:.2f} | {item.written_size / payload_size:.2f} | "
            f"{order} | {item.peak_memory // MIB} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench")
    parser.add_argument("--iso", type=Path, help="another ISO than the one made here")
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    iso = args.iso or make_iso(work)
    plan = subprocess.run(
        [MEDIAMAKER, "plan", iso, "--size", "auto", "--seed", "bench", "--json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    disk_size = int(re.search(r'"size": (\d+)', plan)[1])
    payload_size = int(re.search(r'"written_size": (\d+)', plan)[1])
    blocks = str(-(-payload_size // (4 * MIB)))
    tree = work / "tree"
    if not (tree / "sources").is_dir():
        remove(tree)
        subprocess.run(["7z", "x", f"-o{tree}", iso], check=True, stdout=subprocess.DEVNULL)

    image = work / "stick.img"
    remove(image)
    dd = ["dd", f"if={iso}", "bs=4M", f"count={blocks}", "iflag=fullblock"]
    measures = []
    warm = work / "warm.img"
    subprocess.run([*dd, f"of={warm}", "conv=fsync"], check=True, capture_output=True)
    remove(warm)
    dd_file = measure("dd to a file (conv=fsync)", [*dd, f"of={image}", "conv=fsync"])
    remove(image)
    force = "--force"
    no_verify = "--no-verify"
    file_plain = traced(
        "create, image file, not verified", work / "file.trace", str(work),
        create_command(iso, str(image), no_verify, force),
    )  # fmt: skip
    file_verified = measure("create, image file, verified", create_command(iso, str(image), force))
    remove(image)
    measures += [dd_file, file_plain, file_verified]
    with LoopDevice(work / "loop.backing", disk_size + 64 * MIB) as device:
        confirm = ("--confirm", Path(device).name)
        dd_device = measure(
            "dd to a device (oflag=direct)", [*dd, f"of={device}", "oflag=direct", "conv=fsync"]
        )
        device_plain = traced(
            "create, device, not verified", work / "device.trace", device,
            create_command(iso, device, no_verify, *confirm),
        )  # fmt: skip
        device_verified = measure("create, device, verified", create_command(iso, device, *confirm))
    measures += [dd_device, device_plain, device_verified]
    today = todays_way(tree, work, disk_size)
    measures.append(today)
    baseline = {m.name: dd_file for m in (dd_file, file_plain, file_verified, today)}
    baseline |= {m.name: dd_device for m in (dd_device, device_plain, device_verified)}
    print(f"machine: {machine()}; payload {payload_size / (1 << 30):.2f} GiB")
    print()
    print(show(measures, payload_size, baseline))
    print()
    print(f"today's way takes {today.seconds / file_plain.seconds:.1f} x create (not verified),")
    print(f"{today.seconds / file_verified.seconds:.1f} x create with its verification")


def make_iso(work: Path) -> Path:
    iso = work / "bench.iso"
    if not iso.exists():
        script = ROOT / "vm-tests" / "standin" / "make_iso.py"
        subprocess.run([sys.executable, script, iso, "--bench"], check=True)
    return iso


def machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) >> 20
    return (
        f"{len(names)} x {names[0] if names else platform.machine()}, {memory} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
