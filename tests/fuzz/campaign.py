# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs harnesses two at a time: ``python -m tests.fuzz.campaign DIR fuzz_wim=600 ...`` (seconds).

Corpora grow in ``DIR/corpus``, inputs that crash land in ``DIR/crashes``. A harness that crashes
is started again for the rest of its time. The figures are added to ``DIR/figures.json``.
"""

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROCESS_COUNT = 2
RESTART_COUNT_MAX = 200
_lock = threading.Lock()


def main():
    work = Path(sys.argv[1])
    jobs = [(name, int(seconds)) for name, seconds in (item.split("=") for item in sys.argv[2:])]
    with ThreadPoolExecutor(PROCESS_COUNT) as pool:
        list(pool.map(lambda job: _run(work, *job), jobs))


def _run(work, name, seconds):
    corpus, crashes = work / "corpus" / name, work / "crashes" / name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    for _ in range(RESTART_COUNT_MAX):
        left = int(deadline - time.monotonic())
        if left < 3:
            break
        started = time.monotonic()
        with (work / f"{name}.log").open("ab") as log:
            begin = log.tell()
            command = [sys.executable, "-m", "tests.fuzz.runner", name, corpus]
            command += [work / "seeds" / name, f"-max_total_time={left}"]
            command += [f"-artifact_prefix={crashes}/"]
            subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False)
        text = (work / f"{name}.log").read_bytes()[begin:].decode("utf-8", "replace")
        _record(work, name, time.monotonic() - started, text)


def _record(work, name, seconds, text):
    counts = re.findall(r"^stat::number_of_executed_units: (\d+)|^#(\d+)\t", text, re.MULTILINE)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", text)
    with _lock:
        path = work / "figures.json"
        figures = json.loads(path.read_text()) if path.exists() else {}
        item = figures.setdefault(
            name, {"seconds": 0, "executions": 0, "coverage": 0, "features": 0, "crashes": []}
        )
        item["seconds"] = round(item["seconds"] + seconds)
        item["executions"] += int(max(counts[-1])) if counts else 0
        for key, value in zip(
            ("coverage", "features"), coverage[-1] if coverage else (), strict=False
        ):
            item[key] = max(item[key], int(value))
        for artifact in re.findall(r"Test unit written to (\S+)", text):
            error = re.findall(r"^ *([A-Za-z_.]*(?:Error|Exception)\b.*)$", text, re.MULTILINE)
            error = error or re.findall(r"ERROR: libFuzzer: (.*)", text)
            item["crashes"].append([Path(artifact).name, error[-1][:200] if error else "?"])
        path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
