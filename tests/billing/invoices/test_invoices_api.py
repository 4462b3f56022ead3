"""`/api/billing/invoices`: lists, documents, tables and what comes next; nobody sees another's."""

import csv
import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account, ApiKey
from billing.events.services import SYSTEM
from billing.invoices import services
from billing.invoices.balance import money_balance_change
from billing.invoices.models import BillingProfile, Invoice, InvoicePdf, SellerProfile
from billing.subscriptions.renewal import subscription_advance
from tests.billing.api.conftest import code, key_client, session_client
from tests.billing.subscriptions.conftest import customer, shop, time  # noqa: F401
from tests.billing.subscriptions.selling import live, plan_make, spend, subscribe
from tests.factories import account_make

from .conftest import NOON
from .test_invoice_services import draft, issued, paid

pytestmark = pytest.mark.django_db
LIST = "/api/billing/invoices"


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "billing.urls"


def numbers(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [row["number"] for row in response.json()["results"]]


def table(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(b"".join(response.streaming_content).decode().splitlines()))


def test_an_invoice_in_full(seller: SellerProfile, account: Account) -> None:
    BillingProfile.objects.create(
        account=account, name="Cabinet Benali", country="DZ", identifiers={"nif": "000916001122334"}, language="fr"
    )
    with freeze_time(NOON):
        invoice = issued(account, "11900", period=(NOON, NOON + timedelta(days=30)))

    body = key_client(account).get(f"{LIST}/{invoice.number}").json()

    assert body.pop("seller")["name"] == seller.legal_name
    assert body.pop("customer") == {
        **dict.fromkeys(("legal_form", "activity", "address", "city", "postal_code", "region", "phone"), ""),
        "name": "Cabinet Benali",
        "country": "DZ",
        "email": account.billing_email,
        "identifiers": {"nif": "000916001122334"},
    }
    assert body == {
        "id": str(invoice.pk),
        "number": "FAC-2026-000001",
        "kind": "invoice",
        "state": "open",
        "purpose": "other",
        "currency": "DZD",
        "net": 10000.00,
        "tax": 1900.00,
        "stamp_duty": 0.00,
        "rounding": 0.00,
        "total": 11900.00,
        "balance_applied": 0.00,
        "amount_paid": 0.00,
        "amount_due": 11900.00,
        "amount_credited": 0.00,
        "issue_date": "2026-03-31",
        "issued_at": "2026-03-31T12:00:00Z",
        "due_at": "2026-03-31T12:00:00Z",
        "paid_at": None,
        "payment_means": None,
        "corrects": None,
        "subscription_id": None,
        "period_start": "2026-03-31T12:00:00Z",
        "period_end": "2026-04-30T12:00:00Z",
        "language": "fr",
        "pdf_url": "/api/billing/invoices/FAC-2026-000001/pdf",
        "lines": [
            {
                "kind": "plan",
                "description": "Abonnement Pro",
                "quantity": 1,
                "unit_price": 11900,
                "tax_included": True,
                "net": 10000.00,
                "tax": 1900.00,
                "gross": 11900.00,
                "tax_rate": 0.19,
                "sac": None,
                "period_start": None,
                "period_end": None,
                "usage_url": None,
            }
        ],
        "taxes": [{"code": "TVA", "label": "TVA", "rate": 0.19, "base": 10000.00, "amount": 1900.00}],
        "credit_notes": [],
    }


def test_money_is_written_exactly(seller: SellerProfile, account: Account) -> None:
    issued(account, "0.10", "0.20")

    response = key_client(account).get(LIST)

    assert b'"total":0.30,' in response.content


def test_a_credit_note_and_its_invoice_name_each_other(seller: SellerProfile, account: Account) -> None:
    invoice = paid(account)
    note = services.credit_note_issue(
        invoice=invoice, amount=Decimal("1190"), reason="internal", actor=SYSTEM, key="k", to_balance=True
    )
    client = key_client(account)

    assert client.get(f"{LIST}/{invoice.number}").json()["credit_notes"] == [note.number]
    body = client.get(f"{LIST}/{note.number}").json()
    assert (body["kind"], body["corrects"], body["amount_due"]) == ("credit_note", invoice.number, 0)
    assert "internal" not in str(body)


def test_nothing_of_a_void_invoice_is_due(seller: SellerProfile, account: Account) -> None:
    invoice = services.invoice_void(invoice=issued(account), reason="r", actor=SYSTEM)

    assert key_client(account).get(f"{LIST}/{invoice.number}").json()["amount_due"] == 0


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [3, 2, 1]),
        ("state=paid", [2]),
        ("state=open", [3, 1]),
        ("kind=invoice", [3, 2, 1]),
        ("kind=credit_note", []),
        ("purpose=other", [3, 2, 1]),
        ("currency=INR", []),
        ("from=2026-03-31", [3, 2]),
        ("to=2026-03-30", [1]),
        ("from=2026-03-31&to=2026-03-31", [3, 2]),
        ("subscription_id=018f0000-0000-7000-8000-00000000000a", []),
    ],
)
def test_filters(seller: SellerProfile, account: Account, query: str, found: list[int]) -> None:
    with freeze_time(NOON - timedelta(days=1)):
        issued(account)
    with freeze_time(NOON):
        paid(account)
    with freeze_time(NOON + timedelta(minutes=1)):
        issued(account)
        draft(account)

    assert numbers(key_client(account).get(f"{LIST}?{query}")) == [f"FAC-2026-{n:06}" for n in found]


