"""What is asked of each item: its question as written, the user's other wordings, and variants as customers type them.

Which of these are trained on and which are held out to examine the bot with is decided here, once, before training. The
list is kept in the run as lines of JSON, for a person to read. A text belongs to one item: a variant that reads like a
question of another item is left out.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hoidap.data.items import Item
from hoidap.errors import DataError
from hoidap.recipe import Wordings
from hoidap.text import comparable
from hoidap.variants.families import FAMILIES, variants

AS_WRITTEN, OTHER = "as written", "other wording"
UNSEEN = ("typo", "vni")  # families never trained on: how the bot takes slips that it has not met
_MOST_EXAMINED = 60  # items whose variants are held out, of all


@dataclass(frozen=True)
class Wording:
    """One way to ask for an item's answer."""

    item: int  # its place among the items, from 0
    kind: str  # "as written", "other wording", or a family of variants
    text: str
    is_trained: bool


@dataclass(frozen=True)
class Split:
    """What is trained on, and what the bot is examined with."""

    items: list[Item]  # trained on
    held_out: list[Item]  # never trained on: near questions, which the bot should decline
    wordings: list[Wording]  # of ``items``, item by item

    def others(self) -> list[list[str]]:
        """Return for each item the ways to ask it that are trained on beside its question."""
        return self._trained(lambda wording: wording.kind != AS_WRITTEN)

    def by_user(self) -> list[list[str]]:
        """Return for each item those of its ``others`` that the user wrote."""
        return self._trained(lambda wording: wording.kind == OTHER)

    def _trained(self, chosen: Callable[[Wording], bool]) -> list[list[str]]:
        texts: list[list[str]] = [[] for _ in self.items]
        for wording in self.wordings:
            if wording.is_trained and chosen(wording):
                texts[wording.item].append(wording.text)
        return texts


def split(items: Sequence[Item], settings: Wordings, seed: int) -> Split:
    """Decide what is trained on.

    The lot of an item or a wording depends on the seed and its text alone: other rows of the file do not change it.

    Raises:
        DataError: no item would be left to train on.

    """
    held = [lot(seed, item.question) < settings.held_out_items for item in items]
    if all(held):
        share = f"--hold-out-items {settings.held_out_items} holds out all of the {len(items)} items"
        raise DataError([f"{share}; lower it, or change --seed"])
    kept = [item for item, is_held in zip(items, held, strict=True) if not is_held]
    held_out = [item for item, is_held in zip(items, held, strict=True) if is_held]
    return Split(kept, held_out, _word(kept, settings, seed))


def _word(items: Sequence[Item], settings: Wordings, seed: int) -> list[Wording]:
    numbered = reversed(list(enumerate(items)))  # of several the first has a text
    owners = {comparable(text): n for n, item in numbered for text in (item.question, *item.wordings)}
    by_lot = sorted(range(len(items)), key=lambda n: lot(seed, items[n].question))
    examined = set(by_lot[:_MOST_EXAMINED])
    found = []
    for n, item in enumerate(items):
        taken: set[str] = set()
        for wording in _ways(n, item, settings, seed, is_examined=n in examined):
            by_user = wording.kind in (AS_WRITTEN, OTHER)
            if wording.text not in taken and (by_user or owners.setdefault(comparable(wording.text), n) == n):
                taken.add(wording.text)
                found.append(wording)
    return found


def _ways(n: int, item: Item, settings: Wordings, seed: int, *, is_examined: bool) -> Iterator[Wording]:
    """Give out the ways to ask one item: trained ones first, so that what is held out is told from them."""
    yield Wording(n, AS_WRITTEN, item.question, is_trained=True)
    known = comparable(item.question)
    for text in item.wordings:
        # But for capitals and punctuation the question itself: holding that out would examine nothing.
        is_trained = lot(seed, text) >= settings.held_out_wordings or comparable(text) == known
        yield Wording(n, OTHER, text, is_trained=is_trained)
    if not settings.variants:
        return
    seen = [family for family in FAMILIES if family not in UNSEEN]
    for draw in range(settings.variants):
        for variant in variants(item.question, seed + draw, seen):
            yield Wording(n, variant.family, variant.text, is_trained=True)
    if is_examined:
        for variant in variants(item.question, seed + settings.variants, FAMILIES):
            yield Wording(n, variant.family, variant.text, is_trained=False)


def lot(seed: int, text: str) -> float:
    """Return a number from 0 to below 1 that depends on the seed and the text alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:7]) / 2**56


def to_jsonl(wordings: Sequence[Wording]) -> str:
    """Return the wordings as JSON lines, as kept in a run folder."""
    return "".join(json.dumps(asdict(wording), ensure_ascii=False) + "\n" for wording in wordings)


def from_jsonl(path: Path) -> list[Wording]:
    """Read what ``to_jsonl`` wrote.

    Raises:
        DataError: the file is something else.

    """
    try:
        return [Wording(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError) as error:
        raise DataError([f"{path}: not the wordings of a run ({error!r})"]) from None
