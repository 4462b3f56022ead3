"""Invoices in the console: found, explained, printed, exported, and moved by deeds that ask why."""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils.translation import override
from freezegun import freeze_time

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices.admin import money
from billing.invoices.balance import money_balance
from billing.invoices.lines import LineItem
from billing.invoices.models import BillingProfile, Invoice, InvoicePdf, SellerProfile, TaxRate
from billing.invoices.services import invoice_draft, invoice_finalise, invoice_payment_apply
from billing.ledger.models import UsageRecord
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import Plan, PlanPrice
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from iafactory.common.ids import uuid7

from .conftest import call
from .test_console_pages import text_of

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
LIST = "admin:billing_invoice_changelist"


@pytest.fixture(autouse=True)
def seller(db: None) -> SellerProfile:
    """What is shipped, registered for tax."""
    with catalog_writing() as writer:
        selling_write(writer)
    SellerProfile.objects.update(tax_registered=True)
    return SellerProfile.objects.get()


def draft(account: Account, amount: str = "11900", **fields: Any) -> Invoice:
    item = LineItem(kind="plan", description="Pro", amount=Decimal(amount), **fields)
    return invoice_draft(account=account, purpose="other", items=[item], currency="DZD")


def issued(account: Account, amount: str = "11900", **fields: Any) -> Invoice:
    return invoice_finalise(invoice=draft(account, amount, **fields), actor=SYSTEM)


def paid(account: Account) -> Invoice:
    invoice = issued(account)
    invoice_payment_apply(invoice=invoice, amount=invoice.due, at=clock.now(), means="ccp", actor=SYSTEM)
    invoice.refresh_from_db()
    return invoice


def page(invoice: Invoice) -> str:
    return reverse("admin:billing_invoice_change", args=[invoice.pk])


def act(invoice: Invoice, name: str) -> str:
    return reverse("admin:billing_invoice_act", args=[invoice.pk, name])


def offered(console: Client, invoice: Invoice) -> list[str]:
    return [str(label) for _, label in console.get(page(invoice)).context["steps"]]


def clerk(*codenames: str) -> Client:
    user = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_each_state_offers_what_can_be_done(console: Client, account: Account) -> None:
    void, open_ = issued(account), issued(account)
    console.post(act(void, "void"), {"reason": "r"})

    assert offered(console, draft(account)) == ["Finalise…"]
    assert offered(console, open_) == ["Void…", "Uncollectible…", "Mail again…"]
    assert offered(console, paid(account)) == ["Credit note…", "Mail again…"]
    assert offered(console, void) == []


def test_a_draft_is_finalised(console: Client, account: Account) -> None:
    invoice = draft(account)

    answer = console.post(act(invoice, "finalise"), {"reason": "Ordered by phone"})

    assert answer.status_code == 302
    invoice.refresh_from_db()
    assert (invoice.state, invoice.sequence) == ("open", 1)
    assert Event.objects.get(kind="invoice.issued").actor_label == "operator@example.com"


def test_an_invoice_is_voided_with_a_reason(console: Client, account: Account) -> None:
    invoice = issued(account)

    console.post(act(invoice, "void"), {"reason": ""})
    invoice.refresh_from_db()
    assert invoice.state == "open"

    console.post(act(invoice, "void"), {"reason": "Ordered twice"})
    invoice.refresh_from_db()
    assert (invoice.state, invoice.reason) == ("void", "Ordered twice")
    assert LogEntry.objects.get().get_change_message() == "Voided. Ordered twice"


def test_an_invoice_is_given_up(console: Client, account: Account) -> None:
    invoice = issued(account)

    console.post(act(invoice, "writeoff"), {"reason": "Bankrupt"})

    invoice.refresh_from_db()
    assert invoice.state == "uncollectible"


def test_a_part_is_credited_once(console: Client, account: Account) -> None:
    invoice = paid(account)
    data = {"amount": "1190", "to_balance": "yes", "reason": "Goodwill", "deed": str(uuid7())}

    console.post(act(invoice, "credit"), data)
    console.post(act(invoice, "credit"), data)

    note = Invoice.objects.get(kind="credit_note")
    assert (note.total, note.tax_total, note.state) == (Decimal(1190), Decimal(190), "paid")
    assert money_balance(account.pk, "DZD") == Decimal(1190)
    assert str(note.number) in console.get(page(invoice)).content.decode()


@pytest.mark.parametrize("amount", ["0", "-1", "11900.01", "1.001", "x"])
def test_a_credit_that_cannot_be_is_refused(console: Client, account: Account, amount: str) -> None:
    invoice = paid(account)
    data = {"amount": amount, "to_balance": "yes", "reason": "r", "deed": str(uuid7())}

    answer = console.post(act(invoice, "credit"), data)

    assert answer.status_code == 200
    assert not Invoice.objects.filter(kind="credit_note").exists()


