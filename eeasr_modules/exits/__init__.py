"""Exit tables and all that is worked out from them, without a model: numpy, scipy, rapidfuzz only."""

from eeasr_modules.exits.measure.bootstrap import Interval, bootstrap_above_static, bootstrap_difference, bootstrap_wer
from eeasr_modules.exits.measure.bounds import (
    Frontier,
    Overthinking,
    auroc,
    gap_closed,
    oracle_a,
    oracle_b,
    oracle_c,
    overthinking,
    pooled_wer,
    signal_auroc,
    static_line,
)
from eeasr_modules.exits.measure.edits import count_character_errors, count_edits, count_word_edits
from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.files import read_fitted, read_policies, write_fitted, write_policies
from eeasr_modules.exits.policies.protocol import KINDS, Fitted, Policy
from eeasr_modules.exits.policies.text import POLICIES, parse_policies, parse_policy, register
from eeasr_modules.exits.tables.files import import_transcripts, read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.calibration import (
    Calibrated,
    CrossFit,
    Curve,
    budget_cost,
    choose,
    cross_fit,
    policy_curve,
    refuse_same_set,
)
from eeasr_modules.exits.tuning.replay import (
    Decisions,
    choice_point,
    cross_fitted,
    decide,
    exit_costs,
    fit_model,
    mean_cost,
    models_of,
    policy_costs,
    replay,
    scores_of,
    with_models,
)
from eeasr_modules.exits.words.resources import WordResources, word_resources
from eeasr_modules.exits.words.signals import (
    LEXICAL_SIGNALS,
    lexical_signals,
    text_signals,
    text_signals_at_exit,
    uniform,
)

# fmt: off
__all__ = [
    "KINDS", "LEXICAL_SIGNALS", "POLICIES", "Calibrated", "CrossFit", "Curve", "Decisions", "ExitTable", "Fitted",
    "Frontier", "Interval", "Overthinking", "Policy", "WordResources", "auroc", "bootstrap_above_static",
    "bootstrap_difference", "bootstrap_wer", "budget_cost", "check_against", "choice_point", "choose",
    "count_character_errors", "count_edits", "count_word_edits", "cross_fit", "cross_fitted", "decide",
    "exit_costs", "fit_model", "gap_closed", "import_transcripts", "lexical_signals", "mean_cost", "models_of",
    "oracle_a", "oracle_b", "oracle_c", "overthinking", "parse_policies", "parse_policy", "policy_costs",
    "policy_curve", "pooled_wer", "read_fitted", "read_policies", "read_table", "refuse_same_set", "register",
    "replay", "scores_of", "signal_auroc", "speaker_folds", "static_line", "text_signals", "text_signals_at_exit",
    "uniform", "with_models", "word_resources", "write_fitted", "write_policies", "write_table",
]
# fmt: on
