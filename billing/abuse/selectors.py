"""Reading signals together with the accounts they are about."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q

from billing.accounts.models import Account, ApiKey
from iafactory.common.ids import uuid_or_none
from ratelimit.models import AbuseSignal

from .detectors import messages_today


def account_of_user_or_account(identifier: UUID) -> Account | None:
    """The account with this id, or the personal account of the user with it."""
    return Account.objects.filter(Q(pk=identifier) | Q(personal_of_id=identifier)).first()


def accounts_of_subjects(subjects: Sequence[str]) -> dict[str, UUID]:
    """The account behind each subject that is an account or a key; in one query."""
    found: dict[str, UUID] = {}
    keys: dict[UUID, str] = {}
    for subject in subjects:
        kind, _, identifier = subject.partition(":")
        parsed = uuid_or_none(identifier)
        if parsed is not None and kind == "account":
            found[subject] = parsed
        elif parsed is not None and kind == "key":
            keys[parsed] = subject
    for key, account in ApiKey.objects.filter(pk__in=keys).values_list("pk", "account_id"):
        found[keys[key]] = account
    return found


def open_signals_by_account() -> dict[UUID, list[AbuseSignal]]:
    """Open signals by the account they, or the keys they are about, belong to; the latest seen first, accounts too."""
    signals = list(AbuseSignal.objects.filter(state=AbuseSignal.State.OPEN).order_by("-last_seen_at", "id"))
    account_of = accounts_of_subjects([signal.subject for signal in signals])
    grouped: defaultdict[UUID, list[AbuseSignal]] = defaultdict(list)
    for signal in signals:
        if signal.subject in account_of:
            grouped[account_of[signal.subject]].append(signal)
    return dict(grouped)


def abusive_users(signals: Sequence[tuple[UUID, list[AbuseSignal]]], *, now: datetime) -> list[dict[str, Any]]:
    """These accounts with their signals and today's messages, in a fixed number of queries."""
    ids = [account_id for account_id, _ in signals]
    accounts = Account.objects.select_related("personal_of").in_bulk(ids)
    messages = messages_today(ids, now)
    return [
        {
            "id": account.pk,
            "user_id": account.personal_of_id,
            "email": account.personal_of.email if account.personal_of else account.billing_email,
            "name": account.name,
            "status": account.status,
            "blocked_until": account.blocked_until,
            "messages_today": messages[account.pk][0],
            "messages_limit": messages[account.pk][1],
            "signals": found,
        }
        for account_id, found in signals
        if (account := accounts.get(account_id)) is not None
    ]
