"""How long a recording is that a client sent: read from the file, and never shorter than its size allows."""

from __future__ import annotations

import io
import logging
from decimal import Decimal

from tinytag import TinyTag

logger = logging.getLogger(__name__)

# What transcription takes, and the most bits a second that such a file can reasonably have: a header that claims a shorter
# recording is not believed. Video may carry the sound.
HIGHEST_BITRATES = {
    "flac": 10_000_000,
    "m4a": 2_000_000,
    "mp3": 320_000,
    "mp4": 50_000_000,
    "mpeg": 50_000_000,
    "mpga": 320_000,
    "oga": 600_000,
    "ogg": 600_000,
    "opus": 600_000,
    "wav": 10_000_000,
    "webm": 50_000_000,
}
# Of a file whose length cannot be read: speech is seldom squeezed into less.
_LOWEST_BITRATE = 8_000
# An honest file takes some for each of its pages or frames looked at.
_MOST_READS = 50_000
CONTENT_TYPES = {
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp3": "audio/mpeg",
    "mp4": "audio/mp4",
    "mpeg": "audio/mpeg",
    "mpga": "audio/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
    "webm": "audio/webm",
}


def recording_seconds(content: bytes, suffix: str) -> Decimal:
    """Seconds of a recording, to the millisecond; for one that cannot be read, the most that its size allows.

    `suffix` is one of `HIGHEST_BITRATES`; the format itself is recognised by its content.
    """
    bits = len(content) * 8
    shortest = Decimal(bits) / HIGHEST_BITRATES[suffix]
    read = _read_seconds(content)
    seconds = Decimal(bits) / _LOWEST_BITRATE if read is None else max(read, shortest)
    return max(seconds, Decimal("0.001")).quantize(Decimal("0.001"))


class _PatientFile(io.BytesIO):
    """A file that ends the reading of one that was made to be read for ever."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise OSError("too many reads")
        return super().read(size)


def _read_seconds(content: bytes) -> Decimal | None:
    try:
        duration = TinyTag.get(file_obj=_PatientFile(content), tags=False).duration
    except Exception as error:
        # Files come from anywhere: whatever a broken one does to the reader, it has no length.
        logger.debug("a recording could not be read: %r", error)
        return None
    if not isinstance(duration, int | float) or not 0 < duration < 10**6:
        return None
    return Decimal(str(round(duration, 3)))
