"""The test pass by other decoders than the greedy one of CTC heads: beam search, attention, a checkpoint's own.

By a search, exits, utterances and signals are the same, transcripts others. A checkpoint's own decoder stands behind
the last CTC exit (`OwnReadings`), or reads every layer (`OwnDecoderLens`). Of this lens nothing is trained: inner
states pass the encoder's final norm; Whisper gets 30 s, silence included, as it was trained, Moonshine an utterance as
long as it is. Decoding is greedy and the same as transformers' own; how many tokens it may give follows the length of
the recording, because inner layers make a decoder babble.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eeasr_modules.common.batches import length_batches
from eeasr_modules.data.manifest import audio_digest, read_description, recordings
from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.data.text import NORMALISERS, plain_words, split_language
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch
from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions
from eeasr_modules.models.device import computed_in
from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.own_decoder import OwnDecoder, Said, cache_name, most_tokens, new_cache
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk
from eeasr_modules.training.config.config import Config
from eeasr_modules.training.corpora import EvaluationSet

logger = logging.getLogger(__name__)
TOKEN_MEANS = {"entropy_nonblank": "entropy", "entropy_token": "entropy"}  # what else the mean over tokens stands for


def chosen_decoder(config: Config, model: MultiExit, vocabulary) -> BeamDecoder | AttentionSearch | None:
    """The search that the YAML asks for; None where it says `decoding: greedy`.

    FileNotFoundError or ImportError when `lm_file` is missing, or what reads it. ValueError when the model lacks an
    attention decoder.
    """
    if config.decoding == "greedy":
        return None
    if config.decoding == "attention":
        options = AttentionOptions(config.attention_beam_size, config.attention_ctc_weight)
        return AttentionSearch(model, options=options)
    options = BeamOptions(
        beam_size=config.beam_size, lm_file=config.lm_file, lm_weight=config.lm_weight, word_score=config.word_score
    )
    return BeamDecoder(vocabulary.tokens, vocabulary.spellings, blank_index=vocabulary.blank_index, options=options)


@torch.no_grad()
def decode(
    model: MultiExit,
    table: ExitTable,
    evaluation_set: EvaluationSet,
    *,
    decoder: BeamDecoder | AttentionSearch,
    vocabulary,
    read,
    batch_seconds: float,
    limit: int | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> ExitTable:
    """The table, which `collect` made with references, with the transcripts of a search at every exit.

    Model, vocabulary, set and the rest are as `collect` took them.

    Signals stay those of the greedy pass: a policy decides on them, and what it emits is searched for at its exit. The
    attention decoder adds its own (`DECODER_SIGNALS`) and what it cost (`decoder_macs`).
    """
    items = manifest_items(evaluation_set.manifests, limit=limit)
    utt_ids = list(items)
    if utt_ids != list(table.utt_ids):
        raise ValueError(f"the table of {evaluation_set.name} must hold the set's {len(utt_ids)} utterances in order")
    device, sample_rate = next(model.parameters()).device, model.config["sample_rate"]
    shape = (len(utt_ids), len(model.exit_layers))
    hypotheses = np.empty(shape, dtype=object)
    spells = isinstance(decoder, AttentionSearch)
    signals = {name: np.empty(shape) for name in sorted(DECODER_SIGNALS)} if spells else {}
    macs = np.empty(shape) if spells else None
    batches = length_batches([items[utt_id]["duration"] for utt_id in utt_ids], batch_seconds)
    with tqdm(total=len(utt_ids), desc=f"{evaluation_set.name}, search", unit="utt", disable=not progress) as bar:
        for batch in batches:
            seed = table.metadata["seed"]
            names = [utt_ids[i] for i in batch]
            wavs = [
                evaluation_set.waveform(name, items[name], read, seed=seed, sample_rate=sample_rate) for name in names
            ]
            lengths = torch.tensor([len(wav) for wav in wavs])
            padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
            with computed_in(precision, device):
                outputs = list(model.exits(padded.to(device), lengths.to(device)))
            for e, output in enumerate(outputs):
                for row, (i, n) in enumerate(zip(batch, output.n_frames.tolist(), strict=True)):
                    log_probs = output.log_probs[row, :n]
                    if not spells:
                        hypotheses[i, e] = decoder.text(log_probs)
                        continue
                    spelled = decoder.decode(e, output.hidden[row, :n], log_probs)
                    hypotheses[i, e], macs[i, e] = vocabulary.decode(spelled.tokens), spelled.macs
                    for name, value in spelled.signals.items():
                        signals[name][i, e] = value
            bar.update(len(batch))
    made = replace(table.with_hypotheses(hypotheses), metadata={**table.metadata, "decoding": asdict(decoder.options)})
    return replace(made, signals={**made.signals, **signals}, decoder_macs=macs)


def decode_or_reuse(model: MultiExit, table: ExitTable, evaluation_set: EvaluationSet, path: Path, **how) -> ExitTable:
    """The decoded table at `path` if model, data and search are the same; else a new one, written there.

    Its words are logged beside the greedy ones. Arguments as of `decode`.
    """
    made = _stored(path, {**table.metadata, "decoding": asdict(how["decoder"].options)})
    if made is None:
        made = decode(model, table, evaluation_set, **how)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(made, path)
    logger.info(
        "%s: last exit %.2f %% WER greedy, %.2f %% by %s; every exit by it %s",
        evaluation_set.name,
        table.wer_per_exit[-1],
        made.wer_per_exit[-1],
        "attention decoder" if isinstance(how["decoder"], AttentionSearch) else "beam search",
        " ".join(f"{wer:.2f}" for wer in made.wer_per_exit),
    )
    return made


def _stored(path: Path, metadata: dict) -> ExitTable | None:
    if not path.is_file():
        return None
    try:
        table = read_table(path)
    except (ValueError, OSError) as err:
        logger.warning("'%s' cannot be read (%s): decoded again", path, err)
        return None
    same = ("model_digest", "manifest_digest", "audio_digest", "shift", "seed", "precision", "decoding")
    return table if all(table.metadata.get(name) == metadata.get(name) for name in same) else None


class OwnReadings:
    """The deepest exit of a whole set, filled batch by batch."""

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
        """Decode one batch: utterances `rows` of the set, by states (batch, frames, dim) behind the last layer.

        `wavs` (batch, samples) are padded, `n_frames` and `n_samples` the valid ones, `drafts` the last CTC exit's
        transcripts.
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

        `columns`: `hypotheses, signals, word_lists, averaged_hypotheses, cost_macs, head_macs` of the CTC exits.
        `duration_s` (n_utterances,): seconds.
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


