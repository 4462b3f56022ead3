"""The product as the tests of its architecture see it: source files, layers, models."""

import functools
import tomllib
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db import models

PROJECT = Path(__file__).resolve().parents[2]
APPS = ("iafactory", "ratelimit", "billing", "routing", "dashboard")


@functools.cache
def _layers(contract_id: str) -> list[list[str]]:
    """The layers of an import contract, top first: the one place where the order is written down."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["id"] == contract_id)
    [container] = contract.get("containers", [""])
    prefix = f"{container}." if container else ""
    return [[prefix + name.strip(" ()") for name in layer.split(":")] for layer in contract["layers"]]


def _height(module: str, layers: list[list[str]]) -> int:
    for index, names in enumerate(layers):
        if any(f"{module}.".startswith(f"{name}.") for name in names):
            return len(layers) - index
    return 0


def height(model: type[models.Model]) -> tuple[int, int]:
    """Where a model stands in the import order: app, then package of billing. Other people's models stand below ours."""
    return _height(model.__module__, _layers("apps")), _height(model.__module__, _layers("billing"))


def product_models() -> list[type[models.Model]]:
    """Our models, those that Django makes for many-to-many fields included."""
    return [model for model in apps.get_models(include_auto_created=True) if model.__module__.split(".")[0] in APPS]


def relations(model: type[models.Model]) -> list["models.ForeignKey[Any, Any] | models.ManyToManyField[Any, Any]"]:
    """The foreign keys, one-to-one and many-to-many fields that `model` itself declares."""
    declared = (*model._meta.local_fields, *model._meta.local_many_to_many)
    return [field for field in declared if isinstance(field, models.ForeignKey | models.ManyToManyField)]


def source_files(*places: str) -> list[Path]:
    """Python files of the product under `places` (folders or files), migrations left out."""
    paths = [PROJECT / place for place in places]
    missing = [path for path in paths if not path.exists()]
    assert missing == []
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return [file for file in files if "migrations" not in file.parts]
