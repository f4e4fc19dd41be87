"""Options from files: ``--config``, the file that repeats a run, and options after ``--since``."""

import json

import pytest

from beam_jobs.build_sequences import main
from tests.beam_jobs.conftest import SMALL
from tests.beam_jobs.histories.test_earlier_run import RICH, make_days, same_bytes
from tests.beam_jobs.reading.test_bad_input import refused


def run(*options):
    return main([str(option) for option in options])


def test_a_run_writes_the_file_that_repeats_it(prepare, tmp_path):
    days = make_days(tmp_path, days=2)
    first = prepare(days, *RICH, "--vectors", "item=4", "--window", "9")
    assert first.code == 0, first.err
    path = first.output / "prepare.yaml"
    text = path.read_text()
    assert text.startswith("# python -m beam_jobs.build_sequences --config prepare.yaml")
    assert "\nwindow: 9\n" in text and "\nmulti_hot:\n- tags=2\n" in text
    assert "output" not in text.split("\n", 1)[1] and "seed" not in text  # at its default
    again = tmp_path / "again"
    assert run("--config", path, "--output", again) == 0
    for name in ("prepare.yaml", "schema.json", "vocabulary/item.tsv", "vectors/item.npz"):
        assert (again / name).read_bytes() == (first.output / name).read_bytes()
    other = prepare(days, *RICH, "--config", path, "--window", "5", output="other")
    assert other.sequences.schema.window == 5  # the command line wins
    assert other.manifest["digests"]["vocabularies"] == first.manifest["digests"]["vocabularies"]
    same = type(first)(0, "", "", again)
    assert same.manifest["digests"] == first.manifest["digests"]
    same_bytes(first, same)


def test_a_file_of_ones_own(log, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        f"input: {log}\nformat: csv\nsplit: by_time\nvalidation_from: 100\ntest_from: 150\n"
        f"coarse_clock: true\nkeep_events: no_thanks\noutput: {tmp_path / 'out'}\n"
    )
    assert run("--config", path) == 2
    path.write_text(path.read_text().replace("no_thanks", "False"))
    pairs = "columns: {brand: category, category: }\ncontext: {hour: hour_of_day}\n"
    path.write_text(path.read_text() + pairs)
    assert run("--config", path) == 0
    options = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]
    assert options["columns"]["brand"] == ["category"] and "category" not in options["columns"]
    assert options["context"] == {"hour": "hour_of_day"}
    assert not (tmp_path / "out" / "events").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("windw: 5\nrunner: x\n", "no options of this command: windw, runner. A file has"),
        ("config: x.yaml\n", "no options of this command: config"),
        ("window: [5, 6]\n", "window takes one value. Received: 5, 6"),
        ("coarse_clock: 1\n", "coarse_clock must be true or false. Received: 1"),
        ("columns: {item: [a, b]}\n", "columns must be text, a number, or a list"),
        ("- window\n", "must hold lines such as `window: 100`. Received: ['window']"),
        ("window: [\n", "cannot be read as YAML"),
        ("window: many\n", "window must be a whole number. Received: 'many'"),
        ("split: random\n", "split must be one of leave_last, last_fraction, by_time. Received"),
        ("test_from: soon\n", "test_from must be a date or time such as 2024-03-08 or"),
    ],
)
def test_files_that_do_not_fit(prepare, log, tmp_path, text, words):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    refused(prepare(log, "--config", path), words)


def test_a_file_that_is_not_there(prepare, log, tmp_path):
    refused(prepare(log, "--config", tmp_path / "none.yaml"), "none.yaml cannot be read")


def test_since_needs_only_the_new_log(prepare, tmp_path):
    days = make_days(tmp_path)
    bounds = ["--max_rejected_fraction", "1", "--max_short_fraction", "1"]
    runs = [prepare(days[0], *RICH, *bounds, "--keep_events", output="day-0")]
    for number in (1, 2):
        output = tmp_path / f"day-{number}"
        since = ["--since", runs[-1].output]
        assert run("--input", days[number], *since, "--output", output) == 0
        runs.append(type(runs[0])(0, "", "", output))
    whole = prepare(days, *RICH, "--vocabulary_from", runs[-1].output, output="whole")
    same_bytes(runs[-1], whole)


def test_since_refuses_what_differs(prepare, log, tmp_path, capfd):
    stride = ("--train_stride", "2")
    first = prepare(log, *SMALL, *stride, "--keep_events", "--delimiter", ",")
    assert first.code == 0, first.err
    since = ["--input", log, "--since", first.output, "--output", tmp_path / "later"]

    def refusal(*more):
        assert run(*since, *more) == 2
        return capfd.readouterr().err

    assert "was made with other options: min_count 1, now 2" in refusal("--min_count", 2)
    message = refusal("--split", "leave_last")
    assert "protocol 'last_fraction', now 'leave_last'" in message
    assert "columns {" in refusal("--columns", "item=category,category=")
    (first.output / "prepare.yaml").write_text("impressions: x\n")
    assert "was made with --impressions. Give those to add, too" in refusal()
