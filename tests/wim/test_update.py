# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates of an image, judged by wimlib-imagex."""

import pytest

from mediamaker.errors import SourceError, UsageError
from mediamaker.execute.progress import ignore_event
from mediamaker.wim.update import update_image
from mediamaker.wim.update_commands import parse_update_commands
from tests.wim.wim_rig import assert_image_is, check, info, listing, make_tree, names, run


@pytest.fixture
def wim(tmp_path):
    tree = make_tree(tmp_path / "tree", 1)
    (tree / "sub").mkdir()
    (tree / "sub" / "inner").write_bytes(b"inner")
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tree, path, "One", "--boot")
    run("wimlib-imagex", "append", tree, path, "Two")
    return path


def update(path, text, image=1, **options):
    commands = parse_update_commands(text, what="cmds")
    return update_image(path, image, commands, on_event=ignore_event, what="cmds", **options)


def test_every_command(wim, tmp_path):
    new = make_tree(tmp_path / "new tree", 2)
    result = update(
        wim,
        f"""
        # all of it
        add '{new}' /added/deep
        delete --recursive sub
        delete --force /not-there
        rename file1 '/renamed file'
        add '{new}/file3' /file4
        """,
        "One",
    )
    assert (result.number, result.added, result.deleted, result.renamed) == (1, 2, 2, 1)
    assert result.size_after == wim.stat().st_size
    check(wim)
    assert names(wim) == ["One", "Two"]
    assert info(wim)["Boot Index"] == "1"
    tree = tmp_path / "tree"
    assert_image_is(wim, 2, tree, tmp_path / "two")
    (tree / "sub" / "inner").unlink()
    (tree / "sub").rmdir()
    (tree / "file1").rename(tree / "renamed file")
    (tree / "file4").write_bytes((new / "file3").read_bytes())
    (tree / "added").mkdir()
    run("cp", "-r", new, tree / "added" / "deep")
    assert_image_is(wim, 1, tree, tmp_path / "one")


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_what_is_deleted_takes_no_room_when_rebuilt(wim, is_rebuilt):
    for image in (1, 2):
        update(wim, "delete file0\ndelete file2", image, rebuild=is_rebuilt)
    check(wim)
    blobs = run("wimlib-imagex", "info", wim, "--blobs").count("Hash ")
    if is_rebuilt:
        assert blobs == 12 + 1 + 2 - 2  # contents, sub/inner, two images' metadata; empty is none


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("delete /missing", UsageError, "cmds, line 3: "),
        ("delete sub", UsageError, "cmds, line 3: "),
        ("rename /missing x", UsageError, "cmds, line 3: "),
        ("add /no/such/file x", SourceError, "cmds, line 3: /no/such/file: no such file"),
        ("add --no-replace TREE/file1 /file1", UsageError, "cmds, line 3: "),
    ],
)
def test_a_command_that_fails_is_named_and_nothing_was_done(wim, tmp_path, line, kind, says):
    before = wim.read_bytes()
    text = f"delete file0\n\n{line.replace('TREE', str(tmp_path / 'tree'))}\ndelete file1\n"
    with pytest.raises(kind) as caught:
        update(wim, text)
    assert caught.value.message.startswith(says)
    assert wim.read_bytes() == before
    assert listing(tmp_path) == ["tree", "x.wim"]


def test_refusals(wim, tmp_path):
    with pytest.raises(UsageError, match="has 2 images; say which"):
        update(wim, "delete file0", None)
    with pytest.raises(UsageError, match="has no image '7'"):
        update(wim, "delete file0", 7)
    with pytest.raises(UsageError, match="has no image 'all'"):
        update(wim, "delete file0", "all")
    with pytest.raises(UsageError, match="has no commands"):
        update(wim, "# nothing")
    with pytest.raises(SourceError):
        update(tmp_path / "missing", "delete x")
    run("wimlib-imagex", "split", wim, tmp_path / "s.swm", "0.01")
    with pytest.raises(UsageError, match="is part 1 of"):
        update(tmp_path / "s.swm", "delete file0")
