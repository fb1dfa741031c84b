# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong-disk insurance: twenty kinds of disk in one guest, each refused by name or allowed."""

import hashlib
import json
import re
import shutil

import pytest
from disk_kinds import (
    BUILD,
    JUDGES,
    KINDS,
    PREPARE,
    TAKE_OUT_OF_USE,
    make_disks,
    make_swapped,
)
from guest import ROOT, Guest

from mediamaker.units import MIB

DOCS = ROOT / "docs" / "wrong-disk.md"
REFUSED = [kind for kind in KINDS if kind.rules]
IN_GUEST = f"""\
source={{source}}
judge() {{{{ python3 {ROOT}/vm-tests/disk_kinds_guest.py "$@"; }}}}
create_at_a_terminal() {{{{
    python3 {ROOT}/vm-tests/guest_terminal.py "$@" create $source @ --layout mbr-fat32
}}}}
{{prepare}}
"""
JUDGE = f"""
say judged
ask before
judge in-use $source SMALL {" ".join(kind.serial for kind in REFUSED)}
ask after
{TAKE_OUT_OF_USE}
say judged again
judge after $source
say end
"""
AT_A_TERMINAL = """
swap='tell() { echo "$*" > /dev/ttyS0; }
    ask() { tell "ask $1"; until [ -e "answer-$1" ]; do sleep 0.2; done; }
    ask unplug
    while [ -e $DISK ]; do sleep 0.2; done
    udevadm settle
    ask plug
    until [ "$(lsblk -dno SERIAL $DISK 2> /dev/null)" = SWAPB ]; do sleep 0.2; done
    udevadm settle'
create_at_a_terminal swapped SWAPA "$swap"
create_at_a_terminal partitioned SWAPB 'sfdisk --quiet $DISK <<< "label: dos
,,c"; udevadm settle'
ask partitioned
create_at_a_terminal written CLEAN true
say end
"""


