"""One thing that was found: its kind, its lines, and the facts that its sentence tells."""

from collections.abc import Sequence
from dataclasses import dataclass

from hoidap.check.kinds import KINDS
from hoidap.check.personal import mask
from hoidap.language import Both, Language

_MOST_SHOWN = 160  # characters of a fact
_MOST_LINES = 10
_AROUND = 40  # characters before the first in which two texts differ

Fact = str | Both


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding; ``lines`` are all that it concerns, none if it is the whole file's."""

    kind: str
    lines: tuple[int, ...]
    facts: tuple[Fact, ...]

    def what(self, language: Language) -> str:
        """Return its sentence; personal data in it is masked, and what is long is cut."""
        facts = [shown(fact if isinstance(fact, str) else fact.of(language)) for fact in self.facts]
        return KINDS[self.kind].what.of(language).format(*facts)


def shown(text: str, most: int = _MOST_SHOWN) -> str:
    """Return text as a report shows it: masked, on one line, the end of a long one cut off."""
    flat = mask(" ".join(text.split()))
    return flat if len(flat) <= most else flat[: most - 1].rstrip() + "…"


def apart(one: str, other: str) -> tuple[str, str]:
    """Return two texts, masked, from shortly before where they begin to differ, so that it is seen when they are cut."""
    one, other = mask(one), mask(other)
    if len(one) <= _MOST_SHOWN and len(other) <= _MOST_SHOWN:
        return one, other
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, at - _AROUND)
    end = start + 2 * _MOST_SHOWN  # more is never shown, and a file may have as many findings as cells
    return ("…" * bool(start) + one[start:end], "…" * bool(start) + other[start:end])


def where(file: str, lines: Sequence[int]) -> str:
    """Return the place of a finding: "shop.csv:3, 8, 12"."""
    if not lines:
        return file
    more = f" … +{len(lines) - _MOST_LINES:,}" if len(lines) > _MOST_LINES else ""
    return f"{file}:{', '.join(map(str, lines[:_MOST_LINES]))}{more}"
