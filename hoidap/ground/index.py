"""The texts nearest to a question, by the character n-grams of their words: no model, and quick among 100,000.

Folded to no case and no diacritics, only letters and digits count; each word, a space at either end, gives its 3- and
4-grams. In a text an n-gram weighs (1 + ln count) · (ln((1 + N) / (1 + n)) + 0.5), n of the N texts having it; how near two
texts are is the cosine of their weights.

Nothing is hashed: four letters of 16 bits are one integer. The n-grams are numbered from the rarest to the most common, and
stand in two lists: the n-grams of a text, and the texts of an n-gram.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count, islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hoidap.errors import RunError
from hoidap.text import fold

_FILE = "index.safetensors"
_FORMAT = "hoidap index 1"
_KINDS = ("by_text", "by_gram")
_MOST_CHARACTERS = 1000  # of a text, folded; what is behind them is not looked at
_NO_LETTER = re.compile(r"[\W_]+")
_FLOOR = 0.5  # of an n-gram's rarity: one that is in every text says little, but not nothing
_LEVELS = (1 + np.log(np.arange(1, 257))).astype(np.float32)  # by count - 1
_AT_ONCE = 8192  # texts or pairs
_MOST_LISTED = 100_000  # entries of n-grams' lists that one question walks, from the rarest n-gram on
_CANDIDATES = 300  # texts that are then compared in full, if more would have been to walk
_STEPS = (0.97, 0.9, 0.8)  # similarities at which near duplicates are looked for first
_MOST_PAIRS = 60_000_000  # looked at in one search for near duplicates
_ENTRIES = 8  # of a text's list, that take as long to compare as a pair takes to be looked at
_PENDING = 500_000  # pairs that wait for being looked at
_BINS = (64, 256)  # fewest and most
_IN_CACHE = 1024  # vectors of so many bins
_TABLE = 2**23  # numbers in the table that pairs are compared with

_Ints = npt.NDArray[np.integer[Any]]
_Floats = npt.NDArray[np.floating[Any]]
_Pairs = tuple[_Ints, _Ints, _Floats]  # first texts, second texts, similarities


@dataclass(frozen=True)
class Near:
    """A text and how near it is."""

    number: int  # its place among the texts that the index was built of
    similarity: float  # 0 to 1


@dataclass(frozen=True)
class _Lists:
    """For each of one kind (texts, n-grams) those of the other, ascending, and the n-gram's weight in the text."""

    starts: _Ints  # of each list, and the end of all
    ids: _Ints
    weights: _Floats  # of unit vectors

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, which: _Ints) -> tuple[_Ints, _Ints, _Floats]:
        """Return some lists one after the other: the ids, which of the lists each is in, and the weights."""
        sizes = self.starts[which + 1] - self.starts[which]
        owners = np.repeat(np.arange(len(which)), sizes)
        at = np.arange(len(owners)) + (self.starts[which + 1] - np.cumsum(sizes))[owners]
        return self.ids[at].astype(np.int64), owners, self.weights[at]


