"""Razorpay as documented: payment links with unique references, payments, refunds, disputes, webhooks with their own secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import urllib.parse
from typing import Any

from .server import Delivery, FakeGateway, Reply, Request, route


class FakeRazorpay(FakeGateway):
    name = "razorpay"

    def __init__(
        self,
        *,
        key_id: str = "rzp_test_fakeKeyId",
        key_secret: str = "fakeKeySecret",
        webhook_secret: str = "fake-webhook-secret",
    ) -> None:
        super().__init__()
        self.key_id = key_id
        self.key_secret = key_secret
        self.webhook_secret = webhook_secret
        self.auto_capture = True
        self.links: dict[str, dict[str, Any]] = {}
        self.orders: dict[str, list[dict[str, Any]]] = {}
        self.payments: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.refund_status = "processed"
        self._refund_keys: dict[str, tuple[bytes, str]] = {}

    def authorise(self, request: Request) -> Reply | None:
        basic = base64.b64encode(f"{self.key_id}:{self.key_secret}".encode()).decode()
        if request.path.startswith("/rzp/") or request.headers.get("authorization") == f"Basic {basic}":
            return None
        return self._error(401, "Authentication failed")

    @route("POST", "/v1/payment_links")
    def create(self, request: Request) -> Reply:
        body = request.json
        if not isinstance(body.get("amount"), int) or body["amount"] < 100:
            return self._error(400, "The amount must be atleast INR 1.00", field="amount")
        if body.get("currency") != "INR":
            return self._error(400, "Currency is not supported", field="currency")
        reference = body.get("reference_id", "")
        if len(reference) > 40:
            return self._error(400, "The reference id may not be greater than 40 characters.", field="reference_id")
        if any(link["reference_id"] == reference for link in self.links.values()):
            return self._error(400, f"payment link creation with reference ID already attempted: {reference}")
        if "expire_by" in body and body["expire_by"] < self.now() + 15 * 60:
            return self._error(400, "expire_by should be at least 15 minutes in future", field="expire_by")
        suffix = self.new_id("RkT", 11)
        link = {
            "accept_partial": body.get("accept_partial", False),
            "amount": body["amount"],
            "amount_paid": 0,
            "callback_method": body.get("callback_method"),
            "callback_url": body.get("callback_url"),
            "cancelled_at": 0,
            "created_at": self.now(),
            "currency": "INR",
            "customer": body.get("customer", {}),
            "description": body.get("description"),
            "expire_by": body.get("expire_by", 0),
            "expired_at": 0,
            "id": f"plink_{suffix}",
            # An empty map comes back as an empty list.
            "notes": body.get("notes") or [],
            "reference_id": reference,
            "short_url": f"{self.url}/rzp/plink_{suffix}",
            "status": "created",
            "payments": None,
        }
        self.links[link["id"]] = link
        return Reply(200, link)

    @route("GET", "/v1/payment_links")
    def listed(self, request: Request) -> Reply:
        wanted = request.query.get("reference_id")
        return Reply(200, {"payment_links": [link for link in self.links.values() if wanted in (None, link["reference_id"])]})

    @route("GET", "/v1/payment_links/([^/]+)")
    def read(self, request: Request, link_id: str) -> Reply:
        found = self.links.get(link_id)
        return Reply(200, found) if found else self._error(400, "The id provided does not exist")

    @route("POST", "/v1/payment_links/([^/]+)/cancel")
    def cancel_by_api(self, request: Request, link_id: str) -> Reply:
        link = self.links.get(link_id)
        if not link or link["status"] != "created":
            return self._error(400, f"Payment link cannot be cancelled as it is {link['status'] if link else 'unknown'}")
        link |= {"status": "cancelled", "cancelled_at": self.now()}
        self._event("payment_link.cancelled", payment_link=link)
        return Reply(200, link)

    @route("GET", "/rzp/([^/]+)")
    def show(self, request: Request, link_id: str) -> Reply:
        return self.page("Razorpay") if link_id in self.links else Reply(404, text="gone")

    @route("POST", "/rzp/([^/]+)")
    def buyer(self, request: Request, link_id: str) -> Reply:
        link, action = self.links[link_id], request.form["action"]
        if link["status"] != "created":
            return Reply(410, text="over")
        if action == "cancel":
            return Reply(200, text="the page is closed; nothing is told to anybody")
        payment = self._attempt(link)
        if action == "decline":
            payment |= {"status": "failed", "error_reason": "payment_failed", "error_description": "The bank declined."}
            self._event("payment.failed", payment=payment)
            return Reply(200, text="payment failed, try again")
        self._succeed(link, payment)
        params = {
            "razorpay_payment_id": payment["id"],
            "razorpay_payment_link_id": link["id"],
            "razorpay_payment_link_reference_id": link["reference_id"],
            "razorpay_payment_link_status": link["status"],
        }
        message = f"{link['id']}|{link['reference_id']}|{link['status']}|{payment['id']}"
        params["razorpay_signature"] = hmac.new(self.key_secret.encode(), message.encode(), hashlib.sha256).hexdigest()
        join = "&" if "?" in link["callback_url"] else "?"
        return Reply(303, text="", headers={"location": f"{link['callback_url']}{join}{urllib.parse.urlencode(params)}"})

    def pay_late(self, link_id: str) -> None:
        """A payment that was reported as failed is authorised after all."""
        with self.lock:
            payment = self.orders[self.links[link_id]["order_id"]][-1]
            payment |= {"error_reason": None, "error_description": None}
            self._succeed(self.links[link_id], payment)

    def expire(self, link_id: str) -> None:
        with self.lock:
            self.links[link_id] |= {"status": "expired", "expired_at": self.now()}
            self._event("payment_link.expired", payment_link=self.links[link_id] | {"notes": None})

    @route("GET", "/v1/orders/([^/]+)/payments")
    def order_payments(self, request: Request, order_id: str) -> Reply:
        items = self.orders.get(order_id, [])
        return Reply(200, {"entity": "collection", "count": len(items), "items": items})

    @route("GET", "/v1/payments")
    def list_payments(self, request: Request) -> Reply:
        return Reply(200, self._page(self.payments, request))

    @route("GET", "/v1/refunds")
    def list_refunds(self, request: Request) -> Reply:
        return Reply(200, self._page(self.refunds, request))

    def _page(self, things: dict[str, dict[str, Any]], request: Request) -> dict[str, Any]:
        since, until, skip = (int(request.query[name]) for name in ("from", "to", "skip"))
        found = [one for one in reversed(things.values()) if since <= one["created_at"] <= until]
        items = found[skip : skip + min(int(request.query["count"]), 100)]
        return {"entity": "collection", "count": len(items), "items": items}

    @route("GET", "/v1/payments/([^/]+)")
    def read_payment(self, request: Request, payment_id: str) -> Reply:
        found = self.payments.get(payment_id)
        return Reply(200, found) if found else self._error(400, "The id provided does not exist")

    @route("POST", "/v1/payments/([^/]+)/capture")
    def capture(self, request: Request, payment_id: str) -> Reply:
        payment, body = self.payments[payment_id], request.json
        if payment["status"] != "authorized":
            return self._error(400, "This payment has already been captured")
        if body != {"amount": payment["amount"], "currency": "INR"}:
            return self._error(400, "Capture amount must be equal to the amount authorized")
        self._captured(payment)
        return Reply(200, payment)

    @route("POST", "/v1/payments/([^/]+)/refund")
    def refund(self, request: Request, payment_id: str) -> Reply:
        payment, key = self.payments.get(payment_id), request.headers.get("x-refund-idempotency", "")
        if not payment or payment["status"] not in ("captured", "refunded"):
            return self._error(400, "The payment status should be captured for action to be taken")
        if len(key) < 10:
            return self._error(400, "The idempotency key is too short")
        if key in self._refund_keys:
            body, refund_id = self._refund_keys[key]
            same = body == request.body
            return Reply(200, self.refunds[refund_id]) if same else self._error(400, "Different request with the same key")
        amount = request.json.get("amount", payment["amount"] - payment["amount_refunded"])
        if amount > payment["amount"] - payment["amount_refunded"]:
            return self._error(400, "The refund amount provided is greater than amount captured", field="amount")
        refund = {
            "id": self.new_id("rfnd_", 14),
            "entity": "refund",
            "amount": amount,
            "currency": "INR",
            "payment_id": payment_id,
            "notes": request.json.get("notes") or [],
            "receipt": request.json.get("receipt"),
            "created_at": self.now(),
            "status": self.refund_status,
        }
        self.refunds[refund["id"]] = refund
        self._refund_keys[key] = (request.body, refund["id"])
        self._book_refund(payment, amount)
        self._event(f"refund.{'processed' if refund['status'] == 'processed' else 'created'}", refund=refund, payment=payment)
        return Reply(200, refund)

    @route("GET", "/v1/refunds/([^/]+)")
    def read_refund(self, request: Request, refund_id: str) -> Reply:
        found = self.refunds.get(refund_id)
        return Reply(200, found) if found else self._error(400, "The id provided does not exist")

    def finish_refund(self, refund_id: str, *, succeeded: bool) -> None:
        with self.lock:
            refund = self.refunds[refund_id]
            refund["status"] = "processed" if succeeded else "failed"
            payment = self.payments[refund["payment_id"]]
            if not succeeded:
                self._book_refund(payment, -refund["amount"])
            self._event(f"refund.{refund['status']}", refund=refund, payment=payment)

    @route("GET", "/v1/disputes/([^/]+)")
    def read_dispute(self, request: Request, dispute_id: str) -> Reply:
        found = self.disputes.get(dispute_id)
        return Reply(200, found) if found else self._error(400, "The id provided does not exist")

    def open_dispute(self, payment_id: str) -> str:
        with self.lock:
            payment = self.payments[payment_id]
            dispute = {
                "id": self.new_id("disp_", 14),
                "entity": "dispute",
                "payment_id": payment_id,
                "amount": payment["amount"],
                "currency": "INR",
                "amount_deducted": 0,
                "reason_code": "goods_or_services_not_received_or_partially_received",
                "status": "open",
                "phase": "chargeback",
            }
            self.disputes[dispute["id"]] = dispute
            self._event("payment.dispute.created", payment=payment, dispute=dispute)
            return str(dispute["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        with self.lock:
            dispute = self.disputes[dispute_id]
            dispute["status"] = "won" if won else "lost"
            self._event(f"payment.dispute.{dispute['status']}", payment=self.payments[dispute["payment_id"]], dispute=dispute)

    def _attempt(self, link: dict[str, Any]) -> dict[str, Any]:
        link.setdefault("order_id", self.new_id("order_", 14))
        payment = {
            "id": self.new_id("pay_", 14),
            "entity": "payment",
            "amount": link["amount"],
            "currency": "INR",
            "status": "created",
            "order_id": link["order_id"],
            "method": "upi",
            "amount_refunded": 0,
            "refund_status": None,
            "captured": False,
            "description": "#" + link["id"].removeprefix("plink_"),
            "notes": [],
            "error_reason": None,
            "error_description": None,
            "created_at": self.now(),
        }
        self.payments[payment["id"]] = payment
        self.orders.setdefault(link["order_id"], []).append(payment)
        return payment

    def _succeed(self, link: dict[str, Any], payment: dict[str, Any]) -> None:
        if self.auto_capture:
            self._captured(payment)
        else:
            payment["status"] = "authorized"
            self._event("payment.authorized", payment=payment)

    def _captured(self, payment: dict[str, Any]) -> None:
        link = self.links["plink_" + payment["description"][1:]]
        payment |= {"status": "captured", "captured": True}
        link |= {"status": "paid", "amount_paid": link["amount"]}
        link["payments"] = [{"payment_id": payment["id"], "amount": payment["amount"], "status": "captured", "method": "upi"}]
        # Not of the prefixed form, as in the gateway's own samples.
        order = {"id": link["order_id"].removeprefix("order_"), "amount": link["amount"], "receipt": link["reference_id"]}
        self._event("payment.captured", payment=payment)
        self._event("payment_link.paid", payment_link=link, order=order, payment=payment)

    def _book_refund(self, payment: dict[str, Any], amount: int) -> None:
        payment["amount_refunded"] += amount
        whole = payment["amount_refunded"] == payment["amount"]
        payment["refund_status"] = "full" if whole else "partial" if payment["amount_refunded"] else None
        payment["status"] = "refunded" if whole else "captured"

    def _event(self, kind: str, **entities: dict[str, Any]) -> None:
        event = {
            "entity": "event",
            "account_id": "acc_Qm1Np2Rs3Tv4Wx",
            "event": kind,
            "contains": list(entities),
            "payload": {name: {"entity": entity} for name, entity in entities.items()},
            "created_at": self.now(),
        }
        event_id = self.new_id("RkT5", 10)
        body = json.dumps(event, separators=(",", ":")).encode()

        def signature(signed: bytes) -> dict[str, str]:
            digest = hmac.new(self.webhook_secret.encode(), signed, hashlib.sha256).hexdigest()
            return {"content-type": "application/json", "x-razorpay-signature": digest, "x-razorpay-event-id": event_id}

        self.queue(Delivery(self.webhook_url, body, signature, kind))

    def _error(self, status: int, description: str, **more: str) -> Reply:
        return Reply(status, {"error": {"code": "BAD_REQUEST_ERROR", "description": description, **more}})
