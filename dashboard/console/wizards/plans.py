"""Publishing a plan: from what it begins, its terms, prices and limits, its models, and what it earns before it is on sale."""

from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.events.services import Actor
from billing.plans.models import Plan, PlanPrice, plan_price_at
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common import clock
from iafactory.common.admin import EMPTY, change_url
from iafactory.common.formats import number_text
from routing.admin.figures import economics_table, usd
from routing.admin.pairs import PairsField, decimal_string
from routing.admin.plans import known_providers
from routing.economics import EVERY_MODEL
from routing.models import AiModel, PlanRouting
from routing.plan_setup import OfferPreview, OfferPrice, PlanOffer, offer_preview, plan_is_draft, plan_publish

from .base import Page, PageForm, ReasonForm, Wizard

CREDITS: dict[str, Any] = {"max_digits": 20, "decimal_places": 6, "min_value": Decimal(0)}
CURRENCY = RegexValidator(r"^[A-Z]{3}\Z", _("Three letters, such as DZD."))


def amount(text: str) -> str:
    """A price as it is kept between pages. Raises ValueError."""
    found = Decimal(decimal_string(text))
    if found != found.quantize(Decimal("0.0001")) or found >= Decimal(10) ** 14:
        raise ValueError(text)
    return f"{found:f}"


def small_amount(text: str) -> str:
    """The price of one credit. Raises ValueError."""
    try:
        found = Decimal(decimal_string(text))
        if found != found.quantize(Decimal("0.00000001")) or found >= Decimal(10) ** 10:
            raise ValueError(text)
    except InvalidOperation:
        raise ValueError(text) from None
    return f"{found:f}"


class StartForm(PageForm):
    """From which plan the new one takes its values."""

    based_on = forms.ModelChoiceField(
        label=_("Begin with"),
        queryset=Plan.objects.none(),
        required=False,
        empty_label=_("nothing: an empty plan"),
        help_text=_(
            "Every field begins with this plan's value. A draft that nobody has is changed itself; a plan that was sold is "
            "never changed here: a new one takes its place, and who has it keeps it."
        ),
    )

    def __init__(self, data: QueryDict | None) -> None:
        super().__init__(data)
        self.fields["based_on"].queryset = Plan.objects.exclude(visibility=Plan.Visibility.ARCHIVED)  # type: ignore[attr-defined]


class StartPage(Page):
    name = "start"
    title = _("Beginning")

    def form(self, wizard: Wizard, data: QueryDict | None) -> StartForm:
        return StartForm(data)


