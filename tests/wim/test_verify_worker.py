# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers say what threads say; one that dies costs only time, and none outlives its caller."""

import os
import random
import signal
import threading

import psutil
import pytest

from mediamaker.wim import verify as verify_module
from mediamaker.wim import verify_jobs, verify_worker
from mediamaker.wim.parts import open_parts
from mediamaker.wim.verify import verify_wim
from tests.wim.wim_trees import capture


@pytest.fixture(scope="module")
def wim_path(tmp_path_factory):
    """Small and large blobs; large ones have more than one window."""
    folder = tmp_path_factory.mktemp("workers")
    tree = folder / "tree"
    tree.mkdir()
    noise = random.Random(4)
    for index in range(60):
        (tree / f"small {index}").write_bytes(noise.randbytes(2000) * 20)
    for index in range(3):
        (tree / f"large {index}").write_bytes(noise.randbytes(90_000) * 100)
    return capture(tree, folder / "x.wim", "--compress=LZX")


@pytest.fixture
def answers(monkeypatch):
    """With workers for any size; what they answered."""
    monkeypatch.setattr(verify_module, "WORKERS_SIZE_MIN", 0)
    seen = []
    check = verify_worker.WorkerPool.check

    def watched(pool, request, *, is_small):
        answer = check(pool, request, is_small=is_small)
        seen.append((is_small, answer))
        return answer

    monkeypatch.setattr(verify_worker.WorkerPool, "check", watched)
    return seen


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_workers_do_the_work_and_are_gone_after_it(wim_path, answers):
    before = children()
    report = verify_wim(wim_path, threads=2)
    assert report.is_good
    assert report.blob_count == 64  # with the tree
    assert {is_small for is_small, _ in answers} == {True, False}
    assert all(answer == [] for _, answer in answers)
    assert children() == before


@pytest.mark.parametrize("name", ["small 7", "large 1"])
def test_damage_is_named_as_threads_name_it(wim_path, answers, tmp_path, name):
    with open_parts([wim_path]) as parts:
        file = parts.files[0]
        sha1 = next(e.data.sha1 for e in file.blobs.read_metadata(1).walk() if e.name == name)
        blob = file.blobs.find(sha1)
    data = bytearray(wim_path.read_bytes())
    data[blob.offset + blob.size_in_wim // 2] ^= 4
    broken = tmp_path / "broken.wim"
    broken.write_bytes(data)
    with_workers = verify_wim(broken, threads=2)
    assert any(answer for _, answer in answers)
    answers.clear()
    alone = verify_wim(broken, threads=1)
    assert all(answer is None for _, answer in answers)
    assert [file.path for file in with_workers.damaged] == [f"/{name}"]
    assert with_workers == alone


def test_workers_that_die_are_done_without(wim_path, answers, monkeypatch):
    monkeypatch.setattr(verify_jobs, "_BATCH_SIZE_MAX", 100_000)
    start = verify_worker._Worker.__init__

    def start_and_kill(worker):
        start(worker)
        os.kill(worker._process.pid, signal.SIGKILL)

    monkeypatch.setattr(verify_worker._Worker, "__init__", start_and_kill)
    report = verify_wim(wim_path, threads=3)
    assert report.is_good
    assert report.blob_count == 64
    assert all(answer is None for _, answer in answers)


def test_no_interpreter_to_start_is_no_error(wim_path, answers, monkeypatch):
    monkeypatch.setattr(verify_worker.sys, "executable", "")
    assert verify_wim(wim_path, threads=2).is_good
    assert all(answer is None for _, answer in answers)


def test_cancel_leaves_no_process(wim_path, answers):
    before = children()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        verify_wim(wim_path, threads=2, cancel=cancel)
    assert children() == before
