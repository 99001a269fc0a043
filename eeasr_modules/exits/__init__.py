"""Exit tables and all that is worked out from them, without a model: numpy, scipy, rapidfuzz only."""

from eeasr_modules.exits.bootstrap import (
    Interval,
    bootstrap_above_static,
    bootstrap_difference,
    bootstrap_wer,
)
from eeasr_modules.exits.bounds import Frontier, gap_closed, oracle_a, oracle_b, oracle_c, static_line
from eeasr_modules.exits.calibration import Calibrated, budget_cost, calibrated_curve, choose, refuse_same_set
from eeasr_modules.exits.choices import choice_point, exit_costs, mean_cost, policy_costs, replay
from eeasr_modules.exits.combinations import check_against
from eeasr_modules.exits.curve import Curve, policy_curve
from eeasr_modules.exits.edits import count_character_errors, count_edits, count_word_edits
from eeasr_modules.exits.parquet import read_table, write_table
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.policy_file import read_policies, write_policies
from eeasr_modules.exits.policy_text import POLICIES, parse_policies, parse_policy
from eeasr_modules.exits.signals_text import text_signals, text_signals_at_exit, uniform
from eeasr_modules.exits.stats import Overthinking, auroc, overthinking, pooled_wer, signal_auroc
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.transcripts import import_transcripts

__all__ = [
    "POLICIES",
    "Calibrated",
    "Curve",
    "ExitTable",
    "Frontier",
    "Interval",
    "Overthinking",
    "Policy",
    "auroc",
    "bootstrap_above_static",
    "bootstrap_difference",
    "bootstrap_wer",
    "budget_cost",
    "calibrated_curve",
    "check_against",
    "choice_point",
    "choose",
    "count_character_errors",
    "count_edits",
    "count_word_edits",
    "exit_costs",
    "gap_closed",
    "import_transcripts",
    "mean_cost",
    "oracle_a",
    "oracle_b",
    "oracle_c",
    "overthinking",
    "parse_policies",
    "parse_policy",
    "policy_costs",
    "policy_curve",
    "pooled_wer",
    "read_policies",
    "read_table",
    "refuse_same_set",
    "replay",
    "signal_auroc",
    "static_line",
    "text_signals",
    "text_signals_at_exit",
    "uniform",
    "write_policies",
    "write_table",
]
