"""PayU India as documented: the browser posts a hashed form and comes back with one; the server API always answers 200."""

from __future__ import annotations

import hashlib
import html
import json
import urllib.parse
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from .server import Delivery, FakeGateway, Reply, Request, route

MANDATORY = ("key", "txnid", "amount", "productinfo", "firstname", "email", "phone", "surl", "furl", "hash")
ECHOED = ("key", "txnid", "amount", "productinfo", "firstname", "email", "phone", "udf1", "udf2", "udf3", "udf4", "udf5")


def sha512(text: str) -> str:
    return hashlib.sha512(text.encode()).hexdigest()


class FakePayU(FakeGateway):
    name = "payu"

    def __init__(self, *, merchant_key: str = "gTkTst", salt: str = "fakeSalt") -> None:
        super().__init__()
        self.merchant_key = merchant_key
        self.salt = salt
        self.transactions: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.refund_url = ""
        self._forms: dict[str, dict[str, str]] = {}

    @route("POST", "/_payment")
    def enter(self, request: Request) -> Reply:
        form = request.form
        missing = [name for name in MANDATORY if not form.get(name)]
        if missing or form["key"] != self.merchant_key:
            return Reply(400, text=f"mandatory: {missing}")
        said = "|".join(form.get(name, "") for name in (*ECHOED[:6], "udf1", "udf2", "udf3", "udf4", "udf5"))
        if form["hash"] != sha512(f"{said}||||||{self.salt}"):
            return Reply(400, text="hash is not correct")
        if len(form["txnid"]) > 25 or Decimal(form["amount"]) < 1:
            return Reply(400, text="txnid or amount")
        if self.transactions.get(form["txnid"], {}).get("status") == "success":
            return Reply(400, text="txnid was used")
        self._forms[form["txnid"]] = form
        return Reply(302, text="", headers={"location": f"{self.url}/page/{form['txnid']}"})

    @route("GET", "/page/([^/]+)")
    def show(self, request: Request, txnid: str) -> Reply:
        return self.page("PayU") if txnid in self._forms else Reply(404, text="gone")

    @route("POST", "/page/([^/]+)")
    def buyer(self, request: Request, txnid: str) -> Reply:
        form, action = self._forms[txnid], request.form["action"]
        outcome = {
            "pay": ("success", "captured"),
            "decline": ("failure", "failed"),
            "cancel": ("failure", "userCancelled"),
            "pay_slowly": ("pending", "pending"),
        }[action]
        fields = self._finish(form, *outcome)
        self._payment_event(form, fields)
        back = form["surl"] if outcome[0] != "failure" else form["furl"]
        inputs = "".join(f'<input type="hidden" name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
        return Reply(
            text=f'<form method="post" action="{html.escape(back)}">{inputs}</form><script>document.forms[0].submit()</script>'
        )

    def settle_slow(self, txnid: str, *, succeeded: bool) -> None:
        """A payment that was pending ends."""
        with self.lock:
            form = self._forms[txnid]
            outcome = ("success", "captured") if succeeded else ("failure", "failed")
            self._payment_event(form, self._finish(form, *outcome, again=True))

    @route("POST", "/merchant/postservice.php")
    def service(self, request: Request) -> Reply:
        form = request.form
        command, var1 = form.get("command", ""), form.get("var1", "")
        if form.get("hash") != sha512(f"{self.merchant_key}|{command}|{var1}|{self.salt}"):
            return Reply(200, {"status": 0, "msg": "Invalid Hash."})
        commands = {
            "verify_payment": self._verify,
            "check_payment": self._check,
            "cancel_refund_transaction": self._refund,
            "check_action_status": self._actions,
            "get_transaction_info": self._list,
        }
        return commands[command](form) if command in commands else Reply(200, {"status": 0, "msg": "Unknown command"})

    def finish_refund(self, request_id: str, *, succeeded: bool) -> None:
        """A queued refund ends; the notice of it carries no signature."""
        with self.lock:
            refund = self.refunds[request_id]
            refund["status"] = "success" if succeeded else "failure"
            txnid = next(txnid for txnid, one in self.transactions.items() if one["mihpayid"] == refund["mihpayid"])
            notice = {
                "key": self.merchant_key,
                "amt": refund["amt"],
                "status": refund["status"],
                "token": refund["token"],
                "mihpayid": refund["mihpayid"],
                "request_id": request_id,
                "merchantTxnId": txnid,
                "action": "refund",
            }
            body = json.dumps(notice).encode()
            self.queue(Delivery(self.refund_url, body, lambda _: {"content-type": "application/json"}, "refund"))

    def _finish(self, form: dict[str, str], status: str, detail: str, *, again: bool = False) -> dict[str, str]:
        old = self.transactions.get(form["txnid"])
        mihpayid = old["mihpayid"] if old and again else self.new_id("4039937155321", 5)
        failed = status == "failure"
        fields = {
            "mihpayid": mihpayid,
            "mode": "UPI",
            "status": status,
            "unmappedstatus": detail,
            **{name: form.get(name, "") for name in ECHOED},
            "discount": "0.00",
            "net_amount_debit": form["amount"],
            "addedon": f"{datetime.fromtimestamp(self.now(), UTC) + timedelta(hours=5, minutes=30):%Y-%m-%d %H:%M:%S}",
            "lastname": "",
            "error": "E1602" if failed else "E000",
            "error_Message": "Bank was unable to authenticate." if failed else "No Error",
        }
        # The buyer may come back after a failure, with the same txnid.
        self.transactions[form["txnid"]] = fields | {"refunded": Decimal(0)}
        backwards = "|".join(fields[name] for name in ("udf5", "udf4", "udf3", "udf2", "udf1", "email", "firstname"))
        rest = f"{fields['productinfo']}|{fields['amount']}|{fields['txnid']}|{self.merchant_key}"
        return fields | {"hash": sha512(f"{self.salt}|{status}||||||{backwards}|{rest}")}

    def _payment_event(self, form: dict[str, str], fields: dict[str, str]) -> None:
        body = urllib.parse.urlencode(fields).encode()
        kind = f"payment.{fields['status']}"
        url = form.get("notifyurl") or self.webhook_url
        self.queue(Delivery(url, body, lambda _: {"content-type": "application/x-www-form-urlencoded"}, kind))

    def _verify(self, form: dict[str, str]) -> Reply:
        txnid = form["var1"]
        found = self.transactions.get(txnid)
        if not found:
            missing = {txnid: {"mihpayid": "Not Found", "status": "Not Found"}}
            return Reply(
                200, {"status": 0, "msg": "0 out of 1 Transactions Fetched Successfully", "transaction_details": missing}
            )
        details = {txnid: self._entry(found)}
        return Reply(200, {"status": 1, "msg": "1 out of 1 Transactions Fetched Successfully", "transaction_details": details})

    def _check(self, form: dict[str, str]) -> Reply:
        found = next((one for one in self.transactions.values() if one["mihpayid"] == form["var1"]), None)
        if not found:
            return Reply(200, {"status": 0, "msg": "Transaction not exists", "transaction_details": {"mihpayid": "Not Found"}})
        return Reply(200, {"status": 1, "msg": "Transaction Fetched Successfully", "transaction_details": self._entry(found)})

    def _list(self, form: dict[str, str]) -> Reply:
        """What began between two moments of Indian time, both of them included."""
        found = [one for one in self.transactions.values() if form["var1"] <= one["addedon"] <= form["var2"]]
        entries = [
            {
                "id": one["mihpayid"],
                "status": one["unmappedstatus"],
                "key": self.merchant_key,
                "txnid": one["txnid"],
                "addedon": one["addedon"],
                "amount": one["amount"],
                "transaction_fee": one["amount"],
            }
            for one in found
        ]
        return Reply(200, {"status": 1, "msg": "Transaction Fetched Successfully", "Transaction_details": entries})

    def _entry(self, found: dict[str, Any]) -> dict[str, Any]:
        entry = {name: found[name] for name in ("mihpayid", "txnid", "status", "unmappedstatus", "mode", "productinfo", "udf1")}
        return entry | {
            "amt": found["amount"],
            "transaction_amount": found["amount"],
            # Numbers and texts as they come.
            "net_amount_debit": int(Decimal(found["amount"])),
            "error_code": found["error"],
            "error_Message": found["error_Message"],
            "card_no": "",
            "Settled_At": "0000-00-00 00:00:00",
        }

    def _refund(self, form: dict[str, str]) -> Reply:
        mihpayid, token = form["var1"], form.get("var2", "")
        found = next((one for one in self.transactions.values() if one["mihpayid"] == mihpayid), None)
        if not found or found["status"] != "success":
            return Reply(200, {"status": 0, "msg": "Transaction not exists", "error_code": 100})
        amount = Decimal(form.get("var3", "0"))
        if not token or len(token) > 23 or any(one["token"] == token for one in self.refunds.values()):
            return Reply(200, {"status": 0, "msg": "Refund FAILURE - token is already used", "error_code": 105})
        if amount <= 0 or amount > Decimal(found["amount"]) - found["refunded"]:
            return Reply(
                200, {"status": 0, "msg": "Refund FAILURE - Invalid amount", "error_code": 105, "mihpayid": int(mihpayid)}
            )
        found["refunded"] += amount
        request_id = self.new_id("13127", 4)
        self.refunds[request_id] = {
            "mihpayid": mihpayid,
            "request_id": request_id,
            "amt": f"{amount:.2f}",
            "action": "refund",
            "token": token,
            "status": "queued",
        }
        queued = {
            "status": 1,
            "msg": "Refund Request Queued",
            "request_id": request_id,
            "mihpayid": int(mihpayid),
            "error_code": 102,
        }
        return Reply(200, queued)

    def _actions(self, form: dict[str, str]) -> Reply:
        var1 = form["var1"]
        by_payment = form.get("var2") == "payuid"
        found = {key: one for key, one in self.refunds.items() if one["mihpayid" if by_payment else "request_id"] == var1}
        if not found:
            return Reply(
                200,
                {
                    "status": 0,
                    "msg": "0 out of 1 Transactions Fetched Successfully",
                    "transaction_details": {var1: "No action status found"},
                },
            )
        return Reply(
            200, {"status": 1, "msg": "1 out of 1 Transactions Fetched Successfully", "transaction_details": {var1: found}}
        )
