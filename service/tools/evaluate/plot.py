"""A plot of an evaluation: a line for each policy, with its intervals and estimates."""

from __future__ import annotations

from pathlib import Path

from service.tools.evaluate.report import Evaluation

_INTERVAL, _ROBUST = 0.0, -0.22  # how far below its line a policy's intervals are drawn
_MARKS = {"ips": "o", "snips": "s", "dr": "^", "switch": "v"}
_PALE = 0.35  # of what nothing can be concluded about


def plot(found: Evaluation, path: Path) -> None:
    """Draw it; the file type follows the suffix of `path`.

    Policies about which nothing can be concluded are pale.

    Raises:
        OSError: The file cannot be written.
        ValueError: There is no such file type.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [each for each in found.policies if each.num]
    figure = Figure(figsize=(8.0, 1.6 + 0.6 * len(scored)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, each in enumerate(scored):
        line, alpha = -float(number), 1.0 if each.concludes else _PALE
        for ends, below, color, width, label in (
            (each.interval, _INTERVAL, "C0", 5.0, "interval"),
            (each.robust, _ROBUST, "C1", 2.0, "with a model"),
        ):
            if ends is not None and ends.low <= ends.high:
                axes.plot(
                    [ends.low, ends.high], [line + below] * 2, color=color, linewidth=width,
                    alpha=alpha * 0.6, solid_capstyle="butt", label=label,
                )  # fmt: skip
        for name, mark in _MARKS.items():
            value = each.estimates[name]["value"]
            axes.plot(
                [value], [line], mark, color="black", markersize=5, alpha=alpha, label=name,
                fillstyle="none" if name != "ips" else "full",
            )  # fmt: skip
    axes.set_yticks([-float(number) for number in range(len(scored))])
    axes.set_yticklabels([each.policy for each in scored])
    axes.set_ylim(-len(scored) + 0.4, 0.6)
    axes.set_xlabel("value")
    axes.set_title(f"{found.bandit}: {found.num_decisions:,} decisions")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    if first:
        names = [name for name in ("interval", "with a model", *_MARKS) if name in first]
        axes.legend(
            [first[name] for name in names], names, frameon=False, ncols=len(names),
            loc="upper center", bbox_to_anchor=(0.5, -0.35 / len(scored) - 0.12), fontsize="small",
        )  # fmt: skip
    figure.savefig(path, dpi=150)
