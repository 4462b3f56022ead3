"""Money an account has in hand: what credit notes gave it back, spent on its next invoices."""

from decimal import Decimal
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account
from iafactory.common import clock
from iafactory.common.money import ZERO

from .models import Invoice, MoneyBalance, MoneyBalanceEntry


def money_balance(account_id: UUID, currency: str) -> Decimal:
    """What the account has in hand in `currency`."""
    found = MoneyBalance.objects.filter(account=account_id, currency=currency).values_list("amount", flat=True).first()
    return ZERO if found is None else found


def money_balance_change(
    *, account: Account, currency: str, amount: Decimal, key: str, reason: str, invoice: Invoice | None = None
) -> MoneyBalanceEntry:
    """Add the signed `amount`, under the balance's lock; a repeated `key` answers the first entry. Books nothing by itself.

    ValueError where the balance would become negative.
    """
    with transaction.atomic():
        balance = money_balance_lock(account=account, currency=currency)
        first = MoneyBalanceEntry.objects.filter(key=key).first()
        if first is not None:
            return first
        balance.amount += amount
        if balance.amount < 0:
            raise ValueError(f"{account} has {balance.amount - amount} {currency} in hand, not {-amount}")
        balance.save(update_fields=["amount"])
        return MoneyBalanceEntry.objects.create(
            balance=balance,
            amount=amount,
            balance_after=balance.amount,
            invoice=invoice,
            key=key,
            reason=reason,
            at=clock.now(),
        )


def money_balance_take(*, invoice: Invoice, most: Decimal, key: str, reason: str) -> Decimal:
    """Take as much as there is, at most `most`, for `invoice`; returns how much."""
    if most <= 0 or money_balance(invoice.account_id, invoice.currency) <= 0:
        return ZERO
    with transaction.atomic():
        balance = money_balance_lock(account=invoice.account, currency=invoice.currency)
        taken = min(balance.amount, most)
        if taken <= 0:
            return ZERO
        money_balance_change(
            account=invoice.account, currency=invoice.currency, amount=-taken, key=key, reason=reason, invoice=invoice
        )
    return taken


def money_balance_lock(*, account: Account, currency: str) -> MoneyBalance:
    """The account's balance in `currency`, made when first needed, locked until the transaction ends."""
    named = MoneyBalance.objects.filter(account=account, currency=currency)
    balance = named.select_for_update(no_key=True).first()
    if balance is None:
        MoneyBalance.objects.bulk_create([MoneyBalance(account=account, currency=currency)], ignore_conflicts=True)
        balance = named.select_for_update(no_key=True).get()
    return balance
