"""PayPal Orders v2 as documented: tokens, orders the buyer approves, captures, refunds, disputes, webhooks signed with RSA."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from .server import Delivery, FakeGateway, Reply, Request, route

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "payment_vectors.json").read_text())["gateways"]["paypal"]
CERTIFICATE = VECTORS["test_certificate_pem"].encode()
ROOT = VECTORS["test_root_ca_pem"].encode()
KEY = load_pem_private_key(VECTORS["test_private_key_pem"].encode(), None)


class FakePayPal(FakeGateway):
    name = "paypal"

    def __init__(
        self,
        *,
        client_id: str = "fake-client",
        client_secret: str = "fake-client-secret",
        webhook_id: str = "8PT597110X687430L",
    ) -> None:
        super().__init__()
        self.client_id = client_id
        self.client_secret = client_secret
        self.webhook_id = webhook_id
        self.orders: dict[str, dict[str, Any]] = {}
        self.captures: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.tokens: set[str] = set()
        self.capture_status = "COMPLETED"
        self.refund_status = "COMPLETED"
        self.instrument_declined = 0
        self.may_search = True
        self._replays: dict[str, Reply] = {}
        self._paid_invoices: set[str] = set()

    def authorise(self, request: Request) -> Reply | None:
        if request.path.startswith(("/checkoutnow", "/v1/oauth2/", "/v1/notifications/certs/")):
            return None
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return Reply(401, {"error": "invalid_token", "error_description": "Token signature verification failed"})
        return None

    def answer(self, request: Request) -> Reply:
        key = request.headers.get("paypal-request-id") if request.method == "POST" else None
        with self.lock:
            if key in self._replays:
                replay = self._replays[key]
                return Reply(200, replay.data)
            reply = super().answer(request)
            if key and reply.status < 400:
                self._replays[key] = Reply(reply.status, json.loads(json.dumps(reply.data)))
        reply.headers["paypal-debug-id"] = self.new_id("f", 12)
        return reply

    @route("POST", "/v1/oauth2/token")
    def token(self, request: Request) -> Reply:
        basic = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}" or request.form != {"grant_type": "client_credentials"}:
            return Reply(401, {"error": "invalid_client", "error_description": "Client Authentication failed"})
        token = self.new_id("A21AA", 20)
        self.tokens.add(token)
        return Reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": 32400})

    @route("GET", "/v1/notifications/certs/([^/]+)")
    def certificate(self, request: Request, name: str) -> Reply:
        if name != "CERT-fake-1":
            return Reply(404, text="no such certificate")
        return Reply(200, text=CERTIFICATE.decode(), headers={"content-type": "application/x-pem-file"})

    @route("POST", "/v2/checkout/orders")
    def create(self, request: Request) -> Reply:
        body = request.json
        if "payment_source" in body and "paypal-request-id" not in request.headers:
            return self._issue("PAYPAL_REQUEST_ID_REQUIRED", status=400)
        [unit] = body["purchase_units"]
        value = unit["amount"]["value"]
        if not isinstance(value, str):
            return self._issue("INVALID_PARAMETER_SYNTAX", status=400)
        if unit["amount"]["currency_code"] in ("INR", "DZD"):
            return self._issue("CURRENCY_NOT_SUPPORTED")
        if len(value.partition(".")[2]) > 2:
            return self._issue("DECIMAL_PRECISION")
        context = body["payment_source"]["paypal"]["experience_context"]
        order = {
            "id": self.new_id("", 17).upper(),
            "intent": body["intent"],
            "status": "PAYER_ACTION_REQUIRED",
            "purchase_units": [{"reference_id": "default", **unit}],
            "create_time": self._instant(),
        }
        order["links"] = [
            {"href": f"{self.url}/v2/checkout/orders/{order['id']}", "rel": "self", "method": "GET"},
            {"href": f"{self.url}/checkoutnow/{order['id']}", "rel": "payer-action", "method": "GET"},
        ]
        self.orders[str(order["id"])] = order | {"_context": context}
        return Reply(201, order)

    @route("GET", "/v2/checkout/orders/([^/]+)")
    def read(self, request: Request, order_id: str) -> Reply:
        order = self.orders.get(order_id)
        return Reply(200, self._public(order)) if order else self._issue("INVALID_RESOURCE_ID", status=404)

    @route("GET", "/checkoutnow/([^/]+)")
    def show(self, request: Request, order_id: str) -> Reply:
        return self.page("PayPal") if order_id in self.orders else Reply(404, text="gone")

    @route("POST", "/checkoutnow/([^/]+)")
    def buyer(self, request: Request, order_id: str) -> Reply:
        order, action = self.orders[order_id], request.form["action"]
        if action == "cancel":
            return Reply(303, text="", headers={"location": f"{order['_context']['cancel_url']}?token={order_id}"})
        if order["status"] not in ("PAYER_ACTION_REQUIRED", "APPROVED"):
            return Reply(410, text="over")
        order["status"] = "APPROVED"
        self._event("CHECKOUT.ORDER.APPROVED", "checkout-order", self._public(order))
        join = "&" if "?" in order["_context"]["return_url"] else "?"
        location = f"{order['_context']['return_url']}{join}token={order_id}&PayerID=QYR5Z8XDVJNXQ"
        return Reply(303, text="", headers={"location": location})

    @route("POST", "/v2/checkout/orders/([^/]+)/capture")
    def capture(self, request: Request, order_id: str) -> Reply:
        order = self.orders.get(order_id)
        if not order:
            return self._issue("INVALID_RESOURCE_ID", status=404)
        if order["status"] == "COMPLETED":
            return self._issue("ORDER_ALREADY_CAPTURED")
        if order["status"] != "APPROVED":
            return self._issue("ORDER_NOT_APPROVED")
        if self.instrument_declined:
            self.instrument_declined -= 1
            return self._issue("INSTRUMENT_DECLINED")
        [unit] = order["purchase_units"]
        if unit.get("invoice_id") in self._paid_invoices:
            return self._issue("DUPLICATE_INVOICE_ID")
        self._paid_invoices.add(unit.get("invoice_id"))
        capture = {
            "id": self.new_id("2GG", 14),
            "amount": unit["amount"],
            "final_capture": True,
            "custom_id": unit.get("custom_id"),
            "invoice_id": unit.get("invoice_id"),
            "status": self.capture_status,
            "supplementary_data": {"related_ids": {"order_id": order_id}},
            "create_time": self._instant(),
        }
        if self.capture_status == "PENDING":
            capture["status_details"] = {"reason": "PENDING_REVIEW"}
        self.captures[str(capture["id"])] = capture
        order["status"] = "COMPLETED"
        unit["payments"] = {"captures": [capture]}
        self._capture_event(capture)
        return Reply(201, self._public(order))

    def settle_capture(self, order_id: str, *, succeeded: bool) -> None:
        """A capture that was pending ends."""
        with self.lock:
            [capture] = self.orders[order_id]["purchase_units"][0]["payments"]["captures"]
            capture["status"] = "COMPLETED" if succeeded else "DECLINED"
            capture.pop("status_details", None)
            self._capture_event(capture)

    @route("GET", "/v1/reporting/transactions")
    def transactions(self, request: Request) -> Reply:
        if not self.may_search:
            return Reply(403, {"name": "NOT_AUTHORIZED", "message": "Authorization failed due to insufficient permissions."})
        first, last = request.query["start_date"], request.query["end_date"]
        found = [one for one in self._transactions() if first <= one["transaction_initiation_date"] <= last]
        size, page = int(request.query["page_size"]), int(request.query["page"])
        details = [{"transaction_info": one} for one in found[(page - 1) * size : page * size]]
        pages = -(-len(found) // size)
        return Reply(200, {"transaction_details": details, "page": page, "total_items": len(found), "total_pages": pages})

    def _transactions(self) -> list[dict[str, Any]]:
        letters = {"COMPLETED": "S", "PARTIALLY_REFUNDED": "S", "REFUNDED": "S", "PENDING": "P", "DECLINED": "D", "FAILED": "D"}
        payments = [
            {
                "transaction_id": one["id"],
                "transaction_event_code": "T0006",
                "transaction_initiation_date": one["create_time"],
                "transaction_amount": one["amount"],
                "transaction_status": letters[one["status"]],
                "custom_field": one["custom_id"],
                "invoice_id": one["invoice_id"],
            }
            for one in self.captures.values()
        ]
        refunds = [
            {
                "transaction_id": one["id"],
                "paypal_reference_id": one["links"][1]["href"].rpartition("/")[2],
                "paypal_reference_id_type": "TXN",
                "transaction_event_code": "T1107",
                "transaction_initiation_date": one["create_time"],
                "transaction_amount": one["amount"] | {"value": f"-{one['amount']['value']}"},
                "transaction_status": letters[one["status"]],
            }
            for one in self.refunds.values()
        ]
        return payments + refunds

    @route("GET", "/v2/payments/captures/([^/]+)")
    def read_capture(self, request: Request, capture_id: str) -> Reply:
        found = self.captures.get(capture_id)
        return Reply(200, found) if found else self._issue("INVALID_RESOURCE_ID", status=404)

    @route("POST", "/v2/payments/captures/([^/]+)/refund")
    def refund(self, request: Request, capture_id: str) -> Reply:
        capture = self.captures.get(capture_id)
        if not capture:
            return self._issue("INVALID_RESOURCE_ID", status=404)
        order = self.orders[capture["supplementary_data"]["related_ids"]["order_id"]]
        payments = order["purchase_units"][0]["payments"]
        body, whole = request.json, Decimal(capture["amount"]["value"])
        done = sum(
            (Decimal(one["amount"]["value"]) for one in payments.get("refunds", []) if one["status"] == "COMPLETED"), Decimal(0)
        )
        amount = Decimal(body["amount"]["value"]) if body.get("amount") else whole - done
        if done == whole:
            return self._issue("CAPTURE_FULLY_REFUNDED")
        if amount > whole - done:
            return self._issue("REFUND_AMOUNT_EXCEEDED")
        refund = {
            "id": self.new_id("1JU", 14),
            "amount": {"currency_code": capture["amount"]["currency_code"], "value": str(amount)},
            "custom_id": body.get("custom_id"),
            "status": self.refund_status,
            "create_time": self._instant(),
        }
        refund["links"] = [
            {"href": f"https://api.sandbox.paypal.com/v2/payments/refunds/{refund['id']}", "rel": "self", "method": "GET"},
            {"href": f"https://api.sandbox.paypal.com/v2/payments/captures/{capture_id}", "rel": "up", "method": "GET"},
        ]
        self.refunds[str(refund["id"])] = refund
        payments.setdefault("refunds", []).append(refund)
        if refund["status"] == "COMPLETED":
            capture["status"] = "REFUNDED" if done + amount == whole else "PARTIALLY_REFUNDED"
            self._event("PAYMENT.CAPTURE.REFUNDED", "refund", refund)
        return Reply(201, refund)

    @route("GET", "/v2/payments/refunds/([^/]+)")
    def read_refund(self, request: Request, refund_id: str) -> Reply:
        found = self.refunds.get(refund_id)
        return Reply(200, found) if found else self._issue("INVALID_RESOURCE_ID", status=404)

    def finish_refund(self, refund_id: str, *, succeeded: bool) -> None:
        """A refund that was pending ends."""
        with self.lock:
            self.refunds[refund_id]["status"] = "COMPLETED" if succeeded else "FAILED"
            if succeeded:
                self._event("PAYMENT.CAPTURE.REFUNDED", "refund", self.refunds[refund_id])

    @route("GET", "/v1/customer/disputes/([^/]+)")
    def read_dispute(self, request: Request, dispute_id: str) -> Reply:
        found = self.disputes.get(dispute_id)
        return Reply(200, found) if found else self._issue("INVALID_RESOURCE_ID", status=404)

    def open_dispute(self, payment_id: str) -> str:
        """The buyer contests a capture; answers the dispute's id."""
        with self.lock:
            capture = self.captures[payment_id]
            dispute = {
                "dispute_id": self.new_id("PP-D-", 5),
                "disputed_transactions": [{"seller_transaction_id": payment_id, "custom": capture["custom_id"]}],
                "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
                "status": "OPEN",
                "dispute_amount": capture["amount"],
            }
            self.disputes[dispute["dispute_id"]] = dispute
            self._event("CUSTOMER.DISPUTE.CREATED", "dispute", dispute)
            return str(dispute["dispute_id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        with self.lock:
            outcome = "RESOLVED_SELLER_FAVOUR" if won else "RESOLVED_BUYER_FAVOUR"
            self.disputes[dispute_id] |= {"status": "RESOLVED", "dispute_outcome": {"outcome_code": outcome}}
            self._event("CUSTOMER.DISPUTE.RESOLVED", "dispute", self.disputes[dispute_id])

    def _capture_event(self, capture: dict[str, Any]) -> None:
        kind = {"COMPLETED": "COMPLETED", "PENDING": "PENDING", "DECLINED": "DENIED"}[capture["status"]]
        self._event(f"PAYMENT.CAPTURE.{kind}", "capture", capture)

    def _public(self, order: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in order.items() if not key.startswith("_")}

    def _instant(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _event(self, kind: str, resource_type: str, resource: dict[str, Any]) -> None:
        event = {
            "id": self.new_id("WH-", 17),
            "event_version": "1.0",
            "create_time": self._instant(),
            "resource_type": resource_type,
            "resource_version": "2.0",
            "event_type": kind,
            "summary": kind,
            "resource": resource,
            "links": [],
        }
        body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        self.queue(Delivery(self.webhook_url, body, self._signature, kind))

    def _signature(self, body: bytes) -> dict[str, str]:
        transmission, sent = self.new_id("b2b5e4b0-c5b7-11f0-9f0e-", 12), self._instant()
        message = f"{transmission}|{sent}|{self.webhook_id}|{zlib.crc32(body) & 0xFFFFFFFF}".encode()
        signature = KEY.sign(message, PKCS1v15(), SHA256())  # type: ignore[union-attr, call-arg, arg-type]
        return {
            "content-type": "application/json",
            "paypal-transmission-id": transmission,
            "paypal-transmission-time": sent,
            "paypal-transmission-sig": base64.b64encode(signature).decode(),
            "paypal-cert-url": f"{self.url}/v1/notifications/certs/CERT-fake-1",
            "paypal-auth-algo": "SHA256withRSA",
        }

    def _issue(self, issue: str, *, status: int = 422) -> Reply:
        names = {400: "INVALID_REQUEST", 404: "RESOURCE_NOT_FOUND", 422: "UNPROCESSABLE_ENTITY"}
        details = [{"issue": issue, "description": issue.capitalize().replace("_", " ")}]
        return Reply(status, {"name": names[status], "message": "refused", "details": details, "debug_id": "f1a2b3c4d5e6f"})
