import pytest

from routing.providers.base import FailureClass, ProviderError
from routing.providers.sse import SseDecoder
from tests.wire.replay import HERE


def decode(*pieces: bytes) -> list[tuple[bytes, str | None]]:
    decoder = SseDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("recording", ["openai_stream", "openai_stream_split", "openai_stream_u2028"])
def test_a_cut_at_any_byte_changes_nothing(recording: str, line_end: bytes):
    stream = (HERE / f"{recording}.sse").read_bytes().replace(b"\r\n", b"\n").replace(b"\n", line_end)
    expected = decode((HERE / f"{recording}.sse").read_bytes())

    different = [cut for cut in range(len(stream) + 1) if decode(stream[:cut], stream[cut:]) != expected]

    assert len(expected) > 4
    assert expected[-1] == (b"[DONE]", None)
    assert different == []
    assert decode(*[stream[position : position + 1] for position in range(len(stream))]) == expected


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(b"a", None)]),
        (b"data:a\n\n", [(b"a", None)]),
        (b"data:  a\n\n", [(b" a", None)]),
        (b"data: a\ndata: b\n\n", [(b"a\nb", None)]),
        (b"event: error\ndata: a\n\n", [(b"a", "error")]),
        (b"data: a\nevent: error\nid: 7\nretry: 10\n\n", [(b"a", "error")]),
        (b": comment\n\ndata: a\n\n", [(b"a", None)]),
        (b": comment\ndata: a\n: comment\n\n", [(b"a", None)]),
        (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [(b"a", None), (b"b", None)]),
        (b"event: ping\n\n", []),
        (b"data\n\n", [(b"", None)]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"a", None)]),
        (
            'data: {"t":"a\u2028b\u2029c\x85d\x0be\x0cf\x1c"}\n\n'.encode(),
            [('{"t":"a\u2028b\u2029c\x85d\x0be\x0cf\x1c"}'.encode(), None)],
        ),
        (b"data: unfinished\n", []),
    ],
)
def test_framing(stream: bytes, events: list[tuple[bytes, str | None]]):
    assert decode(stream) == events


def test_second_half_of_a_cut_crlf_is_not_a_line():
    assert decode(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [(b"a\nb", None)]


def test_finish_returns_the_event_without_its_blank_line():
    decoder = SseDecoder()

    completed = decoder.feed(b"data: a\n\ndata: [DONE]")

    assert completed == [(b"a", None)]
    assert decoder.finish() == [(b"[DONE]", None)]
    assert decoder.finish() == []


def test_an_event_beyond_the_limit_is_an_error():
    decoder = SseDecoder(max_event_bytes=100)
    decoder.feed(b"data: " + b"x" * 94)

    with pytest.raises(ProviderError) as caught:
        decoder.feed(b"x")

    assert caught.value.failure == FailureClass.INTERNAL
    assert caught.value.code == "event_too_large"
