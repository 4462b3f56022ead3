"""What a look at the product finds, and what a kind of rule is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from iafactory.common.texts import Text

Thresholds = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `subject` names it within the rule; `step` tells a higher threshold from a lower one.

    `level` None is the rule's own. `link` is the address of the console's page with the rows behind it.
    """

    subject: str
    title: Text
    text: Text | Sequence[Text] = ()
    level: str | None = None
    step: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""


# None: it cannot be told at the moment, so alerts stay as they are.
Look = Callable[[Thresholds, datetime], list[Finding] | None]


@dataclass(frozen=True, slots=True)
class Condition:
    """A kind of rule: how to look, the thresholds it has (whole numbers) with the values shipped, and how often to look."""

    look: Look
    thresholds: Mapping[str, int]
    seldom: bool = False
    """Looked at with the budgets rather than every two minutes."""
    watched: bool = False
    """Looked at by the watch of every process, never by a task: it is about whether tasks run."""
