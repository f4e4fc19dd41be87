"""Measurements against plain loops, and `tfdare analyze` from a simulated log to the report."""

import base64
import json
import math
import pathlib
import re

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

import tfdare.analysis as analysis_package
from tests.folders import WINDOW, make_splits, plain_requests, write_folder
from tfdare.analysis import (
    AUCProbe,
    PlantedTruth,
    UserBatches,
    attention_accuracy,
    category_of,
    convergence_numbers,
    efficiency,
    interest_counts,
    keep_positive_lift,
    list_findings,
    measure_discriminability,
    measure_search_quality,
    plot_attention,
    plot_efficiency,
    position_edges,
)
from tfdare.analysis.batches import search_and_attention
from tfdare.analysis.convergence import examples_to
from tfdare.analysis.discriminability import _information
from tfdare.analysis.findings import findings_table
from tfdare.analysis.measure_all import Measurements
from tfdare.cli import main as tfdare
from tfdare.commands.analyze import main
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.evaluation.slices import METRICS
from tfdare.metrics import auc
from tfdare.models import build_model
from tfdare.sequences import open_sequences
from tfdare.sequences.mutual_information import InterestCounts
from tfdare.training import compile_model, load_run, train

USERS = 120


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=8, users=25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    return write_folder(tmp_path_factory.mktemp("analysis") / "s", splits)


@pytest.fixture(scope="module")
def models(folder):
    tf.keras.utils.set_random_seed(2)
    schema = folder.schema.with_dims(4, 4)
    return {name: build_model(name, schema, top_k=3) for name in ("DARE-paper", "TWIN")}


def test_user_batches(folder, splits):
    expected = plain_requests(splits["test"])
    names = [user.decode() for *_, users in UserBatches(folder, "test", 7) for user in users]
    assert names == [request["user"] for request in expected]
    few = UserBatches(folder, "test", 7, limit=10)
    assert len(few) == len(list(few)) == 2


def test_position_edges_are_exact_and_then_coarser():
    assert position_edges(5) == [1, 2, 3, 4, 5, 6]
    edges = position_edges(200)
    assert edges[:8] == list(range(1, 9)) and edges[-1] == 201
    widths = np.diff(edges)
    assert (widths[:7] == 1).all() and 1.1 < edges[-2] / edges[-4] < 1.8


def test_search_quality_against_plain_loops(folder, splits, models):
    from tests.tfdare.metrics.test_search import plain_ndcg, plain_recall

    def newest_matter(arrays):
        """Computes a simple relevance: the position in the history, if the category is even."""
        history = arrays["history_category"]
        value = np.where(history % 2 == 0, 1.0 + np.arange(history.shape[1]), 0.0)
        value = np.where(np.arange(history.shape[1]) < arrays["history_length"][:, None], value, 0)
        return np.repeat(value[:, None], arrays["target_item"].shape[1], axis=1)

    quality = measure_search_quality(
        models, folder, {"made up": newest_matter}, limit=None, top_k=3, resamples=20, batch_size=8
    )
    expected = plain_requests(splits["test"])
    model, values = models["TWIN"], {"ndcg": [], "recall": []}
    for request in expected:
        inputs = {
            name: tf.constant([value])
            for name, value in request.items()
            if name.startswith(("history_", "target_")) and "repeats" not in name
        }
        index = model.search(inputs)["behavior_index"].numpy()[0]
        length = request["history_length"]
        relevance = [
            1.0 + i if i < length and c % 2 == 0 else 0.0
            for i, c in enumerate(request["history_category"])
        ]
        for candidate in range(request["target_length"]):
            kept = index[candidate].tolist()
            values["ndcg"].append(plain_ndcg(relevance, kept, 3))
            values["recall"].append(plain_recall(relevance, kept, 3))
    numbers = quality["truths"]["made up"]["models"]["TWIN"]
    for measure, of_targets in values.items():
        known = [value for value in of_targets if not math.isnan(value)]
        assert numbers[measure]["estimate"] == pytest.approx(np.mean(known), rel=1e-4)
        assert sum(numbers["by_length"]["targets"]) == len(known)
    assert quality["targets"] == sum(request["target_length"] for request in expected)
    exact = quality["truths"]["attention"]["models"]["TWIN"]
    assert exact["ndcg"]["estimate"] == pytest.approx(1) == exact["recall"]["estimate"]
    difference = quality["truths"]["made up"]["differences"]["DARE-paper - TWIN"]["ndcg"]
    first = quality["truths"]["made up"]["models"]["DARE-paper"]["ndcg"]["estimate"]
    assert difference["estimate"] == pytest.approx(first - numbers["ndcg"]["estimate"])


