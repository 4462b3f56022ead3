"""The JSON of credits, balances and usage: strict on what comes in, exact on what goes out."""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.accounts.serializers import StrictCharField, StrictIntegerField
from iafactory.common.errors import ApiError

from .models import UsageRecord

_AMOUNT = re.compile(r"\d{1,8}(\.\d{1,6})?", re.ASCII)
# What both Python and PostgreSQL can shift between zones, with room to spare.
_YEARS = range(2000, 2200)


@extend_schema_field({"type": "number", "minimum": 0, "maximum": 99999999, "example": 1})
class AmountField(serializers.Field):
    """Credits or units: a JSON number or its text, at most 8 digits and 6 places. `zero` allows 0."""

    default_error_messages = {
        "positive": _("A number of at most 8 digits and 6 decimal places is needed, more than 0."),
        "not_negative": _("A number of at most 8 digits and 6 decimal places is needed, 0 or more."),
    }

    def __init__(self, *, zero: bool = False, **kwargs: Any) -> None:
        self.zero = zero
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> Decimal:
        text = "" if isinstance(data, bool) else str(data)
        if not _AMOUNT.fullmatch(text) or (not self.zero and not Decimal(text)):
            self.fail("not_negative" if self.zero else "positive")
        return Decimal(text)

    def to_representation(self, value: Decimal) -> Decimal:
        return value


class CreditsField(serializers.DecimalField):
    """Credits in an answer: a JSON number, exact."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=20, decimal_places=6, coerce_to_string=False, **kwargs)


class UsdField(serializers.DecimalField):
    """USD in an answer: a JSON number, exact."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=20, decimal_places=9, coerce_to_string=False, **kwargs)


def request_id_field() -> StrictCharField:
    """The id a service gives to what it charges."""
    return StrictCharField(
        max_length=128, help_text="Yours, unique per account: a repetition is answered, never charged again."
    )


# -- credits, for other services -----------------------------------------------------------------------------------------


class TargetSerializer(serializers.Serializer):
    """Whose credits: `user_id` (a user's personal account, or an account's own id), `external_id`, or `X-User-ID`."""

    user_id = StrictCharField(max_length=64, required=False)
    external_id = StrictCharField(max_length=128, required=False)


class CheckSerializer(TargetSerializer):
    service = StrictCharField(max_length=64)
    units = AmountField(default=Decimal(1))


class ConsumeSerializer(CheckSerializer):
    request_id = request_id_field()


class HoldSerializer(TargetSerializer):
    """`service` (with `units`) or `credits`."""

    service = StrictCharField(max_length=64, required=False)
    units = AmountField(required=False)
    credits = AmountField(required=False)
    request_id = request_id_field()
    expires_in_seconds = StrictIntegerField(min_value=1, max_value=86400, default=600)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("service" in attrs) == ("credits" in attrs):
            raise serializers.ValidationError({"credits": _("Name `service` or `credits`, one of them.")})
        if "units" in attrs and "service" not in attrs:
            raise serializers.ValidationError({"units": _("`units` go with `service`.")})
        return attrs


