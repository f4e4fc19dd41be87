"""``tfdare prepare`` on a log of Taobao's shape: rows a second beside naive Beam and Polars.

10 million rows (``ROWS``), 4 million items by Zipf's law, users with 210 page views and more, in
the published format. The whole job counts: reading, sorting, vocabularies, negatives, TFRecords.
Co-occurrence vectors count, too; ``vectors_over_prepare`` is the job's processor time over that
without them. In turns on a tenth of the log, without vectors: the job, the same result with Polars
in one process (the rival, not a dependency: ``pip install polars``; its record digests must equal
the job's), and the simplest Beam pipeline, a dictionary a row.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

ROWS, ITEMS, CATEGORIES = 10_000_000, 4_000_000, 9_439
EVENTS_OF_A_USER = 260
ROUNDS = 3


def measure() -> dict[str, float]:
    """Measures rows a second, ratios, and the peak of the whole job's memory."""
    with tempfile.TemporaryDirectory() as folder:
        logs = {
            rows: write_log(pathlib.Path(folder) / f"log-{rows}.csv", rows)
            for rows in (ROWS, ROWS // 10)
        }
        whole = _run_process("job", logs[ROWS])
        print(
            f"  {ROWS:,} rows: {ROWS / whole['seconds']:,.0f} rows/s, {whole['gib']:.2f} GiB",
            file=sys.stderr,
        )
        sorting = _run_process("sort", logs[ROWS])
        figures = {
            "beam_rows_per_s": ROWS / whole["seconds"],
            "beam_peak_gib": whole["gib"],
            "beam_sort_rows_per_s": ROWS / sorting["seconds"],
        }
        prepared: dict[str, list[float]] = {}
        for turn in range(ROUNDS):
            for kind in ("job", "without_vectors"):
                prepared.setdefault(kind, []).append(_run_process(kind, logs[ROWS])["cpu"])
            text = ", ".join(f"{k} {statistics.median(v):.1f} s" for k, v in prepared.items())
            print(f"  vectors, round {turn + 1} of {ROUNDS}: {text}", file=sys.stderr)
        figures["vectors_over_prepare"] = statistics.median(prepared["job"]) / statistics.median(
            prepared["without_vectors"]
        )
        seconds: dict[str, list[float]] = {}
        digests = set()
        for turn in range(ROUNDS):
            for kind in ("without_vectors", "polars", "naive"):
                done = _run_process(kind, logs[ROWS // 10])
                if done is None:
                    continue
                seconds.setdefault(kind, []).append(done["seconds"])
                digests |= {done["digests"]} - {None}
            print(
                f"  round {turn + 1} of {ROUNDS}: "
                + ", ".join(
                    f"{name} {statistics.median(times):.1f} s" for name, times in seconds.items()
                ),
                file=sys.stderr,
            )
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    if len(digests) != 1:
        raise RuntimeError(f"The job, run again or beside Polars, made other records: {digests}")
    figures["beam_over_naive"] = middle["naive"] / middle["without_vectors"]
    if "polars" in middle:
        figures["beam_over_polars"] = middle["polars"] / middle["without_vectors"]
    return figures


def write_log(path: pathlib.Path, rows: int) -> pathlib.Path:
    """Writes a log in Taobao's format: grouped by user, a user's rows in no order of time."""
    draw = np.random.default_rng(0)
    user = np.arange(rows) // EVENTS_OF_A_USER + 1
    item = np.exp(draw.random(rows) * np.log(ITEMS)).astype(np.int64)
    kinds = np.array(["pv", "buy", "cart", "fav"])
    behavior = kinds[draw.choice(4, rows, p=[0.9, 0.02, 0.05, 0.03])]
    columns = [
        user,
        item * 7 % 5_163_070,
        item % CATEGORIES + 1,
        behavior,
        1_511_539_200 + draw.integers(0, 9 * 86400, rows),
    ]
    names = ["user", "item", "category", "behavior", "time"]
    table = pa.table([pa.array(column) for column in columns], names=names)
    pa_csv.write_csv(table, path, pa_csv.WriteOptions(include_header=False, quoting_style="none"))
    return path


def _run_process(kind: str, log: pathlib.Path) -> dict | None:
    """Runs one way in a process of its own; returns its figures, None without Polars."""
    if (
        kind == "polars"
        and subprocess.run(
            [sys.executable, "-c", "import polars"], capture_output=True, check=False
        ).returncode
    ):
        print("  polars is not installed: left out (pip install polars)", file=sys.stderr)
        return None
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_beam", kind, str(log)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "."},
    )
    if done.returncode:
        raise RuntimeError(f"{kind} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _options(log: str, output: str, *more: str):
    from beam_jobs.options import parse

    return parse(["--input", log, "--format", "taobao", "--output", output, *more], "bench")


def job(log: str, folder: str, *more: str) -> str:
    """Runs the job itself."""
    from beam_jobs.build_sequences import build

    manifest = build(_options(log, f"{folder}/sequences", *more))
    return json.dumps(manifest["digests"]["records"], sort_keys=True)


def without_vectors(log: str, folder: str) -> str:
    """Runs the job without co-occurrence vectors, which its rivals do not make."""
    return job(log, folder, "--vectors", "none")


def sort(log: str, folder: str) -> None:
    """Reads, groups and sorts, nothing else."""
    import apache_beam as beam

    from beam_jobs.build_sequences import default_buckets
    from beam_jobs.histories.sort import HISTORIES, SortHistories
    from beam_jobs.reading import inputs
    from beam_jobs.reading.events import EVENTS, ReadEvents

    options = _options(log, folder)
    files = inputs.find_files(options.input, options.form)
    buckets = default_buckets(inputs.text_size(files))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        chunks = pipeline | beam.Create(inputs.plan(files, options.form, options.chunk_bytes))
        read = chunks | ReadEvents(options.form, buckets, options.chunk_bytes)
        histories = read[EVENTS] | SortHistories(
            options.form, buckets, options.min_events, options.max_events, True
        )
        histories[HISTORIES] | beam.Map(lambda batch: len(batch.users))


def polars(log: str, folder: str) -> str:
    """Writes the records of the job; Polars reads, filters, drops repeats, and sorts."""
    import polars as pl

    from beam_jobs.histories.histories import Histories
    from beam_jobs.output.write import records_digest
    from beam_jobs.requests.build import Learned, build_requests
    from beam_jobs.vocabulary.learn import count_items, make_catalog
    from tfdare.sequences.record import encode, write_framed

    options = _options(log, folder)
    names = ["user", "item", "category", "behavior", "time"]
    kinds = dict(zip(names, [pl.String, pl.Int64, pl.Int64, pl.String, pl.Int64]))
    table = (
        pl.scan_csv(log, has_header=False, schema=kinds)
        .with_row_index("order")
        .filter(pl.col("behavior") == "pv")
        .unique(["user", "item", "category", "time"], keep="first", maintain_order=True)
        .filter(pl.len().over("user") >= options.min_events)
        .sort("user", "time", "order")
        .collect()
    )
    users = table.group_by("user", maintain_order=True).len()
    columns = {
        name: table[name].cast(pl.Int64).to_numpy()
        for name in ("item", "category", "time", "order")
    }
    length = users["len"].to_numpy().astype(np.int64)
    histories = Histories(0, users["user"].to_list(), length, columns)
    counts = count_items(histories, options.protocol, options.form, options.form.features)
    learned = Learned(make_catalog(counts, options.form.features, options.min_count))
    digests = {}
    for split, records, _ in build_requests(
        histories, learned, options.form, options.protocol, options.sampling
    ):
        data = [encode(record) for record in records]
        with open(f"{folder}/{split}.tfrecord", "wb") as file:
            for example in data:
                write_framed(file, example)
        digests[split] = f"{records_digest(data) % 2**64:016x}"
    return json.dumps(digests, sort_keys=True)


def naive(log: str, folder: str) -> None:
    """Runs the simplest Beam pipeline: a dictionary a row, a list a user."""
    import apache_beam as beam

    from tfdare.schema import FIRST_ID, OOV_ID
    from tfdare.sequences.record import UserRecord, encode

    names = ["user", "item", "category", "behavior", "time"]

    def parse(line):
        row = dict(zip(names, line.split(",")))
        return {**row, **{name: int(row[name]) for name in ("item", "category", "time")}}

    def oldest_first(pair):
        return pair[0], sorted(pair[1], key=lambda row: row["time"])

    class Requests(beam.DoFn):
        learned = None

        def process(self, pair, path):
            if self.learned is None:
                counts = json.loads(pathlib.Path(path).read_text())
                items = [item for item, _ in counts]
                row_of = {item: row for row, item in enumerate(items, FIRST_ID)}
                cumulative = list(itertools.accumulate(count for _, count in counts))
                self.learned = row_of, items, cumulative
            row_of, items, cumulative = self.learned
            user, rows = pair
            touched, draw = {row["item"] for row in rows}, random.Random(user)
            length = len(rows)
            positions = [length - 2 - 5 * back for back in range(19, 0, -1)]
            positions += [length - 2, length - 1]
            target = []
            for position in positions:
                target.append(rows[position]["item"])
                while len(target) % 3:
                    (other,) = draw.choices(items, cum_weights=cumulative)
                    if other not in touched:
                        target.append(other)

            def column(values):
                return np.array([row_of.get(value, OOV_ID) for value in values], np.int32)

            yield encode(
                UserRecord(
                    user=user,
                    history={"item": column(row["item"] for row in rows)},
                    history_time=np.array([row["time"] for row in rows]),
                    position=np.array(positions, np.int32),
                    target_length=np.full(len(positions), 3, np.int32),
                    target={"item": column(target)},
                    label=np.array([1, 0, 0] * len(positions), np.uint8),
                )
            )

    def write_counts(counts):
        pathlib.Path(f"{folder}/counts.json").write_text(json.dumps(counts))
        return f"{folder}/counts.json"

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        histories = (
            pipeline
            | beam.io.ReadFromText(log)
            | beam.Map(parse)
            | beam.Filter(lambda row: row["behavior"] == "pv")
            | beam.Map(lambda row: (row["user"], row))
            | beam.GroupByKey()
            | beam.Map(oldest_first)
            | beam.Filter(lambda pair: len(pair[1]) >= 210)
        )
        counts = (
            histories
            | beam.FlatMap(lambda pair: [row["item"] for row in pair[1][:-2]])
            | beam.combiners.Count.PerElement()
            | beam.combiners.ToList()
            | beam.Map(write_counts)
        )
        (
            histories
            | beam.ParDo(Requests(), beam.pvalue.AsSingleton(counts))
            | beam.io.WriteToTFRecord(f"{folder}/part")
        )


def main(kind: str, log: str) -> None:
    """Runs one way; prints its seconds, those of the processor, peak memory and digests."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ways = {
            "job": job,
            "without_vectors": without_vectors,
            "sort": sort,
            "polars": polars,
            "naive": naive,
        }
        digests = ways[kind](log, folder)
        seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "gib": usage.ru_maxrss / 2**20,
        "digests": digests,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
