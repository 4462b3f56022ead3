"""`/api/members`, `/api/invitations`, `/api/account` and `/api/auth/password`: who acts for an account, and what they set."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from iafactory.common.errors import ApiError

from . import members, preferences, throttles
from .api import X_ACCOUNT, SessionView, errors, validated
from .credentials import request_account, request_actor
from .models import Account, Invitation, Membership
from .selectors import membership_role
from .serializers import (
    AccountSerializer,
    LinkTokenSerializer,
    MembershipSerializer,
    StrictCharField,
    StrictEmailField,
    password_field,
)

TAG = ["accounts"]


class MemberSerializer(serializers.ModelSerializer):
    """Somebody who may act for the account."""

    id = serializers.UUIDField(source="user_id")
    email = serializers.EmailField(source="user.email")
    name = serializers.CharField(source="user.name")

    class Meta:
        model = Membership
        fields = ["id", "email", "name", "role", "created_at"]


class MemberChangeSerializer(serializers.Serializer):
    role = serializers.ChoiceField(choices=Membership.Role.choices)


class InvitationSerializer(serializers.ModelSerializer):
    """An address that may become a member."""

    class Meta:
        model = Invitation
        fields = ["id", "email", "role", "created_at", "expires_at"]


class InviteSerializer(serializers.Serializer):
    email = StrictEmailField(max_length=254)
    role = serializers.ChoiceField(choices=Membership.Role.choices, default=Membership.Role.MEMBER)


class AccountChangeSerializer(serializers.Serializer):
    """What is left out stays."""

    name = StrictCharField(max_length=150, required=False)
    country = serializers.RegexField("^[A-Z]{2}$", required=False, help_text="ISO 3166 code; decides how one can pay.")
    currency = serializers.RegexField("^[A-Z]{3}$", required=False, help_text="ISO 4217 code, of prices and invoices to come.")
    time_zone = StrictCharField(
        max_length=64, required=False, help_text="IANA zone; counts from the account's next day on, once in 30 days."
    )


class AccountDetailSerializer(AccountSerializer):
    """An account with the zone that waits for its next day."""

    class Meta(AccountSerializer.Meta):
        fields = [*AccountSerializer.Meta.fields, "next_time_zone", "next_time_zone_at"]
        read_only_fields = ["next_time_zone", "next_time_zone_at"]


class PasswordChangeSerializer(serializers.Serializer):
    password = password_field()
    new_password = password_field()


class MembersView(SessionView):
    @extend_schema(
        operation_id="members_list",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: MemberSerializer(many=True), **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Everybody who may act for the account, oldest first."""
        return Response(MemberSerializer(members.members_of_account(request_account(request)), many=True).data)


class MemberView(SessionView):
    @extend_schema(
        operation_id="members_change",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=MemberChangeSerializer,
        responses={200: MemberSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def patch(self, request: Request, user_id: str) -> Response:
        """Make a member an owner or the other way round; by an owner. One owner stays."""
        data = validated(MemberChangeSerializer, request.data)
        membership = members.member_role_set(
            account=owned_account(request), user_id=user_id, actor=request_actor(request), **data
        )
        return Response(MemberSerializer(membership).data)

    @extend_schema(
        operation_id="members_remove",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={204: None, **errors(401, 403, 404, 409)},
    )
    def delete(self, request: Request, user_id: str) -> Response:
        """Remove a member, by an owner; or leave, by oneself. Keys are the account's and go on working."""
        user: Any = request.user
        account = request_account(request) if user_id == str(user.pk) else owned_account(request)
        members.member_remove(account=account, user_id=user_id, actor=request_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationsView(SessionView):
    @extend_schema(
        operation_id="invitations_list",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: InvitationSerializer(many=True), **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Open invitations, newest first."""
        return Response(InvitationSerializer(members.invitations_open(request_account(request)), many=True).data)

    @extend_schema(
        operation_id="invitations_create",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=InviteSerializer,
        responses={201: InvitationSerializer, **errors(400, 401, 403, 404, 409, 429)},
    )
    def post(self, request: Request) -> Response:
        """Invite an address, by an owner. A mail carries the link, which works for 7 days."""
        data = validated(InviteSerializer, request.data)
        account, user = owned_account(request), request.user
        throttles.INVITATION_PER_ACCOUNT.attempt(str(account.pk))
        invitation = members.invitation_create(account=account, invited_by=user, actor=request_actor(request), **data)
        return Response(InvitationSerializer(invitation).data, status=status.HTTP_201_CREATED)


class InvitationView(SessionView):
    @extend_schema(
        operation_id="invitations_revoke",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={204: None, **errors(401, 403, 404)},
    )
    def delete(self, request: Request, invitation_id: str) -> Response:
        """Withdraw an invitation, by an owner; again is the same."""
        members.invitation_revoke(account=owned_account(request), invitation_id=invitation_id, actor=request_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationAcceptView(SessionView):
    @extend_schema(
        operation_id="invitations_accept",
        tags=TAG,
        request=LinkTokenSerializer,
        responses={200: MembershipSerializer, **errors(400, 401, 403)},
    )
    def post(self, request: Request) -> Response:
        """Become a member with the token of the mailed link; the invited address must be one's own."""
        data = validated(LinkTokenSerializer, request.data)
        membership = members.invitation_accept(user=request.user, actor=request_actor(request), **data)
        return Response(MembershipSerializer(membership).data)


class AccountView(SessionView):
    @extend_schema(
        operation_id="account_retrieve",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: AccountDetailSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """The account this session acts for."""
        return Response(AccountDetailSerializer(request_account(request)).data)

    @extend_schema(
        operation_id="account_change",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=AccountChangeSerializer,
        responses={200: AccountDetailSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def patch(self, request: Request) -> Response:
        """Change its name, country, currency or time zone, by an owner."""
        data = validated(AccountChangeSerializer, request.data)
        account = preferences.account_change(account=owned_account(request), actor=request_actor(request), **data)
        return Response(AccountDetailSerializer(account).data)


class PasswordView(SessionView):
    @extend_schema(
        operation_id="auth_password",
        tags=["auth"],
        request=PasswordChangeSerializer,
        responses={204: None, **errors(400, 401, 403, 429)},
    )
    def post(self, request: Request) -> Response:
        """Set a new password with the present one. Every session of the user ends."""
        data = validated(PasswordChangeSerializer, request.data)
        preferences.password_change(user=request.user, address=throttles.client_house(request), **data)
        return Response(status=status.HTTP_204_NO_CONTENT)


def owned_account(request: Request) -> Account:
    """The account a session acts for, if its user owns it: ApiError 403 `owner_required`."""
    account = request_account(request)
    user: Any = request.user
    if membership_role(account=account, user=user) != Membership.Role.OWNER:
        raise ApiError(403, "owner_required", "Only an owner of the account may do this.")
    return account
