"""Telling customers by mail of their plan and credits: what each wants, each notice once, in the reader's language."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import QuerySet

from billing.accounts.models import Account
from billing.accounts.services import owners_mail_send, task_enqueue
from billing.events.services import Actor, event_record
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.formats import instant_lazy, money_lazy, number_lazy
from iafactory.common.texts import Text

from .models import CustomerNotice, NoticeKind, NoticePreference

TASK = "billing.notices.mail_send"
# A mail that was queued and not sent is queued again after this long, and no more when it says nothing new any longer.
RESEND_AFTER = timedelta(minutes=10)
RESEND_UNTIL = timedelta(days=2)

_MAILING_SECONDS = 120

UNCHANGED: Any = object()
# Of the facts: numbers, and amounts with their currency.
_FIGURES = frozenset({"used", "limit", "spent", "credits", "balance"})
_PRICES = frozenset({"before", "after"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What a kind's threshold means, with the one everybody has and the bounds; `unit` empty: it has none of its own."""

    unit: str = ""
    usual: int | None = None
    lowest: int = 1
    highest: int = 1


# The balance's own threshold is `CreditNotice`'s; a key's is four fifths.
TERMS: Mapping[str, Terms] = {
    NoticeKind.CREDITS: Terms(),
    NoticeKind.KEY_BUDGET: Terms(),
    NoticeKind.QUOTA: Terms("percent", 80, 1, 99),
    NoticeKind.PLAN_ENDING: Terms("days", 3, 1, 30),
    NoticeKind.CREDITS_EXPIRING: Terms("days", 7, 1, 60),
    NoticeKind.PRICE_CHANGE: Terms(),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What holds for an account and a kind. `mail` None: as usual, which `mailed_usually` decides."""

    kind: str
    mail: bool | None
    threshold: int | None


def wishes_of(account: Account) -> list[Wish]:
    """What holds for the account, one entry for each kind."""
    own = {row.kind: row for row in NoticePreference.objects.filter(account=account)}
    found = []
    for kind, terms in TERMS.items():
        row = own.get(kind)
        threshold = terms.usual if row is None or row.threshold is None else row.threshold
        found.append(Wish(str(kind), None if row is None else row.mail, threshold))
    return found


def mailed_usually(account_id: UUID, kind: str) -> bool:
    """Whether a kind is mailed to who said nothing: all are, but for the day's quota of plans that cost nothing, which is
    used up every day by design."""
    if kind != NoticeKind.QUOTA:
        return True
    live = Subscription.objects.filter(account_id=account_id, state__in=Subscription.LIVE, price__amount__gt=0)
    return live.exists()


def notice_write(*, account_id: UUID, kind: NoticeKind, level: str, key: str, facts: Mapping[str, Any], now: datetime) -> bool:
    """Note that a customer is told of a crossing, and have it mailed after the commit if they want that; False where it was
    told before. Call it in the transaction of the event that tells the same."""
    wanted = NoticePreference.objects.filter(account_id=account_id, kind=kind).values_list("mail", flat=True).first()
    mailed = mailed_usually(account_id, kind) if wanted is None else wanted
    notice, new = CustomerNotice.objects.get_or_create(
        account_id=account_id,
        kind=kind,
        key=key[:200],
        defaults={"level": level, "facts": dict(facts), "is_mailed": mailed, "created_at": now},
    )
    if new and mailed:
        notice_id = str(notice.pk)
        transaction.on_commit(lambda: task_enqueue(TASK, notice_id))
    return new


def notices_unsent(*, now: datetime) -> QuerySet[CustomerNotice]:
    """Notices whose mail has not gone out although it should have, and still says something."""
    unsent = CustomerNotice.objects.filter(is_mailed=True, sent_at__isnull=True)
    return unsent.filter(created_at__lte=now - RESEND_AFTER, created_at__gt=now - RESEND_UNTIL)


def notice_mail_send(*, notice_id: UUID | str) -> bool:
    """Mail one notice, if it was not; False otherwise. Raises the mail backend's errors."""
    notice = CustomerNotice.objects.select_related("account").filter(pk=notice_id).first()
    if notice is None or notice.sent_at is not None or not notice.is_mailed:
        return False
    account = notice.account
    if account.status == Account.Status.CLOSED:
        return False
    # The sweep may queue what a slow worker is just mailing.
    claim = f"notice-mail:{notice.pk}"
    if not cache.add(claim, 1, timeout=_MAILING_SECONDS):
        return False
    context = {"level": notice.level, "link": f"{settings.PUBLIC_URL}/billing/", **_readable(notice.facts, account)}
    try:
        owners_mail_send(account=account, template=f"notice_{notice.kind}", context=context)
        CustomerNotice.objects.filter(pk=notice.pk, sent_at__isnull=True).update(sent_at=clock.now())
    finally:
        cache.delete(claim)
    return True


def _readable(facts: Mapping[str, Any], account: Account) -> dict[str, Any]:
    """Facts as the reader's language writes them: instants (`…_at`) in the account's zone, figures, and money."""
    return {name: _written(name, value, account) for name, value in facts.items()}


def _written(name: str, value: Any, account: Account) -> Any:
    if name.endswith("_at"):
        return instant_lazy(value, account.zone)
    if name in _FIGURES:
        return number_lazy(value)
    if name in _PRICES:
        amount, currency = str(value).split(" ")
        return money_lazy(amount, currency)
    return value


def preference_set(
    *, account: Account, kind: str, actor: Actor, mail: bool | None = UNCHANGED, threshold: int | None = UNCHANGED
) -> NoticePreference:
    """What the account wants of a kind; None is as usual, what is not named stays. Setting what is there writes nothing.

    ApiError 400 `invalid_request` for an unknown kind, or a threshold outside the kind's bounds.
    """
    terms = TERMS.get(kind)
    if terms is None:
        raise ApiError(400, "invalid_request", Text("One of %(kinds)s.", kinds=", ".join(map(str, TERMS))), param="kind")
    if threshold is not UNCHANGED and threshold is not None:
        if not terms.unit:
            raise ApiError(400, "invalid_request", "This kind has no threshold here.", param="threshold")
        if not terms.lowest <= threshold <= terms.highest:
            bounds = {"lowest": terms.lowest, "highest": terms.highest}
            told = Text("%(lowest)s to %(highest)s percent.", **bounds)
            if terms.unit == "days":
                told = Text("%(lowest)s to %(highest)s days.", **bounds)
            raise ApiError(400, "invalid_request", told, param="threshold")
    with transaction.atomic():
        NoticePreference.objects.get_or_create(account=account, kind=kind)
        row = NoticePreference.objects.select_for_update(no_key=True).get(account=account, kind=kind)
        before = {"mail": row.mail, "threshold": row.threshold}
        row.mail = row.mail if mail is UNCHANGED else mail
        row.threshold = row.threshold if threshold is UNCHANGED else threshold
        after = {"mail": row.mail, "threshold": row.threshold}
        if before != after:
            row.save(update_fields=["mail", "threshold"])
            event_record(
                kind="account.notice_preference_changed",
                object_type="account",
                object_id=account.pk,
                account_id=account.pk,
                actor=actor,
                before={"kind": kind, **before},
                after={"kind": kind, **after},
            )
    return row
