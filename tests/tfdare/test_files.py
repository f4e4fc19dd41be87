"""Atomic writing of files, and conversion of values to JSON."""

import json
import os

import numpy as np
import pytest

from tests.harness import run_doctests
from tfdare.files import as_json, replacing, write_json, write_text


@pytest.mark.parametrize("module, examples", [("files", 1), ("text", 2)])
def test_examples(module, examples):
    assert run_doctests(f"tfdare.{module}") == examples


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    write_json(str(path), {"b": 1, "a": [None]})
    with pytest.raises(TypeError):
        write_json(str(path), {"c": object()})
    assert path.read_text() == '{\n  "a": [\n    null\n  ],\n  "b": 1\n}\n'


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.weights.h5"
    write_text(path, "old")
    names = set()
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure), replacing(path) as temporary:
            assert os.path.dirname(temporary) == str(tmp_path)
            assert temporary.endswith("-x.weights.h5")
            names.add(temporary)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write("new")
            raise failure
    assert len(names) == 2 and path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.weights.h5"]


def test_what_json_does_not_hold_becomes_none():
    value = {"a": (np.float32(1.5), float("inf")), "b": np.array([[1, 2]]), 3: np.bool_(True)}
    converted = as_json(value)
    assert converted == {"a": [1.5, None], "b": [[1, 2]], "3": True}
    assert json.loads(json.dumps(converted)) == converted
