"""Time gaps, context and features of several values through the signatures, over raw ids."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.folders import CONTEXT, MULTI_HOT, SIZES, TIME_GAP, make_splits, write_folder
from tests.harness import learned_dare, randomize, requests
from tfdare.data import read_requests
from tfdare.export import export_model
from tfdare.export.check import compare, run_in_subprocess
from tfdare.export.sample_requests import example_requests
from tfdare.export.signatures import NO_VALUE, ServingModule, id_inputs, signature_inputs
from tfdare.layers import Head, MatchCounts, TopKSearch
from tfdare.losses import CandidateCrossentropy
from tfdare.models import build_model
from tfdare.schema import OOV_ID, PADDING_ID, SchemaError
from tfdare.sequences import Sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.requests import NO_VALUE as NO_VALUE_OF_THE_CLIENT
from tfdare.session import SavedModelSession

pytestmark = pytest.mark.keras

TOP_K, RECENT = 3, 2
NEVER_SEEN = 2**62
PARTS = {"multi_hot": MULTI_HOT, "context": CONTEXT}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences")
    return write_folder(path, make_splits(**PARTS), time_gap=TIME_GAP, **PARTS)


@pytest.fixture(scope="module")
def model(sequences):
    """Builds a model with every kind of feature, fits one epoch, and moves its weights far away."""
    schema = sequences.schema.with_dims(3, 4)
    dare = learned_dare(
        schema,
        search=TopKSearch(TOP_K, recent=RECENT),
        evidence=[MatchCounts()],
        head=Head((6,)),
        auxiliary_head=Head((5,), batch_norm=False),
    )
    dare.compile(
        optimizer=tf.keras.optimizers.Adam(0.01), loss=CandidateCrossentropy(), jit_compile=False
    )
    loss = dare.fit(read_requests(sequences, "train", 16), verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    return randomize(dare)


class Exported:
    """The published model, its sequences out of reach."""

    def __init__(self, model, sequences, folder):
        self.model = model
        shutil.copytree(sequences.path, folder / "sequences")
        moved = Sequences(str(folder / "sequences"), sequences.schema, {})
        self.path = export_model(model, str(folder / "servables"), moved, name="rich")
        shutil.rmtree(folder / "sequences")
        self.session = SavedModelSession(self.path)
        self.raw_ids = {
            part.name: sequences.vocabulary(part.name) for part in sequences.schema.categorical
        }

    def run(self, signature, inputs):
        named = self.session.signatures[signature].inputs
        return self.session.run(signature, {k: v for k, v in inputs.items() if k in named})

    def raw(self, rows):
        """Converts requests to raw ids; row 1 is an id never seen."""
        inputs = dict(rows)
        for key, part in id_inputs(self.model.schema).items():
            if key in rows:
                known = self.raw_ids[part.name][np.maximum(rows[key] - 2, 0)]
                nothing = NO_VALUE if part.max_values > 1 else NEVER_SEEN
                inputs[key] = np.select(
                    [rows[key] == PADDING_ID, rows[key] == OOV_ID], [nothing, NEVER_SEEN], known
                )
        return inputs


@pytest.fixture(scope="module")
def exported(model, sequences, tmp_path_factory):
    exported_model = Exported(model, sequences, tmp_path_factory.mktemp("export"))
    yield exported_model
    exported_model.session.close()


def test_signatures_are_those_of_the_table(exported):
    slots, most = TOP_K + RECENT, MULTI_HOT["tags"][1]
    ids, whole, real = tf.int64, tf.int32, tf.float32
    two, three = (-1, -1), (-1, -1, slots)
    targets = {"target_tags": (ids, (*two, most)), **{f"target_{n}": (ids, two) for n in SIZES}}
    search = {
        **targets,
        **{f"history_{n}": (ids, two) for n in SIZES},
        "history_tags": (ids, (*two, most)),
        "history_time_gap": (whole, two),
        "history_length": (whole, (-1,)),
    }
    context = {
        "context_hour": (ids, (-1,)),
        "context_interests": (ids, (-1, 2)),
        "context_price": (real, (-1,)),
    }
    score = {
        **targets,
        **{f"behavior_{n}": (ids, three) for n in SIZES},
        "behavior_tags": (ids, (*three, most)),
        "behavior_time_gap": (whole, three),
        "behavior_position": (whole, three),
        "attention_score": (real, three),
        **context,
    }
    inputs = {
        name: {
            key: (tf.as_dtype(info.dtype), tuple(d.size for d in info.tensor_shape.dim))
            for key, info in signature.inputs.items()
        }
        for name, signature in exported.session.signatures.items()
    }
    assert inputs == {"search": search, "score": score, "serving_default": {**search, **context}}
    assert NO_VALUE == NO_VALUE_OF_THE_CLIENT == -1


@pytest.mark.parametrize("users,behaviors,candidates", [(3, 12, 4), (1, 30, 1), (2, 0, 2)])
def test_raw_ids_answer_as_the_model_does(exported, users, behaviors, candidates):
    model = exported.model
    rows = requests(model.schema, users, behaviors, candidates, seed=behaviors)
    search = model.search(rows)
    for signature in ("search", "serving_default"):
        answers = exported.run(signature, exported.raw(rows))
        np.testing.assert_array_equal(answers["behavior_index"], search["behavior_index"])
        np.testing.assert_allclose(answers["attention_score"], search["attention_score"], atol=1e-5)
    np.testing.assert_allclose(answers["probability"], model(rows), atol=1e-6)
    scored = {key: value.numpy() for key, value in search.items()}
    probability = exported.run("score", exported.raw(scored))["probability"]
    np.testing.assert_allclose(probability, model(rows), atol=1e-6)


def test_missing_values_are_padding_and_unknown_values_are_not(exported):
    model = exported.model
    rows = requests(model.schema, users=2, behaviors=6, lengths=[6, 3], seed=1)
    ids = exported.raw(rows)
    answers = []
    for row, raw_id in ((PADDING_ID, NO_VALUE), (OOV_ID, NEVER_SEEN), (OOV_ID, 0)):
        for key in ("history_tags", "target_tags", "context_interests"):
            rows[key][..., -1], ids[key][..., -1] = row, raw_id
        answers.append(exported.run("serving_default", ids)["probability"])
        np.testing.assert_allclose(answers[-1], model(rows), atol=1e-6)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4
    np.testing.assert_array_equal(answers[1], answers[2])
    # A single value has no such convention: -1 is an id like any other.
    rows["context_hour"][:] = OOV_ID
    ids["context_hour"][:] = NO_VALUE
    answer = exported.run("serving_default", ids)["probability"]
    np.testing.assert_allclose(answer, model(rows), atol=1e-6)


def test_text_ids_answer_as_the_model_does(tmp_path):
    names = ("item", "category", "tags", "hour")
    folder = write_folder(
        tmp_path / "sequences",
        make_splits(**PARTS),
        time_gap=TIME_GAP,
        hashed=("category", "interests"),
        text_ids=(*names, "interests"),
        **PARTS,
    )
    model = randomize(learned_dare(folder.schema.with_dims(3, 4), top_k=TOP_K))
    session = SavedModelSession(export_model(model, str(tmp_path), folder))
    dtypes = {name: info.dtype for name, info in session.signatures["search"].inputs.items()}
    assert dtypes["history_item"] == dtypes["target_tags"] == tf.string.as_datatype_enum
    rows = requests(model.schema, users=3, behaviors=12, candidates=4, seed=1)
    ids, texts = RawIds(folder), dict(rows)
    for key, part in id_inputs(model.schema).items():
        if key in rows:
            shape = rows[key].shape
            texts[key] = ids.raw(part.name, rows[key].reshape(-1)).reshape(shape)
            assert texts[key].dtype.kind == "S"
    answers = session.run("serving_default", texts)
    np.testing.assert_allclose(answers["probability"], model(rows), atol=1e-6)
    np.testing.assert_array_equal(answers["behavior_index"], model.search(rows)["behavior_index"])
    strange = {**texts, "target_item": np.full_like(texts["target_item"], b"not there")}
    unknown = {**rows, "target_item": np.full_like(rows["target_item"], OOV_ID)}
    answers = session.run("serving_default", strange)
    np.testing.assert_allclose(answers["probability"], model(unknown), atol=1e-6)
    session.close()


def test_row_ids_take_0_for_no_value_and_wrong_rows_for_unknown(model, tmp_path):
    module = ServingModule(model, None)
    rows = requests(model.schema, users=2, behaviors=5, lengths=[5, 2], seed=2)
    wrong = {key: values.copy() for key, values in rows.items()}
    for key, row in (("history_tags", 9), ("context_interests", -1), ("context_hour", 6)):
        wrong[key][0, ...] = row
        rows[key][0, ...] = OOV_ID
    specs = signature_inputs(model, False)["serving_default"]
    inputs = {key: tf.constant(wrong[key]) for key in specs}
    answers = module.signatures_by_name["serving_default"](**inputs)
    np.testing.assert_allclose(answers["probability"], model(rows), atol=1e-6)


def test_examples_hold_the_hard_cases(model, sequences):
    batches = [batch["serving_default"] for batch in example_requests(model, sequences)]
    for key in ("history_tags", "context_interests"):
        values = np.concatenate([batch[key].reshape(-1, batch[key].shape[-1]) for batch in batches])
        counts = (values != NO_VALUE).sum(-1)
        assert counts.min() < counts.max() == values.shape[-1]
    gaps = np.concatenate([batch["history_time_gap"].ravel() for batch in batches])
    assert gaps.min() < 10 and gaps.max() > 10**8
    prices = np.concatenate([batch["context_price"] for batch in batches])
    assert np.isnan(prices).any() and np.isfinite(prices).any()
    over_rows = example_requests(model, None)[-1]["serving_default"]
    assert over_rows["history_tags"].min() == PADDING_ID


def test_models_of_one_table_over_raw_ids_with_and_without_search(sequences, tmp_path):
    exports = {}
    for name in ("SDIM", "TWIN"):
        model = randomize(build_model(name, sequences.schema.with_dims(4, 4), top_k=2))
        module = ServingModule(model, sequences)
        path = str(tmp_path / name)
        tf.saved_model.save(module, path, signatures=module.signatures_by_name)
        exports[name] = model, path, example_requests(model, sequences)[1:]
    assert {name: set(batches[0]) for name, (_, _, batches) in exports.items()} == {
        "SDIM": {"serving_default"},
        "TWIN": {"search", "score", "serving_default"},
    }
    answers = dict(zip(exports, run_in_subprocess(export[1:] for export in exports.values())))
    for name, (model, _, batches) in exports.items():
        assert compare(model, batches, answers[name], sequences) < 1e-5
    assert [set(batch["serving_default"]) for batch in answers["SDIM"]] == [{"probability"}] * 3


def test_a_context_feature_without_vocabulary_publishes_nothing(model, sequences, tmp_path):
    folder = tmp_path / "sequences"
    shutil.copytree(sequences.path, folder)
    os.remove(folder / "vocabulary" / "hour.tsv")
    moved = Sequences(str(folder), sequences.schema, {})
    with pytest.raises(Exception, match="hour"):
        export_model(model, str(tmp_path / "out"), moved, name="rich")
    assert os.listdir(tmp_path / "out" / "rich") == []
    with pytest.raises(SchemaError, match="No vocabulary for feature 'price'"):
        moved.vocabulary_path("price")
