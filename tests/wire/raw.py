"""Servers of exact bytes on loopback, in the test's own loop: what a peer may do that no HTTP library would."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import pathlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)\r\n")


class Peer:
    """One accepted connection. `gone` is set once the client has hung up."""

    def __init__(self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.requests = 0

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        request = head + (await self.reader.readexactly(int(length[1])) if length else b"")
        self.server.requests.append(request)
        self.requests += 1
        return request

    async def send(self, *packets: bytes) -> None:
        """Send these as one packet each."""
        for packet in packets:
            self.writer.write(packet)
            await self.writer.drain()
            await asyncio.sleep(0.002)

    async def hung_up_on(self) -> None:
        """Until the client hangs up."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.gone.set()

    def reset(self) -> None:
        """End with a reset instead of in order."""
        used = self.writer.get_extra_info("socket")
        used.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Serve = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Where it listens, and what came: `peers` are all connections that were accepted."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.peers: list[Peer] = []
        self.requests: list[bytes] = []
        self.port = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{'localhost' if self.scheme == 'https' else '127.0.0.1'}:{self.port}/"

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(peer)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def raw_server(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """A running server on a free port of 127.0.0.1, with `serve` for each connection; it hangs up when that returns."""
    server = RawServer(serve)
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # Streams complain of a server's task that is cancelled.
        with contextlib.suppress(asyncio.CancelledError):
            await server.accepted(reader, writer)

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        # What is just being accepted would be left open.
        await asyncio.sleep(0.002)
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*answers: bytes) -> Serve:
    """One answer per request of a connection, the last one for good, until the client hangs up."""

    async def serve(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.send(answer)
        while True:
            await peer.request()
            await peer.send(answers[-1])

    return serve


def saying(*packets: bytes) -> Serve:
    """These packets for the first request, then the end of the connection."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(*packets)

    return serve


async def silent(peer: Peer) -> None:
    """Takes requests, and says nothing."""
    await peer.request()
    await peer.hung_up_on()


def certificate(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """A file with a key and its own certificate for these host names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    called = [x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName(called), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{names[0]}.pem"
    path.write_bytes(plain + signed.public_bytes(serialization.Encoding.PEM))
    return path


def server_context(path: pathlib.Path) -> ssl.SSLContext:
    """What a server with that certificate needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context
