"""Rows the books need before the first call: the operator's ledger accounts and the usage log's partitions."""

from datetime import datetime, timedelta

from django.db import connections, transaction

from iafactory.common import clock

from .models import LedgerAccount

_OPERATOR_ACCOUNTS = (
    (LedgerAccount.Kind.ISSUED, "credit"),
    (LedgerAccount.Kind.CONSUMED, "credit"),
    (LedgerAccount.Kind.EXPIRED, "credit"),
    (LedgerAccount.Kind.REFUNDED, "credit"),
    (LedgerAccount.Kind.OPERATOR_LOSS, "credit"),
    (LedgerAccount.Kind.OPERATOR_LOSS, "USD"),
    (LedgerAccount.Kind.UNKNOWN_COST, "USD"),
    (LedgerAccount.Kind.PROVIDER_COST, "USD"),
)


def foundations_ensure(*, using: str = "default") -> None:
    """Create what is missing; safe to run at any time and at once. Runs after every `migrate`."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('ledger_account(text, text)') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return  # migrated back to before the ledger
    LedgerAccount.objects.using(using).bulk_create(
        [LedgerAccount(kind=kind, unit=unit) for kind, unit in _OPERATOR_ACCOUNTS], ignore_conflicts=True
    )
    usage_partitions_ensure(now=clock.now(), using=using)


def usage_partitions_ensure(*, now: datetime, months_ahead: int = 3, using: str = "default") -> int:
    """Make the usage log's partitions for the month of `now` and the next ones; returns how many were new."""
    made = 0
    month = now.replace(day=1)
    for _ in range(months_ahead + 1):
        with transaction.atomic(using=using), connections[using].cursor() as cursor:
            cursor.execute("SELECT usage_partition_ensure(%s)", [month])
            made += cursor.fetchone()[0]
        month = (month + timedelta(days=32)).replace(day=1)
    return made
