"""`/api/admin/dashboard` and `/api/admin/billing/*`: the console's figures, and granting credits, for operators' programs."""

from datetime import UTC, date, timedelta
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views import View
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from billing.abuse.api import AbusiveUserSerializer
from billing.abuse.selectors import abusive_users, open_signals_by_account
from billing.accounts.api import AccountsView, errors, validated
from billing.accounts.authentication import OperatorAuthentication
from billing.accounts.credentials import request_operator
from billing.accounts.models import Account
from billing.accounts.permissions import MayOperate
from billing.accounts.selectors import api_key_by_secret
from billing.events.services import Actor
from billing.ledger.idempotent_views import IDEMPOTENCY_KEY, idempotent
from billing.ledger.models import Lot, Wallet
from billing.ledger.services import credits_grant, wallet_open
from dashboard.alerts.selectors import open_alerts
from dashboard.figures import MOST_DAYS, Economics, OperatorFigures, operator_figures, plan_mix
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from iafactory.common.money import ZERO, plain, usd_quantise
from iafactory.common.texts import Text
from routing.budgets import BudgetState, budget_states

from . import selectors
from .serializers import (
    AddCreditsSerializer,
    AddedCreditsSerializer,
    BillingUserSerializer,
    DashboardSerializer,
    DaysQuerySerializer,
    GrantedSerializer,
    GrantSerializer,
    StatsSerializer,
    UsersQuerySerializer,
)

TAG = ["operators"]
DEFAULT_DAYS = 30
ABUSIVE_SHOWN = 20
ALERTS_SHOWN = 50
DAYS = [
    OpenApiParameter("from", OpenApiTypes.DATE, description="First UTC day; by default 29 days before the last."),
    OpenApiParameter("to", OpenApiTypes.DATE, description="Last UTC day, included; by default today."),
]


class OperatorView(AccountsView):
    """For operators, by session or by a key with the scope `admin`."""

    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]


def _days(request: Request) -> tuple[date, date]:
    """The days asked for; ApiError 400 `invalid_request` for days that make no range."""
    query = validated(DaysQuerySerializer, request.query_params)
    until: date = query.get("to") or clock.now().astimezone(UTC).date()
    since: date = query.get("from") or until - timedelta(days=DEFAULT_DAYS - 1)
    if since > until:
        raise ApiError(400, "invalid_request", "The first day must not lie after the last.", param="from")
    if until - since >= timedelta(days=MOST_DAYS):
        raise ApiError(
            400,
            "invalid_request",
            Text("At most %(limit)s day at once.", "At most %(limit)s days at once.", limit=MOST_DAYS),
            param="from",
        )
    return since, until


class DashboardView(OperatorView):
    operator_permission = (
        "billing.view_usagerecord",
        "billing.view_invoice",
        "billing.view_ledgerentry",
        "billing.view_account",
        "routing.view_budget",
    )

    @extend_schema(
        operation_id="admin_dashboard",
        tags=TAG,
        parameters=DAYS,
        responses={200: DashboardSerializer, **errors(400, 401, 403)},
    )
    def get(self, request: Request) -> Response:
        """The console's home in figures. Budget and users are today's, providers and economics those of the days asked for."""
        since, until = _days(request)
        now = clock.now()
        figures = operator_figures(since=since, until=until, now=now)
        signals = list(open_signals_by_account().items())
        budget = budget_states(now=now, providers=[None])[0]
        body: dict[str, Any] = {
            "budget": _budget_body(budget),
            "users": {
                "active_today": figures.active_today,
                "avg_cost_per_user": _per_user(figures),
                "abusive_count": len(signals),
                "abusive_users": AbusiveUserSerializer(abusive_users(signals[:ABUSIVE_SHOWN], now=now), many=True).data,
            },
            "providers": [
                {
                    "provider": slug,
                    "requests_count": sums.calls,
                    "cost_total": plain(sums.cost_usd),
                    "success_rate": None if sums.success_percent is None else plain(sums.success_percent),
                    "avg_latency_ms": sums.latency_ms,
                }
                for slug, sums in figures.providers
            ],
            "economics": _economics_body(figures.economics),
            "alerts": _alerts(),
        }
        return Response(body)


