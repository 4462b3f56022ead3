"""Everything that changes users, sessions, accounts and API keys.

Each function writes its event in the transaction of the change. Refusals are `ApiError`s with stable codes; nothing is
written when one is raised.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.contrib.auth import authenticate
from django.contrib.auth.models import update_last_login
from django.contrib.auth.password_validation import validate_password
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from rest_framework_simplejwt.exceptions import ExpiredTokenError, TokenError
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken, OutstandingToken

from billing.events.models import Event
from billing.events.services import SYSTEM, Actor, event_record, form_first_use
from iafactory.common import clock
from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from . import throttles
from .key_limits import API_KEY_LIMITS, field_typed, key_value_checked
from .mail import mail_send, public_link
from .models import Account, AccountLimits, ApiKey, Membership, User, email_normalise
from .second_factor import second_factor_prove
from .tokens import (
    API_KEY_PREFIX,
    SECOND_FACTOR_CLAIM,
    SessionRefreshToken,
    SessionTokens,
    api_key_secret,
    email_verification_read,
    email_verification_token,
    password_mark,
    password_reset_token,
    password_reset_user_id,
    password_reset_valid,
    session_tokens,
)

logger = logging.getLogger(__name__)

ROTATION_GRACE = timedelta(hours=24)
ROTATION_GRACE_MAX = timedelta(days=7)
# A leaked session must not be able to fill the table.
ACTIVE_KEYS_MAX = 100
# Each comes with the free plan's daily requests: not a way to have more of them.
OWNED_ORGANISATIONS_MAX = 3
# How exactly `last_used_at` is kept: a busy key is written once in this time.
KEY_USE_RESOLUTION = timedelta(minutes=1)


def user_actor(user: User) -> Actor:
    """The actor of something a user does for themself."""
    return Actor(Event.ActorKind.USER, id=user.pk, label=user.email)


def task_enqueue(name: str, *args: object) -> None:
    """Ask a worker for a task by its name. A broker that is away is logged, never raised: the request has succeeded."""
    try:
        current_app.send_task(name, args=args, retry=False)
    except Exception:
        logger.exception("task %s could not be queued", name)


# --- Users ---


def user_register(
    *,
    email: str,
    password: str,
    name: str = "",
    language: str = "en",
    actor: Actor | None = None,
    registered_from: str = "",
) -> tuple[User, Account]:
    """Create a user, their personal account and its ownership. Without `actor` the user does it for themself, from the address
    `registered_from` (empty: unknown).

    Raises ApiError 409 `email_taken`, 400 `invalid_request` (param `password`) for a password that is too weak.
    """
    email = email_normalise(email)
    password_check(password, User(email=email, name=name))
    if User.objects.filter(email=email).exists():
        raise _email_taken()
    try:
        with transaction.atomic():
            user = User.objects.create_user(
                email, password, name=name, language=language, registered_from=registered_from or None
            )
            account = _personal_account_insert(user)
            actor = actor or user_actor(user)
            event_record(
                kind="user.registered",
                object_type="user",
                object_id=user.pk,
                account_id=account.pk,
                actor=actor,
                after={"email": email, "language": language},
            )
            _account_created(account, actor)
    except IntegrityError:
        # Somebody registered the address between the look and the insert.
        if User.objects.filter(email=email).exists():
            raise _email_taken() from None
        raise
    return user, account


def email_verification_request(*, user: User) -> None:
    """Have a verification mail sent once the running transaction commits; never fails."""
    user_id = str(user.pk)
    transaction.on_commit(lambda: task_enqueue("billing.accounts.email_verification_send", user_id))


def email_verification_send(*, user_id: UUID | str) -> bool:
    """Mail the user a verification link now. False, and no mail, where there is nothing to verify.

    Raises what the mail backend raises.
    """
    user = User.objects.filter(pk=user_id, is_active=True, email_verified_at__isnull=True).first()
    if user is None:
        return False
    mail_send(
        template="verify_email",
        language=user.language,
        to=user.email,
        context={
            "link": public_link("/auth/verify-email", token=email_verification_token(user)),
            "days": settings.EMAIL_VERIFICATION_TIMEOUT.days,
        },
    )
    return True


def email_verify(*, token: str) -> User:
    """Mark the address in `token` as verified; again is the same. Raises ApiError 400 `invalid_token`."""
    read = email_verification_read(token)
    if read is None:
        raise _invalid_link()
    user_id, email = read
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).filter(pk=user_id, email=email, is_active=True).first()
        if user is None:
            raise _invalid_link()
        if user.email_verified_at is None:
            user.email_verified_at = clock.now()
            user.save(update_fields=["email_verified_at"])
            user_event("user.email_verified", user, after={"email": email})
    return user


def password_reset_request(*, email: str, address: str = "") -> None:
    """Have a reset link mailed, if the e-mail is known. Whether it is known is decided later, by the worker, so that
    neither the answer nor its time tells. Raises ApiError 429 `too_many_attempts`; `address` is the client's."""
    if address:
        throttles.RESET_PER_ADDRESS.attempt(address)
    throttles.RESET_PER_EMAIL.attempt(email_normalise(email))
    task_enqueue("billing.accounts.password_reset_send", email_normalise(email))


