"""Ask, compare, count: how many answers come back as wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hoidap.bot import Answer, Bot
from hoidap.data.read import Question
from hoidap.text import comparable


@dataclass(frozen=True)
class Compared:
    """A question of a file, and what the bot answered."""

    question: str
    wanted: str | None  # None where nothing is known to compare with
    answer: Answer

    @property
    def is_exact(self) -> bool:
        """Equal to the letter."""
        return self.answer.text == self.wanted

    @property
    def is_same(self) -> bool:
        """Equal after normalisation: case, spaces, end punctuation and the place of tone marks aside."""
        return self.wanted is not None and comparable(self.answer.text) == comparable(self.wanted)


@dataclass(frozen=True)
class Score:
    """What came of some questions whose answers are known; shares are 0 to 1."""

    count: int
    exact: float  # to the letter
    normalised: float  # case, spaces, end punctuation and the place of tone marks aside
    chrf: float  # 0 to 100, sacrebleu's chrF2 (Popović 2015) over all answers


def ask(bot: Bot, questions: Sequence[Question], advance: Callable[[], None] = lambda: None) -> list[Compared]:
    """Ask every question on its own, greedily, in the bot's mode; ``advance`` is called for each answer."""
    texts = [question.question for question in questions]
    if bot.mode == "model":
        answers = bot.answer_all(texts, advance=advance)
    else:
        answers = []
        for text in texts:
            answers.append(bot.answer(text))
            advance()
    return [Compared(q.question, q.answer, answer) for q, answer in zip(questions, answers, strict=True)]


def score(pairs: Sequence[tuple[str, str]]) -> Score | None:
    """Return the score of (what came, what was wanted), None if there are none."""
    from sacrebleu.metrics.chrf import CHRF  # a second to import, for this alone

    if not pairs:
        return None
    exact = sum(got == wanted for got, wanted in pairs) / len(pairs)
    normalised = sum(comparable(got) == comparable(wanted) for got, wanted in pairs) / len(pairs)
    chrf = CHRF().corpus_score([got for got, _ in pairs], [[wanted for _, wanted in pairs]]).score
    return Score(len(pairs), exact, normalised, chrf)