def test_a_document_is_mailed_again(console: Client, account: Account) -> None:
    invoice = issued(account)
    Invoice.objects.filter(pk=invoice.pk).update(mailed_at=clock.now())

    console.post(act(invoice, "mail"), {"reason": "Lost"})

    invoice.refresh_from_db()
    assert invoice.mailed_at is None
    assert Event.objects.get(kind="invoice.mail_requested").reason == "Lost"


def test_what_is_over_is_not_done_again(console: Client, account: Account) -> None:
    invoice = issued(account)
    console.post(act(invoice, "void"), {"reason": "r"})
    before = Event.objects.count()

    answer = console.post(act(invoice, "void"), {"reason": "again"}, follow=True)

    assert "Nothing to do: it is Void." in answer.content.decode()
    assert Event.objects.count() == before


@pytest.mark.parametrize("name", ["finalise", "void", "writeoff", "credit", "mail", "nonsense"])
def test_each_deed_needs_its_right(account: Account, name: str) -> None:
    invoice = issued(account)
    rights = {"finalise_invoice", "void_invoice", "writeoff_invoice", "credit_invoice", "mail_invoice"} - {f"{name}_invoice"}

    answer = clerk("view_invoice", *rights).post(act(invoice, name), {"reason": "r"})

    assert answer.status_code == 403
    invoice.refresh_from_db()
    assert invoice.state == "open"


def test_a_line_opens_down_to_the_calls(console: Client, account: Account) -> None:
    request_id = call(account)
    start = clock.now() - timedelta(hours=1)
    invoice = issued(account, period_start=start, period_end=start + timedelta(hours=2))

    content = console.get(page(invoice)).content.decode()

    address = reverse("admin:billing_usagerecord_changelist")
    [link] = [part.split('"')[0] for part in content.split('href="') if part.startswith(f"{address}?") and "started_at" in part]
    found = console.get(link.replace("&amp;", "&")).context["cl"].queryset
    assert [record.pk for record in found] == [request_id]
    assert UsageRecord.objects.count() == 1


def test_the_page_explains_amounts_and_parties(console: Client, account: Account) -> None:
    BillingProfile.objects.create(account=account, name="Cabinet Benali", identifiers={"nif": "000916001122334"})
    invoice = issued(account)

    text = text_of(console.get(page(invoice)))

    assert "Without tax 10,000.00 DZD Tax 1,900.00 DZD" in text
    assert "Due 11,900.00 DZD" in text
    assert "Cabinet Benali" in text
    assert "000916001122334" in text


def test_the_document_is_shown(console: Client, account: Account) -> None:
    invoice = issued(account)

    answer = console.get(reverse("admin:billing_invoice_pdf", args=[invoice.pk]), {"language": "ar"})

    assert (answer["Content-Type"], answer.content[:5]) == ("application/pdf", b"%PDF-")
    pdf = InvoicePdf.objects.get()
    assert pdf.language == "ar"
    assert pdf.sha256 in console.get(page(invoice)).content.decode()


def test_a_draft_has_no_document(console: Client, account: Account) -> None:
    answer = console.get(reverse("admin:billing_invoice_pdf", args=[draft(account).pk]), follow=True)

    assert "A draft has no document yet." in answer.content.decode()


def test_the_list_as_it_is_filtered_becomes_a_table(console: Client, account: Account) -> None:
    with freeze_time(NOON):
        paid(account)
        wanted = issued(account)
        draft(account)

    answer = console.get(reverse("admin:billing_invoice_export"), {"state__exact": "open"})

    lines = b"".join(answer.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    [row] = csv.DictReader(lines)
    assert (row["number"], row["total"], row["account_id"], row["seller"]) == (
        wanted.number,
        "11900.00",
        str(account.pk),
        wanted.seller_code,
    )


def test_drafts_are_in_no_table(console: Client, account: Account) -> None:
    draft(account)

    answer = console.get(reverse("admin:billing_invoice_export"))

    assert len(b"".join(answer.streaming_content).splitlines()) == 1  # type: ignore[attr-defined]


def test_documents_and_tables_need_the_right_to_see(account: Account) -> None:
    invoice, client = issued(account), clerk("view_account")

    answers = [
        client.get(reverse("admin:billing_invoice_pdf", args=[invoice.pk])),
        client.get(reverse("admin:billing_invoice_export")),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"fiscal_year": "2026"}, 1),
        ({"fiscal_year": "2025"}, 0),
        ({"fiscal_year": "x"}, 0),
        ({"currency": "DZD"}, 1),
        ({"seller_code": "nobody"}, 0),
        ({"q": "FAC-2026-000001"}, 1),
    ],
)
def test_found_by_what_an_operator_has_at_hand(console: Client, account: Account, query: dict[str, str], found: int) -> None:
    with freeze_time(NOON):
        issued(account)
    SellerProfile.objects.update(invoice_prefix="FAC")

    assert console.get(reverse(LIST), query).context["cl"].result_count == found


