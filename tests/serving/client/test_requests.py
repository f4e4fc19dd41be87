"""Time gaps, context and features of several values, from a caller's lists to a served model."""

import json

import numpy as np
import pytest

from serving.client import Client, ServingError, one_request, stack
from serving.client.lookup import candidates, newest_request
from serving.tools.query import main
from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, make_record, make_splits, write_folder
from tfdare.sequences.raw_ids import UNSEEN_VALUE, RawIds
from tfdare.sequences.requests import NO_VALUE

PARTS = {"multi_hot": MULTI_HOT, "context": CONTEXT}
SEVERAL = {"tags": 3, "interests": 2}
K = 4  # three searched for, and the newest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    splits = make_splits(seed=5, users=6, **PARTS)
    random = np.random.default_rng(0)
    splits["test"].append(make_record(random, "idle", length=9, requests=0, **PARTS))
    return write_folder(tmp_path_factory.mktemp("rich"), splits, time_gap=TIME_GAP, **PARTS)


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory, start_server):
    """Exports a DARE and an SDIM of this folder; returns them and the address of their server."""
    from tests.harness import randomize
    from tfdare.compat import tf
    from tfdare.export.signatures import ServingModule
    from tfdare.layers import Head, TopKSearch
    from tfdare.models import build_model

    base, schema = tmp_path_factory.mktemp("servables"), folder.schema.with_dims(4, 4)
    models = {
        "dare": build_model("DARE", schema, search=TopKSearch(3, recent=1), head=Head((4,))),
        "sdim": build_model("SDIM", schema, head=Head((4,))),
    }
    blocks = []
    for name, model in models.items():
        module = ServingModule(randomize(model), folder)
        path = str(base / name / "1")
        tf.saved_model.save(module, path, signatures=module.signatures_by_name)
        blocks.append(
            f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" }}'
        )
    config = base / "models.config"
    config.write_text("model_config_list {{\n{}\n}}\n".format("\n".join(blocks)))
    with start_server("--model_config_file", config, "--port", 0) as server:
        yield models, server.address


# Requests of a caller


GOOD = ({"item": [1], "tags": [[1]]}, {"item": [2], "tags": [[3]]})


@pytest.mark.parametrize(
    "change,message",
    [
        ({"history_time_gap": np.zeros([1, 2], int)}, r"must have shape \[1, N\]"),
        ({"history_time_gap": np.zeros([1, 1, 1], int)}, r"must have shape \[1, N\]"),
        ({"history_tags": np.zeros([1, 1, 3], int)}, "'tags' must have as many values"),
        ({"history_tags": np.zeros([1, 1], int)}, "'tags' must have as many values"),
        ({"context_hour": np.zeros([2], int)}, r"must have shape \[1\], or \[1, L\]"),
        ({"context_price": np.zeros([1, 2])}, r"must have shape \[1\]"),
        ({"hour": np.zeros([1], int)}, "Requests must hold .* Received: .*'hour'"),
    ],
)
def test_requests_that_cannot_be_sent(change, message):
    request = one_request(*GOOD, values={"tags": 2})
    with Client("localhost:1") as client, pytest.raises(ValueError, match=message):
        client.rank({**request, **change})


# Users of a folder


def test_newest_request_carries_everything(folder):
    ids, schema = RawIds(folder), folder.schema
    (record,) = [r for r in folder.records("test") if r.user == "user-1"]
    assert len(record.position)
    request = newest_request(folder, "test", "user-1", ids)
    index = int(np.flatnonzero(record.position == record.position.max())[-1])
    end = int(record.position[index])
    start = max(0, end - schema.window)
    assert len(request.history["item"]) == end - start == len(request.time_gap)
    gap = record.request_time[index] - record.history_time[start:end]
    np.testing.assert_array_equal(request.time_gap, gap)
    rows = record.history["tags"].reshape(-1, 3)[start:end]
    raw = folder.vocabulary("tags")
    wanted = np.select([rows == 0, rows == 1], [NO_VALUE, UNSEEN_VALUE], raw[rows - 2])
    np.testing.assert_array_equal(request.history["tags"], wanted)
    assert request.target["tags"].shape == (len(request.target["item"]), 3)
    hour = record.context["hour"][index]
    assert request.context["hour"] == (-1 if hour == 1 else folder.vocabulary("hour")[hour - 2])
    np.testing.assert_array_equal(request.context["price"], record.context["price"][index])
    assert request.context["interests"].shape == (2,)


