"""Connecting a provider: its address and key, tried by real calls; its models; their prices; then everything at once."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django import forms
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.events.services import Actor
from billing.plans.models import Plan
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common import clock
from iafactory.common.admin import change_url, decimal_text
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from iafactory.common.money import credits_for_cost
from routing.connection import LISTED_PROTOCOLS, Connection, Outcome, Tried, base_url_checked, connection_try
from routing.models import AiModel, PlanRouting, Provider
from routing.price_import.reading import COLUMNS
from routing.pricing import is_priced
from routing.provider_setup import ListedModel, NewModel, Price, likely_models, listed_models, provider_connect
from routing.providers.presets import PRESETS
from routing.providers.registry import speaks
from routing.snapshot import Price as PriceInForce
from routing.snapshot import TierPrice

from .base import Page, PageForm, ReasonForm, Wizard

OTHER = "-"
# More boxes than this are no list to choose from: the rest is found by its name.
MOST_SHOWN = 300
MOST_CHOSEN = 60
MILLION = Decimal(1_000_000)

# What each kind of model is billed by: its fields, their words, and whether calls are refused without them.
PRICED_BY: dict[str, tuple[tuple[str, Any, bool], ...]] = {
    AiModel.Mode.CHAT: (
        ("input_per_mtok", _("Input"), True),
        ("cached_input_per_mtok", _("Cached input"), False),
        ("output_per_mtok", _("Output"), True),
    ),
    AiModel.Mode.EMBEDDING: (("input_per_mtok", _("Input"), True),),
    AiModel.Mode.IMAGE: (("per_image", _("An image"), True),),
    AiModel.Mode.SPEECH: (("per_1k_chars", _("1,000 characters"), True),),
    AiModel.Mode.TRANSCRIPTION: (("per_audio_hour", _("An hour"), True),),
    AiModel.Mode.MUSIC: (("per_clip", _("A clip"), True),),
}

SAID = {
    Outcome.WORKS: _("It works."),
    Outcome.WRONG_KEY: _("The provider refuses this key."),
    Outcome.NO_FUNDS: _("The key is right, but the account there is empty."),
    Outcome.UNREACHABLE: _("The provider cannot be reached."),
    Outcome.FORBIDDEN: _("This address is not one of the public internet."),
    Outcome.ODD: _("It answered, but not as expected."),
}


def company_choices() -> list[tuple[Any, Any]]:
    """Providers that are here, companies whose address is known, and any other."""
    here = {
        slug: name
        for slug, name, protocol in Provider.objects.order_by("name").values_list("slug", "name", "protocol")
        if protocol in LISTED_PROTOCOLS
    }
    known = sorted(
        (preset.slug, preset.display_name)
        for preset in PRESETS.values()
        if preset.slug not in here
        and preset.protocol in LISTED_PROTOCOLS
        and not Provider.objects.filter(slug=preset.slug).exists()
    )
    choices: list[tuple[Any, Any]] = [(OTHER, _("Another, or a server of your own"))]
    if known:
        choices.append((_("Known companies"), known))
    if here:
        choices.append((_("Providers that are here: a further key and models"), list(here.items())))
    return choices


class ConnectionForm(PageForm):
    """Which provider, where it is, and the key."""

    company = forms.ChoiceField(label=_("Provider"))
    name = forms.CharField(label=_("Name"), max_length=100, required=False, help_text=_("As operators and customers read it."))
    slug = forms.SlugField(
        label=_("Code"), max_length=64, required=False, help_text=_("Its name in answers and usage; for good.")
    )
    protocol = forms.ChoiceField(
        label=_("Protocol"),
        required=False,
        choices=[(protocol, protocol) for protocol in LISTED_PROTOCOLS],
        help_text=_("Most servers speak OpenAI's."),
    )
    base_url = forms.CharField(
        label=_("Base address"),
        max_length=300,
        required=False,
        widget=forms.URLInput(attrs={"class": "vTextField"}),
        help_text=_("As its documentation has it, version included: https://api.example.com/v1"),
    )
    secret = forms.CharField(
        label=_("Key"),
        max_length=4096,
        required=False,
        strip=True,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password", "class": "vTextField"}),
        help_text=_("Stored encrypted, never shown again."),
    )
    label = forms.CharField(
        label=_("Name of the key"), max_length=100, initial="main", help_text=_("To tell several keys apart.")
    )
    probe_model = forms.CharField(
        label=_("Model to ask"),
        max_length=150,
        required=False,
        help_text=_("For the test call of a few tokens. Empty: one of those that it lists."),
    )
    groups = (
        (_("For a provider that is not in the list"), ("name", "slug", "protocol", "base_url")),
        (_("Key"), ("secret", "label", "probe_model")),
    )

    def __init__(self, data: QueryDict | None, *, has_secret: bool) -> None:
        super().__init__(data)
        self.has_secret = has_secret
        self.fields["company"].choices = company_choices()  # type: ignore[attr-defined]
        if has_secret:
            self.fields["secret"].help_text = _("A key was given and is kept, encrypted. Empty: that one.")

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if not wanted.get("secret") and not self.has_secret:
            self.add_error("secret", _("The key is missing."))
        if wanted.get("company") == OTHER:
            for name in ("name", "slug", "base_url", "protocol"):
                if not wanted.get(name) and name not in self.errors:
                    self.add_error(name, _("Needed for a provider that is not in the list."))
            if wanted.get("slug") and Provider.objects.filter(slug=wanted["slug"]).exists():
                self.add_error("slug", _("There is a provider of this code: choose it above."))
            if wanted.get("base_url"):
                try:
                    wanted["base_url"] = base_url_checked(wanted["base_url"])
                except ApiError as error:
                    self.add_error("base_url", error.text)
        return wanted


@dataclass(frozen=True, slots=True)
class Chosen:
    """The provider that is connected; `row` is None for a new one."""

    row: Provider | None
    slug: str
    name: str
    protocol: str
    base_url: str
    quirks: tuple[str, ...]


def chosen(cleaned: dict[str, Any]) -> Chosen:
    """Who the first page names."""
    company = cleaned["company"]
    if company == OTHER:
        return Chosen(None, cleaned["slug"], cleaned["name"], cleaned["protocol"], cleaned["base_url"], ())
    row = Provider.objects.filter(slug=company).first()
    if row is not None:
        return Chosen(row, row.slug, row.name, row.protocol, row.base_url, tuple(row.quirks))
    preset = PRESETS[company]
    return Chosen(None, preset.slug, preset.display_name, preset.protocol, preset.base_url, tuple(sorted(preset.quirks)))


class ConnectionPage(Page):
    name = "connection"
    title = _("Address and key")
    explanation = _(
        "The key is tried at once by two real calls: the list of models, and an answer of a few tokens. Nothing is written yet."
    )
    template = "admin/wizards/connection.html"
    submit = _("Try it")
    secret_field = "secret"  # noqa: S105

    def form(self, wizard: Wizard, data: QueryDict | None) -> ConnectionForm:
        return ConnectionForm(data, has_secret=bool(wizard.draft is not None and wizard.draft.secret))

    def take(self, wizard: Wizard, form: forms.Form) -> None:
        wanted = form.cleaned_data
        who = chosen(wanted)
        secret = wanted["secret"] or (wizard.draft.secret if wizard.draft is not None else "")
        if any(ord(character) < 33 or ord(character) > 126 for character in secret):
            raise ApiError(400, "invalid_request", gettext("A key is printable ASCII without spaces."), param="secret")
        connection = Connection(who.slug, who.protocol, who.base_url, secret, frozenset(who.quirks))
        tried = connection_try(connection, likely=likely_models(who.slug), model=wanted["probe_model"])
        if not tried.works:
            raise ApiError(409, "credential_test_failed", told(tried), param=field_of(tried))
        assert isinstance(wizard, ProviderWizard)
        wizard.tried = tried


def told(tried: Tried) -> str:
    """How a try went, in a sentence, with what the provider said."""
    said = str(SAID[tried.outcome])
    return f"{said} ({tried.detail})" if tried.detail else said


def field_of(tried: Tried) -> str:
    """The field that a failed try is about."""
    if tried.outcome in (Outcome.WRONG_KEY, Outcome.NO_FUNDS):
        return "secret"
    return "base_url" if tried.outcome in (Outcome.UNREACHABLE, Outcome.FORBIDDEN) else "probe_model"


class ModelsForm(PageForm):
    """Which of the listed models are brought into use."""

    models = forms.MultipleChoiceField(
        label=_("Models"), widget=forms.CheckboxSelectMultiple, error_messages={"required": _("Choose at least one model.")}
    )
    further = forms.CharField(
        label=_("Further ones, by their names"),
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text=_("One a line, as the provider lists them."),
    )

    def __init__(self, data: QueryDict | None, *, listed: list[ListedModel]) -> None:
        super().__init__(data)
        self.by_name = {model.upstream: model for model in listed if not model.present}
        shown = list(self.by_name.values())[:MOST_SHOWN]
        self.fields["models"].choices = [(model.upstream, model.upstream) for model in shown]  # type: ignore[attr-defined]
        if len(shown) == len(self.by_name):
            del self.fields["further"]
        else:
            self.fields["models"].required = False

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        names = [line.strip() for line in (wanted.get("further") or "").splitlines() if line.strip()]
        if unknown := [name for name in names if name not in self.by_name]:
            self.add_error("further", _("Not in its list: %s") % ", ".join(unknown[:5]))
        found = list(dict.fromkeys([*(wanted.get("models") or []), *names]))
        if not found and not self.errors:
            raise forms.ValidationError(_("Choose at least one model."))
        if len(found) > MOST_CHOSEN:
            raise forms.ValidationError(_("At most %s at once; come again for the others.") % MOST_CHOSEN)
        wanted["chosen"] = found
        return wanted


class ModelsPage(Page):
    name = "models"
    title = _("Models")
    explanation = _("What the key can use there. Models that this version knows come first, with their names and prices.")
    template = "admin/wizards/models.html"

    def form(self, wizard: Wizard, data: QueryDict | None) -> ModelsForm:
        assert isinstance(wizard, ProviderWizard)
        return ModelsForm(data, listed=wizard.listed())

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, ProviderWizard)
        assert isinstance(form, ModelsForm)
        listed = wizard.listed()
        ticked = set(form["models"].value() or ())
        shown = [model for model in listed if not model.present][:MOST_SHOWN]
        return {
            "shown": [(model, str(AiModel.Mode(model.mode).label), model.upstream in ticked) for model in shown],
            "present": [model.upstream for model in listed if model.present],
            "hidden": len(form.by_name) - len(shown),
            "tried": wizard.given["tried"],
        }


def at(field: str, model: ListedModel) -> str:
    """The name of a model's field: by the model's own, so that choosing other models moves nothing."""
    return f"{field}|{model.upstream}"


class PricesForm(PageForm):
    """Public name, kind and price of each chosen model."""

    def __init__(self, data: QueryDict | None, *, models: list[ListedModel], protocol: str) -> None:
        self.models = models
        if data is not None:
            # Models that were chosen after this page was sent begin with what is known of them.
            data = data.copy()
            for model in models:
                if at("name", model) not in data:
                    for field, value in _proposed(model).items():
                        data[at(field, model)] = value
        super().__init__(data)
        modes = [(mode, label) for mode, label in AiModel.Mode.choices if speaks(protocol, mode)]
        for model in models:
            proposed = _proposed(model)
            self.fields[at("name", model)] = forms.CharField(
                label=gettext("Public name of %s") % model.upstream, max_length=150, initial=proposed["name"]
            )
            self.fields[at("mode", model)] = forms.ChoiceField(
                label=gettext("Kind of %s") % model.upstream, choices=modes, initial=proposed["mode"]
            )
            for field, label in price_fields():
                self.fields[at(field, model)] = forms.DecimalField(
                    label=f"{model.upstream}: {label}",
                    required=False,
                    min_value=Decimal(0),
                    max_digits=20,
                    decimal_places=9,
                    initial=proposed[field],
                    widget=forms.TextInput(attrs={"inputmode": "decimal", "class": "price"}),
                )

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        names = [wanted.get(at("name", model)) for model in self.models]
        for model in self.models:
            name = wanted.get(at("name", model))
            if name and names.count(name) > 1:
                self.add_error(at("name", model), _("Two models of this name."))
        return wanted

    def wanted(self) -> list[NewModel]:
        """What was chosen, under the names and at the prices given; after `is_valid`."""
        return [self._model(model) for model in self.models]

    def _model(self, listed: ListedModel) -> NewModel:
        mode = self.cleaned_data[at("mode", listed)]
        given = {field: self.cleaned_data[at(field, listed)] for field, _label, _needed in PRICED_BY[mode]}
        columns = {name: value for name, value in given.items() if value is not None and name.endswith("_per_mtok")}
        units = {name: value for name, value in given.items() if value is not None and not name.endswith("_per_mtok")}
        shown = {name for name, _label in price_fields()}
        # What the page does not show of a price that this version ships comes along: cache writes, tiers, other units.
        if mode == listed.mode:
            columns |= {name: value for name, value in listed.price.columns.items() if name not in shown}
            units |= {name: value for name, value in listed.price.units.items() if name not in shown}
        same = mode == listed.mode and all(
            value == listed.price.columns.get(name, listed.price.units.get(name)) for name, value in given.items()
        )
        # Tiers belong to the base prices beside which they were published.
        price = Price(columns, units, listed.price.tiers if same else (), listed.price.source if same else "console")
        return NewModel(replace(listed, mode=mode), self.cleaned_data[at("name", listed)], mode, price)


def _proposed(model: ListedModel) -> dict[str, str]:
    """What the fields of a model begin with."""
    price = {**model.price.units, **model.price.columns}
    told = {field: f"{price[field]:f}" if field in price else "" for field, _label in price_fields()}
    return {"name": model.name, "mode": model.mode, **told}


def price_fields() -> list[tuple[str, Any]]:
    """Every field of a price that the page shows."""
    found: dict[str, Any] = {}
    for fields in PRICED_BY.values():
        found |= {name: label for name, label, _needed in fields}
    return list(found.items())


def priced(model: NewModel) -> bool:
    """Whether calls of it can be served: its price has all that its kind is billed by."""
    base = {name.removesuffix("_per_mtok"): model.price.columns.get(name) for name in COLUMNS}
    row = PriceInForce(id="", effective_from=clock.now(), base=TierPrice(**base), tiers=(), units=dict(model.price.units))
    return is_priced(model.mode, row)


@dataclass(frozen=True, slots=True)
class Margin:
    """A call of 1,000 tokens in and 500 out: its cost, the credits that the least margin asks, and what stays of them."""

    cost_usd: Decimal
    credits: Decimal
    percent: int


def margin_preview(model: NewModel) -> Margin | None:
    """What a usual chat call costs us and earns at the least margin of the plans on sale; None where nothing is known."""
    columns = model.price.columns
    if model.mode != AiModel.Mode.CHAT or "input_per_mtok" not in columns or "output_per_mtok" not in columns:
        return None
    cost = (columns["input_per_mtok"] * 1000 + columns["output_per_mtok"] * 500) / MILLION
    own = AiModel.objects.filter(name=model.name).values_list("margin_multiplier", flat=True).first()
    multiplier, credit = least_margin()
    multiplier = own or multiplier
    credits = credits_for_cost(cost, margin_multiplier=multiplier, usd_per_credit=credit, whole=False)
    earned = credits * credit
    return Margin(cost, credits, int((earned - cost) / earned * 100) if earned else 0)


def least_margin() -> tuple[Decimal, Decimal]:
    """The smallest margin of the plans on sale that charge credits, with the value of a credit there."""
    found = PlanRouting.objects.filter(plan__visibility=Plan.Visibility.PUBLIC).exclude(
        plan__billing_mode=Plan.BillingMode.QUOTA
    )
    row = found.order_by("margin_multiplier").values_list("margin_multiplier", "usd_per_credit").first()
    return row or (Decimal("1.8"), Decimal("0.01"))


class PricesPage(Page):
    name = "prices"
    title = _("Prices")
    explanation = _(
        "USD, per million tokens or per unit. Where this version knows the list price it is filled in. A model without a price "
        "is not served: an empty field is unknown, never zero."
    )
    template = "admin/wizards/prices.html"

    def form(self, wizard: Wizard, data: QueryDict | None) -> PricesForm:
        assert isinstance(wizard, ProviderWizard)
        return PricesForm(data, models=wizard.chosen_models(), protocol=wizard.who().protocol)

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(form, PricesForm)
        previews: list[Any] = [None] * len(form.models)
        if form.is_bound and form.is_valid():
            previews = [(margin_preview(model), priced(model)) for model in form.wanted()]
        elif not form.is_bound:
            proposed = [NewModel(model, model.name, model.mode, model.price) for model in form.models]
            previews = [(margin_preview(model), priced(model)) for model in proposed]
        rows = []
        for number, model in enumerate(form.models):
            mode = form[at("mode", model)].value() or model.mode
            needed = {name for name, _label, _needed in PRICED_BY.get(mode, ())}
            rows.append(
                {
                    "model": model,
                    "name": form[at("name", model)],
                    "mode": form[at("mode", model)],
                    "prices": [(label, form[at(field, model)], field in needed) for field, label in price_fields()],
                    "preview": previews[number],
                    "further": _further(model),
                }
            )
        used = {field for row in rows for (field, _label), price in zip(price_fields(), row["prices"], strict=True) if price[2]}
        columns = [(field, label) for field, label in price_fields() if field in used]
        for row in rows:
            row["prices"] = [
                price for (field, _label), price in zip(price_fields(), row["prices"], strict=True) if field in used
            ]
        multiplier, _credit = least_margin()
        return {"rows": rows, "columns": [label for _field, label in columns], "multiplier": decimal_text(multiplier)}


def _further(model: ListedModel) -> str:
    shown = {name for name, _label in price_fields()}
    told = [name for name in (*model.price.columns, *model.price.units) if name not in shown]
    told += [f"> {number_text(int(tier['threshold']))}" for tier in model.price.tiers]
    return ", ".join(told)


class ProviderSummaryPage(Page):
    name = "summary"
    title = _("Summary")
    explanation = _("Nothing is written before you press the button; then all of it is, at once.")
    template = "admin/wizards/provider_summary.html"
    submit = _("Connect the provider")

    def form(self, wizard: Wizard, data: QueryDict | None) -> ReasonForm:
        return ReasonForm(data)

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, ProviderWizard)
        who, connection = wizard.who(), wizard.cleaned("connection")
        models = wizard.new_models()
        secret = wizard.draft.secret if wizard.draft is not None else ""
        return {
            "facts": [
                (_("Provider"), who.name if who.row is None else gettext("%s, which is here") % who.name),
                (_("Address"), who.base_url),
                (_("Protocol"), who.protocol),
                (_("Key"), f"{connection['label']} …{secret[-4:]}" if len(secret) >= 12 else connection["label"]),
                (
                    _("Tried"),
                    gettext("%(model)s answered in %(ms)s ms")
                    % {"model": wizard.given["tried"]["called"], "ms": wizard.given["tried"]["latency_ms"]},
                ),
            ],
            "models": [
                (model, str(AiModel.Mode(model.mode).label), told_price(model), margin_preview(model), priced(model))
                for model in models
            ],
            "unpriced": [model.name for model in models if not priced(model)],
        }


def told_price(model: NewModel) -> str:
    """The fields of a price that count for its kind."""
    given = {**model.price.columns, **model.price.units}
    told = [f"{label} {decimal_text(given[name])}" for name, label, _needed in PRICED_BY[model.mode] if name in given]
    return " · ".join(told)


class ProviderWizard(Wizard):
    """Connects a provider."""

    kind = "provider"
    title = _("Connect a provider")
    pages = (ConnectionPage(), ModelsPage(), PricesPage(), ProviderSummaryPage())

    def __init__(self, request: HttpRequest, draft: ConsoleDraft | None) -> None:
        super().__init__(request, draft)
        # What the try of this very request brought.
        self.tried: Tried | None = None

    @classmethod
    def may(cls, request: HttpRequest) -> bool:
        needed = ("add_provider", "add_providercredential", "add_aimodel", "add_modelprofile", "add_modelprice")
        return request.user.has_perms([f"routing.{name}" for name in needed])

    def notes(self) -> dict[str, Any]:
        """What is kept beside the pages: how the try went, and what the provider lists."""
        if self.tried is None:
            return {}
        return {
            "tried": {
                "called": self.tried.called,
                "latency_ms": self.tried.latency_ms,
                "models": list(self.tried.models),
            }
        }

    def who(self) -> Chosen:
        return chosen(self.cleaned("connection"))

    def listed(self) -> list[ListedModel]:
        return listed_models(self.who().slug, self.given["tried"]["models"])

    def chosen_models(self) -> list[ListedModel]:
        by_name = {model.upstream: model for model in self.listed()}
        return [by_name[name] for name in self.cleaned("models")["chosen"] if name in by_name]

    def new_models(self) -> list[NewModel]:
        self.cleaned("prices")
        page = self.pages[2]
        form = page.form(self, self.kept(page))
        form.is_valid()
        assert isinstance(form, PricesForm)
        return form.wanted()

    def finish(self, draft: ConsoleDraft, actor: Actor, wanted: dict[str, Any]) -> str:
        who, connection = self.who(), self.cleaned("connection")
        provider = provider_connect(
            provider=who.row,
            slug=who.slug,
            name=who.name,
            protocol=who.protocol,
            base_url=who.base_url,
            quirks=who.quirks,
            label=connection["label"],
            secret=draft.secret,
            models=self.new_models(),
            actor=actor,
            reason=wanted["reason"],
        )
        return change_url("routing.provider", provider.pk)

    def done(self) -> Any:
        return _("The provider is connected. Its models can be called within a second.")
