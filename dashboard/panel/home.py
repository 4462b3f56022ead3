"""The panel's home: what is left, what it went on, and what needs the customer's attention."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from billing.accounts.selectors import account_for_user
from billing.ledger.sources import lots_named
from dashboard.impersonation.permitted import refused_in_their_name
from iafactory.common import clock
from iafactory.common.money import ZERO

from .session import ACCOUNT_KEY, panel_page
from .spending import spending_of

DAYS = 30


@require_safe
@panel_page
def home(request: Any) -> HttpResponseBase:
    """Credits left, the plan, 30 days of spending by day, model, service and key, and warnings."""
    panel = request.panel
    me = panel.api.get("billing-me")
    now = clock.now()
    today = now.astimezone(panel.account.zone).date()
    spending = spending_of(account=panel.account, since=today - timedelta(days=DAYS - 1), until=today)
    status = panel.api.get("payment-status")
    every = panel.api.get("subscriptions")
    live = next((one for one in every if one["id"] == status["subscription_id"]), None)
    granted = sum((lot["amount"] for lot in me["lots"]), ZERO)
    me = me | {"lots": lots_named(me["lots"])}
    notice = panel.api.get("billing-notices")
    context = {
        "me": me,
        "days": DAYS,
        "spending": spending,
        "chart": spending.chart(),
        "granted": granted,
        "left_percent": _percent(me["available"], granted),
        "daily_percent": _percent(me["daily"]["used"], me["daily"]["limit"]) if me["daily"] else None,
        "status": status,
        "notice": notice,
        "costs": bool(live and live["amount"]),
        "has_keys": bool(panel.api.get("keys", state="active", page_size=1)["results"]),
    }
    return render(request, "panel/home.html", context)


@require_POST
@panel_page
def account_choose(request: Any) -> HttpResponseBase:
    """Look at another account of the user's from now on; somebody else's is not there."""
    if request.panel.seen_as is not None:
        raise refused_in_their_name()
    account = account_for_user(user=request.panel.user, account_id=request.POST.get("account", ""))
    if account is not None:
        request.session[ACCOUNT_KEY] = str(account.pk)
    return redirect("panel:home")


def _percent(part: Decimal, whole: Decimal) -> int:
    """`part` of `whole` in whole percent, from 0 to 100; of nothing it is 0."""
    if whole <= 0:
        return 0
    return int(max(ZERO, min(Decimal(100), Decimal(part) * 100 / Decimal(whole))))
