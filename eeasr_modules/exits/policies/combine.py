"""Policies made of policies: any, all, between; and what walks through such a tree.

Same contract as in `eeasr_modules.exits.policies.protocol`. A combination's state is its parts' states side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.protocol import EVERY_EXIT, Policy, call_text, exits_back, layer_number, reach_of

BETWEEN_FORM = "between(floor layer, ceiling layer, policy) or between(policy)"


@dataclass(frozen=True)
class Combination(Policy):
    """Stops when at least one part would (`any`), or when all would at the same exit (`all`)."""

    name: str  # "any" or "all"
    parts: tuple  # two or more. Each keeps its own state, whatever the others say

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.name not in ("any", "all"):
            raise ValueError(f"a combination must be any or all, got {self.name}")
        wrong = [part for part in self.parts if not isinstance(part, Policy)]
        if wrong or len(self.parts) < 2:
            got = f"the argument {wrong[0]!r}" if wrong else f"{len(self.parts)} argument(s)"
            raise ValueError(f"{self.name} must be written {self.name}(policy, policy, ...), got {got}")

    def __str__(self) -> str:
        return call_text(self.name, *self.parts)

    def with_parts(self, parts: Sequence[Policy]) -> "Combination":
        """The same of other policies."""
        return replace(self, parts=tuple(parts))

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals of all parts, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.needs))

    @property
    def is_open(self) -> bool:
        """Whether any part has something left to calibrate."""
        return any(part.is_open for part in self.parts)

    def start(self, n: int) -> np.ndarray:
        """The parts' states side by side."""
        return np.concatenate([part.start(n) for part in self.parts], axis=1)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ask every part, each with its own columns of the state."""
        stops, states = zip(*[part.step(signals, own) for part, own in self._parts_with_states(state)], strict=True)
        join = np.logical_or if self.name == "any" else np.logical_and
        return join.reduce(stops), np.concatenate(states, axis=1)

    def _parts_with_states(self, state: np.ndarray) -> list[tuple[Policy, np.ndarray]]:
        """Each part with its own columns; side by side, numbers and texts share one type, so it gets its own back."""
        empty = [part.start(0) for part in self.parts]
        ends = np.cumsum([one.shape[1] for one in empty])
        return [
            (part, state[:, end - one.shape[1] : end].astype(one.dtype, copy=False))
            for part, one, end in zip(self.parts, empty, ends, strict=True)
        ]

    @property
    def reach(self) -> int:
        """Of the part that reaches furthest."""
        return max(reach_of(part) for part in self.parts)

    def back(self, state: np.ndarray) -> np.ndarray:
        """The earliest exit that a part's output rule takes; a part whose run is not complete takes this one."""
        everywhere = EVERY_EXIT  # the caller knows the exit
        return np.max([exits_back(part, own, everywhere) for part, own in self._parts_with_states(state)], axis=0)

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Exits that any part reads."""
        return np.logical_or.reduce([part.reads(exit_layers) for part in self.parts])


@dataclass(frozen=True)
class Between(Policy):
    """Stops nobody below a floor exit and everybody at a ceiling exit; in between another policy decides.

    The inner policy follows every exit, so patience counts below the floor as well. Its output rule, if it has one,
    stays: stopped at the ceiling, it emits what its run says.
    """

    # floor_layer, ceiling_layer: layers of the two exits, floor at most ceiling; both None is open
    floor_layer: int | None
    ceiling_layer: int | None
    policy: Any  # decides from the floor up to below the ceiling
    name = "between"

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy):
            raise ValueError(f"between must be written {BETWEEN_FORM}, got {self.policy!r} as its policy")
        object.__setattr__(self, "floor_layer", layer_number("between", "floor layer", self.floor_layer))
        object.__setattr__(self, "ceiling_layer", layer_number("between", "ceiling layer", self.ceiling_layer))
        if (self.floor_layer is None) != (self.ceiling_layer is None):
            raise ValueError("between needs both floor and ceiling layer, or neither to have them calibrated")
        if self.floor_layer is not None and self.floor_layer > self.ceiling_layer:
            raise ValueError(
                f"between: the floor layer must not lie above the ceiling layer, "
                f"got {self.floor_layer} and {self.ceiling_layer}"
            )

    @property
    def parts(self) -> tuple:
        """The inner policy."""
        return (self.policy,)

    def with_parts(self, parts: Sequence[Policy]) -> "Between":
        """The same window around another policy."""
        return replace(self, policy=parts[0])

    @property
    def has_open_window(self) -> bool:
        """Whether floor and ceiling are left to calibrate."""
        return self.floor_layer is None

    @property
    def needs(self) -> tuple[str, ...]:
        """The exit's layer, and what the inner policy reads."""
        return tuple(dict.fromkeys(("exit_layer", *self.policy.needs)))

    @property
    def is_open(self) -> bool:
        """Whether floor and ceiling, or the inner policy, are left to calibrate."""
        return self.has_open_window or self.policy.is_open

    @property
    def reach(self) -> int:
        """The inner policy's."""
        return reach_of(self.policy)

    def back(self, state: np.ndarray) -> np.ndarray:
        """As the inner policy says."""
        return exits_back(self.policy, state, EVERY_EXIT)

    def start(self, n: int) -> np.ndarray:
        """The inner policy's state."""
        return self.policy.start(n)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The inner policy's decision, overruled outside the window."""
        if self.has_open_window:
            raise ValueError(f"{self} is open and cannot decide: give its layers or calibrate it on dev")
        layer = np.asarray(signals["exit_layer"])
        stop, state = self.policy.step(signals, state)
        return (stop & (layer >= self.floor_layer)) | (layer >= self.ceiling_layer), state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """What the inner policy reads below the ceiling, and below the floor only if it remembers.

        An output rule reads at the ceiling as well: it compares that exit with those before.
        """
        below = exit_layers <= self.ceiling_layer if self.reach else exit_layers < self.ceiling_layer
        inner = self.policy.reads(exit_layers) & below
        remembers = self.policy.start(0).shape[1] > 0
        return inner if remembers else inner & (exit_layers >= self.floor_layer)


