# SPDX-License-Identifier: GPL-3.0-or-later
"""A small read-only NBD server: bytes that lie nowhere yet, as a disk for QEMU, and what it read.

QEMU gets one end of a socket pair as a descriptor: there is no port or path that somebody else
could find, and nothing to clean up. Each connection has a thread; it ends when QEMU does.

Reference: the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md): "fixed newstyle" negotiation,
NBD_OPT_GO and NBD_OPT_EXPORT_NAME, simple replies. Writes are answered with EPERM: a machine's
writes go to QEMU's own overlay and never come here.

nbdkit was rejected: its Python plugin is a process of its own, to which the plan and its sources
would have to be handed over, and from which every read would have to be fetched again; the
protocol's part that QEMU needs is smaller than that.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol, Self

from mediamaker.errors import MediaError, TargetIOError
from mediamaker.units import MIB

_INIT_MAGIC, _OPTION_MAGIC = b"NBDMAGIC", 0x49484156454F5054
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO = 7
_REP_ACK, _REP_SERVER, _REP_INFO = 1, 2, 3
_REP_ERR_UNSUPPORTED, _REP_ERR_INVALID, _REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_FLAGS = 0x0001 | 0x0002 | 0x0100
"""Has flags; read-only; several connections see the same."""

_EPERM, _EIO, _EINVAL = 1, 5, 22

_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE_REPLY = struct.Struct(">IIQ")
_OPTION_SIZE_MAX = 64 * 1024
_REQUEST_SIZE_MAX = 32 * MIB
_READ_COUNT_MAX = 4_000_000


class DiskContent(Protocol):
    """The bytes of a disk."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on; inside the disk.

        Raises:
            MediaError: they can't be read.
        """


@dataclass(frozen=True, slots=True)
class BlockRead:
    """One request; ``seconds`` count from the first connection on."""

    seconds: float
    start: int
    size: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size


class ReadLog:
    """Every read, in the order of arrival; 20 bytes each, and no more than some millions."""

    def __init__(self, reads: tuple[BlockRead, ...] = ()) -> None:
        self._seconds = array("d")
        self._starts = array("Q")
        self._sizes = array("I")
        self.lost_count = 0
        self._began_at: float | None = None
        for read in reads:
            self._append(read.seconds, read.start, read.size)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[BlockRead]:
        # A thread may be appending; the sizes come last.
        for index in range(len(self._sizes)):
            yield BlockRead(self._seconds[index], self._starts[index], self._sizes[index])

    def begin(self) -> None:
        """The time is 0 now, unless it has begun."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    def add(self, start: int, size: int) -> None:
        """A read that arrives now."""
        self.begin()
        assert self._began_at is not None
        self._append(time.monotonic() - self._began_at, start, size)

    def _append(self, seconds: float, start: int, size: int) -> None:
        if len(self._sizes) >= _READ_COUNT_MAX:
            self.lost_count += 1
            return
        self._seconds.append(seconds)
        self._starts.append(start)
        self._sizes.append(size)


