"""How an open invoice is paid: the link that a mail carries, and whether somebody pays it without being asked.

Payments stand above invoices: they register here what they know (`automatic_payments_from`), mails ask (`automatic_payment`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.urls import reverse

from iafactory.common import clock

from .models import Invoice

_SALT = "billing.invoices.pay-link"
# Longer than any mail about an open invoice waits for its successor.
LINK_LIFETIME = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class AutomaticPayment:
    """An open invoice will be charged to `card` (as its owner knows it) at `at`."""

    card: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayLink:
    url: str
    expires_at: datetime


def pay_link(invoice: Invoice) -> PayLink:
    """An address that shows what is due of an invoice and leads to its payment, for whoever holds it, for 30 days."""
    # Whole seconds: the token carries no more.
    expires_at = (clock.now() + LINK_LIFETIME).replace(microsecond=0)
    token = signing.dumps([invoice.pk.hex, int(expires_at.timestamp())], salt=_SALT)
    return PayLink(settings.PUBLIC_URL + reverse("payment-invoice", args=[token]), expires_at)


def pay_link_read(token: str) -> UUID | None:
    """The id of the invoice that a link is for; None if it is forged, damaged or too old."""
    try:
        invoice_id, expires_at = signing.loads(token, salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    return UUID(invoice_id) if clock.now().timestamp() < expires_at else None


def _nobody(invoice: Invoice) -> AutomaticPayment | None:
    return None


_source: Callable[[Invoice], AutomaticPayment | None] = _nobody


def automatic_payments_from(source: Callable[[Invoice], AutomaticPayment | None]) -> None:
    """Have `source` say which open invoices are paid without their customer; called once, when the apps are ready."""
    global _source
    _source = source


def automatic_payment(invoice: Invoice) -> AutomaticPayment | None:
    """How an open invoice will be paid without its customer; None where the customer has to pay."""
    return _source(invoice)
