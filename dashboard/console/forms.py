"""What operators fill in when they move credits, make keys and edit users."""

from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.admin.widgets import AdminSplitDateTime
from django.contrib.auth.forms import BaseUserCreationForm, UserChangeForm
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import LinesField
from billing.accounts.models import Account, ApiKey, User, email_normalise
from billing.ledger.models import Lot
from billing.plans.admin import CurrencyField
from iafactory.common import clock
from iafactory.common.admin import ReasonForm
from iafactory.common.ids import uuid7
from iafactory.common.money import CREDIT

# A slip of the hand stays far below what the columns hold.
LARGEST_GRANT = Decimal(1_000_000_000)


class FutureMixin:
    """Reads `expires_at`, which must lie in the future."""

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]  # type: ignore[attr-defined]
        if expires_at is not None and expires_at <= clock.now():
            raise forms.ValidationError(_("The expiry must lie in the future."))
        return expires_at


class GrantForm(FutureMixin, ReasonForm):
    """Credits for one account. `grant_id` makes one grant of however many submits."""

    amount = forms.DecimalField(
        label=_("Credits"),
        min_value=CREDIT,
        max_value=LARGEST_GRANT,
        max_digits=20,
        decimal_places=6,
        widget=forms.NumberInput(attrs={"autofocus": True, "step": "any"}),
        help_text=_("More than 0, at most 6 decimals."),
    )
    kind = forms.ChoiceField(
        label=_("Kind"),
        choices=[(kind.value, kind.label) for kind in (Lot.Kind.BONUS, Lot.Kind.PURCHASE, Lot.Kind.REFUND, Lot.Kind.PLAN)],
        help_text=_("Burn order: plan, bonus, refund, purchase. A purchase is what the customer paid for."),
    )
    expires_at = forms.SplitDateTimeField(
        label=_("Expires at"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: never.")
    )
    grant_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)

    field_order = ("amount", "kind", "expires_at", "reason", "grant_id")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].widget.attrs.pop("autofocus", None)


class NewKeyForm(FutureMixin, forms.Form):
    """A new API key for an account; operators may give service scopes too."""

    name = forms.CharField(label=_("Name"), max_length=100, widget=forms.TextInput(attrs={"class": "vTextField"}))
    scopes = forms.MultipleChoiceField(
        label=_("May"),
        choices=[choice for choice in ApiKey.Scope.choices if choice[0] != ApiKey.Scope.ADMIN],
        initial=[str(scope) for scope in ApiKey.CUSTOMER_SCOPES],
        widget=forms.CheckboxSelectMultiple,
    )
    expires_at = forms.SplitDateTimeField(
        label=_("Expires at"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: never.")
    )


class OperatorKeyForm(FutureMixin, forms.Form):
    """A new key with which programs may do what an operator may."""

    name = forms.CharField(label=_("Name"), max_length=100, widget=forms.TextInput(attrs={"class": "vTextField"}))
    expires_at = forms.SplitDateTimeField(
        label=_("Expires at"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: never.")
    )
    allowed_networks = LinesField(
        label=_("Networks"), required=False, help_text=_("Addresses or CIDR networks, one a line. Empty: everywhere.")
    )


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """An account's data, its codes checked."""

    country = forms.CharField(label=_("Country"), max_length=2, help_text=_("ISO 3166 code, two letters."))
    currency = CurrencyField(label=_("Currency"), max_length=3, help_text=_("ISO 4217 code of invoices."))
    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES)

    class Meta:
        model = Account
        fields = (
            "name",
            "billing_email",
            "country",
            "currency",
            "language",
            "time_zone",
            "overflow_allowed",
            "external_id",
        )

    def clean_country(self) -> str:
        country: str = self.cleaned_data["country"].upper()
        if not (len(country) == 2 and country.isascii() and country.isalpha()):
            raise forms.ValidationError(_("Two letters, such as DZ."))
        return country


class EmailMixin:
    """Reads the address under its one spelling."""

    def clean_email(self) -> str:
        return email_normalise(self.cleaned_data["email"])  # type: ignore[attr-defined]


class UserAddForm(EmailMixin, BaseUserCreationForm):  # type: ignore[type-arg]
    """A new user with a password."""

    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES, help_text=_("Language of e-mails."))

    class Meta:
        model = User
        fields = ("email", "name", "language")


class UserEditForm(EmailMixin, UserChangeForm):  # type: ignore[type-arg]
    """A user's data; the password has a page of its own."""

    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES, help_text=_("Language of e-mails."))

    class Meta:
        model = User
        fields = "__all__"
        field_classes: dict[str, Any] = {}
