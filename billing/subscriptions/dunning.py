"""Reminders of what is not paid, renewals and use beyond plans: which are due, each once, and the mails that carry them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from billing.accounts.mail import LANGUAGES, mail_send
from billing.accounts.models import Account, Membership, User
from billing.accounts.services import task_enqueue
from billing.invoices.models import Invoice
from billing.invoices.paying import automatic_payment, pay_link
from iafactory.common import clock
from iafactory.common.formats import day_lazy, instant_lazy, money_lazy

from .models import DunningNotice, DunningStep, Subscription

EXPIRED = "plan_expired"
# Use beyond a plan has no period that waits for its payment: what is said of it, counted from when it is due.
OVERAGE_TEMPLATES = {
    DunningStep.Template.OVERDUE: "overage_overdue",
    DunningStep.Template.LAST_WARNING: "overage_last_warning",
}
TASK = "billing.subscriptions.dunning_mail_send"
_OVERAGE = Invoice.Purpose.OVERAGE
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
        Q(purpose=Invoice.Purpose.PERIOD, period_start__lte=now - first)
        | Q(purpose=Invoice.Purpose.OVERAGE, due_at__lte=now - first),
        kind=Invoice.Kind.INVOICE,
        state=Invoice.State.OPEN,
        subscription_id__isnull=False,
    )
    queued = 0
    for invoice in unpaid.order_by("period_start", "id").iterator():
        queued += _overage_remind(invoice, steps, now) if invoice.purpose == _OVERAGE else _invoice_remind(invoice, steps, now)
    return queued


def _invoice_remind(invoice: Invoice, steps: list[DunningStep], now: datetime) -> bool:
    if invoice.subscription_id is None or invoice.period_start is None:
        return False
    subscription = Subscription.objects.filter(pk=invoice.subscription_id, state__in=Subscription.LIVE).first()
    if subscription is None:
        return False
    due = [
        step.template
        for step in steps
        if (at := invoice.period_start + timedelta(hours=step.offset_hours)) <= now
        and (subscription.grace_until is None or at < subscription.grace_until)
    ]
    return _steps_queue(subscription, invoice, due)


def _overage_remind(invoice: Invoice, steps: list[DunningStep], now: datetime) -> bool:
    """Use beyond a plan is owed whether or not the plan goes on."""
    if invoice.subscription_id is None or invoice.due_at is None:
        return False
    subscription = Subscription.objects.filter(pk=invoice.subscription_id).first()
    if subscription is None:
        return False
    due = [
        OVERAGE_TEMPLATES[DunningStep.Template(step.template)]
        for step in steps
        if step.template in OVERAGE_TEMPLATES and invoice.due_at + timedelta(hours=step.offset_hours) <= now
    ]
    return _steps_queue(subscription, invoice, due)


def _steps_queue(subscription: Subscription, invoice: Invoice, due: list[str]) -> bool:
    """Queue the last of the templates that are due, if it was not told yet; whether one goes out."""
    told = set(DunningNotice.objects.filter(invoice_id=invoice.pk).values_list("template", flat=True))
    new = [template for template in dict.fromkeys(due) if template not in told]
    if not new:
        return False
    # What lies before the last one told has been passed over, however late it comes to light.
    last = due[-1]
    for template in new:
        notice_queue(subscription=subscription, invoice_id=invoice.pk, template=template, skipped=template != last)
    return new[-1] == last


def notice_queue(
    *,
    subscription: Subscription,
    invoice_id: UUID,
    template: str,
    skipped: bool = False,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a reminder down, once, and have it mailed after the commit. `facts` are told beside the invoice's own."""
    with transaction.atomic():
        notice = DunningNotice(
            subscription=subscription,
            invoice_id=invoice_id,
            template=template,
            skipped=skipped,
            facts=facts or {},
            created_at=clock.now(),
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
    context = _context(notice.subscription, invoice) | notice.facts
    language = account.language if account.language in LANGUAGES else "en"
    for to in _recipients(account):
        mail_send(template=notice.template, language=language, to=to, context=context)
    DunningNotice.objects.filter(pk=notice.pk).update(sent_at=clock.now())
    return True


def _context(subscription: Subscription, invoice: Invoice) -> dict[str, Any]:
    zone = subscription.account.zone
    ends_at = subscription.grace_until
    open_still = invoice.state == Invoice.State.OPEN
    automatic = automatic_payment(invoice) if open_still else None
    return {
        "account": subscription.account.name,
        "plan": subscription.plan.name,
        "number": invoice.number,
        "amount": money_lazy(invoice.due, invoice.currency),
        "period_start": day_lazy(invoice.period_start, zone) if invoice.period_start else "",
        "ends_at": instant_lazy(ends_at, zone) if ends_at else "",
        "due_date": day_lazy(invoice.due_at, zone) if invoice.due_at else "",
        "charged_to": automatic.card if automatic else "",
        "charged_on": instant_lazy(automatic.at, zone) if automatic else "",
        "link": pay_link(invoice).url if open_still else f"{settings.PUBLIC_URL}/billing/",
        "account_link": f"{settings.PUBLIC_URL}/billing/",
    }


def _recipients(account: Account) -> list[str]:
    """Where mails about money go: the billing e-mail, else the owners."""
    if account.billing_email:
        return [account.billing_email]
    owners = User.objects.filter(memberships__account=account, memberships__role=Membership.Role.OWNER, is_active=True)
    return list(owners.order_by("email").values_list("email", flat=True))
