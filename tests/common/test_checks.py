"""Settings that would otherwise be wrong in silence."""

from typing import Any

import pytest

from iafactory.checks import choices_are_known, observability_is_usable


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("LOG_FORMAT", "xml", "iafactory.E007"),
        ("LOGIN_BRAKES_WITHOUT_REDIS", "maybe", "iafactory.E006"),
        ("TRACES_SHARE", 1.5, "iafactory.E008"),
        ("TRACES_SHARE", -0.1, "iafactory.E008"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_told(settings: Any, name: str, value: object, code: str) -> None:
    setattr(settings, name, value)

    assert [found.id for found in [*choices_are_known(None), *observability_is_usable(None)]] == [code]


def test_packages_that_a_setting_needs_and_that_are_not_there_are_told(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.TRACES_ENDPOINT = "http://127.0.0.1:4318/v1/traces"
    present = observability_is_usable(None)
    monkeypatch.setattr("iafactory.checks.find_spec", lambda name: None)

    absent = observability_is_usable(None)

    assert present == []
    assert [(found.id, "requirements-observability.txt" in str(found.hint)) for found in absent] == [("iafactory.E009", True)]
