"""Stripe as documented: sessions, intents, refunds, disputes, saved cards, idempotency keys, events with signed timestamps."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any

from .server import Delivery, FakeGateway, Reply, Request, route

VERSION = "2026-10-28.endive"


def nested(form: dict[str, str]) -> dict[str, Any]:
    """`a[b][c]=1` as {"a": {"b": {"c": "1"}}}."""
    tree: dict[str, Any] = {}
    for name, value in form.items():
        keys = [name.partition("[")[0], *re.findall(r"\[([^\]]*)\]", name)]
        place = tree
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    return tree


class FakeStripe(FakeGateway):
    name = "stripe"

    def __init__(
        self, *, secret_key: str = "sk_test_fakeStripeKey", webhook_secret: str = "whsec_fake", livemode: bool = False
    ) -> None:
        super().__init__()
        self.secret_key = secret_key
        self.webhook_secret = webhook_secret
        self.livemode = livemode
        self.sessions: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.cards: dict[str, str] = {}
        self.declining_cards: set[str] = set()
        # What banks answer charges of these cards: code and decline code.
        self.refusals: dict[str, tuple[str, str]] = {}
        # Charges of these cards are decided later, by `settle_charge`.
        self.slow_cards: set[str] = set()
        # What the next card that a buyer uses looks like.
        self.next_card = {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034}
        self.card_faces: dict[str, dict[str, Any]] = {}
        self.refund_status = "succeeded"
        self.list_size = 100
        self._replays: dict[str, tuple[bytes, Reply]] = {}

    def authorise(self, request: Request) -> Reply | None:
        if request.path.startswith("/c/pay/"):
            return None
        if request.headers.get("authorization") != f"Bearer {self.secret_key}":
            return self._error(401, "invalid_request_error", "Invalid API Key provided")
        if request.headers.get("stripe-version") != VERSION:
            return self._error(400, "invalid_request_error", "the fake speaks one version only")
        return None

    def answer(self, request: Request) -> Reply:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        with self.lock:
            if key in self._replays:
                body, reply = self._replays[key]
                if body != request.body:
                    return self._error(400, "idempotency_error", "Keys can only be used with the same parameters")
                return reply
            reply = super().answer(request)
            if key and reply.status not in (400, 401):
                self._replays[key] = (request.body, Reply(reply.status, json.loads(json.dumps(reply.data))))
        reply.headers["request-id"] = self.new_id("req_")
        return reply

    @route("POST", "/v1/checkout/sessions")
    def create(self, request: Request) -> Reply:
        form = nested(request.form)
        if "payment_method_types" in form:
            return self._error(
                400, "invalid_request_error", "no longer supported", code="payment_method_types_no_longer_supported"
            )
        if form.get("locale") not in ("auto", "en", "fr"):
            return self._error(400, "invalid_request_error", "Invalid locale", param="locale")
        [item] = form["line_items"].values()
        price = item["price_data"]
        if not price["unit_amount"].isdigit() or price["currency"] != price["currency"].lower():
            return self._error(400, "invalid_request_error", "Invalid integer", param="line_items[0][price_data][unit_amount]")
        expires_at = int(form.get("expires_at", self.now() + 86400))
        if not self.now() + 1790 <= expires_at <= self.now() + 86410:
            return self._error(400, "invalid_request_error", "expires_at is out of range", param="expires_at")
        prefix = "cs_live_" if self.livemode else "cs_test_"
        session = {
            "id": self.new_id(prefix, 20),
            "object": "checkout.session",
            "amount_total": int(price["unit_amount"]) * int(item["quantity"]),
            "currency": price["currency"],
            "client_reference_id": form.get("client_reference_id"),
            "customer": None,
            "customer_email": form.get("customer_email"),
            "created": self.now(),
            "expires_at": expires_at,
            "livemode": self.livemode,
            "metadata": form.get("metadata", {}),
            "mode": form["mode"],
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "success_url": form["success_url"],
            "cancel_url": form["cancel_url"],
        }
        session["url"] = f"{self.url}/c/pay/{session['id']}"
        self.sessions[session["id"]] = session | {"_intent": form.get("payment_intent_data", {})}
        return Reply(200, session)

    @route("GET", "/v1/checkout/sessions/([^/]+)")
    def read(self, request: Request, session_id: str) -> Reply:
        session = self.sessions.get(session_id)
        if not session:
            return self._missing("checkout.session", session_id)
        if session["status"] == "open" and self.now() > session["expires_at"]:
            self.expire(session_id)
        return Reply(200, self._expanded(session, request))

    @route("POST", "/v1/checkout/sessions/([^/]+)/expire")
    def expire_by_api(self, request: Request, session_id: str) -> Reply:
        session = self.sessions.get(session_id)
        if not session:
            return self._missing("checkout.session", session_id)
        if session["status"] != "open":
            return self._error(400, "invalid_request_error", f"Only open sessions can be expired, not {session['status']}")
        self.expire(session_id)
        return Reply(200, self._public(session))

    @route("GET", "/c/pay/([^/]+)")
    def show(self, request: Request, session_id: str) -> Reply:
        return self.page("Stripe Checkout") if session_id in self.sessions else Reply(404, text="gone")

    @route("POST", "/c/pay/([^/]+)")
    def buyer(self, request: Request, session_id: str) -> Reply:
        session, action = self.sessions[session_id], request.form["action"]
        if session["status"] != "open":
            return Reply(410, text="over")
        if action == "cancel":
            return Reply(303, text="", headers={"location": session["cancel_url"]})
        if action == "decline":
            self._intent_of(session, "requires_payment_method", failed=True)
            return Reply(402, text="Your card was declined.")
        self._intent_of(session, "succeeded" if action == "pay" else "processing")
        session["status"], session["url"] = "complete", None
        session["payment_status"] = "paid" if action == "pay" else "unpaid"
        self._event("checkout.session.completed", self._public(session))
        location = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id)
        return Reply(303, text="", headers={"location": location})

    def settle_slow(self, session_id: str, *, succeeded: bool) -> None:
        """A bank debit that the buyer began with `pay_slowly` ends."""
        with self.lock:
            session = self.sessions[session_id]
            session["payment_status"] = "paid" if succeeded else "unpaid"
            self._intent_of(session, "succeeded" if succeeded else "requires_payment_method", failed=not succeeded)
            self._event(f"checkout.session.async_payment_{'succeeded' if succeeded else 'failed'}", self._public(session))

    def expire(self, session_id: str) -> None:
        """The session's time is over."""
        with self.lock:
            session = self.sessions[session_id]
            session["status"], session["url"] = "expired", None
            self._event("checkout.session.expired", self._public(session))

    @route("GET", "/v1/payment_intents")
    def list_intents(self, request: Request) -> Reply:
        page = self._page(self.intents, request)
        for one in page["data"] if request.query.get("expand[0]") == "data.latest_charge" else []:
            one["latest_charge"] = self.charges.get(one["latest_charge"])
        return Reply(200, page)

    @route("GET", "/v1/refunds")
    def list_refunds(self, request: Request) -> Reply:
        return Reply(200, self._page(self.refunds, request))

    def _page(self, things: dict[str, dict[str, Any]], request: Request) -> dict[str, Any]:
        """The newest first, from behind the cursor."""
        query = request.query
        since, until = int(query["created[gte]"]), int(query["created[lt]"])
        newest = [dict(one) for one in reversed(things.values()) if since <= one["created"] < until]
        if "customer" in query:
            newest = [one for one in newest if one.get("customer") == query["customer"]]
        after = [one["id"] for one in newest].index(query["starting_after"]) + 1 if "starting_after" in query else 0
        size = min(int(query.get("limit", 10)), self.list_size)
        return {"object": "list", "data": newest[after : after + size], "has_more": len(newest) > after + size}

    @route("GET", "/v1/payment_intents/([^/]+)")
    def read_intent(self, request: Request, intent_id: str) -> Reply:
        intent = self.intents.get(intent_id)
        return Reply(200, self._expanded(intent, request)) if intent else self._missing("payment_intent", intent_id)

    @route("POST", "/v1/payment_intents")
    def charge(self, request: Request) -> Reply:
        form = nested(request.form)
        card = form["payment_method"]
        if form.get("off_session") != "true" or form.get("confirm") != "true" or self.cards.get(card) != form["customer"]:
            return self._missing("payment_method", card)
        intent = self._new_intent(int(form["amount"]), form["currency"], form.get("metadata", {}))
        intent |= {"customer": form["customer"], "payment_method": card}
        refusal = self.refusals.get(card) or (("card_declined", "insufficient_funds") if card in self.declining_cards else None)
        if refusal:
            error = {"type": "card_error", "code": refusal[0], "decline_code": refusal[1], "message": "Declined."}
            intent |= {"status": "requires_payment_method", "last_payment_error": error}
            self._event("payment_intent.payment_failed", intent)
            return Reply(402, {"error": error | {"payment_intent": intent}})
        if card in self.slow_cards:
            intent["status"] = "processing"
            return Reply(200, intent)
        self._take(intent)
        self._event("payment_intent.succeeded", intent)
        return Reply(200, intent)

    def settle_charge(self, intent_id: str, *, succeeded: bool) -> None:
        """A slow charge of a saved card ends."""
        with self.lock:
            intent = self.intents[intent_id]
            if succeeded:
                self._take(intent)
            else:
                error = {"code": "card_declined", "decline_code": "generic_decline", "message": "Declined."}
                intent |= {"status": "requires_payment_method", "last_payment_error": error}
            self._event(f"payment_intent.{'succeeded' if succeeded else 'payment_failed'}", intent)

    def forget_keys(self) -> None:
        """More than a day has passed: idempotency keys mean nothing any more."""
        with self.lock:
            self._replays.clear()

    @route("POST", "/v1/payment_methods/([^/]+)/detach")
    def detach(self, request: Request, card: str) -> Reply:
        if self.cards.pop(card, None) is None:
            return self._error(400, "invalid_request_error", "The payment method is not attached to a customer.")
        return Reply(200, {"id": card, "object": "payment_method", "customer": None})

    @route("POST", "/v1/refunds")
    def refund(self, request: Request) -> Reply:
        form = nested(request.form)
        intent = self.intents.get(form.get("payment_intent", ""))
        if not intent or not intent.get("latest_charge"):
            return self._missing("payment_intent", form.get("payment_intent", ""))
        charge = self.charges[intent["latest_charge"]]
        left = charge["amount"] - charge["amount_refunded"]
        amount = int(form.get("amount", left))
        if not left:
            return self._error(400, "invalid_request_error", "has already been refunded", code="charge_already_refunded")
        if amount > left:
            return self._error(400, "invalid_request_error", "greater than unrefunded amount", param="amount")
        charge["amount_refunded"] += amount
        refund = {
            "id": self.new_id("re_", 24),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self.now(),
            "currency": charge["currency"],
            "metadata": form.get("metadata", {}),
            "payment_intent": intent["id"],
            "reason": form.get("reason"),
            "status": self.refund_status,
        }
        self.refunds[refund["id"]] = refund
        self._event("refund.created", refund)
        return Reply(200, refund)

    @route("GET", "/v1/refunds/([^/]+)")
    def read_refund(self, request: Request, refund_id: str) -> Reply:
        found = self.refunds.get(refund_id)
        return Reply(200, found) if found else self._missing("refund", refund_id)

    def finish_refund(self, refund_id: str, *, succeeded: bool) -> None:
        """A refund ends; one that succeeded may still fail."""
        with self.lock:
            refund = self.refunds[refund_id]
            refund["status"] = "succeeded" if succeeded else "failed"
            if not succeeded:
                refund["failure_reason"] = "expired_or_canceled_card"
                self.charges[refund["charge"]]["amount_refunded"] -= refund["amount"]
            self._event("refund.updated" if succeeded else "refund.failed", refund)

    @route("GET", "/v1/disputes/([^/]+)")
    def read_dispute(self, request: Request, dispute_id: str) -> Reply:
        found = self.disputes.get(dispute_id)
        return Reply(200, found) if found else self._missing("dispute", dispute_id)

    def open_dispute(self, payment_id: str) -> str:
        """The cardholder contests the whole payment; answers the dispute's id."""
        with self.lock:
            intent = self.intents[payment_id]
            dispute = {
                "id": self.new_id("du_", 24),
                "object": "dispute",
                "amount": intent["amount"],
                "charge": intent["latest_charge"],
                "currency": intent["currency"],
                "livemode": self.livemode,
                "payment_intent": intent["id"],
                "reason": "fraudulent",
                "status": "needs_response",
            }
            self.disputes[dispute["id"]] = dispute
            self._event("charge.dispute.created", dispute)
            return str(dispute["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        with self.lock:
            self.disputes[dispute_id]["status"] = "won" if won else "lost"
            self._event("charge.dispute.closed", self.disputes[dispute_id])

    def _new_intent(self, amount: int, currency: str, metadata: dict[str, str]) -> dict[str, Any]:
        intent: dict[str, Any] = {
            "id": self.new_id("pi_", 24),
            "object": "payment_intent",
            "created": self.now(),
            "amount": amount,
            "amount_received": 0,
            "currency": currency,
            "customer": None,
            "latest_charge": None,
            "livemode": self.livemode,
            "metadata": metadata,
            "payment_method": None,
            "status": "requires_payment_method",
        }
        self.intents[intent["id"]] = intent
        return intent

    def _take(self, intent: dict[str, Any]) -> None:
        face = self.card_faces.get(str(intent["payment_method"]), self.next_card)
        charge: dict[str, Any] = {
            "id": self.new_id("ch_", 24),
            "object": "charge",
            "amount": intent["amount"],
            "currency": intent["currency"],
            "payment_method": intent["payment_method"],
            "payment_method_details": {"type": "card", "card": face},
        }
        self.charges[charge["id"]] = charge | {"amount_refunded": 0, "payment_intent": intent["id"]}
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]}

    def _intent_of(self, session: dict[str, Any], status: str, *, failed: bool = False) -> None:
        if session["payment_intent"] is None:
            metadata = session["_intent"].get("metadata", {})
            intent = self._new_intent(session["amount_total"], session["currency"], metadata)
            session["payment_intent"] = intent["id"]
            if session["_intent"].get("setup_future_usage") == "off_session":
                session["customer"] = intent["customer"] = self.new_id("cus_")
                intent["payment_method"] = self.new_id("pm_", 24)
                self.cards[intent["payment_method"]] = intent["customer"]
                self.card_faces[intent["payment_method"]] = dict(self.next_card)
        intent = self.intents[session["payment_intent"]]
        intent["status"] = status
        if failed:
            intent["last_payment_error"] = {"code": "card_declined", "decline_code": "generic_decline", "message": "Declined."}
        if status == "succeeded":
            self._take(intent)

    def _expanded(self, thing: dict[str, Any], request: Request) -> dict[str, Any]:
        answer = self._public(thing)
        expand = request.query.get("expand[0]", "")
        if expand.startswith("payment_intent") and answer["payment_intent"]:
            answer["payment_intent"] = dict(self.intents[answer["payment_intent"]])
            place = answer["payment_intent"]
        else:
            place = answer
        if expand.endswith("latest_charge") and place.get("latest_charge"):
            place["latest_charge"] = self.charges[place["latest_charge"]]
        return answer

    def _public(self, thing: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in thing.items() if not key.startswith("_")}

    def _event(self, kind: str, thing: dict[str, Any]) -> None:
        event = {
            "id": self.new_id("evt_", 24),
            "object": "event",
            "api_version": VERSION,
            "created": self.now(),
            "data": {"object": thing},
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "type": kind,
        }
        self.queue(Delivery(self.webhook_url, json.dumps(event, indent=2).encode(), self._signature, kind))

    def _signature(self, body: bytes) -> dict[str, str]:
        stamp = str(self.now())
        signature = hmac.new(self.webhook_secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"content-type": "application/json; charset=utf-8", "stripe-signature": f"t={stamp},v1={signature},v0=00"}

    def _missing(self, what: str, identifier: str) -> Reply:
        return self._error(404, "invalid_request_error", f"No such {what}: '{identifier}'", code="resource_missing")

    def _error(self, status: int, kind: str, message: str, **more: str) -> Reply:
        return Reply(status, {"error": {"type": kind, "message": message, **more}})
