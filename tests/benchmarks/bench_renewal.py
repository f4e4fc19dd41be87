"""Attention renewed without training: AUC on items that are new since, k days after it.

DARE is trained on the first `TRAINED` days of the check-ins. After k more days the log is prepared
again (``--since``), attention tables get the vectors of that day, everything else stays; the
requests of the following `TESTED` days are answered with old and with renewed attention. Intervals
are over users. Skipped with a message where the log is absent.
"""

from __future__ import annotations

import gzip
import pathlib
import sys
import tempfile

import numpy as np

from beam_jobs.build_sequences import main as prepare
from tests.real_logs import CHECKINS
from tfdare.compat import raw
from tfdare.evaluation.predictions import predict
from tfdare.metrics.bootstrap import UserBootstrap
from tfdare.schema import OOV_ID
from tfdare.sequences import open_sequences
from tfdare.training import load_run, renew_attention, train

TRAINED, LATER, TESTED = 60, (7, 30, 90), 30
DAY = 86_400


def measure() -> dict[str, float]:
    """Measures the AUC by days, for targets that are new and those that are not."""
    if not CHECKINS.exists():
        print(f"  skipped: {CHECKINS.name} is not in shared/data", file=sys.stderr)
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        lines = gzip.decompress(CHECKINS.read_bytes()).decode().splitlines()
        times = np.array([int(line.rsplit(",", 1)[1]) for line in lines[1:]])
        trained_to = int(times.min()) + TRAINED * DAY
        trained = _prepare(folder, "trained", lines, times, trained_to)
        run = folder / "run"
        train(str(trained), str(run), "DARE", epochs=4, seed=1, verbose=0)
        for days in LATER:
            figures |= _measure_after(folder, lines, times, trained_to, days)
    return figures


def _measure_after(folder, lines, times, trained_to, days):
    now = trained_to + days * DAY
    later = _prepare(folder, f"later_{days}", lines, times, now, trained_to)
    renewed_run = folder / f"renewed_{days}"
    renew_attention(str(folder / "run"), str(later), str(renewed_run))
    sequences = open_sequences(str(later))
    known = open_sequences(str(folder / "trained")).schema.item.vocabulary_size
    model = load_run(str(renewed_run)).model()
    renewed = predict(model, sequences, "test")
    _keep_old_attention(model, load_run(str(folder / "run")).model())
    old = predict(model, sequences, "test")
    clicked = np.zeros(renewed.request.max() + 1, np.int64)
    clicked[renewed.request[renewed.label > 0.5]] = renewed.item[renewed.label > 0.5]
    figures = {}
    for name, kept in {"new": clicked >= known, "known": clicked < known}.items():
        rows = kept[renewed.request]
        scores = {"old": [old.probability[rows]], "renewed": [renewed.probability[rows]]}
        bootstrap = UserBootstrap(renewed.label[rows], renewed.user[rows], scores)
        gain = bootstrap.difference("renewed", "old")
        figures[f"renewal_auc_old@{days}_{name}"] = bootstrap.auc("old").estimate
        figures[f"renewal_gain@{days}_{name}"] = gain.estimate
        print(
            f"  after {days} days, {name} items ({rows.sum():,} candidates): "
            f"AUC {bootstrap.auc('old'):.4f}, renewed {gain:+.4f}",
            file=sys.stderr,
        )
    return figures


def _prepare(folder, name, lines, times, now, trained_to=None):
    """Prepares the events up to `TESTED` days after `now`; those after `now` are test.

    `trained_to`: of the folder "trained", to which the events are added; None for that one.
    """
    log, output = folder / f"{name}.csv", folder / name
    kept = times < now + TESTED * DAY
    if trained_to is not None:
        kept &= times >= trained_to + TESTED * DAY
    log.write_text("\n".join([lines[0], *(line for line, keep in zip(lines[1:], kept) if keep)]))
    options = ["--format", "csv", "--columns", "time=timestamp", "--split", "by_time"]
    options += [
        "--validation_from",
        str(now - 7 * DAY),
        "--test_from",
        str(now),
        "--min_events",
        "20",
    ]
    options += ["--duplicates", "keep", "--coarse_clock", "--keep_events"]
    if trained_to is not None:
        options += ["--since", str(folder / "trained")]
    if prepare(["--input", str(log), "--output", str(output), *options]):
        raise RuntimeError("tfdare prepare failed; see above")
    return output


def _keep_old_attention(model, old) -> None:
    """Gives a model with more ids the attention of an older one; new ids count as unknown."""
    for name, table in model.embedding.attention_tables.items():
        values = raw(old.embedding.attention_tables[name]).numpy()
        unknown = np.repeat(values[OOV_ID : OOV_ID + 1], table.shape[0] - len(values), axis=0)
        raw(table).assign(np.concatenate([values, unknown]))
