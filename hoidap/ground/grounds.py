"""Which item a question asks for, which item an answer comes from, and whether to give it.

The model answers; the items vouch for it. A question is compared with the items' questions, and with all that is known of
each item (its wordings and its answer), by letters, and by meaning too where the extra is installed (embedding.py). What
the model says counts as a vote for the item whose answer it is. From nearness, lead and that vote comes a confidence.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hoidap.data.items import Item
from hoidap.errors import RunError
from hoidap.facts import foreign_facts, missing_facts
from hoidap.ground.confidence import Confidence
from hoidap.ground.embedding import Embeddings
from hoidap.ground.index import Index
from hoidap.ground.restore import Restorer
from hoidap.text import comparable, fold
from hoidap.variants.teencode import meanings, spell_out

SIGNALS = ("nearness", "lead", "said", "said_surely")
MEANT_SIGNALS = (*SIGNALS, "meaning", "meaning_lead", "covered")  # where there are embeddings
_NEAREST = 20  # texts taken from each index
_CLOSE = 0.5  # share of words that an answer has in common with the item's that it is said to come from
_SAME = 0.85  # and from which it is that answer, if its facts are the same
_MOST_WORDS = 2000  # compared of each answer
_WORD = re.compile(r"\w+")
_KEPT = 4096  # questions, and answers
_INDEXES = ("questions", "documents", "answers")
_WORDS = "words.json"

# Before a run was examined: the question must be nearly an item's own, or near one whose answer the model gives.
UNTRAINED = Confidence(SIGNALS, (4.0, 4.0, 1.0, 2.0), -4.5, 0.5)
_UNTRAINED_MEANT = replace(UNTRAINED, names=MEANT_SIGNALS, weights=(*UNTRAINED.weights, 0.0, 0.0, 0.0))  # no guess at them


# Words that turn an answer round: one has as many of them as the other, or they are two answers.
_TURNING = re.compile(r"\b(?:không|chưa|chẳng|chả|đừng|hết|ngừng|ngưng|cấm|trừ|chỉ)\b")


@dataclass(frozen=True)
class Said:
    """What the model answered, and how likely it found that: the geometric mean of its tokens' probabilities."""

    text: str
    likelihood: float
    is_whole: bool = True  # False: cut off where the tokens allowed were used up


@dataclass(frozen=True)
class Near:
    """An item and how near a question is to it: the mean of two cosines, 0 to 1."""

    number: int  # its place among the items
    nearness: float


@dataclass(frozen=True)
class Candidate:
    """An item that may be asked for, with the signals for it."""

    number: int
    signals: tuple[float, ...]  # in the order of the grounds' signals


@dataclass(frozen=True)
class Decision:
    """What is made of a question and the model's answer to it."""

    number: int | None  # the item whose answer is given; None: the bot declines
    text: str  # the answer, "" where the bot declines
    confidence: float  # in the item that is most likely asked for, whether or not its answer is given
    near: tuple[Near, ...]  # nearest first
    is_corrected: bool = False  # the text is the owner's, in place of the item's answer