WHISPER_SAMPLES = 480_000  # 30 s
MULTILINGUAL_TOKENS = 51_865  # Whisper's English vocabulary is one smaller
SIGNALS = ("token_entropy", "sequence_log_prob")


def has_own_decoder(source: str) -> bool:
    """Whether a checkpoint was saved with a decoder that speaks (`...ForConditionalGeneration`)."""
    from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_config

    names = checkpoint_config(source).architectures or []
    return any(name.endswith("ForConditionalGeneration") for name in names)


class OwnDecoderLens:
    """A Whisper or Moonshine whose decoder reads every layer of its encoder.

    ValueError if its tokenizer cannot be read.
    """

    def __init__(self, source: str, settings: dict, *, device: str):
        from transformers import AutoModelForSpeechSeq2Seq, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, TypeError) as err:
            raise ValueError(
                f"'{source}' has a decoder but no readable tokenizer: copy its tokenizer's files into it ({err})"
            ) from err
        self.encoder = build_encoder(settings).to(device).eval()
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(source, dtype=torch.float32).to(device).eval()
        self.is_whisper = self.model.config.model_type == "whisper"
        self.device, config = device, self.model.generation_config
        self.never, self.never_first = list(config.suppress_tokens or []), list(config.begin_suppress_tokens or [])
        self.end = self._id("<|endoftext|>") if self.is_whisper else self.model.config.eos_token_id
        names = self.tokenizer.get_vocab()
        self.languages = sorted(i for name, i in names.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", name))
        linear = {n: m for n, m in self.model.get_decoder().named_modules() if isinstance(m, torch.nn.Linear)}
        of_frames = [m.weight.numel() for n, m in linear.items() if re.search(r"encoder_attn\.[kv]_proj", n)]
        self.frame_macs = sum(of_frames)
        self.token_macs = sum(m.weight.numel() for m in linear.values()) - self.frame_macs
        self.token_macs += self.model.get_output_embeddings().weight.numel()

    @property
    def all_exit_layers(self) -> list[int]:
        """Every layer of the encoder."""
        return list(range(1, self.encoder.n_layers + 1))

    @property
    def digest(self) -> str:
        """SHA-256 over the weights, encoder and decoder."""
        found = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def _id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)

    @torch.no_grad()
    def states(self, wav: torch.Tensor) -> torch.Tensor:
        """(samples,) -> states of every layer as the decoder would see them, (layers, frames, dim)."""
        if self.is_whisper and len(wav) < WHISPER_SAMPLES:
            wav = torch.nn.functional.pad(wav, (0, WHISPER_SAMPLES - len(wav)))
        walk = Walk(self.encoder, wav[None].to(self.device), torch.tensor([len(wav)], device=self.device))
        inner = [self.encoder.final_norm(walk.advance(layer)) for layer in range(1, self.encoder.n_layers)]
        return torch.cat([*inner, walk.advance(self.encoder.n_layers)])

    def prompt(self, states: torch.Tensor) -> list[int]:
        """Tokens that a transcript begins with; a multilingual Whisper hears the language in its last layer."""
        if not self.is_whisper:
            return [self.model.config.decoder_start_token_id]
        start = [self._id("<|startoftranscript|>")]
        several = getattr(self.model.generation_config, "is_multilingual", None)
        if several if several is not None else self.model.config.vocab_size >= MULTILINGUAL_TOKENS:
            logits = self._step(states[-1:], torch.tensor([start], device=self.device), None).logits[0, -1]
            start += [self.languages[int(logits[self.languages].argmax())], self._id("<|transcribe|>")]
        return [*start, self._id("<|notimestamps|>")]

    def _step(self, states, ids, cache):
        from transformers.modeling_outputs import BaseModelOutput

        memory = BaseModelOutput(last_hidden_state=states)
        memory.attention_mask = None  # Moonshine's model asks for it
        cached = {cache_name(self.model): cache}
        return self.model(encoder_outputs=memory, decoder_input_ids=ids, use_cache=True, **cached)

    @torch.no_grad()
    def spell(self, states: torch.Tensor, *, most: int) -> tuple[list[list[int]], dict[str, np.ndarray]]:
        """Greedy tokens of every layer, without beginning and end, and how sure the decoder was.

        `states` (layers, frames, dim): see `states`; the layers are a batch.

        Returns
        -------
        tokens : list of list of int
            By layer.
        signals : dict of str to np.ndarray of shape (layers,)
            `token_entropy` and `sequence_log_prob`, nats, the mean over tokens and the end.
        """
        start = self.prompt(states)
        ids = torch.tensor([start] * len(states), device=self.device)
        cache = new_cache()  # filled in place
        most = min(most, getattr(self.model.config, "max_target_positions", most + len(start)) - len(start))
        tokens: list[list[int]] = [[] for _ in states]
        totals, spoken = {name: np.zeros(len(states)) for name in SIGNALS}, np.zeros(len(states))
        going = np.ones(len(states), dtype=bool)
        for step in range(most):
            out = self._step(states, ids, cache)
            logits = out.logits[:, -1].float()
            logits[:, self.never + (self.never_first if step == 0 else [])] = -torch.inf
            log_probs = torch.log_softmax(logits, dim=-1)
            best, chosen = log_probs.max(dim=-1)
            totals["sequence_log_prob"] += np.where(going, best.cpu().numpy(), 0.0)
            totals["token_entropy"] += np.where(going, torch.special.entr(log_probs.exp()).sum(-1).cpu().numpy(), 0.0)
            spoken += going
            going &= (chosen != self.end).cpu().numpy()
            for row in np.flatnonzero(going):
                tokens[row].append(int(chosen[row]))
            if not going.any():
                break
            ids = torch.where(torch.as_tensor(going, device=self.device), chosen, self.end)[:, None]
        return tokens, {name: total / np.maximum(spoken, 1) for name, total in totals.items()}

    def text(self, tokens: list[int]) -> str:
        """As the checkpoint writes it, cased and punctuated."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def macs(self, n_tokens: int, n_frames: int) -> float:
        """Multiply-accumulates of decoding so many tokens: projections, attention over frames, the vocabulary."""
        config = self.model.config
        layers = getattr(config, "decoder_num_hidden_layers", None) or config.decoder_layers
        attention = 2 * n_tokens * (n_frames + n_tokens / 2) * self.encoder.dim * layers
        return float(self.frame_macs * n_frames + self.token_macs * n_tokens + attention)

    def read(self, wav: torch.Tensor) -> tuple[list[str], dict[str, np.ndarray], list[float]]:
        """Texts, signals and decoder MACs of every layer for one waveform (samples,) at 16 kHz."""
        states = self.states(wav)
        tokens, signals = self.spell(states, most=most_tokens(len(wav)))
        costs = [self.macs(len(one) + 1, states.shape[1]) for one in tokens]
        return [self.text(one) for one in tokens], signals, costs


def normalised(text: str, normaliser: str) -> str:
    """A transcript by the rule of the references; English numbers are spelled out."""
    if normaliser == "letters":
        return NORMALISERS["letters"](text, unreadable="remove") or ""
    if normaliser in ("english", "an4"):
        return plain_words(text)
    return NORMALISERS[normaliser](text) if normaliser in NORMALISERS else " ".join(text.split())


def collect(
    lens: OwnDecoderLens,
    one: EvaluationSet,
    path: Path,
    *,
    metadata: dict,
    read: Callable[[str], torch.Tensor],
    limit: int | None,
    progress: bool = True,
) -> ExitTable:
    """The exit table of one set, an exit after every layer; the one at `path` if it is what would be collected.

    Heads' cost (`head_macs`) is the decoder's: every exit that is read has it decode anew.

    `limit`: an evenly spaced slice of each manifest.
    """
    if path.is_file():
        found = read_table(path)
        known = found.metadata
        if all(known.get(name) == metadata[name] for name in ("model_digest", "manifest_digest")) and (
            known.get("audio_state") == metadata["audio_state"]
            or known.get("audio_digest") == audio_digest(recordings(one.manifests))
        ):
            logger.info("%s: checkpoint and data are the same, table reused", path)
            return found
    items = manifest_items(one.manifests, limit=limit)
    normaliser = read_description(one.manifests[0])["normaliser"]
    texts, signals, heads, costs, samples = [], {name: [] for name in SIGNALS}, [], [], []
    n_layers = lens.encoder.n_layers
    for item in tqdm(items.values(), desc=one.name, unit="utt", disable=not progress):
        wav = read(item["wav"])
        found, sure, macs = lens.read(wav)
        texts.append([normalised(text, normaliser) for text in found])
        for name, values in sure.items():
            signals[name].append(values)
        heads.append(macs)
        n = max(len(wav), WHISPER_SAMPLES) if lens.is_whisper else len(wav)
        front, layer = lens.encoder.front_end_macs(n), lens.encoder.layer_macs(int(lens.encoder.frames_for(n)))
        costs.append([front + depth * layer for depth in range(1, n_layers + 1)])
        samples.append(len(wav))
    table = ExitTable.from_hypotheses(
        texts,
        [split_language(item["words"])[1] for item in items.values()],
        utt_ids=list(items),
        speakers=[item["speaker"] for item in items.values()],
        exit_layers=list(range(1, n_layers + 1)),
        duration_s=np.array(samples) / 16000,
        n_frames=[int(lens.encoder.frames_for(n)) for n in samples],
        signals={name: np.array(values) for name, values in signals.items()},
        cost_macs=np.array(costs),
        head_macs=np.array(heads),
        metadata={**metadata, "audio_digest": audio_digest(recordings(one.manifests)), "decoding": "own"},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)
    return table
