"""What the payment API takes and answers."""

from typing import Any

from rest_framework import serializers

from billing.invoices.serializers import MoneyField
from billing.ledger.serializers import instant_text
from billing.subscriptions.serializers import ChangeOfferSerializer, SubscriptionSerializer
from iafactory.common.money import plain

from .models import ManualMethod, Payment


class PayWithSerializer(serializers.Serializer):
    """How to pay."""

    gateway = serializers.CharField(
        max_length=32,
        required=False,
        allow_blank=True,
        default="",
        help_text="By default the preferred one; `manual`: by hand.",
    )
    method = serializers.SlugField(
        max_length=32, required=False, allow_blank=True, default="", help_text="By hand: bank_transfer, ccp, cash …"
    )


class AutoRenewalSerializer(serializers.Serializer):
    """Whether the customer agrees that renewals are charged to the card of this payment."""

    auto_renewal = serializers.BooleanField(
        default=False, help_text="The customer agreed, in so many words, that the card is kept and charged at renewals."
    )
    auto_renewal_wording = serializers.CharField(
        max_length=32,
        required=False,
        allow_blank=True,
        default="",
        help_text="Version of the text they agreed to: `consent` of `GET /api/payment/methods`.",
    )
    auto_renewal_language = serializers.CharField(
        max_length=8, required=False, help_text="In which they read it (en, fr, ar); by default the account's."
    )


class SubscribeSerializer(PayWithSerializer, AutoRenewalSerializer):
    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False, help_text="By default the account's.")
    coupon = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")
    trial = serializers.BooleanField(default=True, help_text="Take the plan's trial, if it has one and none was taken before.")


class SubscriptionBeginSerializer(SubscribeSerializer):
    plan = serializers.SlugField(max_length=64)
    billing_email = serializers.EmailField(required=False, help_text="Where invoices and reminders go.")


class ChangePlanSerializer(PayWithSerializer, AutoRenewalSerializer):
    plan = serializers.SlugField(max_length=64)
    when = serializers.ChoiceField(
        ["now", "period_end"], required=False, help_text="By default dearer plans now, others at the period's end."
    )
    preview = serializers.BooleanField(default=False, help_text="Only say what it would come to.")


class TopupSerializer(PayWithSerializer):
    pack = serializers.SlugField(max_length=64, help_text="Code of a credit pack.")
    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False, help_text="By default the account's.")


class OrderSerializer(PayWithSerializer, AutoRenewalSerializer):
    pass


class PaymentSerializer(serializers.Serializer):
    """An attempt to pay."""

    id = serializers.UUIDField()
    reference = serializers.CharField(help_text="Give it as the purpose of a transfer.")
    state = serializers.CharField()
    gateway = serializers.CharField()
    method = serializers.CharField()
    amount = MoneyField()
    currency = serializers.CharField()
    checkout_url = serializers.CharField(allow_null=True, help_text="Send the buyer there; null: by hand.")
    instructions = serializers.CharField(allow_null=True, help_text="By hand: what to do.")
    expires_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class BegunSerializer(serializers.Serializer):
    """A subscription, and the payment that begins it; null when it has begun."""

    subscription = SubscriptionSerializer()
    payment = PaymentSerializer(allow_null=True)
    checkout_url = serializers.CharField(allow_null=True)
    amount = MoneyField(help_text="To be paid now.")
    currency = serializers.CharField(allow_null=True)


class OrderResultSerializer(serializers.Serializer):
    """A way to pay what is left of an invoice; null: what the account brought before paid it."""

    invoice = serializers.CharField()
    state = serializers.CharField(help_text="The invoice's.")
    payment = PaymentSerializer(allow_null=True)
    checkout_url = serializers.CharField(allow_null=True)
    amount = MoneyField(help_text="To be paid now, money in hand taken off.")
    currency = serializers.CharField()


class PayLinkSerializer(serializers.Serializer):
    """An address that shows what is due and leads to payment, for whoever holds it."""

    url = serializers.CharField()
    expires_at = serializers.DateTimeField()
    amount = MoneyField()
    currency = serializers.CharField()


class PlanChangedSerializer(serializers.Serializer):
    offer = ChangeOfferSerializer()
    subscription = SubscriptionSerializer()
    payment = PaymentSerializer(allow_null=True, help_text="Pay it and the plan changes; null: done, or at the period's end.")


