"""Search and score as separate servables, which answer as the whole; compact tables."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

import tfdare.export.publish
from tests.harness import randomize, requests, rich_schema, shared_schema
from tfdare.errors import UsageError
from tfdare.export import ExportError, export_servables
from tfdare.export.compact_tables import DTYPES, CompactAttention, CompactTable
from tfdare.export.signatures import check_separable
from tfdare.layers import gather_behaviors
from tfdare.models import build_model
from tfdare.session import SavedModelSession

pytestmark = pytest.mark.keras

NAMES = ["d", "d_search", "d_score"]


def model_of(schema=None, name="DARE-learned"):
    return randomize(build_model(name, schema or rich_schema(), top_k=4))


class Exported:
    """The three servables of one model."""

    def __init__(self, base, dtype, name="DARE-learned"):
        self.model = model_of(name=name)
        before = self.model.get_weights()
        self.paths = export_servables(
            self.model, str(base), None, "d", split=True, attention_dtype=dtype
        )
        assert all((a == b).all() for a, b in zip(before, self.model.get_weights()))
        self.sessions = {name: SavedModelSession(path) for name, path in self.paths.items()}

    def stored(self, name):
        """Reads the variables of a servable's checkpoint, as arrays."""
        path = os.path.join(self.paths[name], "variables", "variables")
        reader = tf.train.load_checkpoint(path)
        keys = [k for k in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in k]
        return [reader.get_tensor(key) for key in keys]

    def names(self, name):
        """Lists the variables in a servable's graph."""
        operations = self.sessions[name]._graph.get_operations()
        return {op.name for op in operations if op.type == "VarHandleOp"}

    def run(self, name, signature, inputs):
        session = self.sessions[name]
        known = session.signatures[signature].inputs
        return session.run(signature, {k: v for k, v in inputs.items() if k in known})


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("split"), "float32")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("small"), "int8")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("given"), "float32", "DARE")


def found_by(exported, inputs):
    """Runs the search servable, and gathers the behaviors it returns as a client does."""
    outputs = exported.run("d_search", "search", inputs)
    index = outputs["behavior_index"]
    names = [*exported.model.schema.names, "time_gap"]
    history = {name: tf.constant(inputs[f"history_{name}"]) for name in names}
    behaviors = {k: v.numpy() for k, v in gather_behaviors(history, tf.constant(index)).items()}
    length = inputs["history_length"][:, None, None]
    behaviors["behavior_position"] = np.where(index >= 0, length - index, 0).astype(np.int32)
    return {**inputs, **behaviors, **outputs}


@pytest.mark.parametrize("which", ["split", "small", "given"])
def test_halves_one_after_the_other_are_the_whole(which, request):
    exported = request.getfixturevalue(which)
    assert list(exported.paths) == NAMES
    assert {os.path.basename(path) for path in exported.paths.values()} == {"1"}
    assert {n: sorted(s.signatures) for n, s in exported.sessions.items()} == {
        "d": ["score", "search", "serving_default"],
        "d_search": ["search"],
        "d_score": ["score"],
    }
    inputs = requests(exported.model.schema, users=3, behaviors=12, lengths=[12, 2, 0])
    searched = found_by(exported, inputs)
    whole = exported.run("d", "serving_default", inputs)
    scored = exported.run("d_score", "score", searched)
    np.testing.assert_array_equal(searched["behavior_index"], whole["behavior_index"])
    np.testing.assert_allclose(searched["attention_score"], whole["attention_score"], atol=1e-6)
    np.testing.assert_allclose(scored["probability"], whole["probability"], atol=1e-6)
    if which != "small":
        np.testing.assert_allclose(whole["probability"], exported.model(inputs), atol=1e-5)


def test_neither_half_holds_what_only_the_other_reads(split):
    names = {name: split.names(name) for name in NAMES}
    assert {name for name in names["d_search"] if "attention" not in name} == set()
    assert {name for name in names["d_score"] if "attention" in name} == set()
    assert names["d_search"] | names["d_score"] < names["d"]  # which has the auxiliary head, too
    embedding = split.model.embedding
    attention = [
        *embedding.attention_tables.values(),
        embedding.attention_position_table,
        embedding.attention_time_gap_table,
    ]
    stored = {name: sorted(v.tobytes() for v in split.stored(name)) for name in NAMES}
    assert stored["d_search"] == sorted(np.array(table).tobytes() for table in attention)
    assert not set(stored["d_search"]) & set(stored["d_score"])
    everything = {np.array(weight).tobytes() for weight in split.model.weights}
    assert set(stored["d_score"]) < everything
    assert len(stored["d_score"]) == len(names["d_score"])


def test_search_of_given_attention_holds_the_vectors_alone(given):
    tables = given.model.embedding.attention_tables.values()
    stored = sorted(values.tobytes() for values in given.stored("d_search"))
    assert stored == sorted(np.array(table).tobytes() for table in tables)
    assert {name for name in given.names("d_score") if "attention" in name} == set()


