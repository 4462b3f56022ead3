"""What is sold, for everybody: plans, credit packs and prices of services. No credentials are needed."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from iafactory.common import clock
from iafactory.common.money import plain

from .models import CreditPack, ServicePrice
from .selectors import Offer, public_offers

TAG = ["billing"]


class _MoneyField(serializers.DecimalField):
    """A JSON number, exact."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=20, decimal_places=6, coerce_to_string=False, **kwargs)


class PublicPriceSerializer(serializers.Serializer):
    currency = serializers.CharField(help_text="ISO 4217 code.")
    amount = _MoneyField(help_text="Per period.")
    tax_included = serializers.BooleanField()


class PublicPlanSerializer(serializers.Serializer):
    code = serializers.CharField()
    family = serializers.CharField(help_text="Plans of one family replace each other by upgrade or downgrade.")
    name = serializers.CharField()
    description = serializers.CharField()
    interval = serializers.CharField(help_text="`none`, `day` or `month`, times `interval_count`.")
    interval_count = serializers.IntegerField()
    renews = serializers.BooleanField()
    billing_mode = serializers.CharField(help_text="`quota`, `credits` or `metered`.")
    period_credits = _MoneyField(help_text="Included in each period.")
    daily_limit = _MoneyField(allow_null=True, help_text="Requests on quota plans, credits on the others.")
    requests_per_minute = serializers.IntegerField(allow_null=True)
    tokens_per_minute = serializers.IntegerField(allow_null=True)
    concurrent_calls = serializers.IntegerField(allow_null=True)
    trial_days = serializers.IntegerField()
    features = serializers.ListField(child=serializers.CharField())
    prices = PublicPriceSerializer(many=True, help_text="In force now, one for each currency; none: it costs what is used.")


class PublicPlansSerializer(serializers.Serializer):
    results = PublicPlanSerializer(many=True)


class PublicPackSerializer(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    credits = _MoneyField()
    bonus_credits = _MoneyField()
    currency = serializers.CharField()
    amount = _MoneyField()


class PublicPacksSerializer(serializers.Serializer):
    results = PublicPackSerializer(many=True)


class CreditCostSerializer(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    credits = _MoneyField(help_text="For one use.")


class CreditCostsSerializer(serializers.Serializer):
    results = CreditCostSerializer(many=True)


class PublicView(APIView):
    """The same for everybody; stale credentials sent along do no harm."""

    authentication_classes: list[Any] = []
    permission_classes = [AllowAny]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if response.status_code == 200:
            response["Cache-Control"] = "public, max-age=60"
        return response


class PlansView(PublicView):
    @extend_schema(operation_id="billing_plans", tags=TAG, responses={200: PublicPlansSerializer})
    def get(self, request: Request) -> Response:
        """Plans anyone may subscribe to, with their present prices."""
        return Response({"results": [_plan_body(offer) for offer in public_offers(at=clock.now())]})


class PacksView(PublicView):
    @extend_schema(operation_id="billing_packs", tags=TAG, responses={200: PublicPacksSerializer})
    def get(self, request: Request) -> Response:
        """Credits sold outside of plans."""
        packs = [
            {
                "code": pack.code,
                "name": pack.name,
                "credits": plain(pack.credits),
                "bonus_credits": plain(pack.bonus_credits),
                "currency": pack.currency,
                "amount": plain(pack.amount),
            }
            for pack in CreditPack.objects.filter(is_public=True)
        ]
        return Response({"results": packs})


class CreditCostsView(PublicView):
    @extend_schema(operation_id="billing_credit_costs", tags=TAG, responses={200: CreditCostsSerializer})
    def get(self, request: Request) -> Response:
        """What services outside the gateway cost. Models are priced by use: see `/api/v2/models`."""
        costs = [
            {"code": price.code, "name": price.name, "credits": plain(price.credits)} for price in ServicePrice.objects.all()
        ]
        return Response({"results": costs})


def _plan_body(offer: Offer) -> dict[str, Any]:
    plan = offer.plan
    return {
        "code": plan.code,
        "family": plan.family,
        "name": plan.name,
        "description": plan.description,
        "interval": plan.interval,
        "interval_count": plan.interval_count,
        "renews": plan.renews,
        "billing_mode": plan.billing_mode,
        "period_credits": plain(plan.period_credits),
        "daily_limit": None if plan.daily_limit is None else plain(plan.daily_limit),
        "requests_per_minute": plan.requests_per_minute,
        "tokens_per_minute": plan.tokens_per_minute,
        "concurrent_calls": plan.concurrent_calls,
        "trial_days": plan.trial_days,
        "features": plan.features,
        "prices": [
            {"currency": price.currency, "amount": plain(price.amount), "tax_included": price.tax_included}
            for price in offer.prices
        ],
    }
