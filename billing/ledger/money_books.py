"""Money in the books: double entry per currency, beside the credits and append-only like them.

Signs are what an account gains: what we have or are owed is positive (`cash`, `receivable`, what refunds and unpaid invoices
cost us), what we earned or owe is negative (`revenue`, `tax`, `unapplied`, `money_balance`).
"""

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from django.db import transaction

from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.ids import uuid7

from .models import LedgerAccount, LedgerEntry, LedgerTransaction

MONEY_ACCOUNTS = (
    LedgerAccount.Kind.CASH,
    LedgerAccount.Kind.RECEIVABLE,
    LedgerAccount.Kind.REVENUE,
    LedgerAccount.Kind.TAX,
    LedgerAccount.Kind.REFUNDS,
    LedgerAccount.Kind.UNAPPLIED,
    LedgerAccount.Kind.MONEY_BALANCE,
    LedgerAccount.Kind.WRITTEN_OFF,
)


def money_book(
    *,
    kind: LedgerTransaction.Kind | str,
    currency: str,
    postings: Mapping[LedgerAccount.Kind, Decimal],
    idempotency_key: str,
    account_id: UUID,
    actor: Actor,
    reason: str,
) -> bool:
    """Book one fact about money; False, and nothing, where `idempotency_key` was booked before.

    `postings` say what each account gains, in `currency`; zeros are left out. Call it in the transaction of the fact, with the
    rows that the fact is about locked. ValueError for postings that do not sum to zero or name other accounts.
    """
    postings = {account: amount for account, amount in postings.items() if amount}
    if sum(postings.values(), Decimal(0)) != 0:
        raise ValueError(f"postings of {idempotency_key} do not sum to zero: {postings}")
    if unknown := set(postings) - set(MONEY_ACCOUNTS):
        raise ValueError(f"{', '.join(sorted(unknown))} hold no money")
    with transaction.atomic():
        if LedgerTransaction.objects.filter(idempotency_key=idempotency_key).exists():
            return False
        accounts = _accounts(currency, postings)
        booked = LedgerTransaction.objects.create(
            id=uuid7(),
            kind=kind,
            idempotency_key=idempotency_key,
            at=clock.now(),
            account_id=account_id,
            reason=reason,
            actor=actor.label,
        )
        # One statement: the database checks the sum of what a statement wrote.
        LedgerEntry.objects.bulk_create(
            [
                LedgerEntry(transaction=booked, ledger_account_id=accounts[account], unit=currency, amount=amount)
                for account, amount in postings.items()
            ]
        )
    return True


def _accounts(currency: str, kinds: Mapping[LedgerAccount.Kind, Decimal]) -> dict[str, UUID]:
    """Ids of the books' accounts of one currency, made when first needed."""
    known = LedgerAccount.objects.filter(unit=currency, account=None, kind__in=MONEY_ACCOUNTS)
    found = dict(known.values_list("kind", "id"))
    if set(kinds) - set(found):
        LedgerAccount.objects.bulk_create(
            [LedgerAccount(kind=kind, unit=currency) for kind in MONEY_ACCOUNTS if kind not in found], ignore_conflicts=True
        )
        found = dict(known.values_list("kind", "id"))
    return found
