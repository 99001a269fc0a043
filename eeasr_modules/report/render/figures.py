"""Pictures of a report, drawn from the numbers of its summary; first of all WER against depth between its bounds.

Colours are those of Okabe and Ito, which people with colour blindness tell apart; lines differ by style or marker too.
"""

import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.report.numbers.evaluation import COSTS
from eeasr_modules.report.render.markdown import LABELS

POLICY_COLOURS = (
    *("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8C510A", "#B8A800", "#5D3A9B", "#882255", "#6B8E00"),
)
POLICY_MARKERS = "osD^vP<>hp"
ORACLE_COLOUR = "#009E73"
SHOWN_UP_TO = 2.2  # times the static line's lowest WER: cheaper mixtures would squash all that matters


def draw_frontier(figure: Any, name: str, one: Mapping[str, Any], *, chosen: str | None, cost: str = "depth") -> None:
    """WER against mean cost, and beside it the same as distance from the static line.

    `cost`: what budgets count, a key of `COSTS`.
    """
    wer_axes, gap_axes = figure.subplots(1, 2)
    static, oracle = np.array(one["static_line"]), np.array(one["oracle_c"])
    depths = _depths_shown(one, static)
    _draw(wer_axes, one, chosen=chosen, static=static, oracle=oracle, depths=depths, below=False, cost=cost)
    _draw(gap_axes, one, chosen=chosen, static=static, oracle=oracle, depths=depths, below=True, cost=cost)
    _name_exits(wer_axes, one, depths[0])
    wer_axes.set_ylabel("WER (%)")
    wer_axes.set_title("WER")
    gap_axes.set_ylabel("WER points above (+) or below (-) the static line")
    gap_axes.set_title("the same, as distance from the static line")
    for axes in (wer_axes, gap_axes):
        axes.set_xlabel(COSTS[cost].title)
        margin = 0.03 * (depths[-1] - depths[0])
        axes.set_xlim(depths[0] - margin, depths[-1] + margin)
    kind = f" ({LABELS[one['label']]})" if one["label"] != "unknown" else ""
    figure.suptitle(f"{name}{kind}: filled markers stand at the budget", fontsize=13)
    handles, labels = wer_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)


def _depths_shown(one: Mapping[str, Any], static: np.ndarray) -> np.ndarray:
    """Depths of the picture, rising, dense enough to draw lines by."""
    rising_wer, its_depth = static[::-1, 1], static[::-1, 0]
    start = float(np.interp(SHOWN_UP_TO * static[-1, 1], rising_wer, its_depth))
    points = [policy["at_budget"]["cost"] for policy in one["policies"].values()]
    last = float(one["exit_costs"][-1])
    first = max(static[0, 0], min([start, 0.8 * last, *(point - 0.02 * last for point in points)]))
    near = [layer for layer in one["exit_costs"] if abs(layer - first) < 0.02 * last]
    return np.linspace(near[0] if near else first, last, 400)


def _draw(
    axes: Any,
    one: Mapping[str, Any],
    *,
    chosen: str | None,
    static: np.ndarray,
    oracle: np.ndarray,
    depths: np.ndarray,
    below: bool,
    cost: str,
) -> None:
    """All lines and points; as distances from the static line where `below`."""

    def shown(depth: Any, wer: Any) -> np.ndarray:
        return np.asarray(wer) - (np.interp(depth, *static.T) if below else 0.0)

    axes.plot(depths, shown(depths, np.interp(depths, *static.T)), "k--", linewidth=1.6, label="static line")
    axes.plot(depths, shown(depths, np.interp(depths, *oracle.T)), color=ORACLE_COLOUR, linewidth=2.2, label="oracle C")
    layers, wers = np.array(one["exit_costs"]), np.array(one["wer_per_exit"])
    seen = layers >= depths[0] - 1e-9
    axes.plot(
        layers[seen],
        shown(layers[seen], wers[seen]),
        "o",
        color="black",
        markerfacecolor="white",
        markersize=8,
        zorder=3,
        label="fixed exit",
    )
    reached = [shown(depths, np.interp(depths, *line.T)) for line in (static, oracle)]
    reached.append(shown(layers[seen], wers[seen]))
    for i, (text, policy) in enumerate(one["policies"].items()):
        reached.append(_draw_policy(axes, text, policy, shown=shown, order=i, stressed=text == chosen))
    if one["single_exit"] is not None and cost in one["single_exit"]["costs"]:
        point = one["single_exit"]["costs"][cost], one["single_exit"]["wer"]
        axes.plot(point[0], shown(*point), "X", color="black", markersize=10, zorder=4, clip_on=False)
        label = "trained with the exit at layer {exit_layer} only (exit tax {exit_tax:+.2f})".format(
            **one["single_exit"]
        )
        axes.plot([], [], "X", color="black", markersize=10, label=label)
        reached.append(np.atleast_1d(shown(*point)))
    _limit(axes, reached)