def password_reset_offer(*, user: User, account: Account, actor: Actor, reason: str, form_id: UUID) -> bool:
    """Have a reset link mailed to a customer because an operator wants it; once per `form_id`, and whether this was that once.

    Nothing changes until its reader sets a password. ApiError 409 `user_inactive` for one who is switched off, 403
    `permission_denied` for an operator: who could open their mail would have the console.
    """
    if user.is_staff or user.is_superuser:
        raise ApiError(403, "permission_denied", "Operators reset their passwords themselves.")
    if not user.is_active:
        raise ApiError(409, "user_inactive", "The user is switched off and could not log in.")
    with transaction.atomic():
        if not form_first_use(form_id):
            return False
        event_record(
            kind="user.password_reset_offered",
            object_type="user",
            object_id=user.pk,
            account_id=account.pk,
            actor=actor,
            after={"email": user.email},
            reason=reason,
        )
        transaction.on_commit(lambda: task_enqueue("billing.accounts.password_reset_send", user.email))
    return True


def password_reset_send(*, email: str) -> bool:
    """Mail a reset link now. False, and no mail, for an unknown or switched-off user. Raises the backend's errors."""
    user = User.objects.filter(email=email_normalise(email), is_active=True).first()
    if user is None:
        return False
    mail_send(
        template="reset_password",
        language=user.language,
        to=user.email,
        context={
            "link": public_link("/auth/password-reset", token=password_reset_token(user)),
            "hours": settings.PASSWORD_RESET_TIMEOUT // 3600,
        },
    )
    user_event("user.password_reset_mailed", user)
    return True


def password_reset(*, token: str, new_password: str, address: str = "") -> User:
    """Set a new password with a mailed token, once. Every session of the user ends: refresh tokens are revoked here,
    access tokens name the old password.

    Raises ApiError 400 `invalid_token`, 400 `invalid_request` (param `password`), 429 `too_many_attempts` (`address` is the
    client's). A reader of the mail owns the address, so it counts as verified.
    """
    if address:
        throttles.RESET_CONFIRMATION_PER_ADDRESS.attempt(address)
    user_id = password_reset_user_id(token)
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).filter(pk=user_id).first() if user_id else None
        if user is None or not password_reset_valid(user, token):
            raise _invalid_link()
        password_check(new_password, user)
        user.set_password(new_password)
        user.email_verified_at = user.email_verified_at or clock.now()
        user.save(update_fields=["password", "email_verified_at"])
        sessions_revoke(user=user)
        user_event("user.password_reset", user)
    throttles.LOGIN_PER_EMAIL.forget(user.email)
    return user


# --- Sessions ---


def session_open(*, email: str, password: str, code: str = "", address: str = "") -> tuple[User, SessionTokens]:
    """Log in. `address` is the client's, for counting failures; unknown e-mails cost the same work as known ones.

    `code` is an operator's second factor, where one is needed. Raises ApiError 401 `invalid_credentials` (also for a switched
    off user), 429 `too_many_attempts`, and what `second_factor_prove` raises.
    """
    email = email_normalise(email)
    # Counted before the password is checked, so that parallel guesses cannot pass together.
    if address:
        throttles.LOGIN_PER_ADDRESS.attempt(address)
    throttles.LOGIN_PER_EMAIL.attempt(email)
    user = authenticate(username=email, password=password)
    if not isinstance(user, User):
        raise ApiError(401, "invalid_credentials", "The e-mail or the password is wrong.")
    if address:
        throttles.LOGIN_PER_ADDRESS.give_back(address)
    throttles.LOGIN_PER_EMAIL.forget(email)
    return user, session_begin(user=user, second_factor=second_factor_prove(user, code))