class Index:
    """Texts by their n-grams. Several wordings of one thing are several texts."""

    def __init__(self, grams: _Ints, ranks: _Ints, by_text: _Lists, by_gram: _Lists) -> None:
        self._grams = grams  # ascending
        self._ranks = ranks  # the number of each, 0 being the rarest
        self._by_text = by_text
        self._by_gram = by_gram

    def __len__(self) -> int:
        return len(self._by_text)

    @classmethod
    def build(cls, texts: Sequence[str]) -> "Index":
        """Return the index of some texts."""
        parts = [_count_grams(texts[start : start + _AT_ONCE], start) for start in range(0, max(1, len(texts)), _AT_ONCE)]
        owners, keys, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        grams = _distinct(keys)
        ids = np.searchsorted(grams, keys).astype(np.int32)
        del parts, keys
        n_texts = np.bincount(ids, minlength=len(grams))
        order = np.argsort(n_texts, kind="stable")
        ranks = np.empty(len(grams), np.int32)
        ranks[order] = np.arange(len(grams))
        ids = ranks[ids]
        rarity = _rarity(n_texts[order], len(texts)).astype(np.float32)
        norms = np.sqrt(_sums(owners, (rarity[ids] * _LEVELS[counts]) ** 2, len(texts))).astype(np.float32)
        starts, others, levels = _group(owners, ids, counts, len(texts))
        by_text = _Lists(starts, others, rarity[others] * levels / np.repeat(norms, np.diff(starts)))
        starts, others, levels = _group(ids, owners, counts, len(grams))
        by_gram = _Lists(starts, others, np.repeat(rarity, np.diff(starts)) * levels / norms[others])
        return cls(grams, ranks, by_text, by_gram)

    def save(self, folder: Path) -> None:
        """Write the index into an existing folder, in one file.

        Raises:
            RunError: the disk is full or not writable; an index that was there is untouched.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = folder / _FILE
        new = folder / f".hoidap.{_FILE}.{os.getpid()}"
        arrays = {"grams": self._grams, "ranks": self._ranks}
        for kind, lists in zip(_KINDS, (self._by_text, self._by_gram), strict=True):
            arrays |= {f"{kind}.{name}": getattr(lists, name) for name in _Lists.__annotations__}
        try:
            save_file(arrays, new, {"format": _FORMAT})
            new.replace(path)
        except (OSError, SafetensorError) as error:
            msg = f"{path} cannot be written ({error}); make room on the disk, or take a folder that can be written to"
            raise RunError(msg) from None
        finally:
            new.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Return the index of a folder.

        Raises:
            RunError: there is none, it is damaged, or another version of hoidap wrote it.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / _FILE
        advice = "`hoidap evaluate` builds it again"
        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("format", "none")
                if found != _FORMAT:
                    msg = f"{path} has the format {found!r}, this hoidap reads {_FORMAT!r}; {advice}"
                    raise RunError(msg)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: of a dtype numpy lacks
            what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
            msg = f"{path} {what}; {advice}"
            raise RunError(msg) from None
        flaw = _flaw(arrays)
        if flaw:
            msg = f"{path} is damaged: {flaw}; {advice}"
            raise RunError(msg)
        by_text, by_gram = (_Lists(*(arrays[f"{kind}.{name}"] for name in _Lists.__annotations__)) for kind in _KINDS)
        return cls(arrays["grams"], arrays["ranks"], by_text, by_gram)

    def nearest(self, text: str, k: int) -> list[Near]:
        """Return the k texts nearest to a text, best first; fewer if fewer share anything with it.

        The lists of the rarest n-grams are walked. If all were too many entries, as among 100,000 texts, those that come
        out first are compared in full: a text that shares nothing but common n-grams may then be missed.
        """
        ids, weights = self._weigh(text)
        lists = self._by_gram
        ends = np.cumsum(lists.starts[ids + 1] - lists.starts[ids])
        n_rare = max(1, int(np.searchsorted(ends, _MOST_LISTED, side="right")))
        scores = self._walk(ids[:n_rare], weights[:n_rare])
        if n_rare >= len(ids):
            numbers = _best(scores, k)
            scores = scores[numbers]
        else:
            numbers = _best(scores, max(k, _CANDIDATES))
            weight_of = np.zeros(len(self._grams))
            weight_of[ids] = weights
            their, owners, shares = self._by_text.take(numbers)
            scores = _sums(owners, weight_of[their] * shares, len(numbers))
        order = np.lexsort((numbers, -scores))[:k]
        return [Near(int(numbers[place]), min(1.0, float(scores[place]))) for place in order]

    def near_duplicates(self, least: float, most: int) -> list[tuple[int, int, float]]:
        """Return the nearest pairs of texts, i < j, with their similarity, best first.

        Among many thousand texts more pairs may come into question than can be looked at, if all are much alike or
        ``least`` is under about 0.7: then those that have nothing rare in common are left out.

        Args:
            least: the similarity that a pair has at least, above 0.
            most: how many pairs.
        """
        groups = self._same()
        numbers = np.array([group[0] for group in groups], np.int64)
        bins = self._bins()
        left = _MOST_PAIRS
        found: _Pairs = (numbers[:0], numbers[:0], np.zeros(0))
        for level in (*(step for step in _STEPS if step > least), least):
            found, taken = self._pairs(numbers, bins, level, left)
            left -= taken
            if len(found[0]) >= most or left <= 0:
                break
        by_first = {group[0]: group for group in groups}
        pairs = list(islice(((i, j, 1.0) for group in groups for i, j in combinations(group, 2)), most))
        for first, second, similarity in zip(*(column.tolist() for column in found), strict=True):
            if len(pairs) >= most:
                break
            both = islice(product(by_first[first], by_first[second]), most - len(pairs))
            pairs += [(min(pair), max(pair), min(1.0, similarity)) for pair in both]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))

    def _weigh(self, text: str) -> tuple[_Ints, _Floats]:
        """Return the known n-grams of a text, the rarest first, and their weights; unknown ones count in its norm."""
        _, keys, counts = _count_grams([text], 0)
        places = np.minimum(np.searchsorted(self._grams, keys), max(0, len(self._grams) - 1))
        known = self._grams[places] == keys if len(self._grams) else np.zeros(len(keys), bool)
        ids = self._ranks[places[known]]
        n_texts = np.zeros(len(keys), np.int64)
        n_texts[known] = self._by_gram.starts[ids + 1] - self._by_gram.starts[ids]
        weights = _rarity(n_texts, len(self)) * _LEVELS[counts]
        order = np.argsort(ids)
        return ids[order], (weights / max(1e-9, np.sqrt((weights**2).sum())))[known][order]

    def _walk(self, ids: _Ints, weights: _Floats) -> _Floats:
        """Return what some n-grams of a text add to its similarity to every text."""
        starts = self._by_gram.starts
        spans = [slice(0), *(slice(start, end) for start, end in zip(starts[ids], starts[ids + 1], strict=True))]
        shares = np.repeat(weights, starts[ids + 1] - starts[ids])
        shares *= np.concatenate([self._by_gram.weights[span] for span in spans])
        return _sums(np.concatenate([self._by_gram.ids[span] for span in spans]), shares, len(self))

    def _same(self) -> list[list[int]]:
        """Return the texts in groups of one vector each; but for those that have no n-gram."""
        groups: dict[bytes, list[int]] = {}
        lists = self._by_text
        for number, (start, end) in enumerate(pairwise(lists.starts.tolist())):
            if start < end:
                key = lists.ids[start:end].tobytes() + lists.weights[start:end].tobytes()
                groups.setdefault(key, []).append(number)
        return list(groups.values())

    def _pairs(self, numbers: _Ints, bins: _Floats, level: float, most: int) -> tuple[_Pairs, int]:
        """Return the pairs of some texts that are as near as ``level``, best first, and how much of ``most`` it took."""
        found: list[_Pairs] = [(numbers[:0], numbers[:0], np.zeros(0))]
        sizes = np.diff(self._by_text.starts)
        taken = 0
        for codes in self._candidates(numbers, level):
            firsts, seconds = np.divmod(codes, len(self))
            able = _cosines(bins, firsts, seconds) >= level - 1e-4
            firsts, seconds = firsts[able], seconds[able]
            similarities = self._similarities(firsts, seconds)
            near = similarities >= level
            found.append((firsts[near], seconds[near], similarities[near]))
            taken += len(codes) + int(sizes[seconds].sum()) // _ENTRIES
            if taken >= most:
                break
        firsts, seconds, similarities = (np.concatenate(column) for column in zip(*found, strict=True))
        _, single = np.unique(firsts * len(self) + seconds, return_index=True)
        order = single[np.argsort(-similarities[single], kind="stable")]
        return (firsts[order], seconds[order], similarities[order]), taken

    def _bins(self) -> _Floats:
        """Return the texts' vectors with the n-grams thrown into a few bins: no cosine of two gets less by it."""
        n_bins = int(np.clip(len(self._by_text.ids) / max(1, len(self)), *_BINS))
        bins = np.empty((len(self), n_bins), np.float32)
        for start in range(0, len(self), _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, len(self)))
            ids, owners, weights = self._by_text.take(numbers)
            squares = _sums(owners * n_bins + ids % n_bins, weights**2, len(numbers) * n_bins)
            bins[numbers] = np.sqrt(squares).reshape(-1, n_bins)
        return bins

    def _candidates(self, numbers: _Ints, level: float) -> Iterator[_Ints]:
        """Yield pairs, as first · N + second, among which are all that are as near as ``level``."""
        pending: list[_Ints] = []
        n_pending = 0
        for codes in self._meetings(numbers, level):
            pending.append(codes)
            n_pending += len(codes)
            if n_pending >= _PENDING:
                yield _distinct(np.concatenate(pending))
                pending, n_pending = [], 0
        if pending:
            yield _distinct(np.concatenate(pending))

    def _meetings(self, numbers: _Ints, level: float) -> Iterator[_Ints]:
        """Yield the pairs of texts that meet in the list of an n-gram among the rarest of both, short lists first.

        Two unit vectors of cosine c share an n-gram among the rarest of each, those before the rest is shorter than c:
        what is shared in the rest alone cannot add up to c.
        """
        parts = [self._rarest(numbers[start : start + _AT_ONCE], level) for start in range(0, len(numbers), _AT_ONCE)]
        ids, texts = np.divmod(np.sort(np.concatenate([*parts, numbers[:0]])), max(1, len(self)))
        firsts = np.flatnonzero(np.diff(ids, prepend=-1))
        sizes = np.diff(firsts, append=len(ids))
        part = np.cumsum(sizes * (sizes - 1) // 2) // _PENDING
        for start, end in pairwise([*firsts[np.diff(part, prepend=-1) > 0].tolist(), len(ids)]):
            here = np.arange(start, end)
            for shift in count(1):  # each text of a list with the next, then with the one after that
                here = here[: np.searchsorted(here, end - shift)]
                here = here[ids[here] == ids[here + shift]]
                if not len(here):
                    break
                yield texts[here] * len(self) + texts[here + shift]

    def _rarest(self, numbers: _Ints, level: float) -> _Ints:
        """Return, as n-gram · N + text, the rarest n-grams of each text, up to where the rest is shorter than ``level``."""
        ids, owners, weights = self._by_text.take(numbers)
        squares = weights.astype(np.float64) ** 2
        before = np.cumsum(squares) - squares
        before -= before[np.searchsorted(owners, np.arange(len(numbers)))][owners]
        kept = (before <= 1 - level**2 + 1e-5) & (np.diff(self._by_gram.starts)[ids] > 1)
        return ids[kept] * len(self) + numbers[owners[kept]]

    def _similarities(self, firsts: _Ints, seconds: _Ints) -> _Floats:
        """Return the similarity of each pair; the first ones ascend."""
        n_rows = max(1, _TABLE // max(1, len(self._grams)))
        table = np.zeros((n_rows, len(self._grams)), np.float32)
        rows = np.cumsum(np.diff(firsts, prepend=firsts[:1]) > 0)  # number of each first text
        similarities = np.zeros(len(firsts))
        start = 0
        while start < len(firsts):
            end = min(start + _AT_ONCE, int(np.searchsorted(rows, rows[start] + n_rows)))
            row = rows[start:end] - rows[start]
            ids, owners, weights = self._by_text.take(firsts[start:end][np.diff(row, prepend=-1) > 0])
            table[owners, ids] = weights
            their, pairs, shares = self._by_text.take(seconds[start:end])
            similarities[start:end] = _sums(pairs, table[row[pairs], their] * shares, end - start)
            table[owners, ids] = 0
            start = end
        return similarities


def _rarity(n_texts: _Ints, n_all: int) -> _Floats:
    """Return what n-grams weigh that so many of all texts have."""
    return np.log((1 + n_all) / (1 + n_texts)) + _FLOOR


def _count_grams(texts: Sequence[str], first: int) -> tuple[_Ints, _Ints, _Ints]:
    """Return the n-grams of the texts from number ``first`` on: whose, which, and how often (less one)."""
    flat = [_NO_LETTER.sub(" ", fold(text.strip()[: 4 * _MOST_CHARACTERS])[:_MOST_CHARACTERS]).strip() for text in texts]
    padded = [f" {text} " for text in flat]
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in padded])
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) & 0xFFFF
    letter = letters != ord(" ")
    threes = letters[:-2] << 32 | letters[1:-1] << 16 | letters[2:]
    fours = threes[:-1] << 16 | letters[3:]
    # A space is at an end or nowhere: within an n-gram it would join two words, or two texts.
    in_three, in_four = letter[1:-1], letter[1:-2] & letter[2:-1]
    keys, places = np.unique(np.concatenate([threes[in_three], fours[in_four]]), return_inverse=True)
    codes = np.concatenate([owners[1:-1][in_three], owners[1:-2][in_four]]) * max(1, len(keys)) + places
    single, counts = np.unique(codes, return_counts=True)
    owners, places = np.divmod(single, max(1, len(keys)))
    return (owners + first).astype(np.int32), keys[places], np.minimum(counts - 1, 255).astype(np.uint8)


