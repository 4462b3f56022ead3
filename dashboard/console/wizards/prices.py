"""Changing the price of a plan from a day on: who it concerns, what it brings, and whether running subscriptions follow."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db import transaction
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.accounts.services import task_enqueue
from billing.events.services import Actor
from billing.plans.models import Plan, PlanPrice, plan_price_at
from billing.plans.services import plan_price_add
from billing.subscriptions.models import PriceMove, Subscription
from billing.subscriptions.price_migration import MigrationPreview, price_migration_preview, price_move_begin
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common import clock
from iafactory.common.admin import EMPTY, arrow, change_link, change_url, decimal_text
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from iafactory.common.ids import uuid7
from iafactory.common.money import ZERO
from routing.admin.figures import economics_table
from routing.economics import PlanEconomics, plan_economics, risk_accepted

from .base import Page, PageForm, ReasonForm, Wizard
from .plans import CURRENCY

# Further ahead nobody plans; a slip of the year is found.
FURTHEST = timedelta(days=730)


class NamedSplitDateTime(AdminSplitDateTime):
    """Django's two inputs, each with a name for who does not see the words beside them."""

    def __init__(self, attrs: Any = None) -> None:
        super().__init__(attrs)
        for widget, name in zip(self.widgets, (_("In force from, date"), _("In force from, time")), strict=True):
            widget.attrs["aria-label"] = name


class PriceForm(PageForm):
    """Of which plan, what it becomes, and from when on."""

    plan = forms.ModelChoiceField(label=_("Plan"), queryset=Plan.objects.all())
    currency = forms.CharField(label=_("Currency"), max_length=3, help_text=_("ISO 4217 code, such as DZD."))
    amount = forms.DecimalField(label=_("New price of a period"), min_value=Decimal(0), max_digits=18, decimal_places=4)
    tax_included = forms.BooleanField(label=_("Tax is included"), required=False, initial=True)
    overage_amount = forms.DecimalField(
        label=_("Price of a credit beyond those included"),
        required=False,
        min_value=Decimal(0),
        max_digits=18,
        decimal_places=8,
        help_text=_("Metered plans only."),
    )
    effective_from = forms.SplitDateTimeField(
        label=_("In force from"), required=False, widget=NamedSplitDateTime, help_text=_("UTC. Empty: at once.")
    )
    running = forms.TypedChoiceField(
        label=_("Running subscriptions"),
        choices=[
            ("keep", _("keep the price they were sold at")),
            ("move", _("renew at the new price, from their first period that begins when it is in force")),
        ],
        widget=forms.RadioSelect,
        initial="keep",
    )

    def clean_currency(self) -> str:
        currency: str = self.cleaned_data["currency"].strip().upper()
        CURRENCY(currency)
        return currency

    def clean_effective_from(self) -> datetime | None:
        at: datetime | None = self.cleaned_data["effective_from"]
        now = clock.now()
        if at is not None and at <= now:
            raise forms.ValidationError(_("This is in the past: a price takes effect at once or later."))
        if at is not None and at > now + FURTHEST:
            raise forms.ValidationError(_("This is more than two years ahead."))
        return at

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        plan = wanted.get("plan")
        if plan is None or not wanted.get("currency") or wanted.get("amount") is None or self.errors:
            return wanted
        metered = plan.billing_mode == Plan.BillingMode.METERED
        if metered != (wanted.get("overage_amount") is not None):
            self.add_error(
                "overage_amount",
                _("A metered plan has one.") if metered else _("Only metered plans bill what is beyond."),
            )
        at = wanted.get("effective_from") or clock.now()
        present = plan_price_at(plan, wanted["currency"], at)
        same = (wanted["amount"], wanted["tax_included"], wanted.get("overage_amount"))
        if present is not None and (present.amount, present.tax_included, present.overage_amount) == same:
            self.add_error("amount", _("This is the price already."))
        if plan.prices.filter(currency=wanted["currency"], effective_from=at).exists():
            self.add_error("effective_from", _("The plan has a price in this currency from this instant on."))
        if wanted.get("running") == "move" and _moving(plan, wanted["currency"]):
            self.add_error("running", _("Subscriptions of this plan are being moved to another price: stop that first."))
        return wanted


def _moving(plan: Plan, currency: str) -> bool:
    return PriceMove.objects.filter(price__plan=plan, price__currency=currency, finished_at__isnull=True).exists()


class PricePage(Page):
    name = "price"
    title = _("Price")
    explanation = _("A price is never changed: the new one is a further row, and what was sold stays as it was sold.")

    def form(self, wizard: Wizard, data: QueryDict | None) -> PriceForm:
        return PriceForm(data, initial={"plan": wizard.request.GET.get("plan", ""), "tax_included": True, "running": "keep"})


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of price means: the price now and then, who has it, and the plan's figures with the new one."""

    price: PlanPrice
    present: PlanPrice | None
    subscriptions: int
    """Running subscriptions of the plan in this currency, whatever becomes of them."""
    moved: MigrationPreview
    """Those that renew at the new price first; the others of them follow after their next renewal."""
    paid_now: Decimal
    economics: PlanEconomics | None