def _draw_policy(
    axes: Any, text: str, policy: Mapping[str, Any], *, shown: Any, order: int, stressed: bool
) -> np.ndarray:
    """A policy's curve and its point at the budget; returns the point's height."""
    grey = "random" in text
    colour = "#999999" if grey else POLICY_COLOURS[order % len(POLICY_COLOURS)]
    marker = POLICY_MARKERS[order % len(POLICY_MARKERS)]
    curve = np.array(policy["curve"]).reshape(-1, 2)
    # by depth: under shift a larger budget on dev can be a smaller depth here, and lines would run to and fro
    curve = curve[np.lexsort((curve[:, 1], curve[:, 0]))]
    axes.plot(
        curve[:, 0],
        shown(*curve.T),
        color=colour,
        linewidth=2.4 if stressed else 1.3,
        alpha=0.9,
        zorder=2.5 if stressed else 2,
    )
    at = policy["at_budget"]
    axes.plot(at["cost"], shown(at["cost"], at["wer"]), marker, color=colour, markersize=9, zorder=5)
    label = f"{text} (chosen)" if stressed else text
    axes.plot([], [], marker=marker, color=colour, linewidth=2.4 if stressed else 1.3, label=label)
    return np.empty(0) if grey else np.atleast_1d(shown(at["cost"], at["wer"]))


def _limit(axes: Any, reached: list[np.ndarray]) -> None:
    """Heights that hold both lines, the exits in view and every policy's point; far curves are cut off."""
    values = np.concatenate(reached)
    margin = 0.06 * max(float(np.ptp(values)), 0.1)
    axes.set_ylim(values.min() - margin, values.max() + margin)


def _name_exits(axes: Any, one: Mapping[str, Any], first_depth: float) -> None:
    outside = []
    for layer, cost, wer in zip(one["exit_layers"], one["exit_costs"], one["wer_per_exit"]):
        if cost >= first_depth - 1e-9:
            at_the_edge = layer == one["exit_layers"][-1]
            axes.annotate(
                f"layer {layer}",
                (cost, wer),
                xytext=(8 if at_the_edge else 5, 7),
                textcoords="offset points",
                fontsize=9,
                ha="right" if at_the_edge else "left",
            )
        else:
            outside.append(f"layer {layer} at {wer:.1f} %")
    if outside:
        axes.text(
            0.98,
            0.98,
            "not shown: " + ", ".join(outside),
            transform=axes.transAxes,
            fontsize=9,
            ha="right",
            va="top",
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C510A")
LABEL_LINES = {"in_domain": "-", "shifted": "--", "ood": ":", "unknown": "-."}
MARKERS = "osD^vP*X"
DPI = 130
N_BANDS = 3  # sets up to which every line has its band
LOG_FROM = 6.0  # ratio of largest to smallest WER from which a linear axis hides the small ones
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def draw_figures(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw all pictures of a report; their names, in the order in which a page shows them."""
    sets, chosen = summary["sets"], summary["chosen_policy"]
    names = ["wer_per_exit.png"]
    with _canvas(folder / names[0], (9.5, 5.2)) as figure:
        _draw_wer_per_exit(figure, sets)
    for name, one in sets.items():
        if len(one["exit_layers"]) < 2:
            continue
        names.append(set_file("frontier_{}.png", name))
        with _canvas(folder / names[-1], (12.5, 6.4)) as figure:
            draw_frontier(figure, name, one, chosen=chosen, cost=summary["cost"])
    return names


def set_file(name: str, set_name: str) -> str:
    """Name of a file with a set's name in it.

    Example
    -------
    >>> set_file("frontier_{}.png", "an4 test/noise")
    'frontier_an4_test_noise.png'
    """
    return name.format(re.sub(r"[^A-Za-z0-9.-]+", "_", set_name))


@contextmanager
def _canvas(path: Path, size: tuple[float, float]):
    """A figure that is saved when the block ends; no display, and no global state changes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=DPI)


def _draw_wer_per_exit(figure: Any, sets: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    axes = figure.add_subplot()
    for i, (name, one) in enumerate(sets.items()):
        colour = COLOURS[i % len(COLOURS)]
        title = f"{name} ({LABELS[one['label']]})" if one["label"] != "unknown" else name
        axes.plot(
            one["exit_layers"],
            one["wer_per_exit"],
            linestyle=LABEL_LINES[one["label"]],
            marker=MARKERS[i % len(MARKERS)],
            color=colour,
            linewidth=2.6 if one["label"] == "in_domain" else 1.8,
            markersize=6,
            label=f"{title}: {one['wer_per_exit'][-1]:.2f} %",
        )
        if one["single_exit"] is not None:
            single = one["single_exit"]["exit_layer"], one["single_exit"]["wer"]
            axes.plot(*single, "X", color=colour, markeredgecolor="black", markersize=9, zorder=4)
        if len(sets) > N_BANDS and one["label"] != "in_domain":
            continue
        low, high = np.array(one["wer_interval_per_exit"]).T
        axes.fill_between(one["exit_layers"], low, high, color=colour, alpha=0.12, linewidth=0)
    singles = [one["single_exit"]["wer"] for one in sets.values() if one["single_exit"] is not None]
    if singles:
        axes.plot([], [], "X", color="white", markeredgecolor="black", markersize=9, label="trained with one exit only")
    values = np.concatenate([singles, *[one["wer_per_exit"] for one in sets.values()]])
    if values.min() > 0.5 and values.max() / values.min() > LOG_FROM:
        axes.set_yscale("log")
        ticks = np.array([1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300])
        ticks = ticks[(ticks >= values.min() / 1.5) & (ticks <= values.max() * 1.5)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylabel("WER (%), logarithmic")
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("WER (%)")
    axes.set_xticks(sorted({layer for one in sets.values() for layer in one["exit_layers"]}))
    axes.set_xlabel("exit after layer")
    axes.set_title("WER per exit (band: 95 %)")
    axes.legend(title="set: WER of the last exit", loc="center left", bbox_to_anchor=(1.0, 0.5))
