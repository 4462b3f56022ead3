"""The mail that brings an invoice or a credit note, with its PDF, in the customer's language."""

import re

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.utils import translation

from billing.accounts.models import Membership, User
from iafactory.common.formats import day_text, money_text

from .models import Invoice
from .paying import automatic_payment, pay_link
from .printing import language_of


def invoice_mail_send(*, invoice: Invoice, pdf: bytes) -> bool:
    """Mail an issued document to the customer; False when there is no address to send it to.

    Raises what the mail backend raises (`OSError`, `SMTPException`). Never call it inside a transaction.
    """
    recipients = invoice_recipients(invoice)
    if not recipients:
        return False
    language = language_of(invoice)
    to_pay = invoice.kind == Invoice.Kind.INVOICE and invoice.due > 0
    automatic = automatic_payment(invoice) if to_pay else None
    template = "credit_note" if invoice.kind == Invoice.Kind.CREDIT_NOTE else "invoice"
    zone = invoice.seller.zone
    # As every other mail and page writes them; the document beside it has the style of documents.
    with translation.override(language):
        context = {
            "account": invoice.account.name,
            "seller": invoice.seller_snapshot.get("legal_name", ""),
            "number": invoice.number,
            "corrects": invoice.corrects.number if invoice.corrects else "",
            "total": money_text(invoice.total, invoice.currency),
            "due": money_text(invoice.due, invoice.currency) if invoice.due else "",
            "due_date": day_text(invoice.due_at, zone) if invoice.due_at else "",
            "link": pay_link(invoice).url if to_pay else f"{settings.PUBLIC_URL}/billing/",
            "charged_to": automatic.card if automatic else "",
            "charged_on": day_text(automatic.at, zone) if automatic else "",
        }
    subject, _, body = render_to_string(f"billing/mail/{language}/{template}.txt", context).strip().partition("\n")
    message = EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, recipients)
    message.attach(file_name(invoice), pdf, "application/pdf")
    message.send()
    return True


def invoice_recipients(invoice: Invoice) -> list[str]:
    """Where a document goes: the address it was made out with, else the account's owners."""
    billed = str(invoice.customer_snapshot.get("email") or "") or invoice.account.billing_email
    if billed:
        return [billed]
    owners = User.objects.filter(memberships__account=invoice.account, memberships__role=Membership.Role.OWNER, is_active=True)
    return list(owners.order_by("email").values_list("email", flat=True))


def file_name(invoice: Invoice) -> str:
    """The name of a document's file: its number, with what file systems do not take replaced."""
    return f"{re.sub('[^0-9A-Za-z-]+', '-', invoice.number or 'draft')}.pdf"
