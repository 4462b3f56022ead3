"""Beginning and ending an operator's login as a customer. Both are events on the account, with the operator and the reason."""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account, Membership, User
from billing.events.models import Event
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import Impersonation

Ending = Impersonation.Ending
PERMISSION = "dashboard.begin_impersonation"
LONGEST = timedelta(minutes=30)


def impersonation_actor(operator: User) -> Actor:
    """The operator, as the events of an impersonation name them."""
    return Actor(Event.ActorKind.OPERATOR, id=operator.pk, label=operator.email)


def may_be_seen_as(user: User) -> bool:
    """Whether an operator may log in as `user`: a customer who could log in, and no operator."""
    return user.is_active and not (user.is_staff or user.is_superuser)


def members_to_see(account: Account) -> list[Membership]:
    """The members of an account as whom an operator may log in, owners first."""
    members = account.memberships.select_related("user").order_by("-role", "created_at")
    return [membership for membership in members if may_be_seen_as(membership.user)]


def impersonation_begin(*, impersonation_id: UUID, operator: User, user: User, account: Account, reason: str) -> Impersonation:
    """Let `operator` see the panel as `user`, of `account` alone, for 30 minutes; again with the same id is the same.

    Another of the operator's ends. ApiError 403 `permission_denied` without the right or for a user who operates, 404
    `account_not_found` for one who is no member, 409 `user_inactive`, `account_closed`.
    """
    with transaction.atomic():
        # One after the other for each operator, with their rights as they are now.
        operator = User.objects.select_for_update(no_key=True).get(pk=operator.pk)
        known = Impersonation.objects.filter(pk=impersonation_id, operator=operator).first()
        if known is not None:
            return known
        if not (operator.is_active and operator.is_staff and operator.has_perm(PERMISSION)):
            raise ApiError(
                403, "permission_denied", Text("Only operators with the right %(right)s may do this.", right=PERMISSION)
            )
        user = User.objects.get(pk=user.pk)
        if user.is_staff or user.is_superuser:
            raise ApiError(403, "permission_denied", "Nobody logs in as an operator.")
        if not user.is_active:
            raise ApiError(409, "user_inactive", "The user is switched off and could not log in.")
        if account.status == Account.Status.CLOSED:
            raise ApiError(409, "account_closed", "The account is closed.")
        if not Membership.objects.filter(account=account, user=user).exists():
            raise ApiError(404, "account_not_found", "The user is no member of this account.")
        for before in Impersonation.objects.filter(operator=operator, ended_at__isnull=True):
            impersonation_end(impersonation=before, ending=Ending.REPLACED)
        now = clock.now()
        begun = Impersonation.objects.create(
            id=impersonation_id,
            operator=operator,
            user=user,
            account=account,
            reason=reason[:200],
            began_at=now,
            expires_at=now + LONGEST,
        )
        _event("began", begun, before={}, after={"user": user.email, "expires_at": begun.expires_at.isoformat()})
    return begun


def impersonation_end(*, impersonation: Impersonation, ending: str, at: datetime | None = None) -> bool:
    """End it, once; whether this was that once."""
    with transaction.atomic():
        row = (
            Impersonation.objects.select_for_update(no_key=True, of=("self",))
            .select_related("operator", "user")
            .get(pk=impersonation.pk)
        )
        if row.ended_at is not None:
            return False
        row.ended_at, row.ending = min(at or clock.now(), row.expires_at), ending
        row.save(update_fields=["ended_at", "ending"])
        lasted = int((row.ended_at - row.began_at).total_seconds())
        _event(
            "ended",
            row,
            before={"user": row.user.email, "expires_at": row.expires_at.isoformat()},
            after={"ending": ending, "ended_at": row.ended_at.isoformat(), "seconds": lasted},
        )
    return True


def impersonations_expire(*, now: datetime) -> int:
    """End those whose time is over and whose browser never came back; how many."""
    due = Impersonation.objects.filter(ended_at__isnull=True, expires_at__lte=now)
    return sum(impersonation_end(impersonation=row, ending=Ending.EXPIRED, at=now) for row in due)


def over(impersonation: Impersonation, *, now: datetime) -> str | None:
    """Why an open impersonation does not go on at `now`; None while it does. Looks at the rights as they are."""
    if now >= impersonation.expires_at:
        return Ending.EXPIRED
    operator = impersonation.operator
    may = operator.is_active and operator.is_staff and operator.has_perm(PERMISSION)
    member = Membership.objects.filter(account=impersonation.account_id, user=impersonation.user_id).exists()
    return None if may and member and may_be_seen_as(impersonation.user) else Ending.WITHDRAWN


def _event(what: str, row: Impersonation, *, before: dict[str, str], after: dict[str, object]) -> None:
    event_record(
        kind=f"impersonation.{what}",
        object_type="impersonation",
        object_id=row.pk,
        account_id=row.account_id,
        actor=impersonation_actor(row.operator),
        before=before,
        after=after,
        reason=row.reason,
    )
