"""The planted truth of a simulated log: relations, causes, and grades of relevance."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from tfdare.analysis import PlantedTruth, UserBatches
from tfdare.sequences import open_sequences
from tfdare.simulation import SimulatorOptions, simulate, truth, write_log, write_truth
from tfdare.simulation.events import CAUSES, Causes, Events
from tfdare.simulation.planted import (
    PULLS,
    SAME_CATEGORY,
    SAME_ITEM,
    causes,
    relations,
    relevance,
    second_kind,
)

TRUTH = {
    "categories": {
        "70": {"partner": 20, "lag": 2, "items": 3},
        "20": {"partner": 50, "lag": 1, "items": 3},
        "50": {"partner": 70, "lag": 3, "items": 3},
    }
}
HISTORY = {"item": [[700, 500, 701, 201]], "category": [[70, 50, 70, 20]]}
TARGET = {"item": [[501, 202, 700]], "category": [[50, 20, 70]]}
OPTIONS = SimulatorOptions(
    users=120, items=400, categories=20, mean_events=80, returns=0.2, return_low=2, seed=5
)


def grades(planted, length=4, target=TARGET, history=HISTORY):
    return relevance(planted, target, history, [length])[0].tolist()


def test_grades_by_hand():
    assert grades(relations(TRUTH)) == [
        [0, SAME_CATEGORY, 0, PULLS],  # 20 pulls 50 from one behavior away
        [0, 0, PULLS, SAME_CATEGORY],  # 70 pulls 20 from two away, and not from four
        [SAME_ITEM, PULLS, SAME_CATEGORY, 0],  # 50 pulls 70 from three away
    ]


def test_padding_is_never_relevant_and_moves_the_distance():
    assert grades(relations(TRUTH), length=3) == [
        [0, SAME_CATEGORY, 0, 0],
        [0, 0, 0, 0],
        [SAME_ITEM, 0, SAME_CATEGORY, 0],
    ]
    assert not np.any(grades(relations(TRUTH), length=0))


def test_grades_in_rows_of_a_vocabulary():
    planted = relations(TRUTH, vocabulary=["50", "20"])  # 70 is unknown, and with it two relations
    assert planted.category.tolist() == [3] and planted.partner.tolist() == [2]
    row = {70: 1, 50: 2, 20: 3}
    history, target = (
        {"item": np.array(side["item"]), "category": np.vectorize(row.get)(side["category"])}
        for side in (HISTORY, TARGET)
    )
    target["item"][0, 2] = history["item"][0, 0] = 1
    assert grades(planted, target=target, history=history) == [
        [0, SAME_CATEGORY, 0, PULLS],
        [0, 0, 0, SAME_CATEGORY],
        [0, 0, 0, 0],  # two unknown ids are not the same id
    ]
    nothing = relations(TRUTH, vocabulary=["50"])
    assert grades(nothing, target=target, history=history)[0] == [0, SAME_CATEGORY, 0, 0]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"Received shapes: .*history_length \(2,\)"):
        relevance(relations(TRUTH), TARGET, HISTORY, [4, 4])


@pytest.fixture(scope="module")
def log():
    """Simulates page views, and why they happened."""
    events = Events(*map(np.concatenate, zip(*simulate(OPTIONS))))
    views = Events(*(column[events.behavior == 0] for column in events))
    return views, Causes(*map(np.concatenate, zip(*causes(OPTIONS))))


def test_causes_are_the_logs(log):
    views, why = log
    assert np.array_equal(views.user, why.user)
    assert (np.diff(why.position)[np.diff(why.user) == 0] == 1).all()
    share = np.bincount(why.cause, minlength=len(CAUSES)) / why.cause.size
    assert (share > 0.03).all()
    known = {int(c): (t["partner"], t["lag"]) for c, t in truth(OPTIONS)["categories"].items()}
    for name in ("relation", "return"):
        here = np.flatnonzero(why.cause == CAUSES.index(name))
        behind = here - why.distance[here]
        assert (views.user[here] == views.user[behind]).all()
        if name == "return":
            assert (views.item[here] == views.item[behind]).all()
            assert why.distance[here].min() == OPTIONS.return_low
            assert why.distance[here].max() > 40
        else:
            partner, lag = np.array([known[c] for c in views.category[behind].tolist()]).T
            assert (views.category[here] == partner).all() and (why.distance[here] == lag).all()
    assert (why.distance[why.cause > 1] == 0).all()


def test_relevance_of_the_log_is_what_caused_it(log):
    views, why = log
    planted = relations(truth(OPTIONS))
    starts = np.flatnonzero(np.diff(views.user, prepend=-1))
    checked = 0
    for start, end in zip(starts, np.append(starts[1:], views.user.size)):
        for here in range(start + 20, end, 17):
            history = {
                "item": views.item[None, start:here],
                "category": views.category[None, start:here],
            }
            target = {"item": views.item[None, [here]], "category": views.category[None, [here]]}
            grades = relevance(planted, target, history, [here - start])[0, 0]
            cause, distance = CAUSES[why.cause[here]], why.distance[here]
            if cause == "relation":
                assert grades[-distance] == PULLS
            elif cause == "return":
                assert grades[-distance] >= SAME_ITEM
            checked += cause in ("relation", "return")
    assert checked > 100


@pytest.mark.parametrize("conflict", [0.0, 0.5, 1.0])
def test_what_is_pulled_is_of_the_other_kind(log, conflict):
    options = dataclasses.replace(OPTIONS, conflict=conflict, other_behaviors=0.0)
    views = Events(*map(np.concatenate, zip(*simulate(options))))
    why = Causes(*map(np.concatenate, zip(*causes(options))))
    assert np.array_equal(views.category, log[0].category)  # kinds change items alone
    planted, items = truth(options), np.unique(views.item)
    if not conflict:
        assert "second_kind" not in planted
        return
    kind = second_kind(planted, items)[2:][np.searchsorted(items, views.item)]
    assert min(known["items"] for known in planted["categories"].values()) > 1
    pulled = np.flatnonzero(why.cause == CAUSES.index("relation"))
    differs = kind[pulled] != kind[pulled - why.distance[pulled]]
    if conflict == 1:
        assert differs.all()
    else:  # one half is asked to differ, of the rest chance decides
        assert 0.7 < differs.mean() < 0.8
    back = np.flatnonzero(why.cause == CAUSES.index("return"))
    assert np.array_equal(views.item[back], views.item[back - why.distance[back]])
    by_chance = kind[1:] != kind[:-1]
    assert 0.4 < kind.mean() < 0.6 and 0.4 < by_chance.mean() < 0.6
    own = why.favorite & (why.cause != CAUSES.index("return"))
    assert own.mean() > 0.15  # of the favorites drawn, those that fit


def test_an_item_alone_in_its_category_keeps_it():
    options = SimulatorOptions(
        users=20, items=6, categories=6, mean_events=40, conflict=1.0, returns=0.2, seed=3
    )
    views, plain = (
        Events(*map(np.concatenate, zip(*simulate(dataclasses.replace(options, conflict=c)))))
        for c in (1.0, 0.0)
    )
    assert all(np.array_equal(a, b) for a, b in zip(views, plain))


def test_without_relations_few_behaviors_seem_to_pull(log):
    def share(options):
        events = next(simulate(options))
        views = Events(*(column[events.behavior == 0] for column in events))
        planted = relations(truth(options))
        last = np.flatnonzero(np.diff(views.user, append=-1))
        last = last[last > 60]
        history = {
            name: np.stack([getattr(views, name)[i - 12 : i] for i in last])
            for name in ("item", "category")
        }
        target = {name: getattr(views, name)[last][:, None] for name in ("item", "category")}
        grades = relevance(planted, target, history, np.full(last.size, 12))
        return (grades == PULLS).any(axis=2).mean()

    assert share(OPTIONS) > 2 * share(dataclasses.replace(OPTIONS, relation=0.0))


def test_planted_truth_survives_the_way_into_sequences(tmp_path):
    options = SimulatorOptions(users=80, items=500, categories=30, seed=2)
    write_log(tmp_path / "log.csv", options, progress=False)
    write_truth(tmp_path / "truth.json", options)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "beam_jobs.build_sequences",
            "--input",
            tmp_path / "log.csv",
            "--format",
            "taobao",
            "--output",
            tmp_path / "sequences",
        ],
        check=True,
        capture_output=True,
    )
    sequences = open_sequences(tmp_path / "sequences")
    truth_of = PlantedTruth(str(tmp_path / "truth.json"), sequences)
    pulled, clicked = [], []
    for requests, label, weight, _ in UserBatches(sequences, "train"):
        arrays = {name: value.numpy() for name, value in requests.items()}
        real = weight.numpy() > 0
        pulled.append(truth_of(arrays).any(axis=2)[real])
        clicked.append(label.numpy()[real] > 0.5)
    pulled, clicked = np.concatenate(pulled), np.concatenate(clicked)
    # By the planted relation 43% of page views are pulled; others, and negatives, are by chance.
    assert 0.4 < pulled[clicked].mean() < 0.6
    assert pulled[clicked].mean() > 3 * pulled[~clicked].mean()
