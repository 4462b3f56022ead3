"""The figures of a run as text: for a terminal, and as Markdown for docs/performance.md.

    python -m benchmarks.table FIGURES.json [--into docs/performance.md]

`--into` replaces what stands between the document's two marks.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import PEERS_SCENE, SCENES
from benchmarks.measures import median
from benchmarks.targets import State, Verdict

COLUMNS = {
    "per_second": ("req/s", 0),
    "p50": ("p50 ms", 2),
    "p95": ("p95 ms", 2),
    "p99": ("p99 ms", 2),
    "first_p50": ("first ms", 2),
    "cpu_ms": ("CPU ms", 3),
    "postgres_ms": ("PG ms", 3),
    "redis_ms": ("Redis ms", 3),
    "memory_mb": ("MB", 0),
    "generator_share": ("load gen", 2),
}
# What it used while others were asked is not theirs.
OF_THE_PRODUCT = {"postgres_ms", "redis_ms"}
FIGURES = "figures of make bench"

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]


def medians(windows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Each column's median over the rounds, per scene and contender."""
    return {
        scene: {name: {column: median([one[column] for one in of]) for column in COLUMNS} for name, of in contenders.items()}
        for scene, contenders in windows.items()
    }


def scene_rows(figures: Medians) -> list[list[str]]:
    """A head and a row per scene and contender."""
    texts = {scene.name: scene.text for scene in (*SCENES, PEERS_SCENE)}
    rows = [["traffic", "who", *(head for head, _ in COLUMNS.values())]]
    for scene, contenders in figures.items():
        for name, row in contenders.items():
            cells = [
                "" if column in OF_THE_PRODUCT and name != "IA Factory" else f"{row[column]:,.{places}f}"
                for column, (_, places) in COLUMNS.items()
            ]
            rows.append([texts[scene], name, *cells])
    return rows


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """A head and a row per target."""
    rows = [["target", "measured", "must", "aim", "verdict"]]
    for verdict in verdicts:
        target = verdict.target
        sign = ("at least " if target.at_least else "at most ") if target.must else ""
        measured = "" if verdict.value is None else f"{verdict.value:,.2f} {target.unit}".strip()
        limits = [f"{sign}{target.must:g} {target.unit}".strip(), f"{target.aim:g} {target.unit}".strip()]
        rows.append([target.text, measured, *limits, verdict.state])
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; the first two to the left."""
    widths = [max(len(row[position]) for row in rows) for position in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))


def machine_line(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    shape = f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB, {machine['kernel']}"
    return f"{shape}; load before {machine['load_before'][0]}; {versions}; commit {machine['commit']}"


def fact_lines(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is worth knowing beside the targets, a line each."""
    return [
        f"{name.replace('_', ' ')}: {', '.join(f'{key} {value}'.replace('_', ' ') for key, value in fact.items())}"
        for name, fact in facts.items()
    ]


def document(run: Mapping[str, Any]) -> str:
    """What docs/performance.md shows of a run's JSON."""
    targets = [["target", "measured", "must", "aim", "verdict"]]
    targets += [[row[name] for name in targets[0]] for row in run["targets"]]
    targets = [[_emphasised(cell) for cell in row] for row in targets]
    taken = f"Taken {run['taken_at']}, {run['rounds']} rounds of {run['seconds']:g} s; {machine_line(run['machine'])}."
    if run["machine"]["load_before"][0] > run["machine"]["cores"] / 2:
        taken += (
            " **The machine was busy with other work**: memory can be compared with other runs, CPU roughly, the rest hardly."
        )
    return "\n\n".join(
        [
            taken,
            as_markdown(targets),
            as_markdown(scene_rows(medians(run["windows"]))),
            "\n".join(f"- {line}" for line in fact_lines(run["facts"])),
            *[f"{text}." for text in run["books"]],
        ]
    )


def _emphasised(cell: str) -> str:
    return f"**{cell}**" if cell == State.MISSED else cell


def into(file: Path, what: str, text: str) -> None:
    """Replaces what stands between the document's two marks for it. Exits where there are none."""
    begin, end = (f"<!-- {what}: {side} -->" for side in ("begin", "end"))
    before, found, rest = file.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        sys.exit(f"error: {file} has no marks for {what}")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("figures", type=Path)
    arguments.add_argument("--into", type=Path)
    options = arguments.parse_args()
    text = document(json.loads(options.figures.read_text()))
    if options.into:
        into(options.into, FIGURES, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
