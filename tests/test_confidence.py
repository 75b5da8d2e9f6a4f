"""How sure an answer is, and the threshold that keeps wrong answers rare."""

import json
import math

import numpy as np
import pytest

from hoidap.errors import RunError
from hoidap.ground.confidence import Confidence, Point, curve, fit, threshold


def drawn(n, seed=0):
    """Return signals of which the first alone tells, and what is right."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(n, 3)) * [1, 5, 0.1] + [0, 2, 7]
    right = rng.random(n) < 1 / (1 + np.exp(-(2 * signals[:, 0] - 0.5)))
    return signals, right


def test_the_fit_finds_the_weights_that_made_the_data():
    signals, right = drawn(4000)
    found = fit("abc", signals, right)
    assert found.weights[0] == pytest.approx(2, abs=0.25)
    assert abs(found.weights[1]) < 0.05
    assert found.offset + found.weights[2] * 7 == pytest.approx(-0.5, abs=0.3)


def test_the_fit_is_what_scikit_learn_fits():
    from sklearn.linear_model import LogisticRegression

    signals, right = drawn(300, seed=3)
    ours = fit("abc", signals, right)
    scaled = (signals - signals.mean(0)) / signals.std(0)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled, right).predict_proba(scaled)[:, 1]
    assert [ours.of(row) for row in signals] == pytest.approx(theirs.tolist(), abs=2e-3)


def test_probabilities_are_calibrated_on_other_questions():
    signals, right = drawn(4000, seed=1)
    found = fit("abc", signals[:2000], right[:2000])
    sure = np.array([found.of(row) for row in signals[2000:]])
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (sure >= low) & (sure < low + 0.25)
        assert right[2000:][chosen].mean() == pytest.approx(sure[chosen].mean(), abs=0.06)


def test_signals_that_part_all_right_from_all_wrong_give_no_infinite_weights():
    found = fit("a", np.array([[0.0]] * 10 + [[1.0]] * 10), np.array([False] * 10 + [True] * 10))
    assert 0 < found.of([0.0]) < 0.5 < found.of([1.0]) < 1


def test_a_signal_that_never_changes_does_no_harm():
    found = fit("ab", np.array([[1.0, 5.0], [0.0, 5.0]] * 10), np.array([True, False] * 10))
    assert math.isfinite(found.of([0.5, 5.0]))


def test_the_curve_goes_from_answering_all_to_answering_none():
    points = curve([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    assert [(p.threshold, p.right, p.wrong) for p in points] == [
        (0.1, 0.5, 0.5), (0.5, 0.5, 0.25), (0.9, 0.25, 0.0), (math.inf, 0.0, 0.0),
    ]  # fmt: skip
    assert [p.declined for p in points] == [0.0, 0.25, 0.75, 1.0]


def test_nothing_asked_is_a_curve_of_one_point():
    assert curve([], []) == [Point(math.inf, 0.0, 0.0)]


def test_the_threshold_answers_most_within_what_is_allowed():
    sure, right = [n / 100 for n in range(100)], [n >= 20 for n in range(100)]  # the 20 least sure are wrong
    points = curve(sure, right)
    least = threshold(points, 0.05, 100)
    wrong = next(p.wrong for p in points if p.threshold == least)
    assert (wrong * 100 + 1) / 101 <= 0.05 < (wrong * 100 + 2) / 101


def test_too_few_questions_prove_nothing():
    assert threshold(curve([0.9] * 10, [True] * 10), 0.05, 10) == math.inf
    assert threshold(curve([0.9] * 20, [True] * 20), 0.05, 20) == 0.9


def test_the_promise_is_kept_on_questions_that_set_nothing():
    wrong = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sure = rng.random(300)
        right = rng.random(300) < sure
        least = threshold(curve(sure[:150].tolist(), right[:150].tolist()), 0.05, 150)
        wrong.append(((sure[150:] >= least) & ~right[150:]).mean())
    assert np.mean(wrong) <= 0.051  # in expectation; single draws are above it


def test_a_confidence_is_written_and_read(tmp_path):
    kept = Confidence(("a", "b"), (1.5, -2.0), 0.25, math.inf)
    kept.save(tmp_path / "confidence.json")
    assert Confidence.load(tmp_path / "confidence.json") == kept


@pytest.mark.parametrize(
    "change",
    [{"weights": [1.0]}, {"weights": [1.0, math.nan]}, {"offset": math.inf}, {"threshold": math.nan}, {"names": None}],
)
def test_numbers_that_are_none_are_refused(change, tmp_path):
    path = tmp_path / "confidence.json"
    values = {"names": ["a", "b"], "weights": [1.0, 2.0], "offset": 0.0, "threshold": 0.5, **change}
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Confidence.load(path)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "confidence.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be read"):
        Confidence.load(tmp_path / "confidence.json")


def test_an_item_asked_often_counts_as_one_asked_once():
    sure, right = [0.9, 0.8, 0.8, 0.7, 0.7], [True, False, False, True, True]
    points = curve(sure, right, [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert [round(point.right, 9) for point in points] == [round(2 / 3, 9), round(1 / 3, 9), round(1 / 3, 9), 0]
    assert [round(point.wrong, 9) for point in points] == [round(1 / 3, 9), round(1 / 3, 9), 0, 0]
