"""Who may act for an account: invitations, roles, and the end of a membership."""

from datetime import timedelta
from uuid import UUID

from django.core import signing
from django.db import transaction
from django.db.models import QuerySet

from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .mail import mail_send, public_link
from .models import Account, Invitation, Membership, User, email_normalise
from .selectors import uuid_or_404
from .services import account_refusal, task_enqueue

INVITATION_LASTS = timedelta(days=7)
# A leaked session must not be able to mail half the world.
OPEN_INVITATIONS_MAX = 50
_SALT = "billing.accounts.invitation"


def members_of_account(account: Account) -> QuerySet[Membership]:
    """Everybody who may act for `account`, oldest first."""
    return Membership.objects.filter(account=account).select_related("user").order_by("created_at", "pk")


def invitations_open(account: Account) -> QuerySet[Invitation]:
    """Invitations that may still be accepted, newest first."""
    unused = Invitation.objects.filter(account=account, accepted_at__isnull=True, revoked_at__isnull=True)
    return unused.filter(expires_at__gt=clock.now()).order_by("-created_at")


def invitation_create(*, account: Account, email: str, role: str, invited_by: User, actor: Actor) -> Invitation:
    """Invite an address; the mail goes out after the commit. Inviting it again replaces the invitation before.

    ApiError 409 `personal_account`, `member_exists`, `too_many_invitations`; 403 `account_blocked`, `account_closed`.
    """
    email = email_normalise(email)
    with transaction.atomic():
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if account.status != Account.Status.ACTIVE:
            raise account_refusal(account)
        if account.kind == Account.Kind.PERSONAL:
            raise ApiError(409, "personal_account", "A personal account has one member. Create a team for several.")
        if Membership.objects.filter(account=account, user__email=email).exists():
            raise ApiError(409, "member_exists", "This person is a member already.")
        for earlier in Invitation.objects.filter(
            account=account, email=email, accepted_at__isnull=True, revoked_at__isnull=True
        ):
            earlier.revoked_at = clock.now()
            earlier.save(update_fields=["revoked_at"])
        if invitations_open(account).count() >= OPEN_INVITATIONS_MAX:
            raise ApiError(
                409,
                "too_many_invitations",
                Text(
                    "An account has at most %(limit)s open invitation.",
                    "An account has at most %(limit)s open invitations.",
                    limit=OPEN_INVITATIONS_MAX,
                ),
            )
        invitation = Invitation.objects.create(
            account=account,
            email=email,
            role=role,
            invited_by=invited_by,
            created_at=clock.now(),
            expires_at=clock.now() + INVITATION_LASTS,
        )
        _event("invitation.created", invitation, actor, after={"email": email, "role": role})
        invitation_id = str(invitation.pk)
        transaction.on_commit(lambda: task_enqueue("billing.accounts.invitation_send", invitation_id))
    return invitation


def invitation_send(*, invitation_id: UUID | str) -> bool:
    """Mail an invitation now. False, and no mail, where it is not open any more. Raises the mail backend's errors."""
    invitation = Invitation.objects.select_related("account", "invited_by").filter(pk=invitation_id).first()
    if invitation is None or not invitation.open_at(clock.now()):
        return False
    known = User.objects.filter(email=invitation.email).values_list("language", flat=True).first()
    mail_send(
        template="invitation",
        language=known or invitation.account.language,
        to=invitation.email,
        context={
            "link": public_link("/billing/invitation", token=invitation_token(invitation)),
            "account": invitation.account.name,
            "inviter": invitation.invited_by.email if invitation.invited_by else invitation.account.name,
            "days": INVITATION_LASTS.days,
        },
    )
    return True


def invitation_token(invitation: Invitation) -> str:
    """What the mailed link carries: proof that its holder reads the mail of the invited address."""
    return signing.dumps([invitation.pk.hex, invitation.email], salt=_SALT)


def invitation_by_token(token: str) -> Invitation:
    """The open invitation that a link is for; ApiError 400 `invitation_not_valid` for none."""
    refused = ApiError(400, "invitation_not_valid", "The invitation was withdrawn, used or is too old.")
    try:
        invitation_id, email = signing.loads(token, salt=_SALT, max_age=INVITATION_LASTS)
        found = Invitation.objects.select_related("account", "invited_by").filter(pk=UUID(invitation_id), email=email).first()
    except (signing.BadSignature, ValueError, TypeError):
        raise refused from None
    if found is None or not found.open_at(clock.now()):
        raise refused
    return found


