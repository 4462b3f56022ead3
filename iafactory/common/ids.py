"""Identifiers that sort by creation time."""

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A version 7 UUID (RFC 9562, section 5.7), strictly increasing within a process.

    48 bits of epoch milliseconds, then 12 bits of sub-millisecond time as rand_a (method 3), then 62 random bits.
    """
    global _last
    stamp = time.time_ns() * 4096 // 1_000_000
    with _lock:
        stamp = max(stamp, _last + 1)
        _last = stamp
    random_bits = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=(stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | random_bits)


def uuid_or_none(text: str) -> UUID | None:
    """The id that `text` spells, None for other text."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None
