"""Messages about the differences of two schemas."""

import dataclasses

from tfdare.schema import Feature, NumericContext, Schema, TimeGap
from tfdare.schema.differences import differences


def test_differences():
    before = Schema(
        (Feature("item", 9, digest="a"), Feature("category", 5)),
        window=4,
        split={"protocol": "leave_last", "seed": 1},
        context=(NumericContext("price"),),
    )
    assert differences(before, before.with_dims(3, 5)) == []
    cases = [
        (
            {"features": (Feature("item", 9, digest="b"), Feature("category", 5))},
            "the vocabulary of 'item' has as many rows (9) but other ids",
        ),
        (
            {"features": (Feature("item", 9, digest="a"), Feature("category", 3))},
            "the vocabulary of 'category' shrank from 5 to 3 rows",
        ),
        ({"features": (Feature("item", 9, digest="a"),)}, "features ['category'] are missing"),
        (
            {"features": (Feature("item", 9, digest="a"), Feature("category", 5, max_values=2))},
            "`max_values` of 'category' is 2, was 1",
        ),
        ({"context": (NumericContext("price", mean=2.0),)}, "`mean` of 'price' is 2.0, was 0.0"),
        ({"split": {"protocol": "leave_last", "seed": 2}}, "split option `seed` is 2, was 1"),
        (
            {"time_gap": TimeGap()},
            "`time_gap` is {'unit': 1, 'per_octave': 2, 'octaves': 24}, was None",
        ),
        ({"sample_weights": True}, "`sample_weights` is True, was False"),
    ]
    for change, phrase in cases:
        assert differences(before, dataclasses.replace(before, **change)) == [phrase]
