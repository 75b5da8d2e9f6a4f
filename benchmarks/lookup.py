"""What looking a question up among the items finds, with no model: the baseline that a bot must be worth more than.

    python benchmarks/lookup.py FILE.jsonl …
    pip install "hoidap[embedding]"  # and the same again, for the rows of the embeddings

TF-IDF over the character 2- to 4-grams of words (scikit-learn), of the text as it is and folded to no diacritics; the
answer is that of the item with the nearest question. Asked with every other wording, as written and without diacritics.
Below them stands what the bot's own index finds before the model has said anything, what the embeddings find, and what
both find together: the item whose confidence is greatest, fitted on one half of the items for the other. The last rows are
the most that is answered rightly by such confidences where 5 of 100 are answered wrongly.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from hoidap.data.items import Item
from hoidap.data.read import read_items
from hoidap.data.wordings import lot
from hoidap.ground.confidence import curve, fit
from hoidap.ground.embedding import Embeddings
from hoidap.ground.grounds import Grounds
from hoidap.text import comparable, fold
from hoidap.variants.teencode import spell_out

MOST_WRONG = 0.05


def found_share(items: Sequence[Item], prepare: Callable[[str], str], ask: Callable[[str], str] = str) -> float:
    """Return the share of other wordings whose nearest item has the right answer."""
    index = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, lowercase=True)
    questions = index.fit_transform([prepare(item.question) for item in items])
    asked = [(wording, item) for item in items for wording in item.wordings]
    nearest = (index.transform([prepare(ask(wording)) for wording, _ in asked]) @ questions.T).toarray().argmax(axis=1)
    right = [
        comparable(items[place].answer) == comparable(item.answer) for place, (_, item) in zip(nearest, asked, strict=True)
    ]
    return sum(right) / len(right)


def recognised_share(grounds: Grounds, ask: Callable[[str], str]) -> float:
    """Return the same share for the bot's own nearness, which knows the answers too, and teencode (ground/grounds.py)."""
    asked = [(grounds.near(ask(wording)), number) for number, item in enumerate(grounds.items) for wording in item.wordings]
    return sum(bool(near) and grounds.has_same_answer(near[0].number, number) for near, number in asked) / len(asked)


def meant_share(grounds: Grounds, ask: Callable[[str], str]) -> float:
    """Return the same share for the embeddings alone, diacritics restored (ground/embedding.py)."""
    right = []
    for number, item in enumerate(grounds.items):
        for wording in item.wordings:
            similarities = grounds.embeddings.similarities(spell_out(ask(wording), grounds.own_words))
            right.append(grounds.has_same_answer(int(similarities.argmax()), number))
    return sum(right) / len(right)


def judged(grounds: Grounds, ask: Callable[[str], str]) -> list[tuple[float, bool]]:
    """Return for each other wording the greatest confidence, fitted on the other half of the items, and if it is right."""
    found: list[list[list[tuple[tuple[float, ...], bool]]]] = [[], []]
    for number, item in enumerate(grounds.items):
        for wording in item.wordings:
            candidates, _ = grounds.candidates(ask(wording), None)
            half = round(lot(11, str(number)))
            found[half].append([(c.signals, grounds.has_same_answer(c.number, number)) for c in candidates])
    results = []
    for half in (0, 1):
        rows = [row for asked in found[1 - half] for row in asked]
        sure = fit(grounds.signals, np.array([signals for signals, _ in rows]), np.array([right for _, right in rows]))
        results += [max(((sure.of(s), right) for s, right in asked), default=(0.0, False)) for asked in found[half]]
    return results


def fitted_rates(grounds: Grounds, name: str, ask: Callable[[str], str]) -> dict[str, float]:
    """Return the share whose surest item is right, and the share answered rightly where 5 of 100 are answered wrongly."""
    pairs = judged(grounds, ask)
    points = curve([sure for sure, _ in pairs], [right for _, right in pairs])
    most = max(point.right for point in points if point.wrong <= MOST_WRONG)
    return {name: sum(right for _, right in pairs) / len(pairs), f"{name}, right at {MOST_WRONG} wrong": most}


def rates(items: Sequence[Item]) -> dict[str, float]:
    """Return the four rates by name."""
    return {
        "tf-idf": found_share(items, str),
        "tf-idf, asked without diacritics": found_share(items, str, fold),
        "folded tf-idf": found_share(items, fold),
        "folded tf-idf, asked without diacritics": found_share(items, fold, fold),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    for file in parser.parse_args().files:
        for name, share in rates(read_items(file)).items():
            print(f"{file.stem}: {name}: {share:.3f}")
        items = read_items(file)
        none: list[list[str]] = [[] for _ in items]
        grounds = Grounds.build(items, none, Embeddings.build(items, none))
        for how, ask in (("", str), (", asked without diacritics", fold)):
            found = {"as the bot finds it": recognised_share(grounds, ask)}
            found |= fitted_rates(grounds.without_embeddings(), "by letters, fitted", ask)
            if grounds.embeddings:
                found["embeddings"] = meant_share(grounds, ask)
                found |= fitted_rates(grounds, "by letters and meaning, fitted", ask)
            for name, share in found.items():
                print(f"{file.stem}: {name}{how}: {share:.3f}")


if __name__ == "__main__":
    main()
