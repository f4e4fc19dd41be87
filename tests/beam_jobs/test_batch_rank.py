"""Offline ranking with an exported model: the answers are the model's own."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_jobs.batch_rank import main
from beam_jobs.requests.ranked import from_json, lay_out
from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, make_splits, write_folder
from tests.harness import learned_dare, randomize
from tfdare.data import read_requests
from tfdare.export import export_model
from tfdare.layers import Head
from tfdare.sequences.requests import stack_padded


class Exported:
    """A folder of sequences with features of every kind, a model for it, and its export."""

    def __init__(self, folder):
        splits = make_splits(seed=2, users=14, multi_hot=MULTI_HOT, context=CONTEXT)
        self.sequences = write_folder(
            folder / "sequences",
            splits,
            shards=3,
            multi_hot=MULTI_HOT,
            context=CONTEXT,
            time_gap=TIME_GAP,
        )
        schema = self.sequences.schema.with_dims(4, 5)
        self.model = randomize(
            learned_dare(
                schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False)
            )
        )
        self.path = export_model(self.model, str(folder / "servables"), self.sequences, "rich")
        self.by_row = export_model(self.model, str(folder / "servables"), None, "rows")

    def expected(self, split):
        """Computes the Keras model's answers to each user's requests, in order."""
        by_user = {}
        for inputs, label, weight in read_requests(
            self.sequences, split, 5, with_history_facts=True
        ):
            probability = self.model(inputs).numpy()
            searched = self.model.search(inputs)["behavior_index"].numpy()
            for row, user in enumerate(inputs["user"].numpy()):
                real = weight[row].numpy() > 0
                by_user.setdefault(user.decode(), []).append(
                    (probability[row][real], label[row].numpy()[real], searched[row][real])
                )
        return by_user


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("batch_rank"))


def run(exported, output, *more, model=None):
    return main(["--model", model or exported.path, "--output", str(output), *map(str, more)])


def rows_of(output):
    rows = []
    for path in sorted((output / "ranked").iterdir()):
        rows += pq.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: (row["user"], row["request"]))


@pytest.mark.parametrize("by_row", [False, True])
def test_answers_are_the_models_own(exported, tmp_path, capsys, by_row):
    more = ("--row_ids",) if by_row else ()
    assert (
        run(
            exported,
            tmp_path / "out",
            "--sequences",
            exported.sequences.path,
            "--behaviors",
            "--batch_size",
            4,
            *more,
            model=exported.by_row if by_row else None,
        )
        == 0
    )
    expected = exported.expected("test")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == sum(map(len, expected.values())) > 20
    for row in rows:
        probability, label, index = expected[row["user"]][row["request"]]
        np.testing.assert_allclose(row["probabilities"], probability, atol=1e-5)
        assert row["labels"] == label.tolist() and len(row["items"]) == len(label)
        assert row["behavior_index"] == index.tolist()
    if not by_row:
        raw = set(exported.sequences.vocabulary("item").tolist())
        assert {item for row in rows for item in row["items"]} <= raw | {-1}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]
    assert summary["requests_read"] == summary["requests_ranked"] == len(rows)
    assert summary["candidates_ranked"] == sum(len(row["items"]) for row in rows)
    assert f"{len(rows):,} read, {len(rows):,} ranked, 0 failed" in capsys.readouterr().out


def test_the_newest_request_of_each_user_as_lines_of_json(exported, tmp_path):
    assert (
        run(
            exported,
            tmp_path / "out",
            "--sequences",
            exported.sequences.path,
            "--newest",
            "--format",
            "jsonl",
            "--split",
            "validation",
        )
        == 0
    )
    expected = exported.expected("validation")
    rows = [
        json.loads(line)
        for path in (tmp_path / "out" / "ranked").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert {row["user"] for row in rows} == set(expected) and len(rows) == len(expected)
    for row in rows:
        assert row["request"] == len(expected[row["user"]]) - 1
        np.testing.assert_allclose(row["probabilities"], expected[row["user"]][-1][0], atol=1e-5)
    assert (tmp_path / "out" / "_SUCCESS").exists()


def good_line(exported, **change):
    item, category, tags = (
        exported.sequences.vocabulary(name)[:3].tolist() for name in ("item", "category", "tags")
    )
    request = {
        "user": "new",
        "history_item": item[:2],
        "history_category": category[:2],
        "history_tags": [tags, [tags[0], -1, -1]],
        "history_time_gap": [5, 100],
        "target_item": item,
        "target_category": category,
        "target_tags": [tags] * 3,
        "context_hour": 1000,
        "context_interests": [1000, -1],
        "context_price": 9.5,
    }
    return {name: value for name, value in {**request, **change}.items() if value is not None}


def test_failed_requests_are_kept_with_the_reason(exported, tmp_path):
    lines = [
        json.dumps(good_line(exported)),
        "nonsense {",
        json.dumps(good_line(exported, history_item=None)),
        json.dumps(good_line(exported, target_item=[1, 2])),
        json.dumps(good_line(exported, target_item=["a", "b", "c"])),
        json.dumps(
            good_line(
                exported, history_item=[], history_category=[], history_tags=[], history_time_gap=[]
            )
        ),
        json.dumps(good_line(exported, color=3)),
        json.dumps(good_line(exported, history_length=9)),
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(lines) + "\n\n")
    assert run(exported, tmp_path / "out", "--requests", path) == 0
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 2 and all(len(row["probabilities"]) == 3 for row in rows)
    assert all(0 < p < 1 for row in rows for p in row["probabilities"])
    reasons = sorted(
        json.loads(line)["reason"]
        for file in (tmp_path / "out" / "failed").iterdir()
        for line in file.read_text().splitlines()
    )
    for reason, words in zip(
        reasons,
        [
            "history_length must be at most",
            "inputs missing: ; too many: color",
            "inputs missing: history_item",
            "lists differ in length",
            "not JSON",
            "target_item must be int64 [-1]",
        ],
        strict=True,
    ):
        assert reason.startswith(words), reasons
    counts = json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]
    assert (counts["requests_read"], counts["requests_ranked"], counts["requests_failed"]) == (
        8,
        2,
        6,
    )
    before = (tmp_path / "out" / "summary.json").read_text()
    assert (
        run(
            exported,
            tmp_path / "out",
            "--requests",
            path,
            "--overwrite",
            "--max_failed_fraction",
            0.5,
        )
        == 2
    )  # and leaves what was there
    assert (tmp_path / "out" / "summary.json").read_text() == before


def test_padding_says_nothing(exported):
    kinds = {
        "history_item": ("int64", (-1,)),
        "history_category": ("int64", (-1,)),
        "history_tags": ("int64", (-1, 3)),
        "history_time_gap": ("int32", (-1,)),
        "history_length": ("int32", ()),
        "target_item": ("int64", (-1,)),
        "target_category": ("int64", (-1,)),
        "target_tags": ("int64", (-1, 3)),
        "context_hour": ("int64", ()),
        "context_interests": ("int64", (2,)),
        "context_price": ("float32", ()),
    }
    kinds = {name: (np.dtype(kind), shape) for name, (kind, shape) in kinds.items()}
    request = lay_out(from_json(json.dumps(good_line(exported))), kinds)
    with pytest.raises(ValueError, match=r"context_interests must be int64 \[2\]"):
        lay_out(from_json(json.dumps(good_line(exported, context_interests=[1000]))), kinds)
    longer = {
        **request,
        "history_item": np.arange(5)[np.newaxis],
        "history_length": np.array([5], np.int32),
    }
    batch = stack_padded([request, longer])
    assert batch["history_item"].shape == (2, 5) and batch["history_tags"].shape == (2, 2, 3)
    assert batch["history_item"][0].tolist()[2:] == [0, 0, 0]
    assert batch["history_length"].tolist() == [2, 5] and batch["context_interests"].shape == (2, 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "Give --sequences or --requests"),
        (("--sequences", "x", "--batch_size", 0), "--batch_size must be at least 1"),
        (("--sequences", "x"), "No folder of sequences at 'x'"),
        (("--requests", "none.jsonl"), "none.jsonl': no such file"),
        (("--sequences", "x", "--max_failed_fraction", 2), "must be at most 1. Received: 2"),
        (("--sequences", "x", "--split", "all"), "argument --split: invalid choice: 'all'"),
        (("--sequences", "x", "--format", "csv"), "argument --format: invalid choice: 'csv'"),
    ],
)
def test_inputs_that_cannot_be_ranked_are_refused(exported, tmp_path, capsys, more, words):
    assert run(exported, tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_model_there(exported, tmp_path, capsys):
    assert (
        run(exported, tmp_path / "out", "--sequences", exported.sequences.path, model=str(tmp_path))
        == 2
    )
    assert "saved_model.pb': no such file" in capsys.readouterr().err


def test_hashed_features_are_ranked_by_row_ids_alone(exported, tmp_path, capsys):
    splits = make_splits(users=2)
    hashed = write_folder(tmp_path / "hashed", splits, hashed=("item",))
    assert run(exported, tmp_path / "out", "--sequences", hashed.path) == 2
    assert "hashes item: it does not hold raw ids" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
