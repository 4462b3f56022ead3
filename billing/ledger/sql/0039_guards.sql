-- Entries sum to zero per transaction and unit and belong to a transaction, an account of the books and, where it has one, an
-- account: looked at once per statement, whoever writes, not row by row as by foreign keys. All of these stay: transactions and
-- accounts of the books are append-only, and an account has a wallet, which has a foreign key.
CREATE OR REPLACE FUNCTION ledger_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT 1 FROM (SELECT transaction_id, sum(amount) AS total FROM written GROUP BY transaction_id, unit) w
            WHERE w.total <> 0 OR (
                SELECT 1 FROM billing_ledgertransaction t WHERE t.id = w.transaction_id AND (
                    t.account_id IS NULL OR (SELECT 1 FROM billing_account c WHERE c.id = t.account_id) IS NOT NULL)
            ) IS NULL LIMIT 1) IS NOT NULL
       OR (SELECT 1 FROM (SELECT DISTINCT ledger_account_id AS id FROM written) w
               WHERE (SELECT 1 FROM billing_ledgeraccount a WHERE a.id = w.id) IS NULL LIMIT 1) IS NOT NULL THEN
        RAISE EXCEPTION 'ledger entries do not sum to zero, or belong to nothing'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_ledgeraccount
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
