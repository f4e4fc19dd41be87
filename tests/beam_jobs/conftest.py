"""What the tests of the pipeline share: small logs, and a run of the command."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from beam_jobs.build_sequences import main
from tfdare.sequences import open_sequences

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"


@dataclasses.dataclass
class Outcome:
    """Exit code, streams and folder of one run."""

    code: int
    out: str
    err: str
    output: pathlib.Path

    @property
    def manifest(self):
        return json.loads((self.output / "manifest.json").read_text())

    @property
    def rejected(self):
        return [
            json.loads(line)
            for path in sorted(self.output.glob("rejected/*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    @property
    def sequences(self):
        return open_sequences(str(self.output))


@pytest.fixture
def prepare(tmp_path, capfd):
    """Runs the command on one input (path or list) and gives its outcome.

    Small logs have few items, and many bad rows on purpose: unless a test gives them, there are no
    bounds on rejected rows and short requests.
    """

    def run(path, *more, form="csv", output="sequences", buckets="2"):
        paths = [str(p) for p in (path if isinstance(path, list) else [path])]
        bounds = ("--max_rejected_fraction", "--max_short_fraction")
        more = (*more, *(part for name in bounds if name not in more for part in (name, "1")))
        folder = tmp_path / output
        capfd.readouterr()
        code = main(
            ["--input", *paths, "--format", form, "--output", str(folder)]
            + (["--buckets", buckets] if buckets and "--buckets" not in more else [])
            + [str(part) for part in more]
        )
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(code, out, err, folder)

    return run


SMALL = ("--split", "last_fraction", "--min_events", "8", "--train_start", "2", "--min_test", "2")


def csv_text(rows, header="user,item,category,timestamp"):
    """Writes rows of values as the text of a csv file."""
    return "".join(line + "\n" for line in [header, *(",".join(map(str, row)) for row in rows)])


def made_up_rows(users=12, events=30, items=40, seed=0):
    """Makes a small log: users of different lengths, times with ties, items with a category."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for _ in range(events // 2 + int(random.integers(0, events))):
            item = int(random.zipf(1.5)) % items
            rows.append((f"u{user}", item * 7, item % 5, int(random.integers(0, 200))))
    random.shuffle(rows)
    return rows


@pytest.fixture
def log(tmp_path):
    """Writes a small csv log."""
    path = tmp_path / "log.csv"
    path.write_text(csv_text(made_up_rows()))
    return path
