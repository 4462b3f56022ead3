"""Signals and the figures behind them are called something that operators understand."""

import ast
from pathlib import Path

import pytest
from django.utils import translation

from billing.abuse import detectors
from billing.abuse.names import FIGURES, SIGNALS, figure_label
from ratelimit.models import AbuseSignal


def told() -> tuple[set[str], set[str]]:
    """Signals and figures of evidence that the detectors name."""
    tree = ast.parse(Path(detectors.__file__).read_text())
    signals, figures = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
            signals.add(ast.literal_eval(node.args[1]))
        if isinstance(node, ast.Dict):
            figures |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    # What queries take.
    return signals, {str(name) for name in figures} - {"now", "count", "days", "accounts"} | {"accounts"}


def test_each_signal_and_each_figure_has_a_name() -> None:
    signals, figures = told()

    assert signals == set(SIGNALS)
    assert figures == set(FIGURES)


@pytest.mark.parametrize(
    ("language", "signal", "figure"),
    [
        ("en", "More messages than the plan allows key:1", "borne by us, USD"),
        ("fr", "Plus de messages que l’offre n’en permet key:1", "à notre charge, USD"),
        ("ar", "رسائل أكثر مما تسمح به الباقة key:1", "على حسابنا، USD"),
    ],
)
def test_names_are_in_the_operators_language(language: str, signal: str, figure: str) -> None:
    with translation.override(language):
        assert str(AbuseSignal(signal="messages_a_day", subject="key:1")) == signal
        assert figure_label("borne_by_us_usd") == figure


def test_what_nobody_named_is_told_by_its_own_words() -> None:
    assert (AbuseSignal(signal="odd_thing").name, figure_label("odd_figure")) == ("odd thing", "odd figure")
