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
    SWAPPED,
    TAKE_OUT_OF_USE,
    image,
    make_disks,
)
from guest import ROOT, Guest

from mediamaker.units import MIB

DOCS = ROOT / "docs" / "wrong-disk.md"
REFUSED = [kind for kind in KINDS if kind.rules]
ALLOWED_AFTER = [
    kind for kind in REFUSED if not {"fixed-disk", "read-only", "no-medium"} & {*kind.rules}
]
SCRIPT = f"""\
source={{source}}
in_guest() {{{{ python3 {ROOT}/vm-tests/disk_kinds_guest.py "$@"; }}}}
{{prepare}}{{build}}{{judges}}
say judged
ask before
in_guest judge in-use $source {" ".join(kind.serial for kind in REFUSED)}
ask after
{{take_out}}
say judged again
in_guest judge after $source
say at a terminal
swap='echo ask swap > /dev/ttyS0
    until [ -e answer-swap ]; do sleep 0.2; done
    until [ "$(lsblk -dno SERIAL $DISK)" = SWAPB ]; do sleep 0.2; done'
in_guest terminal swapped $source SWAPA "$swap"
in_guest terminal partitioned $source SWAPB 'sfdisk --quiet $DISK <<< ",,c"; udevadm settle'
ask partitioned
in_guest terminal written $source CLEAN true
say end
"""


class Run:
    """One guest with all disks; what it left in ``folder``, and the images' digests."""

    def __init__(self, folder, images):
        self.folder = folder
        self.images = images
        self.digests = {}
        disks, arguments = make_disks(images)
        script = SCRIPT.format(
            source=make_source(folder / "source"),
            prepare=PREPARE,
            build=BUILD,
            judges=JUDGES,
            take_out=TAKE_OUT_OF_USE,
        )
        self.guest = Guest(
            script, work_dir=folder, disks=disks, memory_size=1024 * MIB, extra_arguments=arguments
        )
        with self.guest as guest:
            for question in ("eject", "before", "after", "swap", "partitioned"):
                guest.machine.wait_for_serial(f"ask {question}", timeout=900)
                self.answer(question)
                (folder / f"answer-{question}").touch()
            self.result = guest.wait(timeout=900)
        self.digests["end"] = self.digest_images()
        for path in folder.glob("answer-*"):
            path.unlink()

    def answer(self, question):
        machine = self.guest.machine
        match question:
            case "eject":
                # The card goes, the reader stays.
                machine.execute("human-monitor-command", {"command-line": "drive_del EMPTY"})
            case "swap":
                machine.execute("device_del", {"id": "stick-SWAPA"})
                device = {"driver": "usb-storage", "id": "stick-SWAPB", "bus": "port-SWAPA.0"}
                more = {"drive": "SWAPB", "serial": "SWAPB", "removable": True}
                machine.execute("device_add", {**device, **more})
            case _:
                self.digests[question] = self.digest_images()

    def digest_images(self):
        serials = [*(kind.serial for kind in KINDS), *SWAPPED]
        return {serial: digest(image(self.images, serial)) for serial in serials}

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


def make_source(folder):
    """A little tree: what is refused needs no Windows, and what is written here is not booted."""
    (folder / "EFI/BOOT").mkdir(parents=True)
    (folder / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ" + b"loader" * 20_000)
    (folder / "readme.txt").write_text("a tree\n")
    return folder


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = ROOT / "out" / "vm-tests" / "disk-kinds"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = Run(folder, tmp_path_factory.mktemp("images"))
    assert run.result.exit_code == 0, run.result.output
    return run


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
    assert len(run.digests["after"]) == len(KINDS) + len(SWAPPED)


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
    free = {"CLEAN", "SWAPA", "ZFS", "WRITER", "FIXED", "READONLY", "EMPTY", "LOOPED"}
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


def test_another_stick_in_the_port_while_the_question_is_open(run):
    said = run.read("swapped.txt")
    assert said.endswith("exit 4\n")
    assert re.search(r"is not the disk that was chosen: serial: expected SWAPA, found SWAPB", said)
    assert run.digests["partitioned"]["SWAPA"] == run.digests["before"]["SWAPA"]
    blank = hashlib.sha256(bytes(64 * MIB)).hexdigest()
    assert run.digests["after"]["SWAPB"] == blank


def test_partitioned_by_another_program_while_the_question_is_open(run):
    said = run.read("partitioned.txt")
    assert said.endswith("exit 4\n")
    assert "/dev/sd" in said
    assert "is not as it was when the plan was shown: expected no table with no partition" in said
    assert "found a dos table with partitions 1 at [0x100000,0x4000000)" in said
    # what sfdisk wrote is there, and nothing after it
    assert run.digests["partitioned"]["SWAPB"] != run.digests["after"]["SWAPB"]
    assert run.digests["end"]["SWAPB"] == run.digests["partitioned"]["SWAPB"]


def test_the_one_that_is_allowed_is_written(run):
    assert run.read("written.txt").endswith("exit 0\n")
    changed = {s for s, value in run.digests["end"].items() if value != run.digests["after"][s]}
    assert "CLEAN" in changed
    assert run.digests["end"]["CLEAN"] != run.digests["partitioned"]["CLEAN"]


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
            message = creates[kind.serial][1]["message"].split(" is refused: ")[1]
            said = words_for_people(message)
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
