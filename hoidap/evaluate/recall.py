"""Ask, compare, count: how many answers come back word for word, and which do not."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hoidap.bot import Bot
from hoidap.prompt import Turn
from hoidap.text import comparable


@dataclass(frozen=True)
class Asked:
    """One question asked of a bot."""

    question: str
    wanted: str | None  # None where nothing is known to compare with
    got: str
    finish_reason: str
    confidence: float

    @property
    def is_exact(self) -> bool:
        """Equal to the letter."""
        return self.got == self.wanted

    @property
    def is_same(self) -> bool:
        """Equal after normalisation: case, spaces, end punctuation and the place of tone marks aside."""
        return self.wanted is not None and comparable(self.got) == comparable(self.wanted)


@dataclass(frozen=True)
class Score:
    """What came of some questions whose answers are known; shares are 0 to 1."""

    count: int
    exact: float
    normalised: float
    chrf: float  # 0 to 100, sacrebleu's chrF2 (Popović 2015) over all answers


def ask(
    bot: Bot,
    pairs: Sequence[tuple[str, str | None]],
    advance: Callable[[], None] = lambda: None,
    histories: Sequence[Sequence[Turn]] | None = None,
) -> list[Asked]:
    """Ask every question on its own, or after its history, greedily; ``advance`` is called for each answer."""
    answers = bot.answer_all([question for question, _ in pairs], advance=advance, histories=histories)
    return [
        Asked(question, wanted, answer.text, answer.finish_reason, answer.confidence)
        for (question, wanted), answer in zip(pairs, answers, strict=True)
    ]


def score(asked: Sequence[Asked]) -> Score | None:
    """Return the score of those questions that have an answer to compare with, None if there are none."""
    from sacrebleu.metrics.chrf import CHRF  # a second to import, for this alone

    known = [(a, a.wanted) for a in asked if a.wanted is not None]
    if not known:
        return None
    chrf = CHRF().corpus_score([a.got for a, _ in known], [[wanted for _, wanted in known]]).score
    exact = sum(a.is_exact for a, _ in known) / len(known)
    normalised = sum(a.is_same for a, _ in known) / len(known)
    return Score(len(known), exact, normalised, chrf)


def ask_items(bot: Bot, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Ask a run's items as trained and in their other wordings, never trained on; return the report."""
    items = bot.items
    questions = ask(bot, [(item.question, item.answer) for item in items], advance, [item.before for item in items])
    reworded = [(wording, item) for item in items for wording in item.wordings]
    pairs = [(wording, item.answer) for wording, item in reworded]
    wordings = ask(bot, pairs, advance, [item.before for _, item in reworded])
    return {"format": 1, "items": _section(questions), "other_wordings": _section(wordings)}


def _section(asked: Sequence[Asked]) -> dict[str, Any]:
    scored = score(asked)
    rows = [{**asdict(a), "exact": a.is_exact, "same": a.is_same} for a in asked]
    return {"score": asdict(scored) if scored else None, "asked": rows}
