"""Paths on the command line are taken as they are written."""

import pytest
from tiny_run import YAML

from eeasr_modules.training.config.config import parse, take_paths


@pytest.mark.parametrize("path", ["/x/t corpus #1", "/x/a: b", "/x/a=b", "/x/[a]", "123", "/x/{a}, b", "- x", "/x/é"])
@pytest.mark.parametrize("key", ["data_folder", "output_folder", "ood_digits_folder", "lm_file", "init_from", "source"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_path_is_text(path, key, apart):
    given = [f"--{key}", path] if apart else [f"--{key}={path}"]
    file, options, overrides = parse([str(YAML), "--n_epochs", "3", *given, "--device", "cpu"])
    assert (file, options.device) == (str(YAML), "cpu") and overrides == {"n_epochs": 3, key: path}


def test_null_quotes_and_lists_are_yaml_still():
    given = ["--init_from", "null", "--data_folder", "'/x/a #1'", "--audio", "['/x/a=b #1', b]", "--seed=3"]
    rest, paths = take_paths([*given, "--leave_out", "*/a #1/*"])
    assert rest == ["--seed=3"]
    assert paths["init_from"] is None and paths["data_folder"] == "/x/a #1"
    assert paths["audio"] == ["/x/a=b #1", "b"] and paths["leave_out"] == ["*/a #1/*"]
    with pytest.raises(ValueError, match="audio must be a path, or a list as in YAML"):
        take_paths(["--audio", "[a #1, b]"])