def test_attention_is_weighed_at_the_scale_of_the_models_pooling(folder):
    model = build_model("DARE", folder.schema.with_dims(4, 4), top_k=3)
    requests, *_ = next(iter(read_requests(folder, "test", 8)))
    model(requests)
    model.pooling_layer.weightings[0].set_weights([np.float32(np.log(5))])
    _, weights = search_and_attention(model, requests)
    scores = model.attend(requests).numpy()  # newest first
    for user, length in enumerate(requests["history_length"].numpy()):
        expected = np.exp(5 * scores[user, :, :length])[:, ::-1]
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[user, :, :length], expected, rtol=1e-4)
        assert not weights[user, :, length:].numpy().any()


def test_attention_maps_against_plain_loops(folder, splits, models):
    counts = interest_counts(folder)
    by_hand = InterestCounts(range(2, 7), position_edges(WINDOW))
    for requests, label, weight in read_requests(folder, "train", 1000):
        by_hand.add(
            *(
                part.numpy()
                for part in (
                    requests["history_category"],
                    requests["history_length"],
                    requests["target_category"],
                    label,
                    weight,
                )
            )
        )
    assert counts.to_dict() == by_hand.to_dict()
    table = counts.table(min_count=1)
    maps = attention_accuracy(models, folder, table, target_categories=1, batch_size=9)
    target = maps["targets"][0]
    expected = plain_requests(splits["test"])
    frequency = {}
    for request in expected:
        for category in request["target_category"][: request["target_length"]]:
            frequency[category] = frequency.get(category, 0) + 1
    assert frequency[target["row"]] == max(frequency.values())
    raw = np.concatenate([[0, 0], folder.vocabulary("category")])
    sums, edges = {}, table.edges
    for request in expected:
        inputs = {
            name: tf.constant([value])
            for name, value in request.items()
            if name.startswith(("history_", "target_")) and "repeats" not in name
        }
        scores = models["TWIN"].attend(inputs).numpy()[0]
        length = request["history_length"]
        for candidate in range(request["target_length"]):
            if request["target_category"][candidate] != target["row"] or not length:
                continue
            weights = np.exp(scores[candidate][:length])
            weights = weights / weights.sum()  # newest first
            for position in range(1, length + 1):
                category = raw[request["history_category"][length - position]]
                bucket = max(b for b in range(len(edges) - 1) if edges[b] <= position)
                total = sums.setdefault((category, bucket), [0.0, 0])
                total[0] += weights[position - 1]
                total[1] += 1
    learned = target["models"]["TWIN"]
    for row, category in enumerate(target["categories"]):
        for bucket in range(len(edges) - 1):
            total, count = sums.get((category, bucket), (0.0, 0))
            assert learned["behaviors"][row][bucket] == count
            weight = learned["weight"][row][bucket]
            assert weight == pytest.approx(total / count, rel=1e-4) if count else weight is None
    truth = table.information[target["row"] - 2]
    rows = [int(np.flatnonzero(raw == category)[0]) - 2 for category in target["categories"]]
    np.testing.assert_allclose(target["information"], truth[rows])
    image = plot_attention(maps).axes[0].images[0].get_array()
    np.testing.assert_allclose(image, target["information"])
    speaks = keep_positive_lift(table)
    assert (speaks.information[table.lift < 1] == 0).all()
    kept = table.lift > 1
    np.testing.assert_array_equal(speaks.information[kept], table.information[kept])


def test_discriminability(folder, models):
    result = measure_discriminability(models, folder, clusters=(2, 5), limit=None, resamples=20)
    assert result["clusters"] == [2, 5]
    for of_model in result["models"].values():
        for value in of_model["information"]:
            assert 0 <= value["estimate"] <= result["entropy"] + 1e-9
            assert value["low"] <= value["high"]
    pair = result["differences"]["DARE-paper - TWIN"][1]
    both = [result["models"][name]["information"][1]["estimate"] for name in models]
    assert pair["estimate"] == pytest.approx(both[0] - both[1])


def test_information_of_a_table_is_scikit_learns():
    random = np.random.default_rng(0)
    cluster, label = random.integers(0, 4, 200), random.integers(0, 2, 200)
    counts = np.zeros((1, 4, 2))
    np.add.at(counts[0], (cluster, label), 1)
    assert _information(counts)[0] == pytest.approx(mutual_info_score(cluster, label))


