"""Request mappings: from lists, from records, checked, stacked, and completed for ``score``."""

import dataclasses

import numpy as np
import pytest

from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, make_splits, write_folder
from tfdare.schema import MAX_GAP
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.requests import (
    NO_VALUE,
    one_request,
    request_mapping,
    requests_of_record,
    score_inputs,
    search_inputs,
    stack,
    stack_padded,
)

SEVERAL = {"tags": 3, "interests": 2}


# From lists


def test_one_request_by_hand():
    request = one_request(
        {"item": [7, 8], "tags": [[1, 2], []]},
        {"item": [9], "tags": [[3]]},
        time_gap=[60, 2**40],
        context={"hour": 5, "interests": [4], "price": 2.5},
        values=SEVERAL,
    )
    assert {name: (array.dtype.name, array.tolist()) for name, array in request.items()} == {
        "history_item": ("int64", [[7, 8]]),
        "history_tags": ("int64", [[[1, 2, -1], [-1, -1, -1]]]),
        "history_length": ("int32", [2]),
        "history_time_gap": ("int32", [[60, MAX_GAP]]),
        "target_item": ("int64", [[9]]),
        "target_tags": ("int64", [[[3, -1, -1]]]),
        "context_hour": ("int64", [5]),
        "context_interests": ("int64", [[4, -1]]),
        "context_price": ("float32", [2.5]),
    }
    assert set(search_inputs(request)) == {n for n in request if not n.startswith("context_")}


def test_an_empty_history_has_a_column_of_everything():
    request = one_request(
        {"item": [], "tags": []}, {"item": [9], "tags": [[]]}, time_gap=[], values={"tags": 3}
    )
    assert {name: array.shape for name, array in request.items()} == {
        "history_item": (1, 1),
        "history_tags": (1, 1, 3),
        "history_length": (1,),
        "history_time_gap": (1, 1),
        "target_item": (1, 1),
        "target_tags": (1, 1, 3),
    }
    assert (request["history_tags"] == NO_VALUE).all()


def test_stack_pads_everything_to_the_longest():
    def request(length, price):
        return one_request(
            {"item": [5] * length, "tags": [[1]] * length},
            {"item": [9], "tags": [[3]]},
            time_gap=[7] * length,
            context={"price": price},
            values={"tags": 2},
        )

    both = stack([request(1, 1.0), request(3, float("nan"))])
    assert both["history_time_gap"].tolist() == [[7, 0, 0], [7, 7, 7]]
    assert both["history_tags"].shape == (2, 3, 2)
    assert (both["history_tags"][0, 1:] == NO_VALUE).all()
    np.testing.assert_array_equal(both["context_price"], [1, np.nan])
    with pytest.raises(ValueError, match="same features"):
        stack([request(1, 1.0), one_request({"item": [1]}, {"item": [1]})])
    wider = one_request(
        {"item": [5], "tags": [[1]]},
        {"item": [9], "tags": [[3]]},
        time_gap=[7],
        context={"price": 1.0},
        values={"tags": 3},
    )
    with pytest.raises(ValueError, match="equally many values .* history_tags of shapes"):
        stack([request(1, 1.0), wider])


def test_score_inputs_by_hand():
    request = one_request(
        {"item": [10, 20], "tags": [[1], [2, 3]]},
        {"item": [7], "tags": [[4]]},
        time_gap=[90, 30],
        context={"hour": 5},
        values={"tags": 2},
    )
    inputs = score_inputs(request, [[[1, 0, -1]]], [[[0.5, 0.25, 0.0]]])
    assert inputs["behavior_tags"].tolist() == [[[[2, 3], [1, -1], [-1, -1]]]]
    assert inputs["behavior_time_gap"].tolist() == [[[30, 90, 0]]]
    assert inputs["behavior_time_gap"].dtype == np.int32
    assert inputs["context_hour"].tolist() == [5]
    assert set(inputs) == {
        "target_item",
        "target_tags",
        "behavior_item",
        "behavior_tags",
        "behavior_time_gap",
        "behavior_position",
        "attention_score",
        "context_hour",
    }


