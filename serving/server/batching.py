"""Batching: requests of one signature run together, with the stock server's semantics.

It follows ``batching_session.cc`` of https://github.com/tensorflow/serving and the batch schedulers
of TensorFlow: a queue for each set of input and output tensors of a version, all queues served by
one pool of threads in turn. A batch runs when it is full or has waited ``batch_timeout_micros``.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.server.errors import RequestError, StartError, invalid
from serving.server.metrics import Metrics
from serving.server.text_protos import batching_parameters, read_text_proto

Run = Callable[[Mapping[str, np.ndarray], Sequence[str], "float | None"], list[np.ndarray]]


@dataclass(frozen=True)
class BatchingOptions:
    """How requests are batched; defaults are the stock server's.

    Args:
        max_batch_size: int. Rows of a batch at most. Defaults to 1000.
        timeout: float. Seconds that a batch waits for more requests. Defaults to 0.
        max_enqueued_batches: int. Batches of a queue at most. Defaults to 10.
        threads: int. Batches that run at the same time. Defaults to the number of processors.
        pool: str. Name of the threads, in metrics.
        allowed_batch_sizes: tuple of int, rising to ``max_batch_size``. A batch is padded to the
            next of these. Defaults to none: no padding.
        pad_variable_length_inputs: bool. Whether inputs that differ in a dimension other than the
            first are padded, each with its own first element. Defaults to False.

    Raises:
        StartError: a number is out of bounds, or the sizes do not rise to ``max_batch_size``.
    """

    max_batch_size: int = 1000
    timeout: float = 0.0
    max_enqueued_batches: int = 10
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    pool: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False

    def __post_init__(self):
        for name in ("max_batch_size", "max_enqueued_batches", "threads"):
            if getattr(self, name) < 1:
                flag = "num_batch_threads" if name == "threads" else name
                raise StartError(f"{flag} must be positive; was {getattr(self, name)}")
        if self.timeout < 0:
            raise StartError(
                f"batch_timeout_micros must be non-negative; was {self.timeout * 1e6:.0f}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and sizes[-1] != self.max_batch_size:
            raise StartError(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.max_batch_size}"
            )
        if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
            raise StartError(f"allowed_batch_sizes must be positive and rising; was {list(sizes)}")

    def filled(self, rows: int) -> int:
        """Returns the number of rows that a batch of ``rows`` is padded to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


def read_batching_options(path: str | None) -> BatchingOptions:
    """Reads the options of a ``BatchingParameters`` text proto; the defaults if `path` is None.

    Raises:
        StartError: the file is not one, or has a value that is invalid or not supported.
    """
    if path is None:
        return BatchingOptions(pool="model_server_batch_threads")
    proto = read_text_proto(path, batching_parameters())
    if proto.enable_large_batch_splitting.value or proto.HasField("max_execution_batch_size"):
        raise StartError(
            f"{path!r}: this development server does not split large batches. Leave out "
            "enable_large_batch_splitting and max_execution_batch_size."
        )
    options = {}
    for name, option in (
        ("max_batch_size", "max_batch_size"),
        ("max_enqueued_batches", "max_enqueued_batches"),
        ("num_batch_threads", "threads"),
        ("thread_pool_name", "pool"),
    ):
        if proto.HasField(name):
            options[option] = getattr(proto, name).value
    return BatchingOptions(
        timeout=proto.batch_timeout_micros.value / 1e6,
        allowed_batch_sizes=tuple(proto.allowed_batch_sizes),
        pad_variable_length_inputs=proto.pad_variable_length_inputs,
        **options,
    )


class _Task:
    """One request in a queue, and its result."""

    def __init__(self, feeds: Mapping[str, np.ndarray], rows: int, timeout: float | None):
        self.feeds, self.rows = feeds, rows
        self.enqueued = time.monotonic()
        self.deadline = None if timeout is None else self.enqueued + timeout
        self.done = threading.Event()
        self.values: list[np.ndarray] = []
        self.error: RequestError | None = None


class _Batch:
    def __init__(self):
        self.tasks: list[_Task] = []
        self.rows = 0


class _Queue:
    """Batches of one set of inputs and outputs; requests are added to the last one."""

    def __init__(self, run: Run, fetches: Sequence[str]):
        self.run, self.fetches = run, fetches
        self.batches: deque[_Batch] = deque([_Batch()])


