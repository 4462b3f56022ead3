"""Issued invoices become PDFs, once per edition, and reach their customers by mail."""

import hashlib
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.db import IntegrityError, connection
from django.utils import translation
from freezegun import freeze_time

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices import delivery, services, tasks
from billing.invoices.balance import money_balance_change
from billing.invoices.models import BillingProfile, Invoice, InvoicePdf, SellerProfile
from billing.invoices.pdf.render import pdf_render
from billing.invoices.printing import document_of, edition_of
from billing.invoices.tasks import deliver, deliver_late
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.formats import day_lazy, money_lazy

from .conftest import NOON
from .test_invoice_services import draft, issued, paid
from .test_pdf import pages

pytestmark = pytest.mark.django_db


def text_of(pdf: InvoicePdf) -> str:
    return " ".join(pages(bytes(pdf.content)))


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Tasks asked for, in the order of asking."""
    asked: list[tuple[str, Any]] = []
    for module in (delivery, services, tasks):
        monkeypatch.setattr(module, "task_enqueue", lambda name, *args: asked.append((name, args)))
    return asked


@pytest.fixture
def french_account(account: Account) -> Account:
    BillingProfile.objects.create(
        account=account,
        name="Cabinet Benali",
        country="DZ",
        email="compta@benali.example",
        identifiers={"nif": "000916001122334", "rc": "16/00-7654321 B 15"},
        language="fr",
    )
    return account


def test_an_issued_invoice_prints_its_own_copies(seller: SellerProfile, french_account: Account) -> None:
    with freeze_time(NOON):
        invoice = issued(french_account, "11900", "-1190", period=(NOON, NOON + timedelta(days=30)))
    seller.legal_name = "Renamed"
    seller.save()
    BillingProfile.objects.update(name="Renamed too")

    text = text_of(delivery.invoice_pdf_ensure(invoice=invoice))

    # 10,710.00 / 1.19 = 9,000.00
    wanted = (
        *("Facture", str(invoice.number), "Cabinet Benali", "RC : 16/00-7654321 B 15 NIF : 000916001122334"),
        *("Total HT 9 000,00", "TVA 19 % sur 9 000,00 1 710,00", "Total TTC 10 710,00 DA", "Échéance 31/03/2026"),
        "Dix mille sept cent dix dinars algériens",
    )
    assert [part for part in wanted if part not in text] == []
    assert "Renamed" not in text


def test_a_pdf_is_rendered_once_and_kept_with_its_checksum(seller: SellerProfile, french_account: Account) -> None:
    invoice = issued(french_account)

    first = delivery.invoice_pdf_ensure(invoice=invoice)
    again = delivery.invoice_pdf_ensure(invoice=invoice)

    assert first.pk == again.pk
    assert first.sha256 == hashlib.sha256(bytes(again.content)).hexdigest()
    assert bytes(first.content) == pdf_render(document_of(invoice, edition=edition_of(invoice)))


def test_a_kept_pdf_cannot_be_replaced(seller: SellerProfile, french_account: Account) -> None:
    pdf = delivery.invoice_pdf_ensure(invoice=issued(french_account))

    with pytest.raises(IntegrityError, match="append-only"):
        InvoicePdf.objects.filter(pk=pdf.pk).update(content=b"forged")


@pytest.mark.django_db(transaction=True)
def test_two_workers_render_one_pdf(seller: SellerProfile, french_account: Account) -> None:
    invoice = issued(french_account)
    found: list[int] = []
    barrier = threading.Barrier(4)

    def render() -> None:
        barrier.wait()
        found.append(delivery.invoice_pdf_ensure(invoice=Invoice.objects.get(pk=invoice.pk)).pk)
        connection.close()

    threads = [threading.Thread(target=render) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert len(set(found)) == 1
    assert InvoicePdf.objects.count() == 1


def test_what_is_paid_or_voided_is_printed_once_more(seller: SellerProfile, french_account: Account) -> None:
    invoice, other = issued(french_account), issued(french_account)
    before = delivery.invoice_pdf_ensure(invoice=invoice)

    services.invoice_payment_apply(invoice=invoice, amount=invoice.due, at=NOON, means="ccp", actor=SYSTEM)
    services.invoice_void(invoice=other, reason="Ordered twice", actor=SYSTEM)
    invoice.refresh_from_db()
    other.refresh_from_db()

    paid_text = text_of(delivery.invoice_pdf_ensure(invoice=invoice))
    void_text = text_of(delivery.invoice_pdf_ensure(invoice=other))
    assert "Mode de règlement Virement CCP" in paid_text
    assert "Date de règlement 31/03/2026" in paid_text
    assert "Reste à payer 0,00 DA" in paid_text
    assert "FACTURE ANNULÉE" in void_text
    assert "Ordered twice" not in void_text
    assert bytes(InvoicePdf.objects.get(pk=before.pk).content) == bytes(before.content)
    assert list(InvoicePdf.objects.order_by("pk").values_list("edition", flat=True)) == ["issued", "paid", "void"]


def test_a_part_payment_does_not_change_what_was_issued(seller: SellerProfile, french_account: Account) -> None:
    invoice = issued(french_account)
    first = pdf_render(document_of(invoice, edition=edition_of(invoice)))

    services.invoice_payment_apply(invoice=invoice, amount=Decimal(100), at=NOON, means="ccp", actor=SYSTEM)
    invoice.refresh_from_db()

    assert pdf_render(document_of(invoice, edition=edition_of(invoice))) == first


def test_money_in_hand_is_shown(seller: SellerProfile, french_account: Account) -> None:
    money_balance_change(account=french_account, currency="DZD", amount=Decimal(900), key="gift", reason="Gift", invoice=None)

    text = text_of(delivery.invoice_pdf_ensure(invoice=issued(french_account)))

    assert "Imputé sur votre solde −900,00" in text
    assert "Reste à payer 11 000,00 DA" in text


def test_a_credit_note_names_its_invoice(seller: SellerProfile, french_account: Account) -> None:
    invoice = paid(french_account)
    note = services.credit_note_issue(
        invoice=invoice, amount=Decimal("1190"), reason="internal", actor=SYSTEM, key="k", to_balance=True
    )

    text = text_of(delivery.invoice_pdf_ensure(invoice=note))

    assert f"Avoir sur la facture {invoice.number} du" in text
    assert "Total de l’avoir 1 190,00 DA" in text
    assert "TVA 19 % sur 1 000,00 190,00" in text
    assert "internal" not in text


def test_another_language_is_rendered_when_asked_for(seller: SellerProfile, french_account: Account) -> None:
    invoice = issued(french_account)

    text = text_of(delivery.invoice_pdf_ensure(invoice=invoice, language="ar"))

    assert "أحد عشر ألفا وتسعمائة دينار جزائري" in text
    with pytest.raises(ApiError, match="fr, ar, en"):
        delivery.invoice_pdf_ensure(invoice=invoice, language="de")


def test_a_seller_without_tax_says_so(shipped: SellerProfile, french_account: Account) -> None:
    first = text_of(delivery.invoice_pdf_ensure(invoice=issued(french_account)))
    shipped.tax_mention = "TVA non applicable, IFU."
    shipped.save()
    second = text_of(delivery.invoice_pdf_ensure(invoice=issued(french_account)))

    assert "Vendeur non assujetti : taxe non applicable." in first
    assert "TVA non applicable, IFU." in second
    assert "HT" not in first


def test_an_indian_invoice_names_place_and_charge(seller: SellerProfile, account: Account) -> None:
    SellerProfile.objects.update(
        country="IN", region="27", identifiers={"gstin": "27AAPFU0939F1ZV"}, default_sac="998315", invoice_prefix="IAF"
    )
    BillingProfile.objects.create(account=account, name="Kaveri", country="IN", region="27", language="en")

    with freeze_time(NOON):
        invoice = issued(account, "1180.00", currency="INR")
    text = text_of(delivery.invoice_pdf_ensure(invoice=invoice))

    wanted = (
        *("Tax invoice", "IAF/25-26/000001", "GSTIN: 27AAPFU0939F1ZV", "Place of supply Maharashtra (27)"),
        *("Tax payable on reverse charge No", "998315", "CGST 9% on 1,000.00 90.00", "SGST 9% on 1,000.00 90.00"),
        "Rupees one thousand one hundred and eighty only",
    )
    assert [part for part in wanted if part not in text] == []


def test_a_draft_has_no_document(seller: SellerProfile, french_account: Account) -> None:
    with pytest.raises(ApiError) as caught:
        delivery.invoice_pdf_ensure(invoice=draft(french_account))

    assert caught.value.code == "invoice_not_issued"
    assert InvoicePdf.objects.count() == 0


def test_an_invoice_is_mailed_once_with_its_pdf(seller: SellerProfile, french_account: Account) -> None:
    invoice = issued(french_account)

    deliver(str(invoice.pk))
    deliver(str(invoice.pk))

    [sent] = mail.outbox
    [attachment] = sent.attachments
    assert isinstance(sent, EmailMessage)
    assert sent.to == ["compta@benali.example"]
    assert sent.subject == f"Facture {invoice.number}"
    assert "11\u202f900\u00a0DZD" in str(sent.body)
    assert tuple(attachment) == (f"{invoice.number}.pdf", bytes(InvoicePdf.objects.get().content), "application/pdf")
    invoice.refresh_from_db()
    assert invoice.mailed_at is not None


@pytest.mark.parametrize(
    ("language", "total", "due_on"),
    [
        ("en", "DZD\u00a011,900", "31 Mar 2026"),
        ("fr", "11\u202f900\u00a0DZD", "31 mars 2026"),
        ("ar", "11.900\u00a0د.ج.\u200f", "31 مارس 2026"),
    ],
)
def test_the_mail_writes_money_and_days_as_reminders_of_the_invoice_do(
    seller: SellerProfile, account: Account, language: str, total: str, due_on: str
) -> None:
    BillingProfile.objects.create(account=account, name="Benali", email="a@b.example", language=language)
    invoice = issued(account)
    Invoice.objects.filter(pk=invoice.pk).update(due_at=datetime(2026, 3, 31, 12, tzinfo=UTC))

    delivery.invoice_deliver(invoice_id=invoice.pk)

    body = str(mail.outbox[0].body)
    assert total in body
    assert due_on in body
    with translation.override(language):
        assert (str(money_lazy(invoice.due, "DZD")), str(day_lazy(date(2026, 3, 31)))) == (total, due_on)


def test_a_credit_note_is_mailed_in_arabic(seller: SellerProfile, account: Account) -> None:
    BillingProfile.objects.create(account=account, name="شركة النور", email="a@b.example", language="ar")
    invoice = paid(account)
    note = services.credit_note_issue(
        invoice=invoice, amount=Decimal("1190"), reason="r", actor=SYSTEM, key="k", to_balance=True
    )

    delivery.invoice_deliver(invoice_id=note.pk)

    assert mail.outbox[0].subject == f"الإشعار الدائن {note.number}"
    assert str(invoice.number) in str(mail.outbox[0].body)


def test_without_a_billing_address_the_owners_get_it(seller: SellerProfile, account: Account) -> None:
    invoice = issued(account)

    delivery.invoice_deliver(invoice_id=invoice.pk)

    owner = account.memberships.get().user
    assert mail.outbox[0].to == [account.billing_email or owner.email]


def test_a_mail_server_that_is_away_is_asked_again(
    seller: SellerProfile, french_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoice = issued(french_account)

    def away(self: EmailMessage, fail_silently: bool = False) -> int:
        raise SMTPServerDisconnected("away")

    with monkeypatch.context() as patched:
        patched.setattr(EmailMessage, "send", away)
        with pytest.raises(SMTPServerDisconnected):
            delivery.invoice_deliver(invoice_id=invoice.pk)
    invoice.refresh_from_db()
    assert invoice.mailed_at is None

    assert delivery.invoice_deliver(invoice_id=invoice.pk) is True
    assert len(mail.outbox) == 1


def test_a_voided_invoice_is_not_mailed(seller: SellerProfile, french_account: Account) -> None:
    invoice = services.invoice_void(invoice=issued(french_account), reason="r", actor=SYSTEM)

    assert delivery.invoice_deliver(invoice_id=invoice.pk) is False
    assert mail.outbox == []


def test_a_lost_delivery_is_found_by_the_sweep(
    seller: SellerProfile, french_account: Account, queued: list[tuple[str, Any]]
) -> None:
    with freeze_time(NOON):
        lost, done = issued(french_account), issued(french_account)
        services.invoice_void(invoice=issued(french_account), reason="r", actor=SYSTEM)
    Invoice.objects.filter(pk=done.pk).update(mailed_at=clock.now())
    queued.clear()

    with freeze_time(NOON + timedelta(minutes=9)):
        early = deliver_late()
    with freeze_time(NOON + timedelta(minutes=10)):
        found = deliver_late()
    with freeze_time(NOON + timedelta(days=7)):
        given_up = deliver_late()

    assert (early, found, given_up) == (0, 1, 0)
    assert queued == [("billing.invoices.deliver", (str(lost.pk),))]


def test_an_operator_can_have_it_mailed_again(
    seller: SellerProfile, french_account: Account, django_capture_on_commit_callbacks: Any, queued: list[tuple[str, Any]]
) -> None:
    invoice = issued(french_account)
    delivery.invoice_deliver(invoice_id=invoice.pk)
    queued.clear()

    with django_capture_on_commit_callbacks(execute=True):
        delivery.invoice_mail_again(invoice=invoice, actor=SYSTEM, reason="Lost")
    delivery.invoice_deliver(invoice_id=invoice.pk)

    assert len(mail.outbox) == 2
    assert queued == [("billing.invoices.deliver", (str(invoice.pk),))]
    assert Event.objects.get(kind="invoice.mail_requested").reason == "Lost"


def test_what_was_voided_or_never_issued_is_not_mailed_again(seller: SellerProfile, french_account: Account) -> None:
    void = services.invoice_void(invoice=issued(french_account), reason="r", actor=SYSTEM)

    with pytest.raises(ApiError) as voided:
        delivery.invoice_mail_again(invoice=void, actor=SYSTEM, reason="r")
    with pytest.raises(ApiError) as drafted:
        delivery.invoice_mail_again(invoice=draft(french_account), actor=SYSTEM, reason="r")

    assert (voided.value.code, drafted.value.code) == ("invoice_void", "invoice_not_issued")
