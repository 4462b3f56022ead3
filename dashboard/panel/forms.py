"""Forms draw fields and read what browsers send as the types the API takes. What is allowed is the API's to say."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from billing.invoices.identifiers import IDENTIFIERS as COUNTRY_IDENTIFIERS
from iafactory.common.errors import ApiError

from .refusals import refusal_text

_Answer = TypeVar("_Answer")
# Currencies and countries of the shipped catalogue's markets first; the rest by code.
COUNTRIES = [
    *(("DZ", _("Algeria")), ("FR", _("France")), ("IN", _("India")), ("MA", _("Morocco")), ("TN", _("Tunisia"))),
    *(("AE", _("United Arab Emirates")), ("BE", _("Belgium")), ("CA", _("Canada")), ("CH", _("Switzerland"))),
    *(("DE", _("Germany")), ("EG", _("Egypt")), ("ES", _("Spain")), ("GB", _("United Kingdom")), ("IT", _("Italy"))),
    *(("LB", _("Lebanon")), ("QA", _("Qatar")), ("SA", _("Saudi Arabia")), ("SN", _("Senegal")), ("TR", _("Türkiye"))),
    ("US", _("United States")),
]


class ApiForm(forms.Form):
    """A form whose fields are named as the API's."""

    required_css_class = "required"

    def refuse(self, error: ApiError) -> None:
        """Show a refusal beside its field, or above the form."""
        name = (error.param or "").split(".")[0]
        if "details" in (error.extra or {}) or name in self.fields:
            self.add_error(name if name in self.fields else None, refusal_text(error))
        else:
            self.add_error(None, refusal_text(error))

    def tell(self, call: Callable[..., _Answer], *args: Any, **kwargs: Any) -> _Answer | None:
        """What the API answers; None, and the refusal in the form, where it refuses. What is not there stays a 404."""
        try:
            return call(*args, **kwargs)
        except ApiError as error:
            if error.status == 404 and error.code == "not_found":
                raise
            self.refuse(error)
            return None


class LinesField(forms.CharField):
    """A list, an entry in each line."""

    widget = forms.Textarea

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.Textarea(attrs={"rows": 3, "dir": "ltr", "spellcheck": "false"}), **kwargs)

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        return [line.strip() for line in str(value or "").splitlines() if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value


class SignInForm(ApiForm):
    email = forms.EmailField(
        label=_("E-mail"),
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autofocus": True, "dir": "ltr"}),
    )
    password = forms.CharField(
        label=_("Password"),
        max_length=256,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "dir": "ltr"}),
    )


class SignUpForm(ApiForm):
    name = forms.CharField(
        label=_("Name"), max_length=150, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    email = forms.EmailField(
        label=_("E-mail"), max_length=254, widget=forms.EmailInput(attrs={"autocomplete": "username", "dir": "ltr"})
    )
    password = forms.CharField(
        label=_("Password"),
        max_length=256,
        strip=False,
        help_text=_("At least 10 characters."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "dir": "ltr"}),
    )


class KeyNameForm(ApiForm):
    name = forms.CharField(label=_("Name"), max_length=100, help_text=_("Where it is used: website, notebook, phone app."))


