"""What customers' endpoints are told of invoices: every message names the invoice as its owner knows it."""

import json

import pytest

from billing.accounts.models import Account
from billing.events.models import Event
from billing.invoices.models import Invoice
from billing.invoices.services import invoice_finalise, invoice_give_up, invoice_void
from billing.webhooks.catalogue import CATALOGUE, event_type_of, message_body
from tests.billing.subscriptions.conftest import customer, shop, time
from tests.billing.subscriptions.selling import OPERATOR, begin, pay, plan_make

__all__ = ("customer", "shop", "time")
pytestmark = pytest.mark.django_db


def told(name: str) -> dict[str, str]:
    """What the latest message of a kind says of its object."""
    event = Event.objects.filter(kind=CATALOGUE[name].kind).latest("at", "pk")
    event_type = event_type_of(event)
    assert event_type is not None
    said: dict[str, str] = json.loads(message_body(event, event_type))["data"]["after"]
    return said


def issued(account: Account) -> Invoice:
    draft = begin(account, plan_make("pro", "3000")).to_pay
    assert draft is not None
    return invoice_finalise(invoice=draft, actor=OPERATOR)


def test_a_paid_invoice_is_told_with_its_number(customer: Account) -> None:
    invoice = begin(customer, plan_make("pro", "3000")).to_pay
    assert invoice is not None

    pay(invoice)

    named = {"number": "FAC-2026-000001", "currency": "DZD", "total": "3000.0000"}
    assert told("invoice.issued") == named | {"due": "3000.0000"}
    assert told("invoice.paid") == named | {"state": "paid", "means": "bank_transfer"}


def test_a_voided_invoice_is_told_with_its_number(customer: Account) -> None:
    invoice = issued(customer)

    invoice_void(invoice=invoice, reason="a mistake", actor=OPERATOR)

    assert (told("invoice.voided")["number"], told("invoice.voided")["state"]) == (invoice.number, "void")


def test_an_invoice_that_is_given_up_is_told_with_its_number(customer: Account) -> None:
    invoice = issued(customer)

    invoice_give_up(invoice=invoice, reason="bankrupt", actor=OPERATOR)

    assert (told("invoice.given_up")["number"], told("invoice.given_up")["state"]) == (invoice.number, "uncollectible")


def test_every_kind_of_message_about_invoices_has_the_number() -> None:
    kinds = [entry for name, entry in CATALOGUE.items() if name.startswith("invoice.")]

    assert len(kinds) == 4
    assert all("number" in entry.fields and "total" in entry.fields for entry in kinds)
