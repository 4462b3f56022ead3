from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from routing.providers.base import Target
from routing.providers.presets import PRESETS
from routing.providers.session import open_session
from tests.wire.replay import ReplayServer, replay_server

SECRET = "sk-live-4242424242424242"


@pytest.fixture
def replay() -> Iterator[ReplayServer]:
    with replay_server() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
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
