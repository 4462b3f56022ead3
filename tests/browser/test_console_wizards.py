"""An operator's wizards in a browser: a provider is connected and answers, a plan is published and a customer sees it."""

import pytest
from playwright.sync_api import Page, expect

from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.ledger.models import UsageRecord
from billing.plans.models import Plan
from billing.subscriptions.changes import plan_change
from billing.subscriptions.models import Subscription
from routing.models import Provider
from tests.live.conftest import Live

from .conftest import AXE, Site, told, too_wide

LANGUAGES = pytest.mark.parametrize(("language", "phone"), [("en", False), ("fr", True), ("ar", True)])


def looked_at(page: Page, found: dict[str, list[str]], name: str) -> None:
    """Note what axe-core calls serious in the page's own part, and how much wider than the window it is."""
    page.evaluate(AXE)
    # Preloading, it would put the admin's style sheets into the page, which the page's policy refuses.
    result = page.evaluate("axe.run('#content', {resultTypes: ['violations'], preload: false})")
    found[name] = [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    if (wide := too_wide(page)) > 0:
        found[name].append(f"{wide} px too wide")


@LANGUAGES
def test_a_provider_is_connected_a_plan_published_and_a_call_goes_through_both(
    site: Site, live: Live, language: str, phone: bool
) -> None:
    slug, code = f"acme-{language}", f"studio-{language}"
    page = site.operator(language=language, phone=phone)
    found: dict[str, list[str]] = {}

    page.goto("/admin/routing/provider/")
    page.click(".object-tools a[href*='/connect/']")
    page.wait_for_url("**/connect/")
    looked_at(page, found, "connection")
    page.fill("[name=name]", "Acme")
    page.fill("[name=slug]", slug)
    page.fill("[name=base_url]", f"{live.simulator_url}/{slug}/v1")
    page.fill("[name=secret]", "sk-acme-0123456789-abcd")
    page.click("[name=_continue]")
    page.wait_for_url("**page=models")
    looked_at(page, found, "models")
    page.check("[name=models][value=simulated-model]")
    page.click("[name=_continue]")
    page.wait_for_url("**page=prices")
    page.fill("[name='name|simulated-model']", f"{slug}-one")
    page.fill("[name='input_per_mtok|simulated-model']", "1")
    page.fill("[name='output_per_mtok|simulated-model']", "4")
    page.click("[name=_look]")
    expect(page.locator(".wizard-margin")).to_contain_text(told(language, "margin %(percent)s %%") % {"percent": "44"})
    looked_at(page, found, "prices")
    page.click("[name=_continue]")
    page.wait_for_url("**page=summary")
    looked_at(page, found, "summary")
    page.fill("[name=reason]", "a second supplier")
    page.click("[name=_continue]")
    expect(page.locator(".messagelist .success")).to_contain_text(
        told(language, "The provider is connected. Its models can be called within a second.")
    )

    page.goto("/admin/billing/plan/publish/")
    looked_at(page, found, "start")
    page.select_option("[name=based_on]", value=str(Plan.objects.get(code="payg").pk))
    page.click("[name=_continue]")
    page.wait_for_url("**page=terms")
    page.fill("[name=name]", f"Studio {language}")
    page.fill("[name=code]", code)
    looked_at(page, found, "terms")
    page.click("[name=_continue]")
    page.wait_for_url("**page=prices")
    page.fill("[name=prices]", "DZD 0")
    page.fill("[name=period_credits]", "100")
    looked_at(page, found, "plan prices")
    page.click("[name=_continue]")
    page.wait_for_url("**page=models")
    looked_at(page, found, "plan models")
    page.click("[name=_continue]")
    page.wait_for_url("**page=economics")
    risk = told(language, "A period earns %(earned)s USD and may cost %(cost)s USD: %(because)s.")
    expect(page.locator(".warnings")).to_contain_text(risk.split("%(earned)s")[0])
    looked_at(page, found, "economics")
    page.check("[name=accept_risk]")
    page.fill("[name=reason]", "to try things out")
    page.click("[name=_continue]")
    expect(page.locator(".messagelist .success")).to_contain_text(told(language, "The plan is written."))

    customer = site.customer(language=language)
    panel = site.signed_in(customer, language=language, phone=phone)
    panel.goto("/billing/plans")
    expect(panel.locator("h2", has_text=f"Studio {language}")).to_have_count(1)
    plan = Plan.objects.get(code=code)
    subscription = Subscription.objects.get(account=customer.account, state="active")
    plan_change(subscription=subscription, plan=plan, when="now", actor=SYSTEM)
    _key, secret = api_key_create(account=customer.account, created_by=customer.user, name="notebook", actor=SYSTEM)
    answered = panel.request.post(
        "/v1/chat/completions",
        headers={"Authorization": f"Bearer {secret}"},
        data={"model": f"{slug}-one", "messages": [{"role": "user", "content": "Hello"}]},
    )

    call = UsageRecord.objects.get(account=customer.account)
    assert answered.status == 200, answered.text()
    assert (call.provider, call.model, call.end, call.plan) == (slug, f"{slug}-one", "complete", code)
    assert Provider.objects.get(slug=slug).credentials.get().secret == "sk-acme-0123456789-abcd"
    assert found == {name: [] for name in found}
    assert site.errors == []


@pytest.mark.parametrize(
    ("language", "phone", "amount", "running"),
    [("en", False, "1790", "move"), ("fr", True, "1690", "keep"), ("ar", True, "1890", "keep")],
)
def test_a_price_is_changed_and_a_list_imported(site: Site, language: str, phone: bool, amount: str, running: str) -> None:
    page = site.operator(language=language, phone=phone)
    found: dict[str, list[str]] = {}

    page.goto("/admin/billing/planprice/change-price/")
    looked_at(page, found, "price")
    page.select_option("[name=plan]", value=str(Plan.objects.get(code="student").pk))
    page.fill("[name=currency]", "DZD")
    page.fill("[name=amount]", amount)
    page.check(f"[name=running][value={running}]")
    page.click("[name=_continue]")
    page.wait_for_url("**page=affected")
    looked_at(page, found, "affected")
    page.fill("[name=reason]", "costs rose")
    page.click("[name=_continue]")
    expect(page.locator(".messagelist .success")).to_contain_text(told(language, "The price is written."))

    page.goto("/admin/billing/plan/import/")
    looked_at(page, found, "file")
    rows = f"code,description\nstudent,For students ({language}).\nnobody,x\n".encode()
    page.set_input_files("[name=file]", {"name": "plans.csv", "mimeType": "text/csv", "buffer": rows})
    page.click("[name=_continue]")
    page.wait_for_url("**page=preview")
    expect(page.locator(".import-counts .state-failed")).to_have_text(f"1 {told(language, 'refused')}")
    looked_at(page, found, "refused")
    page.click("[name=_back]")
    rows = rows.replace(b"nobody,x\n", b"")
    page.set_input_files("[name=file]", {"name": "plans.csv", "mimeType": "text/csv", "buffer": rows})
    page.click("[name=_continue]")
    page.wait_for_url("**page=preview")
    expect(page.locator(".import-counts .state-passed")).to_have_text(f"1 {told(language, 'changed')}")
    looked_at(page, found, "preview")
    page.fill("[name=reason]", "new words")
    page.click("[name=_continue]")
    expect(page.locator(".messagelist .success")).to_contain_text(told(language, "The list is imported."))

    assert Plan.objects.get(code="student").description == f"For students ({language})."
    assert found == {name: [] for name in found}
    assert site.errors == []
