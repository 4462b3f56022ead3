"""What must be true after any chaos, asked of the books and of what clients remember. Import it after `django.setup()`."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection

from billing.ledger.verification import books_verify

from .load import Customer, Seen
from .watch import OVERDUE_SECONDS, Watch

SHOWN = 5
# A call nobody disturbed is booked at most this long after its client saw the last of it.
_SETTLED_SECONDS = 1.5
_CALL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One invariant: what was counted, and whom it fails for."""

    name: str
    counted: str
    offenders: tuple[str, ...] = ()

    @property
    def violated(self) -> bool:
        return bool(self.offenders)

    def __str__(self) -> str:
        state = "VIOLATED" if self.violated else "OK"
        shown = "".join(f"\n      {offender}" for offender in self.offenders[:SHOWN])
        rest = len(self.offenders) - SHOWN
        return f"{self.name}: {state} ({self.counted}){shown}" + (f"\n      and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, slots=True)
class Booked:
    """What the books say of one request id."""

    transactions: int
    usage_rows: int
    end: str
    wallet_entries: int
    debit: Decimal
    lost: Decimal


_BOOKED = """
    SELECT r.id::text,
           (SELECT count(*) FROM billing_ledgertransaction t WHERE t.id = r.id AND t.kind = 'call'),
           (SELECT count(*) FROM billing_usagerecord u WHERE u.id = r.id),
           (SELECT min(u."end") FROM billing_usagerecord u WHERE u.id = r.id),
           (SELECT count(*) FROM billing_ledgerentry e WHERE e.transaction_id = r.id AND e.balance_after IS NOT NULL),
           (SELECT coalesce(-sum(e.amount), 0) FROM billing_ledgerentry e
                WHERE e.transaction_id = r.id AND e.balance_after IS NOT NULL),
           (SELECT coalesce(sum(u.credits_lost), 0) FROM billing_usagerecord u WHERE u.id = r.id)
    FROM unnest(%s::uuid[]) AS r (id)
"""


def _rows(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _booked(ids: Iterable[str]) -> dict[str, Booked]:
    return {row[0]: Booked(*row[1:]) for row in _rows(_BOOKED, sorted(set(ids)))}


def complete_answers(seen: Sequence[Seen], watch: Watch) -> Verdict:
    """Every answer that a client saw to its end is booked once and charged, and was so when the end arrived."""
    answers = [s for s in seen if s.complete and not s.replayed]
    booked = _booked(s.request_id for s in answers)
    offenders = [f"{request} was not in the books when its end arrived" for request in watch.not_booked]
    lost = 0
    for answer in answers:
        found = booked[answer.request_id]
        paid = found.debit > 0 or found.lost > 0 if answer.customer.charged else True
        lost += found.lost > 0
        if (found.transactions, found.usage_rows) != (1, 1) or found.wallet_entries > 1 or not paid:
            offenders.append(f"{answer.request_id} of {answer.customer.name}: {found}")
    streamed = sum(answer.streamed for answer in answers)
    if not watch.looked_up or not 0 < streamed < len(answers):
        offenders.append("there were too few to say so")
    counted = f"{len(answers) - streamed} whole and {streamed} streamed answers, {watch.looked_up} looked up at once"
    if lost:
        counted += f", {lost} booked late against an empty wallet"
    return Verdict("1  every complete answer is booked before its end is seen, and charged", counted, tuple(offenders))


def undisturbed_calls(seen: Sequence[Seen], disturbances: Sequence[tuple[float, float]], *, latency_seconds: float) -> Verdict:
    """A call whose process and database lived is settled by its own process: complete, hung up on, refused or broken."""
    settled_seconds = _SETTLED_SECONDS + 2 * latency_seconds

    def disturbed(began: float, ended: float) -> bool:
        return any(begin <= ended + settled_seconds and end >= began for begin, end in disturbances)

    calls = [s for s in seen if s.request_id and not s.replayed and not disturbed(s.began, s.ended)]
    booked = _booked(s.request_id for s in calls)
    offenders = []
    for call in calls:
        found = booked[call.request_id]
        unpaid = call.customer.charged and call.texts > 0 and not found.debit and not found.lost
        if found.end == "process_died" or (call.status == 200 and (unpaid or not found.transactions)):
            offenders.append(f"{call.request_id} of {call.customer.name}, {call.texts} pieces of text received: {found}")
    # Calls whose id no client knows: they ended within a few attempts of the provider's latency.
    now, today = time.monotonic(), time.time()
    for request, started in _rows(
        """SELECT id::text, extract(epoch FROM started_at)::float8 FROM billing_usagerecord WHERE "end" = 'process_died'"""
    ):
        began = now - (today - started)
        if request not in booked and not disturbed(began, began + _CALL_SECONDS + 3 * latency_seconds):
            offenders.append(f"{request}: closed as if its process had died, but it lived")
    gone = sum(call.hung_up for call in calls)
    if not gone:
        offenders.append("there were too few to say so")
    counted = f"{len(calls)} calls, {gone} of them hung up on"
    return Verdict("1b every call that nothing disturbed is settled by its own process", counted, tuple(offenders))


def no_double_debits(seen: Sequence[Seen]) -> Verdict:
    """No request id and no idempotency key has two debits; a key answers its own request only, and always the same."""
    offenders = [
        f"request {request}: {count} debits"
        for request, count in _rows(
            """SELECT transaction_id::text, count(*) FROM billing_ledgerentry e JOIN billing_ledgertransaction t
               ON t.id = e.transaction_id WHERE t.kind IN ('call', 'reaped') AND e.balance_after IS NOT NULL
               GROUP BY transaction_id HAVING count(*) > 1"""
        )
    ]
    offenders += [
        f"request {request}: {count} usage rows"
        for request, count in _rows("SELECT id::text, count(*) FROM billing_usagerecord GROUP BY id HAVING count(*) > 1")
    ]
    offenders += [
        f"request {request}: charged although it was reaped"
        for (request,) in _rows(
            """SELECT e.transaction_id::text FROM billing_ledgerentry e JOIN billing_ledgertransaction t
               ON t.id = e.transaction_id WHERE t.kind = 'reaped' AND e.balance_after IS NOT NULL"""
        )
    ]
    tries: dict[str, list[Seen]] = defaultdict(list)
    for s in seen:
        if s.once is not None:
            tries[s.once.api_key_id].append(s)
    debits: dict[str, list[str]] = dict(
        _rows(
            """SELECT u.api_key_id::text, array_agg(u.id::text) FROM billing_usagerecord u
               JOIN billing_ledgerentry e ON e.transaction_id = u.id AND e.balance_after IS NOT NULL
               WHERE u.api_key_id = ANY (%s::uuid[]) GROUP BY u.api_key_id""",
            list(tries),
        )
    )
    for api_key, attempts in tries.items():
        once = attempts[0].once
        assert once is not None
        charged = debits.get(api_key, [])
        complete = [s for s in attempts if s.complete and not s.changed_body]
        if len(charged) > 1:
            offenders.append(f"{once.key}: {len(charged)} debits: {', '.join(charged)}")
        if complete and not charged:
            offenders.append(f"{once.key}: answered but not charged")
        if len({s.answer_id for s in complete}) > 1:
            offenders.append(f"{once.key}: different answers {sorted({s.answer_id for s in complete})}")
        if complete and any(s.status == 200 and s.changed_body for s in attempts):
            offenders.append(f"{once.key}: another body was answered under a used key")
    codes = Counter(s.code for s in seen if s.once is not None and s.status in (409, 422))
    replayed = sum(s.replayed for s in seen)
    counted = f"{len(tries)} keys in {sum(map(len, tries.values()))} requests, {replayed} replayed, {dict(codes)}"
    return Verdict("2  no request and no idempotency key is charged twice", counted, tuple(offenders))


def debits_explained() -> Verdict:
    """Every debit of a call has its usage row with a known end."""
    offenders = [
        f"{request}: {-amount} credits, end {end}"
        for request, amount, end in _rows(
            """SELECT t.id::text, e.amount, u."end" FROM billing_ledgertransaction t
               JOIN billing_ledgerentry e ON e.transaction_id = t.id AND e.balance_after IS NOT NULL
               LEFT JOIN billing_usagerecord u ON u.id = t.id
               WHERE t.kind = 'call' AND coalesce(u."end", '') NOT IN ('complete', 'client_gone', 'upstream_dropped')"""
        )
    ]
    ends = dict(_rows('SELECT "end", count(*) FROM billing_usagerecord GROUP BY "end" ORDER BY "end"'))
    return Verdict("3  every debit has a usage row that says how the call ended", str(ends), tuple(offenders))


def nothing_negative(watch: Watch) -> Verdict:
    """No balance was ever below zero: not now, not after any entry, not whenever we looked."""
    offenders = [*watch.negative]
    offenders += [
        f"entry {entry}: balance after it {balance}"
        for entry, balance in _rows("SELECT id, balance_after FROM billing_ledgerentry WHERE balance_after < 0")
    ]
    entries, poorest = _rows("SELECT count(*), min(balance_after) FROM billing_ledgerentry WHERE balance_after IS NOT NULL")[0]
    counted = f"{entries} wallet entries, lowest balance {poorest}, {watch.polls} looks during the run"
    return Verdict("4  no balance was ever below zero", counted, tuple(offenders))


def holds_closed(watch: Watch, restarts: Sequence[tuple[float, float]]) -> Verdict:
    """No hold outlived its expiry by more than 15 seconds, and none is open now.

    The 15 seconds include the longest restart of worker, beat, Redis or PostgreSQL since the expiry. Only when several were
    killed in one such span does the time the others took come on top.
    """
    offenders = []
    for hold, (seconds, at) in sorted(watch.overdue.items(), key=lambda item: -item[1].seconds):
        more = beyond_the_longest(restarts, at - seconds, at)
        if seconds > OVERDUE_SECONDS + more:
            offenders.append(f"{hold}: open {seconds:.1f} s after its expiry, {OVERDUE_SECONDS:.0f} + {more:.1f} s are allowed")
    offenders += [f"{hold}: still open" for (hold,) in _rows("SELECT id::text FROM billing_hold")]
    longest = max((overdue.seconds for overdue in watch.overdue.values()), default=0.0)
    counted = f"{len(watch.overdue)} holds seen past their expiry, {longest:.1f} s at most"
    return Verdict("5  every hold is closed within 15 s of its expiry", counted, tuple(offenders))


def beyond_the_longest(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Seconds between `begin` and `end` that lie in any of `spans` but the longest."""
    inside = [(max(b, begin), min(e, end)) for b, e in spans if b < end and e > begin]
    if not inside:
        return 0.0
    inside.remove(max(inside, key=lambda span: span[1] - span[0]))
    covered, reached = 0.0, begin
    for b, e in sorted(inside):
        covered += max(0.0, e - max(b, reached))
        reached = max(reached, e)
    return covered


def books_clean() -> Verdict:
    """`verify_books` finds nothing."""
    findings = list(books_verify())
    offenders = [
        f"{finding.check.name}: {what}: expected {expected}, found {found}"
        for finding in findings
        for what, expected, found in finding.differences
    ]
    return Verdict("6  the books verify", f"{len(findings)} checks", tuple(offenders))


def quotas_kept(customers: Sequence[Customer], *, daily_quota: int, redis_losses: int) -> Verdict:
    """No account on a quota plan was served above its day's quota (days in the account's zone), whatever Redis forgot."""
    rows = _rows(
        """SELECT a.name, (u.started_at AT TIME ZONE a.time_zone)::date, sum(u.quota_units)
           FROM billing_usagerecord u JOIN billing_account a ON a.id = u.account_id
           WHERE u.account_id = ANY (%s::uuid[]) GROUP BY 1, 2""",
        [customer.account_id for customer in customers],
    )
    offenders = [f"{name} on {day}: {used} of {daily_quota}" for name, day, used in rows if used > daily_quota]
    used = ", ".join(str(row[2]) for row in rows) or "none"
    counted = f"{used} of {daily_quota} requests, {redis_losses} times Redis forgot its counters"
    return Verdict("7  no account was served above its quota", counted, tuple(offenders))


def no_internal_errors(seen: Sequence[Seen]) -> Verdict:
    """An outage is refused with a reason; 500 is for faults nobody thought of."""
    offenders = [f"{s.request_id} of {s.customer.name}: {s.code}" for s in seen if s.status == 500]
    return Verdict("9  nobody was told of an internal error", f"{len(seen)} requests", tuple(offenders))
