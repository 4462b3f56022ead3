"""`/api/billing/me` and `/usage`: what a customer has, what was used, and why it cost what it did.

Lists go through the partitioned log by (start, id), never by counting. What only the operator may know (what a provider
charges, losses, upstream profiles) is in none of these answers.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import F, Q, QuerySet, Sum
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from billing.accounts.api import X_ACCOUNT, errors
from billing.accounts.credentials import request_account
from billing.accounts.models import Account, ApiKey
from billing.accounts.permissions import HasScope
from billing.accounts.selectors import api_key_of_account, uuid_or_404
from iafactory.common import clock
from iafactory.common.csv_tables import csv_chunk, csv_response
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain
from iafactory.common.rendering import MoneyJSONRenderer, encode_json

from . import credits, explanation
from .api import CreditsView, daily_body
from .models import Lot, UsageRecord
from .serializers import (
    BillingMeSerializer,
    ExplanationSerializer,
    UsagePageSerializer,
    UsageQuerySerializer,
    cursor_read,
    cursor_write,
    instant_text,
)

TAG = ["billing"]
CSV_ROWS_AT_ONCE = 1000
CSV_COLUMNS = (
    "request_id",
    "started_at",
    "finished_at",
    "endpoint",
    "end",
    "error_code",
    "requested_model",
    "model",
    "provider",
    "plan",
    "api_key",
    "streamed",
    "fallback",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "units",
    "estimated",
    "credits",
    "quota_units",
    "latency_ms",
    "first_byte_ms",
)
# Not the operator's business figures: `cost_usd`, `credits_lost`, `profile` and `attempts` are never even read.
_READ = (
    "id",
    "started_at",
    "finished_at",
    "account_id",
    "api_key_id",
    "plan",
    "endpoint",
    "end",
    "error_code",
    "requested_model",
    "model",
    "provider",
    "streamed",
    "fallback",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "units",
    "estimated",
    "credits_charged",
    "quota_units",
    "latency_ms",
    "first_byte_ms",
)


class CsvRenderer(BaseRenderer):
    """Lets `?format=csv` and `Accept: text/csv` be negotiated; the view streams the rows itself."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return encode_json(data)


class BillingReadView(APIView):
    """For a key with `billing:read` and for sessions; answers are the account's own and nobody may keep them."""

    permission_classes = [HasScope(ApiKey.Scope.BILLING_READ)]

    def handle_exception(self, exc: Exception) -> Response:
        """Refusals are JSON, whatever was asked for."""
        self.request.accepted_renderer = MoneyJSONRenderer()
        self.request.accepted_media_type = MoneyJSONRenderer.media_type
        response: Response = super().handle_exception(exc)
        return response

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "private, no-store"
        return response


