"""Signals: one open row per subject and kind, raised and closed by many at once."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from ratelimit.models import AbuseSignal
from ratelimit.signals import Raised, signal_close, signal_raise, signals_fade

from .conftest import NOW

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(minutes=5)


def raise_one(**changes: Any) -> Raised | None:
    fields: dict[str, Any] = {"subject": "account:1", "signal": "messages_a_day", "evidence": {"messages": 301}, "now": NOW}
    return signal_raise(**fields | changes)


def test_a_new_signal_is_open() -> None:
    raised = raise_one(until=LATER)

    row = AbuseSignal.objects.get()
    assert raised == Raised(row.pk, True)
    assert (row.subject, row.signal, row.evidence, row.state) == ("account:1", "messages_a_day", {"messages": 301}, "open")
    assert (row.first_seen_at, row.last_seen_at, row.until, row.closed_at) == (NOW, NOW, LATER, None)


def test_seen_again_it_is_refreshed() -> None:
    first = raise_one()

    again = raise_one(evidence={"messages": 400}, now=LATER, until=LATER + timedelta(hours=1))

    row = AbuseSignal.objects.get()
    assert first is not None
    assert again == Raised(first.id, False)
    assert (row.evidence, row.first_seen_at, row.last_seen_at) == ({"messages": 400}, NOW, LATER)
    assert row.until == LATER + timedelta(hours=1)


def test_the_last_sight_never_goes_back() -> None:
    raise_one(now=LATER)
    raise_one(now=NOW)

    assert AbuseSignal.objects.get().last_seen_at == LATER


def test_other_subjects_and_kinds_have_rows_of_their_own() -> None:
    raise_one()
    raise_one(subject="account:2")
    raise_one(signal="spend_velocity")

    assert AbuseSignal.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_parallel_detectors_make_one_row() -> None:
    barrier = threading.Barrier(16)
    new: list[bool] = []

    def run(number: int) -> None:
        barrier.wait()
        raised = raise_one(evidence={"messages": number})
        assert raised is not None
        new.append(raised.is_new)
        connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(new) == [*[False] * 15, True]
    assert AbuseSignal.objects.count() == 1


def test_closing_tells_what_was_closed() -> None:
    raised = raise_one()
    raise_one(subject="account:2")

    closed = signal_close(subjects=["account:1", "account:9"], state="acted", reason="talked", now=LATER)
    again = signal_close(subjects=["account:1"], state="dismissed", reason="x", now=LATER)

    assert raised is not None
    assert (closed, again) == ([raised.id], [])
    row = AbuseSignal.objects.get(pk=raised.id)
    assert (row.state, row.closed_at, row.closed_reason) == ("acted", LATER, "talked")
    assert AbuseSignal.objects.get(subject="account:2").state == "open"


def test_one_kind_is_closed_alone() -> None:
    raise_one()
    raise_one(signal="spend_velocity")

    signal_close(subjects=["account:1"], signal="spend_velocity", state="dismissed", reason="x")

    assert AbuseSignal.objects.get(state="open").signal == "messages_a_day"


@pytest.mark.parametrize("state", ["open", "nonsense"])
def test_nothing_is_closed_as_something_else(state: str) -> None:
    raise_one()

    with pytest.raises(ValueError, match=state):
        signal_close(subjects=["account:1"], state=state, reason="x")

    assert AbuseSignal.objects.get().state == "open"


def test_a_decision_holds_until_the_end_of_what_it_was_about() -> None:
    raise_one(until=LATER)
    signal_close(subjects=["account:1"], state="dismissed", reason="fine", now=NOW)

    quiet = raise_one(now=LATER - timedelta(seconds=1))
    other = raise_one(signal="spend_velocity", now=NOW)
    anew = raise_one(now=LATER)

    assert quiet is None
    assert other is not None
    assert anew is not None
    assert anew.is_new
    assert AbuseSignal.objects.filter(signal="messages_a_day").count() == 2


def test_what_was_not_seen_again_fades() -> None:
    raise_one(until=LATER)
    raise_one(subject="account:2", until=None)

    early = signals_fade(now=LATER - timedelta(seconds=1))
    faded = signals_fade(now=LATER)

    assert (early, faded) == (0, 1)
    row = AbuseSignal.objects.get(subject="account:1")
    assert (row.state, row.closed_reason, row.closed_at) == ("dismissed", "not seen again", LATER)
    assert AbuseSignal.objects.get(subject="account:2").state == "open"
