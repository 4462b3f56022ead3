"""Answers, byte by byte: what is taken, what is refused, and how a body is read."""

import asyncio
import contextlib
import gzip
import itertools
import socket
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers import http1
from routing.providers.http1 import BadAnswer, Connection, Disconnected, HttpAnswer
from routing.providers.session import ProviderSession
from tests.wire.raw import Peer, RawServer, answering, raw_server, saying

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TEXT = b"The quick brown fox jumps over the lazy dog. " * 40
MOST = 1024 * 1024


def sized(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([OK + b"Content-Length: %d" % len(body), *headers, b"", body])


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


# Name, bytes, status, body. Those of the second table end with the connection.
WHOLE = [
    ("length", sized(b"hello"), 200, b"hello"),
    ("empty", sized(b""), 200, b""),
    ("chunks", CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, b"hello world"),
    ("extensions_and_trailers", CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;x\r\nX-Sum: 1\r\nStatus: 9\r\n\r\n', 200, b"hello"),
    ("upper_case_chunks", CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", 200, b"0123456789"),
    ("padded_chunk_sizes", CHUNKED + b"5  \r\nhello\r\n0\r\n\r\n", 200, b"hello"),
    ("no_content", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    ("not_modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    ("continue_first", b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello"), 200, b"hello"),
    ("two_hints_first", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + sized(b"hello"), 200, b"hello"),
    ("line_feeds_alone", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 200, b"hello"),
    ("empty_line_first", b"\r\n" + sized(b"hello"), 200, b"hello"),
    ("no_reason", b"HTTP/1.1 429\r\nContent-Length: 5\r\n\r\nhello", 429, b"hello"),
    ("odd_status", b"HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello", 999, b"hello"),
    ("old_version", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    ("identity", sized(b"hello", b"Content-Encoding: identity"), 200, b"hello"),
    ("gzip", sized(gzip.compress(TEXT), b"Content-Encoding: gzip"), 200, TEXT),
    ("gzip_members", sized(gzip.compress(TEXT) + gzip.compress(b"!"), b"Content-Encoding: X-GZip"), 200, TEXT + b"!"),
    ("gzip_of_nothing", sized(b"", b"Content-Encoding: gzip"), 200, b""),
    ("deflate", sized(zlib.compress(TEXT), b"Content-Encoding: deflate"), 200, TEXT),
    ("deflate_without_header", sized(bare_deflate(TEXT), b"Content-Encoding: deflate"), 200, TEXT),
]
TO_THE_END = [
    ("no_length", OK + b"\r\nhello", 200, b"hello"),
    ("no_length_old", b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello"),
    ("no_length_no_body", OK + b"\r\n", 200, b""),
    ("no_length_gzip", OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(TEXT), 200, TEXT),
]
ANSWERS = [pytest.param(raw, status, body, id=name) for name, raw, status, body in [*WHOLE, *TO_THE_END]]


async def ask(session: ProviderSession, server: RawServer, **changes: Any) -> HttpAnswer:
    return await session.send("POST", server.url, headers={}, **{"connect_seconds": 2, "silence_seconds": 5, **changes})


async def settle() -> None:
    """Long enough for sockets that were closed to be gone."""
    for _ in range(5):
        await asyncio.sleep(0.002)


# -- what is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "status", "body"), ANSWERS)
async def test_an_answer_in_one_packet(session: ProviderSession, raw: bytes, status: int, body: bytes) -> None:
    async with raw_server(saying(raw)) as server:
        answer = await ask(session, server)
        received = await answer.read(MOST)

    assert (answer.status, received, answer.closed) == (status, body, True)


@pytest.mark.parametrize(("raw", "status", "body"), ANSWERS)
async def test_an_answer_as_it_comes(session: ProviderSession, raw: bytes, status: int, body: bytes) -> None:
    async with raw_server(saying(raw[: len(raw) // 2], raw[len(raw) // 2 :])) as server:
        answer = await ask(session, server)
        received = b"".join([piece async for piece in pieces(answer)])

    assert (answer.status, received, answer.closed) == (status, body, True)


async def pieces(answer: HttpAnswer) -> Any:
    while piece := await answer.readany():
        yield piece


class Wire(asyncio.Transport):
    """A connection to nobody."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Fed:
    """An answer made of packets, without sockets."""

    def __init__(self, packets: list[bytes], *, ended: bool) -> None:
        self.freed = 0
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            connection = Connection(loop, on_free=self._free, on_lost=lambda _: None)
            connection.connection_made(Wire())
            self.answer = connection.send(b"", b"", None)
            for packet in packets:
                connection.data_received(packet)
            if ended:
                connection.eof_received()
            self.body = loop.run_until_complete(self.answer.read(MOST))

    def _free(self, connection: Connection) -> None:
        self.freed += 1


def split(raw: bytes, cuts: list[float]) -> list[bytes]:
    places = [0, *sorted(int(cut * len(raw)) for cut in cuts), len(raw)]
    return [raw[start:stop] for start, stop in itertools.pairwise(places) if start < stop]


@given(st.sampled_from(WHOLE), st.lists(st.floats(0, 1), max_size=40))
def test_any_split_into_packets_is_the_same_answer(case: tuple[str, bytes, int, bytes], cuts: list[float]) -> None:
    _, raw, status, body = case

    whole, parts = Fed([raw], ended=False), Fed(split(raw, cuts), ended=False)

    assert (parts.answer.status, parts.body, parts.answer.headers) == (status, body, whole.answer.headers)
    assert parts.freed == whole.freed


@given(st.sampled_from(TO_THE_END), st.lists(st.floats(0, 1), max_size=40))
def test_any_split_of_a_body_without_a_length(case: tuple[str, bytes, int, bytes], cuts: list[float]) -> None:
    _, raw, status, body = case

    fed = Fed(split(raw, cuts), ended=True)

    assert (fed.answer.status, fed.body, fed.freed) == (status, body, 0)


@pytest.mark.parametrize(("raw", "status", "body"), [answer for answer in ANSWERS if "no_length" not in str(answer.id)])
def test_one_byte_per_packet(raw: bytes, status: int, body: bytes) -> None:
    fed = Fed([raw[at : at + 1] for at in range(len(raw))], ended=False)

    assert (fed.answer.status, fed.body) == (status, body)


async def test_headers(session: ProviderSession) -> None:
    raw = sized(b"{}", b"X-Twice: one", b"x-TWICE: two", b"X-Bytes: \xe9", b"Content-Type: Application/JSON ; charset=utf-8")
    async with raw_server(saying(raw)) as server:
        answer = await ask(session, server)

    assert answer.headers["x-twice"] == "one"
    assert answer.headers["x-bytes"] == "é"
    assert answer.content_type == "application/json"


async def test_headers_of_hints_and_trailers_are_not_the_answers(session: ProviderSession) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n" + CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"
    async with raw_server(saying(raw)) as server:
        answer = await ask(session, server)
        await answer.read(MOST)

    assert answer.headers == {"transfer-encoding": "chunked"}
    assert answer.content_type == "application/octet-stream"


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another_protocol"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="another_version"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="status_of_two_digits"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="status_of_four_digits"),
        pytest.param(b"HTTP/1.1 099 Odd\r\n\r\n" + sized(b"hello"), id="status_below_100"),
        pytest.param(b"HTTP/1.1 000 Odd\r\n\r\n" + sized(b"hello"), id="status_of_zeros"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", id="switching"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n" + sized(b"hello"), id="switching_to_nothing"),
        pytest.param(sized(b"hello", b"Content-Length: 5"), id="two_lengths"),
        pytest.param(sized(b"hello", b"Content-Length: 50"), id="two_different_lengths"),
        pytest.param(OK + b"Content-Length: 5, 5\r\n\r\nhello", id="list_of_lengths"),
        pytest.param(OK + b"Content-Length: -5\r\n\r\nhello", id="negative_length"),
        pytest.param(OK + b"Content-Length: 99999999999999999999\r\n\r\nhello", id="length_beyond_64_bits"),
        pytest.param(OK + b"Content-Length : 5\r\n\r\nhello", id="space_before_colon"),
        pytest.param(sized(b"hello", b"X-Folded: a", b"  b"), id="folded_header"),
        pytest.param(sized(b"hello", b"X-Nul: a\0b"), id="nul_in_a_header"),
        pytest.param(sized(b"hello", b"no colon"), id="header_without_colon"),
        pytest.param(sized(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"), id="length_and_chunks"),
        pytest.param(OK + b"Transfer-Encoding: gzip\r\n\r\nhello", id="compressed_transfer"),
        pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", id="compressed_chunks"),
        pytest.param(CHUNKED + b"x\r\nhello\r\n0\r\n\r\n", id="chunk_size_of_letters"),
        pytest.param(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", id="negative_chunk_size"),
        pytest.param(CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", id="chunk_size_beyond_64_bits"),
        pytest.param(CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", id="chunk_longer_than_its_size"),
        pytest.param(sized(b"hello", b"Content-Encoding: br"), id="coding_nobody_asked_for"),
        pytest.param(sized(b"hello", b"Content-Encoding: gzip, gzip"), id="two_codings"),
        pytest.param(sized(b"hello", b"Content-Encoding: gzip"), id="no_gzip"),
        pytest.param(sized(gzip.compress(TEXT) + b"hello", b"Content-Encoding: gzip"), id="something_after_gzip"),
        pytest.param(sized(gzip.compress(TEXT)[:-9], b"Content-Encoding: gzip"), id="gzip_without_its_end"),
        pytest.param(sized(gzip.compress(b"") * 1025, b"Content-Encoding: gzip"), id="too_many_gzip_members"),
        pytest.param(sized(zlib.compress(b"a") * 2, b"Content-Encoding: deflate"), id="two_deflated_parts"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(TEXT)[:-9], id="gzip_without_its_end_nor_length"),
    ],
)
async def test_no_answer_we_understand(session: ProviderSession, raw: bytes) -> None:
    async with raw_server(saying(raw)) as server:
        with pytest.raises(BadAnswer):
            await (await ask(session, server)).read(MOST)
        await settle()

    assert session.connections == 0


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(OK + b"Content-Le", id="half_a_head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="continue_alone"),
        pytest.param(OK + b"Content-Length: 6\r\n\r\nhello", id="short_of_its_length"),
        pytest.param(CHUNKED + b"6\r\nhello", id="half_a_chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="without_the_last_chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n0\r\n", id="without_the_last_line"),
    ],
)
async def test_the_connection_ends_before_the_answer(session: ProviderSession, raw: bytes) -> None:
    async with raw_server(saying(raw)) as server:
        with pytest.raises(Disconnected):
            await (await ask(session, server)).read(MOST)
        await settle()

    assert session.connections == 0


async def test_what_came_before_the_connection_ended_can_be_read(session: ProviderSession) -> None:
    async with raw_server(saying(CHUNKED + b"5\r\nhello\r\n")) as server:
        answer = await ask(session, server)
        await settle()
        received = await answer.readany()
        with pytest.raises(Disconnected):
            await answer.readany()
        with pytest.raises(Disconnected):
            await answer.readany()

    assert received == b"hello"


async def test_a_body_without_a_length_does_not_end_with_a_reset(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhello")
        peer.reset()

    async with raw_server(serve) as server:
        answer = await ask(session, server)
        with pytest.raises(Disconnected):
            await answer.read(MOST)


ENDLESS = 40 * (b"x" * 4096,)


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param((OK + b"X-Long: ", *ENDLESS), id="a_header"),
        pytest.param((OK, *(40 * (b"X-A: " + b"x" * 4096 + b"\r\n",))), id="headers"),
        pytest.param((b"HTTP/1.1 200 ", *ENDLESS), id="a_reason"),
        pytest.param(40 * (b"HTTP/1.1 103 Hints\r\nX-A: " + b"x" * 4096 + b"\r\n\r\n",), id="hints"),
        pytest.param((CHUNKED + b"5;a=", *ENDLESS), id="an_extension"),
        pytest.param((CHUNKED + b"5\r\nhello\r\n0\r\nX-A: ", *ENDLESS), id="a_trailer"),
        pytest.param((CHUNKED + b"5\r\nhello\r\n0\r\n", *(40 * (b"X-A: " + b"x" * 4096 + b"\r\n",))), id="trailers"),
    ],
)
async def test_what_is_not_body_is_bounded(session: ProviderSession, packets: tuple[bytes, ...]) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(*packets)
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        with pytest.raises(BadAnswer):
            await (await ask(session, server)).read(MOST)


async def test_many_small_chunks_are_not_too_much(session: ProviderSession) -> None:
    chunks = 40 * (b"1;" + b"e" * 4096 + b"\r\na\r\n",)
    async with raw_server(saying(CHUNKED, *chunks, b"0\r\n\r\n")) as server:
        body = await (await ask(session, server)).read(MOST)

    assert body == b"a" * 40


async def test_a_small_body_does_not_become_a_large_one(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_MOST_INFLATED_BYTES", 100_000)
    async with raw_server(saying(sized(gzip.compress(b"\0" * 100_001), b"Content-Encoding: gzip"))) as server:
        with pytest.raises(BadAnswer, match="inflates too far"):
            await (await ask(session, server)).read(MOST)


async def test_nor_do_many_small_parts(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_MOST_INFLATED_BYTES", 100_000)
    async with raw_server(saying(sized(gzip.compress(b"\0" * 60_000) * 2, b"Content-Encoding: gzip"))) as server:
        with pytest.raises(BadAnswer, match="inflates too far"):
            await (await ask(session, server)).read(MOST)


# -- what comes unasked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "surplus",
    [
        pytest.param(sized(b"second"), id="an_answer"),
        pytest.param(b"H", id="its_first_letter"),
        pytest.param(b"garbage", id="garbage"),
    ],
)
async def test_more_than_one_answer_in_a_packet(session: ProviderSession, surplus: bytes) -> None:
    async with raw_server(answering(sized(b"first") + surplus)) as server:
        one = await (await ask(session, server)).read(MOST)
        two = await (await ask(session, server)).read(MOST)

    assert (one, two) == (b"first", b"first")
    assert len(server.peers) == 2


async def test_bytes_on_an_idle_connection_are_not_the_next_answer(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(sized(b"first"), b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        one = await (await ask(session, server)).read(MOST)
        await settle()
        left = session.connections
        two = await ask(session, server)

    assert (one, left, two.status) == (b"first", 0, 200)
    assert len(server.peers) == 2


async def test_an_answer_that_does_not_wait_for_the_request(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await asyncio.sleep(0.05)
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        answer = await ask(session, server, content=b"x" * 32 * 1024 * 1024)
        body = await answer.read(MOST)
        await settle()

    assert (answer.status, body) == (413, b"large")
    # The rest of that request would be the beginning of the next.
    assert (session.connections, session.idle) == (0, 0)


async def test_a_server_that_hangs_up_and_takes_no_more_of_the_request(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await asyncio.sleep(1)

    async with raw_server(serve) as server:
        with pytest.raises(Disconnected):
            await ask(session, server, content=b"x" * 32 * 1024 * 1024)
        await settle()

        assert session.connections == 0


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (sized(b"a"), 1),
        (sized(b"a", b"Connection: close"), 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 1),
    ],
    ids=["kept", "closed", "old", "old_and_kept", "no_content"],
)
async def test_whether_a_connection_is_kept(session: ProviderSession, raw: bytes, kept: int) -> None:
    async with raw_server(answering(raw)) as server:
        await (await ask(session, server)).read(MOST)
        await settle()

        assert (session.connections, session.idle) == (kept, kept)


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_a_body_longer_than_wanted(session: ProviderSession) -> None:
    async with raw_server(saying(OK + b"Content-Length: 3000000\r\n\r\n", b"x" * 3_000_000)) as server:
        answer = await ask(session, server)
        body = await answer.read(100_000)
        await settle()

    assert len(body) > 100_000
    assert answer.closed
    assert session.connections == 0


async def test_a_body_of_just_what_is_wanted(session: ProviderSession) -> None:
    async with raw_server(answering(sized(b"x" * 100_000))) as server:
        body = await (await ask(session, server)).read(100_000)

        assert len(body) == 100_000
        assert session.idle == 1


async def test_a_read_given_up_can_be_repeated(session: ProviderSession) -> None:
    more = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Content-Length: 5\r\n\r\n")
        await more.wait()
        await peer.send(b"hello")

    async with raw_server(serve) as server:
        answer = await ask(session, server)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer.readany(), 0.02)
        more.set()

        assert await answer.readany() == b"hello"
        assert await answer.readany() == b""


async def test_a_slow_reader_holds_the_provider_up(session: ProviderSession) -> None:
    total = 48 * 1024 * 1024
    left: list[int] = []

    async def serve(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(OK + b"Content-Length: %d\r\n\r\n" % total + b"x" * total)
        await asyncio.sleep(0.3)
        left.append(peer.writer.transport.get_write_buffer_size())
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        answer = await ask(session, server, silence_seconds=0.1)
        await asyncio.sleep(0.4)
        first = await answer.readany()
        size = len(first) + sum([len(piece) async for piece in pieces(answer)])

    # What neither side's system takes stays with the provider, and no time limit of ours runs meanwhile.
    assert left[0] > total // 2
    assert len(first) <= 2 * http1.MOST_UNREAD_BYTES
    assert size == total
    assert session.idle == 1


async def test_closing_wakes_the_reader(session: ProviderSession) -> None:
    async with raw_server(saying_and_waiting(OK + b"Content-Length: 5\r\n\r\n")) as server:
        answer = await ask(session, server)
        reading = asyncio.create_task(answer.readany())
        await settle()
        answer.close()
        answer.close()
        with pytest.raises(Disconnected):
            await reading
        await settle()

        assert session.connections == 0


async def test_a_closed_body_without_a_length_is_not_whole(session: ProviderSession) -> None:
    async with raw_server(saying_and_waiting(OK + b"\r\nhello")) as server:
        answer = await ask(session, server)
        answer.close()
        await settle()
        with pytest.raises(Disconnected):
            await answer.read(MOST)


def saying_and_waiting(raw: bytes) -> Callable[[Peer], Any]:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.hung_up_on()

    return serve


async def test_packets_leave_at_once(session: ProviderSession) -> None:
    async with raw_server(answering(sized(b"a"))) as server:
        await (await ask(session, server)).read(MOST)
        connection = next(iter(session._place_of))
        used = connection.transport.get_extra_info("socket")

        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
