"""What the pipeline needs to know of a request, whatever it asks for."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from .snapshot import Price, Route


class WorstCase(msgspec.Struct, frozen=True):
    """The most a request can consume on a route, in tokens, and its list cost in USD, rounded up."""

    input_tokens: int
    output_tokens: int
    list_cost_usd: Decimal


class CallRequest(Protocol):
    """A checked request. `mode` is the kind of model it needs (`AiModel.Mode`), `body` what the client sent."""

    @property
    def mode(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def body(self) -> Mapping[str, Any]: ...

    @property
    def stream(self) -> bool: ...

    @property
    def limit_must_stay(self) -> bool:
        """Whether a shorter answer than the client asked for would be a wrong one."""

    @property
    def input_tokens_estimated(self) -> int:
        """What such input usually counts, in tokens."""

    def inexpressible(self, route: Route) -> list[str]:
        """The fields whose loss would change the meaning and that the route's protocol cannot say; empty when it can serve."""

    def worst_case(self, route: Route, price: Price, *, max_tokens: int | None = None) -> WorstCase:
        """The worst case on `route`; `max_tokens` lowers the client's output limit. Raises `PriceUnknown`."""