@dataclass
class Grounds:
    """The items of a run with their indexes.

    Where there are embeddings there are two confidences: of all signals, and of those that need no extra.
    """

    items: Sequence[Item]
    questions: Index
    documents: Index  # an item's question, its trained wordings and its answer as one text
    answers_index: Index
    answers: npt.NDArray[np.uint64]  # a hash of each item's answer, as compared: equal for equal answers
    own_words: frozenset[str]  # teencode that the items use as words: "ship" in a shop that writes so
    restorer: Restorer  # of the diacritics that a question lacks
    confidence: Confidence = UNTRAINED  # of the signals that there are
    embeddings: Embeddings | None = None
    lexical: Confidence = UNTRAINED  # takes its place where the extra is missing
    # What is near a question, and where an answer comes from: an exam asks for both several times.
    _known: dict[str, list[Near]] = field(default_factory=dict, repr=False)
    _sources: dict[str, tuple[int | None, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, items: Sequence[Item], others: Sequence[Sequence[str]], embeddings: Embeddings | None = None
    ) -> "Grounds":
        """Index items; ``others`` has for each the other wordings by the user that were trained on."""
        texts = [" ".join([item.question, *more, item.answer]) for item, more in zip(items, others, strict=True)]
        questions = Index.build([item.question for item in items])
        own_words = meanings().keys() & {word for text in texts for word in _WORD.findall(fold(text))}
        answers = np.array([_hash(item.answer) for item in items], np.uint64)
        answers_index = Index.build([item.answer for item in items])
        untrained = UNTRAINED if embeddings is None else _UNTRAINED_MEANT
        documents = Index.build(texts)
        restorer = embeddings.restorer if embeddings else Restorer.of_items(items, others)
        known = (answers, frozenset(own_words), restorer)
        return cls(items, questions, documents, answers_index, *known, untrained, embeddings)

    def save(self, folder: Path) -> None:
        """Write all but the items into an existing folder."""
        np.save(folder / "answers.npy", self.answers)
        for name, index in zip(_INDEXES, (self.questions, self.documents, self.answers_index), strict=True):
            (folder / name).mkdir(exist_ok=True)
            index.save(folder / name)
        (folder / "own-words.txt").write_text("".join(f"{word}\n" for word in sorted(self.own_words)), encoding="utf-8")
        self.restorer.save(folder / _WORDS)
        self.without_embeddings().confidence.save(folder / "confidence.json")
        if self.embeddings is not None:
            (folder / "embedding").mkdir(exist_ok=True)
            self.embeddings.save(folder / "embedding")
            self.confidence.save(folder / "embedding" / "confidence.json")

    @classmethod
    def load(cls, folder: Path, items: Sequence[Item]) -> "Grounds":
        """Read what ``save`` wrote, but for embeddings whose package is missing here.

        Raises:
            RunError: a file is missing or damaged, or of other items.

        """
        questions, documents, answers_index = (Index.load(folder / name) for name in _INDEXES)
        if not len(questions) == len(documents) == len(answers_index) == len(items):
            msg = f"{folder} indexes {len(questions)} items, the run has {len(items)}; `hoidap evaluate` writes it again"
            raise RunError(msg)
        try:
            answers = np.load(folder / "answers.npy", allow_pickle=False)
            own_words = (folder / "own-words.txt").read_text(encoding="utf-8").split()
        except (OSError, ValueError, EOFError) as error:
            msg = f"{folder} cannot be read ({error}); `hoidap evaluate` writes it again"
            raise RunError(msg) from None
        if answers.dtype != np.uint64 or answers.shape != (len(items),):
            msg = f"{folder / 'answers.npy'} is not of the run's {len(items)} items; `hoidap evaluate` writes it again"
            raise RunError(msg)
        lexical, restorer = _confidence(folder / "confidence.json", SIGNALS), Restorer.load(folder / _WORDS)
        known = (answers, frozenset(own_words), restorer)
        grounds = cls(items, questions, documents, answers_index, *known, lexical, lexical=lexical)
        extra = folder / "embedding"
        embeddings = Embeddings.load(extra, len(items), restorer) if extra.is_dir() else None
        if embeddings is None:
            return grounds
        return replace(grounds, embeddings=embeddings, confidence=_confidence(extra / "confidence.json", MEANT_SIGNALS))

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of what a confidence is made of."""
        return SIGNALS if self.embeddings is None else MEANT_SIGNALS

    def near(self, question: str) -> list[Near]:
        """Return the items near a question, nearest first; of those with the same answer the nearest alone."""
        if question not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[question] = self._find(question)
        return self._known[question]

    def _find(self, question: str) -> list[Near]:
        question = spell_out(question, self.own_words)
        nearness: dict[int, float] = {}
        for index in (self.questions, self.documents):
            for found in index.nearest(question, _NEAREST):
                nearness[found.number] = nearness.get(found.number, 0.0) + found.similarity / 2
        ranked = sorted(nearness.items(), key=lambda pair: (-pair[1], pair[0]))
        first = {int(self.answers[number]): number for number, _ in reversed(ranked)}
        return [Near(number, value) for number, value in ranked if first[int(self.answers[number])] == number]

    def is_answer(self, number: int, text: str) -> bool:
        """Return whether a text gives an item's answer: it comes from it, and states its facts and no others."""
        source, closeness = self.source(text)
        if source is None or closeness < _SAME or not self.has_same_answer(source, number):
            return False
        answer = self.items[number].answer
        if sorted(_TURNING.findall(comparable(text))) != sorted(_TURNING.findall(comparable(answer))):
            return False
        return not missing_facts(text, answer) and not foreign_facts(text, answer)

    def source(self, answer: str) -> tuple[int | None, float]:
        """Return the item that an answer comes from, None if from none, and the share of words they have in common."""
        if answer not in self._sources:
            if len(self._sources) >= _KEPT:
                self._sources.clear()
            self._sources[answer] = self._find_source(answer)
        return self._sources[answer]

    def _find_source(self, answer: str) -> tuple[int | None, float]:
        if not answer.strip():
            return None, 0.0
        equal = np.flatnonzero(self.answers == _hash(answer))
        if len(equal):
            return int(equal[0]), 1.0
        near = self.answers_index.nearest(answer, 5)
        closeness = [(_common(answer, self.items[found.number].answer), found.number) for found in near]
        best, number = max(closeness, default=(0.0, None))
        return (number, best) if best >= _CLOSE else (None, best)

    def candidates(self, question: str, said: Said | None) -> tuple[list[Candidate], list[Near]]:
        """Return the items that may be asked for: the nearest, by meaning too, and the one whose answer the model gave."""
        near = self.near(question)
        source = self.source(said.text)[0] if said else None
        found = [near[0].number] if near else []
        if source is not None:
            found.append(source)
        asked = self.restorer.restore(spell_out(question, self.own_words)) if self.embeddings else ""
        meant = self.embeddings.similarities(asked) if self.embeddings else None
        if meant is not None:
            found.append(int(meant.argmax()))
        numbers = {int(self.answers[number]): number for number in reversed(found)}.values()  # of equal answers the first
        kept = [number for number in dict.fromkeys(found) if number in numbers]
        return [Candidate(n, self._signals(n, near, source, said) + self._meaning(n, meant, asked)) for n in kept], near

    def _signals(self, number: int, near: Sequence[Near], source: int | None, said: Said | None) -> tuple[float, ...]:
        own = max((n.nearness for n in near if self.has_same_answer(n.number, number)), default=0.0)
        other = max((n.nearness for n in near if not self.has_same_answer(n.number, number)), default=0.0)
        is_said = float(source is not None and self.has_same_answer(source, number))
        return own, own - other, is_said, is_said * (said.likelihood if said else 0.0)

    def _meaning(self, number: int, meant: npt.NDArray[np.float64] | None, asked: str) -> tuple[float, ...]:
        """Return the further signals that there are with embeddings."""
        if meant is None or self.embeddings is None:
            return ()
        same = self.answers == self.answers[number]
        own = float(meant[same].max())
        covered = self.embeddings.rarity.covered(self.restorer.restore(self.items[number].question), asked)
        return own, own - float(meant[~same].max(initial=0.0)), covered

    def recognise(self, question: str, said: Said | None) -> tuple[int | None, float, list[Near]]:
        """Return the item that is most likely asked for, how sure that is, and what is near."""
        candidates, near = self.candidates(question, said)
        sure = [(self.confidence.of(candidate.signals), candidate.number) for candidate in candidates]
        best, number = max(sure, key=lambda pair: pair[0], default=(0.0, None))
        return number, best, near

    def propose(
        self, question: str, said: Said, correction: Callable[[int], str | None] = lambda _number: None
    ) -> Decision:
        """Return what may be answered: the item's answer word for word, or its correction; or that the bot declines.

        Args:
            question: as asked.
            said: the model's answer to it.
            correction: returns the owner's answer for an item, if there is one; it needs no model to confirm it.

        """
        number, confidence, near = self.recognise(question, said)
        if number is None or confidence < self.confidence.threshold:
            return Decision(None, "", confidence, tuple(near))
        corrected = correction(number)
        text = self.items[number].answer if corrected is None else corrected
        return Decision(number, text, confidence, tuple(near), is_corrected=corrected is not None)

    def confirm(self, proposed: Decision, told: Said) -> Decision:
        """Return what is proposed in the model's words, if these give the item's answer; else that the bot declines."""
        if proposed.number is None or proposed.is_corrected:
            return proposed
        if told.is_whole and self.is_answer(proposed.number, told.text):
            return replace(proposed, text=told.text)
        return replace(proposed, number=None, text="")

    def decide(
        self,
        question: str,
        said: Said,
        recite: Callable[[int], Said] | None,
        correction: Callable[[int], str | None] = lambda _number: None,
    ) -> Decision:
        """Return what to answer, as ``propose`` and ``confirm`` have it.

        ``recite`` asks the model an item's question as it was taught; None gives the item's answer word for word.
        """
        proposed = self.propose(question, said, correction)
        if recite is None or proposed.number is None:
            return proposed
        confirmed = self.confirm(proposed, said)
        # Where the model answers something else, it is asked as it was taught: what it says then is given, not the item.
        return confirmed if confirmed.number is not None else self.confirm(proposed, recite(proposed.number))

    def has_same_answer(self, one: int, other: int) -> bool:
        """Return whether two items have the same answer: either is right then."""
        return bool(self.answers[one] == self.answers[other])

    def with_confidence(self, confidence: Confidence) -> "Grounds":
        """Return these grounds with another confidence; one that knows of no embeddings leaves them out."""
        if confidence.names == SIGNALS:
            return replace(self, confidence=confidence, lexical=confidence, embeddings=None)
        return replace(self, confidence=confidence)

    def without_embeddings(self) -> "Grounds":
        """Return these grounds as they are where the extra is missing."""
        return self if self.embeddings is None else self.with_confidence(self.lexical)


def _confidence(path: Path, names: tuple[str, ...]) -> Confidence:
    confidence = Confidence.load(path)
    if confidence.names != names:
        msg = f"{path} is of the signals {', '.join(confidence.names)}, not {', '.join(names)}"
        raise RunError(f"{msg}; `hoidap evaluate` writes it again")
    return confidence


def _hash(answer: str) -> np.uint64:
    text = comparable(answer) or answer  # "…" and "!" are nothing once normalised, and not the same
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


def _common(one: str, other: str) -> float:
    """Return the share of words that two texts have in common, in order: twice those in both over those of each."""
    words, others = (comparable(text).split()[:_MOST_WORDS] for text in (one, other))
    return SequenceMatcher(None, words, others, autojunk=False).ratio()
