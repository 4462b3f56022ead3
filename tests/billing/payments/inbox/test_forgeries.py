"""Ten thousand webhooks that no gateway sent: all refused in words, none believed, none breaks anything."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import pytest

from billing.models import Event, GatewayWebhook, LedgerTransaction, Payment
from tests.billing.payments.gateways.setups import REFERENCE, SETUPS
from tests.factories import account_make

from .conftest import Gate, send

ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]
EACH = 2000
PAYU_UDFS = ("udf1", "udf2", "udf3", "udf4", "udf5")
PAYU_COVERED = ("hash", "status", *PAYU_UDFS, "email", "firstname", "productinfo", "amount", "txnid", "key")
NASTY = ["\\u0000", "\\ud800", "é", "𝕏", "'; DROP TABLE billing_payment; --", "[" * 2000, "9" * 400, "null", "\\", '"']


@pytest.fixture(autouse=True)
def nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*what: object) -> None:
        raise AssertionError(f"{what} was handed over")

    monkeypatch.setattr("billing.payments.inbox.receiving.task_enqueue", refuse)


def mutations(body: bytes, headers: dict[str, str], chance: random.Random) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Endless variations of a true webhook, each of them false."""
    while True:
        forged, forged_headers = bytearray(body), dict(headers)
        kind = chance.randrange(7)
        if kind == 0:
            del forged[chance.randrange(len(forged)) :]
        elif kind == 1:
            position = chance.randrange(len(forged))
            forged[position] ^= 1 << chance.randrange(8)
        elif kind == 2:
            position = chance.randrange(len(forged))
            forged[position:position] = chance.choice(NASTY).encode()
        elif kind == 3:
            forged = bytearray(chance.randbytes(chance.randrange(2000)))
        elif kind == 4:
            names = [name for name in forged_headers if name != "content-type"]
            for name in names:
                forged_headers[name] = chance.choice(["", "x", "t=1,v1=x", forged_headers[name][::-1], "é" * 50])
            forged += b" " if not names else b""
        elif kind == 5:
            forged_headers = {
                "content-type": chance.choice(["text/plain", "application/json", "multipart/form-data; boundary=x"])
            }
            forged += b"&" if b"=" in forged[:20] else b" "
            forged = forged.replace(b"hash=", b"hush=")
        else:
            forged = bytearray(json.dumps({"id": chance.choice(NASTY), "type": "checkout.paid", "data": {}}).encode())
        if claims(bytes(forged)) != claims(body) or forged_headers != headers:
            yield bytes(forged), forged_headers


def claims(body: bytes) -> object:
    """What a signature covers: all of the body, of PayU's form only some fields."""
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
    except ValueError:
        return body
    # The hash may come in capitals.
    fields["hash"] = fields.get("hash", "").lower()
    # An empty field and a missing one are hashed alike.
    return [fields.get(name, "") for name in PAYU_COVERED] if "txnid" in fields else body


def waiting_payment(slug: str) -> Payment:
    """The payment that the webhooks seem to be about."""
    money = SETUPS[slug].money
    return Payment.objects.create(
        account=account_make(),
        reference=REFERENCE,
        gateway=slug,
        mode="test",
        state="pending",
        purpose="topup",
        amount=money.amount,
        currency=money.currency,
    )


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ALL)
def test_nothing_forged_is_believed_and_nothing_breaks(gate_of: Callable[[str], Gate], slug: str) -> None:
    gate = gate_of(slug)
    gate.pay()
    waiting = waiting_payment(slug)
    events = Event.objects.count()
    delivery = gate.fake.outbox[-1]
    forgeries = mutations(delivery.body, delivery.signed(), random.Random(f"forged {slug}"))

    statuses = Counter(send(f"/api/payment/webhook/{slug}", *next(forgeries)).status_code for _ in range(EACH))

    assert statuses == {400: EACH}
    assert GatewayWebhook.objects.filter(verified_at__isnull=False).count() == 0
    assert GatewayWebhook.objects.filter(state="rejected").count() == EACH
    waiting.refresh_from_db()
    assert (waiting.state, Event.objects.count(), LedgerTransaction.objects.count()) == ("pending", events, 0)
