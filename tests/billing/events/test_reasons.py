"""Reasons that the product itself gives are read in every language; those of operators and providers stay as written."""

import ast
import re
from pathlib import Path

import pytest
from django.utils.translation import override

from billing.events.reasons import FAILURES, reason_said, reason_text
from iafactory.common.texts import Text
from routing.providers.base import FailureClass

PROJECT = Path(__file__).resolve().parents[3]


def given_reasons() -> set[str]:
    """Every reason that the code gives in words; what is put into one is X."""
    found = set()
    for app in ("billing", "dashboard", "ratelimit", "routing"):
        for file in (PROJECT / app).rglob("*.py"):
            if "migrations" in file.parts or file.name in ("demo_company.py", "lists.py"):
                continue
            calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            given = [word.value for call in calls for word in call.keywords if (word.arg or "").endswith("reason")]
            parts = [part for one in given for part in (one.values if isinstance(one, ast.BoolOp) else [one])]
            found |= {part.value for part in parts if isinstance(part, ast.Constant) and part.value}
            found |= {re.sub(r"\{[^}]*\}", "X", ast.unparse(part)[2:-1]) for part in parts if isinstance(part, ast.JoinedStr)}
    # What a document is called stands in its own words.
    return found - {"X X"}


def test_each_reason_that_the_code_gives_is_known_in_arabic() -> None:
    with override("ar"):
        unknown = {reason for reason in given_reasons() if reason_text(reason) == reason}

    assert len(given_reasons()) >= 40
    assert unknown == set()


def test_each_way_that_a_call_fails_has_words() -> None:
    assert set(FailureClass) - set(FAILURES) == set()


@pytest.mark.parametrize(
    ("language", "reason", "told"),
    [
        ("en", "auth: Incorrect API key provided", "key refused: Incorrect API key provided"),
        ("fr", "auth: Incorrect API key provided", "clé refusée : Incorrect API key provided"),
        ("ar", "timeout", "لا رد في الوقت المحدد"),
        ("fr", "breaker open: overloaded", "disjoncteur ouvert : surchargé ou injoignable"),
        ("fr", "rotated: by an operator", "remplacé : par un opérateur"),
        ("fr", "Hold 7 released", "Réservation 7 libérée"),
        ("fr", "Period begins", "Début de la période"),
        ("fr", "the customer asked: twice, 100 %", "the customer asked: twice, 100 %"),
        ("fr", "", ""),
    ],
)
def test_a_reason_in_the_readers_language(language: str, reason: str, told: str) -> None:
    with override(language):
        assert reason_text(reason) == told
        assert Text.restored(reason_said(reason).stored()).translated() == told