def test_an_unknown_value_is_not_no_value(folder):
    ids, known = RawIds(folder), int(folder.vocabulary("tags")[1])
    wanted = [[known, UNSEEN_VALUE, NO_VALUE], [NO_VALUE] * 3]
    assert ids.raw("tags", [3, 1, 0, 0, 0, 0]).tolist() == wanted
    assert ids.raw("hour", [3, 1, 0]).tolist() == [folder.vocabulary("hour")[1], -1, -1]


def test_a_user_without_request_has_no_context(folder):
    request = newest_request(folder, "test", "idle", RawIds(folder))
    assert request.time_gap[-1] == 0 and (np.diff(request.time_gap) <= 0).all()
    assert request.context["hour"] == -1 and request.context["interests"].tolist() == [-1, -1]
    assert np.isnan(request.context["price"])


def test_candidates_find_all_values_of_an_item(folder):
    ids = RawIds(folder)
    record = next(r for r in folder.records("train") if len(r.history["item"]) > 3)
    item = int(ids.raw("item", record.history["item"])[3])
    features = candidates(folder, "train", [item, 5], ids)
    np.testing.assert_array_equal(features["tags"][0], ids.raw("tags", record.history["tags"])[3])
    assert features["tags"][1].tolist() == [NO_VALUE] * 3 and features["category"][1] == -1


# A served model


def requests_of(folder, *users):
    ids, requests = RawIds(folder), []
    for user in users:
        request = newest_request(folder, "test", user, ids)
        target = {name: values[:2] for name, values in request.target.items()}
        requests.append(
            one_request(request.history, target, request.time_gap, request.context, SEVERAL)
        )
    return requests


def test_split_equals_whole_equals_the_model(folder, served):
    _models, address = served
    users = [r.user for r in folder.records("test") if len(r.position)]
    requests = requests_of(folder, *users)
    together = stack(requests)
    with Client(address, timeout=60) as client:
        whole, split = client.rank(together), client.rank(together, split=True)
        alone = client.rank(requests[1])
        assert whole.behavior_index.shape == (*whole.probability.shape, K)
        np.testing.assert_allclose(whole.probability, split.probability, atol=1e-6)
        np.testing.assert_array_equal(whole.behavior_index, split.behavior_index)
        np.testing.assert_allclose(alone.probability[0], whole.probability[1], atol=1e-6)
        moved = {**together, "context_hour": np.full_like(together["context_hour"], 1007)}
        assert np.abs(client.rank(moved).probability - whole.probability).max() > 1e-4
        without = {k: v for k, v in together.items() if k != "context_price"}
        with pytest.raises(ServingError, match="Missing but required: {context_price}"):
            client.rank(without)
        extra = {**together, "context_city": together["context_hour"]}
        with pytest.raises(ServingError, match="Sent extra: {context_city}"):
            client.rank(extra)
    with Client(address, model="sdim", timeout=60) as client:
        whole = client.rank(together)
        assert whole.behavior_index is None and whole.attention_score is None
        assert np.isfinite(whole.probability).all()
        with pytest.raises(ServingError, match='"search" not found'):
            client.rank(together, split=True)


def ask(folder, address, *arguments):
    return main(["--address", address, "--sequences", folder.path, "--timeout", "60", *arguments])


def test_query_shows_time_gaps_context_and_values(folder, served, capsys):
    _, address = served
    user = max(folder.records("test"), key=lambda r: max(r.position, default=0)).user
    assert ask(folder, address, "--user", user) == 0
    said = capsys.readouterr().out
    assert "and whole agree" in said and "\nContext: hour " in said
    header = said.split("newest:\n")[1].splitlines()[0].split()
    assert header == [
        "position",
        "item",
        "category",
        "tags",
        "time",
        "gap",
        "attention",
        "score",
    ]
    assert ask(folder, address, "--user", user, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    request = newest_request(folder, "test", user, RawIds(folder))
    assert set(answer["context"]) == {"hour", "interests", "price"}
    first = answer["behaviors"][0]
    column = len(request.history["item"]) - first["position"]
    assert first["time_gap"] == request.time_gap[column]
    assert len(first["tags"]) == (request.history["tags"][column] != NO_VALUE).sum()


def test_query_of_a_model_that_does_not_search(folder, served, capsys):
    _, address = served
    item = str(folder.vocabulary("item")[0])
    arguments = ["--user", "idle", "--candidates", item, "--model", "sdim"]
    assert ask(folder, address, *arguments) == 0
    said = capsys.readouterr().out
    assert "does not search: nothing to split" in said
    assert "Context: hour -1, interests none, price unknown." in said
    assert "Behaviors that search found" not in said
