"""Reading users, accounts and keys: always within the account of whoever asks."""

from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid_or_none

from .models import Account, ApiKey, Membership, User


def uuid_or_404(value: str | UUID) -> UUID:
    """`value` as an id; one that cannot be an id is the id of nothing: ApiError 404 `not_found`."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except ValueError:
        raise _not_found() from None


def _not_found() -> ApiError:
    return ApiError(404, "not_found", "There is no such object.")


def account_for_user(*, user: User, account_id: str | UUID | None = None) -> Account | None:
    """The account `user` acts for: the one asked for, else the personal one, else the oldest membership, else None.

    Raises ApiError 404 `not_found` where `account_id` is not an account of theirs.
    """
    memberships = Membership.objects.filter(user=user).select_related("account")
    if account_id is not None:
        membership = memberships.filter(account_id=uuid_or_404(account_id)).first()
        if membership is None:
            raise _not_found()
        return membership.account
    membership = memberships.filter(account__personal_of=user).first() or memberships.order_by("created_at").first()
    return membership.account if membership else None


def account_usable_at(account: Account, at: datetime) -> bool:
    """Whether the account may act at `at`: a block that ended by itself counts as over before a task says so."""
    if account.status == Account.Status.BLOCKED:
        return account.blocked_until is not None and account.blocked_until <= at
    return account.status == Account.Status.ACTIVE


def membership_role(*, account: Account, user: User) -> str | None:
    """The role of `user` in `account`, None for a stranger."""
    return Membership.objects.filter(account=account, user=user).values_list("role", flat=True).first()


def memberships_of_user(user: User) -> QuerySet[Membership]:
    """Every account `user` may act for, oldest first."""
    return Membership.objects.filter(user=user).select_related("account").order_by("created_at")


def api_keys_of_account(*, account: Account, state: str | None = None, at: datetime) -> QuerySet[ApiKey]:
    """The keys of `account`, newest first; `state` is `active`, `revoked` or `expired` at the instant `at`."""
    keys = ApiKey.objects.filter(account=account).order_by("-created_at", "-id")
    match state:
        case "active":
            return keys.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=at), revoked_at__isnull=True)
        case "revoked":
            return keys.filter(revoked_at__isnull=False)
        case "expired":
            return keys.filter(revoked_at__isnull=True, expires_at__lte=at)
        case _:
            return keys


def api_key_state(key: ApiKey, at: datetime) -> str:
    """`active`, `revoked` or `expired`, as the filter of `api_keys_of_account` has it."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.usable_at(at) else "expired"


def api_key_of_account(*, account: Account, key_id: str | UUID) -> ApiKey:
    """One key of `account`; ApiError 404 `not_found` for another's, for none and for what is no id."""
    key = ApiKey.objects.filter(account=account, pk=uuid_or_404(key_id)).first()
    if key is None:
        raise _not_found()
    return key


def api_key_by_secret(secret: str) -> ApiKey | None:
    """The key whose secret this is, usable or not, with its account."""
    return ApiKey.objects.select_related("account").filter(key_hash=secret_hash(secret)).first()


def accounts_matching(term: str) -> QuerySet[Account]:
    """Accounts that an operator may mean by `term`: name, e-mails, external id, beginning of a key, any of their ids."""
    term = term.strip()
    key_prefix = term[: ApiKey._meta.get_field("prefix").max_length].removesuffix("…")
    wanted = (
        Q(name__icontains=term) | Q(billing_email__icontains=term) | Q(external_id=term) | Q(personal_of__email__icontains=term)
    )
    if len(key_prefix) >= 4:
        wanted |= Q(pk__in=ApiKey.objects.filter(prefix__startswith=key_prefix[:10]).values("account_id"))
    if (identifier := uuid_or_none(term)) is not None:
        wanted |= (
            Q(pk=identifier)
            | Q(personal_of_id=identifier)
            | Q(pk__in=ApiKey.objects.filter(pk=identifier).values("account_id"))
        )
    return Account.objects.filter(wanted).order_by()
