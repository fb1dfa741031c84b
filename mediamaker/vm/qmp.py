# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's control connection (QMP), asyncio inside and plain calls outside.

The connection is one end of a socket pair whose other end QEMU inherits: no path to choose, to
clean up or to be longer than the 107 bytes that a socket address holds, and no moment at which
QEMU runs but can't be reached. One thread at a time uses a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from mediamaker.errors import ToolError

_T = TypeVar("_T")
CALL_TIMEOUT = 30.0


class QmpClosedError(ToolError):
    """QEMU went away, or stopped answering."""


class QmpConnection:
    """A connected QMP client; ``close`` it whatever happened."""

    def __init__(self, connected: socket.socket, name: str, *, timeout: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient(name)
        # A guest that ends takes the connection with it; the library reports that as an error.
        self._client.logger.setLevel(logging.CRITICAL + 1)
        try:
            self._run(self._client.connect(connected), timeout)
        except BaseException:
            connected.close()
            self.close()
            raise

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run one QMP command and return its answer.

        Raises:
            QmpClosedError: QEMU is gone or does not answer.
            ToolError: QEMU refused the command; the message is QEMU's.
        """
        try:
            return self._run(self._client.execute(command, arguments), CALL_TIMEOUT)
        except ExecuteError as error:
            raise ToolError(f"QEMU refused {command}: {error}") from error

    def take_events(self) -> list[dict[str, Any]]:
        """The events since the last call, oldest first."""
        # What QEMU said meanwhile waits in the socket: let the reader run.
        self._loop.run_until_complete(asyncio.sleep(0.01))
        return [dict(message) for message in self._client.events.clear()]

    def close(self) -> None:
        """Leave nothing open; never raises."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(asyncio.wait_for(self._client.disconnect(), 5))
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._cancel_rest())
        self._loop.close()

    @staticmethod
    async def _cancel_rest() -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _run(self, call: Coroutine[Any, Any, _T], timeout: float) -> _T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(call, timeout))
        except TimeoutError as error:
            raise QmpClosedError(f"QEMU did not answer within {timeout:g} s") from error
        except ExecuteError:
            raise
        except (QMPError, EOFError, OSError) as error:
            raise QmpClosedError(f"the connection to QEMU was lost: {error}") from error
