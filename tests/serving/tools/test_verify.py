"""``tfdare verify``: compares a run with its servables and servers, right and wrong ones."""

import contextlib
import io
import json
import pathlib
import re

import pytest

from serving.tools import query
from serving.tools.verify import main
from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, make_splits, write_folder
from tests.harness import learned_dare, randomize
from tfdare.commands import export
from tfdare.export import export_servables
from tfdare.layers import Head, TopKSearch
from tfdare.training.run_folder import start_run

PARTS = {"multi_hot": MULTI_HOT, "context": CONTEXT}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Writes folders: sequences with every kind of feature, a run, its servables, and others of
    another model."""
    base = tmp_path_factory.mktemp("verified")
    sequences = write_folder(base / "sequences", make_splits(**PARTS), time_gap=TIME_GAP, **PARTS)
    schema = sequences.schema.with_dims(3, 4)

    def model(seed):
        return randomize(
            learned_dare(
                schema, search=TopKSearch(3, recent=2), head=Head((6,)), auxiliary_weight=0
            ),
            seed,
        )

    run = str(base / "run")
    start_run(run, sequences, schema, {})
    trained = model(0)
    trained.save(f"{run}/model.keras")
    export_servables(trained, str(base / "good"), sequences, "m", split=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert (
            export.main(
                [
                    "--run",
                    run,
                    "--output",
                    str(base / "int8"),
                    "--name",
                    "m",
                    "--split",
                    "--attention_dtype",
                    "int8",
                    "--sequences",
                    sequences.path,
                ]
            )
            == 0
        )
    (base / "int8" / "said").write_text(said.getvalue())
    export_servables(model(1), str(base / "other"), sequences, "m")
    return base


@pytest.fixture(scope="module")
def server(trained, start_server):
    """Starts one server of the whole, its halves, and another model under the name ``other``."""
    models = {
        "m": "good/m",
        "m_search": "good/m_search",
        "m_score": "good/m_score",
        "other": "other/m",
    }
    config = trained / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f' config {{ name: "{name}" base_path: "{trained / path}"'
            f' model_platform: "tensorflow" }}'
            for name, path in models.items()
        )
        + "}"
    )
    with start_server("--model_config_file", config, "--port", 0) as running:
        yield running


@pytest.fixture
def verify(trained, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[3]))

    def run(*arguments, servable="good/m/1"):
        code = main(
            [
                "--run",
                str(trained / "run"),
                "--servable",
                str(trained / servable),
                "--sequences",
                str(trained / "sequences"),
                "--requests",
                "6",
                *map(str, arguments),
            ]
        )
        return code, capsys.readouterr()

    return run


def compared(said):
    return {(row["who"], row["signature"]) for row in json.loads(said)["differences"]}


def test_session_and_server_agree_with_the_model(verify, server):
    code, said = verify("--address", server.address, "--model", "m", "--json")
    assert code == 0, said.err
    signatures = ("search", "score", "serving_default")
    assert compared(said.out) == {(w, s) for w in ("session", "server") for s in signatures}
    report = json.loads(said.out)
    assert report["agree"] and report["versions"] == [1] and report["requests"] == 6
    outputs = {row["output"] for row in report["differences"]}
    assert {"probability", "attention_score", "score of behavior_index"} <= outputs
    assert all(0 <= row["difference"] <= 1e-5 for row in report["differences"])


def test_halves_that_are_served_apart(verify, server):
    code, said = verify(
        "--address",
        server.address,
        "--model",
        "m_score",
        "--search_address",
        server.address,
        "--search_model",
        "m_search",
        "--json",
    )
    assert code == 0, said.err
    assert {s for who, s in compared(said.out) if who == "server"} == {"search", "score"}


def test_a_server_with_another_model_is_detected(verify, server):
    code, said = verify("--address", server.address, "--model", "other")
    assert code == 1
    assert "They DO NOT agree to 1e-05." in said.out
    assert "server, signature serving_default: attention_score differs by" in said.err
    assert "for user 'u" in said.err and "at [0, " in said.err
    assert "session" not in said.err


def test_export_says_what_the_halves_hold_and_what_is_lost(trained):
    said = (trained / "int8" / "said").read_text().splitlines()
    names = ["m", "m_search", "m_score"]
    for line, name, signatures in zip(
        said, names, ("search, score, serving_default", "search", "score")
    ):
        assert re.match(rf".*/{name}/1: {signatures} ran through the session loader", line), line
    report = json.loads((trained / "int8/m/1/assets.extra/attention.json").read_text())
    assert report["measured_on"] == "test requests of sequences" and report["targets"] > 20
    assert re.fullmatch(
        rf"attention tables as int8: {report['bytes']:,} bytes, 0\.\d\d of float32's; recall@5 "
        rf"{report['recall@5']:.4f} against float32 over {report['targets']} targets "
        r"\(test requests of sequences\)",
        said[3],
    ), said[3]
    sizes = [
        int(re.fullmatch(rf"{name}: ([\d,]+) bytes of variables", line)[1].replace(",", ""))
        for name, line in zip(names, said[4:])
    ]
    assert max(sizes[1:]) < sizes[0]


def test_compact_tables_are_compared_with_what_they_stand_for(verify):
    code, said = verify(servable="int8/m/1")
    assert code == 0, said.err
    assert "session  score" in said.out
    code, _ = verify("--tolerance", "1e-9", servable="int8/m/1")
    assert code == 1


@pytest.mark.parametrize(
    "arguments,servable,match",
    [
        ((), "good/m", "it has no saved_model.pb"),
        (("--split_name", "holdout"), "good/m/1", "`split` must be one of"),
        (("--address", "localhost:1", "--timeout", "1"), "good/m/1", "UNAVAILABLE"),
    ],
)
def test_servables_that_cannot_be_compared_are_refused(verify, arguments, servable, match):
    code, said = verify(*arguments, servable=servable)
    assert code == 2 and match in said.err and "Traceback" not in said.err


def test_help_starts_with_a_line_to_paste(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith("tfdare verify --run build/dare --servable")


def test_hashed_features_are_asked_for_by_ids_that_stand_for_their_rows(
    tmp_path, start_server, capsys, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[3]))
    hashed = ("item", "tags", "hour")
    sequences = write_folder(tmp_path / "sequences", make_splits(**PARTS), hashed=hashed, **PARTS)
    schema = sequences.schema.with_dims(3, 4)
    model = randomize(learned_dare(schema, top_k=3, head=Head((6,)), auxiliary_weight=0))
    start_run(str(tmp_path / "run"), sequences, schema, {})
    model.save(tmp_path / "run/model.keras")
    export_servables(model, str(tmp_path / "servables"), sequences, "m")
    with start_server(
        "--model_base_path", tmp_path / "servables/m", "--model_name", "m", "--port", 0
    ) as server:
        to_server = ["--address", server.address, "--model", "m", "--sequences", sequences.path]
        code = main(
            [
                "--run",
                str(tmp_path / "run"),
                "--servable",
                str(tmp_path / "servables/m/1"),
                "--requests",
                "6",
                *to_server,
            ]
        )
        said = capsys.readouterr()
        assert code == 0 and "server   serving_default" in said.out, said
        code = query.main([*to_server, "--candidates", "5", "99"])
        said = capsys.readouterr()
    assert code == 0, said.err
    assert "Hashed: item, tags, hour. Ids from the sequences stand" in said.out