def session_begin(*, user: User, second_factor: str = "") -> SessionTokens:
    """Tokens for a user whose identity is proven; on record as an event."""
    with transaction.atomic():
        update_last_login(User, user)
        user_event("user.signed_in", user)
        return session_tokens(user, second_factor=second_factor)


def session_refresh(*, refresh_token: str) -> SessionTokens:
    """Exchange a refresh token, once, for a new pair.

    Raises ApiError 401 `token_revoked` (used before, logged out, password changed, user switched off), `token_expired`,
    `invalid_token`.
    """
    token = _refresh_token(refresh_token)
    with transaction.atomic():
        # The model's own ordering would join the user, whose row may be missing: PostgreSQL locks no such row.
        records = OutstandingToken.objects.select_for_update().order_by()
        record = records.filter(jti=token[api_settings.JTI_CLAIM]).first()
        user = User.objects.filter(pk=record.user_id, is_active=True).first() if record and record.user_id else None
        if (
            record is None
            or user is None
            or token.get(api_settings.REVOKE_TOKEN_CLAIM) != password_mark(user)
            or BlacklistedToken.objects.filter(token=record).exists()
        ):
            raise ApiError(401, "token_revoked", "The refresh token was used or revoked. Log in again.")
        BlacklistedToken.objects.create(token=record)
        return session_tokens(user, second_factor=token.get(SECOND_FACTOR_CLAIM, ""))


def session_close(*, refresh_token: str) -> None:
    """Revoke a refresh token; again, or after its expiry, is the same. Raises ApiError 401 `invalid_token`."""
    try:
        token = _refresh_token(refresh_token)
    except ApiError as error:
        if error.code == "token_expired":
            return
        raise
    record = OutstandingToken.objects.filter(jti=token[api_settings.JTI_CLAIM]).first()
    if record is not None:
        BlacklistedToken.objects.get_or_create(token=record)


def sessions_revoke(*, user: User) -> int:
    """Revoke every refresh token of `user`; how many were open."""
    open_tokens = OutstandingToken.objects.filter(user=user, blacklistedtoken__isnull=True)
    revoked = [BlacklistedToken(token=token) for token in open_tokens]
    BlacklistedToken.objects.bulk_create(revoked, ignore_conflicts=True)
    return len(revoked)


def sessions_flush_expired() -> int:
    """Delete what nobody can use any more: records of refresh tokens that expired, sessions of pages. How many rows went."""
    now = clock.now()
    pages, _ = Session.objects.filter(expire_date__lte=now).delete()
    return OutstandingToken.objects.filter(expires_at__lte=now).delete()[0] + pages


# --- API keys ---


