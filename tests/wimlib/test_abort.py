# SPDX-License-Identifier: GPL-3.0-or-later
"""A call that is ended early: nothing half done is left, and what ended it is raised again."""

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mediamaker.wimlib.errors import WimlibAbortedError
from mediamaker.wimlib.events import ScanProgress, UpdateProgress, VerifyProgress, WriteProgress
from mediamaker.wimlib.update import Add
from mediamaker.wimlib.wim import Wim


class ListenerError(Exception):
    pass


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("abort") / "tree"
    root.mkdir()
    rng = random.Random(4)
    for index in range(150):
        (root / f"f{index}").write_bytes(rng.randbytes(20_000) + b"%d" % index * 20_000)
    return root


@pytest.fixture
def wim_path(tree, tmp_path):
    with Wim.create("XPRESS") as wim:
        wim.add_image(tree, "x")
        wim.write(tmp_path / "a.wim", threads=1)
    return tmp_path / "a.wim"


def verify(path):
    subprocess.run(["wimlib-imagex", "verify", path], check=True, capture_output=True)


def raise_at(kind, error=ListenerError):
    seen = []

    def listen(event):
        seen.append(event)
        if isinstance(event, kind):
            assert threading.current_thread() is threading.main_thread()
            raise error("enough")

    return listen, seen


def test_an_error_of_the_listener_ends_a_write_and_leaves_nothing(tree, tmp_path):
    listen, seen = raise_at(WriteProgress)
    with Wim.create("LZX", on_event=listen) as wim:
        wim.add_image(tree, "x")
        with pytest.raises(ListenerError, match="enough"):
            wim.write(tmp_path / "a.wim", threads=2)
        assert list(tmp_path.iterdir()) == []
        assert isinstance(seen[-1], WriteProgress), "nothing is told to a listener that raised"
        wim._calls.on_event = None
        wim.write(tmp_path / "a.wim", threads=2)
    verify(tmp_path / "a.wim")


def test_a_scan_that_is_ended_adds_no_image(tree, tmp_path):
    listen, _ = raise_at(ScanProgress)
    with Wim.create("LZX", on_event=listen) as wim:
        with pytest.raises(ListenerError):
            wim.add_image(tree, "x")
        assert wim.image_count == 0


def test_an_update_in_place_that_is_ended_leaves_the_file_as_it_was(tree, wim_path, tmp_path):
    new = tmp_path / "new"
    new.write_bytes(random.Random(9).randbytes(3_000_000))
    before = wim_path.read_bytes()
    listen, _ = raise_at(WriteProgress)
    with Wim.open(wim_path, writable=True, on_event=listen) as wim:
        wim.update_image(1, [Add(new, "/new")])
        with pytest.raises(ListenerError):
            wim.overwrite(threads=1)
    verify(wim_path)
    assert wim_path.read_bytes() == before
    listen, _ = raise_at(UpdateProgress)
    with (
        Wim.open(wim_path, writable=True, on_event=listen) as wim,
        pytest.raises(ListenerError),
    ):
        wim.update_image(1, [Add(new, "/new")] * 3)
    assert wim_path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wim", "new"]


def test_abort_from_another_thread_is_final(tree, tmp_path, wim_path):
    def listen(event):
        if isinstance(event, WriteProgress):
            threading.Thread(target=wim.abort).start()

    with Wim.create("LZX", on_event=listen) as wim:
        wim.add_image(tree, "x")
        with pytest.raises(WimlibAbortedError, match="ended early") as caught:
            wim.write(tmp_path / "b.wim", threads=1)
        assert caught.value.exit_code == 130
        with pytest.raises(WimlibAbortedError, match="not begun"):
            wim.write(tmp_path / "b.wim", threads=1)
    assert not (tmp_path / "b.wim").exists()


