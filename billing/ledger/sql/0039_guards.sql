-- Entries sum to zero per transaction and unit and belong to a transaction and an account, whoever writes: looked at once per
-- statement, not row by row as by foreign keys. Transactions and accounts are append-only, so that nothing an entry belongs to
-- goes later.
CREATE OR REPLACE FUNCTION ledger_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT 1 FROM (SELECT transaction_id, sum(amount) AS total FROM written GROUP BY transaction_id, unit) w
            WHERE w.total <> 0 OR (SELECT 1 FROM billing_ledgertransaction t WHERE t.id = w.transaction_id) IS NULL LIMIT 1) IS NOT NULL
       OR (SELECT 1 FROM (SELECT DISTINCT ledger_account_id AS id FROM written) w
               WHERE (SELECT 1 FROM billing_ledgeraccount a WHERE a.id = w.id) IS NULL LIMIT 1) IS NOT NULL THEN
        RAISE EXCEPTION 'ledger entries do not sum to zero, or have no transaction or account'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_ledgeraccount
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
