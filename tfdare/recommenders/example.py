"""``python -m tfdare.recommenders``: trains retrieval and a ranker, and measures both stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfdare.commands.parser import Parser, run
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.models import MODELS, build_model
from tfdare.optimizers import SparseAdam
from tfdare.recommenders.catalog import read_catalog
from tfdare.recommenders.ranking import Ranking
from tfdare.recommenders.retrieval import Retrieval
from tfdare.recommenders.retrieve_then_rank import RetrieveThenRank
from tfdare.schema import FIRST_ID, OOV_ID, SchemaError
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.raw_ids import readable
from tfdare.training import starting_vectors

RECALL, HITS = 100, 10
EVALUATION_BATCH = 256


def newest_items(history: np.ndarray, length: np.ndarray, k: int) -> np.ndarray:
    """Returns each user's last `k` distinct items, newest first, padded with 0.

    Args:
        history: int ``[U, N]``, oldest first.
        length: int ``[U]``.
        k: int.

    Returns:
        int32 ``[U, k]``.
    """
    result = np.zeros((len(history), k), np.int32)
    for row, items, end in zip(result, history, length):
        newest = items[:end][::-1]
        first = np.sort(np.unique(newest, return_index=True)[1])
        kept = newest[first][:k]
        row[: len(kept)] = kept
    return result


def click_is_among(items: np.ndarray, target: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Returns for every click of a batch whether its item is among its user's items.

    Args:
        items: int ``[U, k]``, items retrieved for each user.
        target: int ``[U, C]``, items of the candidates.
        clicked: bool ``[U, C]``.

    Returns:
        bool ``[clicks]``. False for a click on an unknown item.
    """
    user, candidate = np.nonzero(clicked)
    item = target[user, candidate]
    return (items[user] == item[:, np.newaxis]).any(axis=1) & (item > OOV_ID)


def compare(
    sequences: Sequences, retrieval: Retrieval, recommender: RetrieveThenRank, requests: int
) -> dict[str, dict[str, float]]:
    """Measures how often the clicked item of test requests is among the retrieved items.

    Args:
        sequences: Sequences. Their test split is read.
        retrieval: Retrieval. The first stage alone.
        recommender: RetrieveThenRank.
        requests: int. Test requests to rank candidates for; the others only count for recall.

    Returns:
        ``recall`` (of `RECALL` items) and ``hit_rate`` (of `HITS` items), each a mapping of
        ``popularity`` (of the training period), ``own_history`` (the newest distinct items of the
        user's window) and ``retrieval``, and in ``hit_rate`` also ``retrieve_then_rank``. Hit
        rates are over these requests, recall over the whole split.
    """
    several = min(RECALL, len(retrieval.catalog))
    few = min(HITS, several)
    index = tf.function(retrieval.index(several).call, reduce_retracing=True)
    popular = np.arange(FIRST_ID, FIRST_ID + several)[np.newaxis]
    hits: dict[str, dict[str, list]] = {"recall": {}, "hit_rate": {}}
    item, left = sequences.schema.item.name, requests
    for batch, label, weight in read_requests(sequences, "test", EVALUATION_BATCH):
        target = batch[f"target_{item}"].numpy()
        clicked = (label.numpy() > 0.5) & (weight.numpy() > 0)
        retrieved = {
            "popularity": np.repeat(popular, len(target), axis=0),
            "own_history": newest_items(
                batch[f"history_{item}"].numpy(), batch["history_length"].numpy(), several
            ),
            "retrieval": index(batch)[1].numpy(),
        }
        for name, items in retrieved.items():
            hits["recall"].setdefault(name, []).append(click_is_among(items, target, clicked))
        if left <= 0:
            continue
        retrieved["retrieve_then_rank"] = recommender.recommend(batch, few, several).item.numpy()
        for name, items in retrieved.items():
            among = click_is_among(items[:left, :few], target[:left], clicked[:left])
            hits["hit_rate"].setdefault(name, []).append(among)
        left -= len(target)
    return {
        kind: {name: float(np.concatenate(parts).mean()) for name, parts in by_name.items()}
        for kind, by_name in hits.items()
    }


def show_user(sequences: Sequences, recommender: RetrieveThenRank) -> Iterator[str]:
    """Yields lines about the first test request: its user's behaviors and recommendations."""
    schema = sequences.schema
    request, _, _ = next(iter(read_requests(sequences, "test", 1, with_history_facts=True)))
    names = [feature.name for feature in schema.features if feature.max_values == 1]
    raw_ids = {name: readable(sequences.vocabulary(name)) for name in names}
    features = recommender.catalog.features

    def describe(rows):
        return ", ".join(
            f"{name} {raw_ids[name][row - FIRST_ID] if row > OOV_ID else 'unknown'}"
            for name, row in rows.items()
        )

    user, end = request["user"].numpy()[0].decode(), int(request["history_length"][0])
    yield f"user {user}, newest behaviors first"
    for i in range(end - 1, max(-1, end - 6), -1):
        yield "     " + describe({name: int(request[f"history_{name}"][0, i]) for name in names})
    items, probabilities = recommender.recommend(
        request, min(HITS, len(recommender.catalog)), min(RECALL, len(recommender.catalog))
    )
    yield "recommended"
    for rank, (row, probability) in enumerate(zip(items[0], probabilities[0]), start=1):
        rows = {name: int(features[name][int(row) - FIRST_ID]) for name in names}
        yield f"{rank:>3}. {describe(rows)}: {float(probability):.3f}"


