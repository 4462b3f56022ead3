"""What customers come for, walked in a browser: from signing up to a first answer, and from a plan to its payment."""

import pytest
from playwright.sync_api import expect

from billing.accounts.models import User
from billing.ledger.models import UsageRecord
from billing.payments.models import Payment

from .conftest import PASSWORD, Site, too_wide

WIDTHS = pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
LANGUAGES = pytest.mark.parametrize("language", ["en", "fr", "ar"])


@LANGUAGES
@WIDTHS
def test_from_signing_up_to_the_first_streamed_answer(site: Site, language: str, phone: bool) -> None:
    page = site.page(language=language, phone=phone)
    email = f"{language}-{phone}@example.com".lower()

    page.goto("/billing/sign-up")
    page.fill("[name=name]", "Lina")
    page.fill("[name=email]", email)
    page.fill("[name=password]", PASSWORD)
    page.click("form button.button-main")
    page.wait_for_url("**/billing/")
    page.goto("/billing/playground")
    page.fill("#prompt", "Bonjour !")
    page.click("#send")
    expect(page.locator("[data-figure=request] a")).to_have_count(1)

    user = User.objects.get(email=email)
    call = UsageRecord.objects.get(account=user.personal_account)
    assert page.locator("html").get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
    assert user.language == language
    assert "simulator" in page.locator(".bubble").last.inner_text()
    assert page.locator("[data-figure=request] a").get_attribute("href") == f"/billing/usage/{call.pk}"
    assert page.locator("[data-figure=cost]").inner_text().split(": ")[1].startswith("1 ")
    assert (call.end, call.quota_units, call.streamed) == ("complete", 1, True)
    assert too_wide(page) == 0
    assert site.errors == []


@pytest.mark.parametrize(("language", "plan"), [("en", "Pro"), ("fr", "Pro"), ("ar", "برو")])
def test_a_plan_is_bought_at_the_gateway_and_active(site: Site, language: str, plan: str) -> None:
    customer = site.customer(language=language)
    page = site.signed_in(customer, language=language)

    page.goto("/billing/plans/pro")
    page.click("#quote button.button-main")
    page.wait_for_url("**/pay/**")
    page.click("button[value=pay], input[value=pay]")
    page.wait_for_url("**/payment/return/**")
    expect(page.locator("[data-state=succeeded]")).to_have_count(1)
    page.goto("/billing/subscription")

    payment = Payment.objects.get(account=customer.account)
    live = customer.account.subscriptions.get(state="active")
    assert (payment.gateway, payment.state, payment.amount, payment.currency) == ("chargily", "succeeded", 2590, "DZD")
    assert live.plan.code == "pro"
    assert page.locator("main h2").first.inner_text() == plan
    assert site.errors == []


def test_a_key_made_in_the_panel_calls_the_gateway_and_is_limited_there(site: Site) -> None:
    customer = site.customer()
    page = site.signed_in(customer)

    page.goto("/billing/keys")
    page.fill("[name=name]", "notebook")
    page.click("text=Create key")
    secret = page.locator("#secret").inner_text()
    answered = page.request.post(
        "/v1/chat/completions",
        headers={"Authorization": f"Bearer {secret}"},
        data={"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
    )
    page.click("text=Set limits")
    page.fill("[name=monthly_credits]", "25")
    page.click("text=Save")

    key = customer.account.api_keys.get()
    assert answered.status == 200
    assert (key.name, key.monthly_credits) == ("notebook", 25)
    assert site.errors == []


def test_the_history_is_filtered_without_leaving_the_page(site: Site) -> None:
    customer = site.customer()
    page = site.signed_in(customer)
    page.goto("/billing/playground")
    page.fill("#prompt", "Hello")
    page.click("#send")
    expect(page.locator("[data-figure=request] a")).to_have_count(1)

    page.goto("/billing/usage")
    expect(page.locator("#rows tbody tr")).to_have_count(1)
    page.select_option("[name=end]", "refused")
    expect(page.locator("#rows .empty")).to_have_count(1)
    filtered = page.url
    page.select_option("[name=end]", "complete")
    expect(page.locator("#rows tbody tr")).to_have_count(1)

    assert "end=refused" in filtered
    assert site.errors == []


def test_the_menu_opens_on_a_phone_by_keyboard(site: Site) -> None:
    page = site.signed_in(site.customer(), phone=True)
    menu = page.locator("#menu")

    expect(menu).to_be_hidden()
    page.focus("[data-menu]")
    page.keyboard.press("Enter")
    expect(menu).to_be_visible()
    page.click("#menu >> text=API keys")

    page.wait_for_url("**/billing/keys")
    assert site.errors == []
