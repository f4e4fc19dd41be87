"""Runs SavedModels with the v1 Session loader, which TensorFlow Serving uses.

``python -m tfdare.session SAVED_MODEL IN.npz OUT.npz`` runs the arrays ``<batch>/<signature>/
<input>`` of the first file and writes ``<batch>/<signature>/<output>`` to the second. The three
arguments may repeat, for several SavedModels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.compat import tf


class SavedModelSession:
    """A loaded SavedModel.

    Args:
        path: str. Folder with ``saved_model.pb``.

    Attributes:
        signatures: mapping of name to SignatureDef.
    """

    def __init__(self, path: str):
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        with self._graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path)
        self.signatures = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature: str.
            inputs: mapping of input name to array.

        Returns:
            Mapping of output name to array.
        """
        definition = self.signatures[signature]
        outputs = {name: info.name for name, info in definition.outputs.items()}
        feeds = {definition.inputs[name].name: array for name, array in inputs.items()}
        return self._session.run(outputs, feeds)

    def close(self) -> None:
        """Releases the session."""
        self._session.close()


def main(argv: list[str]) -> int:
    """Runs each SavedModel on its file of inputs; see the module's docstring."""
    for path, inputs_path, outputs_path in zip(argv[::3], argv[1::3], argv[2::3], strict=True):
        session = SavedModelSession(path)
        batches: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        with np.load(inputs_path) as file:
            for key in file.files:
                batch, signature, name = key.split("/")
                batches.setdefault((batch, signature), {})[name] = file[key]
        outputs: dict[str, Any] = {
            f"{batch}/{signature}/{name}": array
            for (batch, signature), inputs in batches.items()
            for name, array in session.run(signature, inputs).items()
        }
        np.savez(outputs_path, **outputs)
        session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
