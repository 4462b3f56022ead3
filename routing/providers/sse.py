"""Server-sent events, decoded incrementally from bytes.

Lines end at LF, CR or CRLF and nowhere else: U+2028, U+2029, U+0085, VT and FF are legal unescaped inside JSON strings,
which is why `str.splitlines` (and with it httpx's `iter_lines`) must never touch such a stream.
"""

from __future__ import annotations

from routing.providers.base import FailureClass, ProviderError

MAX_EVENT_BYTES = 16 * 1024 * 1024

SseEvent = tuple[bytes, str | None]
"""The data of an event (lines joined by LF) and its name, None when it has none."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseDecoder:
    """Turns received bytes into events, however the network cut them.

    `feed` returns the events completed by these bytes. Comments and fields other than `data` and `event` are dropped.
    Raises `ProviderError(internal)` when one event exceeds `max_event_bytes`.
    """

    __slots__ = ("_at_start", "_max_event_bytes", "_pending", "_pending_bytes", "_skip_line_feed")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        # Pieces are joined only once the event they belong to is complete, so that a large event costs linear time.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._skip_line_feed = False
        self._at_start = True

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take the next bytes; return the events they complete, oldest first."""
        if self._skip_line_feed and data:
            # The CR before the cut already ended the line: this LF is its second half.
            self._skip_line_feed = False
            if data[0] == 10:
                data = data[1:]
        if not data:
            return []
        if b"\r" in data:
            self._skip_line_feed = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        pending = self._pending
        if pending:
            if b"\n\n" not in data and not (data[0] == 10 and pending[-1].endswith(b"\n")):
                self._keep(data)
                return []
            pending.append(data)
            data = b"".join(pending)
            pending.clear()
            self._pending_bytes = 0
        if self._at_start:
            if len(data) < 3 and _BYTE_ORDER_MARK.startswith(data):
                self._keep(data)
                return []
            self._at_start = False
            data = data.removeprefix(_BYTE_ORDER_MARK)

        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            self._keep(rest)
        events: list[SseEvent] = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:
                events.append((block[6:], None))
            elif block:
                event = _parse_block(block)
                if event is not None:
                    events.append(event)
        return events

    def finish(self) -> list[SseEvent]:
        """The connection ended: return the last event if only its closing blank line is missing."""
        block = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        event = _parse_block(block) if block else None
        return [] if event is None else [event]

    def _keep(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        if self._pending_bytes > self._max_event_bytes:
            raise ProviderError(
                FailureClass.INTERNAL,
                "The provider sent an event that is too large.",
                code="event_too_large",
                may_have_billed=True,
            )
        self._pending.append(data)


def _parse_block(block: bytes) -> SseEvent | None:
    """One event's lines, LF framed; None if they carry no data."""
    data: list[bytes] = []
    name: str | None = None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace") or None
    return (b"\n".join(data), name) if data else None
