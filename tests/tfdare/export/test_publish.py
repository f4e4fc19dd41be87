"""Publishing a servable: its signatures, answers over raw ids, warm-up, and refusals."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.harness import learned_dare, randomize, requests
from tfdare.compat import register
from tfdare.errors import UsageError
from tfdare.export import ExportError, export_model
from tfdare.export.check import check_export, lookup_rows
from tfdare.export.sample_requests import example_requests
from tfdare.export.signatures import signature_inputs
from tfdare.layers import DecoupledEmbedding, Head, TopKSearch
from tfdare.models import TwoStageModel
from tfdare.schema import OOV_ID, CategoricalContext, Feature, Position, Schema, SchemaError
from tfdare.schema.id_hash import hash_rows
from tfdare.sequences import Sequences
from tfdare.session import SavedModelSession

pytestmark = pytest.mark.keras

TOP_K = 3
NEVER_SEEN = 2**62
RAW = {
    "item": np.array([9_000_000_000, 5, 0, -7, 123, 77, 42, 8], np.int64),
    "category": np.array([31, 30, 4], np.int64),
}


def _model(search=None):
    schema = Schema(
        (
            Feature("item", 10, 3, 4, vocabulary="vocabulary/item.tsv"),
            Feature("category", 5, 2, 3, vocabulary="vocabulary/category.tsv"),
        ),
        window=12,
        position=Position(exact=4, per_octave=2, attention_dim=5, representation_dim=2),
    )
    heads = {"head": Head((6,)), "auxiliary_head": Head((5,), batch_norm=False)}
    if search is not None:
        return randomize(TwoStageModel(DecoupledEmbedding(schema), search=search, **heads))
    return randomize(learned_dare(schema, top_k=TOP_K, **heads))


def _vocabularies(folder, model):
    (folder / "vocabulary").mkdir(parents=True)
    for name, ids in RAW.items():
        lines = [f"{raw_id}\t{100 - i}\n" for i, raw_id in enumerate(ids)]
        (folder / "vocabulary" / f"{name}.tsv").write_text("".join(lines))
    return Sequences(str(folder), model.schema, {})


class Exported:
    """A published model, moved to another folder, its vocabulary files gone."""

    def __init__(self, folder, raw_ids):
        self.model = _model()
        vocabularies = _vocabularies(folder / "sequences", self.model) if raw_ids else None
        self.base = str(folder / "servables")
        self.path = export_model(self.model, self.base, vocabularies, name="small")
        shutil.rmtree(folder / "sequences", ignore_errors=True)
        shutil.copytree(self.path, folder / "moved")
        self.session = SavedModelSession(str(folder / "moved"))

    def run(self, signature, inputs):
        named = self.session.signatures[signature].inputs
        return self.session.run(signature, {k: v for k, v in inputs.items() if k in named})


@pytest.fixture(scope="module")
def by_raw_id(tmp_path_factory):
    exported = Exported(tmp_path_factory.mktemp("raw"), raw_ids=True)
    yield exported
    exported.session.close()


@pytest.fixture(scope="module")
def by_row(tmp_path_factory):
    exported = Exported(tmp_path_factory.mktemp("rows"), raw_ids=False)
    yield exported
    exported.session.close()


def raw_requests(model, **how):
    """Draws requests over rows, and the same over raw ids; row 1 is an id never seen."""
    rows = requests(model.schema, **how)
    ids = dict(rows)
    for name, raw_ids in RAW.items():
        for kind in ("history", "target"):
            key = f"{kind}_{name}"
            known = raw_ids[np.maximum(rows[key] - 2, 0)]
            ids[key] = np.where(rows[key] == OOV_ID, np.int64(NEVER_SEEN), known)
    return rows, ids


def assert_answers(answers, model, rows):
    expected = model.search(rows)
    np.testing.assert_array_equal(answers["behavior_index"], expected["behavior_index"])
    np.testing.assert_allclose(answers["attention_score"], expected["attention_score"], atol=1e-5)
    if "probability" in answers:
        np.testing.assert_allclose(answers["probability"], model(rows), atol=1e-6)


# Names and types


@pytest.mark.parametrize("which,id_type", [("by_raw_id", tf.int64), ("by_row", tf.int32)])
def test_signatures_are_those_of_the_table(which, id_type, request):
    signatures = request.getfixturevalue(which).session.signatures
    names = ("item", "category")
    two, three = (-1, -1), (-1, -1, TOP_K)
    targets = {f"target_{n}": (id_type, two) for n in names}
    search = {
        **{f"history_{n}": (id_type, two) for n in names},
        "history_length": (tf.int32, (-1,)),
        **targets,
    }
    search_outputs = {"behavior_index": (tf.int32, three), "attention_score": (tf.float32, three)}
    probability = {"probability": (tf.float32, two)}
    score = {
        **targets,
        **{f"behavior_{n}": (id_type, three) for n in names},
        "behavior_position": (tf.int32, three),
        "attention_score": (tf.float32, three),
        "mean_score": (tf.float32, (-1, -1, len(names))),
    }

    def described(infos):
        return {
            name: (tf.as_dtype(info.dtype), tuple(d.size for d in info.tensor_shape.dim))
            for name, info in infos.items()
        }

    assert {name: described(s.inputs) for name, s in signatures.items()} == {
        "search": search,
        "score": score,
        "serving_default": search,
    }
    outputs = {name: described(s.outputs) for name, s in signatures.items()}
    assert outputs == {
        "search": {**search_outputs, "mean_score": score["mean_score"]},
        "score": probability,
        "serving_default": {**search_outputs, **probability},
    }


# Answers


@pytest.mark.parametrize(
    "users,behaviors,candidates", [(3, 12, 4), (1, 30, 1), (2, 1, 2), (2, 0, 2)]
)
def test_raw_ids_answer_as_the_model_does(by_raw_id, users, behaviors, candidates):
    rows, ids = raw_requests(
        by_raw_id.model, users=users, behaviors=behaviors, candidates=candidates, seed=behaviors
    )
    for signature in ("search", "serving_default"):
        answers = by_raw_id.run(signature, ids)
        assert all(np.isfinite(a).all() for a in answers.values())
        assert_answers(answers, by_raw_id.model, rows)


def test_search_then_score_is_the_default(by_raw_id):
    _rows, ids = raw_requests(by_raw_id.model, users=3, behaviors=9, lengths=[9, 2, 0])
    searched = by_raw_id.run("search", ids)
    index = searched["behavior_index"]
    score = {k: v for k, v in ids.items() if k.startswith("target_")}
    for name in RAW:
        history = ids[f"history_{name}"]
        gathered = np.stack([history[u][np.maximum(index[u], 0)] for u in range(3)])
        score[f"behavior_{name}"] = gathered  # of place -1 whatever comes first
    length = ids["history_length"][:, None, None]
    score["behavior_position"] = np.where(index >= 0, length - index, 0).astype(np.int32)
    score |= {name: searched[name] for name in ("attention_score", "mean_score")}
    whole = by_raw_id.run("serving_default", ids)
    np.testing.assert_allclose(
        by_raw_id.run("score", score)["probability"], whole["probability"], atol=1e-6
    )
    for name in ("behavior_index", "attention_score"):
        np.testing.assert_array_equal(searched[name], whole[name])


def test_ids_never_seen_share_the_row_out_of_vocabulary(by_raw_id):
    rows, ids = raw_requests(by_raw_id.model, users=1, behaviors=4, candidates=2, lengths=[4])
    answers = []
    for unknown in (NEVER_SEEN, -1, 1, 2):
        for name in RAW:
            assert unknown not in RAW[name]
            ids[f"target_{name}"][:] = unknown
            rows[f"target_{name}"][:] = OOV_ID
        answers.append(by_raw_id.run("serving_default", ids)["probability"])
    np.testing.assert_allclose(answers, np.stack([by_raw_id.model(rows)] * 4), atol=1e-6)


def test_padding_of_any_id_changes_nothing(by_raw_id):
    _rows, ids = raw_requests(by_raw_id.model, users=2, behaviors=9, lengths=[4, 0])
    wanted = by_raw_id.run("serving_default", ids)
    for padding in (0, ids["history_item"].flat[0], NEVER_SEEN):
        for name in RAW:
            for u, length in enumerate((4, 0)):
                ids[f"history_{name}"][u, length:] = padding
        answers = by_raw_id.run("serving_default", ids)
        for name in wanted:
            np.testing.assert_array_equal(answers[name], wanted[name])


@pytest.mark.parametrize("which", ["by_raw_id", "by_row"])
def test_a_length_that_cannot_be_is_clipped(which, request):
    exported = request.getfixturevalue(which)
    rows, ids = raw_requests(exported.model, users=2, behaviors=5, lengths=[5, 0])
    ids = ids if which == "by_raw_id" else rows
    wrong = {**ids, "history_length": np.array([99, -3], np.int32)}
    answers = exported.run("serving_default", wrong)
    assert_answers(answers, exported.model, rows)


def test_rows_answer_as_the_model_does_and_wrong_rows_are_out_of_vocabulary(by_row):
    inputs = requests(by_row.model.schema, users=3, behaviors=7, seed=3)
    assert_answers(by_row.run("serving_default", inputs), by_row.model, inputs)
    for wrong in (-1, -(2**31), 10, 2**31 - 1):
        inputs["history_item"][:, 0] = inputs["target_item"][:, 1] = wrong
        answers = by_row.run("serving_default", inputs)
        known = dict(inputs)
        for key in ("history_item", "target_item"):
            known[key] = np.where(inputs[key] == wrong, OOV_ID, inputs[key])
        assert_answers(answers, by_row.model, known)
    score = {
        name: np.zeros(tuple(d or 2 for d in spec.shape), spec.dtype.as_numpy_dtype)
        for name, spec in signature_inputs(by_row.model, False)["score"].items()
    }
    wanted = by_row.run("score", {**score, "behavior_item": score["behavior_item"] + 1})
    got = by_row.run("score", {**score, "behavior_item": score["behavior_item"] + 10**6})
    np.testing.assert_array_equal(got["probability"], wanted["probability"])


def test_a_position_out_of_range_is_finite(by_row):
    score = {
        name: np.ones(tuple(d or 2 for d in spec.shape), spec.dtype.as_numpy_dtype)
        for name, spec in signature_inputs(by_row.model, False)["score"].items()
    }
    answers = [
        by_row.run("score", {**score, "behavior_position": score["behavior_position"] * p})
        for p in (12, 13, 10**6, -1, 0)
    ]
    far, farther, farthest, negative, none = (answer["probability"] for answer in answers)
    np.testing.assert_array_equal(far, farther)
    np.testing.assert_array_equal(far, farthest)
    np.testing.assert_array_equal(negative, none)
    assert np.isfinite(far).all() and np.isfinite(none).all()
    assert (far != none).all()


# Files


@pytest.mark.parametrize("which", ["by_raw_id", "by_row"])
def test_every_variable_is_stored_once(which, request):
    exported = request.getfixturevalue(which)
    stored = tf.train.load_checkpoint(os.path.join(exported.path, "variables", "variables"))
    shapes = stored.get_variable_to_shape_map()
    shapes.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    weights = exported.model.get_weights()
    assert len(shapes) == len(weights)
    assert sorted(map(tuple, shapes.values())) == sorted(weight.shape for weight in weights)
    saved = sorted(stored.get_tensor(name).tobytes() for name in shapes)
    assert saved == sorted(weight.tobytes() for weight in weights)
    handles = [
        op
        for op in exported.session._graph.get_operations()
        if op.type == "VarHandleOp" and op.get_attr("dtype") != tf.string  # paths of assets
    ]
    assert len(handles) == len(weights)


def test_published_folder(by_raw_id, by_row):
    assert os.path.basename(by_raw_id.path) == "1"
    for exported in (by_raw_id, by_row):
        assert os.listdir(os.path.join(exported.base, "small")) == ["1"]
        assert os.stat(exported.path).st_mode & 0o777 == 0o755
    assert sorted(os.listdir(os.path.join(by_raw_id.path, "assets"))) == [
        "category.tsv",
        "item.tsv",
    ]
    extra = os.path.join(by_raw_id.path, "assets.extra")
    assert Schema.load(os.path.join(extra, "schema.json")) == by_raw_id.model.schema


def test_no_python_operation(by_row):
    graph = by_row.session._graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operations = {node.op for node in nodes}
    assert "TopKV2" in operations
    assert not operations & {"PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaLaunch"}


def test_warm_up_has_a_record_for_each_signature_and_shape(by_raw_id):
    path = os.path.join(by_raw_id.path, "assets.extra", "tf_serving_warmup_requests")
    seen = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert request.model_spec.name == "small"
        signature = request.model_spec.signature_name
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        definition = by_raw_id.session.signatures[signature].inputs
        assert inputs.keys() == definition.keys()
        for name, array in inputs.items():
            assert tf.as_dtype(array.dtype) == tf.as_dtype(definition[name].dtype)
        answers = by_raw_id.run(signature, inputs)
        assert all(np.isfinite(a).all() and a.size for a in answers.values())
        key = "target_item" if signature == "score" else "history_item"
        seen.append((signature, inputs[key].shape, inputs["target_item"].shape))
    assert len(seen) == len(set(seen)) == 3 * 4
    assert {signature for signature, *_ in seen} == {"search", "score", "serving_default"}


def test_examples_hold_the_hard_cases(by_raw_id, tmp_path):
    model = by_raw_id.model
    batches = example_requests(model, _vocabularies(tmp_path / "again", model))
    search = [batch["search"] for batch in batches]
    lengths = np.concatenate([batch["history_length"] for batch in search])
    assert {0, 1, 12} <= set(lengths.tolist())
    assert {batch["target_item"].shape[1] for batch in search} >= {1, 100}
    known = np.concatenate([np.isin(b["target_item"], RAW["item"]).ravel() for b in search])
    assert known.any() and not known.all()


# Refusals


def test_an_existing_version_is_never_overwritten(by_row):
    before = {
        os.path.join(parent, name): os.stat(os.path.join(parent, name)).st_mtime_ns
        for parent, _, names in os.walk(by_row.path)
        for name in names
    }
    with pytest.raises(UsageError, match="exists; versions are never overwritten"):
        export_model(by_row.model, by_row.base, None, name="small", version=1)
    for number in (-1, 20231127141500123456):
        with pytest.raises(UsageError, match=f"`version` must be from 0 to .*Received: {number}"):
            export_model(by_row.model, by_row.base, None, name="small", version=number)
    after = {path: os.stat(path).st_mtime_ns for path in before}
    assert after == before
    assert os.listdir(os.path.join(by_row.base, "small")) == ["1"]


@pytest.mark.parametrize(
    "how,received",
    [
        ({"name": "a/b"}, "'a/b'"),
        ({"name": ".hidden"}, "'.hidden'"),
        ({"name": ""}, "''"),
        ({"version": -1}, "-1"),
    ],
)
def test_wrong_arguments_are_quoted(by_row, tmp_path, how, received):
    with pytest.raises(UsageError, match=f"Received: {received}"):
        export_model(by_row.model, str(tmp_path / "out"), None, **how)
    assert not (tmp_path / "out").exists()


def test_a_missing_vocabulary_publishes_nothing(dare, tmp_path):
    folder = Sequences(str(tmp_path), dare.schema, {})
    with pytest.raises(SchemaError, match="No vocabulary for feature 'item'"):
        export_model(dare, str(tmp_path / "out"), folder, name="small")
    assert os.listdir(tmp_path / "out" / "small") == []


@register
class PythonSearch(TopKSearch):
    """Runs where it was made, and nowhere else."""

    def call(self, scores, history_length, query=None, key=None, target=None, history=None):
        index, score = super().call(scores, history_length)
        same = tf.numpy_function(lambda x: x, [index], tf.int32)
        return tf.ensure_shape(same, index.shape), score


def test_a_model_that_a_server_cannot_run_is_not_published(tmp_path):
    model = _model(search=PythonSearch(TOP_K))
    assert np.isfinite(model(requests(model.schema))).all()
    with pytest.raises(ExportError, match="fails in the session loader"):
        export_model(model, str(tmp_path), None, name="small", version=4)
    assert os.listdir(tmp_path / "small") == []


def test_answers_that_differ_from_the_model_fail_the_check(by_row):
    other = _model()
    bias = other.head.logit.get_weights()
    other.head.logit.set_weights([bias[0], bias[1] + 0.01])
    examples = example_requests(by_row.model, None)[:1]
    with pytest.raises(ExportError, match="probability differs from the Keras model by"):
        check_export(by_row.path, other, examples, None)


def test_lookup_rows_by_hand():
    ids = np.array([[5, 9_000_000_000], [6, -7]])
    assert lookup_rows(RAW["item"], ids).tolist() == [[3, 2], [1, 5]]
    assert lookup_rows(np.array([], np.int64), ids).tolist() == [[1, 1], [1, 1]]


# Hashed features


def test_hashed_features_are_hashed_in_the_graph(tmp_path):
    schema = Schema(
        (
            Feature("item", 102, 3, 4, hash_buckets=100),
            Feature("category", 5, 2, 3, vocabulary="vocabulary/category.tsv"),
            Feature("tag", 9, 2, 3, max_values=2, hash_buckets=7),
        ),
        window=12,
        context=(CategoricalContext("city", 6, dim=2, hash_buckets=4),),
    )
    model = randomize(
        learned_dare(
            schema, top_k=TOP_K, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False)
        )
    )
    vocabularies = _vocabularies(tmp_path / "sequences", model)
    session = SavedModelSession(
        export_model(model, str(tmp_path / "servables"), vocabularies, name="hashed")
    )
    rng = np.random.default_rng(0)
    raw, rows = {}, {}
    for kind, columns in (("history", 9), ("target", 4)):
        raw[f"{kind}_item"] = rng.integers(-1, 2**63 - 1, (3, columns))
        raw[f"{kind}_item"][:, 0] = [-1, 0, 2**63 - 1]
        raw[f"{kind}_category"] = RAW["category"][rng.integers(0, 3, (3, columns))]
        raw[f"{kind}_tag"] = rng.integers(-1, 3, (3, columns, 2))
        rows[f"{kind}_item"] = hash_rows(raw[f"{kind}_item"], 100)
        rows[f"{kind}_category"] = lookup_rows(RAW["category"], raw[f"{kind}_category"])
        tags = raw[f"{kind}_tag"]
        rows[f"{kind}_tag"] = np.where(tags == -1, 0, hash_rows(tags, 7))
    raw["context_city"] = np.array([5, 10**12, -1])
    rows["context_city"] = hash_rows(raw["context_city"], 4)
    raw["history_length"] = rows["history_length"] = np.array([9, 4, 1], np.int32)
    answers = session.run("serving_default", raw)
    np.testing.assert_allclose(answers["probability"], model(rows), atol=1e-6)
    session.close()


def test_a_hashed_feature_has_no_vocabulary():
    for wrong in ({"vocabulary_size": 100}, {"vocabulary_size": 102, "vocabulary": "v.tsv"}):
        with pytest.raises(SchemaError, match="is hashed: it has no vocabulary file"):
            Feature("item", hash_buckets=100, **wrong)
    plain = Schema((Feature("item", 5),), window=3)
    assert "hash_buckets" not in plain.to_json()  # digests of other schemas stay as they were
    hashed = Schema((Feature("item", 102, hash_buckets=100),), window=3)
    assert Schema.from_json(hashed.to_json()) == hashed and hashed.digest != plain.digest