def test_representation_is_what_the_head_gets(folder, models):
    requests, *_ = next(iter(read_requests(folder, "test", 8)))
    for name in ("TWIN", "SDIM"):
        model = models.get(name) or build_model(name, folder.schema.with_dims(4, 4), top_k=3)
        inputs = model.represent(requests)
        probability = tf.sigmoid(model.head(inputs))
        np.testing.assert_allclose(probability, model(requests), rtol=1e-5)


def test_auc_by_examples(folder, models):
    held_out = list(UserBatches(folder, "validation", 16))
    probes = {}
    for name in models:
        model = build_model(name, folder.schema.with_dims(4, 4), top_k=3)
        compile_model(model)
        probes[name] = AUCProbe(held_out, every=2, examples_a_step=10)
        model.fit(
            read_requests(folder, "train", 8).take(5), epochs=1, verbose=0, callbacks=[probes[name]]
        )
    assert probes["TWIN"].steps == [0, 2, 4, 5]
    numbers = convergence_numbers(probes, resamples=20)
    curve = numbers["models"]["TWIN"]
    assert curve["examples"] == [0, 20, 40, 50]
    label = probes["TWIN"].label
    expected = [auc(label, p) for p in probes["TWIN"].probabilities]
    assert [value["estimate"] for value in curve["auc"]] == pytest.approx(expected)
    # the last look is the trained model itself
    last = np.concatenate(
        [model(requests).numpy()[weight.numpy() > 0] for requests, _, weight, _ in held_out]
    )
    np.testing.assert_allclose(probes["TWIN"].probabilities[-1], last, rtol=1e-5)
    assert numbers["speed"]["TWIN"]["auc"] == pytest.approx(max(expected))


def test_examples_to_an_auc():
    assert examples_to(0.5, [0, 10], [0.5, 0.6]) == 0
    assert examples_to(0.55, [0, 10, 20], [0.5, 0.4, 0.6]) == pytest.approx(17.5)
    assert math.isnan(examples_to(0.9, [0, 10], [0.5, 0.6]))


def test_findings_follow_the_intervals():
    def interval(estimate, low, high):
        return {"estimate": estimate, "low": low, "high": high}

    def verdicts(conflict, difference):
        feature = {"shared": True, "ratio": interval(5, 4, 6), "conflict": conflict}
        numbers = {
            "gradients": {"TWIN": {"features": {"item": feature}}},
            "accuracy": {
                "split": "test",
                "slices": {
                    "all": {
                        "parts": [
                            {
                                "differences": {
                                    "DARE - TWIN": {"auc": difference},
                                    "DARE - DARE-paper": {"auc": difference},
                                }
                            }
                        ]
                    }
                },
            },
        }
        return [finding.verdict for finding in list_findings(numbers)]

    assert verdicts(interval(0.64, 0.6, 0.7), interval(0.01, 0.005, 0.02)) == ["holds"] * 3
    assert verdicts(interval(0.4, 0.3, 0.45), interval(-0.01, -0.02, -0.001)) == [
        "holds",
        "does not hold",
        "does not hold",
    ]
    assert verdicts(interval(0.5, 0.4, 0.6), interval(0.0, -0.01, 0.01)) == [
        "holds",
        "not separable",
        "not separable",
    ]


def test_a_finding_names_the_measure_that_it_is_about():
    def interval(estimate, low, high):
        return {"estimate": estimate, "low": low, "high": high}

    models = {
        name: {"ndcg": interval(ndcg, 0, 1), "recall": interval(recall, 0, 1)}
        for name, ndcg, recall in (("DARE", 0.7, 0.86), ("TWIN", 0.6, 1.0))
    }
    difference = {"ndcg": interval(0.1, 0.08, 0.12), "recall": interval(-0.14, -0.2, -0.1)}
    of_truth = {"models": models, "differences": {"DARE - TWIN": difference}}
    findings = list_findings({"search": {"top_k": 20, "truths": {"planted": of_truth}}})
    assert [(f.measure, f.verdict) for f in findings] == [
        ("NDCG@20 by planted relations", "holds"),
        ("recall@20 by planted relations", "does not hold"),
    ]
    rows = findings_table(findings).splitlines()
    assert [re.split(" {2,}", row.strip())[:2] for row in rows] == [
        ["holds", "NDCG@20 by planted relations"],
        ["does not hold", "recall@20 by planted relations"],
    ]


