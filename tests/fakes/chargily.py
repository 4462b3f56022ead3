"""Chargily Pay V2 as documented: checkouts of whole dinars, a page, webhooks signed with the secret key."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from .server import Delivery, FakeGateway, Reply, Request, route

LIFE_SECONDS = 1800


class FakeChargily(FakeGateway):
    name = "chargily"

    def __init__(self, *, secret_key: str = "test_sk_fakeChargilySecret", livemode: bool = False) -> None:
        super().__init__()
        self.secret_key = secret_key
        self.livemode = livemode
        self.checkouts: dict[str, dict[str, Any]] = {}

    def authorise(self, request: Request) -> Reply | None:
        if request.path.startswith("/pay/") or request.headers.get("authorization") == f"Bearer {self.secret_key}":
            return None
        return Reply(401, {"message": "Unauthenticated."})

    @route("POST", "/api/v2/checkouts")
    def create(self, request: Request) -> Reply:
        body = request.json
        errors: dict[str, list[str]] = {}
        if not isinstance(body.get("amount"), int) or isinstance(body.get("amount"), bool):
            errors["amount"] = ["The amount must be an integer."]
        elif body["amount"] < 75:
            errors["amount"] = ["The amount must be at least 75."]
        if body.get("currency") != "dzd":
            errors["currency"] = ["The selected currency is invalid."]
        if not str(body.get("success_url", "")).startswith("http"):
            errors["success_url"] = ["The success url field is required."]
        if body.get("locale", "ar") not in ("ar", "en", "fr"):
            errors["locale"] = ["The selected locale is invalid."]
        if errors:
            return Reply(422, {"message": "The given data was invalid.", "errors": errors})
        checkout = {
            "id": self.new_id("01k9v3c8m2", 16),
            "entity": "checkout",
            "livemode": self.livemode,
            "amount": body["amount"],
            "currency": "dzd",
            "fees": 0,
            "status": "pending",
            "locale": body.get("locale", "ar"),
            "description": body.get("description"),
            # PHP says an empty map as an empty list.
            "metadata": body.get("metadata") or [],
            "success_url": body["success_url"],
            "failure_url": body.get("failure_url"),
            "webhook_endpoint": body.get("webhook_endpoint"),
            "payment_method": "edahabia",
            "created_at": self.now(),
            "updated_at": self.now(),
        }
        checkout["checkout_url"] = f"{self.url}/pay/{checkout['id']}"
        self.checkouts[checkout["id"]] = checkout
        return Reply(200, checkout)

    @route("GET", "/api/v2/checkouts")
    def listed(self, request: Request) -> Reply:
        size, page = int(request.query.get("per_page", "10")), int(request.query.get("page", "1"))
        newest = list(reversed(self.checkouts.values()))[(page - 1) * size : page * size]
        return Reply(200, {"livemode": self.livemode, "current_page": page, "data": newest})

    @route("GET", "/api/v2/checkouts/([^/]+)")
    def read(self, request: Request, checkout_id: str) -> Reply:
        self._grow_old()
        found = self.checkouts.get(checkout_id)
        return Reply(200, found) if found else Reply(404, {"message": "Not found."})

    @route("POST", "/api/v2/checkouts/([^/]+)/expire")
    def expire_by_api(self, request: Request, checkout_id: str) -> Reply:
        found = self.checkouts.get(checkout_id)
        if not found:
            return Reply(404, {"message": "Not found."})
        if found["status"] == "expired":
            return Reply(400, {"message": "Checkout is already expired."})
        if found["status"] != "pending":
            return Reply(403, {"message": "Checkout is not pending."})
        self._move(found, "expired")
        return Reply(200, found)

    @route("GET", "/pay/([^/]+)")
    def show(self, request: Request, checkout_id: str) -> Reply:
        return self.page("Chargily Pay") if checkout_id in self.checkouts else Reply(404, text="gone")

    @route("POST", "/pay/([^/]+)")
    def buyer(self, request: Request, checkout_id: str) -> Reply:
        checkout, action = self.checkouts[checkout_id], request.form["action"]
        if checkout["status"] != "pending":
            return Reply(410, text="over")
        if action == "pay":
            checkout["fees"] = checkout["amount"] // 40
        self._move(checkout, {"pay": "paid", "decline": "failed", "cancel": "canceled"}[action])
        back = checkout["success_url"] if action == "pay" else checkout["failure_url"] or checkout["success_url"]
        join = "&" if "?" in back else "?"
        return Reply(303, text="", headers={"location": f"{back}{join}checkout_id={checkout_id}"})

    def expire(self, checkout_id: str) -> None:
        """Half an hour passed."""
        with self.lock:
            self._move(self.checkouts[checkout_id], "expired")

    def pay_late(self, checkout_id: str) -> None:
        """A payment that was thought lost arrives after all."""
        with self.lock:
            self._move(self.checkouts[checkout_id], "paid")

    def _grow_old(self) -> None:
        for checkout in self.checkouts.values():
            if checkout["status"] == "pending" and self.now() > checkout["created_at"] + LIFE_SECONDS:
                self._move(checkout, "expired")

    def _move(self, checkout: dict[str, Any], status: str) -> None:
        checkout["status"], checkout["updated_at"] = status, self.now()
        hidden = ("checkout_url", "currency", "livemode", "webhook_endpoint")
        data = {key: value for key, value in checkout.items() if key not in hidden} | {"url": checkout["checkout_url"]}
        event = {
            "id": self.new_id("01k9v3h5xk", 16),
            "entity": "event",
            "livemode": "true" if self.livemode else "false",
            "type": f"checkout.{status}",
            "data": data,
            "created_at": self.now(),
            "updated_at": self.now(),
        }
        # PHP escapes slashes.
        body = json.dumps(event, separators=(",", ":")).replace("/", "\\/").encode()
        self.queue(Delivery(checkout["webhook_endpoint"] or self.webhook_url, body, self._signature, f"checkout.{status}"))

    def _signature(self, body: bytes) -> dict[str, str]:
        signature = hmac.new(self.secret_key.encode(), body, hashlib.sha256).hexdigest()
        return {"content-type": "application/json", "signature": signature}
