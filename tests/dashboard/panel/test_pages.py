"""Every page of the panel: for its owner, for strangers, for nobody; and what none of them may contain."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver

from billing.accounts.models import Account, User
from billing.accounts.services import api_key_create, user_actor
from billing.events.services import SYSTEM
from billing.payments.manual import manual_confirm
from billing.payments.models import Payment
from billing.webhooks.models import WebhookDelivery
from billing.webhooks.services import endpoint_create, endpoint_test
from tests.dashboard.conftest import call

from .conftest import grant

INLINE = re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")|\sstyle=|\son\w+=[\"']|<style|javascript:", re.I)
POLICY = {
    *("default-src 'self'", "img-src 'self' data:", "object-src 'none'", "base-uri 'none'", "form-action 'self'"),
    "frame-ancestors 'none'",
}
OPEN = ("/billing/sign-in", "/billing/sign-up")
# What a page leads to or does without being a page itself.
NO_PAGES = {
    *("sign-in", "sign-up", "sign-out", "language", "verification-resend", "account-choose", "admin-page", "key-rotate"),
    *("key-revoke", "playground-token", "playground-price", "subscription-cancel", "subscription-pause", "subscription-resume"),
    *("change-forget", "card-remove", "auto-renewal", "invoice-pay", "impersonation-end"),
    *("webhook-do", "team-new", "member-do", "invitation-revoke", "invoice-pdf"),
}


class Things:
    """One of each thing that has a page, all Sara's."""

    def __init__(self, account: Account, user: User, panel: Client) -> None:
        grant(account, 100)
        self.key, _ = api_key_create(account=account, created_by=user, name="notebook", actor=user_actor(user))
        self.endpoint, _ = endpoint_create(
            account=account, url="https://hooks.example/in", event_types=["key.created"], actor=user_actor(user)
        )
        self.delivery: WebhookDelivery = endpoint_test(endpoint=self.endpoint)
        self.request_id = call(account, api_key_id=self.key.pk)
        panel.post("/billing/credits/credits-1000", {"way": "manual:ccp"})
        paid = manual_confirm(payment=Payment.objects.get(account=account), actor=SYSTEM, reason="seen")
        self.invoice = paid.invoice
        panel.post("/billing/plans/pro", {"way": "manual:ccp", "kind": "buy"})
        self.payment = Payment.objects.filter(account=account).latest("created_at")

    def address(self, name: str) -> str:
        words = {
            "key": f"keys/{self.key.pk}",
            "request": f"usage/{self.request_id}",
            "plan": "plans/pro",
            "pack": "credits/credits-1000",
            "invoice": f"invoices/{self.invoice.number}",
            "payment": f"payments/{self.payment.reference}",
            "webhook": f"webhooks/{self.endpoint.pk}",
            "delivery": f"webhooks/{self.endpoint.pk}/deliveries/{self.delivery.pk}",
            "webhook-new": "webhooks/new",
            "home": "",
            "invitation": "invitation?token=x",
        }
        return f"/billing/{words.get(name, name)}"


PAGES = sorted(
    pattern.name
    for resolver in get_resolver().url_patterns
    for entry in getattr(resolver, "url_patterns", [])
    if getattr(entry, "namespace", "") == "panel"
    for pattern in entry.url_patterns
    if pattern.name not in NO_PAGES
)


@pytest.fixture
def things(account: Account, user: User, panel: Client) -> Things:
    return Things(account, user, panel)


def get(client: Client, address: str) -> Any:
    return client.get(address)


def untitled(page: str) -> list[str]:
    """Headings and titles that say nothing."""
    return re.findall(r"<h[1-3][^>]*>\s*</h[1-3]>|<title>\s*(?:—|</title>)", page)


def policy_of(response: Any) -> set[str]:
    return set(response.headers["Content-Security-Policy"].split("; "))


