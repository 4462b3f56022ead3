"""Getting issued invoices to their customers: rendered once and kept with a checksum, mailed with the PDF.

The row is the truth: what has no `mailed_at` is still to be sent, and a sweep finds it whatever became of its task.
"""

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

from django.core.cache import cache
from django.db import transaction
from django.db.models import QuerySet

from billing.accounts.services import task_enqueue
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .document import LANGUAGES
from .mail import invoice_mail_send
from .models import Invoice, InvoicePdf
from .pdf.render import pdf_render
from .printing import document_of, edition_of, language_of

TASK = "billing.invoices.deliver"
# A task that was queued at issue has had this long to run before the sweep asks again.
SWEEP_AFTER = timedelta(minutes=10)
# Who has not been reached after this long is not reached by trying again.
SWEEP_UNTIL = timedelta(days=7)
# Two workers with one invoice do not both mail it; longer than a mail takes, shorter than the next try.
_MAILING_SECONDS = 120


def invoice_pdf_ensure(*, invoice: Invoice, language: str = "") -> InvoicePdf:
    """The PDF of an issued invoice as it stands now, rendered the first time it is asked for, the same bytes ever after.

    ApiError 409 `invoice_not_issued` for a draft, 400 `invalid_request` for a language without wording.
    """
    language = language or language_of(invoice)
    if language not in LANGUAGES:
        raise ApiError(
            400,
            "invalid_request",
            Text("Documents are written in %(languages)s.", languages=", ".join(LANGUAGES)),
            param="language",
        )
    if invoice.state == Invoice.State.DRAFT:
        raise ApiError(409, "invoice_not_issued", "A draft has no document yet.")
    edition = edition_of(invoice)
    kept = InvoicePdf.objects.filter(invoice=invoice, language=language, edition=edition)
    pdf = kept.first()
    if pdf is None:
        content = pdf_render(document_of(invoice, edition=edition, language=language))
        made = InvoicePdf(
            invoice=invoice,
            language=language,
            edition=edition,
            content=content,
            sha256=hashlib.sha256(content).hexdigest(),
            rendered_at=clock.now(),
        )
        # Whoever was faster rendered the same.
        InvoicePdf.objects.bulk_create([made], ignore_conflicts=True)
        pdf = kept.get()
    return pdf


def invoice_deliver(*, invoice_id: UUID | str) -> bool:
    """Render an issued invoice and mail it, unless that was done; whether a mail went out. Raises the mail backend's errors."""
    invoice = _issued().filter(pk=invoice_id).first()
    if invoice is None:
        return False
    pdf = invoice_pdf_ensure(invoice=invoice)
    if invoice.mailed_at is not None or invoice.state == Invoice.State.VOID:
        return False
    claim = f"invoice-mail:{invoice.pk}"
    if not cache.add(claim, 1, timeout=_MAILING_SECONDS):
        return False
    try:
        sent = invoice_mail_send(invoice=invoice, pdf=bytes(pdf.content))
        if sent:
            Invoice.objects.filter(pk=invoice.pk, mailed_at__isnull=True).update(mailed_at=clock.now())
    finally:
        cache.delete(claim)
    return sent


def invoices_undelivered(*, now: datetime) -> QuerySet[Invoice]:
    """Issued documents of the last days whose mail has not gone out although it should have."""
    late = Invoice.objects.filter(issued_at__lte=now - SWEEP_AFTER, issued_at__gt=now - SWEEP_UNTIL, mailed_at__isnull=True)
    return late.exclude(state=Invoice.State.VOID).order_by("issued_at")


def invoice_mail_again(*, invoice: Invoice, actor: Actor, reason: str) -> None:
    """Mail an issued invoice once more. ApiError 409 `invoice_not_issued` for a draft, `invoice_void` for a voided one."""
    with transaction.atomic():
        invoice = Invoice.objects.select_for_update(no_key=True, of=("self",)).get(pk=invoice.pk)
        if invoice.state == Invoice.State.DRAFT:
            raise ApiError(409, "invoice_not_issued", "A draft has no document yet.")
        if invoice.state == Invoice.State.VOID:
            raise ApiError(409, "invoice_void", "A voided invoice is not mailed.")
        before, invoice.mailed_at = invoice.mailed_at, None
        invoice.save(update_fields=["mailed_at"])
        event_record(
            kind="invoice.mail_requested",
            object_type="invoice",
            object_id=invoice.pk,
            account_id=invoice.account_id,
            actor=actor,
            before={"mailed_at": before.isoformat() if before else None},
            after={"number": invoice.number},
            reason=reason,
        )
        invoice_id = str(invoice.pk)
        transaction.on_commit(lambda: task_enqueue(TASK, invoice_id))


def _issued() -> QuerySet[Invoice]:
    issued = Invoice.objects.exclude(state=Invoice.State.DRAFT)
    return issued.select_related("account", "seller", "corrects").prefetch_related("lines")