class KeyLimitsForm(KeyNameForm):
    """A key with its limits; empty leaves what the plan gives."""

    monthly_credits = forms.DecimalField(
        label=_("Credits a month"), required=False, min_value=Decimal(0), help_text=_("Empty: no limit of its own.")
    )
    daily_credits = forms.DecimalField(label=_("Credits a day"), required=False, min_value=Decimal(0))
    requests_per_minute = forms.IntegerField(label=_("Requests a minute"), required=False, min_value=0)
    tokens_per_minute = forms.IntegerField(label=_("Tokens a minute"), required=False, min_value=0)
    concurrent_calls = forms.IntegerField(label=_("Calls at the same time"), required=False, min_value=0)
    expires_at = forms.DateTimeField(
        label=_("Expires"),
        required=False,
        help_text=_("May be brought forward later, never put off."),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    allowed_models = LinesField(label=_("Models"), required=False, help_text=_("One a line; empty: all of the plan's."))
    allowed_networks = LinesField(label=_("Networks"), required=False, help_text=_("Addresses or CIDR networks; empty: all."))
    allowed_endpoints = LinesField(
        label=_("Addresses of the API"), required=False, help_text=_("Such as /v1/chat/completions; empty: all.")
    )
    allowed_origins = LinesField(label=_("Websites"), required=False, help_text=_("Such as https://app.example; empty: all."))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order_fields(["name", "monthly_credits", "daily_credits", "requests_per_minute", "tokens_per_minute"])


class UsageFilterForm(forms.Form):
    """The filters of the usage history; values go to the API as they are."""

    since = forms.DateField(label=_("From"), required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label=_("To"), required=False, widget=forms.DateInput(attrs={"type": "date"}))
    model = forms.CharField(label=_("Model"), required=False, max_length=200, widget=forms.TextInput(attrs={"dir": "ltr"}))
    api_key = forms.ChoiceField(label=_("API key"), required=False)
    end = forms.ChoiceField(
        label=_("Result"),
        required=False,
        choices=[
            ("", _("All")),
            ("complete", _("Complete")),
            ("client_gone", _("Client left")),
            ("upstream_dropped", _("Broken off")),
            ("provider_error", _("Provider failed")),
            ("refused", _("Refused")),
        ],
    )

    def __init__(self, *args: Any, keys: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["api_key"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", _("All")), *((str(key["id"]), f"{key['name']} ({key['prefix']}…)") for key in keys)]


class ProofForm(ApiForm):
    content = forms.FileField(
        label=_("Proof of payment"),
        help_text=_("PNG, JPEG or PDF, at most 5 MB."),
        widget=forms.ClearableFileInput(attrs={"accept": "image/png,image/jpeg,application/pdf"}),
    )
    customer_reference = forms.CharField(
        label=_("Number of the transfer or slip"), max_length=200, required=False, widget=forms.TextInput(attrs={"dir": "ltr"})
    )


class CancelForm(ApiForm):
    at_period_end = forms.TypedChoiceField(
        label=_("When"),
        choices=[("true", _("At the end of what is paid")), ("false", _("Now"))],
        coerce=lambda value: value == "true",
        initial="true",
        widget=forms.RadioSelect,
    )
    reason = forms.CharField(label=_("Why are you leaving?"), max_length=200, required=False)


class WebhookForm(ApiForm):
    url = forms.URLField(
        label=_("Address"),
        max_length=2000,
        assume_scheme="https",
        help_text=_("Where messages go: https."),
        widget=forms.URLInput(attrs={"dir": "ltr", "placeholder": "https://"}),
    )
    description = forms.CharField(label=_("Description"), max_length=200, required=False)
    event_types = forms.MultipleChoiceField(label=_("Events"), widget=forms.CheckboxSelectMultiple)

    def __init__(self, *args: Any, events: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["event_types"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(event["name"], event["name"]) for event in events]


class InviteForm(ApiForm):
    email = forms.EmailField(label=_("E-mail"), max_length=254, widget=forms.EmailInput(attrs={"dir": "ltr"}))
    role = forms.ChoiceField(label=_("Role"), choices=[("member", _("Member")), ("owner", _("Owner"))])


class TeamForm(ApiForm):
    name = forms.CharField(label=_("Name of the team"), max_length=150)


class UserForm(ApiForm):
    name = forms.CharField(label=_("Name"), max_length=150, required=False)
    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES)


class PasswordForm(ApiForm):
    password = forms.CharField(
        label=_("Current password"),
        max_length=256,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "dir": "ltr"}),
    )
    new_password = forms.CharField(
        label=_("New password"),
        max_length=256,
        strip=False,
        help_text=_("At least 10 characters."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "dir": "ltr"}),
    )


