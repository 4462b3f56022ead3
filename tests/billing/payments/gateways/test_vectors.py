"""The gateways' signatures, on bytes that their own clients agree with."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billing.payments.gateways.base import Mode, Rejection, WebhookRejected
from billing.payments.gateways.chargily import Chargily
from billing.payments.gateways.paypal import PayPal
from billing.payments.gateways.payu import PayU, command_hash, request_hash, response_hash
from billing.payments.gateways.razorpay import Razorpay
from billing.payments.gateways.stripe import Stripe

FACTS = json.loads((Path(__file__).parents[3] / "data" / "payment_vectors.json").read_text())["gateways"]
# Within every certificate's validity, and where a vector names no clock.
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
STALE_OR_FOREIGN = {"stale": Rejection.STALE, "invalid_cert_url": Rejection.FOREIGN_CERTIFICATE}


def vectors(gateway: str, *kinds: str) -> list[Any]:
    return [pytest.param(one, id=one["id"]) for one in FACTS[gateway]["vectors"] if one["kind"] in kinds]


def verdict(adapter: Any, vector: dict[str, Any]) -> str:
    """What the adapter makes of a webhook: `valid`, or the reason of its rejection."""
    body = vector["body"].encode()
    assert hashlib.sha256(body).hexdigest() == vector["body_sha256"]
    headers = {name.lower(): value for name, value in vector.get("headers", {}).items()}
    now = datetime.fromtimestamp(vector["now"], UTC) if "now" in vector else NOON
    try:
        adapter.read_webhook(body, headers, now=now)
    except WebhookRejected as rejected:
        return rejected.reason.value
    return "valid"


def expected(vector: dict[str, Any], *invalid: Rejection) -> set[str]:
    if vector["expect"] == "valid":
        return {"valid"}
    reason = STALE_OR_FOREIGN.get(vector["expect"])
    return {reason.value} if reason else {one.value for one in invalid}


INVALID = (Rejection.BAD_SIGNATURE, Rejection.NO_SIGNATURE, Rejection.NO_SECRET)


@pytest.mark.parametrize("vector", vectors("chargily", "webhook"))
def test_chargily(vector: dict[str, Any]) -> None:
    adapter = Chargily(mode=Mode.TEST, secret_key=vector["secret"])

    assert verdict(adapter, vector) in expected(vector, *INVALID)


@pytest.mark.parametrize("vector", vectors("stripe", "webhook"))
def test_stripe(vector: dict[str, Any]) -> None:
    adapter = Stripe(mode=Mode.TEST, secret_key="sk_test_x", webhook_secrets=[vector["secret"]])

    assert verdict(adapter, vector) in expected(vector, *INVALID)


@pytest.mark.parametrize("vector", vectors("paypal", "webhook"))
def test_paypal(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = PayPal(
        mode=Mode.TEST,
        client_id="id",
        client_secret="secret",
        webhook_ids=[vector["webhook_id"]],
        certificate_authorities=FACTS["paypal"]["test_root_ca_pem"].encode(),
    )
    # Stands for what the certificate's address answers; a foreign address must not even be asked.
    certificate = FACTS["paypal"]["test_certificate_pem"].encode()
    monkeypatch.setattr(adapter._certificates, "pem", {vector_url(vector): certificate}.__getitem__)

    assert verdict(adapter, vector) in expected(vector, *INVALID)


def vector_url(vector: dict[str, Any]) -> str:
    return str(vector["headers"]["PAYPAL-CERT-URL"])


@pytest.mark.parametrize("vector", vectors("razorpay", "webhook"))
def test_razorpay(vector: dict[str, Any]) -> None:
    adapter = Razorpay(mode=Mode.TEST, key_id="rzp_test_x", key_secret="other", webhook_secrets=[vector["secret"]])

    assert verdict(adapter, vector) in expected(vector, *INVALID)


def returned(adapter: PayU | Razorpay, fields: dict[str, str]) -> str:
    try:
        adapter.read_return(fields)
    except WebhookRejected as rejected:
        return rejected.reason.value
    return "valid"


@pytest.mark.parametrize("vector", vectors("razorpay", "order_payment_callback", "payment_link_callback"))
def test_razorpay_returns(vector: dict[str, Any]) -> None:
    adapter = Razorpay(mode=Mode.TEST, key_id="rzp_test_x", key_secret=vector["secret"], webhook_secrets=["w"])

    assert returned(adapter, vector["params"]) in expected(vector, *INVALID)


@pytest.mark.parametrize("vector", vectors("payu", "request_hash"))
def test_payu_forms(vector: dict[str, Any]) -> None:
    matches = request_hash(vector["params"], vector["salt"]) == vector["hash"]

    assert matches is (vector["expect"] == "valid")


@pytest.mark.parametrize("vector", vectors("payu", "response_hash"))
def test_payu_returns(vector: dict[str, Any]) -> None:
    adapter = PayU(mode=Mode.TEST, merchant_key=vector["key"], salts=[vector["salt"]])

    assert returned(adapter, {**vector["params"], "hash": vector["hash"]}) in expected(vector, *INVALID)
    matches = response_hash(vector["params"], key=vector["key"], salt=vector["salt"]) == vector["hash"]
    assert matches is (vector["expect"] == "valid")


@pytest.mark.parametrize("vector", vectors("payu", "api_hash"))
def test_payu_commands(vector: dict[str, Any]) -> None:
    params = vector["params"]

    matches = (
        command_hash(key=vector["key"], command=params["command"], var1=params["var1"], salt=vector["salt"]) == vector["hash"]
    )

    assert matches is (vector["expect"] == "valid")


@pytest.mark.parametrize("vector", vectors("payu", "webhook_form"))
def test_payu_webhooks(vector: dict[str, Any]) -> None:
    adapter = PayU(mode=Mode.TEST, merchant_key=vector["key"], salts=[vector["salt"]])

    assert verdict(adapter, vector) in expected(vector, *INVALID)


def test_no_kind_of_vector_is_left_out() -> None:
    kinds = {(name, vector["kind"]) for name, gateway in FACTS.items() for vector in gateway["vectors"]}

    assert kinds == {
        ("chargily", "webhook"),
        ("stripe", "webhook"),
        ("paypal", "webhook"),
        ("razorpay", "webhook"),
        ("razorpay", "order_payment_callback"),
        ("razorpay", "payment_link_callback"),
        ("payu", "request_hash"),
        ("payu", "response_hash"),
        ("payu", "api_hash"),
        ("payu", "webhook_form"),
    }


def test_razorpays_basic_authentication() -> None:
    example = FACTS["razorpay"]["basic_auth_example"]

    adapter = Razorpay(mode=Mode.TEST, key_id=example["key_id"], key_secret=example["key_secret"], webhook_secrets=["w"])

    assert adapter._headers() == {"Authorization": example["authorization"]}
