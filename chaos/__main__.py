"""`python -m chaos --seconds 60 --seed 7`: start the product, load it, hurt it, and check what must be true all the same.

The exit code is 0 when every invariant held, 1 when one was violated, 2 when the product did not start, 130 after Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from .disruption import Disruption
from .load import Customer, Load, OnceKey, Seen
from .product import Product, ProductFailed
from .watch import OVERDUE_SECONDS, Watch

if TYPE_CHECKING:
    from .invariants import Verdict

# The supervisor may wait this long before it starts again what died several times.
_RECOVERY_SECONDS = 40.0
_TOP_UP_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    seed: int
    clients: int
    latency_ms: int
    call_timeout: int
    hold_grace: int
    idempotency: bool
    keep: bool


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who calls: `rich` pay by the credit, `poor` is nearly out, `quotas` have a daily one, `once_keys` repeat."""

    rich: list[Customer]
    poor: Customer
    quotas: list[Customer]
    daily_quota: int
    once_keys: list[OnceKey]

    @property
    def callers(self) -> list[Customer]:
        return [*self.rich, self.poor, *self.quotas]


def main() -> int:
    options = _options()
    print(f"chaos: {options.seconds:.0f} s, {options.clients} clients, seed {options.seed}", flush=True)
    interrupts: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    product = Product(
        two_webs=True,
        CALL_TIMEOUT_SECONDS=str(options.call_timeout),
        HOLD_GRACE_SECONDS=str(options.hold_grace),
        # What it costs is not the question here, and nobody is paid.
        DEFAULT_DAILY_BUDGET_USD="1000000",
    )
    code, left = 130, ["it was not stopped"]
    try:
        try:
            verdicts = _run(product, options)
        finally:
            left = product.stop()
        verdicts.append(_stopped_clean(left))
        print(*verdicts, sep="\n")
        code = 1 if any(verdict.violated for verdict in verdicts) else 0
        print("chaos: VIOLATED" if code else "chaos: every invariant held", f"(seed {options.seed})")
    except ProductFailed as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        # It may come in the middle of anything, and as what that makes of it: a class under way says RuntimeError.
        if not interrupts:
            raise
        print("chaos: interrupted", file=sys.stderr)
    finally:
        if code == 1 or options.keep:
            print(f"logs and data are kept in {product.var}")
        else:
            product.remove()
    return code


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long the load and the kills last")
    parser.add_argument("--seed", type=int, help="repeats a plan of kills; default: a new one, printed")
    parser.add_argument("--clients", type=int, default=32, help="parallel clients")
    parser.add_argument("--latency-ms", type=int, default=120, help="what a simulated provider needs before it answers")
    parser.add_argument("--call-timeout", type=int, default=8, help="CALL_TIMEOUT_SECONDS of the product")
    parser.add_argument("--hold-grace", type=int, default=4, help="HOLD_GRACE_SECONDS of the product")
    parser.add_argument("--no-idempotency", action="store_true", help="send no Idempotency-Key")
    parser.add_argument("--keep", action="store_true", help="keep logs and data; a violation keeps them anyway")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    return Options(
        seconds=given.seconds,
        seed=seed,
        clients=given.clients,
        latency_ms=given.latency_ms,
        call_timeout=given.call_timeout,
        hold_grace=given.hold_grace,
        idempotency=not given.no_idempotency,
        keep=given.keep,
    )


def _run(product: Product, options: Options) -> "list[Verdict]":
    """The whole run, from the start of the product to the last question asked of its books."""
    product.start()
    print(f"the product answers on {product.url} ({product.var})", flush=True)
    os.environ.update(product.environment)
    import django

    django.setup()
    crowd = _crowd_make(options)
    return asyncio.run(_hurt_and_check(product, options, crowd))


def _crowd_make(options: Options) -> Crowd:
    from . import accounts

    daily_quota = max(10, round(options.seconds))
    accounts.plans_make(daily_quota=daily_quota)
    rich = [accounts.customer_make(f"rich-{n}", plan="payg", credits=accounts.RICH_CREDITS) for n in range(3)]
    poor = accounts.customer_make("poor", plan=accounts.WHOLE_PLAN, credits=accounts.POOR_CREDITS)
    # Called at different rates: one or another is near its limit whenever something dies.
    quotas = [accounts.customer_make(f"quota-{n}", plan=accounts.QUOTA_PLAN, credits=0) for n in range(4)]
    once_keys = []
    if options.idempotency:
        repeater = accounts.customer_make("repeater", plan="payg", credits=accounts.RICH_CREDITS)
        once_keys = accounts.once_keys_make(repeater, round(20 * options.seconds))
    return Crowd(rich, poor, quotas, daily_quota, once_keys)


async def _hurt_and_check(product: Product, options: Options, crowd: Crowd) -> "list[Verdict]":
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {text}", flush=True)

    chance = random.Random(options.seed)  # noqa: S311 - repeatable on purpose
    watch = Watch(product.environment["DATABASE_URL"])
    behaviour = {"latency_ms": options.latency_ms, "chunk_interval_ms": 25, "chunks": 12, "output_tokens": 48}
    disruption = Disruption(product, random.Random(chance.random()), say, behaviour)  # noqa: S311
    await disruption.calm()
    load = Load(
        urls=(product.url, product.second_url),
        customers=crowd.callers,
        weights=[*([20] * len(crowd.rich)), 14, 11, 8, 5, 2],
        once_keys=iter(crowd.once_keys),
        random=random.Random(chance.random()),  # noqa: S311
        look_up=watch.look_up,
    )
    watching = asyncio.create_task(watch.run())
    try:
        clients = asyncio.create_task(load.run(options.clients))
        await _while(_top_up(crowd.poor), _until_first_failure(disruption.run(options.seconds), clients))
        load.stop()
        await clients
        say("the load has ended; waiting for the product and for open holds")
        fresh, recovery = await _recover(product, load, crowd)
        await _holds_end(watch, options)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    _print_counts(load, disruption, watch)
    return await asyncio.to_thread(_verdicts, load, disruption, watch, crowd, fresh, recovery)


