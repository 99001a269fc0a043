"""What tests of live decisions share: policies to try, an engine for them, a count of the layers that ran."""

import pytest

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import POLICIES
from eeasr_modules.runtime import Engine

SEED = 11  # of the exit tables in conftest

ARGUMENTS = {
    "static": ["static(2)"],
    "random": ["random(0.4)"],
    "any": ["any(entropy, patience(2, 0.2))", "any(random(0.2), similarity(0.99))"],
    "all": ["all(margin, random(0.7))"],
    "between": [
        "between(2, 3, entropy)",
        "between(3, 5, patience_ce(1))",
        "between(2, 3, similarity)",
        "between(margin)",
    ],
    "patience": [
        "patience(1)",
        "patience(2)",
        "patience(1, first)",
        "patience(2, pairs)",
        "patience(2, pairs, first)",
        "between(2, 3, patience(1, pairs, first))",
    ],
    "patience_words": ["patience_words(1)", "patience_words(2, pairs, first)"],
    "patience_ce": ["patience_ce(1)", "patience_ce(2, pairs, first)"],
    "patience_bce": ["patience_bce(1)", "patience_bce(2, pairs, first)", "patience_bce(2, pairs)"],
    "entropy_per_token": ["entropy_per_token(0.05, 29)"],
    "most_confident": ["most_confident", "between(2, 3, most_confident)", "any(entropy, most_confident)"],
}
BEAM_SEARCH = ("nbest", "sequence_log_prob", "token_entropy")  # need a search that is not run live
SLOW_TO_FIT = ("gain_words", "gain_words_text")
TEXTS = [text for name in POLICIES if name not in BEAM_SEARCH for text in ARGUMENTS.get(name, [name])]
CASES = [pytest.param(text, marks=pytest.mark.slow) if text in SLOW_TO_FIT else text for text in TEXTS]


def engine_for(model, policy, **options):
    return Engine(model, CharVocabulary(), policy=policy, seed=SEED, **options)


class CountedLayers:
    """How many utterance-frames each layer saw, by forward pre-hooks."""

    def __init__(self, model):
        self.shapes = []
        layers = model.encoder.conformer.layers
        self.handles = [layer.register_forward_pre_hook(self._note(i)) for i, layer in enumerate(layers, start=1)]

    def _note(self, number):
        return lambda module, inputs: self.shapes.append((number, *inputs[0].shape[:2]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