def api_key_create(
    *,
    account: Account,
    created_by: User | None,
    name: str,
    scopes: Sequence[str] = ApiKey.CUSTOMER_SCOPES,
    expires_at: datetime | None = None,
    actor: Actor,
    secret: str | None = None,
    **limits: Any,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is shown now and never again. `secret` sets a known one (the demo's).

    `limits` are any of `API_KEY_LIMITS`. Raises ApiError 400 `invalid_request`, 403 `scope_not_allowed` (customers give
    customer scopes only; `admin` is for operators' own accounts, by themselves or a superuser), 403 `account_blocked`, 409
    `too_many_keys`; TypeError for other limits.
    """
    _limits_known(limits, API_KEY_LIMITS)
    scopes = list(dict.fromkeys(str(scope) for scope in scopes))
    now = clock.now()
    if not scopes or not set(scopes) <= set(ApiKey.Scope.values):
        raise ApiError(400, "invalid_request", "Name at least one scope, known ones only.", param="scopes")
    if actor.kind in (Event.ActorKind.USER, Event.ActorKind.SERVICE) and not set(scopes) <= set(ApiKey.CUSTOMER_SCOPES):
        raise ApiError(403, "scope_not_allowed", "Only operators give these scopes.", param="scopes")
    if ApiKey.Scope.ADMIN in scopes:
        _operator_key_check(account, actor)
    if expires_at is not None and expires_at <= now:
        raise ApiError(400, "invalid_request", "The expiry must lie in the future.", param="expires_at")
    if secret is not None and not (secret.startswith(API_KEY_PREFIX) and len(secret) >= 20):
        raise ApiError(
            400, "invalid_request", Text("A secret starts with %(prefix)s and is long.", prefix=API_KEY_PREFIX), param="secret"
        )
    secret = secret or api_key_secret()
    limits = {limit: key_value_checked(ApiKey(), limit, value) for limit, value in limits.items()}
    with transaction.atomic():
        account = _account_lock(account)
        if account.status != Account.Status.ACTIVE:
            raise account_refusal(account)
        _api_keys_room(account, ACTIVE_KEYS_MAX, now)
        key = _api_key_insert(
            account=account,
            created_by=created_by,
            name=name,
            scopes=scopes,
            expires_at=expires_at,
            limits=limits,
            actor=actor,
            secret=secret,
        )
    return key, secret


def operator_key_create(
    *,
    user: User,
    name: str,
    actor: Actor,
    expires_at: datetime | None = None,
    allowed_networks: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """A key with which programs may do what the operator `user` may, on their personal account, which is made if missing.

    Raises ApiError 403 `scope_not_allowed` for who is no operator, or asked by neither themself nor a superuser; and as
    `api_key_create`.
    """
    with transaction.atomic():
        account = Account.objects.filter(personal_of=user).first()
        if account is None:
            account = _personal_account_insert(user)
            _account_created(account, actor)
        return api_key_create(
            account=account,
            created_by=None if actor.id is None else User.objects.filter(pk=actor.id).first(),
            name=name,
            scopes=[ApiKey.Scope.ADMIN],
            expires_at=expires_at,
            actor=actor,
            allowed_networks=list(allowed_networks),
        )


def operator_key_owner(account: Account) -> User | None:
    """The operator for whom a key of `account` with the scope `admin` stands, None when it stands for nobody."""
    user = User.objects.filter(personal_account=account, is_active=True, is_staff=True).first()
    return user if account.kind == Account.Kind.PERSONAL else None


def _operator_key_check(account: Account, actor: Actor) -> None:
    owner = operator_key_owner(account)
    if owner is None:
        raise ApiError(403, "scope_not_allowed", "Only operators hold keys with the scope admin.", param="scopes")
    by_superuser = actor.id is not None and User.objects.filter(pk=actor.id, is_superuser=True, is_active=True).exists()
    if actor.kind != Event.ActorKind.SYSTEM and actor.id != owner.pk and not by_superuser:
        raise ApiError(403, "scope_not_allowed", "An operator's key is made by themself or by a superuser.", param="scopes")


def _personal_account_insert(user: User) -> Account:
    account = Account.objects.create(
        kind=Account.Kind.PERSONAL,
        name=user.name or user.email[:150],
        personal_of=user,
        billing_email=user.email,
        language=user.language,
        time_zone=settings.DEFAULT_ACCOUNT_TIME_ZONE,
    )
    Membership.objects.create(account=account, user=user, role=Membership.Role.OWNER)
    return account


def organisation_create(*, user: User, name: str, actor: Actor) -> Account:
    """An account for several people, owned by `user`. ApiError 409 `too_many_accounts` where they own as many as one may."""
    with transaction.atomic():
        # The user's lock makes two requests at once one after the other.
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        owned = Membership.objects.filter(user=user, role=Membership.Role.OWNER, account__kind=Account.Kind.ORGANISATION)
        if owned.exclude(account__status=Account.Status.CLOSED).count() >= OWNED_ORGANISATIONS_MAX:
            raise ApiError(
                409,
                "too_many_accounts",
                Text(
                    "One user owns at most %(limit)s team account.",
                    "One user owns at most %(limit)s team accounts.",
                    limit=OWNED_ORGANISATIONS_MAX,
                ),
            )
        personal = Account.objects.filter(personal_of=user).first()
        account = Account.objects.create(
            kind=Account.Kind.ORGANISATION,
            name=name,
            billing_email=user.email,
            language=user.language,
            country=personal.country if personal else "DZ",
            currency=personal.currency if personal else "DZD",
            time_zone=personal.time_zone if personal else settings.DEFAULT_ACCOUNT_TIME_ZONE,
        )
        Membership.objects.create(account=account, user=user, role=Membership.Role.OWNER)
        _account_created(account, actor)
    return account


def _account_created(account: Account, actor: Actor) -> None:
    event_record(
        kind="account.created",
        object_type="account",
        object_id=account.pk,
        account_id=account.pk,
        actor=actor,
        after={"kind": account.kind, "name": account.name},
    )


def api_key_revoke(*, key: ApiKey, actor: Actor, reason: str = "") -> ApiKey:
    """End a key for good, at once. Again is the same and leaves the first instant."""
    with transaction.atomic():
        key = _api_key_lock(key)
        if key.revoked_at is None:
            key.revoked_at = clock.now()
            key.save(update_fields=["revoked_at"])
            _api_key_event("api_key.revoked", key, actor, reason=reason, after={"revoked_at": _text(key.revoked_at)})
    return key


def api_key_rotate(*, key: ApiKey, actor: Actor, grace: timedelta = ROTATION_GRACE) -> tuple[ApiKey, str]:
    """Replace a key by one of the same name, scopes, expiry, limits and allow lists; the old one works for `grace` more.

    A key rotates once; one with the scope `admin` only by its operator or a superuser (403 `scope_not_allowed`). Raises
    ApiError 409 `api_key_revoked`, `api_key_expired`, `api_key_already_rotated`, `too_many_keys`, 400 `invalid_request` for a
    grace outside 0 to 7 days, 403 `account_blocked`.
    """
    if not timedelta(0) <= grace <= ROTATION_GRACE_MAX:
        raise ApiError(400, "invalid_request", "The grace lies between 0 and 7 days.", param="grace_seconds")
    now = clock.now()
    with transaction.atomic():
        account = _account_lock(key.account)
        if account.status != Account.Status.ACTIVE:
            raise account_refusal(account)
        key = _api_key_lock(key)
        if key.revoked_at is not None:
            raise ApiError(409, "api_key_revoked", "The key is revoked; create a new one.")
        if ApiKey.Scope.ADMIN in key.scopes:
            # Whoever else may act for the account would get the new secret.
            _operator_key_check(account, actor)
        if key.replaced_by_id is not None:
            raise ApiError(409, "api_key_already_rotated", "The key was rotated before; rotate its successor.")
        if not key.usable_at(now):
            raise ApiError(409, "api_key_expired", "The key has expired; create a new one.")
        # Twice as many: a full account may still rotate each of its keys, but not without end.
        _api_keys_room(account, 2 * ACTIVE_KEYS_MAX, now)
        secret = api_key_secret()
        successor = _api_key_insert(
            account=account,
            created_by=key.created_by,
            name=key.name,
            scopes=key.scopes,
            expires_at=key.expires_at,
            limits={name: getattr(key, name) for name in API_KEY_LIMITS},
            actor=actor,
            secret=secret,
        )
        before = {"expires_at": _text(key.expires_at)}
        key.replaced_by = successor
        key.expires_at = min(now + grace, key.expires_at or now + grace)
        key.save(update_fields=["replaced_by", "expires_at"])
        after = {"expires_at": _text(key.expires_at), "replaced_by": str(successor.pk)}
        _api_key_event("api_key.rotated", key, actor, before=before, after=after)
    return successor, secret


def api_key_limits_set(*, key: ApiKey, actor: Actor, reason: str = "", **limits: Any) -> ApiKey:
    """Set those of `API_KEY_LIMITS` that are named, effective within a second; setting what is there writes nothing.

    For operators, on any key. Raises TypeError for another name, ApiError 400 `invalid_request` (param) for a value that the
    field does not take.
    """
    _limits_known(limits, API_KEY_LIMITS)
    with transaction.atomic():
        key = _api_key_lock(key)
        _api_key_write("api_key.limits_changed", key, limits, actor, reason)
    return key


def api_key_change(*, key: ApiKey, actor: Actor, **changes: Any) -> ApiKey:
    """Set `name`, `expires_at` and those of `API_KEY_LIMITS` that are named; setting what is there writes nothing.

    An expiry may be set or brought forward, never put off or taken away: a longer life takes a new key. Raises TypeError for
    another name, ApiError 400 `invalid_request` (param), 409 `api_key_revoked`, `api_key_expired`.
    """
    _limits_known(changes, ("name", "expires_at", *API_KEY_LIMITS))
    now = clock.now()
    with transaction.atomic():
        key = _api_key_lock(key)
        if key.revoked_at is not None:
            raise ApiError(409, "api_key_revoked", "The key is revoked; create a new one.")
        if not key.usable_at(now):
            raise ApiError(409, "api_key_expired", "The key has expired; create a new one.")
        if "expires_at" in changes:
            _expiry_check(key, changes["expires_at"], now)
        _api_key_write("api_key.changed", key, changes, actor)
    return key


def api_key_leaked(*, secret: str) -> bool:
    """Revoke the key with this secret, because somebody found it where it should not be, and have its owners told.

    False where there is nothing to revoke. Whoever knows the secret could use the key: that is all the right this takes.
    """
    key = ApiKey.objects.filter(key_hash=secret_hash(secret), revoked_at__isnull=True).first()
    if key is None:
        return False
    with transaction.atomic():
        key = _api_key_lock(key)
        if key.revoked_at is not None:
            return False
        api_key_revoke(key=key, actor=SYSTEM, reason="reported as leaked")
        key_id = str(key.pk)
        transaction.on_commit(lambda: task_enqueue("billing.accounts.leaked_key_mail_send", key_id))
    return True


def leaked_key_mail_send(*, key_id: UUID | str) -> int:
    """Tell the owners of a key's account that it was revoked as leaked; how many. Raises the mail backend's errors."""
    key = ApiKey.objects.select_related("account").get(pk=key_id)
    return owners_mail_send(account=key.account, template="leaked_key", context={"key": str(key), "name": key.name})


def unused_keys_warn(*, now: datetime) -> int:
    """Have the owners of keys told that nobody used for `UNUSED_KEY_DAYS`, once per key in such a time; how many keys."""
    period = timedelta(days=settings.UNUSED_KEY_DAYS)
    unused = (
        ApiKey.objects.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now), revoked_at__isnull=True)
        .filter(created_at__lte=now - period, account__status=Account.Status.ACTIVE)
        .filter(Q(last_used_at__isnull=True) | Q(last_used_at__lte=now - period))
    )
    warned = 0
    for account_id in unused.order_by("account_id").values_list("account_id", flat=True).distinct():
        with transaction.atomic():
            # The account's lock makes two runs at once one after the other.
            account = Account.objects.select_for_update(no_key=True).get(pk=account_id)
            keys = list(unused.filter(account=account).order_by("created_at"))
            known = Event.objects.filter(
                kind="api_key.unused", object_type="api_key", object_id__in=[str(key.pk) for key in keys], at__gt=now - period
            )
            told = set(known.values_list("object_id", flat=True))
            keys = [key for key in keys if str(key.pk) not in told]
            for key in keys:
                _api_key_event("api_key.unused", key, SYSTEM, after={"last_used_at": _text(key.last_used_at)})
            if keys:
                names = [str(key.pk) for key in keys]
                transaction.on_commit(partial(task_enqueue, "billing.accounts.unused_keys_mail_send", names))
                warned += len(keys)
    return warned


def unused_keys_mail_send(*, key_ids: Sequence[UUID | str]) -> int:
    """Tell the owners of one account which of its keys are unused; how many were told. Raises the mail backend's errors."""
    keys = list(ApiKey.objects.filter(pk__in=key_ids, revoked_at__isnull=True).select_related("account").order_by("created_at"))
    if not keys:
        return 0
    context = {"keys": [{"key": str(key), "name": key.name} for key in keys], "days": settings.UNUSED_KEY_DAYS}
    return owners_mail_send(account=keys[0].account, template="unused_keys", context=context)


def owners_mail_send(*, account: Account, template: str, context: dict[str, Any]) -> int:
    """Mail the account's owners, each in their language; its billing address where it has no owner. How many went out.

    Raises what the mail backend raises. Never call it inside a transaction.
    """
    owners = User.objects.filter(memberships__account=account, memberships__role=Membership.Role.OWNER, is_active=True)
    readers = [(user.email, user.language) for user in owners.order_by("email")]
    if not readers and account.billing_email:
        readers = [(account.billing_email, account.language)]
    for to, language in readers:
        mail_send(template=template, language=language, to=to, context=context | {"account": account.name})
    return len(readers)


def api_key_used(*, key: ApiKey, at: datetime) -> None:
    """Note that a key was used, to the minute. No event: it changes no right."""
    stale = at - KEY_USE_RESOLUTION
    if key.last_used_at is None or key.last_used_at <= stale:
        # The condition again in SQL: of many parallel calls one writes.
        old = Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale)
        ApiKey.objects.filter(old, pk=key.pk).update(last_used_at=at)


# --- Accounts ---


def account_refusal(account: Account) -> ApiError:
    """Why an account that is not active may not act: 403 `account_blocked` or `account_closed`."""
    if account.status == Account.Status.CLOSED:
        return ApiError(403, "account_closed", "The account is closed.")
    return ApiError(403, "account_blocked", "The account is blocked. Ask the operator why.")


def account_block(*, account: Account, reason: str, actor: Actor, until: datetime | None = None) -> Account:
    """Stop every key of the account at once, for good or `until` an instant; its credits stay.

    Again is the same; another end replaces the one before. Raises ApiError 409 `account_closed`, 400 `invalid_request`
    (param `until`) for an instant that has passed.
    """
    if until is not None and until <= clock.now():
        raise ApiError(400, "invalid_request", "The end of a block lies in the future.", param="until")
    return _account_status(account, Account.Status.BLOCKED, "account.blocked", reason, actor, until)


def account_unblock(*, account: Account, reason: str = "", actor: Actor) -> Account:
    """Let a blocked account work again. Again is the same. ApiError 409 `account_closed`."""
    return _account_status(account, Account.Status.ACTIVE, "account.unblocked", reason, actor, None)


def accounts_unblock_due(*, now: datetime) -> int:
    """Let those accounts work again whose block ended by itself; how many."""
    due = Q(status=Account.Status.BLOCKED, blocked_until__lte=now)
    unblocked = 0
    for account in Account.objects.filter(due).order_by("blocked_until"):
        with transaction.atomic():
            # An operator may have blocked it for longer meanwhile.
            if Account.objects.select_for_update(no_key=True).filter(due, pk=account.pk).exists():
                account_unblock(account=account, reason="the block ended", actor=SYSTEM)
                unblocked += 1
    return unblocked


def _account_status(account: Account, status: str, kind: str, reason: str, actor: Actor, until: datetime | None) -> Account:
    with transaction.atomic():
        account = _account_lock(account)
        if account.status == Account.Status.CLOSED:
            raise ApiError(409, "account_closed", "The account is closed for good.")
        if (account.status, account.blocked_until) == (status, until):
            return account
        before = _status_told(account)
        account.status = status
        account.status_reason = reason[:200] if status == Account.Status.BLOCKED else ""
        account.blocked_until = until
        account.save(update_fields=["status", "status_reason", "blocked_until"])
        event_record(
            kind=kind,
            object_type="account",
            object_id=account.pk,
            account_id=account.pk,
            actor=actor,
            before=before,
            after=_status_told(account),
            reason=reason,
        )
    return account


def _status_told(account: Account) -> dict[str, Any]:
    told = {"status": account.status, "status_reason": account.status_reason}
    return told if account.blocked_until is None else told | {"blocked_until": account.blocked_until.isoformat()}


ACCOUNT_LIMITS = (
    "requests_per_minute",
    "requests_per_hour",
    "requests_per_day",
    "tokens_per_minute",
    "concurrent_calls",
    "daily_limit",
)


def account_limits_set(
    *, account: Account, actor: Actor, reason: str, until: datetime | None = None, **limits: Any
) -> AccountLimits | None:
    """Put these of `ACCOUNT_LIMITS` in the place of the plan's, until an instant or until changed, effective within a second.

    They replace all limits set before; without any the plan's apply again, and the answer is None. Setting what is there
    writes nothing. Raises TypeError for another name.
    """
    if unknown := limits.keys() - set(ACCOUNT_LIMITS):
        raise TypeError(f"not limits of an account: {sorted(unknown)}")
    wanted = {name: limits.get(name) for name in ACCOUNT_LIMITS}
    with transaction.atomic():
        account = _account_lock(account)
        row = AccountLimits.objects.filter(account=account).first()
        before = _limits_told(row)
        if all(value is None for value in wanted.values()):
            if row is not None:
                row.delete()
            row = None
        else:
            row = row or AccountLimits(account=account)
            for name, value in wanted.items():
                setattr(row, name, field_typed(row, name, value))
            row.until, row.reason = until, reason[:200]
            if _limits_told(row) != before:
                row.save()
                row.refresh_from_db()
        after = _limits_told(row)
        if after != before:
            event_record(
                kind="account.limits_changed",
                object_type="account",
                object_id=account.pk,
                account_id=account.pk,
                actor=actor,
                before=before,
                after=after,
                reason=reason,
            )
    return row


def _limits_told(row: AccountLimits | None) -> dict[str, Any]:
    """What stands in a row, as an event tells it."""
    if row is None:
        return {}
    told = {name: _plain(getattr(row, name)) for name in (*ACCOUNT_LIMITS, "until")}
    return {name: value for name, value in told.items() if value is not None}


def _account_lock(account: Account) -> Account:
    # NO KEY: rows that point to the account (holds, usage) are inserted meanwhile.
    return Account.objects.select_for_update(no_key=True).get(pk=account.pk)


def _api_key_lock(key: ApiKey) -> ApiKey:
    return ApiKey.objects.select_for_update(no_key=True).get(pk=key.pk)


def _api_keys_room(account: Account, limit: int, now: datetime) -> None:
    # The caller holds the account's lock, so parallel creations cannot pass together.
    active = ApiKey.objects.filter(account=account, revoked_at__isnull=True).exclude(expires_at__lte=now).count()
    if active >= limit:
        raise ApiError(
            409,
            "too_many_keys",
            Text(
                "An account holds at most %(limit)s active key.",
                "An account holds at most %(limit)s active keys.",
                limit=ACTIVE_KEYS_MAX,
            ),
        )


def _api_key_insert(
    *,
    account: Account,
    created_by: User | None,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
    limits: Mapping[str, Any],
    actor: Actor,
    secret: str,
) -> ApiKey:
    key = ApiKey(
        account=account,
        created_by=created_by,
        name=name,
        prefix=secret[:10],
        last_four=secret[-4:],
        key_hash=secret_hash(secret),
        scopes=list(scopes),
        expires_at=expires_at,
        **limits,
    )
    key.save(force_insert=True)
    after = {"name": name, "scopes": list(scopes), "prefix": key.prefix, "expires_at": _text(expires_at)}
    told = {limit: _plain(value) for limit, value in limits.items() if value not in (None, [])}
    _api_key_event("api_key.created", key, actor, after=after | told)
    return key


def _limits_known(named: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := named.keys() - set(known):
        raise TypeError(f"not limits of a key: {sorted(unknown)}")


def _expiry_check(key: ApiKey, wanted: datetime | None, now: datetime) -> None:
    if wanted == key.expires_at:
        return
    if wanted is None or (key.expires_at is not None and wanted > key.expires_at):
        raise ApiError(400, "invalid_request", "An expiry may be brought forward, not put off.", param="expires_at")
    if wanted <= now:
        raise ApiError(400, "invalid_request", "The expiry must lie in the future.", param="expires_at")


def _api_key_write(kind: str, key: ApiKey, changes: Mapping[str, Any], actor: Actor, reason: str = "") -> None:
    """Save what `changes` changes on a locked key, with one event; nothing when it changes nothing."""
    before = {name: _plain(getattr(key, name)) for name in changes}
    wanted = {
        name: getattr(key, name) if value == getattr(key, name) else key_value_checked(key, name, value)
        for name, value in changes.items()
    }
    after = {name: _plain(value) for name, value in wanted.items()}
    changed = [name for name in changes if before[name] != after[name]]
    if not changed:
        return
    for name in changed:
        setattr(key, name, wanted[name])
    key.save(update_fields=changed)
    _api_key_event(
        kind,
        key,
        actor,
        reason=reason,
        before={name: before[name] for name in changed},
        after={name: after[name] for name in changed},
    )


def _api_key_event(
    kind: str,
    key: ApiKey,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    event_record(
        kind=kind,
        object_type="api_key",
        object_id=key.pk,
        account_id=key.account_id,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )


def user_event(kind: str, user: User, *, after: dict[str, Any] | None = None) -> None:
    """Tell something that a user did for themself."""
    account_id = Account.objects.filter(personal_of=user).values_list("pk", flat=True).first()
    event_record(kind=kind, object_type="user", object_id=user.pk, account_id=account_id, actor=user_actor(user), after=after)


def _plain(value: Any) -> Any:
    """A field's value as JSON holds it."""
    match value:
        case datetime():
            return value.isoformat()
        case Decimal():
            return f"{value.normalize():f}"
        case _:
            return value


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def password_check(password: str, user: User, *, param: str = "password") -> None:
    """ApiError 400 `invalid_request` for a password that is too weak for `user`."""
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ApiError(400, "invalid_request", " ".join(error.messages), param=param) from None


def _refresh_token(text: str) -> SessionRefreshToken:
    try:
        return SessionRefreshToken(text)  # type: ignore[arg-type]
    except ExpiredTokenError:
        raise ApiError(401, "token_expired", "The refresh token has expired. Log in again.") from None
    except TokenError:
        raise ApiError(401, "invalid_token", "This is not a refresh token.") from None


def _email_taken() -> ApiError:
    return ApiError(409, "email_taken", "An account with this e-mail exists. Log in, or reset the password.")


def _invalid_link() -> ApiError:
    return ApiError(400, "invalid_token", "The link is damaged, used or too old. Ask for a new one.")