class BillingMeView(CreditsView, BillingReadView):
    @extend_schema(
        operation_id="billing_me",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: BillingMeSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """The account's plan, credits by lot, limits and use of today, and what changes the balance next."""
        account, now = request_account(request), clock.now()
        standing = credits.standing_of(account, self.live(), at=now)
        burn_order = ("priority", F("expires_at").asc(nulls_last=True), "paid_amount", "created_at", "id")
        lots = credits.lots_alive(account, now).filter(remaining__gt=0).order_by(*burn_order)
        return Response(
            {
                "account": {
                    "id": account.pk,
                    "name": account.name,
                    "kind": account.kind,
                    "currency": account.currency,
                    "time_zone": account.time_zone,
                },
                "plan": _plan_body(standing),
                "subscription": _subscription_body(standing.subscription),
                "balance": plain(standing.balance),
                "held": plain(standing.held),
                "available": plain(standing.available),
                "debt": plain(standing.debt),
                "lots": [_lot_body(lot) for lot in lots],
                "daily": daily_body(standing.daily),
                "today": _today(account, now),
                "next_change": _next_change(account, now),
            }
        )


class UsageView(BillingReadView):
    renderer_classes = [MoneyJSONRenderer, CsvRenderer]

    @extend_schema(
        operation_id="billing_usage",
        tags=TAG,
        parameters=[
            X_ACCOUNT,
            UsageQuerySerializer,
            OpenApiParameter("format", str, enum=["json", "csv"], description="`csv`: every row as a table, without pages."),
        ],
        responses={
            (200, "application/json"): UsagePageSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            **errors(400, 401, 403, 404),
        },
    )
    def get(self, request: Request) -> Any:
        """Calls and charges, newest first. As `text/csv` all of them at once, in UTC."""
        account = request_account(request)
        serializer = UsageQuerySerializer(data=request.query_params, context={"zone": account.zone})
        serializer.is_valid(raise_exception=True)
        query = serializer.validated_data
        records = _filtered(account, query)
        start = cursor_read(query["cursor"]) if "cursor" in query else None
        if request.accepted_renderer.format == CsvRenderer.format:
            return csv_response(request._request, _csv_chunks(records, start), file_name="usage.csv")
        page = list(_after(records, start)[: query["page_size"] + 1])
        more, page = len(page) > query["page_size"], page[: query["page_size"]]
        cursor = cursor_write(page[-1]) if more else None
        return Response(
            {
                "results": [usage_body(record) for record in page],
                "next": replace_query_param(request.build_absolute_uri(), "cursor", cursor) if cursor else None,
                "next_cursor": cursor,
            }
        )


class UsageExplainView(BillingReadView):
    @extend_schema(
        operation_id="billing_usage_explain",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: ExplanationSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, request_id: str) -> Response:
        """One call, with the prices of that time, the arithmetic from tokens to credits, and the lots that paid."""
        account = request_account(request)
        record = UsageRecord.objects.filter(account=account, pk=uuid_or_404(request_id)).first()
        if record is None:
            raise ApiError(404, "not_found", "There is no such object.")
        balances = explanation.balances_of(record)
        markup = explanation.markup(record)
        return Response(
            {
                **usage_body(record),
                "ended": explanation.ended(record),
                "tokens": {
                    "input": record.input_tokens,
                    "cache_read": record.cache_read_tokens,
                    "cache_write": record.cache_write_tokens,
                    "output": record.output_tokens,
                    "reasoning": record.reasoning_tokens,
                    "estimated": record.estimated,
                },
                "price": explanation.price_body(record),
                "markup": None
                if markup is None
                else {"margin_multiplier": markup[0], "usd_per_credit": markup[1], "rounding": markup[2]},
                "list_cost_usd": plain(record.list_cost_usd),
                "hold": {
                    "credits": plain(record.credits_held),
                    "returned": plain(max(record.credits_held - record.credits_charged, ZERO)),
                },
                "lots": [
                    {
                        "id": debit.lot.pk,
                        "kind": debit.lot.kind,
                        "source": debit.lot.source,
                        "credits": plain(debit.credits),
                    }
                    for debit in balances.debits
                ],
                "balance_before": plain(balances.before),
                "balance_after": plain(balances.after),
                "arithmetic": explanation.arithmetic(record),
            }
        )


def usage_body(record: UsageRecord) -> dict[str, Any]:
    """A row of the usage log as its customer sees it."""
    by_service = record.endpoint.startswith(credits.SERVICE_ENDPOINT) or record.endpoint == credits.CREDITS_ENDPOINT
    return {
        "request_id": record.pk,
        "started_at": instant_text(record.started_at),
        "finished_at": instant_text(record.finished_at),
        "endpoint": record.endpoint,
        "end": record.end,
        "error_code": record.error_code or None,
        "requested_model": record.requested_model or None,
        "model": record.model or None,
        "provider": record.provider or None,
        "plan": record.plan or None,
        # A service's key is not the customer's.
        "api_key": None if by_service else record.api_key_id,
        "streamed": record.streamed,
        "fallback": record.fallback,
        "input_tokens": record.input_tokens,
        "cache_read_tokens": record.cache_read_tokens,
        "cache_write_tokens": record.cache_write_tokens,
        "output_tokens": record.output_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "units": explanation.units(record),
        "estimated": record.estimated,
        "credits": plain(record.credits_charged),
        "quota_units": record.quota_units,
        "latency_ms": record.latency_ms,
        "first_byte_ms": record.first_byte_ms,
    }


def _filtered(account: Account, query: dict[str, Any]) -> QuerySet[UsageRecord]:
    """The account's rows that `query` asks for. ApiError 404 `not_found` for somebody else's key."""
    wanted: dict[str, Any] = {name: query[name] for name in ("model", "provider", "end", "endpoint") if name in query}
    if "from" in query:
        wanted["started_at__gte"] = query["from"]
    if "to" in query:
        wanted["started_at__lt"] = query["to"]
    if "min_credits" in query:
        wanted["credits_charged__gte"] = query["min_credits"]
    if "api_key" in query:
        wanted["api_key_id"] = api_key_of_account(account=account, key_id=query["api_key"]).pk
    return UsageRecord.objects.filter(account=account, **wanted).only(*_READ).order_by("-started_at", "-id")


def _after(records: QuerySet[UsageRecord], start: tuple[datetime, UUID] | None) -> QuerySet[UsageRecord]:
    if start is None:
        return records
    at, record_id = start
    # The plain bound is what the index can use; the pair only decides among rows of one instant.
    return records.filter(Q(started_at__lt=at) | Q(started_at=at, id__lt=record_id), started_at__lte=at)


def _csv_chunks(records: QuerySet[UsageRecord], start: tuple[datetime, UUID] | None) -> Iterator[bytes]:
    """The table, a thousand rows at a time, each its own query: memory stays small and no connection is kept busy."""
    head: list[Any] = [CSV_COLUMNS]
    while True:
        rows = list(_after(records, start)[:CSV_ROWS_AT_ONCE])
        bodies = (usage_body(record) for record in rows)
        yield csv_chunk([*head, *([body[column] for column in CSV_COLUMNS] for body in bodies)])
        if len(rows) < CSV_ROWS_AT_ONCE:
            return
        head, start = [], (rows[-1].started_at, rows[-1].pk)


def _instant_or_none(at: datetime | None) -> str | None:
    return None if at is None else instant_text(at)


def _plan_body(standing: credits.Standing) -> dict[str, Any] | None:
    plan = standing.plan
    if plan is None:
        return None
    return {"code": plan.code, "name": plan.name, "billing_mode": plan.billing_mode, "features": plan.features}


def _subscription_body(subscription: credits.LiveSubscription | None) -> dict[str, Any] | None:
    if subscription is None:
        return None
    return {
        "id": subscription.pk,
        "state": subscription.state,
        "plan": subscription.plan.code,
        "current_period_start": instant_text(subscription.current_period_start),
        "current_period_end": _instant_or_none(subscription.current_period_end),
        "cancel_at_period_end": subscription.cancel_at_period_end,
    }


def _lot_body(lot: Lot) -> dict[str, Any]:
    return {
        "id": lot.pk,
        "kind": lot.kind,
        "amount": plain(lot.amount),
        "remaining": plain(lot.remaining),
        "held": plain(lot.held),
        "effective_at": instant_text(lot.effective_at),
        "expires_at": _instant_or_none(lot.expires_at),
        "source": lot.source,
    }


def _today(account: Account, now: datetime) -> dict[str, Any]:
    begin = credits.day_start(account, now)
    paid = Q(credits_charged__gt=0) | Q(quota_units__gt=0)
    rows = UsageRecord.objects.filter(paid, account=account, started_at__gte=begin)
    sums = rows.aggregate(input_tokens=Sum("input_tokens"), output_tokens=Sum("output_tokens"), credits=Sum("credits_charged"))
    return {
        "date": begin.date().isoformat(),
        "requests": rows.count(),
        "input_tokens": sums["input_tokens"] or 0,
        "output_tokens": sums["output_tokens"] or 0,
        "credits": plain(sums["credits"] or ZERO),
    }


def _next_change(account: Account, now: datetime) -> dict[str, Any] | None:
    """The next instant at which a lot begins or expires, with what it brings or takes then if nothing is spent."""
    lots = Lot.objects.filter(wallet=account.pk, closed_at__isnull=True)
    begins = lots.filter(effective_at__gt=now).order_by("effective_at").first()
    expires = lots.filter(effective_at__lte=now, expires_at__gt=now, remaining__gt=F("held")).order_by("expires_at").first()
    ends = expires.expires_at if expires is not None else None
    if ends is not None and (begins is None or ends <= begins.effective_at):
        same = lots.filter(effective_at__lte=now, expires_at=ends)
        going = same.aggregate(total=Sum(F("remaining") - F("held")))["total"]
        return {"at": instant_text(ends), "change": "credits_expire", "credits": plain(going)}
    if begins is None:
        return None
    coming = lots.filter(effective_at=begins.effective_at).aggregate(total=Sum("amount"))["total"]
    return {"at": instant_text(begins.effective_at), "change": "credits_begin", "credits": plain(coming)}
