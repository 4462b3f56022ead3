"""`/api/billing/profile`: whom the account's invoices are made out to."""

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account, Membership
from billing.accounts.serializers import LANGUAGE_CHOICES, StrictCharField
from iafactory.common.errors import ApiError

from .models import BillingProfile
from .parties import profile_of
from .profiles import CUSTOMER_TAX_STATUSES, billing_profile_set

_FIELDS = (
    *("name", "legal_form", "activity", "address", "city", "postal_code", "country", "region", "email", "phone", "language"),
    *("identifiers", "tax_status"),
)


class IdentifiersField(serializers.DictField):
    """Identifiers by name, each a text; empty ones are taken away."""

    child = StrictCharField(max_length=64, allow_blank=True)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        values: dict[str, str] = super().to_internal_value(data)
        if len(values) > 12 or any(not name.isidentifier() or len(name) > 32 for name in values):
            raise serializers.ValidationError(_("Names are words such as nif, rc, ai, nis, gstin; at most 12."))
        return values


class BillingProfileSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="Person or company.")
    legal_form = serializers.CharField()
    activity = serializers.CharField()
    address = serializers.CharField()
    city = serializers.CharField()
    postal_code = serializers.CharField()
    country = serializers.CharField(help_text="ISO 3166 code.")
    region = serializers.CharField(help_text="India: the state's two digits.")
    email = serializers.CharField(help_text="Invoices go here; empty: the account's billing e-mail.")
    phone = serializers.CharField()
    language = serializers.ChoiceField(choices=LANGUAGE_CHOICES, help_text="Of invoices.")
    identifiers = serializers.DictField(child=serializers.CharField(), help_text="rc, nif, ai, nis, gstin, vat.")
    tax_status = serializers.ChoiceField(choices=BillingProfile.TaxStatus.choices)


class BillingProfileChangeSerializer(serializers.Serializer):
    """What is left out stays."""

    name = StrictCharField(max_length=200, required=False)
    legal_form = StrictCharField(max_length=100, required=False, allow_blank=True)
    activity = StrictCharField(max_length=200, required=False, allow_blank=True)
    address = StrictCharField(max_length=500, required=False, allow_blank=True)
    city = StrictCharField(max_length=100, required=False, allow_blank=True)
    postal_code = StrictCharField(max_length=16, required=False, allow_blank=True)
    country = serializers.RegexField("^[A-Z]{2}$", required=False, help_text="ISO 3166 code.")
    region = StrictCharField(max_length=8, required=False, allow_blank=True)
    email = serializers.EmailField(required=False, allow_blank=True)
    phone = StrictCharField(max_length=64, required=False, allow_blank=True)
    language = serializers.ChoiceField(choices=LANGUAGE_CHOICES, required=False)
    identifiers = IdentifiersField(required=False, help_text="All of them: what is left out is taken away.")
    tax_status = serializers.ChoiceField(choices=[str(status) for status in CUSTOMER_TAX_STATUSES], required=False)


class BillingProfileView(SessionView):
    @extend_schema(
        operation_id="billing_profile",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        responses={200: BillingProfileSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Whom the next invoice will be made out to."""
        return Response(_body(profile_of(request_account(request))))

    @extend_schema(
        operation_id="billing_profile_change",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        request=BillingProfileChangeSerializer,
        responses={200: BillingProfileSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def patch(self, request: Request) -> Response:
        """Change it, by an owner of the account; identifiers are checked. Issued invoices stay as they are."""
        changes = validated(BillingProfileChangeSerializer, request.data)
        account = _owned(request)
        return Response(_body(billing_profile_set(account=account, actor=request_actor(request), **changes)))


def _owned(request: Request) -> Account:
    account = request_account(request)
    if not account.memberships.filter(user=request.user.pk, role=Membership.Role.OWNER).exists():
        raise ApiError(403, "owner_required", "Only an owner of the account may change whom its invoices are made out to.")
    return account


def _body(profile: BillingProfile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in _FIELDS}
