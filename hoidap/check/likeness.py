"""Questions that are nearly the same, and whether their answers agree.

Those that differ in words that ask nothing, and in the order of their words, are all found. Those that are merely near are
found as far as the index looks for them: of many thousand questions that are much alike, the nearest.
"""

import re
from collections.abc import Iterator, Sequence

from hoidap.check.finding import Finding, apart, shown
from hoidap.check.personal import hidden
from hoidap.check.sameness import MOST_ANSWERS, SHOWN, Placed
from hoidap.facts import facts_of
from hoidap.ground.index import Index
from hoidap.text import fold

_LEAST = 0.8
_CONFUSED = 0.9  # from here on even questions about two things are told of
_MOST_PAIRS = 20_000
_MOST_DIGITS = 8  # of a number that is nobody's
# Words that do not make two questions of one.
_FILLERS = {
    "ạ", "à", "ah", "ad", "admin", "anh", "bạn", "biết", "cần", "các", "cái", "cho", "chị", "chiếc", "có", "của", "dạ",
    "được", "em", "giùm", "giúp", "hả", "hỏi", "là", "mình", "một", "muốn", "này", "nha", "nhé", "nhỉ", "những", "ơi", "ở",
    "quý", "shop", "thì", "tiệm", "tôi", "vậy", "và", "với", "xin",
}  # fmt: skip
# Where nothing has diacritics: "ban" may be bạn or bán, and stays.
_FOLDED_FILLERS = {"a", "ah", "ad", "admin", "cac", "cua", "em", "gium", "giup", "minh", "nhe", "oi", "shop", "thi", "xin"}
_DIRECTED = {"tu", "den", "toi", "sang", "hon", "doi", "thay", "truoc", "sau"}  # with one of these the order counts


def reworded_questions(placed: Placed) -> Iterator[Finding]:
    """Give out the questions that differ in words that ask nothing and in order alone, with different answers."""
    for group in placed.groups([core(question) for question in placed.questions]):
        by_answer = placed.by_answer(group)
        if len({placed.folded[number] for number in group}) > 1 and len(by_answer) > 1 and core(placed.questions[group[0]]):
            questions = dict.fromkeys(placed.items[number].question for number in group)
            quoted = " / ".join(f"“{shown(question, SHOWN)}”" for question in list(questions)[:MOST_ANSWERS])
            if told := differing_facts([placed.items[same[0]].answer for same in by_answer]):
                yield Finding("facts-differ", placed.where(group), (quoted, told))
            else:
                yield Finding("near-other-answer", placed.where(group), (quoted, placed.answers_of(by_answer)))


def differing_facts(answers: Sequence[str]) -> str:
    """Return the facts in which answers differ, if all have some of one kind and they are not the same; or ""."""
    found = [{(fact.kind, fact.value): fact.text for fact in facts_of(answer)} for answer in answers]
    of_kind = [{kind: {value for other, value in facts if other == kind} for kind, _ in facts} for facts in found]
    of_all = set.intersection(*(set(some) for some in of_kind))
    if all(some[kind] == of_kind[0][kind] for kind in of_all for some in of_kind):
        return ""
    common = set.intersection(*(set(facts) for facts in found))
    return " / ".join(
        ", ".join(_shown(kind, text) for (kind, value), text in facts.items() if (kind, value) not in common) or "–"
        for facts in found[:MOST_ANSWERS]
    )


def _shown(kind: str, text: str) -> str:
    is_personal = kind in {"phone", "email"} or sum(map(str.isdigit, text)) >= _MOST_DIGITS
    return hidden(text) if is_personal and kind not in {"money", "date", "link"} else text


def near_questions(placed: Placed) -> Iterator[Finding]:
    """Give out the pairs of questions that are nearly the same, but for those that are reworded with different answers."""
    first: dict[str, int] = {}
    for number, folded in enumerate(placed.folded):
        if not placed.items[number].before:
            first.setdefault(folded, number)
    numbers = list(first.values())
    index = Index.build([placed.items[number].question for number in numbers])
    for i, j, similarity in index.near_duplicates(_LEAST, _MOST_PAIRS):
        one, other = placed.items[numbers[i]], placed.items[numbers[j]]
        lines, questions = placed.where([numbers[i], numbers[j]]), apart(one.question, other.question)
        if placed.answers[numbers[i]] == placed.answers[numbers[j]]:
            yield Finding("near-same-answer", lines, (*questions, f"{similarity:.0%}"))
        elif similarity >= _CONFUSED and core(placed.questions[numbers[i]]) != core(placed.questions[numbers[j]]):
            yield Finding("easily-confused", lines, (*questions, f"{similarity:.0%}", one.answer, other.answer))


def core(question: str) -> str:
    """Return the words of a question, as ``comparable`` gives it, that ask something: folded, in an order of their own."""
    fillers = _FOLDED_FILLERS if question.isascii() else _FILLERS
    words = fold(" ".join(word for word in re.findall(r"\w+", question) if word not in fillers)).split()
    return " ".join(words if _DIRECTED.intersection(words) else sorted(words))