class SettleSerializer(TargetSerializer):
    """`credits` or `units`."""

    request_id = request_id_field()
    credits = AmountField(required=False, zero=True)
    units = AmountField(required=False, zero=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("units" in attrs) == ("credits" in attrs):
            raise serializers.ValidationError({"credits": _("Name `credits` or `units`, one of them.")})
        return attrs


class ReleaseSerializer(TargetSerializer):
    request_id = request_id_field()


class DailyLimitSerializer(serializers.Serializer):
    """A plan's limit for the account's day, calls in flight counted."""

    unit = serializers.CharField(help_text="`credits` or `requests`.")
    limit = CreditsField()
    used = CreditsField()
    remaining = CreditsField()
    resets_at = serializers.DateTimeField()


class CheckResultSerializer(serializers.Serializer):
    can_proceed = serializers.BooleanField()
    reason = serializers.CharField(
        allow_null=True,
        help_text="`account_blocked`, `account_closed`, `no_active_plan`, `service_not_in_plan`, `account_in_debt`, "
        "`daily_limit_reached` or `insufficient_credits`.",
    )
    message = serializers.CharField(allow_null=True)
    account_id = serializers.UUIDField()
    service = serializers.CharField()
    units = CreditsField()
    credits_required = CreditsField()
    available = CreditsField()
    plan = serializers.CharField(allow_null=True)
    daily = DailyLimitSerializer(allow_null=True)


class ConsumeResultSerializer(serializers.Serializer):
    id = serializers.UUIDField(help_text="Of the charge in the books and in `/api/billing/usage`.")
    request_id = serializers.CharField()
    account_id = serializers.UUIDField()
    service = serializers.CharField()
    units = CreditsField()
    credits = CreditsField(help_text="Charged.")
    available = CreditsField(help_text="After this charge.")
    charged_at = serializers.DateTimeField()


class HoldResultSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    request_id = serializers.CharField()
    account_id = serializers.UUIDField()
    state = serializers.CharField(help_text="`open`, `settled`, `released` or `expired`.")
    credits_held = CreditsField()


class HoldOpenSerializer(HoldResultSerializer):
    available = CreditsField(help_text="Beside this hold, when it was opened.")
    expires_at = serializers.DateTimeField()


class HoldSettledSerializer(HoldResultSerializer):
    credits_charged = CreditsField()
    credits_lost = CreditsField(help_text="Asked for, but covered by nothing: the operator's loss.")
    late = serializers.BooleanField(help_text="Booked after the hold's time was over.")
    ended_at = serializers.DateTimeField()


class HoldReleasedSerializer(HoldResultSerializer):
    ended_at = serializers.DateTimeField()


class PeriodGrantsSerializer(serializers.Serializer):
    checked = serializers.IntegerField(help_text="Live subscriptions with credits in their running period.")
    granted = serializers.IntegerField()
    granted_before = serializers.IntegerField()
    credits = CreditsField(help_text="Granted now.")


# -- billing, for customers ----------------------------------------------------------------------------------------------


class LotSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    kind = serializers.CharField(help_text="`plan`, `purchase`, `bonus`, `overage` or `refund`.")
    amount = CreditsField()
    remaining = CreditsField(help_text="Held part included.")
    held = CreditsField()
    effective_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    source = serializers.CharField()


class AccountPlanSerializer(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    billing_mode = serializers.CharField(help_text="`quota`, `credits` or `metered`.")
    features = serializers.ListField(child=serializers.CharField())


class AccountSubscriptionSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    state = serializers.CharField()
    plan = serializers.CharField()
    current_period_start = serializers.DateTimeField()
    current_period_end = serializers.DateTimeField(allow_null=True)
    cancel_at_period_end = serializers.BooleanField()


class BillingAccountSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    kind = serializers.CharField()
    currency = serializers.CharField()
    time_zone = serializers.CharField()


class TodaySerializer(serializers.Serializer):
    """Since midnight in the account's zone."""

    date = serializers.DateField()
    requests = serializers.IntegerField(help_text="That cost credits or counted against a quota.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    credits = CreditsField()


class NextChangeSerializer(serializers.Serializer):
    """What changes the balance next by itself."""

    at = serializers.DateTimeField()
    change = serializers.CharField(help_text="`credits_begin` or `credits_expire`.")
    credits = CreditsField()


class BillingMeSerializer(serializers.Serializer):
    account = BillingAccountSerializer()
    plan = AccountPlanSerializer(allow_null=True)
    subscription = AccountSubscriptionSerializer(allow_null=True)
    balance = CreditsField(help_text="Held part included.")
    held = CreditsField()
    available = CreditsField()
    debt = CreditsField()
    lots = LotSerializer(many=True, help_text="Not spent and not expired, in the order in which they are used.")
    daily = DailyLimitSerializer(allow_null=True)
    today = TodaySerializer()
    next_change = NextChangeSerializer(allow_null=True)


class InstantField(serializers.Field):
    """ISO 8601: an instant, or a day of the account's zone. As an end (`day_end`) a day counts in full."""

    default_error_messages = {"invalid": _("An ISO 8601 date or time is needed, such as 2026-03-31 or 2026-03-31T12:00:00Z.")}

    def __init__(self, *, day_end: bool = False, **kwargs: Any) -> None:
        self.day_end = day_end
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> datetime:
        day: date | None = None
        instant: datetime | None = None
        try:
            day = parse_date(data)
            instant = parse_datetime(data) if day is None else None
        except (TypeError, ValueError):
            self.fail("invalid")
        zone: ZoneInfo = self.context["zone"]
        if day is not None:
            if day.year not in _YEARS:
                self.fail("invalid")
            return datetime.combine(day + timedelta(days=self.day_end), time.min, zone).astimezone(UTC)
        if instant is None or instant.year not in _YEARS:
            self.fail("invalid")
        assert instant is not None
        return (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)

    def to_representation(self, value: datetime) -> str:
        return value.isoformat()


_InstantText = extend_schema_field({"type": "string", "example": "2026-03-31"})


@_InstantText
class FromField(InstantField):
    """The first instant."""


@_InstantText
class ToField(InstantField):
    """The end, exclusive."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(day_end=True, **kwargs)


class UsageQuerySerializer(serializers.Serializer):
    """Filters of the usage list. Context: `zone`, the account's."""

    to = ToField(required=False, help_text="Before this instant; a date counts in full.")
    model = serializers.CharField(max_length=200, required=False)
    provider = serializers.CharField(max_length=64, required=False)
    end = serializers.CharField(max_length=16, required=False, help_text="How it ended, such as `complete`.")
    api_key = serializers.CharField(max_length=64, required=False, help_text="Id of one of the account's keys.")
    endpoint = serializers.CharField(max_length=64, required=False)
    min_credits = AmountField(required=False, zero=True, help_text="Charged at least this much.")
    page_size = serializers.IntegerField(min_value=1, max_value=200, default=50)
    cursor = serializers.CharField(max_length=200, required=False, help_text="`next_cursor` of the page before.")

    def get_fields(self) -> dict[str, Any]:
        # `from` is a word of Python's own.
        first = {"from": FromField(required=False, help_text="From this instant on; a date is one of the account's zone.")}
        return {**first, **super().get_fields()}

    def validate_end(self, value: str) -> str:
        if value not in UsageRecord.End.values:
            raise serializers.ValidationError(gettext("One of: %(values)s") % {"values": ", ".join(UsageRecord.End.values)})
        return value


class UsageSerializer(serializers.Serializer):
    """One call, or one charge of a service."""

    request_id = serializers.UUIDField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField()
    endpoint = serializers.CharField()
    end = serializers.CharField(help_text="How it ended.")
    error_code = serializers.CharField(allow_null=True)
    requested_model = serializers.CharField(allow_null=True)
    model = serializers.CharField(allow_null=True)
    provider = serializers.CharField(allow_null=True)
    plan = serializers.CharField(allow_null=True)
    api_key = serializers.UUIDField(allow_null=True, help_text="Null with a session, and for services.")
    streamed = serializers.BooleanField()
    fallback = serializers.BooleanField()
    input_tokens = serializers.IntegerField()
    cache_read_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    units = serializers.DictField(
        child=CreditsField(), allow_null=True, help_text="Beside tokens: `images`, `characters`, `seconds`, `clips`."
    )
    estimated = serializers.BooleanField(help_text="Tokens were counted by us: the provider reported none.")
    credits = CreditsField(help_text="Charged.")
    quota_units = serializers.IntegerField(help_text="Requests counted against the plan's quota.")
    latency_ms = serializers.IntegerField(allow_null=True)
    first_byte_ms = serializers.IntegerField(allow_null=True)


class UsagePageSerializer(serializers.Serializer):
    results = UsageSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    next_cursor = serializers.CharField(allow_null=True)


class UsageTokensSerializer(serializers.Serializer):
    input = serializers.IntegerField(help_text="Cached ones included.")
    cache_read = serializers.IntegerField()
    cache_write = serializers.IntegerField()
    output = serializers.IntegerField(help_text="Reasoning included.")
    reasoning = serializers.IntegerField()
    estimated = serializers.BooleanField()


class UnitPriceSerializer(serializers.Serializer):
    """A price beside tokens: `usd` for every `per` of a unit."""

    unit = serializers.CharField()
    per = serializers.IntegerField()
    usd = UsdField()


class PriceSerializer(serializers.Serializer):
    version = serializers.CharField(allow_null=True, help_text="Of the price list that was in force.")
    usd_per_million_tokens = serializers.DictField(child=UsdField())
    unit_prices = UnitPriceSerializer(many=True)
    credits_per_unit = CreditsField(allow_null=True, help_text="Of a service.")
    units = CreditsField(allow_null=True)


class MarkupSerializer(serializers.Serializer):
    """How USD at list price become credits."""

    margin_multiplier = UsdField()
    usd_per_credit = UsdField()
    rounding = serializers.CharField(help_text="`whole` or `exact`.")


class UsageHoldSerializer(serializers.Serializer):
    credits = CreditsField(help_text="Set aside when it began: the most it could cost.")
    returned = CreditsField(help_text="Given back when it ended.")


class LotDebitSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    source = serializers.CharField()
    credits = CreditsField()


class ExplanationSerializer(UsageSerializer):
    """A charge, down to the prices and lots behind it."""

    ended = serializers.CharField(help_text="How it ended, in words.")
    tokens = UsageTokensSerializer()
    price = PriceSerializer()
    markup = MarkupSerializer(allow_null=True)
    list_cost_usd = UsdField(help_text="What it costs at the provider's list price.")
    hold = UsageHoldSerializer()
    lots = LotDebitSerializer(many=True, help_text="Where the credits came from.")
    balance_before = CreditsField()
    balance_after = CreditsField()
    arithmetic = serializers.ListField(child=serializers.CharField(), help_text="The charge, step by step.")


def instant_text(at: datetime) -> str:
    """`at` as every answer writes it: ISO 8601 in UTC, with `Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def cursor_write(record: UsageRecord) -> str:
    """Where a list goes on after `record`."""
    return f"{record.started_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}-{record.pk.hex}"


def cursor_read(cursor: str) -> tuple[datetime, UUID]:
    """Start and id of the record a cursor names. Raises ApiError 400 `invalid_request`."""
    instant, _, record_id = cursor.partition("-")
    try:
        at = datetime.strptime(instant, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
        return at, UUID(hex=record_id)
    except ValueError:
        raise ApiError(400, "invalid_request", "This cursor is not one of ours.", param="cursor") from None
