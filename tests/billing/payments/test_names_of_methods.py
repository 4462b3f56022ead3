"""Ways of paying by hand that operators made are called as they named them, in lists and on invoices."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.accounts.models import Account
from billing.invoices.models import Invoice
from billing.payments.manual import manual_confirm, manual_method, manual_payment_begin
from billing.payments.models import ManualMethod, Payment, method_names
from billing.payments.topup import topup_draft
from billing.plans.models import CreditPack
from tests.billing.subscriptions.conftest import customer, shop, time
from tests.billing.subscriptions.selling import OPERATOR

__all__ = ("customer", "shop", "time")


def paid_by(account: Account, code: str) -> Payment:
    pack = CreditPack.objects.create(
        code=f"pack-{code}", name="Pack", credits=Decimal(100), currency="DZD", amount=Decimal(100)
    )
    method = manual_method(account=account, currency="DZD", code=code)
    invoice = topup_draft(account=account, pack=pack)
    return manual_payment_begin(invoice=invoice, method=method, purpose="topup", actor=OPERATOR)


@pytest.mark.parametrize(("code", "name", "kept"), [("wise-dz", "Wise Algiers", "Wise Algiers"), ("ccp", "CCP", "ccp")])
def test_an_invoice_keeps_what_can_be_printed(customer: Account, code: str, name: str, kept: str) -> None:
    ManualMethod.objects.update_or_create(code=code, defaults={"name": name, "instructions": "Pay.", "currencies": ["DZD"]})

    payment = manual_confirm(payment=paid_by(customer, code), actor=OPERATOR, reason="seen")

    assert payment.means_name == name
    assert Invoice.objects.get(pk=payment.invoice_id).payment_means == kept


def test_a_list_knows_the_names_at_once(customer: Account) -> None:
    ManualMethod.objects.create(code="wise-dz", name="Wise Algiers", instructions="Pay.", currencies=["DZD"])
    paid_by(customer, "wise-dz")

    with CaptureQueriesContext(connection) as asked:
        names = [payment.means_name for payment in method_names(Payment.objects.all())]

    assert names == ["Wise Algiers"]
    assert len(asked) == 1
