"""The JSON of users, sessions, accounts and keys; and fields that take a type as it is, without guessing."""

import re
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from iafactory.common import clock

from . import selectors
from .key_limits import API_KEY_LIMITS, API_KEY_LIST_MAX
from .models import Account, ApiKey, Membership, User
from .services import ROTATION_GRACE, ROTATION_GRACE_MAX
from .tokens import SessionTokens

# A number as Python writes those that JSON had: the smallest ones come with an exponent.
_CREDITS = re.compile(r"\d{1,9}(\.\d{1,6})?(e-0[56])?", re.ASCII)
LANGUAGE_CHOICES = [("en", "English"), ("fr", "French"), ("ar", "Arabic")]


class _StringsOnly:
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid")  # type: ignore[attr-defined]
        return super().to_internal_value(data)  # type: ignore[misc]


class StrictCharField(_StringsOnly, serializers.CharField):
    """A string that was a string: 5 is not "5"."""


class StrictEmailField(_StringsOnly, serializers.EmailField):
    """An address in ASCII; an international domain in its `xn--` form, which has one spelling."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        if not value.isascii():
            self.fail("invalid")
        return value


class StrictBooleanField(serializers.BooleanField):
    """true or false, nothing that looks like it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return bool(data)


class StrictIntegerField(serializers.IntegerField):
    """An integer that was an integer: neither "5" nor 5.0 nor true."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        value: int = super().to_internal_value(data)
        return value


@extend_schema_field({"type": "number", "minimum": 0, "maximum": 999999999, "example": 50})
class KeyCreditsField(serializers.Field):
    """Credits a key may spend: a JSON number or its text, at most 9 digits and 6 places."""

    default_error_messages = {"invalid": "A number from 0, of at most 9 digits and 6 decimal places, is needed."}

    def to_internal_value(self, data: Any) -> Decimal:
        text = "" if isinstance(data, bool) else str(data)
        if not _CREDITS.fullmatch(text) or round(Decimal(text), 6) != Decimal(text):
            self.fail("invalid")
        return Decimal(text)

    def to_representation(self, value: Decimal) -> Decimal:
        return value


def password_field() -> StrictCharField:
    """A password as typed, spaces included."""
    return StrictCharField(max_length=256, trim_whitespace=False, write_only=True, style={"input_type": "password"})


class ErrorDetailSerializer(serializers.Serializer):
    code = serializers.CharField(help_text="Stable; programs decide by it.")
    message = serializers.CharField(help_text="For humans.")
    param = serializers.CharField(required=False, help_text="The field that is wrong.")
    details = serializers.DictField(required=False)
    request_id = serializers.CharField()


class ErrorSerializer(serializers.Serializer):
    """Every refusal outside `/v1/`."""

    error = ErrorDetailSerializer()


class UserSerializer(serializers.ModelSerializer):
    email_verified = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ["id", "email", "name", "language", "email_verified", "date_joined"]

    def get_email_verified(self, user: User) -> bool:
        return user.email_verified_at is not None


class UserChangeSerializer(serializers.Serializer):
    """What is left out stays."""

    name = StrictCharField(max_length=150, required=False, allow_blank=True)
    language = serializers.ChoiceField(choices=LANGUAGE_CHOICES, required=False)


class AccountSerializer(serializers.ModelSerializer):
    class Meta:
        model = Account
        fields = ["id", "kind", "name", "status", "currency", "country", "language", "time_zone", "created_at"]


class MembershipSerializer(serializers.ModelSerializer):
    """An account the user may name in `X-Account`."""

    account = AccountSerializer()

    class Meta:
        model = Membership
        fields = ["account", "role"]


class MeSerializer(serializers.Serializer):
    user = UserSerializer()
    account = AccountSerializer(allow_null=True, help_text="The account this request acts for.")
    accounts = MembershipSerializer(many=True)


class TokensSerializer(serializers.Serializer):
    access_token = serializers.CharField()
    refresh_token = serializers.CharField(help_text="Works once.")
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds that the access token works.")


class LoginResultSerializer(TokensSerializer):
    user = UserSerializer()


class RegisterResultSerializer(LoginResultSerializer):
    account = AccountSerializer()


class RegisterSerializer(serializers.Serializer):
    email = StrictEmailField(max_length=254)
    password = password_field()
    name = StrictCharField(max_length=150, required=False, allow_blank=True, default="")
    language = serializers.ChoiceField(
        choices=LANGUAGE_CHOICES, required=False, help_text="Of mails; by default the best match of Accept-Language."
    )


class LoginSerializer(serializers.Serializer):
    email = StrictCharField(max_length=254)
    password = password_field()
    code = StrictCharField(
        max_length=32,
        required=False,
        default="",
        allow_blank=True,
        help_text="Of an operator's second factor.",
    )


class RefreshSerializer(serializers.Serializer):
    refresh_token = StrictCharField(max_length=4096)


class LinkTokenSerializer(serializers.Serializer):
    token = StrictCharField(max_length=1024)


class EmailSerializer(serializers.Serializer):
    email = StrictEmailField(max_length=254)


class PasswordResetSerializer(LinkTokenSerializer):
    password = password_field()


class AcceptedSerializer(serializers.Serializer):
    """Taken; a mail goes out where one is due."""

    accepted = serializers.BooleanField()


class VerifiedSerializer(serializers.Serializer):
    email = serializers.EmailField()
    email_verified = serializers.BooleanField()


class ApiKeySerializer(serializers.ModelSerializer):
    """A key without its secret. Limits that are null and lists that are empty leave what the plan gives."""

    state = serializers.SerializerMethodField()
    daily_credits = KeyCreditsField(allow_null=True, read_only=True)
    monthly_credits = KeyCreditsField(allow_null=True, read_only=True)
    created_by = serializers.UUIDField(source="created_by_id", allow_null=True, read_only=True)
    replaced_by = serializers.UUIDField(source="replaced_by_id", allow_null=True, read_only=True)

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "name",
            "prefix",
            "last_four",
            "scopes",
            "state",
            "created_at",
            "created_by",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "replaced_by",
            *API_KEY_LIMITS,
        ]
        read_only_fields = API_KEY_LIMITS

    @extend_schema_field(serializers.ChoiceField(choices=["active", "revoked", "expired"]))
    def get_state(self, key: ApiKey) -> str:
        return selectors.api_key_state(key, clock.now())


class ApiKeyWithSecretSerializer(ApiKeySerializer):
    """A new key; the only time its secret is told."""

    secret = serializers.CharField(read_only=True, help_text="Keep it: it is never shown again.")

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "secret"]


def _rate_field(help_text: str) -> StrictIntegerField:
    return StrictIntegerField(min_value=0, max_value=2**31 - 1, required=False, allow_null=True, help_text=help_text)


def _list_field(max_length: int, help_text: str) -> serializers.ListField:
    return serializers.ListField(
        child=StrictCharField(max_length=max_length), max_length=API_KEY_LIST_MAX, required=False, help_text=help_text
    )


class _ApiKeyLimitsSerializer(serializers.Serializer):
    """What an owner may narrow on a key. A field that is not known is refused: a misspelt limit would limit nothing."""

    requests_per_minute = _rate_field("Calls a minute; null: the plan's.")
    tokens_per_minute = _rate_field("Tokens a minute; null: the plan's.")
    concurrent_calls = _rate_field("Calls at the same time; null: the plan's.")
    daily_credits = KeyCreditsField(
        required=False, allow_null=True, help_text="Credits a day in the account's time zone; null: no limit of its own."
    )
    monthly_credits = KeyCreditsField(
        required=False, allow_null=True, help_text="Credits a calendar month; null: no limit of its own."
    )
    allowed_networks = _list_field(43, "Addresses or CIDR networks from which the key works; empty: from everywhere.")
    allowed_models = _list_field(200, "Public names of models; empty: all of the plan's.")
    allowed_endpoints = _list_field(64, "Paths of the gateway, such as /v1/chat/completions; empty: all.")
    allowed_origins = _list_field(200, "Origins of browsers, `scheme://host[:port]`; empty: every origin, and none.")

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(str(name) for name in data if name not in self.fields)):
            raise serializers.ValidationError({unknown[0][:100]: [_("There is no such field.")]})
        return super().to_internal_value(data)


class ApiKeyChangeSerializer(_ApiKeyLimitsSerializer):
    """What is left out stays as it is."""

    name = StrictCharField(max_length=100, required=False)
    expires_at = serializers.DateTimeField(
        required=False, allow_null=True, help_text="Sets an expiry or brings it forward; it is never put off or taken away."
    )


class ApiKeyCreateSerializer(_ApiKeyLimitsSerializer):
    name = StrictCharField(max_length=100)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=ApiKey.Scope.choices),
        allow_empty=False,
        max_length=10,
        required=False,
        help_text="`inference` and `billing:read` by default; the `credits:` scopes are given by operators.",
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class LeakedKeySerializer(serializers.Serializer):
    secret = StrictCharField(max_length=200, write_only=True, help_text="The whole key, as it was found.")


class ApiKeyRotateSerializer(serializers.Serializer):
    grace_seconds = StrictIntegerField(
        min_value=0,
        max_value=int(ROTATION_GRACE_MAX.total_seconds()),
        default=int(ROTATION_GRACE.total_seconds()),
        help_text="How long the old key still works.",
    )


class ApiKeyQuerySerializer(serializers.Serializer):
    state = serializers.ChoiceField(choices=["active", "revoked", "expired"], required=False)


def session_body(user: User, tokens: SessionTokens) -> dict[str, Any]:
    """What a login answers."""
    return {"user": UserSerializer(user).data, **tokens_body(tokens)}


def tokens_body(tokens: SessionTokens) -> dict[str, Any]:
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "token_type": tokens.token_type,
        "expires_in": tokens.expires_in,
    }


def api_key_body(key: ApiKey, secret: str) -> dict[str, Any]:
    """A new key with its secret."""
    return {**ApiKeySerializer(key).data, "secret": secret}
