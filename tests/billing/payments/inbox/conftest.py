import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client

from tests.billing.payments.gateways.setups import SETUPS, request_for
from tests.fakes.server import Delivery


@dataclass
class Gate:
    """A gateway's fake, its adapter as configured, and a way to post what it sends without a network."""

    fake: Any
    adapter: Any
    slug: str

    def pay(self, **changes: Any) -> Any:
        """A checkout that its buyer paid, captured; the webhooks wait in the fake's outbox."""
        checkout = self.adapter.create_checkout(request_for(SETUPS[self.slug], **changes))
        self.fake.act(checkout.url, "pay", form_action=checkout.form_action, form=checkout.form_fields)
        payment = self.adapter.fetch_payment(checkout_id=checkout.checkout_id)
        return self.adapter.capture_payment(payment) if payment.state == "authorised" else payment

    def post(self, delivery: Delivery, *, path: str = "", **changes: Any) -> Any:
        headers = delivery.signed() | changes.pop("headers", {})
        body = changes.pop("body", delivery.body)
        return send(path or f"/api/payment/webhook/{self.slug}", body, headers)


_local = threading.local()


def send(path: str, body: bytes, headers: dict[str, str]) -> Any:
    content_type = headers.get("content-type", "application/json")
    extra = {name: value for name, value in headers.items() if name != "content-type"}
    # A client loads its middleware once; threads share none.
    client = _local.client = getattr(_local, "client", None) or Client()
    return client.post(path, data=body, content_type=content_type, headers=extra)


@pytest.fixture
def gate_of(fake_of: Callable[[str], Any]) -> Callable[[str], Gate]:
    def make(slug: str) -> Gate:
        from billing.payments.configuration import gateway_build

        fake = fake_of(slug)
        fake.webhook_url = f"http://127.0.0.1:9/api/payment/webhook/{slug}"
        return Gate(fake, gateway_build(slug), slug)

    return make