async def _until_first_failure(plan: Coroutine[Any, Any, None], clients: "asyncio.Task[None]") -> None:
    """Carry the plan out; a fault in our own clients ends the run at once."""
    task = asyncio.create_task(plan)
    await asyncio.wait((task, clients), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await clients
        raise RuntimeError("the clients ended before their time")
    await task


async def _while(beside: Coroutine[Any, Any, None], main_part: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(beside)
    try:
        await main_part
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _top_up(poor: Customer) -> None:
    """The poor account buys a little again and again, in the middle of everything; each purchase has a key and is retried."""
    number = 0
    while True:
        await asyncio.sleep(_TOP_UP_SECONDS)
        try:
            await asyncio.to_thread(_top_up_once, poor, number)
        except Exception as error:
            if not _database_away(error):
                raise
            continue
        number += 1


def _top_up_once(poor: Customer, number: int) -> None:
    from django.db import close_old_connections, connection

    from . import accounts

    try:
        accounts.top_up(poor.account_id, accounts.TOP_UP_CREDITS, key=f"chaos-top-up-{number}")
    finally:
        close_old_connections()
        connection.close()


def _database_away(error: Exception) -> bool:
    from django.db import InterfaceError, OperationalError

    return isinstance(error, (OperationalError, InterfaceError))


async def _recover(product: Product, load: Load, crowd: Crowd) -> tuple[list[Seen], float]:
    """Fresh calls, whole and streamed, once the product says that it is healthy; with them the seconds until they succeeded."""
    began = time.monotonic()
    fresh: list[Seen] = []
    while time.monotonic() - began < _RECOVERY_SECONDS:
        if await _healthy(product.url) and await _healthy(product.second_url):
            fresh = [await load.fresh_call(crowd.rich[0], streamed=streamed) for streamed in (False, True)]
            if all(seen.complete for seen in fresh):
                break
        await asyncio.sleep(0.3)
    return fresh, time.monotonic() - began


async def _healthy(url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/health") as response:
            return response.status == 200
    return False


async def _holds_end(watch: Watch, options: Options) -> None:
    """Wait until no hold is open, at most until the last one is overdue."""
    deadline = time.monotonic() + options.call_timeout + options.hold_grace + OVERDUE_SECONDS + 1
    polls = watch.polls
    # A count read twice after the load: the first may be from before its end.
    while time.monotonic() < deadline and (watch.open_holds or watch.polls < polls + 2):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


def _print_counts(load: Load, disruption: Disruption, watch: Watch) -> None:
    statuses = Counter(str(seen.status or seen.code or "given up") for seen in load.seen)
    codes = Counter(seen.code for seen in load.seen if seen.status not in (0, 200))
    print("requests:", _list(load.counts))
    print("answers:", _list(statuses))
    print("refusals:", _list(codes))
    print("kills:", _list(Counter({name: n for name, n in disruption.counts.items() if not name.startswith("moments")})))
    print("provider trouble:", _list(Counter({name: n for name, n in disruption.counts.items() if name.startswith("moments")})))
    away = " + ".join(f"{end - begin:.1f}" for begin, end in watch.outages)
    print(f"PostgreSQL did not answer for {away or 0} s")


def _list(counts: Counter[str]) -> str:
    return (
        ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))) or "none"
    )


def _verdicts(
    load: Load, disruption: Disruption, watch: Watch, crowd: Crowd, fresh: list[Seen], recovery: float
) -> "list[Verdict]":
    from django.db import connection

    from . import invariants

    kills = [(at, at) for service, at in disruption.kills if service in ("web", "second web", "postgres")]
    latency_seconds = disruption.behaviour["latency_ms"] / 1000
    redis_losses = sum(service == "redis" for service, _ in disruption.kills)
    try:
        verdicts = [
            invariants.complete_answers(load.seen, watch),
            invariants.undisturbed_calls(load.seen, [*kills, *watch.outages], latency_seconds=latency_seconds),
            invariants.no_double_debits(load.seen),
            invariants.debits_explained(),
            invariants.nothing_negative(watch),
            invariants.holds_closed(watch, disruption.restarts),
            invariants.books_clean(),
            invariants.quotas_kept(crowd.quotas, daily_quota=crowd.daily_quota, redis_losses=redis_losses),
            invariants.no_internal_errors(load.seen),
        ]
    finally:
        connection.close()
    failed = () if fresh and all(seen.complete for seen in fresh) else (f"fresh calls: {fresh}",)
    verdicts.append(invariants.Verdict("8  the product recovered by itself", f"{recovery:.1f} s after the load", failed))
    return verdicts


def _stopped_clean(left: list[str]) -> "Verdict":
    from .invariants import Verdict

    return Verdict("8b nothing is left after a stop", f"{len(left)} complaints", tuple(left))


if __name__ == "__main__":
    sys.exit(main())
