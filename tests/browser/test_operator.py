"""What operators do with one customer, walked in a browser, and what the customer sees of it."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from playwright.sync_api import Page, expect

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.ledger.models import Lot
from billing.payments.manual import manual_confirm, manual_method, manual_payment_begin
from billing.payments.models import Refund
from billing.payments.topup import topup_draft
from billing.plans.models import CreditPack
from billing.subscriptions.onboarding import Registration
from dashboard.impersonation.models import Impersonation
from tests.dashboard.conftest import call

from .conftest import Site, told, too_wide


def bought(site: Site, *, language: str = "en") -> Registration:
    """A customer who paid a pack of 1,000 credits by transfer, and called once."""
    customer = site.customer(language=language)
    account = customer.account
    method = manual_method(account=account, currency="DZD", code="ccp")
    draft = topup_draft(account=account, pack=CreditPack.objects.get(code="credits-1000"))
    payment = manual_payment_begin(invoice=draft, method=method, purpose="topup", actor=SYSTEM)
    manual_confirm(payment=payment, actor=SYSTEM, reason="seen")
    call(account)
    return customer


def account_url(account: Account) -> str:
    return f"/admin/billing/account/{account.pk}/change/"


def confirm(page: Page, reason: str) -> None:
    """Say why, look at what will happen, and do it."""
    page.fill("[name=reason]", reason)
    page.click("[name=_continue]")
    page.click("[name=_confirm]")


@pytest.mark.parametrize(("language", "phone"), [("en", False), ("fr", True), ("ar", True)])
def test_refund_grant_ban_unban_and_looking_as_the_customer(site: Site, language: str, phone: bool) -> None:
    customer = bought(site, language=language)
    account = customer.account
    panel = site.signed_in(customer, language=language, phone=phone)
    page = site.operator(language=language, phone=phone)
    wide: dict[str, int] = {}

    page.goto(account_url(account))
    wide["account"] = too_wide(page)
    page.click("#payments a[href*='/refund/']")
    page.check("[name=by_hand]")
    wide["refund"] = too_wide(page)
    confirm(page, "asked for it back")
    page.wait_for_url(f"**{account_url(account)}")
    page.click("#refunds tbody a")
    page.wait_for_url("**/refund/**")
    wide["refund asked for"] = too_wide(page)
    page.click("a.button[href$='/do/confirm/']")
    page.fill("[name=reason]", "transfer 17")
    page.click("[name=_continue]")
    expect(page.locator(".state-succeeded")).to_have_count(1)
    note = Invoice.objects.get(account=account, kind="credit_note")
    panel.goto("/billing/invoices")
    wide["customer's invoices"] = too_wide(panel)
    expect(panel.get_by_text(str(note.number)).first).to_be_visible()

    page.goto(account_url(account))
    page.click(".account-actions a[href$='/grant/']")
    page.fill("[name=amount]", "25")
    wide["grant"] = too_wide(page)
    confirm(page, "sorry")
    page.wait_for_url(f"**{account_url(account)}")
    granted = Lot.objects.get(wallet_id=account.pk, kind="bonus").amount

    page.click(".account-actions a[href$='/block/']")
    page.fill("[name=reason]", "spam")
    wide["block"] = too_wide(page)
    page.click("[name=_continue]")
    expect(page.locator(".account-top .state-blocked")).to_have_text(told(language, "Blocked"))
    page.click(".account-actions a[href$='/unblock/']")
    page.fill("[name=reason]", "a mistake")
    page.click("[name=_continue]")
    expect(page.locator(".account-top .state-active")).to_have_text(told(language, "Active"))

    page.click(".account-actions a[href$='/log-in-as/']")
    confirm(page, "ticket 4711")
    page.wait_for_url("**/billing/")
    wide["seen as the customer"] = too_wide(page)
    banner = page.locator(".seen-as")
    expect(banner).to_contain_text(customer.user.email)
    expect(banner.locator("button")).to_have_text(told(language, "End this view"))
    page.goto("/billing/invoices")
    expect(page.locator(".seen-as")).to_have_count(1)
    expect(page.get_by_text(str(note.number)).first).to_be_visible()
    page.click(".seen-as button")
    page.wait_for_url(f"**{account_url(account)}")
    expect(page.locator("#timeline [data-kind='impersonation.ended']")).to_have_count(1)

    assert page.locator("html").get_attribute("lang") == language
    assert (Refund.objects.get(payment__account=account).state, granted) == ("succeeded", Decimal(25))
    kinds = set(Event.objects.filter(account_id=account.pk, actor_kind="operator").values_list("kind", flat=True))
    assert {"credits.granted", "account.blocked", "account.unblocked", "refund.requested", "impersonation.began"} <= kinds
    assert Impersonation.objects.get(account=account).ending == "operator"
    assert wide == dict.fromkeys(wide, 0)
    assert site.errors == []


@pytest.mark.parametrize(("dark", "phone"), [(False, False), (True, False), (False, True)], ids=["light", "dark", "phone"])
def test_the_account_page_has_no_serious_fault(
    site: Site, serious_faults: Callable[[Page], list[str]], dark: bool, phone: bool
) -> None:
    customer = bought(site)
    page = site.operator(phone=phone)
    page.emulate_media(color_scheme="dark" if dark else "light")

    page.goto(account_url(customer.account))
    errors = list(site.errors)
    wide = too_wide(page)

    assert (errors, wide) == ([], 0)
    assert page.locator("canvas").count() == 1
    assert serious_faults(page) == []


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_the_panel_seen_as_a_customer_has_no_serious_fault(
    site: Site, serious_faults: Callable[[Page], list[str]], phone: bool
) -> None:
    customer = bought(site)
    page = site.operator(phone=phone)
    page.goto(f"/admin/billing/account/{customer.account.pk}/log-in-as/")
    confirm(page, "ticket 4711")
    page.wait_for_url("**/billing/")

    wide = too_wide(page)

    assert (wide, site.errors) == (0, [])
    assert serious_faults(page) == []
