import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from routing.providers.base import Target
from routing.providers.presets import PRESETS
from routing.providers.session import ProviderSession, open_session
from tests.wire.replay import ReplayServer, replay_server

SECRET = "sk-live-4242424242424242"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
_LOOPS: Mapping[str, LoopFactory] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
# What stands on the loops' own transports is tried on the one of web processes and on the one of everything else.
_ON_BOTH = {"test_http1", "test_session"}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    return _LOOPS if item.path.stem in _ON_BOTH else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def replay() -> Iterator[ReplayServer]:
    with replay_server() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[ProviderSession]:
    async with open_session() as opened:
        yield opened


@pytest.fixture
def target_at() -> Callable[..., Target]:
    def build(base_url: str, provider: str = "openai", **changes: object) -> Target:
        values = {
            "provider": provider,
            "base_url": base_url,
            "secret": SECRET,
            "upstream_model": "upstream-model",
            "public_model": "public-model",
            "quirks": PRESETS[provider].quirks,
        }
        return Target(**{**values, **changes})

    return build
