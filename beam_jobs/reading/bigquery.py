"""ReadTable: rows of a BigQuery table or query -> events, like those ReadEvents reads from files.

A table has no lines and no order: rows of the same user and time are ordered by a hash of their
content, so that reruns agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.reading.events import (
    EVENTS,
    LINES,
    REJECTED,
    TEXTS,
    RejectedRows,
    by_bucket,
    distinct_texts,
    pack_order,
)
from beam_jobs.reading.formats import Format
from beam_jobs.reading.inputs import Chunk, InputFile
from beam_jobs.reading.records import as_text, record_names
from beam_jobs.reading.rows import Rejected, to_events
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.hashing import hash_strings
from beam_jobs.shared.tallies import DAMAGED, TALLY, tagged

BIGQUERY = "bigquery"
_ROWS = 1 << 16


def as_files(tables: tuple[str, ...]) -> tuple[list[InputFile], list[Chunk]]:
    """Returns the table as the only file and chunk of a log.

    Raises:
        InputError: more than one table, or Beam lacks what it needs to read it.
    """
    if len(tables) != 1:
        raise InputError(f"--format bigquery reads one table or query. Received: {len(tables)}")
    try:
        import apitools  # noqa: F401
        import google.cloud.bigquery  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format bigquery needs Beam's Google Cloud packages: pip install "
            f"'apache-beam[gcp]' ({error})"
        ) from error
    return [InputFile(tables[0], 0, BIGQUERY)], [Chunk(0, 0, tables[0], BIGQUERY, 0, 0, (), 0)]


class _ReadRows(beam.DoFn):
    def __init__(self, table: str, form: Format, buckets: int, before: int):
        self._table, self._form, self._buckets, self._before = table, form, buckets, before

    def process(self, records: list[Mapping[str, Any]]) -> Iterator[Any]:
        try:
            names = list(dict.fromkeys(name for record in records for name in record_names(record)))
            positions = self._form.find(names, self._table)
        except InputError as error:
            yield tagged({f"{DAMAGED}{error.message}": 1})
            return
        fields = {name: names[position] for name, position in positions.items()}
        columns = as_text(records, fields)
        texts = [json.dumps(dict(record), default=str, ensure_ascii=False) for record in records]
        line = (hash_strings(pa.array(texts)) >> np.uint64(32)).astype(np.int64)
        events, odd, tally = to_events(columns, line, texts.__getitem__, self._form)
        for row in odd:
            name = f"rows_rejected/{row.reason}"
            tally[name] = tally.get(name, 0) + 1
        if odd:
            rows = tuple(Rejected(0, row.reason, row.row) for row in odd)
            yield beam.pvalue.TaggedOutput(REJECTED, RejectedRows(0, rows))
        yield from by_bucket(events, pack_order(self._before, events.line), self._buckets)
        yield tagged(tally)
        yield from distinct_texts(events.texts)


class RowsToEvents(beam.PTransform):
    """Rows as mappings -> the outputs of :class:`beam_jobs.reading.events.ReadEvents`."""

    def __init__(self, table: str, form: Format, buckets: int, before: int = 0):
        super().__init__()
        self._read = _ReadRows(table, form, buckets, before)

    def expand(self, rows):
        return (
            rows
            | "Batch" >> beam.BatchElements(min_batch_size=1000, max_batch_size=_ROWS)
            | "ReadRows"
            >> beam.ParDo(self._read)
            .with_outputs(REJECTED, LINES, TEXTS, TALLY, main=EVENTS)
            .with_output_types(Any)
        )


class ReadTable(beam.PTransform):
    """A BigQuery table (``project:dataset.table``) or query (``SELECT ...``) -> events."""

    def __init__(self, table: str, form: Format, buckets: int, before: int = 0):
        super().__init__()
        self._table, self._form = table, form
        self._rows = RowsToEvents(table, form, buckets, before)

    def expand(self, pipeline):
        from apache_beam.io.gcp.bigquery import ReadFromBigQuery

        if self._table.lstrip().lower().startswith(("select", "with")):
            read = ReadFromBigQuery(query=self._table, use_standard_sql=True)
        else:
            names = list(self._form.columns.values())
            fields = None
            if all(len(accepted) == 1 for accepted in names):
                fields = [accepted[0] for accepted in names]
            read = ReadFromBigQuery(
                table=self._table,
                method=ReadFromBigQuery.Method.DIRECT_READ,
                selected_fields=fields,
            )
        return pipeline | "Rows" >> read | self._rows
