"""`/api/admin/budget/*` and `/api/admin/costs/*`: ceilings on provider cost, and what calls have cost, for operators."""

import csv
from datetime import UTC, date, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import AccountsView, errors, validated
from billing.accounts.authentication import OperatorAuthentication
from billing.accounts.credentials import request_operator
from billing.accounts.permissions import MayOperate
from billing.accounts.serializers import StrictCharField
from billing.ledger.serializers import AmountField, CreditsField, UsdField
from billing.ledger.usage_api import CsvRenderer
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import plain
from iafactory.common.rendering import MoneyJSONRenderer
from iafactory.common.texts import Text
from routing.budgets import BudgetState, Level, Period, budget_set, budget_states
from routing.costs import COLUMNS, DIMENSIONS, FILTERS, MOST_DAYS, CostBreakdown, CostLine, cost_breakdown
from routing.models import Provider

TAG = ["operators"]
# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


class BudgetUpdateSerializer(serializers.Serializer):
    provider = StrictCharField(
        max_length=64, required=False, allow_null=True, default=None, help_text="Its slug; null or absent: all together."
    )
    daily_limit_usd = AmountField(zero=True, required=False, allow_null=True, help_text="Per UTC day; null: no limit.")
    monthly_limit_usd = AmountField(zero=True, required=False, allow_null=True, help_text="Per UTC month; null: no limit.")
    reason = StrictCharField(max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not {"daily_limit_usd", "monthly_limit_usd"} & attrs.keys():
            raise serializers.ValidationError(
                {"daily_limit_usd": _("Name a limit: daily_limit_usd, monthly_limit_usd or both.")}
            )
        return attrs


class BudgetStateSerializer(serializers.Serializer):
    provider = serializers.CharField(allow_null=True, help_text="null: all together.")
    period = serializers.ChoiceField(choices=[period.value for period in Period], help_text="Of UTC.")
    limit_usd = UsdField(allow_null=True)
    spent_usd = UsdField(help_text="What calls have cost.")
    reserved_usd = UsdField(help_text="The worst case of calls under way.")
    remaining_usd = UsdField(allow_null=True, help_text="What further calls may cost at the worst; null: no limit.")
    percent = serializers.IntegerField(allow_null=True, help_text="Of the limit, spent; rounded down.")
    level = serializers.ChoiceField(choices=[level.value for level in Level], help_text="By what is spent.")


class BudgetUpdatedSerializer(serializers.Serializer):
    budgets = BudgetStateSerializer(many=True)


class BudgetUpdateView(AccountsView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "routing.change_budget"

    @extend_schema(
        operation_id="admin_budget_update",
        tags=TAG,
        request=BudgetUpdateSerializer,
        responses={200: BudgetUpdatedSerializer, **errors(400, 401, 403)},
    )
    def post(self, request: Request) -> Response:
        """Set ceilings on provider cost, of one provider or of all together; those not named stay. For operators.

        In force within a second: a raised ceiling lets calls in again, a lowered one leaves only what costs nothing.
        """
        data = validated(BudgetUpdateSerializer, request.data)
        slug, reason = data.pop("provider"), data.pop("reason")
        provider = None
        if slug is not None:
            provider = Provider.objects.filter(slug=slug).first()
            if provider is None:
                raise ApiError(400, "invalid_request", "There is no such provider.", param="provider")
        budget_set(provider=provider, actor=request_operator(request), reason=reason, **data)
        states = budget_states(now=clock.now(), providers=[slug])
        told: list[Any] = [_state_body(state) for state in states]
        return Response({"budgets": told})


def _state_body(state: BudgetState) -> dict[str, Any]:
    def amount(value: Decimal | None) -> Decimal | None:
        return None if value is None else plain(value)

    return {
        "provider": state.provider,
        "period": state.period.value,
        "limit_usd": amount(state.limit_usd),
        "spent_usd": amount(state.spent_usd),
        "reserved_usd": amount(state.reserved_usd),
        "remaining_usd": amount(state.remaining_usd),
        "percent": state.percent,
        "level": state.level.value,
    }


class CostQuerySerializer(serializers.Serializer):
    """Days are UTC days, both included; by default the running month."""

    def get_fields(self) -> dict[str, Any]:
        # `from` is a word of Python.
        return {
            "from": serializers.DateField(required=False, help_text="First UTC day, YYYY-MM-DD; by default the month's."),
            "to": serializers.DateField(required=False, help_text="Last UTC day, included; by default today."),
            "group_by": serializers.CharField(
                required=False, help_text=f"Some of {', '.join(DIMENSIONS)}, with commas; by default all."
            ),
            **{name: serializers.CharField(required=False, max_length=200) for name in FILTERS},
        }

    def validate_group_by(self, value: str) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        if unknown := [name for name in wanted if name not in DIMENSIONS]:
            told = _("%(name)s is none of %(names)s.") % {"name": repr(unknown[0]), "names": ", ".join(DIMENSIONS)}
            raise serializers.ValidationError(told)
        return wanted

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        today = clock.now().astimezone(UTC).date()
        until: date = attrs.get("to") or max(today, attrs.get("from") or today)
        since: date = attrs.get("from") or until.replace(day=1)
        if since > until:
            raise serializers.ValidationError({"from": _("The first day must not lie after the last.")})
        if until - since >= timedelta(days=MOST_DAYS):
            raise serializers.ValidationError(
                {
                    "from": Text(
                        "At most %(limit)s day at once.", "At most %(limit)s days at once.", limit=MOST_DAYS
                    ).translated()
                }
            )
        return {**attrs, "from": since, "to": until}


class CostLineSerializer(serializers.Serializer):
    calls = serializers.IntegerField(help_text="That reached a provider, however they ended.")
    calls_complete = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    list_cost_usd = UsdField(help_text="At list prices.")
    cost_usd = UsdField(help_text="What the providers charge us.")
    credits_charged = CreditsField()


_GROUPS = {
    f"by_{dimension}": inline_serializer(
        f"CostBy{dimension.title()}",
        {dimension: serializers.CharField(), **CostLineSerializer().get_fields()},
        many=True,
        required=False,
    )
    for dimension in DIMENSIONS
}
BreakdownSerializer = inline_serializer(
    "CostBreakdown",
    {"from": serializers.DateField(), "to": serializers.DateField(), "totals": CostLineSerializer(), **_GROUPS},
)


class CostBreakdownView(AccountsView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "billing.view_usagerecord"
    renderer_classes = [MoneyJSONRenderer, CsvRenderer]

    def handle_exception(self, exc: Exception) -> Response:
        """Refusals are JSON, whatever was asked for."""
        self.request.accepted_renderer = MoneyJSONRenderer()
        self.request.accepted_media_type = MoneyJSONRenderer.media_type
        response: Response = super().handle_exception(exc)
        return response

    @extend_schema(
        operation_id="admin_costs_breakdown",
        tags=TAG,
        parameters=[
            OpenApiParameter("from", OpenApiTypes.DATE, description="First UTC day; by default the first of the month."),
            OpenApiParameter("to", OpenApiTypes.DATE, description="Last UTC day, included; by default today."),
            OpenApiParameter("group_by", str, description=f"Some of {', '.join(DIMENSIONS)}, with commas; by default all."),
            *(OpenApiParameter(name, str, description="Only calls of this one.") for name in FILTERS),
            OpenApiParameter("format", str, enum=["json", "csv"], description="`csv`: one table with a row per group."),
        ],
        responses={
            (200, "application/json"): BreakdownSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            **errors(400, 401, 403),
        },
    )
    def get(self, request: Request) -> Any:
        """What calls have cost in a range of UTC days: by provider, model, plan and day, and in all. For operators."""
        query = validated(CostQuerySerializer, request.query_params)
        found = cost_breakdown(
            since=query["from"],
            until=query["to"],
            dimensions=query.get("group_by", DIMENSIONS),
            filters={name: query[name] for name in FILTERS if name in query},
        )
        if request.accepted_renderer.format == CsvRenderer.format:
            return _csv_response(found)
        body: dict[str, Any] = {
            "from": found.since.isoformat(),
            "to": found.until.isoformat(),
            "totals": _line_body(found.totals),
        }
        for dimension, lines in found.by.items():
            told: list[Any] = [{dimension: key, **_line_body(line)} for key, line in lines]
            body[f"by_{dimension}"] = told
        return Response(body)


def _line_body(line: CostLine) -> dict[str, Any]:
    values = {name: getattr(line, name) for name in COLUMNS}
    return {name: plain(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def _csv_response(found: CostBreakdown) -> HttpResponse:
    buffer = StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("group", "value", *COLUMNS))
    rows = [(dimension, key, line) for dimension, lines in found.by.items() for key, line in lines]
    for group, key, line in [*rows, ("total", "", found.totals)]:
        cell = f"'{key}" if key.startswith(_FORMULA_STARTS) else key
        writer.writerow((group, cell, *(f"{value}" for value in _line_body(line).values())))
    name = f"costs-{found.since}-{found.until}.csv"
    return HttpResponse(
        buffer.getvalue().encode(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
