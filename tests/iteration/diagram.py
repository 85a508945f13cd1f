"""The state diagrams of docs/explanation/iteration-states.md, from the code's tables.

`python -m tests.iteration.diagram` writes them into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudtask.runs import RUN_TRANSITIONS, SHARD_TRANSITIONS, RunState, ShardState

PAGE = (
    Path(__file__).resolve().parents[2] / "docs" / "explanation" / "iteration-states.md"
)
BEGIN, END = "<!-- drawn from {} -->", "<!-- end -->"
TABLES: dict[str, Mapping[Any, Sequence[Any]]] = {
    "RUN_TRANSITIONS": RUN_TRANSITIONS,
    "SHARD_TRANSITIONS": SHARD_TRANSITIONS,
}
FIRST = {"RUN_TRANSITIONS": RunState.WAITING, "SHARD_TRANSITIONS": ShardState.WAITING}


def drawn(name: str) -> str:
    """A table as a mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {FIRST[name].value}"]
    lines += [
        f"    {before.value} --> {after.value}"
        for before, following in TABLES[name].items()
        for after in following
    ]
    return "\n".join([*lines, "```"])


def renewed(page: str) -> str:
    """`page` with the diagrams as the code has them now."""
    for name in TABLES:
        begin = BEGIN.format(name)
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(END)
        page = f"{before}{begin}\n{drawn(name)}\n{END}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