class AffectedPage(Page):
    name = "affected"
    title = _("Who it concerns")
    explanation = _("Nothing is written before you press the button.")
    template = "admin/wizards/price_affected.html"
    submit = _("Change the price")

    def form(self, wizard: Wizard, data: QueryDict | None) -> ReasonForm:
        assert isinstance(wizard, PriceWizard)
        form = ReasonForm(data, risky=wizard.is_risky())
        form.fields["reason"].help_text = _("Kept with the events; the customer does not see it.")
        return form

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, PriceWizard)
        change, moving = wizard.change(), wizard.is_moving()
        price, present = change.price, change.present
        at = wizard.cleaned("price")["effective_from"]
        facts: list[tuple[Any, Any]] = [
            (_("Plan"), price.plan.name),
            (_("Price now"), EMPTY if present is None else f"{decimal_text(present.amount)} {present.currency}"),
            (_("New price"), f"{decimal_text(price.amount)} {price.currency}"),
            (_("In force"), gettext("at once") if at is None else f"{at:%Y-%m-%d %H:%M} UTC"),
            (_("Running subscriptions in this currency"), number_text(change.subscriptions)),
        ]
        if moving:
            after = price.amount * change.subscriptions
            facts += [
                (_("Renew at the new price with their next period"), number_text(change.moved.subscriptions)),
                (
                    _("All of them together, per period"),
                    f"{decimal_text(change.paid_now)} {arrow()} {decimal_text(after)} {price.currency}",
                ),
                (_("Customers"), gettext("are told by mail before their first period at the new price")),
            ]
        else:
            facts += [
                (
                    _("All of them together, per period"),
                    f"{decimal_text(change.paid_now)} {price.currency}, {gettext('as before')}",
                ),
                (_("Customers"), gettext("who have the plan keep their price and are not told")),
            ]
        named = [
            (change_link("billing.subscription", row.pk, row.account), str(row.next_price or row.price), row.current_period_end)
            for row in change.moved.first
        ]
        return {
            "facts": facts,
            "named": named if moving else [],
            "hidden": max(0, change.moved.subscriptions - len(named)) if moving else 0,
            "figures": None if change.economics is None else economics_table(change.economics),
            "warnings": change.economics.risks if wizard.is_risky() and change.economics is not None else [],
        }


class PriceWizard(Wizard):
    """Changes a plan's price."""

    kind = "price"
    title = _("Change a price")
    pages = (PricePage(), AffectedPage())

    def __init__(self, request: HttpRequest, draft: ConsoleDraft | None) -> None:
        super().__init__(request, draft)
        self._change: Change | None = None

    @classmethod
    def may(cls, request: HttpRequest) -> bool:
        return request.user.has_perms(["billing.add_planprice", "billing.change_subscription"])

    def is_moving(self) -> bool:
        return bool(self.cleaned("price")["running"] == "move")

    def is_risky(self) -> bool:
        """Whether a plan on sale can lose money at this price."""
        change = self.change()
        on_sale = change.price.plan.visibility == Plan.Visibility.PUBLIC
        return on_sale and change.economics is not None and change.economics.can_lose_money

    def change(self) -> Change:
        """What the change would mean; reckoned once a request, nothing is written."""
        if self._change is None:
            self._change = self._reckoned()
        return self._change

    def _reckoned(self) -> Change:
        wanted = self.cleaned("price")
        plan, currency, now = wanted["plan"], wanted["currency"], clock.now()
        at = wanted["effective_from"] or now
        price = PlanPrice(
            id=uuid7(),
            plan=plan,
            currency=currency,
            amount=wanted["amount"],
            tax_included=wanted["tax_included"],
            overage_amount=wanted["overage_amount"],
            effective_from=at,
        )
        running = Subscription.objects.filter(plan=plan, state__in=Subscription.LIVE, price__currency=currency)
        found = list(running.select_related("price", "next_price"))
        paid = sum(((row.next_price or row.price).amount for row in found if row.price is not None), ZERO)
        with transaction.atomic():
            price.save(force_insert=True)
            economics = plan_economics(plan, at=at + timedelta(seconds=1))
            moved = price_migration_preview(price)
            transaction.set_rollback(True)
        return Change(price, plan_price_at(plan, currency, now), len(found), moved, paid, economics)

    def finish(self, draft: ConsoleDraft, actor: Actor, wanted: dict[str, Any]) -> str:
        moving, risky, reason, accepted = self.is_moving(), self.is_risky(), wanted["reason"], wanted.get("accept_risk")
        wanted = self.cleaned("price")
        if risky and not accepted:
            told = gettext("At this price the plan can lose money: confirm that you have seen it.")
            raise ApiError(409, "risk_not_accepted", told, param="accept_risk")
        price = plan_price_add(
            plan=wanted["plan"],
            currency=wanted["currency"],
            amount=wanted["amount"],
            tax_included=wanted["tax_included"],
            overage_amount=wanted["overage_amount"],
            effective_from=wanted["effective_from"],
            actor=actor,
            reason=reason,
        )
        economics = self.change().economics
        if risky and economics is not None:
            risk_accepted(economics=economics, actor=actor, reason=reason)
        if not moving:
            return change_url("billing.planprice", price.pk)
        move = price_move_begin(price=price, actor=actor, reason=reason)
        transaction.on_commit(price_moves_enqueue)
        return change_url("billing.pricemove", move.pk)

    def done(self) -> Any:
        return _("The price is written.")


def price_moves_enqueue() -> None:
    """A hint to begin at once; the schedule does it otherwise."""
    task_enqueue("billing.subscriptions.move_prices")
