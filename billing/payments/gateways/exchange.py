"""One HTTP call to a gateway: a deadline for the whole of it, a limit on the answer, and failures that say what is known."""

from __future__ import annotations

import functools
import json
import logging
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

import httpx2

from .base import GatewayError, GatewayMisconfigured, GatewayRefused, GatewayUnavailable, ObjectNotFound, OutcomeUnknown

T = TypeVar("T")

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5
TOTAL_SECONDS = 30
MAX_ANSWER_BYTES = 2 * 1024 * 1024
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,100}")

# The request never left us.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol)


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_json(text: str | bytes) -> Any:
    """Decoded JSON with every fraction as a `Decimal`; ValueError for anything else, text that is no UTF-8 included."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constants)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway said. `data` is the decoded JSON object, None when the body is none."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    data: dict[str, Any] | None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Exchange:
    """Calls one gateway. Connections are not kept: one that died in between would look like a request that may have arrived."""

    def __init__(
        self,
        gateway: str,
        base_url: str,
        *,
        trace_header: str = "",
        total_seconds: int = TOTAL_SECONDS,
        connect_seconds: int = CONNECT_SECONDS,
    ) -> None:
        self.gateway = gateway
        self.base_url = base_url.rstrip("/")
        self.trace_header = trace_header
        self.total_seconds = total_seconds
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(total_seconds, connect=min(connect_seconds, total_seconds)),
            limits=httpx2.Limits(max_keepalive_connections=0),
            verify=_tls(),
            trust_env=False,
            follow_redirects=False,
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        changes: bool,
        headers: Mapping[str, str] | None = None,
        json_body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, whatever its status below 500 other than 429.

        `changes` says whether the call may change anything there: an answer that never came, or a 5xx, then leaves the outcome
        unknown (OutcomeUnknown), otherwise it only means try again (GatewayUnavailable). `path` may be a whole address.
        """
        url = path if "://" in path else f"{self.base_url}{path}"
        try:
            answer = self._exchange(method, url, headers=headers, json=json_body, data=form, params=query)
        except _NOT_SENT as error:
            raise GatewayUnavailable(self.gateway, "unreachable", type(error).__name__) from error
        except (httpx2.TransportError, httpx2.DecodingError, TimeoutError, ValueError) as error:
            raise self.lost(changes, "no_answer", type(error).__name__) from error
        trace = self._trace(answer)
        logger.info(
            "%s: %s %s answered %d (%s)", self.gateway, method, path.partition("?")[0], answer.status, trace or "no trace"
        )
        if answer.status == 429:
            raise GatewayUnavailable(self.gateway, "rate_limited", "asked to slow down", trace=trace)
        if answer.status >= 500:
            raise self.lost(changes, f"http_{answer.status}", "failed on their side", trace)
        return answer

    def understood(self, answer: Answer, *, changes: bool) -> dict[str, Any]:
        """The JSON object of a successful answer; one that is none leaves the outcome unknown or means try again."""
        if answer.ok and answer.data is not None:
            return answer.data
        raise self.lost(changes, "not_understood", f"HTTP {answer.status} without the object expected", self._trace(answer))

    def refused(self, answer: Answer, code: str, message: str) -> GatewayError:
        """The failure that a status of 4xx stands for, in the gateway's own words."""
        kind: type[GatewayError] = GatewayRefused
        if answer.status == 401:
            kind = GatewayMisconfigured
        elif answer.status == 404:
            kind = ObjectNotFound
        elif answer.status == 409:
            kind = OutcomeUnknown  # the same key is at work
        return kind(self.gateway, code or f"http_{answer.status}", message or "no reason given", trace=self._trace(answer))

    def needed(self, value: T | None, what: str, *, changes: bool = False) -> T:
        """`value`; without one the answer was not understood."""
        if value is None:
            raise self.lost(changes, "not_understood", f"an answer without {what}")
        return value

    def segment(self, identifier: str) -> str:
        """`identifier` as one segment of a path; raises ObjectNotFound for what no gateway calls an object."""
        if not _IDENTIFIER.fullmatch(identifier):
            raise ObjectNotFound(self.gateway, "no_such_id", "not an id")
        return identifier

    def absent(self, answer: Answer) -> ObjectNotFound:
        """The failure of a read whose object is not there for us."""
        return ObjectNotFound(self.gateway, f"http_{answer.status}", "not there", trace=self._trace(answer))

    def lost(self, changes: bool, code: str, message: str, trace: str = "") -> GatewayError:
        """The failure for an answer that does not say what happened."""
        return (OutcomeUnknown if changes else GatewayUnavailable)(self.gateway, code, message, trace=trace)

    def _trace(self, answer: Answer) -> str:
        return answer.headers.get(self.trace_header, "")[:100] if self.trace_header else ""

    def _exchange(self, method: str, url: str, **what: Any) -> Answer:
        deadline = time.monotonic() + self.total_seconds
        with self._client.stream(method, url, **what) as response:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError("the answer is too large")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, bytes(body), _object(bytes(body)))


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        data = read_json(body)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None