def _budget_body(state: BudgetState) -> dict[str, Any]:
    return {
        "spent_usd": plain(state.spent_usd),
        "limit_usd": None if state.limit_usd is None else plain(state.limit_usd),
        "remaining_usd": None if state.remaining_usd is None else plain(state.remaining_usd),
        "percent_used": state.percent,
        "alert_level": state.level.value,
    }


def _per_user(figures: OperatorFigures) -> Any:
    active = figures.active_today
    return plain(usd_quantise(figures.usage_today.cost_usd / active)) if active else ZERO


def _economics_body(economics: Economics) -> dict[str, Any]:
    return {
        "revenue_usd": plain(economics.revenue_usd),
        "costs_usd": plain(economics.cost_usd),
        "profit_usd": plain(economics.profit_usd),
        "margin_percent": None if economics.margin_percent is None else plain(economics.margin_percent),
    }


def _alerts() -> list[dict[str, Any]]:
    return [
        {"level": alert.level, "message": f"{alert.shown_title}. {alert.shown_text}".removesuffix(" "), "action": alert.link}
        for alert in open_alerts()[:ALERTS_SHOWN]
    ]


class DashboardAliasView(View):
    """`/admin/dashboard`: programs, which show a credential, get the JSON; browsers the console's home."""

    CREDENTIALS = ("HTTP_AUTHORIZATION", "HTTP_X_ADMIN_KEY", "HTTP_X_ADMIN_SECRET")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if any(request.META.get(header, "").strip() for header in self.CREDENTIALS):
            answer: HttpResponse = DashboardView.as_view()(request)
            return answer
        if request.path.endswith("/"):
            # In the console this is the page of the app of that name.
            page: HttpResponse = admin.site.admin_view(admin.site.app_index)(request, "dashboard")
            return page
        return HttpResponseRedirect(reverse("admin:index"))