@pytest.mark.parametrize(
    ("query", "param"),
    [("state=draft", "state"), ("from=yesterday", "from"), ("page_size=0", "page_size"), ("cursor=x", "cursor")],
)
def test_what_makes_no_sense_is_refused(seller: SellerProfile, account: Account, query: str, param: str) -> None:
    response = key_client(account).get(f"{LIST}?{query}")

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == ("invalid_request", param)


def test_pages_go_on_where_the_last_one_ended(seller: SellerProfile, account: Account) -> None:
    with freeze_time(NOON):
        [issued(account) for _ in range(5)]
    client = key_client(account)

    first = client.get(f"{LIST}?page_size=2")
    second = client.get(first.json()["next"])
    third = client.get(second.json()["next"])

    pages = [numbers(first), numbers(second), numbers(third)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(number for page in pages for number in page) == [f"FAC-2026-{n:06}" for n in range(1, 6)]
    assert (third.json()["next"], third.json()["next_cursor"]) == (None, None)


def test_the_list_asks_the_same_number_of_questions_whatever_its_length(seller: SellerProfile, account: Account) -> None:
    client = key_client(account)
    issued(account)
    client.get(LIST)
    with CaptureQueriesContext(connection) as few:
        client.get(LIST)
    [issued(account) for _ in range(5)]

    with CaptureQueriesContext(connection) as many:
        client.get(LIST)

    assert len(many) == len(few)


def test_as_a_table(seller: SellerProfile, account: Account) -> None:
    BillingProfile.objects.create(account=account, name="=HYPERLINK(1)", language="fr")
    with freeze_time(NOON):
        invoice = paid(account)

    response = key_client(account).get(f"{LIST}?format=csv")

    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert 'filename="invoices.csv"' in response["Content-Disposition"]
    [row] = table(response)
    assert {name: row[name] for name in ("number", "state", "issue_date", "net", "tax", "total", "payment_means")} == {
        "number": str(invoice.number),
        "state": "paid",
        "issue_date": "2026-03-31",
        "net": "10000.00",
        "tax": "1900.00",
        "total": "11900.00",
        "payment_means": "ccp",
    }
    assert "customer" not in row


def test_the_document_itself(seller: SellerProfile, account: Account) -> None:
    invoice = issued(account)
    client = key_client(account)

    response = client.get(f"{LIST}/{invoice.number}/pdf")
    again = client.get(f"{LIST}/{invoice.number}/pdf/", headers={"accept": "application/pdf"})

    assert response["Content-Type"] == "application/pdf"
    assert response["Content-Disposition"] == f'inline; filename="{invoice.number}.pdf"'
    assert response["ETag"] == f'"{hashlib.sha256(response.content).hexdigest()}"'
    assert response["Cache-Control"] == "private, no-store"
    assert response.content == again.content == bytes(InvoicePdf.objects.get().content)


def test_the_document_in_another_language(seller: SellerProfile, account: Account) -> None:
    invoice = issued(account)

    client = key_client(account)

    assert client.get(f"{LIST}/{invoice.number}/pdf?language=ar").content[:5] == b"%PDF-"
    assert client.get(f"{LIST}/{invoice.number}/pdf?language=de").json()["error"]["param"] == "language"
    assert list(InvoicePdf.objects.values_list("language", flat=True)) == ["ar"]


def test_numbers_with_slashes_have_addresses(seller: SellerProfile, account: Account) -> None:
    SellerProfile.objects.update(country="IN", region="27", invoice_prefix="IAF")
    with freeze_time(NOON):
        invoice = issued(account)
    client = key_client(account)

    assert invoice.number == "IAF/25-26/000001"
    assert client.get(f"{LIST}/IAF/25-26/000001").json()["id"] == str(invoice.pk)
    assert client.get(f"{LIST}/IAF/25-26/000001/").json()["id"] == str(invoice.pk)
    assert (
        client.get(f"{LIST}/IAF/25-26/000001/pdf").headers["Content-Disposition"] == 'inline; filename="IAF-25-26-000001.pdf"'
    )


def test_what_belongs_to_another_does_not_exist(seller: SellerProfile, account: Account) -> None:
    invoice = issued(account)
    stranger = key_client(account_make())

    answers = [stranger.get(f"{LIST}/{invoice.number}{tail}") for tail in ("", "/pdf")]

    assert [code(answer) for answer in answers] == [(404, "not_found")] * 2
    assert numbers(stranger.get(LIST)) == []
    assert table(stranger.get(f"{LIST}?format=csv")) == []
    assert InvoicePdf.objects.count() == 0


def test_drafts_are_nobodys_business(seller: SellerProfile, account: Account) -> None:
    invoice = draft(account)

    client = key_client(account)

    assert numbers(client.get(LIST)) == []
    assert client.get(f"{LIST}/{invoice.pk}").status_code == 404


@pytest.mark.parametrize("address", [LIST, f"{LIST}/preview", f"{LIST}/X", f"{LIST}/X/pdf"])
def test_a_key_needs_its_scope(seller: SellerProfile, account: Account, address: str) -> None:
    client = key_client(account, ApiKey.Scope.INFERENCE)

    assert code(client.get(address)) == (403, "insufficient_scope")


def test_a_session_may_read(seller: SellerProfile, account: Account) -> None:
    invoice = issued(account)

    assert numbers(session_client(account).get(LIST)) == [invoice.number]


def test_the_next_period_is_foretold(customer: Account, time: FrozenDateTimeFactory) -> None:  # noqa: F811
    SellerProfile.objects.update(tax_registered=True)
    plan = plan_make("pro", "2590")
    subscribe(customer, plan)
    money_balance_change(account=customer, currency="DZD", amount=Decimal(90), key="gift", reason="Gift")
    before = Invoice.objects.count()

    [upcoming] = key_client(customer).get(f"{LIST}/preview").json()["results"]

    end = live(customer).current_period_end
    assert end == datetime(2026, 2, 28, 12, tzinfo=UTC)
    lines, taxes = upcoming.pop("lines"), upcoming.pop("taxes")
    assert [(line["kind"], line["net"], line["tax"], line["gross"]) for line in lines] == [("plan", 2176.47, 413.53, 2590.00)]
    assert taxes == [{"code": "TVA", "label": "TVA", "rate": 0.19, "base": 2176.47, "amount": 413.53}]
    assert upcoming == {
        "purpose": "period",
        "final": True,
        "plan": "pro",
        "expected_at": "2026-02-25T12:00:00Z",
        "due_at": "2026-02-28T12:00:00Z",
        "period_start": "2026-02-28T12:00:00Z",
        "period_end": "2026-03-31T12:00:00Z",
        "currency": "DZD",
        "net": 2176.47,
        "tax": 413.53,
        "total": 2590.00,
        "balance_applied": 90.00,
        "amount_due": 2500.00,
    }
    assert Invoice.objects.count() == before


def test_nothing_is_foretold_on_a_free_plan(customer: Account) -> None:  # noqa: F811
    assert key_client(customer).get(f"{LIST}/preview").json() == {"results": []}


def test_use_beyond_a_metered_plan_is_foretold_so_far(customer: Account, time: FrozenDateTimeFactory) -> None:  # noqa: F811
    plan = plan_make(
        "metered", "1000", billing_mode="metered", period_credits=5, overage_ceiling=Decimal(50), overage_amount=Decimal("2.5")
    )
    subscribe(customer, plan)
    spend(customer, "9")

    overage, period = key_client(customer).get(f"{LIST}/preview").json()["results"]

    # 5 of 9 credits are the plan's; 4 * 2.50 = 10.00
    assert (overage["purpose"], overage["final"], overage["total"], overage["amount_due"]) == ("overage", False, 10.00, 10.00)
    [line] = overage["lines"]
    assert (line["quantity"], line["unit_price"]) == (4, 2.5)
    assert line["usage_url"] == "/api/billing/usage?from=2026-01-31T12%3A00%3A00Z&to=2026-02-28T12%3A00%3A00Z"
    assert len(key_client(customer).get(line["usage_url"]).json()["results"]) == 1
    assert (period["purpose"], period["total"]) == ("period", 1000.00)


def test_what_was_issued_is_no_longer_foretold(customer: Account, time: FrozenDateTimeFactory) -> None:  # noqa: F811
    subscribe(customer, plan_make("pro", "2590"))
    time.move_to(datetime(2026, 2, 26, tzinfo=UTC))
    [foretold] = key_client(customer).get(f"{LIST}/preview").json()["results"]

    subscription_advance(subscription=live(customer))

    client = key_client(customer)
    [row] = client.get(f"{LIST}?state=open").json()["results"]
    assert (row["total"], row["period_start"], row["due_at"]) == (
        foretold["total"],
        foretold["period_start"],
        foretold["due_at"],
    )
    assert client.get(f"{LIST}/preview").json() == {"results": []}
