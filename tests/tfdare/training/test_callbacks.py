"""Callbacks: early stopping, losses that are not finite, and the pace of training."""

import pytest

from tfdare.training import callbacks as stopping
from tfdare.training.callbacks import Diverged, Pace, Patience, read_history


class Fitted:
    """Where a callback keeps its model: something that can be told to stop."""

    stop_training = False


def stops_at(values, patience, best=None, waited=0):
    """Counts the epochs of a training with these validation AUCs."""
    callback, callback_model = Patience(patience, best, waited), Fitted()
    callback.set_model(callback_model)
    if callback.ended:
        return 0
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_auc": value})
        if callback_model.stop_training:
            return epoch + 1
    return len(values)


@pytest.mark.parametrize(
    "values, patience, epochs",
    [
        ([0.5, 0.6, 0.6, 0.7], 0, 4),
        ([0.5, 0.6, 0.6, 0.7], 1, 3),
        ([0.5, 0.6, 0.6, 0.7, 0.1, 0.2, 0.3], 2, 6),
        ([float("nan"), float("nan"), 0.5], 2, 2),
        ([0.5, float("nan"), 0.6, 0.5], 2, 4),
    ],
)
def test_patience(tmp_path, values, patience, epochs):
    assert stops_at(values, patience) == epochs
    log = tmp_path / "history.csv"
    for cut in range(epochs + 1):  # the same, cut off after any epoch
        rows = [f"{epoch},{value}\n" for epoch, value in enumerate(values[:cut])]
        log.write_text("epoch,val_auc\n" + "".join(rows))
        count, best, at = read_history(str(log))
        assert count == cut
        assert cut + stops_at(values[cut:], patience, best, cut - at) == epochs


def test_a_loss_is_checked_at_every_step():
    watch = stopping.StopWhenNotFinite(steps=7)
    watch.on_epoch_begin(1)
    watch.on_train_batch_begin(4)
    watch.on_train_batch_end(4, {"loss": 0.5})
    with pytest.raises(Diverged, match="became inf at epoch 2, step 5 of 7"):
        watch.on_train_batch_end(4, {"loss": float("inf")})
    with pytest.raises(Diverged, match="nan in the validation after epoch 2"):
        watch.on_test_batch_end(0, {"loss": float("nan")})


def test_pace_excludes_tracing_and_validation(monkeypatch):
    now = iter([5.0, 6.0, 8.0, 100.0, 101.0])  # first step, two more; next epoch, one step
    monkeypatch.setattr(stopping.time, "perf_counter", lambda: next(now))
    pace = Pace()
    pace.on_epoch_begin(0)
    for batch in range(3):
        pace.on_train_batch_end(batch)
    pace.on_epoch_begin(1)
    pace.on_train_batch_end(0)
    assert pace.examples_per_s(10) == round(10 * 3 / 4)
    assert Pace().examples_per_s(10) is None
