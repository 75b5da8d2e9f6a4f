"""The card of a run: what it is, what it knows, how to ask it; for a person who opens the folder."""

from typing import Any

from hoidap.run import Run
from hoidap.training.loop import Outcome


def card(run: Run, report: dict[str, Any], outcome: Outcome) -> str:
    """Return the run's README.md."""
    score = report["items"]["score"]
    lines = [
        f"# {run.folder.name}",
        "",
        f"A chatbot made by hoidap: {run.recipe.method} on the base `{run.base_name}`.",
        "",
        f"- {score['count']} items. Asked each question, {score['exact']:.1%} of the answers came back to the letter,",
        f"  {score['normalised']:.1%} after normalisation; chrF {score['chrf']:.1f}.",
    ]
    if other := report["other_wordings"]["score"]:
        lines.append(
            f"- {other['count']} other wordings, never trained on: {other['normalised']:.1%} got the right item's answer."
        )
    lines += [
        f"- {outcome.epochs} epochs, {outcome.steps} steps, {outcome.seconds:.0f} s; kept: epoch {outcome.best_epoch}.",
        "",
        "Every answer beside the wanted one: `report.json`. Every setting: `recipe.toml`.",
        "",
        f"    hoidap chat {run.folder}",
        "",
    ]
    return "\n".join(lines)
