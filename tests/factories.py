"""Rows that many tests need, made through the services that make them in the product."""

import itertools
from decimal import Decimal
from uuid import UUID

from billing.accounts.models import Account, Membership, User
from billing.events.services import SYSTEM
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant, wallet_open

_numbers = itertools.count(1)


def account_make(*, credits: str | int | Decimal = 0) -> Account:
    """A personal account with its wallet and, if asked, one purchased lot."""
    number = next(_numbers)
    user = User.objects.create_user(f"customer{number}@example.com", "correct horse battery")
    account = Account.objects.create(name=f"Customer {number}", personal_of=user)
    Membership.objects.create(account=account, user=user, role=Membership.Role.OWNER)
    wallet_open(account=account)
    if Decimal(credits):
        lot_make(account.pk, credits)
    return account


def lot_make(account_id: UUID, credits: str | int | Decimal, *, kind: str = Lot.Kind.PURCHASE, **fields: object) -> Lot:
    """A lot granted now under a key of its own."""
    return credits_grant(
        account_id=account_id,
        amount=Decimal(credits),
        kind=kind,
        source="test",
        reason="test",
        actor=SYSTEM,
        idempotency_key=f"test-{next(_numbers)}",
        **fields,  # type: ignore[arg-type]
    )
