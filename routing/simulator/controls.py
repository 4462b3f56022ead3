"""How the simulator behaves per provider, and what it saw. Changed and read over `/_control`."""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Annotated, Any

import msgspec

EVERY_PROVIDER = "*"
REMEMBERED_REQUESTS = 100
REMEMBERED_CHARACTERS = 200

_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]
_Amount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Behaviour(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=False):
    """What a provider does with a call.

    `latency_ms` passes before the answer starts, `chunk_interval_ms` between streamed chunks. `output_tokens` is the
    length wanted of an answer, `chunks` the pieces its text is streamed in (None: four tokens each). `fail_status` is
    answered to the share `fail_rate` of the calls, drawn from `seed`, with `fail_body` or an error in the dialect's
    shape. `drop_after_chunks` cuts the connection after so many chunks of text (a whole answer: before it),
    `error_after_chunks` reports an error inside the stream. `omit_usage` leaves usage out, `prompt_tokens` fixes the
    count of the input.
    """

    latency_ms: _Milliseconds = 0
    chunk_interval_ms: _Milliseconds = 0
    output_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 24
    chunks: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    fail_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    fail_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1
    fail_body: Any = None
    seed: int = 0
    drop_after_chunks: _Amount | None = None
    error_after_chunks: _Amount | None = None
    omit_usage: bool = False
    prompt_tokens: _Amount | None = None


class Counters(msgspec.Struct):
    """What became of the `received` calls; those in no other counter are under way.

    `completed`: answered whole. `failed`: an error as configured, or a bad request. `dropped`: cut, or an error
    reported inside the stream. `disconnected`: the client left first.
    """

    received: int = 0
    completed: int = 0
    failed: int = 0
    dropped: int = 0
    disconnected: int = 0


class Simulated:
    """One simulated provider: its behaviour in force, its counters, its latest requests."""

    __slots__ = ("_random", "behaviour", "counters", "requests", "slug")

    def __init__(self, slug: str, behaviour: Behaviour) -> None:
        self.slug = slug
        self.counters = Counters()
        self.requests: deque[tuple[float, str, str, bool, str]] = deque(maxlen=REMEMBERED_REQUESTS)
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """Put a behaviour in force and restart its draw of failures."""
        self.behaviour = behaviour
        self._random = random.Random(f"{self.slug}:{behaviour.seed}")  # noqa: S311 (repeatable on purpose)

    def fails_now(self) -> bool:
        """Draw whether this call fails as configured."""
        behaviour = self.behaviour
        return behaviour.fail_status is not None and (behaviour.fail_rate >= 1 or self._random.random() < behaviour.fail_rate)

    def remember(self, path: str, model: str, stream: bool, question: str) -> None:
        """Count a call and keep what is worth showing of it."""
        self.counters.received += 1
        self.requests.append((time.time(), path, model, stream, question[:REMEMBERED_CHARACTERS]))


class Controls:
    """Settings of all providers: what was set for one wins over what was set for every one, field by field."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every setting, counter and request."""
        self._settings: dict[str, dict[str, Any]] = {}
        self._providers: dict[str, Simulated] = {}

    def provider(self, slug: str) -> Simulated:
        """The provider of that name, created on first sight."""
        simulated = self._providers.get(slug)
        if simulated is None:
            simulated = self._providers[slug] = Simulated(slug, self._behaviour(slug))
        return simulated

    def change(self, slug: str, settings: dict[str, Any]) -> Behaviour:
        """Set fields for one provider, or for `*`; null takes a setting back. Raises msgspec.ValidationError."""
        merged = {**self._settings.get(slug, {}), **settings}
        merged = {name: value for name, value in merged.items() if value is not None}
        behaviour = msgspec.convert(merged, Behaviour)
        self._settings[slug] = merged
        self._apply()
        return behaviour if slug == EVERY_PROVIDER else self.provider(slug).behaviour

    def forget(self, slug: str) -> None:
        """Take back what was set for one provider, or for `*`; its counters and requests too."""
        self._settings.pop(slug, None)
        self._providers.pop(slug, None)
        self._apply()

    def overview(self) -> dict[str, Any]:
        """Settings as made, and behaviour and counters of every provider seen."""
        return {
            "settings": self._settings,
            "providers": {
                slug: {"behaviour": simulated.behaviour, "counters": simulated.counters}
                for slug, simulated in sorted(self._providers.items())
            },
        }

    def _behaviour(self, slug: str) -> Behaviour:
        return msgspec.convert({**self._settings.get(EVERY_PROVIDER, {}), **self._settings.get(slug, {})}, Behaviour)

    def _apply(self) -> None:
        for slug, simulated in self._providers.items():
            behaviour = self._behaviour(slug)
            if behaviour != simulated.behaviour:
                simulated.behave(behaviour)
