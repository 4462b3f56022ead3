"""axe-core finds no serious fault on any page of the panel, no page is wider than a phone, and no console has an error."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from playwright.sync_api import Page

from billing.accounts.services import api_key_create, user_actor
from billing.events.services import SYSTEM
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant
from billing.subscriptions.onboarding import Registration
from billing.webhooks.services import endpoint_create, endpoint_test
from iafactory.common.ids import uuid7
from tests.dashboard.conftest import call

from .conftest import Site, too_wide

PAGES = (
    *("", "playground", "usage", "usage/{request}", "keys", "keys/{key}", "plans", "plans/pro", "credits"),
    *("credits/credits-1000", "payments/{payment}", "payment-methods", "invoices", "invoices/{invoice}", "subscription"),
    *(
        "webhooks",
        "webhooks/new",
        "webhooks/{endpoint}",
        "webhooks/{endpoint}/deliveries/{delivery}",
        "team",
        "settings",
        "notices",
    ),
    "nowhere",
)


def filled(site: Site, language: str) -> tuple[Registration, dict[str, str]]:
    """A customer with one of each thing, and the ids that addresses need."""
    from billing.payments.manual import manual_confirm, manual_method, manual_payment_begin
    from billing.payments.topup import topup_draft
    from billing.plans.models import CreditPack

    customer = site.customer(language=language)
    account, actor = customer.account, user_actor(customer.user)
    credits_grant(
        account_id=account.pk,
        amount=Decimal(100),
        kind=Lot.Kind.PURCHASE,
        source="Pack",
        reason="test",
        actor=SYSTEM,
        idempotency_key=str(uuid7()),
    )
    key, _ = api_key_create(account=account, created_by=customer.user, name="notebook", actor=actor)
    endpoint, _ = endpoint_create(account=account, url="https://hooks.example/in", event_types=["key.created"], actor=actor)
    pack = CreditPack.objects.get(code="credits-1000")
    method = manual_method(account=account, currency="DZD", code="ccp")
    paid, waiting = (
        manual_payment_begin(invoice=topup_draft(account=account, pack=pack), method=method, purpose="topup", actor=actor)
        for _ in range(2)
    )
    confirmed = manual_confirm(payment=paid, actor=SYSTEM, reason="seen")
    assert confirmed.invoice is not None
    return customer, {
        "request": str(call(account, api_key_id=key.pk)),
        "key": str(key.pk),
        "payment": waiting.reference,
        "invoice": str(confirmed.invoice.number),
        "endpoint": str(endpoint.pk),
        "delivery": str(endpoint_test(endpoint=endpoint).pk),
    }


@pytest.mark.parametrize(("language", "dark", "phone"), [("en", False, False), ("fr", True, False), ("ar", False, True)])
def test_no_page_of_the_panel_has_a_serious_fault(
    site: Site, serious_faults: Callable[[Page], list[str]], language: str, dark: bool, phone: bool
) -> None:
    customer, ids = filled(site, language)
    page = site.signed_in(customer, language=language, phone=phone)
    page.emulate_media(color_scheme="dark" if dark else "light")

    found = {}
    for address in PAGES:
        page.goto(f"/billing/{address.format(**ids)}")
        wide = too_wide(page)
        found[address] = serious_faults(page) + ([f"{wide} px too wide"] if wide > 0 else [])

    not_found = [error for error in site.errors if "/billing/nowhere" in error]
    assert found == {address: [] for address in PAGES}
    assert [error for error in site.errors if error not in not_found] == []


@pytest.mark.parametrize("address", ["/billing/sign-in", "/billing/sign-up", "/auth/password-reset", "/"])
@pytest.mark.parametrize("language", ["en", "ar"])
def test_no_page_for_everybody_has_a_serious_fault(
    site: Site, serious_faults: Callable[[Page], list[str]], address: str, language: str
) -> None:
    page = site.page(language=language, phone=True)

    page.goto(address)

    assert serious_faults(page) == []
    assert too_wide(page) == 0
    assert site.errors == []


def test_the_reference_of_the_api_asks_no_other_host(site: Site) -> None:
    page = site.page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto("/redoc")
    page.wait_for_selector(".menu-content a[href*='redocly']")

    assert [address for address in asked if not address.startswith((site.url, "blob:", "data:"))] == []
    assert site.errors == []
