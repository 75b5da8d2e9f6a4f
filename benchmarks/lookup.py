"""What looking a question up among the items finds, with no model: the baseline that a bot must be worth more than.

    python benchmarks/lookup.py FILE.jsonl …

TF-IDF over the character 2- to 4-grams of words (scikit-learn), of the text as it is and folded to no diacritics; the
answer is that of the item with the nearest question. Asked with every other wording, as written and without diacritics.
Below them stands what the bot's own index finds before the model has said anything.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer

from hoidap.data.items import Item
from hoidap.data.read import read_items
from hoidap.ground.grounds import Grounds
from hoidap.text import comparable, fold


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


def recognised_share(items: Sequence[Item], ask: Callable[[str], str] = str) -> float:
    """Return the same share for the bot's own nearness, which knows the answers too, and teencode (ground/grounds.py)."""
    grounds = Grounds.build(items, [[] for _ in items])
    asked = [(grounds.near(ask(wording)), number) for number, item in enumerate(items) for wording in item.wordings]
    return sum(bool(near) and grounds.has_same_answer(near[0].number, number) for near, number in asked) / len(asked)


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
        for name, ask in (("", str), (", asked without diacritics", fold)):
            print(f"{file.stem}: as the bot finds it{name}: {recognised_share(read_items(file), ask):.3f}")


if __name__ == "__main__":
    main()