class Batcher:
    """The threads that run batches, for any number of versions.

    Args:
        options: BatchingOptions.
        metrics: Metrics.
    """

    def __init__(self, options: BatchingOptions, metrics: Metrics):
        self._options, self._metrics = options, metrics
        self._changed = threading.Condition()
        self._queues: dict[tuple, _Queue] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{options.pool}-{i}", daemon=True)
            for i in range(options.threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self,
        owner: object,
        run: Run,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Returns ``run(feeds, fetches, timeout)``, run together with other requests.

        Args:
            owner: object. The object that ``run`` belongs to; requests of different owners are not
                batched together.
            run: callable. Runs a batch.
            feeds: mapping of tensor name to array.
            fetches: sequence of tensor names.
            timeout: float or None. Seconds, waiting included.

        Raises:
            RequestError: inputs that do not fit together or are too large (INVALID_ARGUMENT), a
                full queue (UNAVAILABLE), time that ran out while waiting (RESOURCE_EXHAUSTED), or
                the error of the batch.
        """
        task = _Task(feeds, _rows(feeds), timeout)
        limit = self._options.max_batch_size
        if task.rows > limit:
            raise invalid(f"Task size {task.rows} is larger than maximum input batch size {limit}")
        fetches = sorted(set(fetched := list(fetches)))
        key = (id(owner), frozenset(feeds), tuple(fetches))
        with self._changed:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = _Queue(run, fetches)
            self._enqueue(queue, task)
            self._changed.notify()
        task.done.wait()
        if task.error is not None:
            raise task.error
        values = dict(zip(fetches, task.values))
        return [values[name] for name in fetched]

    def forget(self, owner: object) -> None:
        """Drops the queues of an owner that has no request under way."""
        with self._changed:
            for key in [key for key in self._queues if key[0] == id(owner)]:
                del self._queues[key]

    def close(self) -> None:
        """Ends the threads; no request may be under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, queue: _Queue, task: _Task) -> None:
        options, open_batch = self._options, queue.batches[-1]
        if open_batch.rows + task.rows > options.max_batch_size and open_batch.tasks:
            if len(queue.batches) >= options.max_enqueued_batches:
                raise RequestError(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full",
                )
            queue.batches.append(open_batch := _Batch())
        open_batch.tasks.append(task)
        open_batch.rows += task.rows

    def _work(self) -> None:
        while True:
            with self._changed:
                while True:
                    ready, seconds = self._next()
                    if ready is not None:
                        break
                    if self._closed:
                        return
                    self._changed.wait(seconds)
                self._changed.notify()  # another thread handles the remaining batches
            queue, batch = ready
            self._process(queue, batch)

    def _next(self) -> tuple[tuple[_Queue, _Batch] | None, float | None]:
        """Removes and returns a batch that is due; or returns the seconds until one is.

        Its queue moves to the end, so that the others come next.
        """
        now = time.monotonic()
        soonest: float | None = None
        for key, queue in self._queues.items():
            batch = queue.batches[0]
            if not batch.tasks:
                continue
            left = batch.tasks[0].enqueued + self._options.timeout - now
            full = len(queue.batches) > 1 or batch.rows >= self._options.max_batch_size
            if full or left <= 0:
                queue.batches.popleft()
                if not queue.batches:
                    queue.batches.append(_Batch())
                self._queues[key] = self._queues.pop(key)
                return (queue, batch), None
            soonest = left if soonest is None else min(soonest, left)
        return None, soonest

    def _process(self, queue: _Queue, batch: _Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            self._metrics.queued(self._options.pool, task.rows, now - task.enqueued)
        try:
            self._run(queue, batch, now)
        except RequestError as error:
            for task in batch.tasks:
                task.error = error
        except Exception as error:  # a fault of this server: its requests still get an answer
            for task in batch.tasks:
                task.error = RequestError(
                    grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
                )
        finally:
            for task in batch.tasks:
                task.done.set()

    def _run(self, queue: _Queue, batch: _Batch, now: float) -> None:
        deadlines = [task.deadline for task in batch.tasks if task.deadline is not None]
        timeout = max(deadlines) - now if len(deadlines) == len(batch.tasks) else None
        if timeout is not None and timeout <= 0:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Run() timeout exceeded while waiting in batching queue",
            )
        padding = self._options.filled(batch.rows) - batch.rows
        self._metrics.batch(self._options.pool, batch.rows + padding, padding)
        pad = self._options.pad_variable_length_inputs
        feeds = {
            name: _merge(name, [task.feeds[name] for task in batch.tasks], padding, pad)
            for name in batch.tasks[0].feeds
        }
        outputs = queue.run(feeds, queue.fetches, timeout)
        for value in outputs:
            if value.ndim == 0:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
                )
            if len(value) != batch.rows + padding:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors",
                )
        start = 0
        for task in batch.tasks:
            task.values = [value[start : start + task.rows] for value in outputs]
            start += task.rows


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(value.ndim == 0 for value in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _merge(name: str, parts: list[np.ndarray], padding: int, pad: bool) -> np.ndarray:
    """Stacks the parts of a tensor; `padding` rows repeat the first row of the last part."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        if not pad or len({len(shape) for shape in shapes}) > 1:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different shapes and "
                "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                "all tensors with the same name have equal dimensions starting with the first "
                "dim.",
            )
        widths = [max(sizes) for sizes in zip(*shapes)]
        parts = [_pad(part, widths) for part in parts]
    if padding:
        parts = [*parts, np.repeat(parts[-1][:1], padding, axis=0)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pad(part: np.ndarray, widths: list[int]) -> np.ndarray:
    if list(part.shape[1:]) == widths:
        return part
    if part.size == 0:
        raise invalid(f"Padding an empty tensor is not supported. Received shape {part.shape}")
    missing = [(0, 0), *((0, width - size) for width, size in zip(widths, part.shape[1:]))]
    return np.pad(part, missing, constant_values=part.flat[0])
