from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.server import FakeGateway, serve

from .setups import SETUPS


@dataclass
class Pair:
    """An adapter and the fake gateway that it talks to."""

    setup: Any
    fake: Any
    adapter: Any
    build: Callable[..., Any]


@pytest.fixture
def started() -> Iterator[Callable[[FakeGateway], FakeGateway]]:
    stops = []

    def start(fake: FakeGateway) -> FakeGateway:
        stops.append(serve(fake))
        return fake

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def pair_of(started: Callable[[FakeGateway], FakeGateway]) -> Callable[..., Pair]:
    """Starts the fake of a gateway and makes an adapter for it."""

    def make(slug: str, **changes: Any) -> Pair:
        setup = SETUPS[slug]
        fake = started(setup.fake())
        fake.webhook_url = "http://127.0.0.1:9/nobody"
        return Pair(setup, fake, setup.adapter(fake, **changes), lambda **more: setup.adapter(fake, **more))

    return make
