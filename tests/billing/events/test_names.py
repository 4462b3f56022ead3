"""What the audit trail calls things for people."""

import ast
import re
from pathlib import Path

import pytest
from django.utils.translation import override

from billing.events import names
from billing.events.names import MEANS, VERBS, field_label, kind_label, means_label, object_label, value_label
from billing.invoices.pdf.wording import WORDINGS
from billing.payments.gateways.registry import GATEWAYS
from billing.payments.manual import GATEWAY as MANUAL
from billing.payments.models import GatewayName
from billing.webhooks.catalogue import CATALOGUE

PROJECT = Path(__file__).resolve().parents[3]
KIND = re.compile(r"[a-z_]+\.([a-z_]+)")
# Whoever tells events calls one of these; what the second kind takes first is the part after the dot.
WHOLE = ("event_record",)
PART = ("_event", "_card_event", "subscription_event")


def told_verbs() -> set[str]:
    """What the code says after the dot of a kind, wherever it says it in words."""
    found = set()
    for app in ("billing", "dashboard", "ratelimit", "routing"):
        for file in (PROJECT / app).rglob("*.py"):
            text = file.read_text()
            if "event_record" not in text and "subscription_event" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "id", "")
                said = [keyword.value for keyword in node.keywords if keyword.arg == "kind" and name in WHOLE]
                said += node.args[:1] if name in PART else []
                words = [
                    part.value
                    for one in said
                    for part in ast.walk(one)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                found |= {match[1] for word in words if (match := KIND.fullmatch(word))}
                found |= {word for word in words if name in PART and re.fullmatch("[a-z_]+", word)}
    # Types of objects, which some say before.
    return found - {"account", "subscription", "wallet", "ai_model", "model_price", "model_profile", "provider", "level"}


def test_each_kind_that_the_code_tells_has_words() -> None:
    assert len(told_verbs()) > 80
    assert told_verbs() - set(VERBS) == set()


def test_each_kind_that_customers_hear_of_has_words() -> None:
    kinds = [entry.kind.partition(".") for entry in CATALOGUE.values()]

    assert {verb for _object, _dot, verb in kinds} - set(VERBS) == set()
    assert {object_type for object_type, _dot, _verb in kinds if names._model(object_type) is None} - set(
        names.OBJECTS
    ) == set()


@pytest.mark.parametrize(
    ("language", "kind", "label"),
    [
        ("en", "payment.succeeded", "Payment: succeeded"),
        ("fr", "payment.succeeded", "Paiement : succès"),
        ("ar", "payment.succeeded", "الدفعة: نجاح"),
        ("fr", "credits.granted", "Crédits : attribution"),
        ("en", "plan.never_heard_of", "Plan: never heard of"),
    ],
)
def test_a_kind_is_told_in_the_operators_language(language: str, kind: str, label: str) -> None:
    with override(language):
        told = kind_label(kind)

    assert told == label


def test_fields_and_values_are_called_as_in_lists() -> None:
    with override("fr"):
        told = (object_label("api_key"), field_label("state"), value_label("payment", "state", "succeeded"))
        plain = (
            value_label("payment", "reference", "p1"),
            value_label("nothing", "state", "x"),
            value_label("payment", "no", "y"),
        )

    assert told == ("Clé API", "état", "Réussi")
    assert plain == ("p1", "x", "y")


@pytest.mark.parametrize(
    ("language", "fields", "value"),
    [
        ("en", ("paid by", "passed without being billed"), "bank transfer"),
        ("fr", ("moyen de paiement", "passée sans être facturée"), "virement bancaire"),
        ("ar", ("وسيلة الدفع", "مضت دون فوترة"), "تحويل بنكي"),
    ],
)
def test_fields_that_no_model_has_are_told_in_words(language: str, fields: tuple[str, str], value: str) -> None:
    with override(language):
        assert (field_label("means"), field_label("missed")) == fields
        assert value_label("invoice", "means", "bank_transfer") == value
        assert value_label("payment", "method", "bank_transfer") == value


def test_each_way_of_paying_that_a_document_prints_has_a_name() -> None:
    assert set(WORDINGS["en"].means) - set(MEANS) == set()
    assert set(GATEWAYS) - set(MEANS) == set()
    assert set(GATEWAYS) | {MANUAL} == set(GatewayName.values)
    assert means_label("an operator's own") == "an operator's own"
