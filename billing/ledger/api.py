"""`/api/credits/*`: other services check, consume, hold and settle the credits of their users, with operator-issued keys."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.accounts.api import errors, validated
from billing.accounts.credentials import request_actor
from billing.accounts.models import Account, ApiKey
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import plain
from iafactory.common.texts import Text

from . import credits
from .idempotency import REPLAYED_HEADER
from .idempotent_views import IDEMPOTENCY_KEY, idempotent
from .serializers import (
    CheckResultSerializer,
    CheckSerializer,
    ConsumeResultSerializer,
    ConsumeSerializer,
    HoldOpenSerializer,
    HoldReleasedSerializer,
    HoldSerializer,
    HoldSettledSerializer,
    PeriodGrantsSerializer,
    ReleaseSerializer,
    SettleSerializer,
    TargetSerializer,
    instant_text,
)

X_USER_ID = OpenApiParameter(
    "X-User-ID", str, OpenApiParameter.HEADER, description="Whose credits, where the body names nobody: as `user_id`."
)
TAG = ["credits"]


class ServiceScope(BasePermission):
    """An operator-issued key with the scope; sessions and customers' keys are refused: 403 `insufficient_scope`."""

    def __init__(self, scope: ApiKey.Scope) -> None:
        self.scope = scope.value

    def __call__(self) -> "ServiceScope":
        """DRF instantiates permission classes; this one is ready."""
        return self

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is None:
            return False
        if not isinstance(request.auth, ApiKey) or self.scope not in request.auth.scopes:
            raise ApiError(
                403, "insufficient_scope", Text("This needs a service's API key with the scope %(scope)s.", scope=self.scope)
            )
        return True


@dataclass(frozen=True, slots=True)
class PeriodCredits:
    """Subscriptions that are in force, and what grants the credits of their period: given by the package that owns them."""

    subscriptions: QuerySet[Any]
    grant: Callable[[Any, Actor], None]


class CreditsView(APIView):
    """`subscription_of` is wired where addresses are made: the ledger knows no subscriptions."""

    subscription_of: credits.SubscriptionOf | None = None

    def live(self) -> credits.SubscriptionOf:
        assert self.subscription_of is not None
        return self.subscription_of


def target_account(request: Request, data: dict[str, Any]) -> Account:
    """The account that a service's request names.

    Raises ApiError 400 `invalid_request` for none, or for two that differ; 404 `account_not_found`.
    """
    names = {
        "user_id": data.get("user_id"),
        "external_id": data.get("external_id"),
        "X-User-ID": request.META.get("HTTP_X_USER_ID", "").strip() or None,
    }
    found = {_account(name, value) for name, value in names.items() if value is not None}
    if len(found) > 1:
        raise ApiError(400, "invalid_request", "Two different accounts are named.", param="user_id")
    if not found:
        raise ApiError(400, "invalid_request", "Say whose credits: user_id, external_id or X-User-ID.", param="user_id")
    return found.pop()


def _account(name: str, value: str) -> Account:
    unknown = ApiError(404, "account_not_found", "There is no such account.", param=name)
    if name == "external_id":
        account = Account.objects.filter(external_id=value).first()
    else:
        try:
            wanted = UUID(value)
        except ValueError:
            raise unknown from None
        account = Account.objects.filter(Q(personal_of=wanted) | Q(pk=wanted)).first()
    if account is None:
        raise unknown
    return account


def _answer(body: dict[str, Any], *, status: int = 200, replayed: bool = False) -> Response:
    return Response(body, status=status, headers={REPLAYED_HEADER: "true"} if replayed else None)


class CheckView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_READ)]

    @extend_schema(
        operation_id="credits_check",
        tags=TAG,
        parameters=[X_USER_ID],
        request=CheckSerializer,
        responses={200: CheckResultSerializer, **errors(400, 401, 403, 404)},
    )
    def post(self, request: Request) -> Response:
        """Whether a service may be used now, and what it costs. Nothing is set aside. Needs `credits:read`."""
        data = validated(CheckSerializer, request.data)
        account = target_account(request, data)
        service = credits.service_price(data["service"])
        required = credits.service_credits(service.credits, data["units"])
        standing = credits.standing_of(account, self.live(), at=clock.now())
        refusal = credits.refusal_of(standing, service=service.code, credits=required)
        return Response(
            {
                "can_proceed": refusal is None,
                "reason": refusal.code if refusal else None,
                "message": refusal.text if refusal else None,
                "account_id": account.pk,
                "service": service.code,
                "units": plain(data["units"]),
                "credits_required": plain(required),
                "available": plain(standing.available),
                "plan": standing.plan.code if standing.plan else None,
                "daily": daily_body(standing.daily),
            }
        )