class BillingUsersView(OperatorView, GenericAPIView):
    operator_permission = ("billing.view_account", "billing.view_wallet", "billing.view_subscription")
    serializer_class = BillingUserSerializer
    queryset = Account.objects.none()

    @extend_schema(
        operation_id="admin_billing_users",
        tags=TAG,
        parameters=[UsersQuerySerializer],
        responses={200: BillingUserSerializer(many=True), **errors(400, 401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Accounts with their users, plans and balances, newest first."""
        query = validated(UsersQuerySerializer, request.query_params)
        page = self.paginate_queryset(selectors.billing_users(**query))
        return self.get_paginated_response([_user_body(account) for account in page])


def _user_body(account: Any) -> dict[str, Any]:
    subscription = next(iter(account.live_subscriptions), None)
    wallet: Wallet | None = getattr(account, "wallet", None)
    body = {
        "id": account.pk,
        "user_id": account.personal_of_id,
        "email": account.personal_of.email if account.personal_of else account.billing_email,
        "name": account.name,
        "kind": account.kind,
        "status": account.status,
        "country": account.country,
        "currency": account.currency,
        "external_id": account.external_id,
        "created_at": account.created_at,
        "plan": subscription.plan.code if subscription else None,
        "subscription_state": subscription.state if subscription else None,
        "current_period_end": subscription.current_period_end if subscription else None,
        "balance": plain(wallet.balance) if wallet else ZERO,
        "held": plain(wallet.held) if wallet else ZERO,
        "debt": plain(wallet.debt) if wallet else ZERO,
    }
    return dict(BillingUserSerializer(body).data)


def _grant(*, account: Account, data: dict[str, Any], actor: Actor) -> tuple[Lot, Wallet]:
    """One lot; `Idempotency-Key` is the view's business, so each call is a grant of its own."""
    with transaction.atomic():
        wallet_open(account=account)
        lot = credits_grant(
            account_id=account.pk,
            amount=data["credits"],
            kind=data.get("kind", Lot.Kind.BONUS),
            source=f"granted by {actor.label}"[:200],
            reason=data["reason"],
            actor=actor,
            idempotency_key=f"operator:{account.pk}:{uuid7()}",
            expires_at=data.get("expires_at"),
        )
        return lot, Wallet.objects.get(pk=account.pk)


class GrantView(OperatorView):
    operator_permission = "billing.add_lot"

    @extend_schema(
        operation_id="admin_billing_grant",
        tags=TAG,
        request=GrantSerializer,
        parameters=[IDEMPOTENCY_KEY],
        responses={201: GrantedSerializer, **errors(400, 401, 403, 404, 409, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Give an account credits. With an `Idempotency-Key` once, however often it is sent."""
        data = validated(GrantSerializer, request.data)
        names = {name: data.pop(name) for name in ("user_id", "external_id", "email") if name in data}
        lot, wallet = _grant(account=selectors.account_named(**names), data=data, actor=request_operator(request))
        body = {
            "id": str(lot.pk),
            "account_id": str(wallet.pk),
            "credits": plain(lot.amount),
            "kind": lot.kind,
            "expires_at": lot.expires_at.isoformat() if lot.expires_at else None,
            "balance": plain(wallet.balance),
        }
        return Response(body, status=status.HTTP_201_CREATED)


class AddCreditsView(OperatorView):
    operator_permission = "billing.add_lot"

    @extend_schema(
        operation_id="admin_add_credits",
        tags=TAG,
        request=AddCreditsSerializer,
        parameters=[IDEMPOTENCY_KEY],
        responses={200: AddedCreditsSerializer, **errors(400, 401, 403, 404, 409, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Give credits to the account of a customer's API key, as older programs do. The key is not kept."""
        data = validated(AddCreditsSerializer, request.data)
        key = api_key_by_secret(data["apiKey"])
        if key is None:
            raise ApiError(404, "account_not_found", "There is no such API key.", param="apiKey")
        lot, wallet = _grant(account=key.account, data=data, actor=request_operator(request))
        body = {"success": True, "credits": plain(lot.amount), "balance": plain(wallet.balance), "id": str(lot.pk)}
        return Response(body)


class StatsView(OperatorView):
    operator_permission = (
        "billing.view_usagerecord",
        "billing.view_invoice",
        "billing.view_ledgerentry",
        "billing.view_payment",
        "billing.view_wallet",
        "billing.view_subscription",
    )

    @extend_schema(
        operation_id="admin_billing_stats",
        tags=TAG,
        parameters=DAYS,
        responses={200: StatsSerializer, **errors(400, 401, 403)},
    )
    def get(self, request: Request) -> Response:
        """Accounts, plans, credits and open invoices as they are now; use, economics and payments of a range of days."""
        since, until = _days(request)
        now = clock.now()
        figures = operator_figures(since=since, until=until, now=now)
        accounts = selectors.accounts_by_status()
        payments = selectors.payments_by_state(since=since, until=until)
        invoices = selectors.invoices_waiting(now=now)
        body: dict[str, Any] = {
            "from": since.isoformat(),
            "to": until.isoformat(),
            "accounts": {"total": sum(accounts.values()), "by_status": accounts},
            "subscriptions": [{"plan": one.code, "subscriptions": one.subscriptions} for one in plan_mix()],
            "credits": {
                **{name: plain(value) for name, value in selectors.wallet_sums().items()},
                "charged": plain(figures.usage.credits),
            },
            "usage": {
                "calls": figures.usage.calls,
                "calls_failed": figures.usage.calls_failed,
                "cost_usd": plain(figures.usage.cost_usd),
                "active_accounts": figures.active,
            },
            "economics": _economics_body(figures.economics),
            "payments": [{**one, "amount": plain(one["amount"])} for one in payments],
            "invoices": [{**one, "due": plain(one["due"])} for one in invoices],
        }
        return Response(body)
