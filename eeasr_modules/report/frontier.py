"""The picture that shows what policies are worth: WER against depth, between the two lines that bound them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eeasr_modules.report.costs import COSTS
from eeasr_modules.report.tables import LABELS

POLICY_COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#B8A800", "#5D3A9B")
POLICY_MARKERS = "osD^vP<>"
ORACLE_COLOUR = "#009E73"
SHOWN_UP_TO = 2.2  # times the static line's lowest WER: cheaper mixtures would squash all that matters


def draw_frontier(figure: Any, name: str, one: Mapping[str, Any], *, chosen: str | None, cost: str = "depth") -> None:
    """WER against mean cost, and beside it the same as distance from the static line.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        To draw on.
    name : str
        Of the set.
    one : mapping
        `sets.<name>` of a summary.
    chosen : str or None
        Text of the policy to stress.
    cost : str
        What budgets count, a key of `COSTS`.
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
        axes.plot([], [], "X", color="black", markersize=10, label=_tax_label(one["single_exit"]))
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


def _tax_label(single: Mapping[str, Any]) -> str:
    return f"trained with the exit at layer {single['exit_layer']} only (exit tax {single['exit_tax']:+.2f})"
