"""What a user gets for one recording."""

from dataclasses import asdict, dataclass

from eeasr_modules.runtime.words import Word


@dataclass(frozen=True)
class Transcript:
    """One recording's transcript and how it came about; or the reason why there is none.

    Arguments
    ---------
    audio : str or None
        Path of the recording as it was given; None for an array.
    text : str
        What was recognised; "" with an error.
    words : tuple of Word
        Of the text, with times in seconds from the beginning.
    exit_layer : int or None
        Layer of the exit that gave the text; of a long recording, which is decided chunk by chunk, the deepest one.
    exit_layers : tuple of int
        Of each chunk; a single one up to half a minute.
    decided_layers : tuple of int
        Exit of each chunk at which it stopped: `exit_layers`, unless the policy emits an earlier one.
    layers_run : float or None
        Encoder layers that ran, the mean over the chunks' seconds.
    n_layers : int
        The encoder's.
    confidence : float or None
        Mean over frames of the best token's probability, 0 to 1; where the model has a confidence map, the share of
        words that are probably right, None without words.
    blank_rates : tuple of float
        Of each chunk, at the exit it left at: share of frames in which nothing was heard. A drift watch reads these and
        `exit_layers`.
    drift : bool or None
        Whether the watch had raised its alarm by then; None when nobody watched.
    duration_s : float or None
        Seconds of audio.
    policy : str
        What decided.
    model : str
        Its name, as it was given.
    warnings : tuple of str
        What was odd about the audio, such as clipping.
    error : str or None
        Why there is no transcript.
    """

    audio: str | None
    text: str = ""
    words: tuple[Word, ...] = ()
    exit_layer: int | None = None
    exit_layers: tuple[int, ...] = ()
    decided_layers: tuple[int, ...] = ()
    layers_run: float | None = None
    n_layers: int = 0
    confidence: float | None = None
    blank_rates: tuple[float, ...] = ()
    drift: bool | None = None
    duration_s: float | None = None
    policy: str = ""
    model: str = ""
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict:
        """Plain values, ready for JSON; numbers rounded to what they are good for.

        Example
        -------
        >>> Transcript("a.wav", error="'a.wav' is empty: 0 bytes").as_dict()["error"]
        "'a.wav' is empty: 0 bytes"
        """
        return _rounded(asdict(self))


def _rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
