"""Regimes: which exits each update trains, and when the encoder is frozen.

- `joint`: every update trains encoder and all exits, with `exit_weights`.
- `heads_only`: the encoder stays as it is.
- `last_only`: encoder and last exit; the other heads stay as they were made. The single-exit baseline with the same
  parameters.
- `two_step` (Zaiem et al. 2023, "Fine-tuning strategies for faster inference"): encoder and last exit first, then the
  other exits with encoder and last exit frozen: the last exit is exactly that of single-exit training.
- `alternating` (Xin et al. 2021, BERxiT, section 3.2): one update on the last exit alone, the next on all.
"""

from dataclasses import dataclass

REGIMES = ("joint", "two_step", "heads_only", "alternating", "last_only")
OWN_TEACHERS = ("self", "best")  # of distillation: exits of the model itself


@dataclass(frozen=True)
class Regime:
    """What one run trains when.

    Arguments
    ---------
    name : str
        One of `REGIMES`.
    weights : tuple of float
        Of each exit's loss where all are trained; they sum to 1.
    n_epochs : int
        Of the run.
    first_share : float
        Share of epochs in the first of two steps, between 0 and 1; each step has at least one epoch.

    Raises
    ------
    ValueError
        If there is no such regime, or two steps have too few epochs or exits.

    Example
    -------
    >>> regime = Regime("two_step", (0.25, 0.25, 0.5), n_epochs=10, first_share=0.6)
    >>> regime.weights_of(6, update=0), regime.weights_of(7, update=0), regime.frozen(7)
    ((0.0, 0.0, 1.0), (0.5, 0.5, 0.0), True)
    """

    name: str
    weights: tuple[float, ...]
    n_epochs: int
    first_share: float = 0.5

    def __post_init__(self):
        if self.name not in REGIMES:
            raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got '{self.name}'")
        if self.name != "two_step":
            return
        if len(self.weights) < 2 or not sum(self.weights[:-1]):
            raise ValueError(
                f"regime: two_step needs an exit with a weight before the last one, got weights {list(self.weights)}"
            )
        if self.n_epochs == 1:
            raise ValueError("regime: two_step needs n_epochs of at least 2, one for each step, got 1")

    @property
    def first_epochs(self) -> int:
        """Epochs of the first step; all of them where there is one step."""
        if self.name != "two_step":
            return self.n_epochs
        return min(max(1, round(self.first_share * self.n_epochs)), self.n_epochs - 1)

    def frozen(self, epoch: int) -> bool:
        """Whether encoder and last head are frozen in this epoch (from 1) because the second of two steps is on."""
        return self.name == "two_step" and epoch > self.first_epochs

    def weights_of(self, epoch: int, *, update: int) -> tuple[float, ...]:
        """Weight of each exit's loss in one update; heads of exits that weigh 0 stay as they are.

        Arguments
        ---------
        epoch : int
            From 1.
        update : int
            From 0, over all epochs.
        """
        n_exits = len(self.weights)
        last = (*[0.0] * (n_exits - 1), 1.0)
        if self.name == "last_only" or (self.name == "alternating" and update % 2 == 0):
            return last
        if self.name != "two_step":
            return self.weights
        if not self.frozen(epoch):
            return last
        total = sum(self.weights[:-1])
        return (*[weight / total for weight in self.weights[:-1]], 0.0)

    def progress(self, epoch: int, *, n_done: int, n_batches: int) -> float:
        """Share of the step's batches that are done, 0 to 1: each of two steps has its own warm-up and decay.

        Arguments
        ---------
        epoch : int
            From 1.
        n_done : int
            Batches of this epoch, the present one included.
        n_batches : int
            Batches per epoch.
        """
        before, length = 0, self.first_epochs
        if self.frozen(epoch):
            before, length = self.first_epochs, self.n_epochs - self.first_epochs
        return ((epoch - 1 - before) * n_batches + n_done) / max(1, n_batches * length)