def test_score_inputs_of_single_values_by_hand():
    request = one_request({"item": [10, 20, 30]}, {"item": [7, 8]})
    inputs = score_inputs(request, [[[2, 0], [1, -1]]], [[[0.5, 0.25], [1.0, 0.0]]])
    assert inputs["behavior_item"].tolist() == [[[30, 10], [20, 0]]]
    assert inputs["behavior_position"].tolist() == [[[1, 3], [2, 0]]]
    assert inputs["target_item"].tolist() == [[7, 8]]
    assert inputs["behavior_position"].dtype == np.int32
    assert set(inputs) == {"target_item", "behavior_item", "behavior_position", "attention_score"}
    with pytest.raises(ValueError, match="must lie inside the history"):
        score_inputs(request, [[[3, 0], [1, -1]]], np.zeros([1, 2, 2]))
    with pytest.raises(ValueError, match=r"must have shape \[1, 2, K\]"):
        score_inputs(request, [[[1, 0]]], np.zeros([1, 1, 2]))


GOOD = ({"item": [1], "tags": [[1]]}, {"item": [2], "tags": [[3]]})


@pytest.mark.parametrize(
    "how,message",
    [
        ({"values": {"tags": 0}}, r"'tags' must have lists of up to 0 ids. Received: \[1\]"),
        ({"values": {"tags": 2, "shop": 2}}, r"not there. Received: \['shop'\]"),
        ({"values": {"item": 2, "tags": 2}}, "'item' must have lists of up to 2 ids. Received: 1"),
        ({"time_gap": [1, 2]}, r"equally long. Received: .*'time_gap': 2"),
        ({"time_gap": [1.5]}, "`history_time_gap` must hold integers. Received: dtype=float64"),
        ({"context": {"hour": None}}, "`context_hour` must hold integers, or text. Received: None"),
        ({"context": {"hour": [1.0, 2.0]}}, r"`context_hour` must have shape \[1\]"),
    ],
)
def test_lists_that_do_not_fit(how, message):
    with pytest.raises(ValueError, match=message):
        one_request(*GOOD, **{"values": {"tags": 2}, **how})


def test_features_and_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="same features"):
        one_request({"item": [1]}, {"shop": [1]})
    with pytest.raises(ValueError, match="equally long"):
        one_request({"item": [1], "shop": [1, 2]}, {"item": [1], "shop": [2]})
    with pytest.raises(ValueError, match="equally many candidates"):
        stack(
            [
                one_request({"item": [1]}, {"item": [1]}),
                one_request({"item": [1]}, {"item": [1, 2]}),
            ]
        )
    with pytest.raises(ValueError, match="at least one"):
        stack([])


# From records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parts = {"multi_hot": MULTI_HOT, "context": CONTEXT}
    path = tmp_path_factory.mktemp("sequences")
    return write_folder(path, make_splits(seed=3, users=6, **parts), time_gap=TIME_GAP, **parts)


def test_requests_of_a_record(folder):
    schema, ids = folder.schema, RawIds(folder)
    for record in folder.records("test"):
        by_row, by_id = (requests_of_record(record, schema, of) for of in (None, ids))
        assert len(by_row) == len(by_id) == len(record.position)
        assert [request.number for request in by_row] == list(range(len(by_row)))
        assert sum(len(request.label) for request in by_row) == len(record.label)
        for rows, raw in zip(by_row, by_id):
            end = record.position[rows.number]
            start = max(0, end - schema.window)
            np.testing.assert_array_equal(rows.history["item"], record.history["item"][start:end])
            assert rows.history["tags"].shape == (end - start, 3)
            gap = record.request_time[rows.number] - record.history_time[start:end]
            np.testing.assert_array_equal(rows.time_gap, gap)
            assert rows.time == raw.time == record.request_time[rows.number]
            for name in schema.names:
                np.testing.assert_array_equal(
                    raw.history[name],
                    ids.raw(name, rows.history[name].ravel()).reshape(raw.history[name].shape),
                )
                assert len(raw.target[name]) == len(raw.label)
            assert isinstance(raw.context["hour"], int) and isinstance(raw.context["price"], float)
        newest = requests_of_record(record, schema, ids, newest=True)
        assert [request.number for request in newest] == [len(by_row) - 1] * bool(by_row)


def test_a_record_as_a_mapping_is_that_of_its_lists(folder):
    ids = RawIds(folder)
    record = next(r for r in folder.records("test") if len(r.position))
    (request,) = requests_of_record(record, folder.schema, ids, newest=True)
    of_lists = one_request(
        request.history, request.target, request.time_gap, request.context, SEVERAL
    )
    mapping = request_mapping(request)
    assert set(mapping) == set(of_lists) == set(request.inputs())
    for name, array in mapping.items():
        assert array.dtype == of_lists[name].dtype
        np.testing.assert_array_equal(array, of_lists[name])
    target = {name: values[:1] for name, values in request.target.items()}
    assert request_mapping(request, target)["target_tags"].shape == (1, 1, 3)


