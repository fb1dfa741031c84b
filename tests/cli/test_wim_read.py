# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim info|ls|cat|extract|verify`` from outside, on what wimlib-imagex made."""

import random
import subprocess
import sys

import pytest

from mediamaker.cli.wim_read import _show_time


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wim")
    for number in (1, 2):
        tree = folder / f"tree{number}"
        (tree / "Windows/System32").mkdir(parents=True)
        (tree / "Windows/System32/kernel.dll").write_bytes(
            random.Random(number).randbytes(100_000 * number)
        )
        (tree / "only.txt").write_text(f"image {number}")
        (tree / "empty").touch()
    path = folder / "install.wim"
    subprocess.run(
        ["wimlib-imagex", "capture", folder / "tree1", path, "Home", "Edition one"],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["wimlib-imagex", "append", folder / "tree2", path, "Pro"], check=True, capture_output=True
    )
    return path


def test_info(run, wim):
    code, (event,) = run.json("wim", "info", wim)
    assert code == 0
    assert [image["name"] for image in event["images"]] == ["Home", "Pro"]
    assert event["compression"] == "LZX"
    _, out, _ = run.text("wim", "info", f"{wim}:2")
    assert "image 2: Pro" in out
    assert "image 1" not in out
    _, out, _ = run.text("wim", "info", wim, "--xml")
    assert out.startswith("<WIM>")
    assert run.json("wim", "info", wim, "--xml")[1][-1]["xml"].rstrip() == out.rstrip()
    assert "xml" not in event


