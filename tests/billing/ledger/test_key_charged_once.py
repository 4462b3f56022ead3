"""One idempotency key, one charge: also when a call outlives its hold and is repeated meanwhile."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command

from billing.accounts.models import Account
from billing.ledger.idempotency import IdempotencyKey, answer_item
from billing.ledger.items import AnswerItem, HoldItem
from billing.ledger.models import LedgerEntry, StoredAnswer, UsageRecord
from billing.ledger.services import call_settle, hold_open, holds_reap
from iafactory.common import clock
from tests.billing.ledger.test_ledger import call_item, hold_item, wallet_of
from tests.factories import account_make

pytestmark = pytest.mark.django_db

KEY = {"idempotency_key": "k", "body_hash": "h" * 64}


def answer(account: Account, hold: HoldItem) -> AnswerItem:
    key = IdempotencyKey(account.pk, None, "k", "h" * 64)
    return answer_item(key, request_id=hold.id, status=200, headers={}, content=b"x", now=clock.now())


@pytest.mark.parametrize("first_settled", ["repetition", "late"])
def test_a_call_that_outlived_its_hold_and_its_repetition_are_charged_once(first_settled: str) -> None:
    account = account_make(credits=100)
    late, repetition = hold_item(account, "5", **KEY), hold_item(account, "5", **KEY)
    hold_open(late)
    holds_reap(now=clock.now() + timedelta(hours=1))
    hold_open(repetition)
    one, other = (repetition, late) if first_settled == "repetition" else (late, repetition)

    charged = call_settle(call_item(one, "2", answer=answer(account, one)))
    free = call_settle(call_item(other, "2", answer=answer(account, other)))

    assert (charged.charged, free.charged, free.lost) == (Decimal(2), Decimal(0), Decimal(2))
    assert wallet_of(account) == (Decimal(98), Decimal(0))
    assert UsageRecord.objects.filter(account=account, end="complete").count() == 2
    assert StoredAnswer.objects.get(account=account).pk == one.id
    loss = LedgerEntry.objects.get(transaction_id=other.id, ledger_account__kind="operator_loss")
    assert (loss.unit, loss.amount) == ("credit", Decimal(-2))
    assert "same idempotency key" in loss.transaction.reason
    call_command("verify_books")


def test_another_key_is_another_charge() -> None:
    account = account_make(credits=100)
    first = hold_item(account, "5", **KEY)
    hold_open(first)
    call_settle(call_item(first, "2", answer=answer(account, first)))
    second = hold_item(account, "5", idempotency_key="other", body_hash="h" * 64)
    hold_open(second)

    verdict = call_settle(call_item(second, "2"))

    assert verdict.charged == Decimal(2)
    assert wallet_of(account) == (Decimal(96), Decimal(0))
