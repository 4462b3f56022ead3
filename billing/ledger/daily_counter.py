"""Telling the gateway's limiter of credits that services spent, so that chat and services share one daily limit."""

import logging
from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from billing.accounts.models import Account
from billing.accounts.windows import daily_credits_key, day_end, milliseconds
from iafactory.common.money import credits_to_micro
from ratelimit.scopes import counter_storage_key

logger = logging.getLogger(__name__)

_KEPT_AFTER_MS = 3_600_000


def daily_credits_add(account: Account, credits: Decimal, *, at: datetime) -> None:
    """Count `credits` in the account's day once the transaction commits. Redis away: the rebuild counts them from the books."""
    end_ms = milliseconds(day_end(at, account.zone))
    key = counter_storage_key(daily_credits_key(account.pk), end_ms)

    def count() -> None:
        try:
            pipeline = get_redis_connection("default").pipeline()
            pipeline.incrby(key, credits_to_micro(credits))
            pipeline.pexpireat(key, end_ms + _KEPT_AFTER_MS)
            pipeline.execute()
        except RedisError as error:
            logger.warning("the daily credits of %s were not counted: %s", account.pk, error)

    if credits > 0:
        transaction.on_commit(count)