class AccountForm(ApiForm):
    name = forms.CharField(label=_("Name of the account"), max_length=150)
    country = forms.ChoiceField(label=_("Country"), choices=COUNTRIES, help_text=_("Decides how you can pay."))
    currency = forms.ChoiceField(label=_("Currency"), help_text=_("Of prices and invoices."))
    time_zone = forms.ChoiceField(
        label=_("Time zone"), help_text=_("Sets when days and months begin; a change applies from the next period on.")
    )

    def __init__(self, *args: Any, currencies: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones, money = self.fields["time_zone"], self.fields["currency"]
        assert isinstance(zones, forms.ChoiceField)
        assert isinstance(money, forms.ChoiceField)
        zones.choices = [(zone, zone.replace("_", " ")) for zone in sorted(available_timezones())]
        money.choices = [(currency, currency) for currency in currencies]


class BillingProfileForm(ApiForm):
    name = forms.CharField(label=_("Person or company"), max_length=200)
    legal_form = forms.CharField(label=_("Legal form"), max_length=100, required=False)
    activity = forms.CharField(label=_("Activity"), max_length=200, required=False)
    address = forms.CharField(label=_("Street and number"), max_length=500, required=False)
    postal_code = forms.CharField(label=_("Postal code"), max_length=16, required=False)
    city = forms.CharField(label=_("City"), max_length=100, required=False)
    country = forms.ChoiceField(label=_("Country"), choices=COUNTRIES)
    region = forms.CharField(
        label=_("State or province"), max_length=8, required=False, help_text=_("India: the state's two digits.")
    )
    email = forms.EmailField(label=_("E-mail for invoices"), required=False, widget=forms.EmailInput(attrs={"dir": "ltr"}))
    phone = forms.CharField(label=_("Phone"), max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    language = forms.ChoiceField(label=_("Language of invoices"), choices=settings.LANGUAGES)
    tax_status = forms.ChoiceField(
        label=_("Buying as"), choices=[("consumer", _("A private person")), ("business", _("A business"))], required=False
    )
    nif = forms.CharField(label="NIF", max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    rc = forms.CharField(label="RC", max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    ai = forms.CharField(label="AI", max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    nis = forms.CharField(label="NIS", max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    gstin = forms.CharField(label="GSTIN", max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))
    vat = forms.CharField(label=_("VAT number"), max_length=64, required=False, widget=forms.TextInput(attrs={"dir": "ltr"}))

    IDENTIFIERS = ("nif", "rc", "ai", "nis", "gstin", "vat")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """An identifier has `countries`, where it is asked for, and is `out_of_place` in others, unless it is filled in."""
        super().__init__(*args, **kwargs)
        own = {name: code for code, known in COUNTRY_IDENTIFIERS.items() for name in known}
        for name in self.IDENTIFIERS:
            field = self.fields[name]
            others = [str(code) for code, _name in COUNTRIES if code not in COUNTRY_IDENTIFIERS]
            field.countries = [own[name]] if name in own else others  # type: ignore[attr-defined]
            field.out_of_place = not self[name].value() and self["country"].value() not in field.countries  # type: ignore[attr-defined]

    def refuse(self, error: ApiError) -> None:
        which = str((error.extra or {}).get("identifier", ""))
        if error.code == "identifier_invalid" and which in self.fields:
            self.add_error(which, refusal_text(error))
        else:
            super().refuse(error)


class CreditNoticeForm(ApiForm):
    low_percent = forms.IntegerField(
        label=_("Warn at this share of the credits"), min_value=0, max_value=99, help_text=_("Percent; 0: never.")
    )
    low_credits = forms.DecimalField(
        label=_("Or at this many credits"), required=False, min_value=Decimal(0), help_text=_("Empty: the share counts.")
    )