class Run:
    """One guest; what it left in ``folder``, and the images' digests at each question."""

    def __init__(self, name, script, images, disks, arguments, questions):
        self.folder = ROOT / "out" / "vm-tests" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.images = images
        self.digests = {}
        start = IN_GUEST.format(source=make_source(self.folder / "source"), prepare=PREPARE)
        with Guest(
            start + script,
            work_dir=self.folder,
            disks=disks,
            memory_size=1024 * MIB,
            extra_arguments=arguments,
        ) as guest:
            for question in questions:
                guest.machine.wait_for_serial(f"ask {question}", timeout=900)
                self.answer(guest.machine, question)
                (self.folder / f"answer-{question}").touch()
            self.result = guest.wait(timeout=900)
        self.digests["end"] = self.digest_images()
        for path in self.folder.glob("answer-*"):
            path.unlink()
        assert self.result.exit_code == 0, self.result.output

    def answer(self, machine, question):
        match question:
            case "eject":
                # The card goes, the reader stays.
                machine.execute("human-monitor-command", {"command-line": "drive_del EMPTY"})
            case "unplug":
                self.digests["start"] = self.digest_images()
                machine.execute("device_del", {"id": "stick-SWAPA"})
            case "plug":
                device = {"driver": "usb-storage", "id": "stick-SWAPB", "bus": "port-SWAPA.0"}
                more = {"drive": "SWAPB", "serial": "SWAPB", "removable": True}
                machine.execute("device_add", {**device, **more})
            case _:
                self.digests[question] = self.digest_images()

    def digest_images(self):
        return {path.stem: digest(path) for path in sorted(self.images.glob("*.img"))}

    def read(self, name):
        return (self.folder / name).read_text()

    def load(self, name):
        return json.loads(self.read(name))

    def disks(self, name):
        """By serial; of a multipath disk the path that lsblk told last."""
        report, disks = self.load(f"{name}-report.json"), self.load(f"{name}.json")["disks"]
        by_path = {disk["path"]: disk for disk in disks}
        return {
            serial: by_path[path] for serial, path in report["paths"].items() if path in by_path
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = tmp_path_factory.mktemp("images")
    disks, arguments = make_disks(images)
    return Run(
        "disk-kinds", BUILD + JUDGES + JUDGE, images, disks, arguments,
        ("eject", "before", "after"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    images = tmp_path_factory.mktemp("swapped")
    disks = [kind for kind in make_disks(images)[0] if kind.serial == "CLEAN"]
    for path in images.glob("*.img"):
        if path.stem != "CLEAN":
            path.unlink()
    return Run(
        "disk-swapped", AT_A_TERMINAL, images, disks, make_swapped(images),
        ("unplug", "plug", "partitioned"),
    )  # fmt: skip


def make_source(folder):
    """A little tree: what is refused needs no Windows, and what is written here is not booted."""
    (folder / "EFI/BOOT").mkdir(parents=True)
    (folder / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ" + b"loader" * 20_000)
    (folder / "readme.txt").write_text("a tree\n")
    return folder


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def words_for_people(text):
    """``text`` without what the kernel numbers as it likes."""
    for pattern, words in (
        (r"\bsd[a-z]+", "sdX"), (r"\bdm-\d+", "dm-N"), (r"\bmd\d+", "mdN"), (r"\bloop\d+", "loopN"),
        (r"process \d+", "process N"), (r"\b3[0-9a-f]{16}\b", "WWID"), (r"/nvme\dn\d", "nvmeN"),
    ):  # fmt: skip
        text = re.sub(pattern, words, text)
    return text


def reasons_of(disk):
    return {reason["rule"]: reason for reason in disk["reasons"]}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.serial)
def test_the_verdict_of_devices(run, kind):
    disk = run.disks("in-use")[kind.serial]
    # where the source lies is known to create alone
    expected = [rule for rule in kind.rules if rule != "source-on-target"]
    assert [reason["rule"] for reason in disk["reasons"] if reason["is_refusal"]] == expected
    assert disk["is_target"] is (not expected)
    assert all(reason["hint"] for reason in disk["reasons"])


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.serial)
def test_create_refuses_it_by_name(run, kind):
    code, said = run.load("in-use-report.json")["creates"][kind.serial]
    assert code == 4, said
    assert said["error"] == "TargetRefusedError"
    assert re.findall(r"\[([a-z-]+)\]", said["message"]) == [*kind.rules]


def test_no_byte_of_any_disk_changed_by_being_judged(run):
    assert run.digests["after"] == run.digests["before"]
    assert len(run.digests["after"]) == len(KINDS)


def test_all_was_really_in_use_when_it_was_judged(run):
    """lsblk, LVM, mdadm's array, ZFS, btrfs, findmnt and the kernel's O_EXCL say so."""
    paths = run.load("in-use-report.json")["paths"]
    nodes = {node["path"]: node for node in run.load("lsblk.json")["blockdevices"]}

    def below(serial):
        return [child["type"] for child in nodes[paths[serial]].get("children", [])]

    for serial, type_ in (
        ("LVM", "lvm"), ("RAID", "raid1"), ("LUKS", "crypt"), ("PLAIN", "crypt"),
        ("LINEAR", "dm"), ("MPATH", "mpath"),
    ):  # fmt: skip
        assert below(serial) == [type_], serial
    assert nodes[paths["SWAP"]]["mountpoints"] == ["[SWAP]"]
    (partition,) = nodes[paths["MOUNTED"]]["children"]
    assert partition["mountpoints"] == ["/mnt/mounted"]
    assert (nodes[paths["READONLY"]]["ro"], nodes[paths["EMPTY"]]["size"]) == (True, 0)
    assert run.read("pvs.txt").split()[:4:3] == [paths["LVM"], "1"]
    assert re.search(rf"{paths['ZFS'].removeprefix('/dev/')} +ONLINE", run.read("zpool.txt"))
    assert all(f"path {paths[s]}\n" in run.read("btrfs.txt") for s in ("BTRFSA", "BTRFSB"))
    # neither shows in the mounts of the guest itself
    mounts = run.read("mounts.txt").split()
    assert run.read("hidden.txt").split() == [f"{paths['NSMOUNT']}1", "/mnt/hidden"]
    assert not {f"{paths[serial]}1" for serial in ("NSMOUNT", "DETACHED")} & {*mounts}
    claimed = run.load("in-use-report.json")["claimed"]
    # nobody but the guards would have kept us from these
    free = {"CLEAN", "SMALL", "ZFS", "WRITER", "FIXED", "READONLY", "EMPTY", "LOOPED"}
    assert {serial for serial, is_claimed in claimed.items() if not is_claimed} == free


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.serial)
def test_taken_out_of_use_it_is_allowed_with_a_warning(run, kind):
    disk = run.disks("after")[kind.serial]
    assert [reason["rule"] for reason in disk["reasons"]] == [*kind.rules_after]
    warned_only = {reason["rule"] for reason in disk["reasons"]} <= {"inactive-member"}
    assert disk["is_target"] is warned_only


def test_a_loop_device_over_a_disk_is_no_way_around_its_guards(run):
    disks = run.load("in-use.json")["disks"]
    (loop,) = [disk for disk in disks if disk["bus"] == "loop"]
    assert (loop["is_target"], [*reasons_of(loop)]) == (False, ["not-a-disk"])


def test_another_stick_in_the_port_while_the_question_is_open(terminal):
    said = terminal.read("swapped.txt")
    assert terminal.read("swapped.code") == "4\n"
    assert "is not the disk that was chosen: serial: expected SWAPA, found SWAPB" in said
    assert terminal.digests["start"]["SWAPA"] == terminal.digests["end"]["SWAPA"]
    # it is as it was made, but for what sfdisk wrote to it later
    assert terminal.digests["start"]["SWAPB"] == hashlib.sha256(bytes(64 * MIB)).hexdigest()


def test_partitioned_by_another_program_while_the_question_is_open(terminal):
    said = terminal.read("partitioned.txt")
    assert terminal.read("partitioned.code") == "4\n"
    words = "is not as it was when the plan was shown: expected no table with no partition, found "
    assert f"{words}a dos table with partitions 1 at [0x100000,0x4000000)" in said
    # what sfdisk wrote is there, and nothing after it
    assert terminal.digests["partitioned"]["SWAPB"] != terminal.digests["start"]["SWAPB"]
    assert terminal.digests["end"]["SWAPB"] == terminal.digests["partitioned"]["SWAPB"]


def test_the_one_that_is_allowed_is_written(terminal):
    assert terminal.read("written.code") == "0\n"
    assert terminal.digests["end"]["CLEAN"] != terminal.digests["partitioned"]["CLEAN"]


def test_too_small_is_said_by_create(run):
    code, said = run.load("in-use-report.json")["creates"]["SMALL"]
    assert (code, said["error"]) == (4, "TargetTooSmallError")
    assert "the target has 24 MiB" in said["message"]


def test_the_text_for_people(run):
    """Kept in out/ to be looked at: what may be written comes first, with what to type."""
    text = run.read("in-use.txt")
    first, stick = text.split("\n\n")[:2]
    assert re.fullmatch(r"2 of 22 disks may be written: /dev/\w+, /dev/\w+", first)
    assert '  yes, may be written; confirm with "' in stick
    assert "yes, may be written" not in text.split("made of these disks by the kernel")[1]


def test_the_document_says_what_was_said(run):
    """docs/wrong-disk.md holds this run's table; the new one is in out/."""
    creates = run.load("in-use-report.json")["creates"]
    rows = []
    for kind in KINDS:
        if kind.serial in creates:
            message = creates[kind.serial][1]["message"]
            said = words_for_people(message.partition(" is refused: ")[2] or message)
        else:
            said = "allowed, and written"
        after = ", ".join(f"`{rule}`" for rule in kind.rules_after) or "allowed"
        after = after if kind.rules else "-"
        rows.append(f"| {kind.what} | {said} | {after} |")
    table = "\n".join(
        ["| disk | `create` says | not in use any more |", "|---|---|---|", *rows, ""]
    )
    (run.folder / "table.md").write_text(table)
    assert table in DOCS.read_text()
