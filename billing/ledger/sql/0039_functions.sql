-- Settling in few statements: one costs as much as several calls of a small batch. What the functions have in common is told at
-- the top of 0001_functions.sql; the `ledger_calls_settle` there, with three arguments, serves processes of the release before.

CREATE TYPE ledger_settle_item AS (
    id uuid,                -- of the request
    account_id uuid,
    held numeric(20, 6),    -- credits of its hold
    charge numeric(20, 6),  -- price of the call in credits
    loss_usd numeric(20, 9),  -- provider cost that no customer pays
    loss_kind text,         -- operator_loss or unknown_cost
    reason text,
    reaped boolean,         -- closed by the reaper, not by its own process
    answer billing_storedanswer  -- kept for repetitions of the same idempotency key; null without one
);

-- As in 0001_functions.sql, in one statement where nothing is due.
CREATE OR REPLACE FUNCTION ledger_wallets_lock(p_accounts uuid[], p_now timestamptz, p_wait boolean)
RETURNS uuid[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_locked uuid[];
    v_due uuid[];
    v_account uuid;
BEGIN
    -- A locked row is read as it is under the lock.
    IF p_wait THEN
        SELECT array_agg(account_id), array_agg(account_id) FILTER (WHERE next_change_at <= p_now) INTO v_locked, v_due
        FROM (SELECT account_id, next_change_at FROM billing_wallet WHERE account_id = ANY (p_accounts)
              ORDER BY account_id FOR NO KEY UPDATE) w;
    ELSE
        SELECT array_agg(account_id), array_agg(account_id) FILTER (WHERE next_change_at <= p_now) INTO v_locked, v_due
        FROM (SELECT account_id, next_change_at FROM billing_wallet WHERE account_id = ANY (p_accounts)
              ORDER BY account_id FOR NO KEY UPDATE SKIP LOCKED) w;
    END IF;
    FOREACH v_account IN ARRAY coalesce(v_due, '{}') LOOP
        PERFORM ledger_wallet_roll(v_account, p_now);
    END LOOP;
    RETURN coalesce(v_locked, '{}');
END $$;

-- Ends calls: usage row, ledger, lots, wallet, hold. `p_usages` has the usage row of each item. Verdicts: settled, late (its
-- hold was gone, booked all the same), duplicate (booked before; answers what was booked), busy (try again), no_wallet. Raises
-- for a charge that is no amount.
CREATE FUNCTION ledger_calls_settle(p_items json, p_usages json, p_now timestamptz, p_wait boolean)
RETURNS TABLE (request_id uuid, verdict text, charged numeric, lost numeric, balance_after numeric)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_items ledger_settle_item[];
    v_accounts uuid[];
    v_locked uuid[];
    v_free uuid[];
    v_possible boolean;
    v_answers boolean;
    v_settled bigint[];  -- places of the items that were settled at once
    v_ids uuid[];
    v_charges numeric[];
    v_balances numeric[];
    v_dead uuid[];
    v_item record;
    v_lot uuid;
    v_consumed uuid;
    v_provider_cost uuid;
    v_operator_loss uuid;
    v_unknown_cost uuid;
BEGIN
    SELECT array_agg(i),
           array_agg(i.account_id) FILTER (WHERE i.charge > 0 OR i.held > 0),
           array_agg(i.id) FILTER (WHERE NOT (i.charge > 0 OR i.held > 0)),
           -- NaN is above every number.
           bool_and(coalesce(i.charge BETWEEN 0 AND 99999999999999, false)),
           bool_or((i.answer).id IS NOT NULL)
    INTO v_items, v_accounts, v_free, v_possible, v_answers
    FROM json_populate_recordset(NULL::ledger_settle_item, p_items) AS i;
    IF NOT v_possible THEN
        RAISE EXCEPTION 'a charge is not an amount of credits' USING ERRCODE = 'check_violation';
    END IF;
    v_locked := ledger_wallets_lock(v_accounts, p_now, p_wait);

    -- Free calls take no wallet's lock: their holds are locked instead, so that a settle and the reaper exclude each other.
    IF v_free IS NOT NULL THEN
        IF p_wait THEN
            v_free := ARRAY(SELECT id FROM billing_hold WHERE id = ANY (v_free) ORDER BY id FOR UPDATE);
        ELSE
            v_free := ARRAY(SELECT id FROM billing_hold WHERE id = ANY (v_free) ORDER BY id FOR UPDATE SKIP LOCKED);
        END IF;
    END IF;

    SELECT (array_agg(id) FILTER (WHERE kind = 'consumed'))[1], (array_agg(id) FILTER (WHERE kind = 'provider_cost'))[1],
           (array_agg(id) FILTER (WHERE kind = 'operator_loss'))[1], (array_agg(id) FILTER (WHERE kind = 'unknown_cost'))[1]
    INTO v_consumed, v_provider_cost, v_operator_loss, v_unknown_cost
    FROM billing_ledgeraccount
    WHERE kind = ANY ('{consumed,provider_cost,operator_loss,unknown_cost}') AND account_id IS NULL
      AND unit = CASE kind WHEN 'consumed' THEN 'credit' ELSE 'USD' END;

    -- Who has an open hold that covers the charge is settled at once. A call is booked in the transaction that takes its hold
    -- away, so that an open hold says that nobody has booked it.
    WITH hold AS (
        DELETE FROM billing_hold h
        USING unnest(v_items) WITH ORDINALITY AS i
        WHERE h.id = i.id AND i.charge <= h.credits
          AND CASE WHEN i.charge > 0 OR i.held > 0 THEN i.account_id = ANY (v_locked) ELSE i.id = ANY (v_free) END
          AND NOT (v_answers AND ledger_key_charged(i.answer, p_now))
        RETURNING i.ordinality, i.id, i.account_id, i.charge, i.loss_usd, i.loss_kind, i.reason, i.reaped,
                  CASE WHEN i.reaped THEN gen_random_uuid() ELSE i.id END AS transaction_id, h.credits, h.lot_ids, h.lot_amounts
    ), spent AS MATERIALIZED (
        SELECT hold.*,
               CASE WHEN cardinality(hold.lot_amounts) = 1 THEN ARRAY[hold.charge] ELSE (
                   SELECT array_agg(least(s.amount, greatest(0, hold.charge - (s.upto - s.amount))) ORDER BY s.position)
                   FROM (SELECT u.amount, u.position, sum(u.amount) OVER (ORDER BY u.position) AS upto
                         FROM unnest(hold.lot_amounts) WITH ORDINALITY AS u (amount, position)) s
               ) END AS taken
        FROM hold
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
               b.balance_after,
               CASE WHEN cardinality(b.lot_ids) = 1 THEN b.lot_ids ELSE ARRAY(
                   SELECT lot_id FROM unnest(b.lot_ids, b.taken) WITH ORDINALITY AS u (lot_id, taken, position)
                   WHERE taken > 0 ORDER BY position) END AS lot_ids,
               CASE WHEN cardinality(b.lot_ids) = 1 THEN b.taken ELSE ARRAY(
                   SELECT taken FROM unnest(b.taken) WITH ORDINALITY AS u (taken, position)
                   WHERE taken > 0 ORDER BY position) END AS lot_amounts
        FROM booked b
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
    )
    SELECT array_agg(b.ordinality), array_agg(b.id), array_agg(b.charge), array_agg(b.balance_after),
           (SELECT array_agg(lot.id) FROM lot WHERE lot.dead)
    INTO v_settled, v_ids, v_charges, v_balances, v_dead
    FROM booked b;

    IF cardinality(v_settled) = cardinality(v_items) THEN
        INSERT INTO billing_usagerecord SELECT * FROM json_populate_recordset(NULL::billing_usagerecord, p_usages);
    ELSE
        INSERT INTO billing_usagerecord
        SELECT DISTINCT ON (u.id) u.* FROM json_populate_recordset(NULL::billing_usagerecord, p_usages) AS u
        WHERE u.id = ANY (v_ids);
    END IF;

    IF v_answers THEN
        PERFORM ledger_answer_store(i.answer, p_now)
            FROM unnest(v_items) WITH ORDINALITY AS i WHERE i.ordinality = ANY (v_settled) AND (i.answer).id IS NOT NULL;
    END IF;

    -- What a dead lot gets back ends at once, in the same transaction.
    FOREACH v_lot IN ARRAY coalesce(v_dead, '{}') LOOP
        PERFORM ledger_lot_close(v_lot, 'expiry', p_now, 'released after its end', 'system');
    END LOOP;

    RETURN QUERY SELECT u.id, 'settled', u.charge, 0::numeric, u.balance
        FROM unnest(v_ids, v_charges, v_balances) AS u (id, charge, balance);
    IF cardinality(v_settled) = cardinality(v_items) THEN
        RETURN;
    END IF;

    FOR v_item IN
        SELECT i.*, h.id IS NOT NULL AS has_hold,
            CASE
                WHEN NOT i.reaped AND (SELECT 1 FROM billing_ledgertransaction t WHERE t.id = i.id) IS NOT NULL THEN 'duplicate'
                WHEN i.reaped AND h.id IS NULL THEN 'duplicate'
                WHEN (i.charge > 0 OR i.held > 0) AND NOT i.account_id = ANY (v_locked)
                    THEN CASE WHEN p_wait THEN 'no_wallet' ELSE 'busy' END
                WHEN NOT (i.charge > 0 OR i.held > 0) AND h.id IS NOT NULL AND NOT h.id = ANY (v_free) THEN 'busy'
                ELSE 'careful'
            END AS state
        FROM unnest(v_items) WITH ORDINALITY AS i
        LEFT JOIN LATERAL (SELECT id FROM billing_hold b WHERE b.id = i.id LIMIT 1) h ON true
        WHERE v_settled IS NULL OR NOT i.ordinality = ANY (v_settled)
        ORDER BY i.ordinality
    LOOP
        request_id := v_item.id;
        verdict := v_item.state;
        charged := NULL;
        lost := NULL;
        balance_after := NULL;
        IF v_item.state = 'careful' THEN
            verdict := CASE WHEN v_item.has_hold THEN 'settled' ELSE 'late' END;
            SELECT s.charged, s.lost, s.balance_after INTO charged, lost, balance_after
            FROM ledger_call_settle_carefully(
                (v_item.held, v_item.charge, v_item.loss_usd, v_item.loss_kind, v_item.reason, v_item.reaped,
                 (SELECT u FROM json_populate_recordset(NULL::billing_usagerecord, p_usages) AS u WHERE u.id = v_item.id LIMIT 1),
                 v_item.answer)::ledger_call_item, p_now) s;
            FOR v_lot IN
                SELECT l.id FROM billing_lot l
                WHERE l.account_id = v_item.account_id AND l.closed_at IS NOT NULL AND l.remaining > l.held
            LOOP
                PERFORM ledger_lot_close(v_lot, 'expiry', p_now, 'released after its end', 'system');
            END LOOP;
        END IF;
        -- Also one whose first of two was settled in this very loop.
        IF v_item.state = 'duplicate' OR v_item.state = 'careful' AND charged IS NULL THEN
            verdict := 'duplicate';
            SELECT -e.amount, 0, e.balance_after INTO charged, lost, balance_after
            FROM billing_ledgerentry e
            WHERE e.transaction_id = request_id AND e.ledger_account_id = v_item.account_id LIMIT 1;
            charged := coalesce(charged, 0);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
