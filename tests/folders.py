"""Writes small finished folders of sequences, and reads their requests in plain Python."""

import dataclasses
import json
import os

import numpy as np

import tfdare
from tfdare.schema import (
    FIRST_ID,
    INT64,
    STRING,
    CategoricalContext,
    Feature,
    NumericContext,
    Position,
    Schema,
    TimeGap,
)
from tfdare.sequences import SPLITS, SUCCESS, open_sequences
from tfdare.sequences.folder import file_digest
from tfdare.sequences.record import UserRecord, encode, write_framed

SIZES = {"item": 30, "category": 7}
WINDOW = 12
CANDIDATES = 3
# Further features that a folder can have.
MULTI_HOT = {"tags": (9, 3)}  # rows of the table, values of a behavior at most
TIME_GAP = TimeGap(unit=10, octaves=8)
CONTEXT = (
    CategoricalContext("hour", 6),
    CategoricalContext("interests", 8, max_values=2),
    NumericContext("price", 10.0, 4.0),
)


def make_record(random, user="u", length=None, requests=None, new=True, multi_hot=None, context=()):
    """Makes the record of a user with random behaviors.

    Clicked items are of a category that the user likes, so that there is something to learn; some
    candidates are missing, so that requests differ in length.

    Args:
        random: numpy Generator.
        user: str.
        length: int or None. Behaviors. Defaults to 1 to 40.
        requests: int or None. Defaults to 0 to 5.
        new: bool. Whether clicks may be of items that the history does not hold.
        multi_hot: mapping of feature to (rows, values at most), such as `MULTI_HOT`. Every item
            has its own values, some none.
        context: context features of the schema, such as `CONTEXT`.
    """
    length = int(random.integers(1, 41)) if length is None else length
    requests = int(random.integers(0, 6)) if requests is None else requests
    liked = int(random.integers(2, SIZES["category"]))

    def item_of(category):
        offset = random.integers(0, (SIZES["item"] - FIRST_ID) // 5)
        return FIRST_ID + int((category - FIRST_ID) + 5 * offset)

    history = [
        item_of(liked if random.random() < 0.7 else random.integers(2, 7)) for _ in range(length)
    ]
    position = np.sort(random.integers(0 if new else 1, length + 1, requests))
    target, label, sizes = [], [], []
    for cut in position:
        clicked = (
            item_of(liked)
            if new and random.random() < 0.5
            else (history[int(random.integers(0, cut))] if cut else item_of(liked))
        )
        others = [
            item_of(int(random.integers(2, 7))) for _ in range(int(random.integers(1, CANDIDATES)))
        ]
        target += [clicked, *others]
        label += [1] + [0] * len(others)
        sizes.append(1 + len(others))

    def columns(items):
        items = np.array(items, np.int32)
        category = (items - FIRST_ID) % 5 + FIRST_ID
        arrays = {"item": items, "category": category.astype(np.int32)}
        for name, (size, most) in (multi_hot or {}).items():
            values = 1 + (items[:, None] * np.arange(1, most + 1)) % (size - 1)
            there = np.arange(most) < (items % (most + 1))[:, None]
            arrays[name] = np.where(there, values, 0).astype(np.int32).reshape(-1)
        return arrays

    times = np.sort(random.integers(0, 10_000, length))
    return UserRecord(
        user=user,
        history=columns(history),
        history_time=times,
        position=position.astype(np.int32),
        target_length=np.array(sizes, np.int32),
        target=columns(target),
        label=np.array(label, np.uint8),
        request_time=np.append(times, times[-1] + 7)[position],
        context={part.name: _context_values(random, part, requests) for part in context},
    )


def _context_values(random, part, requests):
    if isinstance(part, NumericContext):
        values = random.normal(part.mean, part.deviation, requests).astype(np.float32)
        return np.where(random.random(requests) < 0.3, np.float32(np.nan), values)
    values = random.integers(1, part.vocabulary_size, (requests, part.max_values))
    there = np.arange(part.max_values) < random.integers(
        1 if part.max_values == 1 else 0, part.max_values + 1, (requests, 1)
    )
    return np.where(there, values, 0).astype(np.int32).reshape(-1)


def make_splits(seed=0, users=12, **options):
    """Makes the records of every split."""
    random = np.random.default_rng(seed)
    return {
        split: [make_record(random, f"user-{number}", **options) for number in range(users)]
        for split in SPLITS
    }


def with_weights(splits, seed=0):
    """Gives every candidate of the records a random sample weight, some of them 0."""
    random = np.random.default_rng(seed)

    def weighted(record):
        weight = random.choice(np.array([0, 0.5, 1, 4], np.float32), record.label.size)
        return dataclasses.replace(record, weight=weight)

    return {split: [weighted(record) for record in records] for split, records in splits.items()}


def write_folder(
    path,
    splits,
    shards=1,
    sizes=SIZES,
    window=WINDOW,
    candidates=CANDIDATES,
    finished=True,
    multi_hot=None,
    context=(),
    time_gap=None,
    hashed=(),
    vectors=True,
    text_ids=(),
):
    """Writes a folder as the Beam job leaves it, and opens it.

    Args:
        path: the folder; created if missing.
        splits: mapping of split to list of UserRecord.
        shards: int. Files a split; record ``i`` goes to file ``i % shards``.
        finished: bool. Whether ``_SUCCESS`` is written (the folder is opened only then).
        multi_hot, context: as for :func:`make_record`, of which the records were made.
        time_gap: TimeGap or None. Of the schema.
        hashed: names of features that have no vocabulary.
        vectors: bool. Whether the features of one value have vectors.
        text_ids: names of features and context whose ids are text.
    """
    path = os.fspath(path)
    os.makedirs(os.path.join(path, "vocabulary"), exist_ok=True)

    def vocabulary(name, size):
        dtype = STRING if name in text_ids else INT64
        if name in hashed:
            return {"hash_buckets": size - FIRST_ID, "dtype": dtype}
        file, start = f"vocabulary/{name}.tsv", "№ " if dtype == STRING else ""
        rows = [f"{start}{1000 + 7 * row}\t{size - row}\n" for row in range(size - FIRST_ID)]
        _write_text(os.path.join(path, file), "".join(rows))
        return {"vocabulary": file, "dtype": dtype, "digest": file_digest(os.path.join(path, file))}

    features = [Feature(name, size, **vocabulary(name, size)) for name, size in sizes.items()]
    for name, (size, most) in (multi_hot or {}).items():
        features.append(Feature(name, size, max_values=most, **vocabulary(name, size)))
    context = [
        part
        if isinstance(part, NumericContext)
        else dataclasses.replace(part, **vocabulary(part.name, part.vocabulary_size))
        for part in context
    ]
    schema = Schema(
        tuple(features),
        window,
        candidates,
        Position(exact=8, per_octave=2),
        split={"protocol": "last_fraction", "negatives": candidates - 1, "behaviors": None},
        time_gap=time_gap,
        context=tuple(context),
        sample_weights=any(r.weight is not None for part in splits.values() for r in part),
    )
    _write_text(os.path.join(path, "schema.json"), schema.to_json())
    counts = {}
    for split in SPLITS:
        records = splits.get(split, [])
        os.makedirs(os.path.join(path, split), exist_ok=True)
        for shard in range(shards):
            name = f"part-{shard:05d}-of-{shards:05d}.tfrecord"
            with open(os.path.join(path, split, name), "wb") as file:
                for record in records[shard::shards]:
                    write_framed(file, encode(record))
        positives = sum(int(record.label.sum()) for record in records)
        candidates_in = sum(record.label.size for record in records)
        counts[split] = {
            "users": len(records),
            "requests": sum(record.position.size for record in records),
            "candidates": candidates_in,
            "positives": positives,
            "negatives": candidates_in - positives,
            "requests_short_of_negatives": 0,
            "bytes": sum(len(encode(record)) + 16 for record in records),
        }
    manifest = {
        "version": 1,
        "code": {"package": "tfdare", "version": tfdare.__version__},
        "schema_digest": schema.digest,
        "counts": {"splits": counts},
        "vectors": _write_vectors(path, sizes) if vectors else {},
    }
    _write_text(os.path.join(path, "manifest.json"), json.dumps(manifest))
    if not finished:
        return None
    _write_text(os.path.join(path, SUCCESS), "")
    return open_sequences(path)


def plain_requests(
    records,
    names=tuple(SIZES),
    window=WINDOW,
    candidates=CANDIDATES,
    multi_hot=None,
    context=(),
    time_gap=None,
):
    """Cuts every request of the records, in order, as dicts of plain lists (None for NaN)."""
    requests = []
    for record in records:
        start = 0
        for number, (cut, size) in enumerate(
            zip(record.position.tolist(), record.target_length.tolist())
        ):
            request = {
                "user": record.user,
                "history_length": min(cut, window),
                "target_length": size,
            }
            padding = [0] * (candidates - size)
            for name in names:
                whole = record.history[name].tolist()[:cut]
                kept = whole[max(0, cut - window) :]
                request[f"history_{name}"] = kept + [0] * (window - len(kept))
                targets = record.target[name].tolist()[start : start + size]
                request[f"target_{name}"] = targets + padding
                request[f"target_repeats_{name}"] = [whole.count(t) for t in targets] + padding
            for name, (_, most) in (multi_hot or {}).items():
                whole = _in_groups(record.history[name], most)[:cut]
                kept = whole[max(0, cut - window) :]
                nothing = [0] * most
                request[f"history_{name}"] = kept + [nothing] * (window - len(kept))
                targets = _in_groups(record.target[name], most)[start : start + size]
                request[f"target_{name}"] = targets + [nothing] * len(padding)
            if time_gap is not None:
                times = record.history_time.tolist()[:cut][max(0, cut - window) :]
                gaps = [min(int(record.request_time[number]) - time, 2**31 - 1) for time in times]
                request["history_time_gap"] = gaps + [0] * (window - len(gaps))
            for part in context:
                most = getattr(part, "max_values", 1)
                value = _in_groups(record.context[part.name], most)[number]
                value = value[0] if most == 1 else value
                request[f"context_{part.name}"] = None if value != value else value
            labels = record.label.tolist()[start : start + size]
            request["label"] = [float(label) for label in labels + padding]
            weights = [1.0] * record.label.size if record.weight is None else record.weight.tolist()
            request["weight"] = weights[start : start + size] + [0.0] * len(padding)
            requests.append(request)
            start += size
    return requests


def _in_groups(values, size):
    values = values.tolist()
    return [values[start : start + size] for start in range(0, len(values), size)]


def _write_text(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write_vectors(path, sizes, columns=16):
    """Writes random vectors of length 1; returns their entries in the manifest."""
    os.makedirs(os.path.join(path, "vectors"), exist_ok=True)
    entries = {}
    for name, size in sizes.items():
        file = f"vectors/{name}.npz"
        values = np.random.default_rng(size).normal(size=(size, columns)).astype(np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        values[:FIRST_ID] = 0
        np.savez(os.path.join(path, file), vectors=values)
        digest = file_digest(os.path.join(path, file))
        entries[name] = {"file": file, "digest": digest, "columns": columns, "origin": "given"}
    return entries