class TermsForm(PageForm):
    """What customers read, and for how long it is sold."""

    name = forms.CharField(label=_("Name"), max_length=100)
    code = forms.SlugField(label=_("Code"), max_length=64, help_text=_("Its name in the API and in usage; for good."))
    description = forms.CharField(
        label=_("Description"), required=False, max_length=2000, widget=forms.Textarea(attrs={"rows": 2, "cols": 60})
    )
    family = forms.SlugField(label=_("Family"), max_length=64, help_text=_("Plans of one family replace each other."))
    sort_order = forms.IntegerField(label=_("Order"), min_value=0, max_value=32767, initial=100)
    interval = forms.ChoiceField(label=_("Period"), choices=Plan.Interval.choices, initial=Plan.Interval.MONTH)
    interval_count = forms.IntegerField(label=_("How many of them"), min_value=1, max_value=1200, initial=1)
    renews = forms.BooleanField(label=_("Renews"), required=False, initial=True)
    trial_days = forms.IntegerField(label=_("Days on trial"), min_value=0, max_value=365, initial=0)
    features = forms.CharField(
        label=_("Features"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text=_("Codes of modules and labels, one a line."),
    )
    groups = (
        (_("Offer"), ("name", "code", "description", "family", "sort_order")),
        (_("Period"), ("interval", "interval_count", "renews", "trial_days")),
        (_("Included"), ("features",)),
    )

    def __init__(self, data: QueryDict | None, *, initial: dict[str, Any], draft: Plan | None) -> None:
        super().__init__(data, initial=initial)
        self.draft = draft

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        found = Plan.objects.filter(code=code).first()
        if found is not None and not plan_is_draft(found):
            raise forms.ValidationError(_("A plan of this code is on sale or was sold: choose another code."))
        return code

    def clean_features(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data["features"].splitlines() if line.strip()]


class TermsPage(Page):
    name = "terms"
    title = _("Terms")

    def form(self, wizard: Wizard, data: QueryDict | None) -> TermsForm:
        assert isinstance(wizard, PlanWizard)
        base = wizard.base()
        initial: dict[str, Any] = {}
        if base is not None:
            initial = {name: getattr(base, name) for name in TermsForm.base_fields if name != "features"}
            initial["features"] = "\n".join(map(str, base.features))
            if not plan_is_draft(base):
                initial["code"] = free_code(base.code)
        return TermsForm(data, initial=initial, draft=base)


def free_code(code: str) -> str:
    """`code-2`, or the first number after it that no plan has."""
    number = 2
    while Plan.objects.filter(code=f"{code}-{number}").exists():
        number += 1
    return f"{code}-{number}"


class PricesForm(PageForm):
    """What a period costs, and what it includes."""

    prices = PairsField(
        read=amount,
        required=True,
        label=_("Prices of a period"),
        help_text=_("A currency and its amount a line, such as `DZD 2590`. 0 is free."),
    )
    tax_included = forms.BooleanField(label=_("Tax is included"), required=False, initial=True)
    billing_mode = forms.ChoiceField(label=_("Billed by"), choices=Plan.BillingMode.choices, initial=Plan.BillingMode.CREDITS)
    rounding = forms.ChoiceField(label=_("Rounding"), choices=Plan.Rounding.choices, initial=Plan.Rounding.WHOLE)
    period_credits = forms.DecimalField(label=_("Credits of a period"), initial=0, **CREDITS)
    daily_limit = forms.DecimalField(
        label=_("Daily limit"),
        required=False,
        help_text=_("Requests on quota plans, credits on others. Empty: none."),
        **CREDITS,
    )
    overage_ceiling = forms.DecimalField(
        label=_("Credits beyond those included"), required=False, help_text=_("Metered plans: at most so many."), **CREDITS
    )
    overage_prices = PairsField(
        read=small_amount,
        label=_("Price of one of them"),
        help_text=_("Metered plans: a currency and its amount a line, such as `USD 0.012`."),
    )
    requests_per_minute = forms.IntegerField(label=_("Requests a minute"), required=False, min_value=1, max_value=2**31 - 1)
    requests_per_hour = forms.IntegerField(label=_("Requests an hour"), required=False, min_value=1, max_value=2**31 - 1)
    requests_per_day = forms.IntegerField(label=_("Requests a day"), required=False, min_value=1, max_value=2**31 - 1)
    tokens_per_minute = forms.IntegerField(label=_("Tokens a minute"), required=False, min_value=1, max_value=2**31 - 1)
    concurrent_calls = forms.IntegerField(label=_("Calls at once"), required=False, min_value=1, max_value=2**31 - 1)
    priority = forms.IntegerField(label=_("Priority"), min_value=0, max_value=32767, initial=0)
    groups = (
        (_("Price"), ("prices", "tax_included")),
        (_("Included in a period"), ("billing_mode", "rounding", "period_credits", "daily_limit")),
        (_("Metered plans"), ("overage_ceiling", "overage_prices")),
        (
            _("Speed; empty is no limit"),
            (
                "requests_per_minute",
                "requests_per_hour",
                "requests_per_day",
                "tokens_per_minute",
                "concurrent_calls",
                "priority",
            ),
        ),
    )

    def __init__(self, data: QueryDict | None, *, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        for name in ("prices", "overage_prices"):
            self.fields[name].widget.attrs = {"rows": 3, "cols": 40}

    def _currencies(self, name: str) -> dict[str, str]:
        found = {currency.upper(): value for currency, value in self.cleaned_data[name].items()}
        for currency in found:
            CURRENCY(currency)
        return found

    def clean_prices(self) -> dict[str, str]:
        found = self._currencies("prices")
        if not found:
            raise forms.ValidationError(_("A plan has a price, which may be 0."))
        return found

    def clean_overage_prices(self) -> dict[str, str]:
        return self._currencies("overage_prices")

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if wanted.get("billing_mode") == Plan.BillingMode.METERED:
            if not wanted.get("overage_ceiling"):
                self.add_error("overage_ceiling", _("A metered plan needs one above 0."))
            if "overage_prices" in wanted and "prices" in wanted and set(wanted["overage_prices"]) != set(wanted["prices"]):
                self.add_error("overage_prices", _("One for each currency of the plan."))
        elif wanted.get("overage_prices"):
            self.add_error("overage_prices", _("Only metered plans bill what is beyond."))
        return wanted


class PlanPricesPage(Page):
    name = "prices"
    title = _("Price and limits")

    def form(self, wizard: Wizard, data: QueryDict | None) -> PricesForm:
        assert isinstance(wizard, PlanWizard)
        base = wizard.base()
        initial: dict[str, Any] = {}
        if base is not None:
            plain = [name for name in PricesForm.base_fields if name not in ("prices", "overage_prices", "tax_included")]
            initial = {name: _told(getattr(base, name)) for name in plain}
            present = prices_of(base)
            initial["prices"] = {price.currency: _told(price.amount) for price in present}
            initial["overage_prices"] = {
                price.currency: _told(price.overage_amount) for price in present if price.overage_amount is not None
            }
            initial["tax_included"] = all(price.tax_included for price in present)
        return PricesForm(data, initial=initial)


def prices_of(plan: Plan) -> list[PlanPrice]:
    """The prices of a plan in force now, by currency."""
    currencies = sorted(set(plan.prices.values_list("currency", flat=True)))
    found = [plan_price_at(plan, currency, clock.now()) for currency in currencies]
    return [price for price in found if price is not None]


def _told(value: Any) -> Any:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else value


class ModelsForm(PageForm):
    """Which models the plan includes, how they are found, and what they may cost."""

    every_model = forms.BooleanField(label=_("Every model"), required=False, help_text=_("Also those that come later."))
    models_allowed = forms.MultipleChoiceField(
        label=_("Models"), required=False, widget=forms.CheckboxSelectMultiple, help_text=_("Where it is not every model.")
    )
    like = forms.ModelChoiceField(
        label=_("Providers are chosen as on"),
        queryset=PlanRouting.objects.none(),
        help_text=_("Strategy, shares, fallback and what `auto` means are taken over; they are changed at the plan's routing."),
    )
    free_only = forms.BooleanField(
        label=_("Only what costs us nothing"), required=False, help_text=_("Only providers' free tiers are called.")
    )
    context_cap = forms.IntegerField(
        label=_("Largest input, tokens"), required=False, min_value=1, max_value=2**31 - 1, help_text=_("Empty: the model's.")
    )
    cost_allowance_usd = forms.DecimalField(
        label=_("Cost allowance, USD"),
        required=False,
        min_value=Decimal(0),
        max_digits=20,
        decimal_places=9,
        help_text=_("What one subscription may cost us a period. Empty: what its credits cover."),
    )
    margin_multiplier = forms.DecimalField(
        label=_("Margin"), min_value=Decimal("0.0001"), max_digits=8, decimal_places=4, initial=Decimal("1.8")
    )
    usd_per_credit = forms.DecimalField(
        label=_("USD a credit"), min_value=Decimal("0.000000001"), max_digits=12, decimal_places=9, initial=Decimal("0.01")
    )
    expected_messages = forms.IntegerField(
        label=_("Messages of a user a month"), required=False, min_value=0, max_value=2_000_000_000
    )
    expected_cost_usd = PairsField(
        read=decimal_string,
        label=_("Cost of a message, USD"),
        help_text=_("Provider and cost a line, such as `openrouter 0.0135`."),
    )
    groups = (
        (_("Models"), ("every_model", "models_allowed", "like", "free_only")),
        (_("Ceilings and price of a call"), ("cost_allowance_usd", "context_cap", "margin_multiplier", "usd_per_credit")),
        (_("Typical use: what the preview assumes"), ("expected_messages", "expected_cost_usd")),
    )

    def __init__(self, data: QueryDict | None, *, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        names = AiModel.objects.filter(profiles__enabled=True).distinct().order_by("name").values_list("name", flat=True)
        chosen = set(initial.get("models_allowed", ()))
        every = sorted({*names, *chosen})
        self.fields["models_allowed"].choices = [(name, name) for name in every]  # type: ignore[attr-defined]
        routings = PlanRouting.objects.select_related("plan").order_by("plan__sort_order")
        self.fields["like"].queryset = routings  # type: ignore[attr-defined]
        self.fields["expected_cost_usd"].widget.attrs = {"rows": 3, "cols": 40}

    def clean_expected_cost_usd(self) -> dict[str, str]:
        costs: dict[str, str] = self.cleaned_data["expected_cost_usd"]
        known_providers(costs)
        return costs

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if not wanted.get("every_model") and not wanted.get("models_allowed"):
            self.add_error("models_allowed", _("Choose at least one model."))
        return wanted


class PlanModelsPage(Page):
    name = "models"
    title = _("Models and cost")

    def form(self, wizard: Wizard, data: QueryDict | None) -> ModelsForm:
        assert isinstance(wizard, PlanWizard)
        base = wizard.base()
        routing = None if base is None else PlanRouting.objects.filter(plan=base).first()
        initial: dict[str, Any] = {"every_model": True}
        if routing is not None:
            plain = [name for name in ModelsForm.base_fields if name not in ("every_model", "models_allowed", "like")]
            initial = {name: _told(getattr(routing, name)) for name in plain}
            initial["every_model"] = EVERY_MODEL in routing.models_allowed
            initial["models_allowed"] = [name for name in routing.models_allowed if name != EVERY_MODEL]
            initial["like"] = routing.pk
        return ModelsForm(data, initial=initial)


class PublishForm(ReasonForm):
    """On sale or not, in whose place, and why."""

    publish = forms.TypedChoiceField(
        label=_("What happens"),
        choices=[("publish", _("Put it on sale now")), ("draft", _("Keep it as a draft: hidden, nobody can buy it"))],
        widget=forms.RadioSelect,
        initial="publish",
    )
    replace = forms.BooleanField(label=_("Take the old plan off sale"), required=False)
    field_order = ("publish", "replace", "accept_risk", "reason")

    def __init__(self, data: QueryDict | None, *, replaced: Plan | None, risky: bool) -> None:
        super().__init__(data, risky=risky)
        if replaced is None:
            del self.fields["replace"]
        else:
            self.fields["replace"].label = _("Take %s off sale") % replaced.name
            self.fields["replace"].help_text = _("Who has it keeps it, at the price it was sold at; it renews as before.")


class EconomicsPage(Page):
    name = "economics"
    title = _("What it earns")
    explanation = _("Reckoned from list prices in force now, for one subscription and one period. Nothing is written yet.")
    template = "admin/wizards/plan_economics.html"
    submit = _("Write the plan")

    def form(self, wizard: Wizard, data: QueryDict | None) -> PublishForm:
        assert isinstance(wizard, PlanWizard)
        return PublishForm(data, replaced=wizard.replaced(), risky=wizard.preview().has_risk)

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, PlanWizard)
        preview = wizard.preview()
        return {"figures": economics_table(preview.economics), "uses": uses(preview), "warnings": warnings(preview)}


def uses(preview: OfferPreview) -> list[tuple[Any, Any, Any]]:
    """Ways to use the plan: what each costs us and leaves, and where the price is used up."""
    found = preview.economics

    def left(cost: Decimal | None) -> Any:
        return EMPTY if cost is None or found.revenue_usd is None else usd(found.revenue_usd - cost)

    rows: list[tuple[Any, Any, Any]] = [
        (_("Typical use, as assumed"), usd(found.expected_cost_usd), left(found.expected_cost_usd)),
        (_("Full use of what is included"), usd(found.worst_cost_usd), left(found.worst_cost_usd)),
    ]
    if found.break_even_messages is not None:
        told = gettext("%s messages a period") % number_text(found.break_even_messages)
        rows.append((_("Break-even"), told, usd(Decimal(0))))
    if found.break_even_credits is not None:
        told = gettext("%s credits a period, at the dearest") % number_text(found.break_even_credits)
        rows.append((_("Break-even"), told, usd(Decimal(0))))
    return rows


def warnings(preview: OfferPreview) -> list[str]:
    """Everything about an offer that an operator should know before it is on sale."""
    found = list(preview.economics.risks)
    if preview.unpriced:
        names = ", ".join(preview.unpriced[:10]) + ("…" if len(preview.unpriced) > 10 else "")
        found.append(gettext("Models in the plan without a price, whose calls are refused: %s") % names)
    if preview.unserved:
        found.append(gettext("Models in the plan that no provider in use serves: %s") % ", ".join(preview.unserved[:10]))
    return found


class PlanWizard(Wizard):
    """Publishes a plan."""

    kind = "plan"
    title = _("Publish a plan")
    pages = (StartPage(), TermsPage(), PlanPricesPage(), PlanModelsPage(), EconomicsPage())

    def __init__(self, request: HttpRequest, draft: ConsoleDraft | None) -> None:
        super().__init__(request, draft)
        self._preview: OfferPreview | None = None

    @classmethod
    def may(cls, request: HttpRequest) -> bool:
        needed = ("billing.add_plan", "billing.change_plan", "billing.add_planprice", "routing.add_planrouting")
        return request.user.has_perms(needed)

    def base(self) -> Plan | None:
        """The plan that the values begin with."""
        base: Plan | None = self.cleaned("start")["based_on"]
        return base

    def replaced(self) -> Plan | None:
        """The plan on sale whose place the new one can take."""
        base = self.base()
        return base if base is not None and base.code != self.cleaned("terms")["code"] and not plan_is_draft(base) else None

    def offer(self) -> PlanOffer:
        terms, prices, models = (dict(self.cleaned(name)) for name in ("terms", "prices", "models"))
        code = terms.pop("code")
        amounts, overage = prices.pop("prices"), prices.pop("overage_prices")
        tax_included = prices.pop("tax_included")
        every, chosen, like = (models.pop(name) for name in ("every_model", "models_allowed", "like"))
        return PlanOffer(
            code=code,
            terms={**terms, **prices},
            prices=[
                OfferPrice(currency, Decimal(value), Decimal(overage[currency]) if currency in overage else None)
                for currency, value in amounts.items()
            ],
            tax_included=tax_included,
            routing={**models, "models_allowed": [EVERY_MODEL] if every else chosen},
            like=like,
        )

    def preview(self) -> OfferPreview:
        """The offer's figures; reckoned once a request."""
        if self._preview is None:
            self._preview = offer_preview(self.offer())
        return self._preview

    def finish(self, draft: ConsoleDraft, actor: Actor, wanted: dict[str, Any]) -> str:
        plan = plan_publish(
            offer=self.offer(),
            publish=wanted["publish"] == "publish",
            replaces=self.replaced() if wanted.get("replace") else None,
            accept_risk=bool(wanted.get("accept_risk")),
            actor=actor,
            reason=wanted["reason"],
        )
        return change_url("billing.plan", plan.pk)

    def done(self) -> Any:
        return _("The plan is written.")
