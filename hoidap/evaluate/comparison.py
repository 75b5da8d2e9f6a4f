"""What a run answers beside the run that it began from: fixed, broken, as before, new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hoidap.data.wordings import AS_WRITTEN
from hoidap.evaluate.judge import RIGHT, judge
from hoidap.ground.grounds import Grounds
from hoidap.text import comparable


@dataclass(frozen=True)
class Comparison:
    """Questions of the data as they are now, by what became of their answers; right is what is right now."""

    fixed: tuple[str, ...]  # wrong before, a corrected answer included, and right now
    broke: tuple[str, ...]  # right before, wrong now
    right: int  # before and now
    wrong: tuple[str, ...]  # before and now
    new: int  # not asked before
    new_wrong: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the terminal."""
        said = (
            f"{len(self.fixed)} fixed, {len(self.broke)} broke, {self.right} right as before, {len(self.wrong)} still wrong"
        )
        return f"{said}; {self.new} new, {self.new - len(self.new_wrong)} of them right"


def compare(earlier: Mapping[str, str], asked: Sequence[Mapping[str, Any]], grounds: Grounds) -> Comparison:
    """Compare answers as trained with earlier ones.

    Args:
        earlier: answers of the run that this one began from, by ``comparable`` question.
        asked: the report's rows.
        grounds: of the items as they are now, by which both are judged.

    """
    found: dict[str, list[str]] = {name: [] for name in ("fixed", "broke", "right", "wrong", "new", "new_wrong")}
    for row in asked:
        if row["kind"] != AS_WRITTEN:
            continue
        is_right, before = row["verdict"] in RIGHT, earlier.get(comparable(row["question"]))
        if before is None:
            found["new"].append(row["question"])
            name = None if is_right else "new_wrong"
        elif judge(grounds, row["item"], before) in RIGHT:
            name = "right" if is_right else "broke"
        else:
            name = "fixed" if is_right else "wrong"
        if name:
            found[name].append(row["question"])
    kept = {name: tuple(found[name]) for name in ("fixed", "broke", "wrong", "new_wrong")}
    return Comparison(**kept, right=len(found["right"]), new=len(found["new"]))
