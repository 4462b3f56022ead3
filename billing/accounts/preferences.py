"""What users and owners set for themselves: name, language, password; the account's name, place, currency and time zone."""

from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.auth.hashers import check_password
from django.core.exceptions import ValidationError
from django.db import transaction

from billing.events.models import Event
from billing.events.services import SYSTEM, Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from . import throttles
from .models import Account, User, validate_time_zone
from .services import password_check, sessions_revoke, user_event

# Each change of zone moves the ends of a running day: seldom, so that nobody lives in two days at once.
TIME_ZONE_CHANGE_EVERY = timedelta(days=30)


def user_change(*, user: User, actor: Actor, **changes: Any) -> User:
    """Change a user's `name` or `language`, which their personal account's mails follow; no event where nothing changes."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        before = {name: getattr(user, name) for name in changes}
        changed = [name for name in changes if before[name] != changes[name]]
        if not changed:
            return user
        for name in changed:
            setattr(user, name, changes[name])
        user.save(update_fields=changed)
        if "language" in changed:
            Account.objects.filter(personal_of=user).update(language=user.language)
        event_record(
            kind="user.changed",
            object_type="user",
            object_id=user.pk,
            account_id=Account.objects.filter(personal_of=user).values_list("pk", flat=True).first(),
            actor=actor,
            before={name: before[name] for name in changed},
            after={name: changes[name] for name in changed},
        )
    return user


def password_change(*, user: User, password: str, new_password: str, address: str = "") -> User:
    """Set a new password, proven by the present one. Every session of the user ends; so do mailed reset links.

    ApiError 400 `wrong_password`, `invalid_request` (param `new_password`), 429 `too_many_attempts`, as a login counts.
    """
    if address:
        throttles.LOGIN_PER_ADDRESS.attempt(address)
    throttles.LOGIN_PER_EMAIL.attempt(user.email)
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if not check_password(password, user.password):
            raise ApiError(400, "wrong_password", "The present password is wrong.", param="password")
        password_check(new_password, user, param="new_password")
        user.set_password(new_password)
        user.save(update_fields=["password"])
        sessions_revoke(user=user)
        user_event("user.password_changed", user)
    if address:
        throttles.LOGIN_PER_ADDRESS.give_back(address)
    throttles.LOGIN_PER_EMAIL.forget(user.email)
    return user


def account_change(*, account: Account, actor: Actor, **changes: Any) -> Account:
    """Change an account's `name`, `country`, `currency` or `time_zone`; no event where nothing changes.

    Another time zone waits for the end of the running day. ApiError 400 `invalid_request` (param `time_zone`), 409
    `time_zone_changed_lately`.
    """
    with transaction.atomic():
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        zone = changes.pop("time_zone", None)
        before = {name: getattr(account, name) for name in changes}
        changed = [name for name in changes if before[name] != changes[name]]
        for name in changed:
            setattr(account, name, changes[name])
        if changed:
            account.save(update_fields=changed)
            _account_event(
                "account.changed",
                account,
                actor,
                before={name: before[name] for name in changed},
                after={name: changes[name] for name in changed},
            )
        if zone is not None and zone != (account.next_time_zone or account.time_zone):
            _time_zone_schedule(account, zone, actor)
    return account


def _time_zone_schedule(account: Account, zone: str, actor: Actor) -> None:
    try:
        validate_time_zone(zone)
    except ValidationError:
        raise ApiError(
            400, "invalid_request", Text("%(value)s is not an IANA time zone.", value=zone), param="time_zone"
        ) from None
    now = clock.now()
    if zone == account.time_zone:
        # Back to what still counts: nothing waits any more.
        account.next_time_zone, account.next_time_zone_at = "", None
        account.save(update_fields=["next_time_zone", "next_time_zone_at"])
        return
    lately = Event.objects.filter(account_id=account.pk, kind="account.time_zone_changed", at__gt=now - TIME_ZONE_CHANGE_EVERY)
    if lately.exists():
        raise ApiError(
            409,
            "time_zone_changed_lately",
            Text(
                "The time zone changes once in %(days)s day.",
                "The time zone changes once in %(days)s days.",
                days=TIME_ZONE_CHANGE_EVERY.days,
            ),
            param="time_zone",
        )
    tomorrow = now.astimezone(account.zone).date() + timedelta(days=1)
    account.next_time_zone = zone
    account.next_time_zone_at = datetime.combine(tomorrow, time(), account.zone)
    account.save(update_fields=["next_time_zone", "next_time_zone_at"])
    _account_event(
        "account.time_zone_scheduled",
        account,
        actor,
        before={"time_zone": account.time_zone},
        after={"time_zone": zone, "at": account.next_time_zone_at.isoformat()},
    )


def time_zones_apply(*, now: datetime) -> int:
    """Let those time zones count whose day has come; how many. Safe twice and at once."""
    applied = 0
    for pk in Account.objects.filter(next_time_zone_at__lte=now).values_list("pk", flat=True):
        with transaction.atomic():
            account = Account.objects.select_for_update(no_key=True).filter(pk=pk, next_time_zone_at__lte=now).first()
            if account is None:
                continue
            before, account.time_zone = account.time_zone, str(ZoneInfo(account.next_time_zone))
            account.next_time_zone, account.next_time_zone_at = "", None
            account.save(update_fields=["time_zone", "next_time_zone", "next_time_zone_at"])
            _account_event(
                "account.time_zone_changed",
                account,
                SYSTEM,
                before={"time_zone": before},
                after={"time_zone": account.time_zone},
            )
            applied += 1
    return applied


def _account_event(
    kind: str, account: Account, actor: Actor, *, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None
) -> None:
    event_record(
        kind=kind,
        object_type="account",
        object_id=account.pk,
        account_id=account.pk,
        actor=actor,
        before=before,
        after=after,
    )