class TopupResultSerializer(serializers.Serializer):
    payment = PaymentSerializer()
    checkout_url = serializers.CharField(allow_null=True)
    amount = MoneyField()
    currency = serializers.CharField()
    credits = MoneyField()
    bonus_credits = MoneyField()


class PaymentStatusSerializer(serializers.Serializer):
    """What the account is on, in one look."""

    tier = serializers.CharField(allow_null=True, help_text="Code of the plan; null: none.")
    is_active = serializers.BooleanField(help_text="Whether calls are served on it.")
    state = serializers.CharField(allow_null=True)
    subscription_id = serializers.UUIDField(allow_null=True)
    current_period_end = serializers.DateTimeField(allow_null=True)
    cancel_at_period_end = serializers.BooleanField()
    grace_until = serializers.DateTimeField(allow_null=True)
    features = serializers.ListField(child=serializers.CharField())
    to_pay = PaymentSerializer(many=True, help_text="Payments that wait for the customer.")


class GatewaySerializer(serializers.Serializer):
    gateway = serializers.CharField()
    method = serializers.CharField(allow_blank=True)
    name = serializers.CharField()
    instructions = serializers.CharField(allow_null=True)
    currencies = serializers.ListField(child=serializers.CharField())
    keeps_cards = serializers.BooleanField(help_text="Whether renewals can be charged to a card that it keeps.")


class GatewaysSerializer(serializers.Serializer):
    currency = serializers.CharField()
    results = GatewaySerializer(many=True)


class SavedCardSerializer(serializers.Serializer):
    """A card that is kept at a payment gateway; its number is not known here."""

    id = serializers.UUIDField()
    gateway = serializers.CharField()
    brand = serializers.CharField()
    last4 = serializers.CharField()
    exp_month = serializers.IntegerField(allow_null=True)
    exp_year = serializers.IntegerField(allow_null=True)
    expired = serializers.BooleanField()
    saved_at = serializers.DateTimeField()


class ConsentWordingSerializer(serializers.Serializer):
    version = serializers.CharField(help_text="Name it when the customer agrees.")
    language = serializers.CharField()
    text = serializers.CharField(help_text="Show it beside the box to tick.")


class AutoRenewalStateSerializer(serializers.Serializer):
    enabled = serializers.BooleanField(help_text="Renewals are charged to `card` without asking.")
    card = serializers.UUIDField(allow_null=True)
    agreed_at = serializers.DateTimeField(allow_null=True)
    wording = serializers.CharField(allow_null=True, help_text="Version of the text that was agreed to.")


class PaymentMethodsSerializer(serializers.Serializer):
    cards = SavedCardSerializer(many=True)
    auto_renewal = AutoRenewalStateSerializer()
    consent = ConsentWordingSerializer()


class AutoRenewalSwitchSerializer(serializers.Serializer):
    enabled = serializers.BooleanField()
    card = serializers.CharField(max_length=64, required=False, help_text="By default the card that was saved last.")
    wording = serializers.CharField(
        max_length=32, required=False, allow_blank=True, default="", help_text="To switch on: version of the text agreed to."
    )
    language = serializers.CharField(max_length=8, required=False, help_text="In which it was read: en, fr, ar.")


class ProofSerializer(serializers.Serializer):
    file_name = serializers.CharField(max_length=200)
    content = serializers.CharField(help_text="The file in Base64: PNG, JPEG or PDF, at most 5 MB.", trim_whitespace=True)
    customer_reference = serializers.CharField(
        max_length=200, required=False, allow_blank=True, default="", help_text="Number of the transfer or slip."
    )


class ProofResultSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    sha256 = serializers.CharField()
    size = serializers.IntegerField()


def payment_body(payment: Payment) -> dict[str, Any]:
    """The answer for one payment."""
    instructions = None
    if payment.gateway == "manual":
        instructions = ManualMethod.objects.filter(code=payment.method).values_list("instructions", flat=True).first()
    return {
        "id": str(payment.pk),
        "reference": payment.reference,
        "state": payment.state,
        "gateway": payment.gateway,
        "method": payment.method,
        "amount": plain(payment.amount),
        "currency": payment.currency,
        "checkout_url": payment.checkout_url or None,
        "instructions": instructions,
        "expires_at": instant_text(payment.expires_at) if payment.expires_at else None,
        "created_at": instant_text(payment.created_at),
    }
