"""Configurations, corpora and a model for the tone corpus."""

import pytest
from tiny_run import TINY, YAML

from eeasr_modules.data.pipeline import AudioCache
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.training.config.config import check, load_yaml
from eeasr_modules.training.corpora import prepare_corpora
from eeasr_modules.training.fit import build_model


@pytest.fixture(scope="session")
def make_config(root, tone_corpus):
    """The checked configuration of a tiny run on the tone corpus, with some keys changed."""

    def make(**changes):
        values = {**load_yaml(YAML), **TINY, "data_folder": str(tone_corpus), **changes}
        return check(values, recipes=root / "recipes")

    return make


@pytest.fixture(scope="session")
def make_corpora(root):
    """The corpora of a configuration, manifests in `save_folder`."""

    def make(config, save_folder):
        return prepare_corpora(config, recipes=root / "recipes", save_folder=save_folder, may_download=False)

    return make


@pytest.fixture(scope="session")
def config(make_config):
    """A tiny run's configuration."""
    return make_config()


@pytest.fixture(scope="session")
def corpora(config, make_corpora, tmp_path_factory):
    """Manifests of the tone corpus."""
    return make_corpora(config, tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="session")
def vocabulary():
    """Characters."""
    return CharVocabulary()


@pytest.fixture
def model(config, vocabulary):
    """A tiny model of random weights, in eval mode."""
    return build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index).eval()


@pytest.fixture(scope="session")
def read():
    """Reads audio."""
    return AudioCache(50, sample_rate=16000)