def _group(kinds: _Ints, others: _Ints, counts: _Ints, n_kinds: int) -> tuple[_Ints, _Ints, _Floats]:
    """Return, for each of one kind, where its list starts; the others in the lists; what their counts weigh."""
    codes = kinds.astype(np.int64)  # one sort moves all three
    codes <<= 28
    codes |= others
    codes <<= 8
    codes |= counts
    codes.sort()
    starts = np.concatenate([[0], np.cumsum(np.bincount(kinds, minlength=n_kinds))])
    return starts, (codes >> 8 & 0xFFFFFFF).astype(np.int32), _LEVELS[codes & 255]


def _best(scores: _Floats, k: int) -> _Ints:
    """Return where the k greatest scores are, but for zeros; of equal ones the first."""
    numbers = np.flatnonzero(scores > 0)
    if not 0 < k < len(numbers):
        return numbers
    positive = scores[numbers]
    last = np.partition(positive, len(positive) - k)[len(positive) - k]
    above = numbers[positive > last]
    return np.concatenate([above, numbers[positive == last][: k - len(above)]])


def _sums(places: _Ints, values: _Floats, size: int) -> _Floats:
    """Return the sum of the values of each place."""
    return np.asarray(np.bincount(places, values, size), np.float64)


def _distinct(values: _Ints) -> _Ints:
    """Return the values in order, each once; NumPy's own way, by hashing, takes ten times as long."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return np.asarray(values[first])


def _cosines(vectors: _Floats, firsts: _Ints, seconds: _Ints) -> _Floats:
    """Return the cosine of each pair of unit vectors."""
    cosines = np.empty(len(firsts), vectors.dtype)
    for start in range(0, len(firsts), _IN_CACHE):
        span = slice(start, start + _IN_CACHE)
        np.einsum("ij,ij->i", vectors[firsts[span]], vectors[seconds[span]], out=cosines[span])
    return cosines


def _flaw(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return what keeps arrays from being an index, or ""."""
    kinds = {"grams": "u8", "ranks": "i4"}
    kinds |= {f"{by}.{name}": kind for by in _KINDS for name, kind in (("starts", "i8"), ("ids", "i4"), ("weights", "f4"))}
    for name, kind in kinds.items():
        if name not in arrays or arrays[name].dtype != np.dtype(kind) or arrays[name].ndim != 1:
            return f"{name} is not there or of another kind"
    grams, ranks = arrays["grams"], arrays["ranks"]
    for by, n_others in (("by_text", len(grams)), ("by_gram", len(arrays["by_text.starts"]) - 1)):
        starts, ids, weights = (arrays[f"{by}.{name}"] for name in _Lists.__annotations__)
        if not len(starts) or starts[0] or starts[-1] != len(ids) or (starts[1:] < starts[:-1]).any():
            return f"{by}.starts does not part {by}.ids"
        if len(weights) != len(ids) or (len(ids) and not 0 <= ids.min() <= ids.max() < n_others):
            return f"{by}.ids goes beyond the index"
        if not (0 <= weights.min(initial=0) <= weights.max(initial=0) <= 1.001):
            return f"{by}.weights are of no unit vectors"
    if len(arrays["by_gram.starts"]) != len(grams) + 1 or not np.array_equal(np.sort(ranks), np.arange(len(grams))):
        return "ranks does not number grams"
    return "" if (grams[1:] > grams[:-1]).all() else "grams are not in order"
