"""No `float` where money is computed or stored: not the type, not a literal, not a model field."""

import ast
from pathlib import Path

import pytest

from .product import PROJECT, source_files

MONEY = source_files(
    "billing",
    "iafactory/common/money.py",
    "routing/admin",
    "routing/budgets.py",
    "routing/catalog.py",
    "routing/choice.py",
    "routing/costs.py",
    "routing/economics.py",
    "routing/limits.py",
    "routing/models.py",
    "routing/price_import",
    "routing/pricing.py",
    "routing/snapshot.py",
)
# Durations, the one thing near money that may be a float: (file, name of what holds it).
DURATIONS = {
    ("billing/ledger/metrics.py", "buckets"),
    ("billing/ledger/verification.py", "seconds"),
    ("billing/ledger/writer.py", "RETRY_PAUSE_SECONDS"),
    ("billing/ledger/writer.py", "RECONNECT_PAUSES_SECONDS"),
    ("billing/ledger/writer.py", "timeout_seconds"),
}


class _Floats(ast.NodeVisitor):
    """Collects (line, name of the variable or argument) for every float of a module."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._holder = ""

    def _visit_held(self, node: ast.AST, holder: str) -> None:
        outer, self._holder = self._holder, holder
        self.generic_visit(node)
        self._holder = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_held(node, ast.unparse(node.targets[0]))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_held(node, ast.unparse(node.target))

    def visit_arg(self, node: ast.arg) -> None:
        self._visit_held(node, node.arg)

    def visit_keyword(self, node: ast.keyword) -> None:
        self._visit_held(node, node.arg or "")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in ("float", "FloatField"):
            self.found.append((node.lineno, self._holder))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("float", "FloatField"):
            self.found.append((node.lineno, self._holder))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float):
            self.found.append((node.lineno, self._holder))


def floats(source: str) -> list[tuple[int, str]]:
    """Every float of `source`: (line, name of what holds it)."""
    finder = _Floats()
    finder.visit(ast.parse(source))
    return finder.found


def holders(file: Path) -> set[tuple[str, str]]:
    """(file, name) of every float in `file`."""
    path = file.relative_to(PROJECT).as_posix()
    return {(path, name) for _, name in floats(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    "source",
    [
        "price = 0.1",
        "price = float(text)",
        "def charge(amount: float) -> None: ...",
        "def charge() -> float: ...",
        "def charge(amount: 'Decimal | None' = 1e-6) -> None: ...",
        "amount: float | None = None",
        "amount = models.FloatField()",
        "amount = serializers.FloatField()",
        "amount = builtins.float(1)",
        "rows = list(map(float, rows))",
        "charge(amount=0.5)",
        "return_value = lambda x: x * 1.8",
    ],
)
def test_the_search_sees_a_float_however_it_is_written(source: str) -> None:
    assert len(floats(source)) == 1


def test_the_search_covers_the_books() -> None:
    names = {file.relative_to(PROJECT).as_posix() for file in MONEY}

    assert names >= {"billing/ledger/services.py", "billing/ledger/models.py", "billing/plans/models.py", "routing/pricing.py"}


@pytest.mark.parametrize("file", MONEY, ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_no_float_near_money(file: Path) -> None:
    assert holders(file) - DURATIONS == set()


def test_every_exception_is_needed() -> None:
    assert set().union(*map(holders, MONEY)) >= DURATIONS