def test_ls_and_cat(run, wim):
    code, events = run.json("wim", "ls", f"{wim}:Pro", "-r")
    assert code == 0
    sizes = {event["path"]: event["size"] for event in events}
    assert sizes["/Windows/System32/kernel.dll"] == 200_000
    shown = subprocess.run(
        [sys.executable, "-m", "mediamaker", "wim", "cat", f"{wim}:2", "/only.txt"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert shown == b"image 2"


def test_extract_equals_what_was_captured(run, wim, tmp_path):
    assert run.json("wim", "extract", f"{wim}:1", "/", "--to", tmp_path / "out")[0] == 0
    subprocess.run(["diff", "-r", wim.parent / "tree1", tmp_path / "out"], check=True)


@pytest.mark.parametrize("name", ["{}", "{}:3", "{}:Enterprise", "{}:0"])
def test_an_image_that_is_not_there_is_usage(run, wim, name):
    code, events = run.json("wim", "ls", name.format(wim))
    assert code == 2
    assert "wim info" in events[-1]["hint"]


def test_a_flipped_byte_names_file_and_image(run, wim, tmp_path):
    assert run.json("wim", "verify", wim)[0] == 0
    broken = tmp_path / "broken.wim"
    data = bytearray(wim.read_bytes())
    listed = run.json("wim", "ls", f"{wim}:2", "/Windows/System32")[1]
    sha1 = next(event["sha1"] for event in listed if event["path"].endswith("kernel.dll"))
    shown = subprocess.run(
        ["wimlib-imagex", "info", "--blobs", wim], check=True, capture_output=True, text=True
    ).stdout
    block = next(block for block in shown.split("\n\n") if sha1 in block)
    offset = next(
        int(line.split("=")[1].split()[0])
        for line in block.splitlines()
        if line.strip().startswith("Offset in WIM")
    )
    data[offset + 300] ^= 1
    broken.write_bytes(data)
    code, events = run.json("wim", "verify", broken)
    assert code == 5
    (file,) = events[-1]["damaged_files"]
    assert (file["image_number"], file["path"]) == (2, "/Windows/System32/kernel.dll")
    code, out, err = run.text("wim", "verify", broken)
    assert code == 5
    assert "verifying" in err
    assert "reading back" not in err
    assert "damaged: image 2: /Windows/System32/kernel.dll" in out


def test_split_parts_are_found_by_their_names(run, wim, tmp_path):
    first = tmp_path / "install.swm"
    subprocess.run(["wimlib-imagex", "split", wim, first, "0.2"], check=True, capture_output=True)
    assert (tmp_path / "install2.swm").exists()
    code, events = run.json("wim", "verify", first)
    assert (code, events[-1]["missing_parts"]) == (0, [])
    (tmp_path / "install2.swm").rename(tmp_path / "away")
    code, events = run.json("wim", "verify", first)
    assert code == 5
    assert events[-1]["missing_parts"]


def test_any_part_leads_to_the_others(run, wim, tmp_path):
    subprocess.run(
        ["wimlib-imagex", "split", wim, tmp_path / "s.swm", "0.05"], check=True, capture_output=True
    )
    second = tmp_path / "s2.swm"
    assert second.exists()
    code, events = run.json("wim", "verify", second)
    assert (code, events[-1]["missing_parts"]) == (0, [])
    assert run.json("wim", "ls", f"{second}:2", "/only.txt")[0] == 0
    assert run.json("wim", "extract", f"{second}:1", "/", "--to", tmp_path / "x")[0] == 0
    assert run.json("wim", "apply", f"{second}:1", tmp_path / "a")[0] == 0
    for folder in ("x", "a"):
        subprocess.run(["diff", "-r", wim.parent / "tree1", tmp_path / folder], check=True)
    assert run.json("wim", "export", f"{second}:Pro", tmp_path / "e.wim")[0] == 0
    assert run.json("wim", "optimize", f"{second}:Pro", tmp_path / "o.wim")[0] == 0
    assert run.json("wim", "join", second, tmp_path / "j.wim")[0] == 0
    for name in "eoj":
        subprocess.run(
            ["wimlib-imagex", "verify", tmp_path / f"{name}.wim"], check=True, capture_output=True
        )
    others = [path for path in tmp_path.glob("s*.swm") if path != second]
    assert run.json("wim", "apply", f"{second}:2", tmp_path / "b", "--ref", *others)[0] == 0


def test_what_is_no_wim_is_code_3(run, tmp_path):
    for name, content in (("empty.wim", b""), ("text.wim", b"x" * 5000)):
        (tmp_path / name).write_bytes(content)
        for verb in ("info", "verify"):
            assert run.json("wim", verb, tmp_path / name)[0] == 3
    assert run.json("wim", "verify", tmp_path / "missing.wim")[0] == 3


def test_names_with_colons_and_line_feeds(run, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "two\nlines").write_text("1")
    (tree / "b").write_text("2")
    path = tmp_path / "a:b.wim"
    assert run.json("wim", "capture", tree, path, "--name", "Home: N")[0] == 0
    assert run.json("wim", "append", tree, path, "--name", "Pro")[0] == 0
    code, out, _ = run.text("wim", "ls", f"{path}:Home: N", "/b", "/")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["/b", "/b", "/two\\nlines"]
    shown = subprocess.run(
        [sys.executable, "-m", "mediamaker", "wim", "cat", f"{path}:2", "/b", "/b"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert shown == b"22"
    assert "no such file" in run.text("wim", "ls", f"{tmp_path}/none:1")[2]


def test_a_missing_part_does_not_hide_the_others(run, tmp_path):
    tree, wim, first = tmp_path / "tree", tmp_path / "a.wim", tmp_path / "p.swm"
    tree.mkdir()
    for number in range(4):
        (tree / str(number)).write_bytes(random.Random(number).randbytes(100_000))
    assert run.json("wim", "capture", tree, wim)[0] == 0
    code, events = run.json("wim", "split", wim, first, "--size", "130KiB")
    assert code == 0
    assert len(events[-1]["parts"]) >= 3
    all_blobs = run.json("wim", "verify", first)[1][-1]["blob_count"]
    (tmp_path / "p2.swm").unlink()
    code, events = run.json("wim", "verify", first)
    assert code == 5
    assert events[-1]["missing_parts"] == [2]
    assert events[-1]["blob_count"] == all_blobs - events[-1]["unjudged_blob_count"]


def test_any_year_can_be_listed():
    assert _show_time(2**64 // 10 * 10**3).strip() == "?"
    assert _show_time(0) == "1970-01-01 00:00"


def test_a_place_that_will_not_do_is_refused_by_name(run, wim, tmp_path):
    taken = tmp_path / "taken"
    taken.touch()
    code, events = run.json("wim", "extract", f"{wim}:1", "/", "--to", taken)
    assert (code, events[-1]["error"]) == (4, "TargetRefusedError")
    for words in (("export", f"{wim}:1"), ("optimize", wim)):
        code, events = run.json("wim", *words, "/proc/new.wim")
        assert code == 4
        assert ".partial" not in events[-1]["message"]


def test_a_link_has_no_content_to_show(run, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to("nowhere")
    assert run.json("wim", "capture", tree, tmp_path / "a.wim")[0] == 0
    code, _, err = run.text("wim", "cat", tmp_path / "a.wim", "/link")
    assert code == 2
    assert "is a link" in err


def test_damaged_tables_are_the_sources_fault(run, wim, tmp_path):
    short = tmp_path / "short.wim"
    short.write_bytes(wim.read_bytes()[:-1000])
    for words in (("info", short), ("ls", f"{short}:1")):
        code, events = run.json("wim", *words)
        assert (code, events[-1]["error"]) == (3, "FormatError")
    assert run.json("wim", "verify", short)[0] == 5
