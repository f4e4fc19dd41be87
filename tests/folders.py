"""Small finished folders of sequences, written by hand, and what a plain reading of them gives."""

import json
import os

import numpy as np

import tfdare
from tfdare.record import UserRecord, encode, write_framed
from tfdare.schema import Feature, Position, Schema
from tfdare.sequences import SPLITS, SUCCESS, file_digest, open_sequences

SIZES = {"item": 30, "category": 7}
WINDOW = 12
CANDIDATES = 3


def make_record(random, user="u", length=None, requests=None, new=True):
    """One user with made-up behaviors.

    Clicked items are of a category that the user likes, so that there is something to learn; some
    candidates are missing, so that requests differ in length.

    Args:
        random: numpy Generator.
        user: str.
        length: int or None. Behaviors. Defaults to 1 to 40.
        requests: int or None. Defaults to 0 to 5.
        new: bool. Whether clicks may be of items that the history does not hold.
    """
    length = int(random.integers(1, 41)) if length is None else length
    requests = int(random.integers(0, 6)) if requests is None else requests
    liked = int(random.integers(2, SIZES["category"]))

    def item_of(category):
        place = random.integers(0, (SIZES["item"] - 2) // 5)
        return 2 + int((category - 2) + 5 * place)

    history = [item_of(liked if random.random() < 0.7 else random.integers(2, 7))
               for _ in range(length)]
    position = np.sort(random.integers(0 if new else 1, length + 1, requests))
    target, label, sizes = [], [], []
    for cut in position:
        clicked = item_of(liked) if new and random.random() < 0.5 else (
            history[int(random.integers(0, cut))] if cut else item_of(liked))
        others = [item_of(int(random.integers(2, 7)))
                  for _ in range(int(random.integers(1, CANDIDATES)))]
        target += [clicked, *others]
        label += [1] + [0] * len(others)
        sizes.append(1 + len(others))

    def columns(items):
        items = np.array(items, np.int32)
        return {"item": items, "category": ((items - 2) % 5 + 2).astype(np.int32)}

    return UserRecord(
        user=user,
        history=columns(history),
        history_time=np.sort(random.integers(0, 10_000, length)),
        position=position.astype(np.int32),
        target_length=np.array(sizes, np.int32),
        target=columns(target),
        label=np.array(label, np.uint8),
    )


def make_splits(seed=0, users=12, **options):
    """Records of every split."""
    random = np.random.default_rng(seed)
    return {
        split: [make_record(random, f"user-{number}", **options) for number in range(users)]
        for split in SPLITS
    }


def write_folder(path, splits, shards=1, sizes=SIZES, window=WINDOW, candidates=CANDIDATES,
                 finished=True):
    """Writes a folder as the Beam job leaves it, and opens it.

    Args:
        path: where; made if it is not there.
        splits: mapping of split to list of UserRecord.
        shards: int. Files a split; record ``i`` goes to file ``i % shards``.
        finished: bool. Whether ``_SUCCESS`` is written (the folder is opened only then).
    """
    path = os.fspath(path)
    os.makedirs(os.path.join(path, "vocabulary"), exist_ok=True)
    features = []
    for name, size in sizes.items():
        file = f"vocabulary/{name}.tsv"
        rows = [f"{1000 + 7 * row}\t{size - row}\n" for row in range(size - 2)]
        _write_text(os.path.join(path, file), "".join(rows))
        features.append(
            Feature(name, size, vocabulary=file, digest=file_digest(os.path.join(path, file)))
        )
    schema = Schema(
        tuple(features), window, candidates, Position(exact=8, per_octave=2),
        split={"protocol": "last_fraction", "negatives": candidates - 1, "behaviors": None},
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
    }
    _write_text(os.path.join(path, "manifest.json"), json.dumps(manifest))
    if not finished:
        return None
    _write_text(os.path.join(path, SUCCESS), "")
    return open_sequences(path)


def plain_requests(records, names=tuple(SIZES), window=WINDOW, candidates=CANDIDATES):
    """Every request of the records, in order, as dicts of plain lists."""
    found = []
    for record in records:
        start = 0
        for cut, size in zip(record.position.tolist(), record.target_length.tolist()):
            request = {"user": record.user, "history_length": min(cut, window),
                       "target_length": size}
            padding = [0] * (candidates - size)
            for name in names:
                whole = record.history[name].tolist()[:cut]
                kept = whole[max(0, cut - window):]
                request[f"history_{name}"] = kept + [0] * (window - len(kept))
                targets = record.target[name].tolist()[start:start + size]
                request[f"target_{name}"] = targets + padding
                request[f"target_repeats_{name}"] = [whole.count(t) for t in targets] + padding
            labels = record.label.tolist()[start:start + size]
            request["label"] = [float(label) for label in labels + padding]
            request["weight"] = [1.0] * size + [0.0] * len(padding)
            found.append(request)
            start += size
    return found


def _write_text(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
