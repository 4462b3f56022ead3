"""Reminders of renewals that are not paid: which are due, each once, and the mails that carry them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from billing.accounts.mail import LANGUAGES, mail_send
from billing.accounts.models import Account, Membership, User
from billing.accounts.services import task_enqueue
from billing.invoices.models import Invoice
from billing.invoices.rounding import minor_digits
from iafactory.common import clock

from .models import DunningNotice, DunningStep, Subscription

EXPIRED = "plan_expired"
TASK = "billing.subscriptions.dunning_mail_send"
# A mail that was queued and not sent is queued again after this long.
RESEND_AFTER = timedelta(minutes=10)


def dunning_run(*, now: datetime | None = None) -> int:
    """Queue the reminders that are due at `now`; returns how many. Of several that fell due together only the last is sent.

    Safe to repeat and at once: a reminder is one row per invoice and template.
    """
    now = now or clock.now()
    steps = list(DunningStep.objects.filter(is_enabled=True).order_by("offset_hours"))
    if not steps:
        return 0
    first = timedelta(hours=steps[0].offset_hours)
    unpaid = Invoice.objects.filter(
        kind=Invoice.Kind.INVOICE,
        purpose=Invoice.Purpose.PERIOD,
        state=Invoice.State.OPEN,
        subscription_id__isnull=False,
        period_start__lte=now - first,
    )
    queued = 0
    for invoice in unpaid.order_by("period_start", "id").iterator():
        queued += _invoice_remind(invoice, steps, now)
    return queued


def _invoice_remind(invoice: Invoice, steps: list[DunningStep], now: datetime) -> bool:
    if invoice.subscription_id is None or invoice.period_start is None:
        return False
    subscription = Subscription.objects.filter(pk=invoice.subscription_id, state__in=Subscription.LIVE).first()
    if subscription is None:
        return False
    due = [
        step
        for step in steps
        if (at := invoice.period_start + timedelta(hours=step.offset_hours)) <= now
        and (subscription.grace_until is None or at < subscription.grace_until)
    ]
    told = set(DunningNotice.objects.filter(invoice_id=invoice.pk).values_list("template", flat=True))
    new = [step for step in due if step.template not in told]
    if not new:
        return False
    # What lies before the last one told has been passed over, however late it comes to light.
    last = due[-1]
    for step in new:
        notice_queue(subscription=subscription, invoice_id=invoice.pk, template=step.template, skipped=step is not last)
    return new[-1] is last


def notice_queue(*, subscription: Subscription, invoice_id: UUID, template: str, skipped: bool = False) -> None:
    """Write a reminder down, once, and have it mailed after the commit."""
    with transaction.atomic():
        notice = DunningNotice(
            subscription=subscription, invoice_id=invoice_id, template=template, skipped=skipped, created_at=clock.now()
        )
        [made] = DunningNotice.objects.bulk_create([notice], ignore_conflicts=True)
        if not skipped:
            notice_id = str(made.pk)
            transaction.on_commit(lambda: task_enqueue(TASK, notice_id))


def notices_unsent(*, now: datetime) -> QuerySet[DunningNotice]:
    """Reminders whose mail has not gone out although it should have."""
    return DunningNotice.objects.filter(sent_at__isnull=True, skipped=False, created_at__lte=now - RESEND_AFTER)


def dunning_mail_send(*, notice_id: UUID | str) -> bool:
    """Send one reminder, if it was not sent and still makes sense; False otherwise. Raises the mail backend's errors."""
    notice = DunningNotice.objects.select_related("subscription__account", "subscription__plan").filter(pk=notice_id).first()
    if notice is None or notice.sent_at is not None or notice.skipped:
        return False
    invoice = Invoice.objects.filter(pk=notice.invoice_id).first()
    wanted = invoice is not None and (invoice.state == Invoice.State.OPEN or notice.template == EXPIRED)
    if not wanted or invoice is None:
        DunningNotice.objects.filter(pk=notice.pk).update(skipped=True)
        return False
    account = notice.subscription.account
    context = _context(notice.subscription, invoice)
    language = account.language if account.language in LANGUAGES else "en"
    for to in _recipients(account):
        mail_send(template=notice.template, language=language, to=to, context=context)
    DunningNotice.objects.filter(pk=notice.pk).update(sent_at=clock.now())
    return True


def _context(subscription: Subscription, invoice: Invoice) -> dict[str, Any]:
    zone = subscription.account.zone
    ends_at = subscription.grace_until
    return {
        "account": subscription.account.name,
        "plan": subscription.plan.name,
        "number": invoice.number,
        "amount": f"{invoice.due:.{minor_digits(invoice.currency)}f}",
        "currency": invoice.currency,
        "period_start": invoice.period_start.astimezone(zone).date().isoformat() if invoice.period_start else "",
        "ends_at": ends_at.astimezone(zone).strftime("%Y-%m-%d %H:%M") if ends_at else "",
        "link": f"{settings.PUBLIC_URL}/billing/",
    }


def _recipients(account: Account) -> list[str]:
    """Where mails about money go: the billing e-mail, else the owners."""
    if account.billing_email:
        return [account.billing_email]
    owners = User.objects.filter(memberships__account=account, memberships__role=Membership.Role.OWNER, is_active=True)
    return list(owners.order_by("email").values_list("email", flat=True))
