"""Rules of the books about invoices and money in hand, verified with the ledger's own."""

from billing.ledger.verification import Check

_BOOKED = """SELECT e.unit, sum(e.amount) AS booked FROM billing_ledgerentry e
             JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id WHERE a.kind = '{}' GROUP BY e.unit"""

CHECKS = (
    Check(
        "the receivable of each currency is what open invoices have due",
        f"""SELECT coalesce(i.currency, b.unit), coalesce(i.due, 0), coalesce(b.booked, 0)
            FROM (SELECT currency, sum(CASE WHEN kind = 'invoice' THEN 1 ELSE -1 END
                                       * (total - balance_applied - amount_paid)) AS due
                  FROM billing_invoice WHERE state = 'open' GROUP BY currency) i
            FULL JOIN ({_BOOKED.format("receivable")}) b ON b.unit = i.currency
            WHERE coalesce(i.due, 0) <> coalesce(b.booked, 0)""",  # noqa: S608  constant text
    ),
    Check(
        "money in hand is booked, what drafts put aside included",
        f"""SELECT coalesce(h.currency, b.unit), coalesce(h.amount, 0), coalesce(-b.booked, 0)
            FROM (SELECT currency, sum(amount) AS amount FROM (
                      SELECT currency, amount FROM billing_moneybalance
                      UNION ALL SELECT currency, balance_applied FROM billing_invoice WHERE state = 'draft') s
                  GROUP BY currency) h
            FULL JOIN ({_BOOKED.format("money_balance")}) b ON b.unit = h.currency
            WHERE coalesce(h.amount, 0) <> coalesce(-b.booked, 0)""",  # noqa: S608  constant text
    ),
    Check(
        "every account's money in hand is the sum of its entries",
        """SELECT b.id, coalesce(e.total, 0), b.amount FROM billing_moneybalance b
           LEFT JOIN (SELECT balance_id, sum(amount) AS total FROM billing_moneybalanceentry GROUP BY balance_id) e
             ON e.balance_id = b.id
           WHERE b.amount <> coalesce(e.total, 0)""",
    ),
    Check(
        "every issued invoice is in the books with its total",
        """SELECT coalesce(i.number, i.id::text), i.total, coalesce(abs(e.amount), 0) FROM billing_invoice i
           LEFT JOIN billing_ledgertransaction t ON t.idempotency_key = 'invoice:' || i.id
           LEFT JOIN (SELECT e.transaction_id, e.amount FROM billing_ledgerentry e
                      JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id WHERE a.kind = 'receivable') e
             ON e.transaction_id = t.id
           WHERE i.state <> 'draft' AND (t.id IS NULL OR i.total <> coalesce(abs(e.amount), 0))""",
    ),
    Check(
        "every invoice is the sum of its lines",
        """SELECT coalesce(i.number, i.id::text), i.total, coalesce(l.total, 0) FROM billing_invoice i
           LEFT JOIN (SELECT invoice_id, sum(amount) AS total FROM billing_invoiceline GROUP BY invoice_id) l
             ON l.invoice_id = i.id
           WHERE i.total <> coalesce(l.total, 0)""",
    ),
    Check(
        "every number series is without gaps",
        """SELECT s.seller || ' ' || s.kind || ' ' || s.fiscal_year, s.next_number - 1, count(i.id) || ' to ' || max(i.sequence)
           FROM billing_numberseries s
           LEFT JOIN billing_invoice i
             ON i.seller_code = s.seller AND i.kind = s.kind AND i.fiscal_year = s.fiscal_year AND i.sequence IS NOT NULL
           GROUP BY s.id
           HAVING count(i.id) <> s.next_number - 1 OR coalesce(max(i.sequence), 0) <> s.next_number - 1""",
    ),
    Check(
        "what is credited of an invoice is what its credit notes say",
        """SELECT i.number, i.credited_total, coalesce(c.total, 0) FROM billing_invoice i
           LEFT JOIN (SELECT corrects_id, sum(total) AS total FROM billing_invoice WHERE kind = 'credit_note'
                      GROUP BY corrects_id) c ON c.corrects_id = i.id
           WHERE i.kind = 'invoice' AND i.credited_total <> coalesce(c.total, 0)""",
    ),
)
