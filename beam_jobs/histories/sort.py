"""SortHistories: the events of a bucket of users -> every user's events, oldest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from beam_jobs.histories.earlier_run import Earlier, save_events
from beam_jobs.histories.histories import Histories, find_duplicates, keep_events, sort_events
from beam_jobs.histories.newest_events import Gathered, NewestEvents, keep_newest
from beam_jobs.reading.events import REJECTED, RejectedRows, unpack_order
from beam_jobs.reading.formats import Format
from beam_jobs.reading.rows import Events, Rejected
from beam_jobs.reading.text_ids import read_texts
from beam_jobs.shared.tallies import TALLY, tagged
from beam_jobs.shared.vocabulary_file import MISSING

HISTORIES = "histories"
DUPLICATE = "duplicate of an earlier row"


class _SortBucket(beam.DoFn):
    def __init__(
        self,
        form: Format,
        buckets: int,
        min_events: int,
        max_events: int,
        drop_duplicates: bool,
        earlier: Earlier | None,
        keep: str | None,
    ):
        self._names = (*form.features, "time", *form.values[len(form.features) :])
        self._weight = ("weight",) if form.weighted else ()
        self._multi_hot, self._text_ids = form.multi_hot, form.text_ids - form.hashed_text
        self._buckets = buckets
        self._min_events, self._max_events = min_events, max_events
        self._drop = drop_duplicates
        self._earlier, self._keep = earlier, keep
        self._shared = Shared()

    def process(self, element, texts: str | None = None) -> Iterator[Any]:
        bucket, gathered = element
        tally = {}
        if self._earlier is not None:
            earlier = self._earlier.events(bucket)
            gathered, tally["rows_carried"] = self._add_earlier(earlier, gathered)
        histories = sort_events(
            bucket, gathered.parts, (*self._names, *self._weight), self._multi_hot
        )
        tally["rows_cut"] = gathered.cut
        if self._drop:
            repeated = find_duplicates(histories)
            if len(repeated):
                yield from self._reject(histories, repeated, texts)
                tally[f"rows_rejected/{DUPLICATE}"] = len(repeated)
                keep = np.ones(len(histories.columns["order"]), bool)
                keep[repeated] = False
                histories = keep_events(histories, keep)
        if self._keep is not None:
            save_events(histories, self._keep, self._buckets)
        histories.columns.pop("behavior", None)
        long = histories.length >= self._min_events
        tally |= {
            "rows_kept": histories.length.sum(),
            "users_seen": len(long),
            "users_kept": long.sum(),
            "users_too_short": (~long).sum(),
            "events_kept": histories.length[long].sum(),
            "events_too_short": histories.length[~long].sum(),
            "longest_history": histories.length.max(initial=0),
        }
        yield tagged(tally)
        yield keep_events(histories, np.repeat(long, histories.length))

    def _add_earlier(self, earlier: Events, gathered: Gathered) -> tuple[Gathered, int]:
        """Adds the earlier run's events; returns all, and the number of the earlier ones."""
        rows = len(earlier.line)
        if not rows:
            return gathered, 0
        parts, cut = keep_newest(
            [earlier, *gathered.parts], self._max_events, repeats=not self._drop
        )
        return Gathered(parts, cut=gathered.cut + cut), rows

    def _reject(
        self, histories: Histories, repeated: np.ndarray, texts: str | None
    ) -> Iterator[Any]:
        # Events of the earlier run come first in the log, so this run read the repeated rows.
        chunk, line = unpack_order(histories.columns["order"][repeated])
        chunk = chunk - (self._earlier.chunks if self._earlier is not None else 0)
        user = np.repeat(np.arange(len(histories.users)), histories.length)[repeated]
        decode = None
        if texts:  # once per worker
            decode = self._shared.acquire(lambda: read_texts(texts), tag=texts).decode
        values = [
            _as_text(histories.columns[name][repeated], decode if name in self._text_ids else None)
            for name in self._names
        ]
        rows = np.array(
            [
                Rejected(number, DUPLICATE, ",".join((histories.users[owner], *row)))
                for owner, number, *row in zip(user.tolist(), line.tolist(), *values)
            ],
            object,
        )
        for number in np.unique(chunk).tolist():
            rejected = RejectedRows(number, tuple(rows[chunk == number]))
            yield beam.pvalue.TaggedOutput(REJECTED, rejected)


def _as_text(
    column: np.ndarray, decode: Callable[[np.ndarray], list[Any]] | None = None
) -> list[str]:
    """Formats values as in a row of text."""
    if decode and column.ndim > 1:
        return ["|".join(filter(None, row)) for row in decode(column)]
    if decode:
        return decode(column)
    if column.ndim > 1:
        return ["|".join(str(part) for part in row if part != MISSING) for row in column.tolist()]
    empty = (column == MISSING) | np.isnan(column)
    return ["" if blank else str(value) for blank, value in zip(empty, column.tolist())]


class SortHistories(beam.PTransform):
    """(bucket, Events) -> ``histories`` of users that are long enough, ``rejected``, ``tally``.

    Every bucket gives exactly one element, even one without users. The events of an
    ``earlier`` run come before those of this run; all of them are saved in the folder ``keep``.
    ``texts`` is a PCollection of the path that :class:`WriteTexts` wrote, None without text ids.
    """

    def __init__(
        self,
        form: Format,
        buckets: int,
        min_events: int,
        max_events: int,
        drop_duplicates: bool,
        earlier: Earlier | None = None,
        keep: str | None = None,
        texts: beam.PCollection | None = None,
    ):
        super().__init__()
        self._texts = [] if texts is None else [beam.pvalue.AsSingleton(texts)]
        self._buckets, self._newest = buckets, NewestEvents(max_events, repeats=not drop_duplicates)
        self._sort = _SortBucket(
            form, buckets, min_events, max_events, drop_duplicates, earlier, keep
        )

    def expand(self, events):
        nothing = Events(pa.array([], pa.string()), {}, np.zeros(0, np.int64))
        every = (
            events.pipeline
            | "EveryBucket" >> beam.Create(range(self._buckets))
            | "NoEvents"
            >> beam.Map(lambda bucket: (bucket, nothing)).with_output_types(tuple[int, Any])
        )
        keyed = events | "KeyByBucket" >> beam.Map(lambda pair: pair).with_output_types(
            tuple[int, Any]
        )
        return (
            (keyed, every)
            | beam.Flatten()
            | "GatherByBucket" >> beam.CombinePerKey(self._newest)
            | "SortBucket"
            >> beam.ParDo(self._sort, *self._texts)
            .with_outputs(REJECTED, TALLY, main=HISTORIES)
            .with_output_types(Any)
        )
