"""Credits sold on a checkout page that is not ours: Stripe sessions whose metadata name an API key and a number of credits.

Whoever makes such a session has our Stripe key, so its metadata is our own word. The API key in it is a secret: it is taken
out of everything that is kept.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db import transaction

from billing.accounts.models import ApiKey
from billing.accounts.selectors import api_key_by_secret
from billing.events.services import SYSTEM
from billing.invoices import services as invoices
from billing.invoices.lines import LineItem
from billing.invoices.models import Invoice, InvoiceLine
from billing.payments.gateways.base import GatewayPayment, PaymentState
from billing.payments.gateways.reading import storable
from billing.payments.models import Payment
from billing.payments.services import payment_succeeded
from billing.plans.selectors import fx_rate_at
from billing.subscriptions.moves import account_lock
from iafactory.common import clock
from iafactory.common.money import credits_quantise, plain

HIDDEN = "[hidden]"
MOST_CREDITS = Decimal(10_000_000)


class NotPlaceable(Exception):
    """Money came that an operator has to place; the message says why."""


def names_a_key(data: Mapping[str, Any]) -> bool:
    """Whether a session's metadata are of this kind."""
    metadata = data.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("apiKey")) and bool(metadata.get("credits"))


def without_key(data: Any) -> Any:
    """`data` with every API key in metadata hidden."""
    if isinstance(data, Mapping):
        return {name: HIDDEN if name == "apiKey" else without_key(value) for name, value in data.items()}
    if isinstance(data, list):
        return [without_key(value) for value in data]
    return data


def elsewhere_paid(truth: GatewayPayment) -> Payment:
    """Book a paid session of another page: an invoice over its credits for the key's account, paid by it, once per session.

    Raises NotPlaceable.
    """
    assert truth.state is PaymentState.PAID
    assert truth.paid is not None
    assert truth.mode is not None
    metadata = truth.raw["metadata"]
    credits = _credits(str(metadata["credits"]))
    key = api_key_by_secret(str(metadata["apiKey"]))
    if key is None:
        raise NotPlaceable(f"{truth.paid} came for an API key that does not exist.")
    with transaction.atomic():
        account_lock(key.account_id)
        known = Payment.objects.filter(gateway=truth.gateway, mode=truth.mode.value, checkout_id=truth.checkout_id).first()
        payment = known or _payment(truth, key, credits)
        return payment_succeeded(
            payment=payment,
            actor=SYSTEM,
            received=truth.paid.amount,
            currency=truth.paid.currency,
            gateway_payment_id=truth.payment_id,
            facts=storable(without_key(truth.raw)),
            reason="Sold on another page",
        )


def _credits(text: str) -> Decimal:
    try:
        credits = credits_quantise(Decimal(text))
    except InvalidOperation:
        credits = Decimal(0)
    if not 0 < credits <= MOST_CREDITS:
        raise NotPlaceable(f"{text[:40]!r} is no number of credits.")
    return credits


def _payment(truth: GatewayPayment, key: ApiKey, credits: Decimal) -> Payment:
    assert truth.paid is not None
    invoice = invoices.invoice_draft(
        account=key.account,
        purpose=Invoice.Purpose.TOPUP,
        items=[
            LineItem(
                kind=InvoiceLine.Kind.TOPUP,
                description=f"{plain(credits)} credits",
                amount=truth.paid.amount,
                facts={"pack": truth.gateway},
            )
        ],
        currency=truth.paid.currency,
        checkout={"pack": truth.gateway, "credits": str(plain(credits)), "bonus_credits": "0"},
    )
    now = clock.now()
    return Payment.objects.create(
        account=key.account,
        invoice=invoice,
        purpose=Payment.Purpose.TOPUP,
        state=Payment.State.PENDING,
        gateway=truth.gateway,
        mode=truth.mode.value if truth.mode else Payment.Mode.TEST,
        amount=truth.paid.amount,
        currency=truth.paid.currency,
        fx_rate=fx_rate_at(truth.paid.currency, now),
        checkout_id=truth.checkout_id,
        created_at=now,
    )