def test_a_record_without_the_time_of_its_requests(folder):
    record = next(r for r in folder.records("test") if len(r.position))
    with pytest.raises(ValueError, match="has no time of its requests"):
        requests_of_record(dataclasses.replace(record, request_time=None), folder.schema)


def test_stack_padded_pads_candidates_and_row_ids():
    def request(behaviors, candidates):
        return {
            "history_item": np.full([1, behaviors], 5, np.int32),
            "history_tags": np.full([1, behaviors, 2], 5, np.int32),
            "history_length": np.array([behaviors], np.int32),
            "target_item": np.full([1, candidates], 7, np.int64),
            "target_tags": np.full([1, candidates, 2], 7, np.int64),
        }

    stacked = stack_padded([request(0, 1), request(2, 3)])
    assert stacked["history_item"].tolist() == [[0, 0], [5, 5]]
    assert stacked["history_tags"][0].tolist() == [[0, 0], [0, 0]]  # padding among row ids
    assert stacked["target_item"].tolist() == [[7, 0, 0], [7, 7, 7]]
    assert (stacked["target_tags"][0, 1:] == NO_VALUE).all()
    assert stacked["history_length"].tolist() == [0, 2]
    assert stack_padded([request(0, 1)])["history_item"].shape == (1, 1)


BIG = 2**63 + 1


@pytest.mark.parametrize(
    "history, target, more, wanted",
    [
        (["SKU-1", "é"], ["b"], {}, ([b"SKU-1", "é".encode()], [b"b"])),
        ([], ["b"], {}, ([b""], [b"b"])),
        ([7], ["b"], {}, ([b"7"], [b"b"])),
        ([BIG, 7], [7], {}, ([str(BIG).encode(), b"7"], [b"7"])),
        ([np.uint64(BIG)], [7], {}, ([str(BIG).encode()], [b"7"])),
        ([7, 8], [9], {"text_ids": ["item"]}, ([b"7", b"8"], [b"9"])),
        ([], [], {"text_ids": ["item"]}, ([b""], [])),
        (np.array(["x", "y"]), np.array([b"z"]), {}, ([b"x", b"y"], [b"z"])),
    ],
)
def test_text_ids_become_bytes(history, target, more, wanted):
    request = one_request({"item": history}, {"item": target}, **more)
    for name, ids in zip(("history_item", "target_item"), wanted):
        assert request[name].dtype.kind == "S" and request[name][0].tolist() == ids
    assert request["history_length"] == [len(history)]


def test_several_text_ids_are_padded_with_empty_ones():
    request = one_request(
        {"item": [1, 2], "tags": [["a", "b"], []]},
        {"item": [3], "tags": [["c"]]},
        context={"city": "Łódź", "groups": ["x"]},
        values={"tags": 3, "groups": 2},
    )
    assert request["history_tags"].tolist() == [[[b"a", b"b", b""], [b"", b"", b""]]]
    assert request["context_city"].tolist() == ["Łódź".encode()]
    assert request["context_groups"].tolist() == [[b"x", b""]]
    other = one_request(
        {"item": [1], "tags": [[]]},
        {"item": [3], "tags": [["long tag"]]},
        context={"city": "x", "groups": []},
        values={"tags": 3, "groups": 2},
        text_ids=["groups"],
    )
    both = stack([request, other])
    assert both["history_tags"].shape == (2, 2, 3) and both["target_tags"][1, 0, 0] == b"long tag"
    assert both["history_item"].tolist() == [[1, 2], [1, 0]]
    kept = score_inputs(both, np.array([[[1, -1]], [[-1, 0]]]), np.zeros((2, 1, 2)))
    assert kept["behavior_tags"][0].tolist() == [[[b"", b"", b""], [b"", b"", b""]]]


@pytest.mark.parametrize("bad", [2.7, None, True, float("nan")])
@pytest.mark.parametrize("others", [[], ["a"]])
def test_what_is_no_id_is_refused(bad, others):
    with pytest.raises(ValueError, match="`history_item` must hold integers,? or text. Received"):
        one_request({"item": [*others, bad]}, {"item": [3]})
