"""The API's description has every address and every method, and says who needs no credentials."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.generators import SchemaGenerator

METHODS = ("get", "post", "put", "patch", "delete")

# Addresses outside the description, each with its reason.
EXEMPT = {
    "/": "a page for people",
    "/docs": "a page for people: it shows the description",
    "/redoc": "a page for people: it shows the description",
    "/openapi.json": "the description itself",
    "/metrics": "Prometheus' text format",
    "/payment/invoice/{token}": "a page for people: what a mailed link shows of an invoice, and the way to its payment",
    "/payment/pay/{reference}": "a page for people: it takes the buyer to the gateway",
    "/payment/payu/return": "where PayU sends buyers' browsers; programs call POST /api/payment/payu/verify",
    "/payment/return/{reference}": "a page for people: how a payment stands",
    "/payment/subscribe/{plan}": "an older address of /api/payment/subscribe/{plan}",
    "/payment/subscription/status": "an older address of /api/payment/status",
    "/payment/webhook/chargily": "an older address of /api/payment/webhook/{gateway}",
    "/webhooks/paypal": "an older address of /api/payment/webhook/{gateway}",
    "/webhooks/stripe": "an older address of /api/payment/webhook/{gateway}",
    "/auth/verify-email": "the page behind a mailed link; the call is POST /api/auth/verify-email",
    "/auth/password-reset": "the page behind a mailed link; the call is POST /api/auth/password-reset/confirm",
}
# The console and the customers' panel: pages, never an API.
PAGES = ("/admin/", "/billing/")
# What works without an API key or an access token.
OPEN = {
    "GET /api/billing/credit-costs",
    "GET /api/billing/packs",
    "GET /api/billing/plans",
    "GET /health",
    "GET /health/ready",
    "POST /api/auth/login",
    "POST /api/auth/logout",
    "POST /api/auth/password-reset",
    "POST /api/auth/password-reset/confirm",
    "POST /api/auth/refresh",
    "POST /api/auth/register",
    "POST /api/auth/verify-email",
    "POST /api/keys/leaked",
    "POST /api/payment/webhook/{gateway}",
}


def _addresses(patterns: list[URLPattern | URLResolver], prefix: str = "/") -> Iterator[tuple[str, Any]]:
    for entry in patterns:
        address = prefix + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(entry.pattern))
        if isinstance(entry, URLResolver):
            yield from _addresses(entry.url_patterns, address)
        else:
            yield address, entry.callback


ADDRESSES = dict(_addresses(get_resolver().url_patterns))


def _is_second_spelling(address: str) -> bool:
    """`/path/` beside `/path`."""
    return address.endswith("/") and address.rstrip("/") in ADDRESSES


API = {
    address: view
    for address, view in ADDRESSES.items()
    if address not in EXEMPT and not address.startswith(PAGES) and not _is_second_spelling(address)
}


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    return paths


@pytest.fixture(scope="module")
def operations(described: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {address}": operation
        for address, methods in described.items()
        for method, operation in methods.items()
        if method in METHODS
    }


def test_the_walk_sees_addresses_of_every_app() -> None:
    assert {"/v1/chat/completions", "/v1/models/{name}", "/api/keys/{key_id}/rotate", "/", "/admin/login/"} <= set(ADDRESSES)


@pytest.mark.parametrize("address", API)
def test_every_address_is_described_with_all_its_methods(address: str, described: dict[str, dict[str, Any]]) -> None:
    view = getattr(API[address], "view_class", None)

    assert set(described.get(address, {})) & set(METHODS) == {method for method in METHODS if hasattr(view, method)}


def test_what_is_described_exists(described: dict[str, dict[str, Any]]) -> None:
    assert set(described) == set(API)


def test_every_exemption_is_needed() -> None:
    assert set(EXEMPT) <= set(ADDRESSES)


def test_only_the_listed_operations_need_no_credentials(operations: dict[str, dict[str, Any]]) -> None:
    assert {name for name, operation in operations.items() if {} in operation.get("security", [{}])} == OPEN


def test_every_operation_has_an_id_a_tag_and_words(operations: dict[str, dict[str, Any]]) -> None:
    named = [operation["operationId"] for operation in operations.values()]

    assert len(set(named)) == len(operations)
    assert [name for name, operation in operations.items() if not operation.get("tags")] == []
    assert [name for name, o in operations.items() if not (o.get("summary") or o.get("description"))] == []
