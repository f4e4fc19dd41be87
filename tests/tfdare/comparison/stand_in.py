"""A stand-in for training, so that tests of a comparison need seconds."""

import os
import pathlib

import numpy as np

from tfdare.files import write_json
from tfdare.training.callbacks import Diverged

USERS, EACH = 40, 6
LABEL = np.tile([1, 0, 0], USERS * EACH // 3)
USER = np.repeat(np.arange(USERS), EACH)


class Trainer:
    """Stands in for `train`: leaves the files of a run with the given AUCs.

    `validation` and `test` are functions of (model, rate, seed); a validation AUC of None is a
    training that diverges.
    """

    def __init__(self, validation, test=lambda model, rate, seed: 0.7, noise=0.0):
        self.validation, self.test, self.noise = validation, test, noise
        self.calls, self.settings, self.interrupt_after = [], [], None

    def __call__(
        self,
        sequences,
        output,
        model,
        *,
        seed,
        attention_dim,
        representation_dim,
        learning_rate,
        verbose,
        **options,
    ):
        assert verbose == 0
        if self.interrupt_after == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((model, attention_dim, representation_dim, learning_rate, seed))
        settings = (learning_rate, options["dropout"], options["auxiliary_weight"])
        self.settings.append((model, *settings, seed))
        os.makedirs(output)
        known = self.validation(model, learning_rate, seed)
        if known is None:
            raise Diverged("The loss became nan at epoch 1, step 2 of 3")
        random = np.random.default_rng(seed)
        better = self.test(model, learning_rate, seed)
        score = (
            better * LABEL
            + 0.3 * random.random(LABEL.size)
            + self.noise * random.normal(size=USERS)[USER]
        )
        np.savez(os.path.join(output, "predictions.npz"), label=LABEL, user=USER, probability=score)
        pathlib.Path(output, "model.keras").touch()
        numbers = {
            "auc": better,
            "auc_seen": better,
            "auc_new": None,
            "gauc": better,
            "logloss": 0.5,
            "baselines": {"seen": 0.6, "repeat_counts": 0.65},
        }
        metrics = {
            "validation": {**numbers, "auc": known},
            "test": numbers,
            "training": {"best_epoch": 1, "epochs_run": 2, "examples_per_s": 1000 * seed},
        }
        write_json(os.path.join(output, "metrics.json"), metrics)
        return metrics
