# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of ``wim update``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import UsageError
from mediamaker.wim.update_commands import (
    AddFile,
    DeletePath,
    RenamePath,
    parse_update_commands,
)


def test_every_command_and_comment():
    text = (
        "# a comment\n"
        "\n"
        "add --no-replace --no-acls 'C:\\My Dir' \"\\My Dir\"\r\n"
        "   delete --force --recursive /Windows/Temp\n"
        "rename it's /b\n"
        "delete '# not a comment'\n"
        "delete -- --odd\n"
        "delete ''"
    )
    with pytest.raises(UsageError, match=r"^here, line 8: a path is empty"):
        parse_update_commands(text, what="here")
    assert parse_update_commands(text[: -len("delete ''")]) == (
        AddFile(
            line_number=3,
            source="C:\\My Dir",
            target="\\My Dir",
            options=frozenset({"--no-replace", "--no-acls"}),
        ),
        DeletePath(line_number=4, path="/Windows/Temp", is_recursive=True, may_be_missing=True),
        RenamePath(line_number=5, source="it's", target="/b"),
        DeletePath(line_number=6, path="# not a comment"),
        DeletePath(line_number=7, path="--odd"),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("frobnicate a b", "'frobnicate' is not a command"),
        ("ADD a b", "'ADD' is not a command"),
        ("add a", "expected 2 after add, got 1"),
        ("delete a b", "expected 1 after delete, got 2"),
        ("rename --force a b", "rename has no option '--force'"),
        ("add --boot a b", "add has no option '--boot'"),
        ("delete 'a b", "a quote is not closed"),
        ("delete 'a'b", "is followed by something else"),
        ('add "a" b"c d', "expected 2 after add, got 3"),
    ],
)
def test_errors_name_the_line(line, says):
    with pytest.raises(UsageError) as caught:
        parse_update_commands(f"delete x\n\n{line}\n", what="cmds.txt")
    assert caught.value.message.startswith("cmds.txt, line 3: ")
    assert says in caught.value.message


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text):
    try:
        commands = parse_update_commands(text)
    except UsageError:
        return
    assert len(commands) <= text.count("\n") + text.count("\r") + 1


@given(st.text(alphabet=st.characters(exclude_characters="\0\r\n\"'"), min_size=1, max_size=50))
def test_a_quoted_path_stays_as_it_is(path):
    assert parse_update_commands(f'delete "{path}"') == (DeletePath(line_number=1, path=path),)
