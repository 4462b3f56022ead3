"""Shapes of the operators' JSON; amounts are JSON numbers, exact."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from billing.abuse.api import AbusiveUserSerializer
from billing.accounts.models import Account
from billing.accounts.serializers import StrictCharField
from billing.invoices.serializers import MoneyField
from billing.ledger.models import Lot
from billing.ledger.serializers import AmountField, CreditsField, UsdField
from billing.payments.models import Payment
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from iafactory.common import clock


class PercentField(serializers.DecimalField):
    """A share in percent: a JSON number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=12, decimal_places=2, coerce_to_string=False, **kwargs)


class DashboardBudgetSerializer(serializers.Serializer):
    """Of all providers together, for the running UTC day."""

    spent_usd = UsdField()
    limit_usd = UsdField(allow_null=True, help_text="null: no limit.")
    remaining_usd = UsdField(allow_null=True, help_text="What further calls may cost at the worst.")
    percent_used = serializers.IntegerField(allow_null=True, help_text="Rounded down.")
    alert_level = serializers.CharField(help_text="`ok`, `warning`, `critical` or `exhausted`.")


class DashboardUsersSerializer(serializers.Serializer):
    active_today = serializers.IntegerField(help_text="Accounts that used anything since midnight UTC.")
    avg_cost_per_user = UsdField(help_text="What providers charge for today, per active account.")
    abusive_count = serializers.IntegerField()
    abusive_users = AbusiveUserSerializer(many=True, help_text="The latest seen first, at most 20.")


class DashboardProviderSerializer(serializers.Serializer):
    provider = serializers.CharField()
    requests_count = serializers.IntegerField()
    cost_total = UsdField()
    success_rate = PercentField(allow_null=True, help_text="Percent of its calls that it did not spoil.")
    avg_latency_ms = serializers.IntegerField(allow_null=True)


class DashboardEconomicsSerializer(serializers.Serializer):
    revenue_usd = UsdField(help_text="Paid invoices, net of tax and refunds.")
    costs_usd = UsdField()
    profit_usd = UsdField()
    margin_percent = PercentField(allow_null=True, help_text="null without revenue.")


class DashboardAlertSerializer(serializers.Serializer):
    level = serializers.CharField()
    message = serializers.CharField()
    action = serializers.CharField(help_text="The console's page with the rows behind it.")


class DashboardSerializer(serializers.Serializer):
    budget = DashboardBudgetSerializer()
    users = DashboardUsersSerializer()
    providers = DashboardProviderSerializer(many=True)
    economics = DashboardEconomicsSerializer()
    alerts = DashboardAlertSerializer(many=True)


class UsersQuerySerializer(serializers.Serializer):
    """Filters of the list of accounts; all given ones apply."""

    q = StrictCharField(
        max_length=200,
        required=False,
        help_text="Name, e-mail, external id, an id of account, user or key, beginning of a key.",
    )
    status = serializers.ChoiceField(choices=Account.Status.choices, required=False)
    plan = serializers.SlugField(required=False, help_text="Code of the live subscription's plan.")
    state = serializers.ChoiceField(choices=Subscription.State.choices, required=False, help_text="Of the subscription.")
    country = serializers.RegexField(r"^[A-Za-z]{2}$", required=False, help_text="ISO 3166 code.")
    in_debt = serializers.BooleanField(required=False, allow_null=True, default=None)
    ordering = serializers.ChoiceField(
        choices=["created_at", "-created_at", "balance", "-balance", "name"], required=False, default="-created_at"
    )


class BillingUserSerializer(serializers.Serializer):
    """An account, who it belongs to, what it is on, what it has."""

    id = serializers.UUIDField(help_text="The account.")
    user_id = serializers.UUIDField(allow_null=True, help_text="Whose personal account it is.")
    email = serializers.CharField(help_text="The user's, or the account's billing address.")
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=Account.Kind.choices)
    status = serializers.ChoiceField(choices=Account.Status.choices)
    country = serializers.CharField()
    currency = serializers.CharField()
    external_id = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    plan = serializers.CharField(allow_null=True, help_text="Of the live subscription.")
    subscription_state = serializers.CharField(allow_null=True)
    current_period_end = serializers.DateTimeField(allow_null=True)
    balance = CreditsField()
    held = CreditsField(help_text="Of it, pinned by calls under way.")
    debt = CreditsField()


