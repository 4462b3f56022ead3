"""Reading balances."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import F, Q, Sum

from .models import LedgerEntry, Lot


def balance_at(account_id: UUID, at: datetime, *, now: datetime) -> Decimal:
    """An account's credits at `at`: what the books say of the past, what its lots promise for the future.

    The future assumes that nothing more is spent or bought; credits pinned by open holds count as long as their lots live.
    """
    if at <= now:
        entries = LedgerEntry.objects.filter(ledger_account_id=account_id, transaction__at__lte=at)
        return entries.aggregate(total=Sum("amount"))["total"] or Decimal(0)
    alive = Lot.objects.filter(
        Q(expires_at__isnull=True) | Q(expires_at__gt=at), wallet=account_id, closed_at__isnull=True, effective_at__lte=at
    )
    dying = Lot.objects.filter(wallet=account_id, booked_at__isnull=False).exclude(pk__in=alive)
    living = alive.aggregate(total=Sum("remaining"))["total"] or Decimal(0)
    pinned = dying.filter(held__gt=0).aggregate(total=Sum(F("held")))["total"] or Decimal(0)
    return living + pinned