class ConsumeView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_WRITE)]

    @extend_schema(
        operation_id="credits_consume",
        tags=TAG,
        parameters=[X_USER_ID, IDEMPOTENCY_KEY],
        request=ConsumeSerializer,
        responses={200: ConsumeResultSerializer, **errors(400, 401, 402, 403, 404, 409, 422, 429)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Charge a service's price at once, once per `request_id`; a repetition gets the first answer, marked
        `idempotent-replayed: true`. Refused as `/api/credits/check` says, and then nothing is charged. Needs `credits:write`.
        """
        data = validated(ConsumeSerializer, request.data)
        account = target_account(request, data)
        consumption = credits.credits_consume(
            account=account,
            service=credits.service_price(data["service"]),
            units=data["units"],
            request_id=data["request_id"],
            api_key_id=request.auth.pk,
            subscription_of=self.live(),
        )
        body = {
            "id": consumption.id,
            "request_id": consumption.request_id,
            "account_id": account.pk,
            "service": consumption.service,
            "units": plain(consumption.units),
            "credits": plain(consumption.credits),
            "available": plain(consumption.available),
            "charged_at": instant_text(consumption.charged_at),
        }
        return _answer(body, replayed=consumption.replayed)


def _hold_body(account: Account, hold: credits.ServiceHold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "request_id": hold.request_id,
        "account_id": account.pk,
        "state": hold.state.value,
        "credits_held": plain(hold.credits_held),
    }


class HoldView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_WRITE)]

    @extend_schema(
        operation_id="credits_hold",
        tags=TAG,
        parameters=[X_USER_ID, IDEMPOTENCY_KEY],
        request=HoldSerializer,
        responses={200: HoldOpenSerializer, **errors(400, 401, 402, 403, 404, 409, 422, 429)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Set credits aside for what will be settled later: a service's price, or as many as named. What is neither settled
        nor released goes back after `expires_in_seconds`. Refused as `/api/credits/check` says. Needs `credits:write`.
        """
        data = validated(HoldSerializer, request.data)
        account = target_account(request, data)
        hold = credits.service_hold_open(
            account=account,
            service=credits.service_price(data["service"]) if "service" in data else None,
            units=data.get("units", Decimal(1)),
            credits=data.get("credits"),
            request_id=data["request_id"],
            expires_in=timedelta(seconds=data["expires_in_seconds"]),
            api_key_id=request.auth.pk,
            subscription_of=self.live(),
        )
        assert hold.available is not None
        assert hold.expires_at is not None
        body = {**_hold_body(account, hold), "available": plain(hold.available), "expires_at": instant_text(hold.expires_at)}
        return _answer(body, replayed=hold.replayed)


class SettleView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_WRITE)]

    @extend_schema(
        operation_id="credits_settle",
        tags=TAG,
        parameters=[X_USER_ID, IDEMPOTENCY_KEY],
        request=SettleSerializer,
        responses={200: HoldSettledSerializer, **errors(400, 401, 403, 404, 409, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Charge a hold what it came to, in `credits` or `units` of its service: less, all, or more as far as the balance goes.

        After the hold's time it is charged all the same, and `late`. Needs `credits:write`.
        """
        data = validated(SettleSerializer, request.data)
        account = target_account(request, data)
        hold = credits.service_hold_settle(
            account=account,
            request_id=data["request_id"],
            credits=data.get("credits"),
            units=data.get("units"),
            api_key_id=request.auth.pk,
        )
        assert hold.ended_at is not None
        body = {
            **_hold_body(account, hold),
            "credits_charged": plain(hold.credits_charged),
            "credits_lost": plain(hold.credits_lost),
            "late": hold.late,
            "ended_at": instant_text(hold.ended_at),
        }
        return _answer(body, replayed=hold.replayed)


class ReleaseView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_WRITE)]

    @extend_schema(
        operation_id="credits_release",
        tags=TAG,
        parameters=[X_USER_ID],
        request=ReleaseSerializer,
        responses={200: HoldReleasedSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request) -> Response:
        """Give a hold back, uncharged; one that expired gave itself back. Safe to repeat. Needs `credits:write`."""
        data = validated(ReleaseSerializer, request.data)
        account = target_account(request, data)
        hold = credits.service_hold_release(account=account, request_id=data["request_id"], api_key_id=request.auth.pk)
        assert hold.ended_at is not None
        body = {**_hold_body(account, hold), "ended_at": instant_text(hold.ended_at)}
        return _answer(body, replayed=hold.replayed)


class ResetMonthlyView(CreditsView):
    permission_classes = [ServiceScope(ApiKey.Scope.CREDITS_ADMIN)]
    period_credits: PeriodCredits | None = None

    @extend_schema(
        operation_id="credits_reset_monthly",
        tags=TAG,
        parameters=[X_USER_ID],
        request=TargetSerializer,
        responses={200: PeriodGrantsSerializer, **errors(400, 401, 403, 404)},
    )
    def post(self, request: Request) -> Response:
        """Grant the credits of running periods that have none yet: of the account named, or of all. A period is granted once,
        however often this is called; credits in hand are never taken. Needs `credits:admin`.
        """
        data = validated(TargetSerializer, request.data)
        assert self.period_credits is not None
        grants = credits.period_credits_grant_due(
            subscriptions=self.period_credits.subscriptions,
            grant=self.period_credits.grant,
            actor=request_actor(request),
            at=clock.now(),
            account=target_account(request, data) if data or request.META.get("HTTP_X_USER_ID") else None,
        )
        return Response(
            {
                "checked": grants.checked,
                "granted": grants.granted,
                "granted_before": grants.granted_before,
                "credits": plain(grants.credits),
            }
        )


def daily_body(daily: credits.DailyLimit | None) -> dict[str, Any] | None:
    """A daily limit as JSON."""
    if daily is None:
        return None
    return {
        "unit": daily.unit,
        "limit": plain(daily.limit),
        "used": plain(daily.used),
        "remaining": plain(daily.remaining),
        "resets_at": instant_text(daily.resets_at),
    }
