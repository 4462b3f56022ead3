"""Reading what the documents claim and what the code says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
APPS = ("iafactory", "ratelimit", "billing", "routing", "dashboard")
DOCUMENTS = sorted(path.relative_to(PROJECT).as_posix() for path in [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])


def text_of(document: str) -> str:
    return (PROJECT / document).read_text(encoding="utf-8")


def section(document: str, heading: str) -> str:
    """What stands under a heading, down to the next one of its level. Fails when there is no such heading."""
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,2}} |\Z)", text_of(document), re.M | re.S)
    assert match is not None, f"{document} has no heading {heading!r}"
    return match[2]


def table_rows(text: str) -> list[list[str]]:
    """The cells of every table row, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [position for position, row in enumerate(rows) if set("".join(row)) <= set("-: ")]
    heads = {position - 1 for position in rules}
    return [row for position, row in enumerate(rows) if position not in rules and position not in heads]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def calls_in(*roots: str) -> Iterator[tuple[str, ast.Call]]:
    """(callee, call) of every call in the Python files below `roots`, relative to the project."""
    for root in roots:
        path = PROJECT / root
        for file in [path] if path.is_file() else path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield ast.unparse(node.func), node


def texts_of(node: ast.expr) -> set[str]:
    """The texts an expression can be: a literal, `f"a_{b}"` as `a_{b}`, any branch of `a if b else c`, of `a or b`."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.JoinedStr():
            return {ast.unparse(node)[2:-1]}
        case ast.IfExp(body=body, orelse=orelse):
            return texts_of(body) | texts_of(orelse)
        case ast.BoolOp(values=values):
            return set().union(*(texts_of(value) for value in values))
        case _:
            return set()