def test_the_attention_that_the_data_wants():
    kinds = {"TWIN+evidence": "shared", "DARE-learned": "learned apart", "DARE": "given"}

    def wanted(auc, half_width, more=None):
        auc = {**auc, **(more or {})}
        models = {
            name: {
                "attention": kinds.get(name, "shared"),
                "evidence": name != "TWIN",
                "vectors": name == "DARE",
            }
            for name in auc
        }
        differences = {
            f"{a} - {b}": {
                "estimate": auc[a] - auc[b],
                "low": auc[a] - auc[b] - half_width,
                "high": auc[a] - auc[b] + half_width,
            }
            for a in auc
            for b in auc
            if a != b
        }
        part = {
            "models": {name: {"auc": {"estimate": value}} for name, value in auc.items()},
            "differences": {},
        }
        accuracy = {
            "split": "test",
            "slices": {"all": {"parts": [part]}},
            "auc_differences": differences,
        }
        return list_findings({"models": models, "accuracy": accuracy})

    auc = {"DARE": 0.80, "TWIN+evidence": 0.79, "DARE-learned": 0.77}
    (finding,) = wanted(auc, 0.005)
    assert finding.claim.endswith("this data wants given") and finding.verdict == "holds"
    assert "DARE - TWIN+evidence +0.0100 [+0.0050, +0.0150]" in finding.here
    assert finding.here.endswith("these models differ in vectors, too")
    assert wanted(auc, 0.02)[0].verdict == "not separable"
    (finding,) = wanted(auc | {"DARE": 0.7}, 0.005, {"TWIN": 0.6})  # the best of each kind counts
    assert finding.claim.endswith("wants shared") and "- TWIN " not in finding.here
    assert wanted({"DARE": 0.8}, 0.005) == []


# From a simulated log to the report


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    at = tmp_path_factory.mktemp("simulated")
    log = at / "log.csv"
    assert (
        tfdare(
            [
                "simulate",
                "--output",
                str(log),
                "--users",
                str(USERS),
                "--quiet",
                "--items",
                "300",
                "--categories",
                "12",
                "--conflict",
                "1",
            ]
        )
        == 0
    )
    assert (
        tfdare(
            [
                "prepare",
                "--input",
                str(log),
                "--format",
                "taobao",
                "--output",
                str(at / "sequences"),
                "--window",
                "60",
            ]
        )
        == 0
    )
    for model in ("DARE-paper", "TWIN", "DARE"):
        train(
            str(at / "sequences"),
            str(at / model),
            model,
            epochs=1,
            batch_size=128,
            top_k=10,
            verbose=0,
            attention_dim=8,
            representation_dim=8,
        )
    return at


def test_planted_relevance_equals_the_truth_file(simulated):
    """Recomputes relevance from the truth file, on raw ids of the log, event by event."""
    sequences = open_sequences(str(simulated / "sequences"))
    path = str(simulated / "log.csv.truth.json")
    planted = json.load(open(path, encoding="utf-8"))["categories"]
    raw = np.concatenate([[0, 0], sequences.vocabulary("category")]).tolist()
    requests, *_ = next(iter(read_requests(sequences, "test", 20)))
    arrays = {name: value.numpy() for name, value in requests.items()}
    truth = PlantedTruth(path, sequences)(arrays)
    relevant = 0
    for user, candidate, index in np.ndindex(truth.shape):
        length = arrays["history_length"][user]
        here = raw[arrays["history_category"][user, index]]
        target = raw[arrays["target_category"][user, candidate]]
        rule = planted.get(str(here))
        expected = (
            index < length
            and rule is not None
            and rule["partner"] == target
            and rule["lag"] == length - index
        )
        assert truth[user, candidate, index] == expected
        relevant += expected
    assert relevant


