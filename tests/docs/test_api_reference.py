"""What readers of the API's description see first."""

from pathlib import Path

import yaml

DESCRIPTION = yaml.safe_load((Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml").read_text())


def test_every_operation_is_called_by_words() -> None:
    nameless = [
        operation["operationId"]
        for methods in DESCRIPTION["paths"].values()
        for operation in methods.values()
        if not operation.get("summary")
    ]

    assert nameless == []


def test_what_clients_call_comes_first_and_every_group_has_its_place() -> None:
    order = [tag["name"] for tag in DESCRIPTION["tags"]]
    used = {tag for methods in DESCRIPTION["paths"].values() for operation in methods.values() for tag in operation["tags"]}

    assert order[0] == "OpenAI-compatible"
    assert set(order) == used