class NbdServer:
    """Serves ``content`` to whoever holds a socket of :meth:`connect`; a context manager.

    ``log`` has every read; ``error`` is the first one that a guest saw as a failing disk.
    """

    def __init__(self, content: DiskContent) -> None:
        self.content = content
        self.log = ReadLog()
        self.error: MediaError | None = None
        self._lock = threading.Lock()
        self._connections: list[tuple[socket.socket, threading.Thread]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the disk that is served."""
        return self.content.size

    def connect(self) -> socket.socket:
        """The client's end of a new connection; the caller closes it."""
        ours, theirs = socket.socketpair()
        self.serve(ours)
        return theirs

    def serve(self, connection: socket.socket) -> None:
        """Talk to the client at the other end of ``connection``, which is ours from now on."""
        thread = threading.Thread(target=self._talk, args=(connection,), name="nbd", daemon=True)
        self._connections.append((connection, thread))
        thread.start()

    def close(self) -> None:
        """End every connection."""
        for connection, thread in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
            connection.close()
        self._connections.clear()

    def _talk(self, connection: socket.socket) -> None:
        # The other side went away, which is how a machine ends, or speaks something else.
        with contextlib.suppress(EOFError, OSError):
            _Connection(self, connection).run()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def read(self, offset: int, size: int) -> bytes | None:
        """The bytes for a request, which is logged; None when they can't be read."""
        self.log.add(offset, size)
        try:
            return self.content.read(offset, size)
        except MediaError as error:
            self._keep(error)
        except OSError as error:
            self._keep(TargetIOError(f"reading the disk failed: {error.strerror}"))
        return None

    def _keep(self, error: MediaError) -> None:
        with self._lock:
            self.error = self.error or error


class _Connection:
    """One client, from the greeting to the end."""

    def __init__(self, server: NbdServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection

    def run(self) -> None:
        greeting = struct.pack(">8sQH", _INIT_MAGIC, _OPTION_MAGIC, _FIXED_NEWSTYLE | _NO_ZEROES)
        self._connection.sendall(greeting)
        (client_flags,) = struct.unpack(">I", self._receive(4))
        if self._negotiate(has_zeroes=not client_flags & _NO_ZEROES):
            self._server.log.begin()
            while self._answer_request():
                pass

    def _negotiate(self, *, has_zeroes: bool) -> bool:
        """Whether the client goes on to requests."""
        while True:
            magic, option, size = _OPTION.unpack(self._receive(_OPTION.size))
            if magic != _OPTION_MAGIC or size > _OPTION_SIZE_MAX:
                _give_up()
            data = self._receive(size)
            match option:
                case 1:  # NBD_OPT_EXPORT_NAME
                    reply = struct.pack(">QH", self._server.content.size, _FLAGS)
                    self._connection.sendall(reply + bytes(124 * has_zeroes))
                    return True
                case 2:  # NBD_OPT_ABORT
                    self._reply(option, _REP_ACK)
                    return False
                case 3:  # NBD_OPT_LIST
                    self._reply(option, _REP_SERVER, struct.pack(">I", 0))
                    self._reply(option, _REP_ACK)
                case 6 | 7:  # NBD_OPT_INFO, NBD_OPT_GO
                    if self._tell_export(option, data) and option == _OPT_GO:
                        return True
                case _:
                    self._reply(option, _REP_ERR_UNSUPPORTED)

    def _tell_export(self, option: int, data: bytes) -> bool:
        name_size = int.from_bytes(data[:4], "big")
        if len(data) < 6 or len(data) < 6 + name_size:
            self._reply(option, _REP_ERR_INVALID)
            return False
        if name_size:
            self._reply(option, _REP_ERR_UNKNOWN)
            return False
        size = self._server.content.size
        self._reply(option, _REP_INFO, struct.pack(">HQH", _INFO_EXPORT, size, _FLAGS))
        sizes = struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, 4096, _REQUEST_SIZE_MAX)
        self._reply(option, _REP_INFO, sizes)
        self._reply(option, _REP_ACK)
        return True

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._connection.sendall(_OPTION_REPLY.pack(_REPLY_MAGIC, option, kind, len(data)) + data)

    def _answer_request(self) -> bool:
        """Whether there may be another."""
        request = self._receive(_REQUEST.size)
        magic, _, command, cookie, offset, size = _REQUEST.unpack(request)
        if magic != _REQUEST_MAGIC:
            _give_up()
        error, data = 0, b""
        match command:
            case 0:  # NBD_CMD_READ
                if size > _REQUEST_SIZE_MAX or offset + size > self._server.content.size:
                    error = _EINVAL
                else:
                    found = self._server.read(offset, size)
                    error, data = (_EIO, b"") if found is None else (0, found)
            case 1:  # NBD_CMD_WRITE
                if size > _REQUEST_SIZE_MAX:
                    _give_up()
                self._receive(size)
                error = _EPERM
            case 2:  # NBD_CMD_DISC
                return False
            case 3:  # NBD_CMD_FLUSH
                pass
            case _:
                error = _EINVAL
        self._connection.sendall(_SIMPLE_REPLY.pack(_SIMPLE_REPLY_MAGIC, error, cookie) + data)
        return True

    def _receive(self, size: int) -> bytes:
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            count = self._connection.recv_into(view[done:])
            if not count:
                raise EOFError
            done += count
        return bytes(buffer)


def _give_up() -> NoReturn:
    """The other side does not speak the protocol: nothing that it says next can be trusted."""
    raise EOFError
