"""The test pass behind the last CTC exit: what the checkpoint's own decoder says of every utterance."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from eeasr_modules.data.text import plain_words
from eeasr_modules.models.encoders.own_decoder import OwnDecoder, Said
from eeasr_modules.models.multi_exit import MultiExit

TOKEN_MEANS = {"entropy_nonblank": "entropy", "entropy_token": "entropy"}  # what else the mean over tokens stands for


class OwnReadings:
    """The deepest exit of a whole set, filled batch by batch.

    Arguments
    ---------
    model : MultiExit
        With an own decoder, in eval mode, on its device.
    n_utterances : int
        Of the set.
    """

    def __init__(self, model: MultiExit, n_utterances: int):
        self.model, self.decoder = model, OwnDecoder.of(model)
        self.said: list[Said | None] = [None] * n_utterances

    def read(
        self,
        rows: Sequence[int],
        hidden: torch.Tensor,
        n_frames: Sequence[int],
        wavs: torch.Tensor,
        n_samples: torch.Tensor,
        *,
        drafts: Sequence[str],
    ) -> None:
        """Decode one batch.

        Arguments
        ---------
        rows : sequence of int
            Positions of its utterances in the set.
        hidden : torch.Tensor of shape (batch, frames, dim)
            States behind the last layer.
        n_frames : sequence of int, batch long
            Valid ones.
        wavs : torch.Tensor of shape (batch, samples)
            Zero-padded.
        n_samples : torch.Tensor of shape (batch,)
            Valid samples.
        drafts : sequence of str, batch long
            Transcripts of the last CTC exit.
        """
        for row, states, n, wav, length, draft in zip(rows, hidden, n_frames, wavs, n_samples, drafts, strict=True):
            self.said[row] = self.decoder.decode(self.model.encoder, states[:n], wav[:length], draft=draft)

    @property
    def decoder_macs(self) -> np.ndarray:
        """Of shape (n_utterances, n_exits): 0 at the CTC exits."""
        macs = np.array([one.macs for one in self.said])[:, None]
        return np.concatenate([np.zeros((len(macs), len(self.model.exit_layers))), macs], axis=1)

    def beside(self, columns: Mapping, *, duration_s: np.ndarray) -> dict:
        """Columns of the CTC exits with one more for the decoder.

        Signals that are means over frames are means over its tokens here; those that only frames have (`blank_rate`,
        `cosine`, ...) are the last CTC exit's. Its words share the utterance's seconds evenly. Front end, layers and
        the last head, which places its words live, cost what they do at the last CTC exit.

        Arguments
        ---------
        columns : mapping
            `hypotheses, signals, word_lists, averaged_hypotheses, cost_macs, head_macs` of the CTC exits.
        duration_s : np.ndarray of shape (n_utterances,)
            Seconds.
        """
        texts = np.array([plain_words(one.text) for one in self.said], dtype=object)[:, None]
        signals = {name: self._signal(name, values) for name, values in columns["signals"].items()}
        averaged = columns["averaged_hypotheses"]
        return {
            "hypotheses": np.concatenate([columns["hypotheses"], texts], axis=1),
            "signals": signals,
            "word_lists": self._word_lists(columns["word_lists"], duration_s),
            "averaged_hypotheses": None if averaged is None else np.concatenate([averaged, texts], axis=1),
            **{
                name: np.concatenate([columns[name], columns[name][:, -1:]], axis=1)
                for name in ("cost_macs", "head_macs")
            },
        }

    def _signal(self, name: str, values: np.ndarray) -> np.ndarray:
        own = [
            one.signals.get(TOKEN_MEANS.get(name, name), last)
            for one, last in zip(self.said, values[:, -1], strict=True)
        ]
        return np.concatenate([values, np.array(own)[:, None]], axis=1)

    def _word_lists(self, lists: Mapping[str, np.ndarray], duration_s: np.ndarray) -> dict[str, np.ndarray]:
        shape = (len(self.said), 1)
        made = {name: np.empty(shape, dtype=object) for name in lists}
        for i, (one, seconds) in enumerate(zip(self.said, duration_s, strict=True)):
            entropies = np.array(one.word_entropies(plain_words))
            edges = np.linspace(0.0, seconds, len(entropies) + 1)
            own = {
                "word_entropy": entropies,
                "word_margin": np.full(len(entropies), one.signals["margin"]),
                "word_start_s": edges[:-1],
                "word_end_s": edges[1:],
            }
            for name, column in made.items():
                column[i, 0] = own[name]
        return {name: np.concatenate([lists[name], made[name]], axis=1) for name in lists}
