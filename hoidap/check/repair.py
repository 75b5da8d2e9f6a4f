"""--fix: what can be mended is mended in a copy of the file, and every change is listed; the original stays as it is."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hoidap.check.characters import Role, Step, flaws
from hoidap.check.document import Document, open_document, written_as
from hoidap.check.examination import majority
from hoidap.check.kinds import KINDS, ROLES
from hoidap.check.texts import changed, texts_of
from hoidap.data.legacy import OldText
from hoidap.errors import RecipeError
from hoidap.language import Both, Language
from hoidap.text import nfc
from hoidap.tones import Style, restyle, styled

_HEADER = (
    Both("dòng", "line"),
    Both("cột", "column"),
    Both("trước", "before"),
    Both("sau", "after"),
    Both("vì sao", "why"),
)


@dataclass(frozen=True)
class Change:
    """A cell that was mended; ``kinds`` are those of its flaws."""

    line: int
    column: str
    before: str
    after: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Repaired:
    """What ``repair`` wrote; nothing if nothing was to be mended."""

    source: Path
    file: Path
    list: Path
    n_changes: int
    n_rows: int


def outputs(path: Path) -> tuple[Path, Path]:
    """Return where the mended copy and the list of changes go.

    Raises:
        RecipeError: one of them is there already.

    """
    copy, changes = path.with_name(f"{path.stem}.fixed{written_as(path)}"), path.with_name(f"{path.stem}.changes.tsv")
    if there := [str(file) for file in (copy, changes) if file.exists()]:
        msg = f"--fix would write {' and '.join(there)}, which exist already; move or delete them, then run it again"
        raise RecipeError(msg)
    return copy, changes


def repair(path: Path, language: Language) -> Repaired:
    """Write a mended copy of a file beside it, and the list of what was changed.

    Raises:
        DataError: the file cannot be read far enough to be written again.
        RecipeError: the copy or the list is there already, or cannot be written.

    """
    copy, listed = outputs(path)
    document = open_document(path)
    changes = _mend(document)
    if changes:
        try:
            document.write(copy)
            _write_list(listed, changes, language)
        except (OSError, UnicodeEncodeError) as error:
            for file in (copy, listed):
                file.unlink(missing_ok=True)  # half a file is none
            if isinstance(error, OSError):
                msg = f"--fix cannot write beside {path} ({error.strerror or error}); copy the file to where you may write"
            else:
                msg = f"{path} holds halves of characters (lone surrogates), which no file can; correct them first"
            raise RecipeError(msg) from None
    return Repaired(path, copy, listed, len(changes), len({change.line for change in changes}))


def _mend(document: Document) -> list[Change]:
    """Mend the cells of a document, and return the changes in its order."""
    encodings = _encodings(document)
    style = _style(document, encodings)
    changes = [Change(line, before, before, after, ("old-encoding",)) for line, before, after in document.renamed]
    for row, encoding in zip(document.rows, encodings, strict=True):
        for column, key in row.places.items():
            found: list[Change] = []
            mend = _mender(row.line, column, encoding, style, found)
            mended = changed(column, row.cells[key], mend)
            if found:
                row.cells[key] = mended
                row.is_changed = True
                changes += found
    return changes


def _mender(
    line: int, column: str, encoding: str, style: Style | None, changes: list[Change]
) -> Callable[[Role, str], str]:
    def mend(role: Role, text: str) -> str:
        steps, whole = flaws(text, role, encoding)
        if style and (styled_text := restyle(whole, style)) != whole:
            steps.append(Step("tone-marks", whole, styled_text))
            whole = styled_text
        if whole != text:
            changes.append(
                Change(line, column, text, whole, tuple(step.kind for step in steps if step.after != step.before))
            )
        return whole

    return mend


def _encodings(document: Document) -> list[str]:
    """Return for each row the encoding older than Unicode that it is in, as the reader judges it, or ""."""
    old = OldText()
    encodings = [old.look(row.line, [nfc(text) for _, text in texts_of(row.known())]) for row in document.rows]
    found = old.found()
    return [encoding if encoding in found else "" for encoding in encodings]


def _style(document: Document, encodings: Sequence[str]) -> Style | None:
    """Return the style of tone marks that all words are to have; None if they have one already."""
    counts: Counter[Style] = Counter()
    for row, encoding in zip(document.rows, encodings, strict=True):
        for role, text in texts_of(row.known()):
            counts.update(style for style, _ in styled(flaws(text, role, encoding)[1]))
    return majority(counts) if len(counts) > 1 else None


def _write_list(path: Path, changes: Sequence[Change], language: Language) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # with the mark Excel reads it as UTF-8
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([name.of(language) for name in _HEADER])
        for change in changes:
            why = "; ".join(KINDS[kind].title.of(language) for kind in change.kinds)
            column = ROLES[change.column].of(language) if change.column in ROLES else change.column
            writer.writerow([change.line, column, change.before, change.after, why])