def test_warm_up_asks_only_what_a_half_answers(split):
    for name, only in (("d_search", b"search"), ("d_score", b"score")):
        path = os.path.join(split.paths[name], "assets.extra", "tf_serving_warmup_requests")
        records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
        assert len(records) == 4
        assert all(only in record and b"serving_default" not in record for record in records)


def test_int8_tables_take_a_byte_a_number_and_a_scale_a_row(small, split):
    tables = [v for v in small.stored("d_search") if v.dtype == np.int8]
    scales = [v for v in small.stored("d_search") if v.dtype == np.float32]
    before = small.stored("d_search")
    assert len(before) == len(tables) + len(scales) and len(tables) == len(scales) == 5
    assert sorted(map(len, tables)) == sorted(map(len, scales))
    assert sum(v.nbytes for v in before) < sum(v.nbytes for v in split.stored("d_search"))
    # The whole stores attention the same way, and nothing of it as float32.
    in_whole = {v.tobytes() for v in small.stored("d")}
    assert {v.tobytes() for v in tables} <= in_whole
    assert not in_whole & {v.tobytes() for v in split.stored("d_search")}
    for name, there in (("d", True), ("d_search", True), ("d_score", False)):
        path = os.path.join(small.paths[name], "assets.extra", "attention.json")
        assert os.path.exists(path) == there
    report = json.load(open(os.path.join(small.paths["d"], "assets.extra", "attention.json")))
    assert report["attention_dtype"] == "int8" and 0.9 < report["recall@4"] <= 1
    assert report["bytes"] == sum(v.nbytes for v in before)
    assert report["bytes_float32"] == sum(v.nbytes for v in split.stored("d_search"))
    assert report["targets"] == 100


@pytest.mark.parametrize("dtype,bits", [("float32", 24), ("float16", 11), ("bfloat16", 8)])
def test_float_tables_round_to_nearest(dtype, bits):
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    table = CompactTable(values, dtype, "t")
    np.testing.assert_allclose(table.whole(), values, rtol=2.0**-bits, atol=1e-6)
    assert table.bytes == values.size * tf.as_dtype(dtype).size


def test_int8_by_hand():
    table = CompactTable(np.array([[1.27, -0.635], [0, 0], [3e-5, 1e-5]], np.float32), "int8", "t")
    assert table.values.numpy().tolist() == [[127, -64], [0, 0], [127, 42]]
    np.testing.assert_allclose(table.scale, [0.01, 1, 3e-5 / 127], rtol=1e-6)
    np.testing.assert_allclose(table.rows(tf.constant([[2, 0]])).numpy()[0, 1], [1.27, -0.64])
    assert table.bytes == 6 + 3 * 4


def test_recall_falls_with_the_bits():
    model = model_of()
    inputs = requests(model.schema, users=20, behaviors=12, candidates=9)
    recall = {d: CompactAttention(model, d).report(inputs, "x")["recall@4"] for d in DTYPES}
    assert recall["float32"] == 1 and recall["float16"] > 0.99
    assert all(0.9 < share <= 1 for share in recall.values()) and min(recall.values()) < 1
    with pytest.raises(ValueError, match="Received: 'int4'"):
        CompactAttention(model, "int4")


@pytest.mark.parametrize(
    "name,match",
    [
        ("TWIN", "attention and representation share.*shared_category.*Models with decoupled"),
        ("TWIN-proj", "attention and representation share"),
        ("SDIM", "never searches"),
    ],
)
def test_models_that_share_tables_are_refused(name, match, tmp_path):
    model = model_of(shared_schema(), name)
    with pytest.raises(UsageError, match=match):
        export_servables(model, str(tmp_path / "out"), None, "d", split=True)
    with pytest.raises(UsageError, match=match):
        export_servables(model, str(tmp_path / "out"), None, "d", attention_dtype="int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["DARE-paper", "TWIN-4E"])
def test_models_with_tables_of_their_own_pass(name):
    check_separable(model_of(name=name))


def test_none_is_published_unless_all_are_good(tmp_path, monkeypatch):
    """Fails because the score half answers wrongly, then because it cannot be renamed."""
    model = model_of()
    folders = [tmp_path / name for name in NAMES]

    def nothing_there():
        return [os.listdir(folder) for folder in folders] == [[], [], []]

    with monkeypatch.context() as patch:
        patch.setattr(tfdare.export.publish, "check_exports", _broken)
        with pytest.raises(ExportError, match="d_score"):
            export_servables(model, str(tmp_path), None, "d", split=True)
    assert nothing_there()
    rename = os.rename

    def failing(source, target):
        if target == str(tmp_path / "d_score" / "1"):
            raise OSError("disk full")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(tfdare.export.publish, "check_exports", lambda *_: 0.0)
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="disk full"):
            export_servables(model, str(tmp_path), None, "d", split=True)
    assert nothing_there()
    os.makedirs(tmp_path / "d_search" / "6")
    with pytest.raises(UsageError, match="d_search.*6' exists"):
        export_servables(model, str(tmp_path), None, "d", version=6, split=True)


def _broken(exports, model, vocabularies):
    (path,) = [path for path, _ in exports if "d_score" in path]
    raise ExportError(path)
