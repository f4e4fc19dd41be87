"""Heat maps of the mutual information of behaviors and clicks."""

from __future__ import annotations

import io

import numpy as np

from tfdare.sequences.mutual_information import InterestTable

_PANELS = 4


def heat_maps(table: InterestTable, ids: np.ndarray, name: str) -> bytes:
    """Draws a PNG: for each of the first 4 target categories, behavior category by position.

    Args:
        table: InterestTable.
        ids: int ``[M]``. Raw ids of its categories.
        name: str. Name of the feature.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    information = table.information[:_PANELS]
    panels, size, buckets = information.shape[0], len(ids), table.edges.size - 1
    labels = [
        f"{first}" if after == first + 1 else f"{first}\u2013{after - 1}"
        for first, after in zip(table.edges[:-1].tolist(), table.edges[1:].tolist())
    ]
    step = max(1, -(-buckets // 12))
    visible = min(size, 40)  # rows of a panel that can still be read
    figure, axes = pyplot.subplots(
        1,
        panels,
        figsize=(1.2 + 3.4 * panels, 1.4 + 0.26 * visible),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    top = float(information.max()) or 1.0
    for index, axis in enumerate(axes[0]):
        image = axis.imshow(
            information[index, :visible],
            aspect="auto",
            cmap="magma_r",
            vmin=0,
            vmax=top,
            interpolation="nearest",
        )
        axis.set_title(f"target {name} {ids[index]}", fontsize=10)
        axis.set_xticks(range(0, buckets, step), labels[::step], fontsize=8)
        axis.set_yticks(range(visible), [str(raw) for raw in ids[:visible].tolist()], fontsize=8)
        axis.set_xlabel("position of the behavior (1: newest)", fontsize=9)
        for side in axis.spines.values():
            side.set_visible(False)
        if index < visible:  # the target's own category
            axis.add_patch(
                pyplot.Rectangle(
                    (-0.5, index - 0.5),
                    buckets,
                    1,
                    fill=False,
                    edgecolor="#33567a",
                    linewidth=1.5,
                    clip_on=False,
                )
            )
    axes[0, 0].set_ylabel(f"{name} of the behavior", fontsize=9)
    bar = figure.colorbar(image, ax=axes[0].tolist(), pad=0.01)
    bar.set_label("mutual information with the click, nats", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return file.getvalue()
