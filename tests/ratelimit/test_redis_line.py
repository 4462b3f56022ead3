"""The connection that all calls of a process share."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis.exceptions

from iafactory.common.redis_line import RedisLine
from tests.ratelimit.conftest import PrivateRedis


@pytest.fixture
async def line(private_redis: PrivateRedis) -> AsyncIterator[RedisLine]:
    line = private_redis.line()
    yield line
    await line.aclose()


async def test_every_task_gets_its_own_reply(line: RedisLine) -> None:
    replies = await asyncio.gather(*(line.execute_command("ECHO", f"{number}") for number in range(500)))

    assert replies == [f"{number}".encode() for number in range(500)]


async def test_it_is_one_connection(line: RedisLine, private_redis: PrivateRedis) -> None:
    await asyncio.gather(*(line.execute_command("PING") for _ in range(50)))

    clients = private_redis.call("CLIENT", "LIST", "TYPE", "normal")

    # The line's, and the one that asks.
    assert str(clients).count("addr=/") - str(clients).count("laddr=/") == 2


async def test_a_refused_command_leaves_the_others_alone(line: RedisLine) -> None:
    answers = await asyncio.gather(
        line.execute_command("ECHO", "before"),
        line.execute_command("EVALSHA", "0" * 40, 0),
        line.execute_command("INCR"),
        line.execute_command("ECHO", "after"),
        return_exceptions=True,
    )

    assert (answers[0], answers[3]) == (b"before", b"after")
    assert isinstance(answers[1], redis.exceptions.NoScriptError)
    assert isinstance(answers[2], redis.exceptions.ResponseError)


async def test_who_gives_up_does_not_take_the_next_ones_reply(line: RedisLine, private_redis: PrivateRedis) -> None:
    await line.execute_command("PING")
    private_redis.call("CLIENT", "PAUSE", "150")
    leaving = asyncio.create_task(line.execute_command("ECHO", "leaving"))
    staying = asyncio.create_task(line.execute_command("ECHO", "staying"))
    await asyncio.sleep(0.02)

    leaving.cancel()

    assert await staying == b"staying"


async def test_a_silent_server_is_given_up_and_its_late_replies_reach_nobody(
    line: RedisLine, private_redis: PrivateRedis
) -> None:
    await line.execute_command("PING")
    private_redis.call("CLIENT", "PAUSE", "4000")
    began = time.perf_counter()

    answers = await asyncio.gather(*(line.execute_command("ECHO", "late") for _ in range(5)), return_exceptions=True)
    took = time.perf_counter() - began
    # Redis answers nobody before its pause is over.
    await asyncio.to_thread(private_redis.call, "PING")

    assert {type(answer) for answer in answers} == {redis.exceptions.TimeoutError}
    assert 0.45 < took < 3
    assert await line.execute_command("ECHO", "new") == b"new"


async def test_a_lost_connection_costs_a_command_nothing(line: RedisLine, private_redis: PrivateRedis) -> None:
    await line.execute_command("PING")
    private_redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    replies = await asyncio.gather(*(line.execute_command("ECHO", f"{number}") for number in range(20)))

    assert replies == [f"{number}".encode() for number in range(20)]


async def test_a_stopped_server_is_told_and_found_again(line: RedisLine, private_redis: PrivateRedis) -> None:
    await line.execute_command("PING")
    private_redis.stop()

    with pytest.raises(redis.exceptions.ConnectionError):
        await line.execute_command("PING")
    private_redis.start()

    assert await line.execute_command("PING") in (b"PONG", True)


async def test_closed_under_a_command_it_fails(private_redis: PrivateRedis) -> None:
    line = private_redis.line()
    await line.execute_command("PING")
    private_redis.call("CLIENT", "PAUSE", "3000")
    waiting = asyncio.create_task(line._ask(("PING",)))
    await asyncio.sleep(0.02)

    await line.aclose()

    with pytest.raises(redis.exceptions.ConnectionError, match="closed"):
        await waiting
