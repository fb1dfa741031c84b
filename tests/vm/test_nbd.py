# SPDX-License-Identifier: GPL-3.0-or-later
"""The NBD server, judged by libnbd's and QEMU's clients; and plans read through it."""

import json
import os
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from mediamaker.errors import SourceChangedError, SourceError, TargetIOError
from mediamaker.extents import ExtentMap, ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.model import Plan
from mediamaker.plan.request import Layout
from mediamaker.sources.identity import identify
from mediamaker.units import MIB
from mediamaker.vm.nbd import NbdServer
from mediamaker.vm.virtual_disk import open_file_disk, open_plan_disk


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(3 * MIB + 1024))
    return path


@contextmanager
def listening(server):
    """A Unix socket for clients that can only connect to one; /tmp keeps its name short."""
    name = f"/tmp/nbd-{os.getpid()}-{id(server):x}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                server.serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield name
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            Path(name).unlink()


def run(*command, **options):
    return subprocess.run(
        command, check=True, capture_output=True, timeout=60, text=True, **options
    ).stdout


def test_libnbd_and_qemu_read_the_same_bytes(image, tmp_path):
    with open_file_disk(image) as disk, NbdServer(disk) as server, listening(server) as name:
        run("nbdcopy", f"nbd+unix:///?socket={name}", tmp_path / "copied")
        said = json.loads(run("nbdinfo", "--json", f"nbd+unix:///?socket={name}"))
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={name}",
            tmp_path / "converted")  # fmt: skip
        with pytest.raises(subprocess.CalledProcessError, match="qemu-io"):
            run("qemu-io", "-f", "raw", "-c", "write 0 512", f"nbd+unix:///?socket={name}")
    assert (tmp_path / "copied").read_bytes() == image.read_bytes()
    assert (tmp_path / "converted").read_bytes() == image.read_bytes()
    (export,) = said["exports"]
    assert export["export-size"] == image.stat().st_size
    assert export["is_read_only"] is True
    assert export["can_multi_conn"] is True
    assert server.error is None
    assert sum(read.size for read in server.log) >= 2 * image.stat().st_size


class Client:
    """As little of the protocol as it takes to misbehave."""

    def __init__(self, server):
        self.socket = server.connect()
        self.socket.settimeout(10)
        assert self.receive(8) == b"NBDMAGIC"
        assert self.receive(8) == b"IHAVEOPT"
        assert self.receive(2) == b"\0\3"
        self.socket.sendall(b"\0\0\0\3")

    def receive(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the server went away"
            data += part
        return data

    def choose(self):
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 0))
        return struct.unpack(">QH", self.receive(10))

    def request(self, command, offset, size, payload=b""):
        self.socket.sendall(
            struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, size) + payload
        )
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert (magic, cookie) == (0x67446698, 77)
        return error, b"" if error or command else self.receive(size)

    def is_ended(self):
        return self.socket.recv(1) == b""


@pytest.fixture
def client(image):
    with open_file_disk(image) as disk, NbdServer(disk) as server:
        client = Client(server)
        client.server = server
        with client.socket:
            yield client


def test_reads_and_nothing_else(client, image):
    size, flags = client.choose()
    assert size == image.stat().st_size
    assert flags & 3 == 3
    data = image.read_bytes()
    assert client.request(0, 1000, 77) == (0, data[1000:1077])
    assert client.request(0, size - 1, 1) == (0, data[-1:])
    assert client.request(0, size - 1, 2) == (22, b"")
    assert client.request(0, 2**64 - 1, 2) == (22, b"")
    assert client.request(0, 0, 33 * MIB) == (22, b"")
    assert client.request(1, 0, 4, b"evil") == (1, b"")
    assert client.request(4, 0, 512) == (22, b"")  # trim
    assert client.request(3, 0, 0) == (0, b"")  # flush
    assert image.read_bytes() == data
    assert [(read.start, read.size) for read in client.server.log] == [(1000, 77), (size - 1, 1)]
    seconds = [read.seconds for read in client.server.log]
    assert 0 <= seconds[0] <= seconds[1] < 60


@pytest.mark.parametrize(
    "noise",
    [
        b"X" * 16,
        b"IHAVEOPT" + struct.pack(">II", 7, 2**31),
        b"IHAVEOPT" + struct.pack(">II", 2, 0),
    ],
)
def test_who_speaks_something_else_is_left(client, noise):
    client.socket.sendall(noise)
    while part := client.socket.recv(4096):
        assert len(part) <= 20


def test_strange_requests_end_the_connection(client):
    client.choose()
    client.socket.sendall(b"G" * 28)
    assert client.is_ended()


@pytest.mark.parametrize(("name", "reply"), [(b"other", 0x80000006), (b"", 3)])
def test_there_is_one_export_and_it_has_no_name(client, name, reply):
    data = struct.pack(">I", len(name)) + name + b"\0\0"
    client.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
    assert struct.unpack(">QIII", client.receive(20))[2] == reply


def test_a_failing_medium_is_an_io_error_and_is_kept(image):
    with open_file_disk(image) as disk, NbdServer(disk) as server:
        image.write_bytes(b"short")
        client = Client(server)
        with client.socket:
            client.choose()
            assert client.request(0, MIB, 512) == (5, b"")
            assert client.request(0, 0, 5) == (0, b"short")
    assert isinstance(server.error, TargetIOError)
    assert "it ends at 0x100000" in server.error.message


@pytest.fixture
def plan(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 8)
    builder = ExtentMapBuilder()
    builder.add("head", 512, Literal(b"h" * 512))
    builder.add("\\file", 1024, FileRange("one", 256))
    builder.add("zeros", 512, Zeros())
    builder.add("free", 2048, Unwritten())
    return Plan(
        plan_id="0" * 64,
        geometry=Geometry(4096, 512),
        layout=Layout.RAW,
        extents=ExtentMap(tuple(builder.build())),
        commit=(),
        sources=(identify("one", source),),
        identities={},
        partitions=(),
        boots=(),
        notes=(),
        warnings=(),
    )


def test_the_disk_of_a_plan(plan):
    whole = b"h" * 512 + bytes(range(256)) * 4 + bytes(2560)
    with open_plan_disk(plan) as disk:
        assert disk.size == 4096
        assert disk.read(0, 4096) == whole
        for start, end in ((0, 1), (511, 513), (500, 1600), (1535, 1537), (4095, 4096)):
            assert disk.read(start, end - start) == whole[start:end]


def test_a_plan_whose_source_changed_is_not_served(plan, tmp_path):
    (tmp_path / "source").write_bytes(b"other")
    with pytest.raises(SourceChangedError), open_plan_disk(plan):
        pass
    (tmp_path / "source").unlink()
    with pytest.raises(SourceError), open_plan_disk(plan):
        pass
