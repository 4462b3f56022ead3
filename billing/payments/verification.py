"""Rules of the books about payments, verified with the ledger's own."""

from billing.ledger.verification import Check

CHECKS = (
    Check(
        "unapplied money is booked, what is on its way back included",
        """SELECT coalesce(p.currency, b.unit), coalesce(p.amount, 0), coalesce(-b.booked, 0)
           FROM (SELECT currency, sum(amount) AS amount FROM (
                     SELECT currency, unapplied_amount AS amount FROM billing_payment WHERE state = 'succeeded'
                     UNION ALL SELECT currency, amount FROM billing_refund
                     WHERE state IN ('requested', 'pending') AND facts ->> 'invoice' IS NULL) s
                 GROUP BY currency) p
           FULL JOIN (SELECT e.unit, sum(e.amount) AS booked FROM billing_ledgerentry e
                      JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id WHERE a.kind = 'unapplied'
                      GROUP BY e.unit) b ON b.unit = p.currency
           WHERE coalesce(p.amount, 0) <> coalesce(-b.booked, 0)""",
    ),
    Check(
        "every payment that succeeded is in the books with what was received",
        """SELECT p.reference, p.received_amount, coalesce(e.amount, 0) FROM billing_payment p
           LEFT JOIN billing_ledgertransaction t ON t.idempotency_key = 'payment:' || p.id
           LEFT JOIN (SELECT e.transaction_id, e.amount FROM billing_ledgerentry e
                      JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id WHERE a.kind = 'cash') e
             ON e.transaction_id = t.id
           WHERE p.state = 'succeeded' AND p.received_amount IS DISTINCT FROM e.amount""",
    ),
    Check(
        "what payments paid of an invoice is what its allocations say",
        """SELECT coalesce(i.number, i.id::text), i.amount_paid, coalesce(a.total, 0) FROM billing_invoice i
           LEFT JOIN (SELECT invoice_id, sum(amount) AS total FROM billing_paymentallocation GROUP BY invoice_id) a
             ON a.invoice_id = i.id
           WHERE i.kind = 'invoice' AND i.amount_paid <> coalesce(a.total, 0)""",
    ),
    Check(
        "what was applied of a payment is what its allocations say",
        """SELECT p.reference, p.applied_amount, coalesce(a.total, 0) FROM billing_payment p
           LEFT JOIN (SELECT payment_id, sum(amount) AS total FROM billing_paymentallocation GROUP BY payment_id) a
             ON a.payment_id = p.id
           WHERE p.applied_amount <> coalesce(a.total, 0)""",
    ),
)
