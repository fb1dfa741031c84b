# SPDX-License-Identifier: GPL-3.0-or-later
"""A served disk is booted, and what was read of it is told: the trace, its verdict, its files.

::

    with open_plan_disk(plan) as content, NbdServer(content) as server:
        result = boot_target(name, firmware, server=server, directory=directory)
        report = report_trace(server, map_plan(plan, content.read), result)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediamaker.sources.disk_map import DiskMap
from mediamaker.vm.boot import BootResult
from mediamaker.vm.firmware import Firmware
from mediamaker.vm.nbd import NbdServer
from mediamaker.vm.trace import Trace, build_trace
from mediamaker.vm.trace_picture import draw_timeline
from mediamaker.vm.trace_show import show_trace, trace_to_json
from mediamaker.vm.verdict import Verdict, judge

JSON_NAME, PICTURE_NAME = "boot-trace.json", "boot-trace.svg"


@dataclass(frozen=True, slots=True)
class TraceReport:
    """A trace with its verdict, and the files in the machine's folder that hold them."""

    trace: Trace
    verdict: Verdict
    json_path: Path
    picture_path: Path

    def to_json(self) -> dict[str, Any]:
        """As the event ``boot_trace`` has it."""
        return {
            **trace_to_json(self.trace, self.verdict),
            "json_file": str(self.json_path),
            "picture": str(self.picture_path),
        }

    def show(self) -> str:
        """For people."""
        return (
            f"{show_trace(self.trace, self.verdict)}\n"
            f"timeline    {self.picture_path}\ntrace       {self.json_path}"
        )


def report_trace(server: NbdServer, disk_map: DiskMap, result: BootResult) -> TraceReport:
    """Name what ``server`` gave to the machine of ``result``, and keep it in that one's folder."""
    trace = build_trace(server.log, disk_map)
    verdict = judge(
        trace,
        disk_map,
        server.content.read,
        is_uefi=result.firmware is not Firmware.BIOS,
        architecture=result.architecture.program_kind,
        is_refused=result.is_refused,
    )
    json_path = result.directory / JSON_NAME
    picture_path = result.directory / PICTURE_NAME
    json_path.write_text(json.dumps(trace_to_json(trace, verdict), indent=1) + "\n")
    picture_path.write_text(draw_timeline(trace, verdict), encoding="utf-8")
    return TraceReport(trace, verdict, json_path, picture_path)
