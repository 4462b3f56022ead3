"""One signed POST to an endpoint: bounded in time and size, never redirected, and an outcome instead of an exception."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import aiohttp

from .destinations import AddressForbidden

CONNECT_SECONDS = 5
# Of an answer this much is read and kept; the rest is not waited for.
RESPONSE_BYTES = 1000
_USER_AGENT = "IAFactory-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Message:
    """What to send where. `headers` carry id, time and signatures."""

    url: str
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went. `error` is empty when the endpoint took the message; `status` is None when no answer came."""

    at: datetime
    duration_ms: int
    status: int | None = None
    error: str = ""
    response: str = ""
    retry_after_seconds: int | None = None


async def message_send(session: aiohttp.ClientSession, message: Message, *, at: datetime, timeout_seconds: int) -> Outcome:
    """POST `message`; any 2xx status is success. Never raises for what the other side does."""
    started = time.monotonic()

    def outcome(error: str, status: int | None = None, response: str = "", retry_after: int | None = None) -> Outcome:
        return Outcome(at, round((time.monotonic() - started) * 1000), status, error, response, retry_after)

    timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=CONNECT_SECONDS)
    headers = {"content-type": "application/json", "user-agent": _USER_AGENT, "accept-encoding": "identity", **message.headers}
    status: int | None = None
    try:
        async with session.post(
            message.url, data=message.body.encode(), headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            status = answer.status
            begin = await _beginning(answer)
            return outcome(_error_of(status), status, begin, _retry_after(answer.headers.get("retry-after", "")))
    except AddressForbidden:
        return outcome("address_forbidden")
    except TimeoutError:
        return outcome("timeout", status)
    except aiohttp.InvalidURL:
        return outcome("address_invalid")
    except aiohttp.ClientConnectorDNSError as error:
        return outcome("address_forbidden" if _forbidden(error) else "name_not_resolved")
    except aiohttp.ClientSSLError:
        return outcome("tls_failed")
    except aiohttp.ClientConnectorError as error:
        return outcome("address_forbidden" if _forbidden(error) else "connection_failed")
    except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError):
        return outcome("connection_broken", status)


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """The first bytes as text that PostgreSQL can hold. That a body breaks off does not undo the status."""
    data = b""
    try:
        while len(data) < RESPONSE_BYTES:
            piece = await answer.content.read(RESPONSE_BYTES - len(data))
            if not piece:
                break
            data += piece
    except (aiohttp.ClientError, OSError):
        pass
    return data.decode("utf-8", "replace").replace("\0", "�")


def _error_of(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return "redirect"
    return "gone" if status == 410 else f"http_{status}"


def _retry_after(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


def _forbidden(error: BaseException) -> bool:
    """Whether a refusal of ours is what stands behind a failed connection, or one of several."""
    seen: list[BaseException] = [error]
    while seen:
        cause = seen.pop()
        if isinstance(cause, AddressForbidden):
            return True
        if isinstance(cause, BaseExceptionGroup):
            seen.extend(cause.exceptions)
        seen.extend(found for found in (cause.__cause__, getattr(cause, "os_error", None)) if found is not None)
    return False