@pytest.mark.parametrize("language", ["fr", "ar"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_for_its_owner_and_holds_nothing_inline(
    things: Things, panel: Client, user: User, name: str, language: str
) -> None:
    User.objects.filter(pk=user.pk).update(language=language)

    response = get(panel, things.address(name))

    page = response.content.decode()
    assert response.status_code == (400 if name == "invitation" else 200)
    assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in page
    assert INLINE.findall(page) == []
    assert untitled(page) == []
    assert policy_of(response) == POLICY
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_others_to_sign_in(things: Things, name: str) -> None:
    address = things.address(name)

    response = get(Client(), address)

    assert response.status_code == 302
    assert response.headers["Location"].startswith("/billing/sign-in?next=%2Fbilling")


@pytest.mark.parametrize("name", ["key", "request", "payment", "webhook", "delivery", "invoice"])
def test_what_is_another_accounts_is_not_there(things: Things, stranger: Client, name: str) -> None:
    response = get(stranger, things.address(name))

    assert response.status_code == 404
    assert "There is no such thing here." in response.content.decode()


@pytest.mark.parametrize(
    "deed",
    ["key-rotate", "key-revoke", "webhook-test", "webhook-delete", "webhook-rotate", "invoice-pdf", "cancel", "proof"],
)
def test_nothing_is_done_to_what_is_another_accounts(things: Things, account: Account, stranger: Client, deed: str) -> None:
    subscription = account.subscriptions.filter(state="active").get()
    addresses = {
        "key-rotate": f"/billing/keys/{things.key.pk}/rotate",
        "key-revoke": f"/billing/keys/{things.key.pk}/revoke",
        "webhook-test": f"/billing/webhooks/{things.endpoint.pk}/do/test",
        "webhook-delete": f"/billing/webhooks/{things.endpoint.pk}/do/delete",
        "webhook-rotate": f"/billing/webhooks/{things.endpoint.pk}/do/rotate",
        "invoice-pdf": f"/billing/invoices/{things.invoice.number}/pdf",
        "cancel": f"/billing/subscription/{subscription.pk}/cancel",
        "proof": f"/billing/payments/{things.payment.reference}",
    }

    response = stranger.get(addresses[deed]) if deed == "invoice-pdf" else stranger.post(addresses[deed])

    things.key.refresh_from_db()
    things.endpoint.refresh_from_db()
    subscription.refresh_from_db()
    assert response.status_code == 404
    assert (things.key.revoked_at, things.key.replaced_by) == (None, None)
    assert WebhookDelivery.objects.filter(endpoint=things.endpoint).count() == 1
    assert subscription.state == "active"


def test_the_overview_says_what_is_left_and_what_it_went_on(things: Things, panel: Client) -> None:
    page = get(panel, "/billing/").content.decode()

    assert 'data-figure="available">1,098.65<' in page
    assert "llama-3.3-70b" in page
    assert "notebook" in page
    assert "<strong>1.35</strong> credits" in page


def test_the_history_filters_and_gives_a_table(things: Things, panel: Client) -> None:
    shown = get(panel, "/billing/usage?model=llama-3.3-70b").content.decode()
    empty = get(panel, "/billing/usage?model=gpt-4o").content.decode()
    table = get(panel, "/billing/usage?format=csv")

    assert "1.35" in shown
    assert "No call fits these filters." in empty
    rows = b"".join(table.streaming_content).decode().splitlines()
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert [row.split(",")[0] for row in rows] == ["request_id", str(things.request_id)]


def test_htmx_gets_the_rows_alone(things: Things, panel: Client) -> None:
    page = panel.get("/billing/usage", headers={"hx-request": "true"}).content.decode()

    assert page.lstrip().startswith("<table")


def test_a_call_is_explained_to_the_last_credit(things: Things, panel: Client) -> None:
    page = get(panel, things.address("request")).content.decode()

    assert "1000 input tokens × 2.5 USD a million = 0.0025 USD" in page
    assert "Charged: 1.35 credits" in page


def test_the_documents_pdf_is_the_apis(things: Things, panel: Client) -> None:
    pdf = get(panel, f"/billing/invoices/{things.invoice.number}/pdf")

    assert pdf.headers["Content-Type"] == "application/pdf"
    assert pdf.content.startswith(b"%PDF-")


@pytest.mark.parametrize("address", ["/", "/docs", "/admin/login/", "/auth/password-reset", *OPEN])
def test_pages_for_everybody_hold_nothing_inline_either(catalogue: None, address: str) -> None:
    response = get(Client(), address)

    assert response.status_code == 200
    assert policy_of(response) == POLICY
    assert INLINE.findall(response.content.decode()) == []
    assert untitled(response.content.decode()) == []


def test_redoc_may_make_its_own_two_styles_and_nothing_else_inline(catalogue: None) -> None:
    response = get(Client(), "/redoc")

    styles = next(rule for rule in policy_of(response) if rule.startswith("style-src"))
    assert policy_of(response) == POLICY | {styles, "worker-src 'self' blob:"}
    assert re.sub(r"'sha256-[\w+/=]+'", "hash", styles) == "style-src 'self' hash hash"
    assert INLINE.findall(response.content.decode()) == []
