-- The books are append-only, prices are write-once, and every transaction's entries sum to zero, whoever writes.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_ledgertransaction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_ledgerentry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER write_once BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_planprice
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER write_once BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_fxrate
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION ledger_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT 1 FROM written GROUP BY transaction_id, unit HAVING sum(amount) <> 0 LIMIT 1) IS NOT NULL THEN
        RAISE EXCEPTION 'ledger entries do not sum to zero' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER sums_to_zero AFTER INSERT ON billing_ledgerentry
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_balance();

-- Hot rows stay on their page.
ALTER TABLE billing_wallet SET (fillfactor = 50);
ALTER TABLE billing_lot SET (fillfactor = 50);

-- Web processes hold keys, accounts, plans and subscriptions in memory: a commit that changes one of them says so. The payload is
-- `account:<id>`, `user:<id>` or a plain word.
CREATE FUNCTION announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NARGS > 1 THEN
        PERFORM pg_notify('iafactory_cache', TG_ARGV[0] || ':' || (to_jsonb(coalesce(NEW, OLD)) ->> TG_ARGV[1]));
    ELSE
        PERFORM pg_notify('iafactory_cache', TG_ARGV[0]);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER DELETE OR UPDATE OF account_id, scopes, expires_at, revoked_at ON billing_apikey
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'account_id');
CREATE TRIGGER announce AFTER UPDATE ON billing_account
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'id');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON billing_subscription
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'account_id');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON billing_membership
    FOR EACH ROW EXECUTE FUNCTION announce_change('user', 'user_id');
CREATE TRIGGER announce AFTER UPDATE OF is_active, password ON billing_user
    FOR EACH ROW EXECUTE FUNCTION announce_change('user', 'id');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON billing_plan
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('plans');

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_dayseal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
