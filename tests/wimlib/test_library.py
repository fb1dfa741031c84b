# SPDX-License-Identifier: GPL-3.0-or-later
"""Which libwim is taken, what is said when there is none, and what it says when it fails."""

import dataclasses
import os
import re
import subprocess
import sys

import cffi
import pytest

from mediamaker.errors import ExitCode, MediaError, ToolError, UsageError
from mediamaker.wimlib import cdef
from mediamaker.wimlib.errors import Code, make_error
from mediamaker.wimlib.library import (
    check_version,
    is_bad_writer,
    load_library,
    open_library,
    set_default_level,
    version,
)


def test_the_version_is_that_of_the_installed_tools():
    said = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", "libwim15"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.split("-")[0] == ".".join(map(str, version()))
    assert load_library() is load_library()


def test_structures_have_the_sizes_of_the_abi():
    ffi = cffi.FFI()
    ffi.cdef(cdef.DECLARATIONS)
    sizes = {name: ffi.sizeof(name) for name in cdef.STRUCT_SIZES}
    assert sizes == {"mm_progress": 112, "mm_wim_info": 88, "mm_resource": 88}


def test_every_function_that_is_declared_is_in_the_library():
    library = load_library()
    names = re.findall(r"\b(wimlib_\w+)\(", cdef.DECLARATIONS)
    assert len(names) > 40
    for name in names:
        assert getattr(library.c, name)


@pytest.mark.parametrize("path", ["libwim-is-missing.so.15", "/no/such/libwim.so.15", "libc.so.6"])
def test_a_missing_library_names_its_package(path):
    with pytest.raises(ToolError, match="can't be loaded") as caught:
        open_library(path)
    assert "libwim15" in caught.value.hint
    assert caught.value.exit_code is ExitCode.UNEXPECTED


def test_whoever_needs_libwim_hears_that_it_is_missing():
    script = """
import mediamaker.wimlib.library as library
library.SONAME = "libwim.so.999"
from mediamaker.errors import ToolError
from mediamaker.wimlib.codec import Decompressor
from mediamaker.wimlib.wim import Wim, join
for call in (lambda: Wim.open("a.wim"), lambda: Wim.create("LZX"), lambda: join(["a"], "b"),
             lambda: Decompressor("LZX", 32768)):
    try:
        call()
    except ToolError as error:
        assert "libwim15" in error.hint, error.hint
        print("refused")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["refused"] * 4


@pytest.mark.parametrize(
    ("number", "bad"),
    [
        ((1, 13, 6), False),
        ((1, 14, 0), True),
        ((1, 14, 2), True),
        ((1, 14, 3), True),
        ((1, 14, 4), False),
        ((1, 14, 5), False),
        ((1, 15, 0), False),
    ],
)
def test_bad_writers_only_read(number, bad):
    assert is_bad_writer(number) is bad
    library = dataclasses.replace(load_library(), version=number)
    if not bad:
        library.check_can_write()
        return
    with pytest.raises(ToolError, match=re.escape(".".join(map(str, number)))) as caught:
        library.check_can_write()
    assert "1.14.4" in caught.value.hint


def test_old_libraries_are_refused():
    check_version((1, 13, 0), "x")
    with pytest.raises(ToolError, match=r"1\.12\.0 \(x\) is too old"):
        check_version((1, 12, 0), "x")


def test_a_level_that_does_not_exist():
    set_default_level(2, 20)
    set_default_level(2, 0)
    with pytest.raises(UsageError):
        set_default_level(99, 20)


def test_every_code_of_libwim_has_a_name_a_sentence_and_a_typed_error():
    library = load_library()
    for code in Code:
        sentence = library.error_string(code)
        assert sentence
        assert "nknown error" not in sentence
        if code is Code.SUCCESS:
            continue
        for writes in (False, True):
            error = make_error("a.wim: x", code, sentence, ("why",), writes=writes, is_shared=False)
            assert isinstance(error, MediaError)
            assert error.code_name == code.name
            assert str(error).startswith("a.wim: x: ")
            assert str(error).endswith("(why)")
    assert make_error("x", 4711, "?", (), writes=False, is_shared=False).code_name == "CODE_4711"


def test_details_that_may_belong_to_another_call_say_so_and_are_few():
    error = make_error("x", 72, "s.", tuple("abcdefgh"), writes=True, is_shared=True)
    assert str(error) == "x: s (of this or another call: a; b; c; d; e; and 3 more)"
    assert error.detail == tuple("abcdefgh")


def test_messages_are_taken_apart_and_do_not_pile_up():
    messages = load_library().messages
    start = messages.begin()
    os.pwrite(messages.fd, b"[ERROR] one\n   goes on\n[WARNING] two\n\n[ERROR] three\n", start)
    said = messages.end(start)
    assert said.errors == ("one goes on", "three")
    assert said.warnings == ("two",)
    assert not said.is_shared
    assert messages.begin() == 0
    other = messages.begin()
    assert messages.end(other).is_shared
    assert messages.end(0).is_shared
    assert not messages.end(messages.begin()).is_shared
