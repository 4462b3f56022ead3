"""`/api/subscriptions/{id}`: what an account may see and do about a subscription of its own without paying.

Beginning one and changing its plan may need a payment: `billing/payments/api.py`.
"""

from datetime import timedelta
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account, ApiKey, Membership
from billing.accounts.selectors import api_key_of_account, api_keys_of_account, membership_role
from billing.accounts.serializers import ApiKeyWithSecretSerializer, api_key_body
from billing.accounts.services import api_key_create, api_key_rotate
from billing.ledger.serializers import instant_text
from billing.ledger.usage_api import BillingReadView
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import plain

from . import changes, selectors, usage
from .models import Subscription
from .serializers import (
    CancelSerializer,
    PeriodUsageQuerySerializer,
    RegenerateKeySerializer,
    SubscriptionSerializer,
    SubscriptionUsageSerializer,
    subscription_body,
)

TAG = ["subscriptions"]


def owned_account(request: Request) -> Account:
    """The account a session acts for, if its user owns it: who pays decides. ApiError 403 `owner_required`."""
    account = request_account(request)
    if membership_role(account=account, user=request.user) != Membership.Role.OWNER:
        raise ApiError(403, "owner_required", "Only an owner of the account may decide what it pays for.")
    return account


def own_subscription(request: Request, subscription_id: str) -> Subscription:
    """A subscription of the session's account; ApiError 404 `not_found`."""
    return selectors.subscription_of_account(account=owned_account(request), subscription_id=subscription_id)


class SubscriptionView(BillingReadView):
    @extend_schema(
        operation_id="subscriptions_retrieve",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: SubscriptionSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, subscription_id: str) -> Response:
        """One subscription of the account, running or ended."""
        account = request_account(request)
        return Response(subscription_body(selectors.subscription_of_account(account=account, subscription_id=subscription_id)))


class SubscriptionCancelView(SessionView):
    @extend_schema(
        operation_id="subscriptions_cancel",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=CancelSerializer,
        responses={200: SubscriptionSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, subscription_id: str) -> Response:
        """Cancel at the end of what is paid, or now. Then the account is on the free plan; what was bought besides stays."""
        data = validated(CancelSerializer, request.data)
        subscription = own_subscription(request, subscription_id)
        return Response(
            subscription_body(changes.subscription_cancel(subscription=subscription, actor=request_actor(request), **data))
        )


class SubscriptionPauseView(SessionView):
    @extend_schema(
        operation_id="subscriptions_pause",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=None,
        responses={200: SubscriptionSerializer, **errors(401, 403, 404, 409)},
    )
    def post(self, request: Request, subscription_id: str) -> Response:
        """Stop the time of a paid period: calls are refused, and its rest, in time and credits, comes back with resume."""
        subscription = own_subscription(request, subscription_id)
        return Response(subscription_body(changes.subscription_pause(subscription=subscription, actor=request_actor(request))))


class SubscriptionResumeView(SessionView):
    @extend_schema(
        operation_id="subscriptions_resume",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=None,
        responses={200: SubscriptionSerializer, **errors(401, 403, 404, 409)},
    )
    def post(self, request: Request, subscription_id: str) -> Response:
        """Go on after a pause, or take a scheduled cancellation back."""
        subscription = own_subscription(request, subscription_id)
        return Response(subscription_body(changes.subscription_resume(subscription=subscription, actor=request_actor(request))))


class SubscriptionKeyView(SessionView):
    @extend_schema(
        operation_id="subscriptions_regenerate_key",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=RegenerateKeySerializer,
        responses={201: ApiKeyWithSecretSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, subscription_id: str) -> Response:
        """Replace the account's API key at once; without any, make one. The new `secret` is in this answer only."""
        data = validated(RegenerateKeySerializer, request.data)
        account = own_subscription(request, subscription_id).account
        actor = request_actor(request)
        key: ApiKey | None
        if "key_id" in data:
            key = api_key_of_account(account=account, key_id=data["key_id"])
        else:
            working = api_keys_of_account(account=account, state="active", at=clock.now())
            key = working.filter(replaced_by__isnull=True).exclude(scopes__contains=[ApiKey.Scope.ADMIN]).first()
        if key is None:
            made = api_key_create(account=account, created_by=request.user, name="Default", actor=actor)
        else:
            made = api_key_rotate(key=key, actor=actor, grace=timedelta(0))
        return Response(api_key_body(*made), status=status.HTTP_201_CREATED)


class SubscriptionUsageView(BillingReadView):
    @extend_schema(
        operation_id="subscriptions_usage",
        tags=TAG,
        parameters=[X_ACCOUNT, PeriodUsageQuerySerializer],
        responses={200: SubscriptionUsageSerializer, **errors(400, 401, 403, 404)},
    )
    def get(self, request: Request, subscription_id: str) -> Response:
        """What a subscription used, in its running period or between two days, by model and by day."""
        query = validated(PeriodUsageQuerySerializer, request.query_params)
        subscription = selectors.subscription_of_account(account=request_account(request), subscription_id=subscription_id)
        used = usage.subscription_usage(subscription=subscription, **query)
        return Response(
            {
                "subscription_id": str(subscription.pk),
                "start": instant_text(used.start),
                "end": instant_text(used.end),
                **_plain(used.totals),
                "overage_credits": plain(used.overage),
                "by_model": [_plain(row) for row in used.by_model],
                "by_day": [_plain(row) | {"day": row["day"].isoformat()} for row in used.by_day],
            }
        )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"credits": plain(row["credits"])}