def test_behaviors_against_the_click_are_of_the_targets_kind(simulated):
    sequences = open_sequences(str(simulated / "sequences"))
    path = str(simulated / "log.csv.truth.json")
    second = set(json.load(open(path, encoding="utf-8"))["second_kind"])
    raw = np.concatenate([[0, 0], sequences.vocabulary("item")]).tolist()
    truth, clicked, other = PlantedTruth(path, sequences), [0, 0], [0, 0]
    for requests, label, weight, _ in UserBatches(sequences, "train"):
        arrays = {name: value.numpy() for name, value in requests.items()}
        related, against = truth(arrays), truth.against(arrays)
        for user, candidate, index in zip(*np.nonzero(related * (weight.numpy() > 0)[..., None])):
            kinds = [
                raw[ids] in second
                for ids in (
                    arrays["history_item"][user, index],
                    arrays["target_item"][user, candidate],
                )
            ]
            assert against[user, candidate, index] == (kinds[0] == kinds[1])
            (clicked if label.numpy()[user, candidate] else other)[kinds[0] == kinds[1]] += 1
        assert not (against > related).any()
    assert clicked[1] / sum(clicked) < 0.2  # by chance alone: a nearer behavior pulled
    assert 0.4 < other[1] / sum(other) < 0.6


def test_evaluate_command_compares_two_runs(simulated, capsys):
    argv = [
        "evaluate",
        "--run",
        str(simulated / "TWIN"),
        "--sequences",
        str(simulated / "sequences"),
        "--resamples",
        "10",
    ]
    assert tfdare([*argv, "--against", str(simulated / "DARE-paper")]) == 0
    out = capsys.readouterr().out
    assert "TWIN - DARE-paper" in out and "events of the user" in out
    written = json.loads((simulated / "TWIN" / "evaluation.json").read_text())
    whole = written["slices"]["all"]["parts"][0]
    metrics = json.loads((simulated / "TWIN" / "metrics.json").read_text())["test"]
    for metric in METRICS:
        assert whole["models"]["TWIN"][metric]["estimate"] == pytest.approx(metrics[metric])
    assert tfdare([*argv[:-1], "0"]) == 2
    assert "--resamples must be positive" in capsys.readouterr().err


@pytest.fixture(scope="module")
def analysis(simulated):
    argv = [
        "--run",
        str(simulated / "DARE-paper"),
        "--against",
        str(simulated / "TWIN"),
        str(simulated / "DARE"),
        "--sequences",
        str(simulated / "sequences"),
        "--output",
        str(simulated / "analysis"),
        "--truth",
        str(simulated / "log.csv.truth.json"),
        "--steps",
        "6",
        "--every",
        "3",
        "--limit",
        "200",
        "--resamples",
        "20",
    ]
    assert main(argv) == 0
    return simulated / "analysis", argv


def test_report_stands_alone(analysis):
    page = (analysis[0] / "report.html").read_text()
    numbers = json.loads((analysis[0] / "analysis.json").read_text())
    assert set(numbers) >= {
        "gradients",
        "attention",
        "search",
        "discriminability",
        "convergence",
        "accuracy",
        "findings",
        "options",
        "models",
        "data",
    }
    figures = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    assert len(figures) == 9
    assert all(base64.b64decode(item).startswith(b"\x89PNG") for item in figures)
    assert not re.search(r"(src|href)='(?!data:|https://arxiv)", page)
    for item in numbers["findings"]:
        assert item["verdict"] in ("holds", "does not hold", "not separable")
    assert page.count("class='verdict") == len(numbers["findings"]) >= 9


def test_numbers_are_the_runs_own(analysis, simulated):
    numbers = json.loads((analysis[0] / "analysis.json").read_text())
    for name in ("DARE-paper", "TWIN"):
        metrics = json.loads((simulated / name / "metrics.json").read_text())["test"]
        whole = numbers["accuracy"]["slices"]["all"]["parts"][0]["models"][name]
        assert whole["auc"]["estimate"] == pytest.approx(metrics["auc"])
        assert numbers["models"][name]["model"] == name
    twin, dare = (numbers["gradients"][n]["features"]["category"] for n in ("TWIN", "DARE-paper"))
    assert twin["shared"] and not dare["shared"] and "conflict" not in dare
    assert numbers["gradients"]["TWIN"]["steps"] == [0, 3, 6]
    assert numbers["search"]["truths"]["planted"]["models"]["TWIN"]["targets_with_truth"] > 0
    assert set(numbers["gradients"]) == {"TWIN", "DARE-paper"}  # given attention has none
    assert {name: m["attention"] for name, m in numbers["models"].items()} == {
        "DARE-paper": "learned apart",
        "TWIN": "shared",
        "DARE": "given",
    }
    truths = {name: truth["models"]["DARE"] for name, truth in numbers["search"]["truths"].items()}
    assert truths["information"]["ndcg"]["low"] > 0 and truths["planted"]["ndcg"]["estimate"] > 0
    shares = [truths[name]["targets_with_truth"] for name in ("planted_against", "planted")]
    assert 0 < shares[0] < shares[1]
    pairs = numbers["accuracy"]["auc_differences"]
    whole = numbers["accuracy"]["slices"]["all"]["parts"][0]
    assert pairs["DARE-paper - TWIN"] == whole["differences"]["DARE-paper - TWIN"]["auc"]
    assert pairs["DARE - TWIN"]["estimate"] == pytest.approx(-pairs["TWIN - DARE"]["estimate"])
    assert "this data wants" in numbers["findings"][0]["claim"]
    assert numbers["data"]["category"] == category_of(load_run(str(simulated / "TWIN")).schema)


