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
           LEFT JOIN (SELECT split_part(t.idempotency_key, ':', 2) AS payment_id, sum(e.amount) AS amount
                      FROM billing_ledgertransaction t
                      JOIN billing_ledgerentry e ON e.transaction_id = t.id
                      JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id AND a.kind = 'cash'
                      WHERE t.kind = 'payment' AND split_part(t.idempotency_key, ':', 1) IN ('payment', 'payment-more')
                      GROUP BY 1) e
             ON e.payment_id = p.id::text
           WHERE p.state = 'succeeded' AND p.received_amount IS DISTINCT FROM e.amount""",
    ),
    Check(
        "what went back of a payment is what its refunds and lost disputes took",
        """SELECT p.reference, coalesce(g.total, 0), p.refunded_amount FROM billing_payment p
           LEFT JOIN (SELECT payment_id, sum(amount) AS total FROM (
                          SELECT payment_id, amount FROM billing_refund WHERE state IN ('requested', 'pending', 'succeeded')
                          UNION ALL SELECT payment_id, amount FROM billing_dispute WHERE state = 'lost') s
                      GROUP BY payment_id) g ON g.payment_id = p.id
           WHERE p.refunded_amount <> coalesce(g.total, 0)""",
    ),
    Check(
        "cash is what payments brought, less what refunds and lost disputes took",
        """SELECT coalesce(m.currency, b.unit), coalesce(m.amount, 0), coalesce(b.booked, 0)
           FROM (SELECT currency, sum(amount) AS amount FROM (
                     SELECT currency, received_amount AS amount FROM billing_payment WHERE state = 'succeeded'
                     UNION ALL SELECT currency, -amount FROM billing_refund WHERE state = 'succeeded'
                     UNION ALL SELECT currency, -amount FROM billing_dispute WHERE state = 'lost') s
                 GROUP BY currency) m
           FULL JOIN (SELECT e.unit, sum(e.amount) AS booked FROM billing_ledgerentry e
                      JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id WHERE a.kind = 'cash'
                      GROUP BY e.unit) b ON b.unit = m.currency
           WHERE coalesce(m.amount, 0) <> coalesce(b.booked, 0)""",
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
