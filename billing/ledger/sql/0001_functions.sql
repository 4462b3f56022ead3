-- Every statement that moves credits, once. The group-commit writer and the sync services call the same functions: the writer
-- with what its queue holds, a service with one item. Each call is one transaction of the caller's connection.
--
-- Lock order: wallets by id, then their lots, then holds. The lock is always a statement of its own, so that what follows sees
-- what others committed before it. FOR NO KEY UPDATE leaves room for the foreign-key checks of new rows.
-- `enable_seqscan = off` keeps a plan cached while a table was empty from staying a sequential scan. The planner takes every
-- batch for ten rows, so what belongs to an item is looked up beside it (LATERAL, an index, an array): a join of two batches
-- would become a nested loop over their product.

CREATE TYPE ledger_hold_item AS (
    id uuid,
    account_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    credits numeric(20, 6),  -- rounded here, so that every sum below is exact
    worst_cost_usd numeric(20, 9),
    endpoint text,
    provider text,
    model text,
    quota jsonb,
    idempotency_key text,
    body_hash text,
    opened_at timestamptz,
    expires_at timestamptz
);

CREATE TYPE ledger_call_item AS (
    held numeric(20, 6),    -- credits of its hold
    charge numeric(20, 6),  -- price of the call in credits
    loss_usd numeric(20, 9),  -- provider cost that no customer pays
    loss_kind text,         -- operator_loss or unknown_cost
    reason text,
    reaped boolean,         -- closed by the reaper, not by its own process
    usage billing_usagerecord,
    answer billing_storedanswer  -- kept for repetitions of the same idempotency key; null without one
);

CREATE TYPE ledger_grant_item AS (
    lot_id uuid,
    account_id uuid,
    kind text,
    amount numeric,
    paid_amount numeric,
    paid_currency text,
    payment_id uuid,
    effective_at timestamptz,
    expires_at timestamptz,
    priority smallint,
    source text,
    reason text,
    actor text,
    idempotency_key text
);

-- Id of an account of the books that belongs to no customer.
CREATE FUNCTION ledger_account(p_kind text, p_unit text) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT id FROM billing_ledgeraccount WHERE kind = p_kind AND unit = p_unit AND account_id IS NULL
$$;

-- Id of a customer's debt account, made when first needed.
CREATE FUNCTION ledger_debt_account(p_account uuid) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid;
BEGIN
    SELECT id INTO v_id FROM billing_ledgeraccount WHERE kind = 'debt' AND unit = 'credit' AND account_id = p_account;
    IF NOT FOUND THEN
        INSERT INTO billing_ledgeraccount (id, kind, unit, account_id) VALUES (gen_random_uuid(), 'debt', 'credit', p_account)
            RETURNING id INTO v_id;
    END IF;
    RETURN v_id;
END $$;

-- Takes what is not held out of a lot that ended, and books it: as expired, or back to where it was issued from when void. What
-- open holds pinned stays until they settle. The wallet must be locked.
CREATE FUNCTION ledger_lot_close(p_lot uuid, p_kind text, p_now timestamptz, p_reason text, p_actor text)
RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    v_lot billing_lot;
    v_free numeric;
    v_transaction uuid := gen_random_uuid();
    v_balance numeric;
BEGIN
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;
    v_free := CASE WHEN v_lot.booked_at IS NULL THEN 0 ELSE v_lot.remaining - v_lot.held END;
    UPDATE billing_lot SET remaining = held, closed_at = coalesce(closed_at, p_now) WHERE id = p_lot;
    IF v_free > 0 THEN
        UPDATE billing_wallet SET balance = balance - v_free WHERE account_id = v_lot.account_id
            RETURNING balance INTO v_balance;
        INSERT INTO billing_ledgertransaction (id, kind, at, account_id, reason, actor)
            VALUES (v_transaction, p_kind, p_now, v_lot.account_id, p_reason, p_actor);
        INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
            VALUES (v_transaction, v_lot.account_id, 'credit', -v_free, v_balance, ARRAY[p_lot], ARRAY[v_free]),
                   (v_transaction, ledger_account(CASE p_kind WHEN 'expiry' THEN 'expired' ELSE 'issued' END, 'credit'),
                    'credit', v_free, NULL, NULL, NULL);
    END IF;
    RETURN v_free;
END $$;

-- Brings a lot that is due into the balance. The wallet must be locked.
CREATE FUNCTION ledger_lot_book(p_lot uuid, p_now timestamptz, p_key text, p_reason text, p_actor text)
RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    v_lot billing_lot;
    v_transaction uuid := gen_random_uuid();
    v_balance numeric;
BEGIN
    UPDATE billing_lot SET booked_at = p_now WHERE id = p_lot AND booked_at IS NULL RETURNING * INTO STRICT v_lot;
    UPDATE billing_wallet SET balance = balance + v_lot.amount WHERE account_id = v_lot.account_id
        RETURNING balance INTO v_balance;
    INSERT INTO billing_ledgertransaction (id, kind, idempotency_key, at, account_id, reason, actor)
        VALUES (v_transaction, 'grant', p_key, p_now, v_lot.account_id, p_reason, p_actor);
    INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
        VALUES (v_transaction, v_lot.account_id, 'credit', v_lot.amount, v_balance, ARRAY[p_lot], ARRAY[v_lot.amount]),
               (v_transaction, ledger_account('issued', 'credit'), 'credit', -v_lot.amount, NULL, NULL, NULL);
    RETURN v_balance;
END $$;

-- A purchase pays what a lost dispute left first. The wallet must be locked. Returns the balance then.
CREATE FUNCTION ledger_debt_pay(p_lot uuid, p_now timestamptz) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    v_lot billing_lot;
    v_wallet billing_wallet;
    v_paid numeric;
    v_transaction uuid := gen_random_uuid();
