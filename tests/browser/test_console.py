"""The console as a whole in a browser: every list and page of its own without a serious fault, and a budget raised."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.db.models import Model
from django.urls import reverse
from playwright.sync_api import Page, expect

from billing.accounts.models import User
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_switch
from routing.models import Budget
from tests.live.conftest import Live

from .conftest import Site
from .test_operator import bought

SPECIAL = ("index", "losses", "search", "password_change", "two_factor_set_up")
# What an operator looks at most, for the languages and the phone.
MAIN = ("billing_account", "billing_usagerecord", "billing_payment", "billing_invoice", "billing_plan", "routing_provider")


def lists() -> dict[str, str]:
    """Name to address of every list."""

    def name(model: type[Model]) -> str:
        return f"{model._meta.app_label}_{model._meta.model_name}"

    return {name(model): reverse(f"admin:{name(model)}_changelist") for model in admin.site._registry}


def special() -> dict[str, str]:
    """Name to address of the console's own pages."""
    return {name: reverse(f"admin:{name}") for name in SPECIAL} | {"found": f"{reverse('admin:search')}?q=example.com"}


def faults(site: Site, page: Page, addresses: dict[str, str], look: Callable[[Page], list[str]]) -> dict[str, list[str]]:
    """What is wrong with pages, by name; those without a fault are left out."""
    found = {}
    for name, address in addresses.items():
        page.goto(address)
        wrong = list(site.errors)
        wrong += look(page)
        # The look itself offends against the page's policy.
        page.goto("about:blank")
        site.errors.clear()
        if wrong:
            found[name] = wrong
    return found


def test_no_list_of_the_console_has_a_serious_fault(filled: Site, serious_faults: Callable[[Page], list[str]]) -> None:
    page = filled.contexts[0].pages[0]

    found = faults(filled, page, lists() | special(), serious_faults)

    assert found == {}


# How much wider a list's rows are than the room they have, in pixels, and the columns that take most of it.
TOO_WIDE = """() => {
    const rows = document.querySelector('#changelist .results');
    if (!rows) return null;
    const more = rows.scrollWidth - rows.clientWidth;
    const columns = [...rows.querySelectorAll('thead th')].map((th) => [th.offsetWidth, th.innerText.trim()]);
    columns.sort((a, b) => b[0] - a[0]);
    return [more, columns.slice(0, 6).map((column) => column.join(' ')).join(', ')];
}"""


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_no_list_of_the_console_scrolls_sideways_on_a_small_laptop(filled: Site, operator: User, language: str) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)
    page = filled.contexts[0].pages[0]
    page.set_viewport_size({"width": 1280, "height": 800})

    found = {}
    for name, address in lists().items():
        page.goto(address)
        if wide := page.evaluate(TOO_WIDE):
            found[name] = wide

    assert len(found) > 60
    assert [f"{name} {wide}" for name, wide in found.items() if wide[0] > 0] == []


def forms() -> dict[str, str]:
    """Name to address of the page that adds an object, and of the page of one that is there, for every list."""
    found = {}
    for model, model_admin in admin.site._registry.items():
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        row = model._default_manager.order_by("-pk").first()
        if row is not None:
            found[f"{name} change"] = reverse(f"admin:{name}_change", args=[row.pk])
        if type(model_admin).has_add_permission is ModelAdmin.has_add_permission:
            found[f"{name} add"] = reverse(f"admin:{name}_add")
    return found


def test_no_form_of_the_console_has_a_serious_fault(filled: Site, serious_faults: Callable[[Page], list[str]]) -> None:
    page = filled.contexts[0].pages[0]

    found = faults(filled, page, forms(), serious_faults)

    assert found == {}


@pytest.mark.parametrize(("language", "dark", "phone"), [("fr", True, False), ("ar", False, False), ("ar", True, True)])
def test_the_main_pages_have_no_serious_fault_in_other_languages(
    site: Site, serious_faults: Callable[[Page], list[str]], language: str, dark: bool, phone: bool
) -> None:
    bought(site)
    page = site.operator(language=language, phone=phone)
    page.emulate_media(color_scheme="dark" if dark else "light")
    main = {name: address for name, address in lists().items() if name in MAIN}

    found = faults(site, page, main | special(), serious_faults)

    page.goto(reverse("admin:index"))
    assert page.locator("html").get_attribute("lang") == language
    assert found == {}


@pytest.mark.parametrize(("language", "phone"), [("en", False), ("fr", True), ("ar", False)])
def test_a_spent_budget_is_raised_and_calls_pass_again(live: Live, site: Site, language: str, phone: bool) -> None:
    product = Live(site.url, live.simulator_url, live.web)
    customer = bought(site)
    subscription_switch(account=customer.account, plan=Plan.objects.get(code="payg"), actor=SYSTEM)
    _key, secret = api_key_create(account=customer.account, created_by=customer.user, name="notebook", actor=SYSTEM)
    page = site.operator(language=language, phone=phone)
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}

    def limit(amount: str) -> None:
        budget, _made = Budget.objects.get_or_create(provider=None, defaults={"daily_limit_usd": Decimal(50)})
        page.goto(reverse("admin:routing_budget_change", args=[budget.pk]))
        page.fill("[name=daily_limit_usd]", amount)
        page.fill("[name=monthly_limit_usd]", "")
        page.fill("[name=reason]", "the month's plan")
        page.click("[name=_save]")
        expect(page.locator(".messagelist .success")).to_have_count(1)

    def call() -> tuple[int, str]:
        answer = page.request.post("/v1/chat/completions", headers={"Authorization": f"Bearer {secret}"}, data=body)
        return answer.status, "" if answer.ok else answer.json()["error"]["code"]

    limit("0.000000001")
    product.catch_up()
    refused = call()
    limit("75")
    product.catch_up()
    answered = call()
    page.goto(reverse("admin:index"))

    assert refused == (503, "budget_exhausted")
    assert answered == (200, "")
    budget = Budget.objects.get(provider=None)
    event = Event.objects.filter(kind="budget.changed", object_id=str(budget.pk)).latest("at")
    assert (event.before["daily_limit_usd"], event.after["daily_limit_usd"], event.reason) == (
        "0.000000001",
        "75",
        "the month's plan",
    )
    assert event.actor_label.endswith("@operators.example")
    assert site.errors == []
