"""Switches that make a model faster without training: the front end of its kind, and the precision of its products."""

import logging
import warnings
from functools import partial

import torch

from eeasr_modules.models.fast.front_end import faster_front_end
from eeasr_modules.models.fast.layers import faster_layers
from eeasr_modules.models.fast.moonshine import faster_moonshine
from eeasr_modules.models.multi_exit import MultiExit

logger = logging.getLogger(__name__)

FRONT_ENDS = ("fast", "stock")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def check_switches(front_end: str, precision: str, *, device: str) -> None:
    """ValueError, one sentence, on a switch that there is not, or not on this device."""
    if front_end not in FRONT_ENDS:
        raise ValueError(f"front_end must be one of {', '.join(FRONT_ENDS)}, got {front_end!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    on_cpu = device.startswith("cpu")
    if precision == "float16" and on_cpu:
        raise ValueError("precision float16 needs a GPU, the device is cpu: choose bfloat16")
    if precision == "int8" and not on_cpu:
        raise ValueError(f"precision int8 runs on the CPU only, the device is {device}: choose bfloat16 or float16")


def made_faster(model: MultiExit, *, front_end: str, precision: str) -> MultiExit:
    """The model with its switches set, in place where that is possible.

    Arguments
    ---------
    model : MultiExit
        In eval mode, float32.
    front_end : str
        "fast": the faster one, and faster products in the layers, where the encoder has them and a self-test agrees;
        "stock": the encoder's own.
    precision : str
        "int8" stores the weights of linear layers in 8 bits and rounds their inputs as they come (dynamic
        quantisation); the others leave the weights alone, see `models.device`.

    Returns
    -------
    MultiExit
    """
    if front_end == "fast" and next(model.parameters()).device.type == "cpu":
        in_layers = precision != "int8"  # else their products are exchanged below
        swaps = {"front end": faster_front_end, "Moonshine": partial(faster_moonshine, layers=in_layers)}
        if in_layers:
            swaps["layers"] = faster_layers
        for part, swap in swaps.items():
            try:
                swap(model)
            except ValueError as err:  # a Conformer, or parts that are not foreseen
                logger.debug("stock %s: %s", part, err)
            except RuntimeError as err:
                logger.warning("the stock %s is used: %s", part, err)
    if precision == "int8":
        with warnings.catch_warnings():
            # torch will drop this for torchao, which is a package of its own
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    return model