BEGIN
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;
    SELECT * INTO STRICT v_wallet FROM billing_wallet WHERE account_id = v_lot.account_id;
    v_paid := least(v_wallet.debt, v_lot.remaining - v_lot.held);
    IF v_paid > 0 THEN
        UPDATE billing_lot SET remaining = remaining - v_paid WHERE id = p_lot;
        UPDATE billing_wallet SET balance = balance - v_paid, debt = debt - v_paid WHERE account_id = v_lot.account_id
            RETURNING * INTO v_wallet;
        INSERT INTO billing_ledgertransaction (id, kind, at, account_id, reason, actor)
            VALUES (v_transaction, 'dispute', p_now, v_lot.account_id, 'The purchase pays the debt first.', 'system');
        INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
        VALUES (v_transaction, v_lot.account_id, 'credit', -v_paid, v_wallet.balance, ARRAY[p_lot], ARRAY[v_paid]),
               (v_transaction, ledger_debt_account(v_lot.account_id), 'credit', v_paid, NULL, NULL, NULL);
    END IF;
    RETURN v_wallet.balance;
END $$;

-- When a wallet's next lot becomes effective or expires.
CREATE FUNCTION ledger_next_change(p_account uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT min(CASE WHEN booked_at IS NULL THEN effective_at ELSE expires_at END)
    FROM billing_lot WHERE account_id = p_account AND closed_at IS NULL
$$;

-- Books everything that became due on a locked wallet: future lots that began, lots that expired.
CREATE FUNCTION ledger_wallet_roll(p_account uuid, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_lot record;
BEGIN
    FOR v_lot IN
        SELECT id, kind, source, booked_at, effective_at, expires_at FROM billing_lot
        WHERE account_id = p_account AND closed_at IS NULL
          AND (booked_at IS NULL AND effective_at <= p_now OR expires_at <= p_now)
        ORDER BY coalesce(expires_at, effective_at), id
    LOOP
        IF v_lot.booked_at IS NULL THEN
            PERFORM ledger_lot_book(v_lot.id, p_now, 'lot-effective:' || v_lot.id, v_lot.source, 'system');
            IF v_lot.kind = 'purchase' THEN
                PERFORM ledger_debt_pay(v_lot.id, p_now);
            END IF;
        END IF;
        IF v_lot.expires_at <= p_now THEN
            PERFORM ledger_lot_close(v_lot.id, 'expiry', p_now, v_lot.source, 'system');
        END IF;
    END LOOP;
    UPDATE billing_wallet SET next_change_at = ledger_next_change(p_account) WHERE account_id = p_account;
END $$;

-- Locks wallets in id order and books what is due on them; returns those that were locked. Without `p_wait` a wallet that
-- somebody else holds is left out, so that one slow writer never stalls the others.
CREATE FUNCTION ledger_wallets_lock(p_accounts uuid[], p_now timestamptz, p_wait boolean)
RETURNS uuid[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_locked uuid[];
    v_due uuid;
BEGIN
    IF p_wait THEN
        v_locked := ARRAY(SELECT account_id FROM billing_wallet WHERE account_id = ANY (p_accounts)
                          ORDER BY account_id FOR NO KEY UPDATE);
    ELSE
        v_locked := ARRAY(SELECT account_id FROM billing_wallet WHERE account_id = ANY (p_accounts)
                          ORDER BY account_id FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    FOR v_due IN
        SELECT account_id FROM billing_wallet WHERE account_id = ANY (v_locked) AND next_change_at <= p_now ORDER BY account_id
    LOOP
        PERFORM ledger_wallet_roll(v_due, p_now);
    END LOOP;
    RETURN v_locked;
END $$;

-- Opens holds in arrival order. Verdicts: held, insufficient (nothing written), busy (try again), conflict (another open
-- hold has its idempotency key), answered (a stored answer has it), indebted, no_wallet, closed (the request id was booked
-- before). Opening an open hold again answers held.
CREATE FUNCTION ledger_holds_open(p_items json, p_now timestamptz, p_wait boolean)
RETURNS TABLE (request_id uuid, verdict text, available numeric)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_items ledger_hold_item[] := ARRAY(SELECT json_populate_recordset(NULL::ledger_hold_item, p_items));
    v_locked uuid[];
    v_item record;
    v_account uuid;
    v_available numeric;
    v_used numeric;
    v_starts numeric[] := array_fill(NULL::numeric, ARRAY[cardinality(v_items)]);
    v_accepted numeric;
    v_pinned numeric;
BEGIN
    v_locked := ledger_wallets_lock(
        -- A key is judged under the lock too: two free calls with one key must not pass side by side.
        ARRAY(SELECT DISTINCT account_id FROM unnest(v_items) WHERE credits > 0 OR idempotency_key IS NOT NULL), p_now, p_wait);

    FOR v_item IN
        SELECT i.ordinality, i.id, i.account_id, i.credits, w.balance - w.held AS available,
               i.credits = 0 AND i.idempotency_key IS NULL OR i.account_id = ANY (v_locked) AS ready,
               w.account_id IS NOT NULL AS has_wallet,
               (SELECT 1 FROM billing_hold h WHERE h.id = i.id) IS NOT NULL AS open_already,
               (SELECT 1 FROM billing_ledgertransaction t WHERE t.id = i.id) IS NOT NULL
                   OR (SELECT 1 FROM billing_ledgertransaction t
                       WHERE t.idempotency_key = 'reap:' || i.id) IS NOT NULL AS closed,
               i.idempotency_key IS NOT NULL AND (
                   (SELECT 1 FROM billing_hold h WHERE h.account_id = i.account_id
                        AND h.api_key_id IS NOT DISTINCT FROM i.api_key_id
                        AND h.idempotency_key = i.idempotency_key LIMIT 1) IS NOT NULL
                   OR row_number() OVER (
                       PARTITION BY i.account_id, i.api_key_id, i.idempotency_key ORDER BY i.ordinality) > 1
               ) AS conflicting,
               i.idempotency_key IS NOT NULL AND (
                   SELECT 1 FROM billing_storedanswer s WHERE s.account_id = i.account_id
                       AND s.api_key_id IS NOT DISTINCT FROM i.api_key_id
                       AND s.key = i.idempotency_key AND s.expires_at > p_now LIMIT 1) IS NOT NULL AS answered,
               w.debt > 0 AS indebted
        FROM unnest(v_items) WITH ORDINALITY AS i
        LEFT JOIN LATERAL (SELECT * FROM billing_wallet w WHERE w.account_id = i.account_id LIMIT 1) w ON true
        ORDER BY i.account_id, i.ordinality
    LOOP
        request_id := v_item.id;
        IF v_account IS DISTINCT FROM v_item.account_id THEN
            v_account := v_item.account_id;
            v_available := v_item.available;
            v_used := 0;
        END IF;
        available := v_available - v_used;
        IF v_item.open_already THEN
            verdict := 'held';
        ELSIF v_item.closed THEN
            verdict := 'closed';
        ELSIF v_item.answered THEN
            verdict := 'answered';
        ELSIF v_item.conflicting THEN
            verdict := 'conflict';
        ELSIF NOT v_item.has_wallet THEN
            verdict := 'no_wallet';
        ELSIF NOT v_item.ready THEN
            verdict := 'busy';
        ELSIF v_item.indebted THEN
            verdict := 'indebted';
        ELSIF v_item.credits > v_available - v_used THEN
            verdict := 'insufficient';
        ELSE
            verdict := 'held';
            v_starts[v_item.ordinality] := v_used;
            v_accepted := coalesce(v_accepted, 0) + v_item.credits;
            v_used := v_used + v_item.credits;
            available := v_available - v_used;
        END IF;
        RETURN NEXT;
    END LOOP;

    IF v_accepted IS NULL THEN
        RETURN;
    END IF;

    -- The accepted holds of a wallet lie end to end on the line of its free lot parts in burn order.
    WITH accepted AS MATERIALIZED (
        SELECT i.*, p.lot_ids, p.lot_amounts
        FROM unnest(v_items) WITH ORDINALITY AS i
        CROSS JOIN LATERAL (
            SELECT coalesce(array_agg(f.id ORDER BY f.starts), '{}') AS lot_ids,
                   coalesce(array_agg(least(v_starts[i.ordinality] + i.credits, f.starts + f.size)
                                      - greatest(v_starts[i.ordinality], f.starts) ORDER BY f.starts), '{}') AS lot_amounts
            FROM (
                SELECT l.id, l.remaining - l.held AS size,
                       sum(l.remaining - l.held) OVER (
                           ORDER BY l.priority, l.expires_at NULLS LAST, l.paid_amount > 0, l.created_at, l.id
                       ) - (l.remaining - l.held) AS starts
                FROM billing_lot l
                WHERE l.account_id = i.account_id AND l.closed_at IS NULL AND l.booked_at IS NOT NULL AND l.remaining > l.held
            ) f
            WHERE i.credits > 0 AND f.starts < v_starts[i.ordinality] + i.credits AND f.starts + f.size > v_starts[i.ordinality]
        ) p
        WHERE v_starts[i.ordinality] IS NOT NULL
    ), lots AS (
        UPDATE billing_lot l SET held = l.held + p.amount
        FROM (SELECT lot_id, sum(amount) AS amount
              FROM accepted CROSS JOIN LATERAL unnest(lot_ids, lot_amounts) AS u (lot_id, amount) GROUP BY lot_id) p
        WHERE l.id = p.lot_id
        RETURNING p.amount
    ), wallets AS (
        UPDATE billing_wallet w SET held = w.held + a.credits
        FROM (SELECT account_id, sum(credits) AS credits FROM accepted WHERE credits > 0 GROUP BY account_id) a
        WHERE w.account_id = a.account_id
    ), holds AS (
        INSERT INTO billing_hold (id, account_id, api_key_id, subscription_id, credits, lot_ids, lot_amounts, worst_cost_usd,
                                  endpoint, provider, model, quota, idempotency_key, body_hash, opened_at, expires_at)
        SELECT id, account_id, api_key_id, subscription_id, credits, lot_ids, lot_amounts, worst_cost_usd,
               endpoint, provider, model, coalesce(quota, '{}'), idempotency_key, body_hash, opened_at, expires_at
        FROM accepted
    )
    SELECT sum(amount) INTO v_pinned FROM lots;

    IF coalesce(v_pinned, 0) <> v_accepted THEN
        RAISE EXCEPTION 'lots do not cover what the wallets promise' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END $$;

-- Raises an open hold to `p_credits` and its worst cost to `p_worst_cost_usd`; never lowers. Verdicts: held, insufficient, gone.
CREATE FUNCTION ledger_hold_extend(p_id uuid, p_credits numeric, p_worst_cost_usd numeric, p_now timestamptz)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_hold billing_hold;
    v_need numeric;
    v_lot record;
    v_take numeric;
BEGIN
    SELECT * INTO v_hold FROM billing_hold WHERE id = p_id;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    PERFORM ledger_wallets_lock(ARRAY[v_hold.account_id], p_now, true);
    SELECT * INTO v_hold FROM billing_hold WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    v_need := greatest(0, p_credits - v_hold.credits);
    IF v_need > (SELECT balance - held FROM billing_wallet WHERE account_id = v_hold.account_id) THEN
        RETURN 'insufficient';
    END IF;
    UPDATE billing_wallet SET held = held + v_need WHERE account_id = v_hold.account_id AND v_need > 0;
    FOR v_lot IN
        SELECT id, remaining - held AS free FROM billing_lot
        WHERE account_id = v_hold.account_id AND closed_at IS NULL AND booked_at IS NOT NULL AND remaining > held
        ORDER BY priority, expires_at NULLS LAST, paid_amount > 0, created_at, id
    LOOP
        EXIT WHEN v_need <= 0;
        v_take := least(v_need, v_lot.free);
        UPDATE billing_lot SET held = held + v_take WHERE id = v_lot.id;
        v_hold.lot_ids := v_hold.lot_ids || v_lot.id;
        v_hold.lot_amounts := v_hold.lot_amounts || v_take;
        v_need := v_need - v_take;
    END LOOP;
    IF v_need > 0 THEN
        RAISE EXCEPTION 'lots do not cover what the wallets promise' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    UPDATE billing_hold SET credits = greatest(credits, p_credits), lot_ids = v_hold.lot_ids, lot_amounts = v_hold.lot_amounts,
        worst_cost_usd = greatest(worst_cost_usd, p_worst_cost_usd) WHERE id = p_id;
    RETURN 'held';
END $$;

-- Keeps an answer for repetitions; one that ran out makes room for it, a living one stays.
CREATE FUNCTION ledger_answer_store(p_answer billing_storedanswer, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM billing_storedanswer WHERE account_id = p_answer.account_id
        AND api_key_id IS NOT DISTINCT FROM p_answer.api_key_id AND key = p_answer.key AND expires_at <= p_now;
    INSERT INTO billing_storedanswer SELECT p_answer.* ON CONFLICT DO NOTHING;
END $$;

-- Whether a call's idempotency key was charged under another request id: its hold was reaped while it ran, and a repetition was
-- served in between.
CREATE FUNCTION ledger_key_charged(p_answer billing_storedanswer, p_now timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT p_answer.id IS NOT NULL AND (
        SELECT 1 FROM billing_storedanswer s
        WHERE s.account_id = p_answer.account_id AND s.api_key_id IS NOT DISTINCT FROM p_answer.api_key_id
          AND s.key = p_answer.key AND s.id <> p_answer.id AND s.expires_at > p_now LIMIT 1) IS NOT NULL
$$;

-- Settles one call whose hold is missing or too small, or whose key was charged before: pinned parts first, then whatever is
-- free, the rest is the operator's loss; all of it where the key was charged. The wallet must be locked. No row: somebody else has just booked it, which only a free call without a hold can meet.
CREATE FUNCTION ledger_call_settle_carefully(p_item ledger_call_item, p_now timestamptz)
RETURNS TABLE (charged numeric, lost numeric, balance_after numeric) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_usage billing_usagerecord := p_item.usage;
    v_hold billing_hold;
    v_charged_before boolean := ledger_key_charged(p_item.answer, p_now);
    v_due numeric := CASE WHEN v_charged_before THEN 0 ELSE p_item.charge END;
    v_rest numeric := v_due;
    v_take numeric;
    v_part record;
    v_lot_ids uuid[] := '{}';
    v_lot_amounts numeric[] := '{}';
    v_reaped_usd numeric;
BEGIN
    INSERT INTO billing_ledgertransaction (id, kind, at, account_id, reason, actor)
        VALUES (v_usage.id, 'call', p_now, v_usage.account_id,
                CASE WHEN v_charged_before THEN 'Charged before under the same idempotency key.' ELSE p_item.reason END, '')
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM billing_hold WHERE id = v_usage.id RETURNING * INTO v_hold;
    FOR v_part IN SELECT * FROM unnest(v_hold.lot_ids, v_hold.lot_amounts) AS p (lot_id, amount) LOOP
        v_take := least(v_rest, v_part.amount);
        UPDATE billing_lot SET held = held - v_part.amount, remaining = remaining - v_take WHERE id = v_part.lot_id;
        IF v_take > 0 THEN
            v_lot_ids := v_lot_ids || v_part.lot_id;
            v_lot_amounts := v_lot_amounts || v_take;
            v_rest := v_rest - v_take;
        END IF;
    END LOOP;
    FOR v_part IN
        SELECT id AS lot_id, remaining - held AS amount FROM billing_lot
        WHERE account_id = v_usage.account_id AND closed_at IS NULL AND booked_at IS NOT NULL AND remaining > held
        ORDER BY priority, expires_at NULLS LAST, paid_amount > 0, created_at, id
    LOOP
        EXIT WHEN v_rest <= 0;
        v_take := least(v_rest, v_part.amount);
        UPDATE billing_lot SET remaining = remaining - v_take WHERE id = v_part.lot_id;
        v_lot_ids := v_lot_ids || v_part.lot_id;
        v_lot_amounts := v_lot_amounts || v_take;
        v_rest := v_rest - v_take;
    END LOOP;
    charged := v_due - v_rest;
    lost := p_item.charge - charged;
    -- A free call does not lock its wallet, so it must not touch it either.
    IF charged > 0 OR v_hold.credits > 0 THEN
        UPDATE billing_wallet SET balance = balance - charged, held = held - coalesce(v_hold.credits, 0)
            WHERE account_id = v_usage.account_id RETURNING balance INTO balance_after;
    END IF;

    IF p_item.charge > 0 THEN
        INSERT INTO billing_ledgerentry
            (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
        SELECT v_usage.id, e.ledger_account_id, 'credit', e.amount, e.balance_after, e.lot_ids, e.lot_amounts
        FROM (VALUES
            (v_usage.account_id, -charged, balance_after, v_lot_ids, v_lot_amounts),
            (ledger_account('consumed', 'credit'), p_item.charge, NULL, NULL, NULL),
            (ledger_account('operator_loss', 'credit'), -lost, NULL, NULL, NULL)
        ) AS e (ledger_account_id, amount, balance_after, lot_ids, lot_amounts)
        WHERE e.amount <> 0;
    END IF;

    -- The reaper may have taken the process for dead and booked the worst case as unknown: that is known now.
    SELECT sum(e.amount) INTO v_reaped_usd
    FROM billing_ledgertransaction t JOIN billing_ledgerentry e ON e.transaction_id = t.id
    WHERE t.idempotency_key = 'reap:' || v_usage.id AND e.ledger_account_id = ledger_account('unknown_cost', 'USD');
    INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount)
    SELECT v_usage.id, ledger_account(e.kind, 'USD'), 'USD', e.amount
    FROM (VALUES
        ('unknown_cost', -coalesce(v_reaped_usd, 0)),
        ('provider_cost', coalesce(v_reaped_usd, 0)),
        (p_item.loss_kind, p_item.loss_usd),
        ('provider_cost', -p_item.loss_usd)
    ) AS e (kind, amount)
    WHERE e.amount <> 0;

    DELETE FROM billing_usagerecord
        WHERE id = v_usage.id AND started_at = v_usage.started_at AND "end" = 'process_died';
    v_usage.credits_charged := charged;
    v_usage.credits_lost := lost;
    INSERT INTO billing_usagerecord SELECT v_usage.*;
    IF (p_item.answer).id IS NOT NULL THEN
        PERFORM ledger_answer_store(p_item.answer, p_now);
    END IF;
    RETURN NEXT;
END $$;

-- Ends calls: usage row, ledger, lots, wallet, hold. Verdicts: settled, late (its hold was gone, booked all the same),
-- duplicate (booked before; answers what was booked), busy (try again), no_wallet. Raises for a charge that is no amount.
CREATE FUNCTION ledger_calls_settle(p_items json, p_now timestamptz, p_wait boolean)
RETURNS TABLE (request_id uuid, verdict text, charged numeric, lost numeric, balance_after numeric)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_items ledger_call_item[] := ARRAY(SELECT json_populate_recordset(NULL::ledger_call_item, p_items));
    v_states text[];
    v_locked uuid[];
    v_free uuid[];
    v_ids uuid[];
    v_charges numeric[];
    v_balances numeric[];
    v_dead uuid[];
    v_item record;
    v_lot uuid;
    v_consumed uuid := ledger_account('consumed', 'credit');
    v_provider_cost uuid := ledger_account('provider_cost', 'USD');
    v_operator_loss uuid := ledger_account('operator_loss', 'USD');
    v_unknown_cost uuid := ledger_account('unknown_cost', 'USD');
BEGIN
    v_locked := ledger_wallets_lock(
        ARRAY(SELECT DISTINCT (i.usage).account_id FROM unnest(v_items) AS i WHERE i.charge > 0 OR i.held > 0), p_now, p_wait);

    -- Free calls take no wallet's lock: their holds are locked instead, so that a settle and the reaper exclude each other.
    v_free := ARRAY(SELECT (i.usage).id FROM unnest(v_items) AS i WHERE NOT (i.charge > 0 OR i.held > 0));
    IF v_free <> '{}' THEN
        IF p_wait THEN
            v_free := ARRAY(SELECT id FROM billing_hold WHERE id = ANY (v_free) ORDER BY id FOR UPDATE);
        ELSE
            v_free := ARRAY(SELECT id FROM billing_hold WHERE id = ANY (v_free) ORDER BY id FOR UPDATE SKIP LOCKED);
        END IF;
    END IF;

    v_states := ARRAY(
        SELECT CASE
            WHEN NOT i.reaped AND (SELECT 1 FROM billing_ledgertransaction t WHERE t.id = (i.usage).id) IS NOT NULL
                THEN 'duplicate'
            WHEN i.reaped AND h.id IS NULL THEN 'duplicate'
            WHEN row_number() OVER (PARTITION BY (i.usage).id ORDER BY i.ordinality) > 1 THEN 'busy'
            WHEN (i.charge > 0 OR i.held > 0) AND NOT (i.usage).account_id = ANY (v_locked)
                THEN CASE WHEN p_wait THEN 'no_wallet' ELSE 'busy' END
            WHEN NOT (i.charge > 0 OR i.held > 0) AND h.id IS NOT NULL AND NOT h.id = ANY (v_free) THEN 'busy'
            -- NaN is above every number.
            WHEN NOT coalesce(i.charge BETWEEN 0 AND 99999999999999, false) THEN 'impossible'
            WHEN h.id IS NULL OR i.charge > h.credits OR ledger_key_charged(i.answer, p_now) THEN 'careful'
            ELSE 'simple'
        END
        FROM unnest(v_items) WITH ORDINALITY AS i
        LEFT JOIN LATERAL (SELECT id, credits FROM billing_hold b WHERE b.id = (i.usage).id LIMIT 1) h ON true
        ORDER BY i.ordinality
    );
    IF 'impossible' = ANY (v_states) THEN
        RAISE EXCEPTION 'a charge is not an amount of credits' USING ERRCODE = 'check_violation';
    END IF;

    WITH item AS MATERIALIZED (
        SELECT (i.usage).id AS id, (i.usage).account_id AS account_id, i.charge, i.loss_usd, i.loss_kind, i.reason, i.reaped,
               i.usage, i.ordinality,
               CASE WHEN i.reaped THEN gen_random_uuid() ELSE (i.usage).id END AS transaction_id
        FROM unnest(v_items) WITH ORDINALITY AS i
        WHERE v_states[i.ordinality] = 'simple'
    ), hold AS (
        DELETE FROM billing_hold h USING item WHERE h.id = item.id
        RETURNING item.*, h.credits, h.lot_ids, h.lot_amounts
    ), spent AS MATERIALIZED (
        SELECT hold.*, p.taken
        FROM hold
        CROSS JOIN LATERAL (
            SELECT array_agg(least(s.amount, greatest(0, hold.charge - (s.upto - s.amount))) ORDER BY s.position) AS taken
            FROM (SELECT u.amount, u.position, sum(u.amount) OVER (ORDER BY u.position) AS upto
                  FROM unnest(hold.lot_amounts) WITH ORDINALITY AS u (amount, position)) s
        ) p
    ), lot AS (
        UPDATE billing_lot l SET held = l.held - s.amount, remaining = l.remaining - s.taken
        FROM (SELECT u.lot_id, sum(u.amount) AS amount, sum(u.taken) AS taken
              FROM spent CROSS JOIN LATERAL unnest(spent.lot_ids, spent.lot_amounts, spent.taken) AS u (lot_id, amount, taken)
              GROUP BY u.lot_id) s
        WHERE l.id = s.lot_id
        RETURNING l.id, l.closed_at IS NOT NULL AND l.remaining > l.held AS dead
    ), wallet AS (
        UPDATE billing_wallet w SET balance = w.balance - s.charge, held = w.held - s.credits
        FROM (SELECT account_id, sum(charge) AS charge, sum(credits) AS credits
              FROM spent GROUP BY account_id HAVING sum(credits) > 0) s
        WHERE w.account_id = s.account_id
    ), booked AS MATERIALIZED (
        -- The balance is the one before this statement: the wallet is locked.
        SELECT spent.*, w.balance
               - sum(spent.charge) OVER (PARTITION BY spent.account_id ORDER BY spent.ordinality) AS balance_after
        FROM spent
        LEFT JOIN LATERAL (
            SELECT balance FROM billing_wallet b WHERE b.account_id = spent.account_id AND spent.credits > 0 LIMIT 1
        ) w ON true
    ), transactions AS (
        INSERT INTO billing_ledgertransaction (id, kind, idempotency_key, at, account_id, reason, actor)
        SELECT transaction_id, CASE WHEN reaped THEN 'reaped' ELSE 'call' END, CASE WHEN reaped THEN 'reap:' || id END,
               p_now, account_id, reason, CASE WHEN reaped THEN 'system' ELSE '' END
        FROM booked
    ), entries AS (
        INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
        SELECT transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts FROM (
        SELECT b.ordinality, b.transaction_id, b.account_id AS ledger_account_id, 'credit' AS unit, -b.charge AS amount,
               b.balance_after, p.lot_ids, p.lot_amounts
        FROM booked b
        CROSS JOIN LATERAL (
            SELECT array_agg(u.lot_id ORDER BY u.position) AS lot_ids, array_agg(u.taken ORDER BY u.position) AS lot_amounts
            FROM unnest(b.lot_ids, b.taken) WITH ORDINALITY AS u (lot_id, taken, position) WHERE u.taken > 0
        ) p
        WHERE b.charge > 0
        UNION ALL
        SELECT ordinality, transaction_id, v_consumed, 'credit', charge, NULL, NULL, NULL FROM booked WHERE charge > 0
        UNION ALL
        SELECT ordinality, transaction_id, CASE loss_kind WHEN 'unknown_cost' THEN v_unknown_cost ELSE v_operator_loss END, 'USD',
               loss_usd, NULL, NULL, NULL
        FROM booked WHERE loss_usd > 0
        UNION ALL
        SELECT ordinality, transaction_id, v_provider_cost, 'USD', -loss_usd, NULL, NULL, NULL FROM booked WHERE loss_usd > 0
        ) AS e
        -- In the order of the balances, so that a wallet's entries read as a chain.
        ORDER BY ordinality
    ), usages AS (
        INSERT INTO billing_usagerecord SELECT (b.usage).* FROM booked b
    )
    SELECT array_agg(b.id), array_agg(b.charge), array_agg(b.balance_after),
           (SELECT array_agg(lot.id) FROM lot WHERE lot.dead)
    INTO v_ids, v_charges, v_balances, v_dead
    FROM booked b;

    IF cardinality(v_ids) IS DISTINCT FROM nullif((SELECT count(*)::int FROM unnest(v_states) s WHERE s = 'simple'), 0) THEN
        RAISE EXCEPTION 'a hold vanished between two statements' USING ERRCODE = 'serialization_failure';
    END IF;

    PERFORM ledger_answer_store(i.answer, p_now)
        FROM unnest(v_items) WITH ORDINALITY AS i WHERE v_states[i.ordinality] = 'simple' AND (i.answer).id IS NOT NULL;

    -- What a dead lot gets back ends at once, in the same transaction.
    FOREACH v_lot IN ARRAY coalesce(v_dead, '{}') LOOP
        PERFORM ledger_lot_close(v_lot, 'expiry', p_now, 'released after its end', 'system');
    END LOOP;

    RETURN QUERY SELECT u.id, 'settled', u.charge, 0::numeric, u.balance
        FROM unnest(v_ids, v_charges, v_balances) AS u (id, charge, balance);

    FOR v_item IN
        SELECT i.*, v_states[i.ordinality] AS state,
               (SELECT 1 FROM billing_hold h WHERE h.id = (i.usage).id) IS NOT NULL AS has_hold
        FROM unnest(v_items) WITH ORDINALITY AS i WHERE v_states[i.ordinality] <> 'simple' ORDER BY i.ordinality
    LOOP
        request_id := (v_item.usage).id;
        verdict := v_item.state;
        charged := NULL;
        lost := NULL;
        balance_after := NULL;
        IF v_item.state = 'careful' THEN
            verdict := CASE WHEN v_item.has_hold THEN 'settled' ELSE 'late' END;
            SELECT s.charged, s.lost, s.balance_after INTO charged, lost, balance_after
            FROM ledger_call_settle_carefully(
                (v_item.held, v_item.charge, v_item.loss_usd, v_item.loss_kind, v_item.reason, v_item.reaped, v_item.usage,
                 v_item.answer)::ledger_call_item, p_now) s;
            IF charged IS NULL THEN
                verdict := 'duplicate';
                charged := 0;
                lost := 0;
            END IF;
            FOR v_lot IN
                SELECT l.id FROM billing_lot l
                WHERE l.account_id = (v_item.usage).account_id AND l.closed_at IS NOT NULL AND l.remaining > l.held
            LOOP
                PERFORM ledger_lot_close(v_lot, 'expiry', p_now, 'released after its end', 'system');
            END LOOP;
        ELSIF v_item.state = 'duplicate' THEN
            SELECT -e.amount, 0, e.balance_after INTO charged, lost, balance_after
            FROM billing_ledgerentry e
            WHERE e.transaction_id = request_id AND e.ledger_account_id = (v_item.usage).account_id LIMIT 1;
            charged := coalesce(charged, 0);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- Takes up to `p_amount` of a lot's unheld credits out of the wallet, as `p_kind` against the operator's account `p_against`.
-- With `p_debt` the part of `p_amount` that is not there any more becomes the customer's debt. Returns what was taken; repeating
-- a key takes nothing and answers what was taken then.
CREATE FUNCTION ledger_lot_take(p_lot uuid, p_amount numeric, p_kind text, p_against text, p_debt boolean, p_key text,
                                p_now timestamptz, p_reason text, p_actor text)
RETURNS numeric LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_lot billing_lot;
    v_taken numeric;
    v_debt numeric := 0;
    v_balance numeric;
    v_transaction uuid := gen_random_uuid();
BEGIN
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;
    PERFORM ledger_wallets_lock(ARRAY[v_lot.account_id], p_now, true);
    SELECT coalesce(-e.amount, 0) INTO v_taken
    FROM billing_ledgertransaction t
    LEFT JOIN billing_ledgerentry e ON e.transaction_id = t.id AND e.ledger_account_id = v_lot.account_id
    WHERE t.idempotency_key = p_key;
    IF FOUND THEN
        RETURN v_taken;
    END IF;
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;
    v_taken := CASE WHEN v_lot.booked_at IS NULL THEN 0 ELSE least(p_amount, v_lot.remaining - v_lot.held) END;
    IF p_debt THEN
        v_debt := p_amount - v_taken;
    END IF;
    UPDATE billing_lot SET remaining = remaining - v_taken WHERE id = p_lot;
    UPDATE billing_wallet SET balance = balance - v_taken, debt = debt + v_debt WHERE account_id = v_lot.account_id
        RETURNING balance INTO v_balance;
    INSERT INTO billing_ledgertransaction (id, kind, idempotency_key, at, account_id, reason, actor)
        VALUES (v_transaction, p_kind, p_key, p_now, v_lot.account_id, p_reason, p_actor);
    INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
    SELECT v_transaction, e.ledger_account_id, 'credit', e.amount, e.balance_after, e.lot_ids, e.lot_amounts
    FROM (VALUES
        (v_lot.account_id, -v_taken, v_balance, ARRAY[p_lot], ARRAY[v_taken]),
        (ledger_debt_account(v_lot.account_id), -v_debt, NULL, NULL, NULL),
        (ledger_account(p_against, 'credit'), v_taken + v_debt, NULL, NULL, NULL)
    ) AS e (ledger_account_id, amount, balance_after, lot_ids, lot_amounts)
    WHERE e.amount <> 0;
    RETURN v_taken;
END $$;

-- Puts back what `ledger_lot_take` took under `p_key`, into the same lot, and forgives the debt it left. A lot that ended
-- meanwhile ends with it; debt that a purchase paid meanwhile comes back all the same. Returns what came back; repeating it
-- brings nothing more.
CREATE FUNCTION ledger_lot_give_back(p_lot uuid, p_key text, p_against text, p_now timestamptz, p_reason text, p_actor text)
RETURNS numeric LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_lot billing_lot;
    v_original billing_ledgertransaction;
    v_taken numeric;
    v_debt numeric;
    v_forgiven numeric;
    v_beside numeric;
    v_beside_lot uuid := gen_random_uuid();
    v_balance numeric;
    v_transaction uuid := gen_random_uuid();
BEGIN
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;
    PERFORM ledger_wallets_lock(ARRAY[v_lot.account_id], p_now, true);
    SELECT * INTO STRICT v_lot FROM billing_lot WHERE id = p_lot;  -- it may have ended just now
    SELECT * INTO v_original FROM billing_ledgertransaction WHERE idempotency_key = p_key;
    IF NOT FOUND OR (SELECT 1 FROM billing_ledgertransaction WHERE idempotency_key = 'back:' || p_key) IS NOT NULL THEN
        RETURN 0;
    END IF;
    SELECT coalesce(-sum(e.amount) FILTER (WHERE e.ledger_account_id = v_lot.account_id), 0),
           coalesce(-sum(e.amount) FILTER (WHERE e.ledger_account_id <> v_lot.account_id AND a.kind = 'debt'), 0)
    INTO v_taken, v_debt
    FROM billing_ledgerentry e JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
    WHERE e.transaction_id = v_original.id;
    SELECT least(v_debt, debt) INTO v_forgiven FROM billing_wallet WHERE account_id = v_lot.account_id;
    -- What a purchase paid of the debt comes back as credits of the lot. What has no room there, or would end with a lot that
    -- ended, becomes a lot beside it: it was bought.
    v_beside := CASE WHEN v_lot.closed_at IS NOT NULL THEN v_debt - v_forgiven
                     ELSE greatest(0, v_lot.remaining + v_taken + v_debt - v_forgiven - v_lot.amount) END;
    v_taken := v_taken + v_debt - v_forgiven;
    UPDATE billing_lot SET remaining = remaining + v_taken - v_beside WHERE id = p_lot;
    IF v_beside > 0 THEN
        INSERT INTO billing_lot (id, account_id, kind, amount, remaining, held, paid_amount, paid_currency, effective_at, priority,
                                 source, created_at, grant_key, booked_at)
        VALUES (v_beside_lot, v_lot.account_id, 'refund', v_beside, v_beside, 0, 0, '', p_now, v_lot.priority, v_lot.source,
                p_now, 'back:' || p_key, p_now);
    END IF;
    UPDATE billing_wallet SET balance = balance + v_taken, debt = debt - v_forgiven WHERE account_id = v_lot.account_id
        RETURNING balance INTO v_balance;
    INSERT INTO billing_ledgertransaction (id, kind, idempotency_key, at, account_id, reason, actor)
        VALUES (v_transaction, v_original.kind, 'back:' || p_key, p_now, v_lot.account_id, p_reason, p_actor);
    INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
    SELECT v_transaction, e.ledger_account_id, 'credit', e.amount, e.balance_after, e.lot_ids, e.lot_amounts
    FROM (VALUES
        (v_lot.account_id, v_taken, v_balance,
         CASE WHEN v_beside > 0 THEN ARRAY[p_lot, v_beside_lot] ELSE ARRAY[p_lot] END,
         CASE WHEN v_beside > 0 THEN ARRAY[v_taken - v_beside, v_beside] ELSE ARRAY[v_taken] END),
        (ledger_debt_account(v_lot.account_id), v_forgiven, NULL, NULL, NULL),
        (ledger_account(p_against, 'credit'), -(v_taken + v_forgiven), NULL, NULL, NULL)
    ) AS e (ledger_account_id, amount, balance_after, lot_ids, lot_amounts)
    WHERE e.amount <> 0;
    IF v_lot.closed_at IS NOT NULL THEN
        PERFORM ledger_lot_close(p_lot, 'expiry', p_now, 'given back after its end', 'system');
    END IF;
    RETURN v_taken;
END $$;

-- Grants lots. Verdicts: granted, duplicate (its idempotency key was used: answers that lot), no_wallet. A lot that begins later
-- enters the balance when it is due.
CREATE FUNCTION ledger_lots_grant(p_items json, p_now timestamptz)
RETURNS TABLE (idempotency_key text, verdict text, lot_id uuid, balance_after numeric)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_items ledger_grant_item[] := ARRAY(SELECT json_populate_recordset(NULL::ledger_grant_item, p_items));
    v_locked uuid[];
    v_item ledger_grant_item;
    v_existing uuid;
BEGIN
    v_locked := ledger_wallets_lock(ARRAY(SELECT DISTINCT account_id FROM unnest(v_items)), p_now, true);
    FOREACH v_item IN ARRAY v_items LOOP
        idempotency_key := v_item.idempotency_key;
        lot_id := v_item.lot_id;
        balance_after := NULL;
        v_existing := NULL;
        SELECT l.id INTO v_existing FROM billing_lot l WHERE l.grant_key = v_item.idempotency_key;
        IF v_existing IS NOT NULL THEN
            verdict := 'duplicate';
            lot_id := v_existing;
        ELSIF NOT v_item.account_id = ANY (v_locked) THEN
            verdict := 'no_wallet';
        ELSE
            verdict := 'granted';
            INSERT INTO billing_lot (id, account_id, kind, amount, remaining, held, paid_amount, paid_currency, payment_id,
                                     effective_at, expires_at, priority, source, created_at, grant_key)
            VALUES (v_item.lot_id, v_item.account_id, v_item.kind, v_item.amount, v_item.amount, 0, v_item.paid_amount,
                    v_item.paid_currency, v_item.payment_id, v_item.effective_at, v_item.expires_at, v_item.priority,
                    v_item.source, p_now, v_item.idempotency_key);
            IF v_item.effective_at <= p_now THEN
                balance_after := ledger_lot_book(v_item.lot_id, p_now, 'grant:' || v_item.idempotency_key, v_item.reason,
                                                 v_item.actor);
                IF v_item.kind = 'purchase' THEN
                    balance_after := ledger_debt_pay(v_item.lot_id, p_now);
                END IF;
            END IF;
            UPDATE billing_wallet SET next_change_at = ledger_next_change(account_id) WHERE account_id = v_item.account_id;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- Books everything due on the wallets nobody has used since; at most `p_limit` of them. Returns how many.
CREATE FUNCTION ledger_due_wallets_roll(p_now timestamptz, p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RETURN cardinality(ledger_wallets_lock(
        ARRAY(SELECT account_id FROM billing_wallet WHERE next_change_at <= p_now ORDER BY next_change_at LIMIT p_limit),
        p_now, false));
END $$;