def parts_of(policy: Policy) -> Sequence[Policy]:
    """The policies that a policy is directly made of; none where it is of one piece."""
    return getattr(policy, "parts", ())


def check_against(policy: Policy, exit_layers: Sequence[int]) -> None:
    """Refuse a policy that names layers where the model has no exit.

    ValueError naming the layer and the exits there are.
    """
    for part in parts_of(policy):
        check_against(part, exit_layers)
    known = [int(layer) for layer in exit_layers]
    model = getattr(policy, "model", None)
    if model is not None and list(model.exit_layers) != known:
        raise ValueError(
            f"{policy} was fitted for exits after layers {list(model.exit_layers)}, but the exits are after layers "
            f"{known}; calibrate it on a dev table of this model"
        )
    for where in ("layer", "floor_layer", "ceiling_layer"):
        layer = getattr(policy, where, None)
        if layer is not None and layer not in known:
            raise ValueError(f"{policy} names layer {layer}, but the exits are after layers {known}")


def policy_leaves(policy: Policy) -> list[Policy]:
    """The policies that a policy is made of, in the order of its text; itself where it is of one piece."""
    return [leaf for part in parts_of(policy) for leaf in policy_leaves(part)] or [policy]


def map_leaves(policy: Policy, change: Callable[[Policy], Policy]) -> Policy:
    """The same policy with each of its leaves replaced."""
    parts = parts_of(policy)
    return policy.with_parts([map_leaves(part, change) for part in parts]) if parts else change(policy)


def leaves_choice(policy: Policy) -> bool:
    """Whether a threshold or a window is left to choose; a model that is still to be fitted is no choice."""
    return open_leaf(policy) is not None or (isinstance(policy, Between) and policy.has_open_window)


def open_leaf(policy: Policy) -> Policy | None:
    """The one part of a policy whose threshold is left to calibrate; None where nothing but a window is open.

    ValueError when more than one part is open, which a single budget cannot settle.
    """
    leaves = [leaf for leaf in policy_leaves(policy) if leaf.has_open_threshold]
    if len(leaves) > 1:
        raise ValueError(
            f"at most one threshold can be calibrated at a time, "
            f"but {policy} leaves {len(leaves)} open; give the others"
        )
    return leaves[0] if leaves else None


def with_threshold(policy: Policy, threshold: float) -> Policy:
    """The policy with its open threshold (layer of static, probability of random) filled in.

    Example
    -------
    >>> from eeasr_modules.exits.policies.rules import Patience
    >>> print(with_threshold(Patience("patience", 2), 0.1))
    patience(2, 0.1)
    """

    return map_leaves(policy, lambda leaf: leaf.with_threshold(threshold) if leaf.has_open_threshold else leaf)
