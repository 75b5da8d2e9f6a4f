"""A file is examined: everything that is found in it, before anything is trained."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hoidap.base import Base
from hoidap.check.answers import flaw_of
from hoidap.check.characters import Role, Step, flaws, invisible_in, look_alikes_in
from hoidap.check.disagreement import disagreements
from hoidap.check.finding import Finding, apart
from hoidap.check.kinds import KINDS, ROLES, SEVERITIES, Severity
from hoidap.check.length import unfit
from hoidap.check.likeness import near_questions, reworded_questions
from hoidap.check.personal import find_personal, hidden
from hoidap.check.questions import has_letters, several
from hoidap.check.refusal import told
from hoidap.check.sameness import Placed, clashing_wordings, same_questions, same_without_marks
from hoidap.check.texts import texts_of
from hoidap.data.items import Item
from hoidap.data.legacy import NAMES
from hoidap.data.read import Contents, read_contents
from hoidap.errors import DataError
from hoidap.language import Both
from hoidap.progress import bar
from hoidap.tones import Style, restyle, styled

_PARTS = {"read": 20, "characters": 25, "items": 5, "pairs": 40, "length": 10}  # of the time, roughly
_FINE = 100  # steps of a hundredth, for the bar


@dataclass(frozen=True)
class Report:
    """What was found in a file."""

    file: str
    n_rows: int
    n_items: int  # that training would take
    findings: tuple[Finding, ...]  # the gravest kinds first

    def by_kind(self) -> dict[str, list[Finding]]:
        """Return the findings of each kind there is, the gravest first."""
        found: dict[str, list[Finding]] = {kind: [] for kind in _ORDER}
        for finding in self.findings:
            found[finding.kind].append(finding)
        return {kind: findings for kind, findings in found.items() if findings}

    def count(self, severity: Severity) -> int:
        """Return how many findings are of one severity."""
        return sum(KINDS[finding.kind].severity == severity for finding in self.findings)


_ORDER = sorted(KINDS, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))


def examine(path: Path, base: Base, console: Console) -> Report:
    """Return everything that is found in a file.

    Args:
        path: as ``read_items`` takes it.
        base: what is to be trained on the file: its tokenizer says what fits.
        console: where the progress is shown.

    Raises:
        DataError: there is no such file.

    """
    with bar(console, f"examining {path.name}", _FINE * sum(_PARTS.values())) as advance:
        contents, findings = _read(path)
        _step(advance, "read", 1)()
        refused = contents.refused | contents.old.keys()
        good = [number for number, owner in enumerate(contents.owners) if owner not in refused]
        items = [contents.items[number] for number in good]
        lines = [contents.rows[contents.owners[number]][0] for number in good]
        findings += _in_characters(contents, _step(advance, "characters", len(contents.rows)))
        findings += _in_items(items, lines, _step(advance, "items", len(items)))
        findings += _among_items(items, lines, advance)
        findings += unfit(items, lines, base, _step(advance, "length", len(items)))
    findings.sort(key=lambda finding: _ORDER.index(finding.kind))
    return Report(path.name, len(contents.rows), len(items), tuple(findings))


def _step(advance: Callable[[int], None], part: str, count: int) -> Callable[[], None]:
    """Return what is called ``count`` times while a part is done, and advances the bar by its share."""
    whole, done, called = _FINE * _PARTS[part], 0, 0

    def step() -> None:
        nonlocal done, called
        called += 1
        now = whole * called // count
        if now > done:
            advance(now - done)
            done = now

    return step


def _read(path: Path) -> tuple[Contents, list[Finding]]:
    """Return what a file holds, and what the reader says of it."""
    notes: list[str] = []
    try:
        contents = read_contents(path, notes.append)
    except DataError as error:
        if not path.is_file():
            raise
        contents = Contents([], [], [], list(error.problems), set(), {})
    findings = [Finding("refused", *_told(path.name, problem)) for problem in contents.problems]
    return contents, findings + [Finding("reader", *_told(path.name, note)) for note in notes]


def _told(file: str, problem: str) -> tuple[tuple[int, ...], tuple[Both]]:
    lines, what = told(file, problem)
    return lines, (what,)


def _in_characters(contents: Contents, step_on: Callable[[], None]) -> Iterator[Finding]:
    """Give out what is found in the texts of the rows, character by character, the refused ones too."""
    apart: list[int] = []
    tones: dict[tuple[Style, str], list[int]] = defaultdict(list)
    public: dict[tuple[str, str], tuple[str, list[int]]] = {}
    for number, (line, columns) in enumerate(contents.rows):
        encoding = contents.old.get(number, "")
        for role, text in texts_of(columns):
            steps, whole = flaws(text, role, encoding)
            for step in steps:
                if step.kind != "nfd":
                    yield _flaw(step, line, role, encoding)
                elif line not in apart[-1:]:
                    apart.append(line)
            for style in styled(whole):
                tones[style].append(line)
            yield from _personal(whole, line, role, public)
        step_on()
    if apart:
        yield Finding("nfd", tuple(apart), (f"{len(apart):,}",))
    yield from _tone_marks(tones)
    for (kind, _), (shown, lines) in public.items():
        yield Finding(f"{kind}-answered", tuple(dict.fromkeys(lines)), (shown, f"{len(lines):,}"))


def _flaw(step: Step, line: int, role: Role, encoding: str) -> Finding:
    before, after = apart(step.before, step.after)
    match step.kind:
        case "old-encoding":
            return Finding(step.kind, (line,), (ROLES[role], NAMES[encoding], before, after))
        case "invisible":
            return Finding(step.kind, (line,), (ROLES[role], invisible_in(step.before), after))
        case "look-alikes" | "false-d":
            return Finding(step.kind, (line,), (ROLES[role], look_alikes_in(step.before), after))
    return Finding(step.kind, (line,), (ROLES[role], before, after))


def _personal(text: str, line: int, role: Role, public: dict[tuple[str, str], tuple[str, list[int]]]) -> Iterator[Finding]:
    """Give out what nobody should read; what answers tell may be meant for all, and is gathered in ``public``."""
    for one in find_personal(text):
        if one.kind in {"card", "identity"}:
            yield Finding(one.kind, (line,), (ROLES[role], hidden(one.text)))
        elif role == "answer":
            public.setdefault((one.kind, one.key), (hidden(one.text), []))[1].append(line)
        else:
            yield Finding(f"{one.kind}-asked", (line,), (ROLES[role], hidden(one.text)))


def majority(counts: Counter[Style]) -> Style:
    """Return the style that most words have; the older one if there are as many of both."""
    return "newer" if counts["newer"] > counts["older"] else "older"


def _tone_marks(tones: dict[tuple[Style, str], list[int]]) -> Iterator[Finding]:
    """Give out the words of the rarer style, if both are there."""
    counts: Counter[Style] = Counter()
    for (style, _), lines in tones.items():
        counts[style] += len(lines)
    if len(counts) < 2:
        return
    most = majority(counts)
    older, newer = f"{counts['older']:,}", f"{counts['newer']:,}"
    whole = Both(
        f"{older} từ kiểu cũ (hòa), {newer} kiểu mới (hoà)", f"{older} in the older style (hòa), {newer} in the newer"
    )
    for (style, word), lines in tones.items():
        if style != most:
            yield Finding("tone-marks", tuple(dict.fromkeys(lines)), (word, restyle(word, most), f"{len(lines):,}", whole))


def _in_items(items: Sequence[Item], lines: Sequence[int], step_on: Callable[[], None]) -> Iterator[Finding]:
    """Give out what is found in an item by itself."""
    for item, line in zip(items, lines, strict=True):
        if not has_letters(item.question):
            yield Finding("no-letters", (line,), (item.question,))
        if kind := several(item.question):
            yield Finding(kind, (line,), (item.question,))
        if kind := flaw_of(item.answer):
            yield Finding(kind, (line,), (item.question, item.answer))
        step_on()


def _among_items(items: Sequence[Item], lines: Sequence[int], advance: Callable[[int], None]) -> Iterator[Finding]:
    """Give out what is found between items."""
    placed = Placed(items, lines)
    searches = (same_questions, same_without_marks, clashing_wordings, reworded_questions, disagreements, near_questions)
    step_on = _step(advance, "pairs", len(searches))
    for search in searches:
        yield from search(placed)
        step_on()