GRANTABLE = (Lot.Kind.BONUS, Lot.Kind.PURCHASE, Lot.Kind.REFUND, Lot.Kind.PLAN)


class GrantSerializer(serializers.Serializer):
    """Whose credits (exactly one of `user_id`, `external_id`, `email`), how many, which and why."""

    user_id = serializers.UUIDField(required=False, help_text="A user, whose personal account is meant, or an account.")
    external_id = StrictCharField(max_length=128, required=False)
    email = serializers.EmailField(required=False, help_text="Of a user, whose personal account is meant.")
    credits = AmountField(help_text="More than 0.")
    kind = serializers.ChoiceField(choices=[(kind.value, kind.label) for kind in GRANTABLE], default=Lot.Kind.BONUS.value)
    reason = StrictCharField(max_length=200)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None, help_text="null: never.")

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= clock.now():
            raise serializers.ValidationError(_("The expiry must lie in the future."))
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len({"user_id", "external_id", "email"} & attrs.keys()) != 1:
            raise serializers.ValidationError({"user_id": _("Say whose credits: one of user_id, external_id and email.")})
        return attrs


class GrantedSerializer(serializers.Serializer):
    id = serializers.UUIDField(help_text="The lot.")
    account_id = serializers.UUIDField()
    credits = CreditsField()
    kind = serializers.CharField()
    expires_at = serializers.DateTimeField(allow_null=True)
    balance = CreditsField(help_text="The account's, afterwards.")


class AddCreditsSerializer(serializers.Serializer):
    """As older programs send it."""

    apiKey = StrictCharField(max_length=200, help_text="A customer's API key: it names the account.")
    credits = AmountField(help_text="More than 0.")
    reason = StrictCharField(max_length=200, required=False, default="Added by a program")


class AddedCreditsSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    credits = CreditsField(help_text="What was added.")
    balance = CreditsField(help_text="The account's, afterwards.")
    id = serializers.UUIDField(help_text="The lot.")


class DaysQuerySerializer(serializers.Serializer):
    """UTC days, both included; by default the last 30."""

    def get_fields(self) -> dict[str, Any]:
        # `from` is a word of Python.
        return {
            "from": serializers.DateField(required=False, help_text="First UTC day."),
            "to": serializers.DateField(required=False, help_text="Last UTC day, included."),
        }


class CountedSerializer(serializers.Serializer):
    total = serializers.IntegerField()
    by_status = serializers.DictField(child=serializers.IntegerField())


class PlanCountSerializer(serializers.Serializer):
    plan = serializers.SlugRelatedField(slug_field="code", queryset=Plan.objects.none())
    subscriptions = serializers.IntegerField()


class CreditStatsSerializer(serializers.Serializer):
    balance = CreditsField(help_text="All wallets together.")
    held = CreditsField()
    debt = CreditsField()
    charged = CreditsField(help_text="In the range.")


class UsageStatsSerializer(serializers.Serializer):
    calls = serializers.IntegerField()
    calls_failed = serializers.IntegerField()
    cost_usd = UsdField()
    active_accounts = serializers.IntegerField()


class PaymentStatsSerializer(serializers.Serializer):
    state = serializers.ChoiceField(choices=Payment.State.choices)
    currency = serializers.CharField()
    payments = serializers.IntegerField()
    amount = MoneyField()


class InvoiceStatsSerializer(serializers.Serializer):
    currency = serializers.CharField()
    open = serializers.IntegerField()
    overdue = serializers.IntegerField()
    due = MoneyField()


class StatsSerializer(serializers.Serializer):
    """What the accounts have and are on now, and what happened in a range of UTC days."""

    def get_fields(self) -> dict[str, Any]:
        return {
            "from": serializers.DateField(),
            "to": serializers.DateField(),
            "accounts": CountedSerializer(),
            "subscriptions": PlanCountSerializer(many=True),
            "credits": CreditStatsSerializer(),
            "usage": UsageStatsSerializer(),
            "economics": DashboardEconomicsSerializer(),
            "payments": PaymentStatsSerializer(many=True, help_text="Made in the range."),
            "invoices": InvoiceStatsSerializer(many=True, help_text="That wait for money now."),
        }
