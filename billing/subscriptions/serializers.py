"""What `/api/subscriptions` takes and answers."""

from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from billing.invoices.serializers import MoneyField
from billing.ledger.serializers import CreditsField, instant_text
from iafactory.common.money import ZERO, plain

from .changes import ChangeOffer
from .models import Subscription


class SubscriptionSerializer(serializers.Serializer):
    """A subscription as its account sees it."""

    id = serializers.UUIDField()
    plan = serializers.CharField(help_text="Code of the plan.")
    plan_name = serializers.CharField()
    state = serializers.CharField(
        help_text="`incomplete`, `trialing`, `active`, `past_due`, `paused`, `canceled` or `expired`; the last two are final."
    )
    amount = MoneyField(allow_null=True, help_text="Price of a period; null: what is used of it costs.")
    currency = serializers.CharField(allow_null=True)
    tax_included = serializers.BooleanField(allow_null=True)
    current_period_start = serializers.DateTimeField()
    current_period_end = serializers.DateTimeField(allow_null=True, help_text="Exclusive; null: no end.")
    cancel_at_period_end = serializers.BooleanField()
    trial_ends_at = serializers.DateTimeField(allow_null=True)
    grace_until = serializers.DateTimeField(allow_null=True, help_text="Past due: when it ends unless paid.")
    paused_at = serializers.DateTimeField(allow_null=True)
    next_plan = serializers.CharField(allow_null=True, help_text="The plan it changes to when the period ends.")
    coupon = serializers.CharField(allow_null=True)
    previous_id = serializers.UUIDField(allow_null=True)
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class CancelSerializer(serializers.Serializer):
    at_period_end = serializers.BooleanField(default=True, help_text="false: now; nothing is given back.")
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")


class RegenerateKeySerializer(serializers.Serializer):
    key_id = serializers.UUIDField(required=False, help_text="Which key to replace; by default the newest that works.")


class PeriodUsageQuerySerializer(serializers.Serializer):
    start_date = serializers.DateField(
        required=False, help_text="First day, in the account's time zone; by default the period's."
    )
    end_date = serializers.DateField(required=False, help_text="Last day, included; at most 366 days after the first.")


class UsageByModelSerializer(serializers.Serializer):
    model = serializers.CharField()
    requests = serializers.IntegerField()
    credits = CreditsField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class UsageByDaySerializer(serializers.Serializer):
    day = serializers.DateField()
    requests = serializers.IntegerField()
    credits = CreditsField()


class SubscriptionUsageSerializer(serializers.Serializer):
    """What a subscription used in a time."""

    subscription_id = serializers.UUIDField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField(help_text="Exclusive.")
    requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    credits = CreditsField()
    overage_credits = CreditsField(help_text="Metered plans: used beyond the plan in the running period.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    by_model = UsageByModelSerializer(many=True)
    by_day = UsageByDaySerializer(many=True)


class ChangeOfferSerializer(serializers.Serializer):
    """What a change of plan comes to."""

    plan = serializers.CharField()
    at_period_end = serializers.BooleanField()
    effective_at = serializers.DateTimeField()
    period_end = serializers.DateTimeField(allow_null=True)
    currency = serializers.CharField()
    charge = MoneyField(help_text="The new plan for the time left, as its price has it.")
    unused = MoneyField(help_text="Taken off: what is unused of the old plan.")
    to_pay = MoneyField(help_text="Before tax on top, if prices are without, and before money in hand.")
    to_balance = MoneyField(help_text="Money that comes in hand for the next invoice.")
    balance = MoneyField(help_text="Money in hand now.")
    credits = CreditsField(help_text="Credits of the new plan for the time left.")


def subscription_body(subscription: Subscription) -> dict[str, Any]:
    """The answer for one subscription; its plan, price and coupon should be selected."""
    price = subscription.price
    return {
        "id": str(subscription.pk),
        "plan": subscription.plan.code,
        "plan_name": subscription.plan.name,
        "state": subscription.state,
        "amount": plain(price.amount) if price else None,
        "currency": price.currency if price else None,
        "tax_included": price.tax_included if price else None,
        "current_period_start": instant_text(subscription.current_period_start),
        "current_period_end": _text(subscription.current_period_end),
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "trial_ends_at": _text(subscription.trial_ends_at),
        "grace_until": _text(subscription.grace_until),
        "paused_at": _text(subscription.paused_at),
        "next_plan": subscription.next_plan.code if subscription.next_plan else None,
        "coupon": subscription.coupon.code if subscription.coupon else None,
        "previous_id": str(subscription.previous_id) if subscription.previous_id else None,
        "created_at": instant_text(subscription.created_at.astimezone(UTC)),
        "ended_at": _text(subscription.ended_at),
    }


def offer_body(offer: ChangeOffer) -> dict[str, Any]:
    """The answer for an offer to change the plan."""
    return {
        "plan": offer.plan.code,
        "at_period_end": offer.at_period_end,
        "effective_at": instant_text(offer.effective_at),
        "period_end": _text(offer.period_end),
        "currency": offer.currency,
        "charge": plain(offer.proration.charge),
        "unused": plain(offer.proration.unused),
        "to_pay": plain(max(offer.proration.net, ZERO)),
        "to_balance": plain(offer.to_balance),
        "balance": plain(offer.balance),
        "credits": plain(offer.credits),
    }


def _text(at: datetime | None) -> str | None:
    return instant_text(at) if at else None
