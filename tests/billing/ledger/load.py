"""Callers in a process of their own: `python -m tests.billing.ledger.load SEED TASKS CALLS ACCOUNT...` prints verdicts."""

import asyncio
import json
import random
import sys
from collections import Counter
from decimal import Decimal

import django

django.setup()

from billing.ledger.writer import LedgerWriter  # noqa: E402
from tests.billing.ledger.calls import call_item_for, hold_item_for  # noqa: E402


async def main(seed: int, tasks: int, calls: int, accounts: list[str]) -> None:
    """Each task makes `calls` calls on wallets in an order of its own. Charges are whole credits."""
    writer = LedgerWriter(queue_limit=10_000)
    writer.start()
    charged: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()

    async def caller(number: int) -> None:
        choice = random.Random(seed * 1000 + number)
        for _ in range(calls):
            account = choice.choice(accounts)
            credits, charge = choice.choice(((2, 1), (1, 1), (3, 0), (1, 2), (0, 0)))
            hold = hold_item_for(account, str(credits))
            opened = await writer.hold_open(hold, timeout_seconds=60)
            verdicts[opened.verdict] += 1
            if opened.verdict == "held":
                settled = await writer.call_settle(call_item_for(hold, str(charge)), timeout_seconds=60)
                verdicts[settled.verdict] += 1
                charged[account] += int(settled.charged or Decimal(0))

    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(caller(number))
    await writer.stop()
    print(json.dumps({"verdicts": verdicts, "charged": charged}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