@pytest.mark.parametrize("when", ["ScanProgress", "WriteProgress"])
def test_ctrl_c_is_raised_again_when_libwim_has_ended(tree, tmp_path, when):
    # A process of its own, so that a real SIGINT meets a real main thread that waits.
    script = f"""
import os, signal, sys
from mediamaker.wimlib.events import {when}, Stopping
from mediamaker.wimlib.wim import Wim
from mediamaker.wimlib.flags import WriteFlags
signal.signal(signal.SIGINT, signal.default_int_handler)
sent = []
def listen(event):
    if isinstance(event, {when}) and not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)
    if isinstance(event, Stopping):
        print("stopping")
        os.kill(os.getpid(), signal.SIGINT)  # once more, to no avail
try:
    with Wim.create("LZX", on_event=listen) as wim:
        wim.add_image({str(tree)!r}, "x")
        wim.write({str(tmp_path / "a.wim")!r}, threads=1)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stderr == ""
    assert result.stdout.split() == ["stopping", "interrupted"]
    assert result.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_real_ctrl_c_while_nothing_is_listened_to(tree, tmp_path):
    script = f"""
import sys
from pathlib import Path
from mediamaker.wimlib.wim import Wim
from mediamaker.wimlib.flags import WriteFlags
with Wim.create("LZX") as wim:
    wim.add_image({str(tree)!r}, "x")
    print("go", flush=True)
    for number in range(1000):
        wim.write(Path({str(tmp_path)!r}) / f"{{number}}.wim", threads=1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert "Fatal" not in stderr
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    for path in tmp_path.iterdir():
        verify(path)


def test_a_listener_may_not_use_the_wim_it_listens_to(tree, tmp_path):
    def listen(event):
        if isinstance(event, WriteProgress):
            _ = wim.info

    with Wim.create("none", on_event=listen) as wim:
        wim.add_image(tree, "x")
        with pytest.raises(RuntimeError, match="listener"):
            wim.write(tmp_path / "a.wim")
    assert list(tmp_path.iterdir()) == []


def test_nor_a_wim_that_shares_its_data(wim_path, tmp_path):
    def listen(event):
        if isinstance(event, WriteProgress):
            _ = source.info

    with Wim.open(wim_path) as source, Wim.create("LZX", on_event=listen) as dest:
        source.export_image(1, dest)
        with pytest.raises(RuntimeError, match="listener"):
            dest.write(tmp_path / "b.wim")


def test_one_wim_and_many_threads_take_turns(tree, tmp_path, wim_path):
    errors = []

    def work(number):
        try:
            assert wim.info.image_count == 1
            wim.verify()
            assert len(wim.iterate_dir_tree(1)) == 151
            wim.extract_paths(1, tmp_path / str(number), ["/f7"])
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            errors.append(error)

    events = []
    with Wim.open(wim_path, on_event=lambda e: events.append((threading.get_ident(), e))) as wim:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len({ident for ident, event in events if isinstance(event, VerifyProgress)}) == 6
    for number in range(6):
        assert (tmp_path / str(number) / "f7").read_bytes() == (tree / "f7").read_bytes()


def test_two_wims_work_beside_each_other_and_fail_apart(tree, tmp_path, wim_path):
    good, bad = [], []

    def verify_good():
        with Wim.open(wim_path) as wim:
            for _ in range(5):
                wim.verify()
        good.append(True)

    def open_bad():
        for _ in range(50):
            with pytest.raises(Exception, match="missing") as caught:
                Wim.open(tmp_path / "missing.wim")
            bad.append(caught.value)

    threads = [threading.Thread(target=target) for target in (verify_good, open_bad, verify_good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True, True]
    assert len(bad) == 50


def test_closing_ends_a_call_of_another_thread_and_waits_for_it(tree, tmp_path):
    began = threading.Event()
    raised = []

    def listen(event):
        if isinstance(event, WriteProgress):
            began.set()

    def work():
        try:
            wim.write(tmp_path / "a.wim", threads=1)
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            raised.append(error)

    wim = Wim.create("LZX", on_event=listen)
    wim.add_image(tree, "x")
    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(30)
    wim.close()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(raised[0], WimlibAbortedError)
    assert list(Path(tmp_path).iterdir()) == []


def test_nothing_is_leaked_by_opening_and_closing(wim_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    Wim.open(wim_path).close()
    before = descriptors(), threading.active_count()
    for _ in range(50):
        with Wim.open(wim_path) as wim:
            wim.iterate_dir_tree(1)
        with pytest.raises(Exception, match="No such file"):
            Wim.open(str(wim_path) + ".not")
    assert (descriptors(), threading.active_count()) == before