def seller_form(**changes: str) -> dict[str, str]:
    return {
        "code": "main",
        "valid_from": "2026-01-01",
        "legal_name": "IA Factory",
        "country": "DZ",
        "time_zone": "Africa/Algiers",
        "invoice_prefix": "FAC",
        "credit_note_prefix": "AV",
    } | changes


def test_identifiers_of_the_seller_are_checked_and_kept(console: Client, seller: SellerProfile) -> None:
    address = reverse("admin:billing_sellerprofile_change", args=[seller.pk])

    wrong = console.post(address, seller_form(nif="123", rc="nonsense"))
    right = console.post(address, seller_form(nif="0012 1620 9012 345", rc="16/00-1234567b18"))

    assert "NIF: 15 or 20 digits are expected." in wrong.content.decode()
    assert "RC: write it like" in wrong.content.decode()
    assert right.status_code == 302
    seller.refresh_from_db()
    assert seller.identifiers == {"nif": "001216209012345", "rc": "16/00-1234567 B 18"}
    event = Event.objects.filter(kind="seller_profile.edited").get()
    assert event.after["identifiers"] == {"nif": "001216209012345", "rc": "16/00-1234567 B 18"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credit_note_prefix": "FAC"}, "Credit notes need another prefix than invoices."),
        ({"invoice_prefix": "IN"}, "Another seller&#x27;s numbers have one of these prefixes."),
        ({"credit_note_prefix": "INCN"}, "Another seller&#x27;s numbers have one of these prefixes."),
    ],
)
def test_numbers_stay_apart(console: Client, seller: SellerProfile, changes: dict[str, str], message: str) -> None:
    SellerProfile.objects.create(code="india", legal_name="IA Factory India", invoice_prefix="IN", credit_note_prefix="INCN")

    answer = console.post(reverse("admin:billing_sellerprofile_change", args=[seller.pk]), seller_form(**changes))

    assert message in answer.content.decode()


def test_a_gstin_must_be_of_the_state(console: Client, seller: SellerProfile) -> None:
    address = reverse("admin:billing_sellerprofile_change", args=[seller.pk])

    answer = console.post(address, seller_form(country="IN", region="29", gstin="27AAPFU0939F1ZV"))

    assert "The GSTIN is of another state." in answer.content.decode()


def test_a_tax_rule_in_force_is_only_ended(console: Client) -> None:
    rate = TaxRate.objects.get(code="dz-standard")
    before = TaxRate.objects.values().get(pk=rate.pk)

    console.post(reverse("admin:billing_taxrate_change", args=[rate.pk]), {"valid_until": "2027-01-01", "components": "[]"})

    after = TaxRate.objects.values().get(pk=rate.pk)
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "valid_until": datetime(2027, 1, 1, tzinfo=UTC).date()
    }


def test_a_tax_rule_that_cannot_be_reckoned_with_is_refused(console: Client) -> None:
    data = {
        "country": "DZ",
        "code": "x",
        "scope": "domestic",
        "category": "x",
        "label": "TVA",
        "valid_from": "2026-01-01",
        "mention": "{}",
        "components": '[{"code": "TVA", "rate": "a fifth"}]',
    }

    answer = console.post(reverse("admin:billing_taxrate_add"), data)

    assert "rates are fractions as text" in answer.content.decode()
    assert not TaxRate.objects.filter(code="x").exists()


def test_a_subscription_tells_its_next_invoice(console: Client, account: Account) -> None:
    plan = Plan.objects.create(code="pro", name="Pro", family="x", billing_mode="quota")
    price = PlanPrice.objects.create(plan=plan, currency="DZD", amount=2590, effective_from=NOON)
    end = NOON + timedelta(days=30)
    Subscription.objects.filter(account=account).update(
        plan=plan, price=price, current_period_start=NOON, current_period_end=end, billing_anchor=NOON, paid_through=end
    )
    subscription = Subscription.objects.get(account=account)

    with freeze_time(NOON + timedelta(days=1)):
        client = Client()
        client.force_login(User.objects.get(email="operator@example.com"))
        text = text_of(client.get(reverse("admin:billing_subscription_change", args=[subscription.pk])))

    assert "2026-04-27 Subscription Pro 2,176.47 413.53 2,590 0 2,590 DZD" in text
    assert not Invoice.objects.exists()


@pytest.mark.parametrize(("language", "told"), [("en", "2,590.00 DZD"), ("fr", "2\u202f590,00 DZD"), ("ar", "2.590,00 DZD")])
def test_amounts_are_written_as_the_operators_language_has_it(language: str, told: str) -> None:
    with override(language):
        assert money(Decimal(2590), "DZD") == told
