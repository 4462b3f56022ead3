"""HTTP/1.1 as a load generator needs it: requests ready to be written again and again, and where an answer ends."""

import time
from urllib.parse import urlsplit

STREAM_END = b"0\r\n\r\n"
LAST_EVENT = b"data: [DONE]"


def request_bytes(url: str, path: str, headers: dict[str, str], body: str) -> bytes:
    """One POST of JSON."""
    raw = body.encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {urlsplit(url).netloc}", "content-type: application/json"]
    lines += [f"content-length: {len(raw)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


class AnswerReader:
    """One answer as it arrives. `first_byte_at`: when the first byte of its body was here, by `time.perf_counter`."""

    __slots__ = ("_body_at", "_buffer", "_chunked", "_expected", "first_byte_at", "status")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.reset()

    def reset(self) -> None:
        """The next answer begins."""
        self._buffer.clear()
        self._body_at = 0
        self._expected = 0
        self._chunked = False
        self.status = 0
        self.first_byte_at: float | None = None

    def feed(self, data: bytes) -> bool:
        """Take what arrived; True when the answer is whole."""
        self._buffer += data
        if not self._body_at and not self._read_head():
            return False
        if self.first_byte_at is None and len(self._buffer) > self._body_at:
            self.first_byte_at = time.perf_counter()
        if self._chunked:
            # A head may end like a stream does: by its last header.
            return self.received >= len(STREAM_END) and self._buffer.endswith(STREAM_END)
        return len(self._buffer) >= self._expected

    @property
    def received(self) -> int:
        """Bytes of the body so far, framing included."""
        return max(len(self._buffer) - self._body_at, 0)

    @property
    def good(self) -> bool:
        """Status 200, and if it is a stream of events, it ends as one that did not fail."""
        if self.status != 200:
            return False
        return b"text/event-stream" not in self._buffer[: self._body_at] or LAST_EVENT in self._buffer[-200:]

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        self.status = int(head[9:12])
        self._body_at = end + 4
        self._chunked = b"transfer-encoding: chunked" in head
        if not self._chunked:
            at = head.index(b"content-length: ") + 16
            stop = head.find(b"\r\n", at)
            self._expected = self._body_at + int(head[at : stop if stop >= 0 else len(head)])
        return True