def invitation_accept(*, token: str, user: User, actor: Actor) -> Membership:
    """Make `user` a member, once. The invited address must be theirs: the link proves that, so it counts as verified.

    ApiError 400 `invitation_not_valid`, 403 `invitation_for_other`.
    """
    invitation = invitation_by_token(token)
    if invitation.email != user.email:
        raise ApiError(403, "invitation_for_other", "The invitation is for another e-mail address.")
    with transaction.atomic():
        invitation = Invitation.objects.select_for_update(no_key=True).select_related("account").get(pk=invitation.pk)
        if not invitation.open_at(clock.now()):
            raise ApiError(400, "invitation_not_valid", "The invitation was withdrawn, used or is too old.")
        invitation.accepted_at, invitation.accepted_by = clock.now(), user
        invitation.save(update_fields=["accepted_at", "accepted_by"])
        User.objects.filter(pk=user.pk, email_verified_at__isnull=True).update(email_verified_at=clock.now())
        membership, _ = Membership.objects.get_or_create(
            account=invitation.account, user=user, defaults={"role": invitation.role}
        )
        _event("invitation.accepted", invitation, actor, after={"email": invitation.email, "role": invitation.role})
    return membership


def invitation_revoke(*, account: Account, invitation_id: UUID | str, actor: Actor) -> None:
    """Withdraw an open invitation; again is the same. ApiError 404 `not_found` for another account's."""
    with transaction.atomic():
        found = Invitation.objects.select_for_update().filter(account=account, pk=uuid_or_404(invitation_id)).first()
        if found is None:
            raise _not_found()
        if found.revoked_at is None and found.accepted_at is None:
            found.revoked_at = clock.now()
            found.save(update_fields=["revoked_at"])
            _event("invitation.revoked", found, actor, before={"email": found.email})


def member_role_set(*, account: Account, user_id: UUID | str, role: str, actor: Actor) -> Membership:
    """Make a member an owner, or an owner a member. ApiError 404 `not_found`, 409 `last_owner`, `personal_account`."""
    with transaction.atomic():
        membership = _membership_lock(account, user_id)
        if membership.role == role:
            return membership
        if membership.role == Membership.Role.OWNER:
            _other_owner_check(membership)
        before, membership.role = membership.role, role
        membership.save(update_fields=["role"])
        _member_event("member.role_changed", membership, actor, before={"role": before}, after={"role": role})
    return membership


def member_remove(*, account: Account, user_id: UUID | str, actor: Actor) -> None:
    """End a membership: the user's tokens stop working for the account within a second; its keys are the account's and stay.

    ApiError 404 `not_found`, 409 `last_owner`, `personal_account`.
    """
    with transaction.atomic():
        membership = _membership_lock(account, user_id)
        if membership.role == Membership.Role.OWNER:
            _other_owner_check(membership)
        _member_event("member.removed", membership, actor, before={"role": membership.role})
        membership.delete()


def _membership_lock(account: Account, user_id: UUID | str) -> Membership:
    # The account's lock makes two changes at once one after the other: two owners cannot leave together.
    account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    if account.kind == Account.Kind.PERSONAL:
        raise ApiError(409, "personal_account", "A personal account has one member.")
    membership = Membership.objects.filter(account=account, user_id=uuid_or_404(user_id)).select_related("user").first()
    if membership is None:
        raise _not_found()
    return membership


def _other_owner_check(membership: Membership) -> None:
    others = Membership.objects.filter(account=membership.account_id, role=Membership.Role.OWNER, user__is_active=True)
    if not others.exclude(pk=membership.pk).exists():
        raise ApiError(409, "last_owner", "An account needs at least one owner.")


def _not_found() -> ApiError:
    return ApiError(404, "not_found", "There is no such object.")


def _event(
    kind: str,
    invitation: Invitation,
    actor: Actor,
    *,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> None:
    event_record(
        kind=kind,
        object_type="invitation",
        object_id=invitation.pk,
        account_id=invitation.account_id,
        actor=actor,
        before=before,
        after=after,
    )


def _member_event(
    kind: str,
    membership: Membership,
    actor: Actor,
    *,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> None:
    whom = {"email": membership.user.email}
    event_record(
        kind=kind,
        object_type="user",
        object_id=membership.user_id,
        account_id=membership.account_id,
        actor=actor,
        before=whom | before if before else None,
        after=whom | after if after else None,
    )
