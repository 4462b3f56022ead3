"""Credits bought outside of a plan."""

import contextlib
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account
from billing.events.services import Actor
from billing.invoices import services as invoices
from billing.invoices.lines import LineItem
from billing.invoices.models import Invoice, InvoiceLine
from billing.invoices.parties import profile_of
from billing.invoices.rounding import money_quantise, quantise
from billing.invoices.selectors import sold_gross
from billing.invoices.wording import shipped_name, words
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant, wallet_open
from billing.plans.models import CreditPack
from billing.plans.selectors import fx_rate_at
from billing.subscriptions.moves import account_lock
from billing.subscriptions.pricing import WHOLE_UNIT_CURRENCIES
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain
from iafactory.common.texts import Text


def pack_price(*, pack: CreditPack, currency: str, at: datetime) -> Decimal:
    """What a pack costs in `currency` at `at`, tax included: its own price, or at the exchange rate in whole units.

    ApiError 409 `pack_not_sold_in_currency` where no rate is known.
    """
    if currency == pack.currency:
        return money_quantise(pack.amount, currency)
    own, other = fx_rate_at(pack.currency, at), fx_rate_at(currency, at)
    if own is None or other is None:
        raise ApiError(409, "pack_not_sold_in_currency", Text("This pack is not sold in %(currency)s.", currency=currency))
    return quantise(Fraction(pack.amount) * Fraction(other) / Fraction(own), Decimal(1)).quantize(Decimal("0.01"))


def hundred_credits_price(*, currency: str, at: datetime) -> Decimal | None:
    """What a hundred bought credits cost in `currency` at `at`, at the cheapest public pack; None where none is sold in it."""
    prices = []
    for pack in CreditPack.objects.filter(is_public=True):
        with contextlib.suppress(ApiError):
            credits = pack.credits + pack.bonus_credits
            prices.append(Fraction(pack_price(pack=pack, currency=currency, at=at)) * 100 / Fraction(credits))
    return money_quantise(min(prices), currency) if prices else None


def topup_draft(*, account: Account, pack: CreditPack, currency: str | None = None, in_cash: bool = False) -> Invoice:
    """A frozen offer of a pack's credits to `account`; they are granted when it is paid. Raises as `pack_price`."""
    currency = currency or account.currency
    amount = pack_price(pack=pack, currency=currency, at=clock.now())
    with transaction.atomic():
        account = account_lock(account.pk)
        language = profile_of(account).language
        say = words(language)
        return invoices.invoice_draft(
            account=account,
            purpose=Invoice.Purpose.TOPUP,
            items=[
                LineItem(
                    kind=InvoiceLine.Kind.TOPUP,
                    description=say.topup.format(pack=shipped_name(pack.name, language)),
                    amount=amount,
                    facts={"pack": pack.code},
                )
            ],
            currency=currency,
            checkout={
                "pack": pack.code,
                "credits": str(plain(pack.credits)),
                "bonus_credits": str(plain(pack.bonus_credits)),
            },
            whole_units=currency in WHOLE_UNIT_CURRENCIES,
            in_cash=in_cash,
        )


def topup_grant(*, invoice: Invoice, actor: Actor, payment_id: UUID | None) -> None:
    """Grant what a paid invoice sold, and its bonus, once. They never expire."""
    wallet_open(account=invoice.account)
    facts = invoice.checkout
    shares = (
        (Lot.Kind.PURCHASE, Decimal(facts["credits"]), sold_gross(invoice)),
        (Lot.Kind.BONUS, Decimal(facts["bonus_credits"]), ZERO),
    )
    for kind, credits, paid in shares:
        if credits > 0:
            credits_grant(
                account_id=invoice.account_id,
                amount=credits,
                kind=kind,
                source=f"Pack {facts['pack']}",
                reason=f"Invoice {invoice.number}",
                actor=actor,
                idempotency_key=f"topup:{invoice.pk}:{kind}",
                paid_amount=paid,
                paid_currency=invoice.currency if paid else "",
                payment_id=payment_id,
            )
