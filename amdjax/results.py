"""The end of a run: `results.json` and the table."""

import dataclasses
import json
from pathlib import Path

from amdjax.checkpoint import best_step
from amdjax.logs import write_atomically

FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a network did.

    Attributes:
      model: its name.
      parameters: how many it has.
      evaluations: step -> values on the test split, at least of the last and of the best step.
    """

    model: str
    parameters: int
    evaluations: dict[int, dict[str, float]]

    def final(self) -> dict[str, float]:
        """Returns the last evaluation, with its step."""
        step = max(self.evaluations)
        return {"step": step, **self.evaluations[step]}

    def best(self) -> dict[str, float]:
        """Returns the most accurate evaluation, with its step: chosen on the test split itself."""
        step = best_step(self.evaluations)
        return {"step": step, **self.evaluations[step]}


def write(workdir: Path, data: str, outcomes: dict[str, Outcome]) -> None:
    """Writes `results.json`: for the teacher and each method the final and the best evaluation.

    Args:
      workdir: folder of the run.
      data: name of the data set.
      outcomes: by phase, the teacher's under "teacher" where there is one.
    """
    rows = {
        name: {
            "model": outcome.model,
            "parameters": outcome.parameters,
            "final": outcome.final(),
            "best": outcome.best(),
        }
        for name, outcome in outcomes.items()
    }
    content = {"data": data, "teacher": rows.pop("teacher", None), "methods": rows}
    write_atomically(workdir / FILE, json.dumps(content, indent=2) + "\n")


def table(outcomes: dict[str, Outcome]) -> str:
    """Returns the results as lines of text, one for each network."""
    header = ("", "model", "parameters", "accuracy %", "NLL", "ECE %", "best accuracy %")
    rows = [header]
    for name, outcome in outcomes.items():
        final, best = outcome.final(), outcome.best()
        rows.append(
            (
                name,
                outcome.model,
                f"{outcome.parameters:,}",
                f"{100 * final['accuracy']:.2f}",
                f"{final['nll']:.4f}",
                f"{100 * final['ece']:.2f}",
                f"{100 * best['accuracy']:.2f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(
        "accuracy, NLL (nats) and ECE (15 bins): test split, last step; "
        "best: highest of all evaluations on the test split"
    )
    return "\n".join(lines)