def test_a_failed_analysis_leaves_the_last_report(analysis, capsys):
    folder, argv = analysis
    before = (folder / "report.html").read_bytes()
    for change, message in (
        (["--resamples", "0"], "--resamples must be at least 1"),
        (["--truth", "nowhere.json"], "No planted truth at 'nowhere.json'"),
        (["--comparison", "nowhere"], "No finished comparison at 'nowhere'"),
        (["--against", argv[1]], "different names"),
        (["--run", "nowhere"], "No training run at 'nowhere'"),
    ):
        assert main([*argv, *change]) == 2
        assert message in capsys.readouterr().err
    assert (folder / "report.html").read_bytes() == before


def test_without_tracing_gradients_are_those_of_the_trained_model(simulated):
    runs = {"TWIN": load_run(str(simulated / "TWIN"))}
    measurements = Measurements(
        runs,
        open_sequences(str(simulated / "sequences")),
        "test",
        100,
        20,
        show_progress=lambda title: iter,
    )
    numbers = measurements.measure_training(steps=0, every=1)
    assert set(numbers) == {"gradients"} and numbers["gradients"]["TWIN"]["steps"] == [0]
    before = measurements.models["TWIN"].get_weights()
    again = measurements.measure_training(steps=0, every=1)
    assert again == numbers
    after = measurements.models["TWIN"].get_weights()
    assert all(np.array_equal(old, new) for old, new in zip(before, after))


def test_the_readme_names_what_is_there():
    readme = pathlib.Path(analysis_package.__file__).with_name("README.md").read_text("utf-8")
    for block in re.findall(r"^```python no-run\n(.*?)^```", readme, re.MULTILINE | re.DOTALL):
        compile(block, "README.md", "exec")
        for line in re.findall(r"^from tfdare.*", block, re.MULTILINE):
            exec(line, {})
    for name in re.findall(r"^\| \w+ \|(.*)\|$", readme, re.MULTILINE):
        for called in re.findall(r"`([\w]+)`", name):
            assert called in analysis_package.__all__, called


def test_efficiency_reads_a_comparison(tmp_path, folder):
    argv = [
        "compare",
        "--sequences",
        folder.path,
        "--output",
        str(tmp_path / "c"),
        "--models",
        "DARE-paper",
        "--attention_dims",
        "2",
        "4",
        "--representation_dims",
        "4",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--batch_size",
        "32",
        "--top_k",
        "3",
    ]
    assert tfdare(argv) == 0
    numbers = efficiency(str(tmp_path / "c"), resamples=20)
    path = tmp_path / "c" / "comparison.json"
    rows = json.loads(path.read_text())["rows"]
    without = [{key: row[key] for key in row if key != "settings"} for row in rows]
    path.write_text(json.dumps({"rows": without}))  # as version 0.3 wrote
    assert efficiency(str(tmp_path / "c"), resamples=20) == numbers
    for row in rows:
        f = next(
            f for f in numbers["models"][row["model"]] if f["attention_dim"] == row["attention_dim"]
        )
        assert f["auc"] == pytest.approx(row["test"]["auc"]["mean"])
        assert f["search_ms"] == row["search_ms"]
    narrow, wide = numbers["models"]["DARE-paper"]
    assert narrow["to_widest"]["estimate"] == pytest.approx(narrow["auc"] - wide["auc"])
    assert wide["to_widest"]["estimate"] == 0
    assert any(
        "half the attention columns" in f.claim for f in list_findings({"efficiency": numbers})
    )
    lines = plot_efficiency(numbers).axes[0].lines
    assert lines[0].get_ydata().tolist() == [narrow["auc"], wide["auc"]]
    with pytest.raises(UsageError, match="No finished comparison"):
        efficiency(str(tmp_path))
