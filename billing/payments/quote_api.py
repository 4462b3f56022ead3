"""`POST /api/payment/quote`: what a plan, a change of plan or a pack would come to, with tax, before anybody buys it."""

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_actor
from billing.accounts.models import Account
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.invoices.serializers import ExactField, MoneyField, TaxSerializer
from billing.ledger.serializers import CreditsField
from billing.plans.models import CreditPack
from billing.subscriptions import changes
from billing.subscriptions.api import owned_account
from billing.subscriptions.checkout import costs_money, subscription_begin
from billing.subscriptions.models import Subscription
from billing.subscriptions.selectors import subscription_live
from billing.subscriptions.serializers import ChangeOfferSerializer, offer_body
from iafactory.common.errors import ApiError
from iafactory.common.money import plain

from .api import PayWith, plan_named
from .quotes import Quote, quote_of
from .serializers import SubscribeSerializer
from .topup import topup_draft


class QuoteAskSerializer(SubscribeSerializer):
    """A plan or a pack, and how it would be paid: cash costs stamp duty."""

    plan = serializers.SlugField(max_length=64, required=False, help_text="Code of a plan.")
    pack = serializers.SlugField(max_length=64, required=False, help_text="Code of a credit pack.")
    when = serializers.ChoiceField(["now", "period_end"], required=False, help_text="Of a change of plan.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("plan" in attrs) == ("pack" in attrs):
            raise serializers.ValidationError({"plan": _("Name a plan or a pack.")})
        return attrs


class QuoteLineSerializer(serializers.Serializer):
    description = serializers.CharField()
    net = MoneyField()
    gross = MoneyField(help_text="With tax.")


class QuotedSerializer(serializers.Serializer):
    """What the invoice would say."""

    currency = serializers.CharField()
    lines = QuoteLineSerializer(many=True)
    taxes = TaxSerializer(many=True)
    net = MoneyField()
    tax = MoneyField()
    stamp_duty = MoneyField()
    rounding = MoneyField()
    total = MoneyField()
    balance_applied = MoneyField(help_text="Money in hand that pays of it.")
    due = MoneyField(help_text="To be paid now.")


class QuoteSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(
        ["free", "trial", "buy", "change", "topup"], help_text="`free` and `trial` begin at once, without a payment."
    )
    quote = QuotedSerializer(allow_null=True, help_text="null: nothing is to be paid now.")
    offer = ChangeOfferSerializer(allow_null=True, help_text="A change of plan: when, and what is given back.")
    credits = CreditsField(allow_null=True, help_text="A pack's.")
    bonus_credits = CreditsField(allow_null=True)
    amount = ExactField(allow_null=True, help_text="A trial: what a period costs afterwards.")


class QuoteView(SessionView):
    @extend_schema(
        operation_id="payment_quote",
        tags=["payment"],
        parameters=[X_ACCOUNT],
        request=QuoteAskSerializer,
        responses={200: QuoteSerializer, **errors(400, 401, 403, 404, 409, 503)},
    )
    def post(self, request: Request) -> Response:
        """What it would come to: lines, taxes, coupon, stamp duty, money in hand. Nothing is bought or kept."""
        data = validated(QuoteAskSerializer, request.data)
        account, actor = owned_account(request), request_actor(request)
        if "pack" in data:
            return Response(_pack(account, data))
        live = subscription_live(account)
        if live is not None and costs_money(live):
            return Response(_change(live, data, actor))
        return Response(_plan(account, data, actor))


def _body(kind: str, quote: Quote | None, **more: Any) -> dict[str, Any]:
    empty = {"offer": None, "credits": None, "bonus_credits": None, "amount": None}
    return {"kind": kind, "quote": None if quote is None else QuotedSerializer(quote).data} | empty | more


def _pack(account: Account, data: dict[str, Any]) -> dict[str, Any]:
    pack = CreditPack.objects.filter(code=data["pack"], is_public=True).first()
    if pack is None:
        raise ApiError(404, "pack_not_found", "There is no such pack.")
    currency = data.get("currency") or account.currency
    in_cash = _in_cash(account, currency, data)
    quote = quote_of(lambda: topup_draft(account=account, pack=pack, currency=currency, in_cash=in_cash))
    return _body("topup", quote, credits=plain(pack.credits), bonus_credits=plain(pack.bonus_credits))


def _plan(account: Account, data: dict[str, Any], actor: Actor) -> dict[str, Any]:
    plan = plan_named(data["plan"])
    in_cash = _in_cash(account, data.get("currency") or account.currency, data)
    begun: list[Subscription] = []

    def sell() -> Invoice | None:
        answer = subscription_begin(
            account=account,
            plan=plan,
            actor=actor,
            currency=data.get("currency"),
            coupon=data["coupon"],
            trial=data["trial"],
            in_cash=in_cash,
        )
        begun.append(answer.subscription)
        return answer.to_pay

    quote = quote_of(sell)
    on_trial = begun[0].state == Subscription.State.TRIALING
    price = begun[0].price
    kind = "buy" if quote is not None else "trial" if on_trial else "free"
    return _body(kind, quote, amount=plain(price.amount) if on_trial and price is not None else None)


def _change(live: Subscription, data: dict[str, Any], actor: Actor) -> dict[str, Any]:
    plan, when = plan_named(data["plan"]), data.get("when", "")
    currency = live.price.currency if live.price else live.account.currency
    in_cash = _in_cash(live.account, currency, data)
    offer = changes.change_offer(subscription=live, plan=plan, when=when)
    quote = quote_of(lambda: changes.plan_change(subscription=live, plan=plan, when=when, actor=actor, in_cash=in_cash).to_pay)
    return _body("change", quote, offer=offer_body(offer))


def _in_cash(account: Account, currency: str, data: dict[str, Any]) -> bool:
    return PayWith(account=account, currency=currency, data=data).in_cash
