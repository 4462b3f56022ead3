"""Days that pass, payments that nobody told us of, and comparisons, for the tests of reconciliation."""

from datetime import UTC, datetime, timedelta
from typing import Any

from freezegun import freeze_time

from billing.models import Payment, ReconciliationRow
from billing.payments.configuration import gateway_build
from billing.payments.reconciliation.comparing import days_plan, reconciliation_run, reconciliations_due
from tests.billing.payments.market import Market


def next_day(days: int = 1, *, later: timedelta = timedelta(0)) -> Any:
    """The product's clock at noon of a later day, when the day before is over at gateways too and the day itself is not."""
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return freeze_time(noon + timedelta(days=days) + later, real_asyncio=True)


def compared(days: int = 1) -> list[ReconciliationRow]:
    """Every day that is over is compared; the rows as they stand then."""
    with next_day(days):
        days_plan()
        for run_id in reconciliations_due():
            reconciliation_run(reconciliation_id=run_id)
    return list(ReconciliationRow.objects.order_by("subject", "outcome"))


def unheard(market: Market, payment: Payment) -> Payment:
    """The buyer paid, the webhook was lost, and the poll gave up."""
    market.act(payment)
    if market.slug == "paypal":
        adapter: Any = gateway_build("paypal")
        adapter.capture_payment(adapter.fetch_payment(checkout_id=payment.checkout_id))
    market.fake.outbox.clear()
    Payment.objects.filter(pk=payment.pk).update(state="expired", next_poll_at=None)
    payment.refresh_from_db()
    return payment
