"""What was used: the history, its table for spreadsheets, and why each call cost what it did."""

from datetime import datetime, time, timedelta
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.ledger.sources import lots_named
from billing.plans.models import Plan
from routing.models import Provider

from .forms import UsageFilterForm
from .session import is_htmx, panel_page

PAGE_SIZE = 50


@require_safe
@panel_page
def usage(request: Any) -> HttpResponseBase:
    """Calls and charges, newest first, with filters; `format=csv` for all of them as a table."""
    api = request.panel.api
    form = UsageFilterForm(request.GET or None, keys=api.get("keys", page_size=200)["results"])
    query = _query(form, request.panel.account.zone)
    if request.GET.get("format") == "csv":
        table: HttpResponseBase = api.get("billing-usage", accept="text/csv", format="csv", **query)
        return table
    page = api.get("billing-usage", page_size=PAGE_SIZE, cursor=request.GET.get("cursor", ""), **query)
    context = {"form": form, "page": page, "filtered": bool(query)}
    return render(request, "panel/usage_rows.html" if is_htmx(request) else "panel/usage.html", context)


@require_safe
@panel_page
def request_detail(request: Any, request_id: str) -> HttpResponseBase:
    """One call: prices of that time, the arithmetic, the lots that paid."""
    call = request.panel.api.get("billing-usage-explain", request_id)
    context = {
        "call": call | {"lots": lots_named(call["lots"])},
        # What has another name meanwhile, or none, stays as it was booked.
        "provider_name": Provider.objects.filter(slug=call["provider"]).values_list("name", flat=True).first()
        or call["provider"],
        "plan_name": Plan.objects.filter(code=call["plan"]).values_list("name", flat=True).first() or call["plan"],
    }
    return render(request, "panel/request.html", context)


def _query(form: UsageFilterForm, zone: Any) -> dict[str, Any]:
    """The API's filters: days of the account's zone as a half-open time."""
    if not form.is_bound or not form.is_valid():
        return {}
    data = form.cleaned_data
    query = {name: data[name] for name in ("model", "api_key", "end") if data[name]}
    if data["since"]:
        query["from_"] = datetime.combine(data["since"], time(), zone).isoformat()
    if data["until"]:
        query["to"] = datetime.combine(data["until"] + timedelta(days=1), time(), zone).isoformat()
    return query