def train_both(
    sequences: str,
    model: str = "DARE",
    epochs: int = 1,
    batch_size: int = 683,
    dim: int = 64,
    behaviors: int = 20,
    requests: int = 2000,
    learning_rate: float = 0.01,
    seed: int = 1,
    verbose: int | str = "auto",
) -> tuple[dict[str, Any], RetrieveThenRank]:
    """Trains retrieval and a ranker on one folder and measures them on its test split.

    Args:
        sequences: str. Folder that `tfdare prepare` wrote.
        model: str. The ranker, one of :data:`tfdare.models.MODELS`.
        epochs: int. Passes over the train split, of both models.
        batch_size: int. Requests in one training step.
        dim: int. Columns of every table of the retrieval model.
        behaviors: int. Newest behaviors that retrieval reads.
        requests: int. Test requests to rank candidates for.
        learning_rate: float. Of `SparseAdam`, for both models.
        seed: int. Of initial weights and shuffling.
        verbose: int or str. As of Keras; ``"auto"`` shows a progress bar on a terminal only.

    Returns:
        Numbers and the recommender. The numbers are those of :func:`compare`, ``auc`` of the
        ranker on the test split, ``train_seconds`` of ``retrieval`` and ``ranker``, and
        ``seconds`` in all.

    Raises:
        UsageError: an argument is not usable.
        SchemaError: the sequences are not.
    """
    positive = {
        "epochs": epochs,
        "batch_size": batch_size,
        "dim": dim,
        "behaviors": behaviors,
        "requests": requests,
        "learning_rate": learning_rate,
    }
    for name, value in positive.items():
        if not value > 0:
            raise UsageError(f"`{name}` must be positive. Received: {value}")
    if seed < 0:
        raise UsageError(f"`seed` must not be negative. Received: {seed}")
    opened = open_sequences(sequences)
    for split in SPLITS:
        if not opened.requests(split):
            raise SchemaError(f"The {split} split of {sequences!r} holds no requests")
    started = time.perf_counter()
    tf.keras.utils.set_random_seed(seed)
    schema, catalog = opened.schema, read_catalog(opened)
    if not len(catalog):
        raise SchemaError(f"The vocabulary of {sequences!r} holds no items")
    retrieval = Retrieval(schema, catalog, dim, behaviors)
    ranking = Ranking(
        build_model(
            model,
            schema,
            top_k=min(20, schema.window),
            vectors=starting_vectors(opened, model),
        )
    )
    verbose = (1 if sys.stderr.isatty() else 2) if verbose == "auto" else verbose
    seconds: dict[str, float] = {}
    for name, fitted in (("retrieval", retrieval), ("ranker", ranking)):
        fitted.compile(optimizer=SparseAdam(learning_rate))
        before = time.perf_counter()
        fitted.fit(
            read_requests(opened, "train", batch_size, shuffle=True, seed=seed),
            epochs=epochs,
            verbose=verbose,
        )
        seconds[name] = round(time.perf_counter() - before, 2)
    recommender = RetrieveThenRank(retrieval.index(min(RECALL, len(catalog))), ranking, catalog)
    numbers: dict[str, Any] = dict(compare(opened, retrieval, recommender, requests))
    test = read_requests(opened, "test", EVALUATION_BATCH)
    numbers["auc"] = ranking.evaluate(test, return_dict=True, verbose=0)["auc"]
    numbers["train_seconds"] = seconds
    numbers["seconds"] = round(time.perf_counter() - started, 2)
    return numbers, recommender


def summary(numbers: dict[str, Any], model: str) -> str:
    """Formats the numbers of :func:`train_both` for a terminal."""
    rows = {
        "popularity": "popularity",
        "own_history": "the user's own newest items",
        "retrieval": "retrieval",
        "retrieve_then_rank": f"retrieval, then {model}",
    }
    lines = [f"  {'test split':<28}{f'recall@{RECALL}':>12}{f'hit rate@{HITS}':>13}"]
    for name, title in rows.items():
        recall = numbers["recall"].get(name)
        cell = "" if recall is None else f"{recall:.4f}"
        lines.append(f"  {title:<28}{cell:>12}{numbers['hit_rate'][name]:>13.4f}")
    times = numbers["train_seconds"]
    lines.append(f"  AUC of {model} {numbers['auc']:.4f}")
    lines.append(
        f"  trained in {times['retrieval']:.1f} s (retrieval) and {times['ranker']:.1f} s "
        f"({model}); {numbers['seconds']:.1f} s in all"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs ``python -m tfdare.recommenders``; returns the exit code."""
    parser = Parser(
        "recommenders",
        "TF_USE_LEGACY_KERAS=1 python -m tfdare.recommenders --sequences build/sequences "
        "--epochs 1",
        "Trains a two-tower retrieval model and a ranker with tensorflow-recommenders, retrieves "
        f"{RECALL} items for every test request, ranks them, and prints how often the clicked item "
        "is among them, compared with popularity and the user's own history.",
    )
    parser.prog = "python -m tfdare.recommenders"
    add = parser.add_argument
    add("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    add("--model", default="DARE", choices=sorted(MODELS), help="the ranker")
    add("--epochs", type=int, default=1, help="passes over the train split, of both models")
    add("--batch_size", type=int, default=683, help="requests in one training step")
    add("--dim", type=int, default=64, help="columns per table of the retrieval model")
    add("--behaviors", type=int, default=20, help="newest behaviors that retrieval reads")
    add("--requests", type=int, default=2000, help="test requests to rank candidates for")
    add("--learning_rate", type=float, default=0.01, help="of SparseAdam, for both models")
    add("--seed", type=int, default=1, help="of initial weights and shuffling")

    def action(options):
        numbers, recommender = train_both(**vars(options))
        print(summary(numbers, options.model))
        for line in show_user(open_sequences(options.sequences), recommender):
            print(line)

    return run(parser, argv, action)
