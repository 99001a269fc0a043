"""The watch on the risk, simulated: false alarms at exactly the allowed loss, audits until twice of it is found.

    python benchmarks/risk_watch.py [--traces TRACES] [--streams 500] [--out results/risk]

Made-up streams (errors Poisson; rare and large; with as many more mended) and, with TRACES, the public exit traces of
`ee40`, utterances drawn again and again at random, so that the truth is that of the set. Writes watch.json, watch.md.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from scipy.stats import binom  # noqa: E402

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.exits import import_transcripts, parse_policy, policy_curve  # noqa: E402
from eeasr_modules.exits.tuning.replay import decide  # noqa: E402
from eeasr_modules.exits.tuning.risk_losses import against_last  # noqa: E402
from eeasr_modules.exits.tuning.watches import BETS, JUMP_RATES, WORDS_CAP, dealt  # noqa: E402  # noqa: E402

ALPHAS, LENGTH, CREDIT = (0.01, 0.1), 1000, 5
KINDS = ("Poisson", "rare and large", "some mended")


def alarms(errors: np.ndarray, words: np.ndarray, *, limit: float, credit: int, alpha: float) -> np.ndarray:
    """Utterances until each stream's alarm, inf without one: `RiskWatch`, many streams side by side.

    Arguments
    ---------
    errors, words : np.ndarray of shape (n_streams, length)
        Of the utterances.
    limit, credit, alpha : float
        As `RiskWatch` takes them.
    """
    n = len(errors)
    loss = 100.0 * np.maximum(errors, -credit) - limit * np.minimum(words, WORDS_CAP)
    loss /= limit * WORDS_CAP + 100.0 * credit
    shares, wealth = np.full((n, len(JUMP_RATES), len(BETS)), 1 / len(BETS)), np.zeros((n, len(JUMP_RATES)))
    found = np.full(n, np.inf)
    for t in range(errors.shape[1]):
        shares, wealth = dealt(shares, wealth, odds=1 + BETS * loss[:, t : t + 1])
        mean = np.logaddexp.reduce(wealth, axis=1) - np.log(len(JUMP_RATES))
        found[np.isinf(found) & (mean >= -np.log(alpha))] = t + 1
    return found


def made_up(rng: np.random.Generator, kind: str, *, rate: float, mean_words: int, shape: tuple) -> tuple:
    """Errors and words whose pooled loss is `rate` errors per 100 words."""
    words = rng.integers(2, 2 * mean_words - 1, shape)
    if kind == "rare and large":
        return rng.binomial(words, np.where(rng.random(shape) < 0.1, rate / 10, 0.0)), words
    if kind == "some mended":
        return rng.poisson(words * rate / 50) - rng.poisson(words * rate / 100), words
    return rng.poisson(words * rate / 100), words


def rows_of(draw, limit: float, *, credit: int, n: int) -> dict:
    """Shares of false alarms at the limit, and audits until twice of it is found; `draw(factor)` gives a stream."""
    row = {}
    errors, words = draw(1.0)
    for alpha in ALPHAS:
        false = np.isfinite(alarms(errors, words, limit=limit, credit=credit, alpha=alpha)).sum()
        row[f"false_{alpha:g}"] = int(false)
    found = alarms(*draw(2.0), limit=limit, credit=credit, alpha=0.01)
    row["found"], row["delay"] = int(np.isfinite(found).sum()), float(np.median(found))
    return row | {"streams": n}


def from_traces(folder: Path, n: int) -> list[dict]:
    """Real transcripts under two thresholds; the limit is what leaving changes (false alarms) or half of it (delay)."""
    rows = []
    for part in ("clean", "other"):
        table = against_last(import_transcripts(folder, part, model="ee40", format="exit-traces"))
        curve = policy_curve(parse_policy("entropy"), table, n_thresholds=60)
        for changed in (1.0, 4.0):
            policy = curve.policies[int(np.abs(curve.wer - changed).argmin())]
            at = decide(policy, table).emitted
            errors, words = table.errors[np.arange(len(at)), at], table.n_ref_words
            rate = 100 * errors.sum() / words.sum()
            rng = np.random.default_rng(0)
            drawn = rng.integers(0, len(at), (n, LENGTH))
            row = {"stream": f"test-{part}, {policy}", "words": float(words.mean())}
            for limit, key in ((rate, "false"), (rate / 2, "found")):
                seen = rows_of(lambda _, i=drawn, e=errors, w=words: (e[i], w[i]), limit, credit=0, n=n)
                row |= {k: v for k, v in seen.items() if k.startswith(key) or k == "streams"}
                if key == "found":
                    row |= {"limit": limit, "delay": seen["delay"]}
            rows.append(row)
    return rows


def page(rows: list[dict], n: int) -> str:
    """Markdown."""
    most = [int(binom.ppf(0.99, n, alpha)) for alpha in ALPHAS]
    lines = [
        "# The watch on the risk, simulated",
        "",
        f"{n} streams of {LENGTH:,} audits each. False alarms: streams whose loss is exactly the limit and that ever "
        f"raised one; of a watch that errs with probability alpha exactly, 99 % of such simulations stay at or below "
        f"{most[0]} and {most[1]}. Delay: audits until a loss of twice the limit raises the alarm at alpha 0.01, "
        f"median; at a share q of audits that is delay / q utterances. Of real speech (test-...) the limit shown is "
        "half of what leaving changes; its false alarms are at all of that. Written by benchmarks/risk_watch.py; all "
        "rows: watch.json.",
        "",
        "| stream | limit, errors per 100 words | words | false alarms, alpha 0.01 | 0.1 | found | delay, audits |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    shown = [row for row in rows if row["words"] != 10 and (row["limit"] == 1 or row["stream"].startswith("test-"))]
    for row in shown:  # other lengths and limits are alike
        numbers = [f"{row['limit']:.2g}", f"{row['words']:.0f}", row["false_0.01"], row["false_0.1"]]
        lines.append(
            f"| {row['stream']} | " + " | ".join(map(str, [*numbers, row["found"], f"{row['delay']:.0f}"])) + " |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("results/risk"))
    arguments = parser.parse_args()
    n, rows = arguments.streams, []
    for kind in KINDS:
        for limit, mean_words in ((1.0, 20), (2.0, 10), (2.0, 20), (5.0, 10)):
            rng, shape, credit = np.random.default_rng(1), (n, LENGTH), CREDIT if kind == "some mended" else 0

            def draw(factor, kind=kind, limit=limit, mean_words=mean_words, rng=rng, shape=shape):
                return made_up(rng, kind, rate=factor * limit, mean_words=mean_words, shape=shape)

            rows.append(
                {"stream": kind, "limit": limit, "words": mean_words} | rows_of(draw, limit, credit=credit, n=n)
            )
    if arguments.traces:
        rows += from_traces(arguments.traces, n)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_aside(arguments.out / "watch.json", json.dumps({"length": LENGTH, "rows": rows}, indent=1) + "\n")
    write_aside(arguments.out / "watch.md", page(rows, n))


if __name__ == "__main__":
    main()
