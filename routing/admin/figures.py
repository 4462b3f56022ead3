"""A plan's economics as the console shows them."""

from decimal import Decimal
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.plans.models import Plan
from iafactory.common.admin import EMPTY, decimal_text, in_order, list_link, localised, table
from iafactory.common.formats import number_text
from routing.economics import PlanEconomics, cents, percent


def usd(amount: Decimal | None) -> str:
    """An amount in USD to the cent."""
    return EMPTY if amount is None else localised(f"{cents(amount):,.2f} USD")


def share_text(share: Decimal | None) -> str:
    """A share in whole percent."""
    return EMPTY if share is None else f"{percent(share)} %"


def economics_table(economics: PlanEconomics, users: int = 1) -> SafeString:
    """Results first, then every input they come from."""
    price, rate = economics.price, economics.rate
    expected_profit, worst_profit = economics.profit(users)
    rows: list[tuple[Any, Any, Any]] = [
        (_("Revenue"), usd(economics.revenue_usd), usd(economics.revenue_usd)),
        (_("Provider cost"), usd(economics.expected_cost_usd), usd(economics.worst_cost_usd)),
        (_("Margin"), share_text(economics.expected_margin), share_text(economics.worst_margin)),
        (
            _("Profit") if users == 1 else _("Profit of %s users") % number_text(users),
            usd(expected_profit),
            usd(worst_profit),
        ),
    ]
    results = table((_("One subscription, one period"), _("expected"), _("at the worst")), rows)
    inputs: list[tuple[Any, Any]] = [
        (_("Price"), EMPTY if price is None else f"{decimal_text(price.amount)} {price.currency}"),
        (_("Exchange rate"), EMPTY if rate is None else list_link("billing.fxrate", in_order(rate), quote=rate.quote)),
        (_("Worst case"), economics.worst_because.translated()),
        (_("Messages in a period"), EMPTY if economics.messages is None else decimal_text(economics.messages)),
        *(
            (
                _("Through %s") % share.provider,
                _("%(share)s of the messages, each %(cost)s")
                % {
                    "share": share_text(share.share),
                    "cost": _("at unknown cost")
                    if share.cost_per_message_usd is None
                    else f"{decimal_text(share.cost_per_message_usd)} USD",
                },
            )
            for share in economics.shares
        ),
    ]
    if economics.plan.billing_mode != Plan.BillingMode.QUOTA:
        cost = f"{decimal_text(economics.credit_cost_usd.quantize(Decimal('0.000001')))} USD"
        inputs.insert(3, (_("A credit costs us at most"), cost))
    if economics.credit_sold_usd is not None:
        sold = f"{decimal_text(economics.credit_sold_usd.quantize(Decimal('0.000001')))} USD"
        inputs.insert(4, (_("A bought credit earns at least"), sold))
    if economics.overage_usd is not None:
        inputs.insert(4, (_("A credit beyond those included earns"), f"{decimal_text(economics.overage_usd)} USD"))
    assumed = table((_("From"), ""), inputs)
    risks = format_html_join("", '<li class="risk">{}</li>', ((risk,) for risk in economics.risks))
    note = _("Before tax, payment fees, free trials and services outside the gateway; a month is 30 days.")
    return format_html(
        '<div class="economics">{}{}{}<p class="help">{}</p></div>',
        format_html('<ul class="risks">{}</ul>', risks) if risks else "",
        results,
        assumed,
        note,
    )
