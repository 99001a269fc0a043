"""The model as transformers knows models: `AutoModelForCTC` and `pipeline` leave early by the same engine.

A model folder's `modeling_eeasr.py` fetches these classes (`models.folder` writes it).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2CTCTokenizer
from transformers.modeling_outputs import CausalLMOutput

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.audio import as_waveform
from eeasr_modules.data.text import WORD_START, CharVocabulary, SentencePieceVocabulary
from eeasr_modules.models.folder import MODEL_TYPE
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.recogniser import EarlyExitASR
from eeasr_modules.runtime.sources import Source

PADDED = -100.0  # log-probability of every token but blank where an utterance has ended
PRECISIONS = {None: "float32", "auto": "float32", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
# Keyword arguments of transformers' own that say where a folder is, or nothing that matters here.
_WHERE = ("revision", "cache_dir", "force_download", "local_files_only", "token")
_IDLE = ("trust_remote_code", "code_revision", "_commit_hash", "commit_hash", "adapter_kwargs", "attn_implementation")
_IDLE += ("low_cpu_mem_usage", "use_safetensors", "_from_pipeline", "_from_auto", "weights_only", "subfolder")


class EarlyExitConfig(PreTrainedConfig):
    """A model folder's `config.json`.

    `exit_policy`: as `EarlyExitASR.from_pretrained` takes `policy`.
    """

    model_type = MODEL_TYPE
    exit_policy: str | None = None
    budget: float | None = None

    def __post_init__(self, **kwargs):
        # the model's settings stay in the folder: `encoder` and `decoder` would be read as configurations
        known = ("auto_map", "architectures", "name_or_path", "_commit_hash", "torch_dtype", "attn_implementation")
        super().__post_init__(**{key: value for key, value in kwargs.items() if key in known})


@dataclass
class EarlyExitOutput(CausalLMOutput):
    """What comes out for a batch.

    `logits` (batch, frames, tokens): log-probabilities of the exit that each utterance left at; blanks where it has
    ended. `exit_layers` (batch,): encoder layers that the exit taken stands on.
    """

    exit_layers: torch.LongTensor | None = None


class EarlyExitForCTC(PreTrainedModel):
    """A CTC model whose utterances leave where the policy says; made by `from_pretrained`."""

    config_class = EarlyExitConfig
    base_model_prefix = "model"
    main_input_name = "input_values"

    def __init__(
        self,
        config: EarlyExitConfig,
        model: MultiExit | None = None,
        vocabulary: CharVocabulary | SentencePieceVocabulary | None = None,
        source: Source | None = None,
        *,
        precision: str = "float32",
    ):
        if model is None:
            raise ValueError("a model with early exits is read from its folder: call from_pretrained, not from_config")
        super().__init__(config)
        self.model, self.vocabulary, self.source, self.precision = model, vocabulary, source, precision
        config.inputs_to_logits_ratio = round(model.frame_s * model.config["sample_rate"])
        config.vocab_size, config.pad_token_id = model.config["n_tokens"], model.blank_index
        self._engines: dict[tuple[str | None, float | None], Engine] = {}
        self.engine()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *args,
        config: EarlyExitConfig | None = None,
        exit_policy: str | None = None,
        budget: float | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | torch.device | dict | None = None,
        **kwargs,
    ) -> EarlyExitForCTC:
        """The model of a folder, or of an id on the hub.

        `exit_policy`, `budget`: in place of the configuration's. `dtype`: of products: float32, bfloat16 or float16;
        weights stay in float32. ValueError when the policy, the budget or another argument is none for this model.
        """
        unknown = sorted({*kwargs} - {*_WHERE, *_IDLE, "torch_dtype"})
        if args or unknown:
            raise ValueError(
                f"{cls.__name__}.from_pretrained takes exit_policy, budget, dtype, device_map and where files are, got "
                f"{', '.join(unknown) or args}"
            )
        where = {key: kwargs[key] for key in _WHERE if kwargs.get(key) not in (None, False)}
        if not Path(name).is_dir() and set(where) - {"local_files_only"}:
            from huggingface_hub import snapshot_download

            name = snapshot_download(str(name), **where)
        config = EarlyExitConfig.from_pretrained(name) if config is None else config
        config.exit_policy = config.exit_policy if exit_policy is None else exit_policy
        config.budget = config.budget if budget is None else budget
        precision = _precision(kwargs.get("torch_dtype") if dtype is None else dtype)
        device = _device(device_map)
        asr = EarlyExitASR.from_pretrained(
            name,
            policy=config.exit_policy,
            budget=config.budget,
            device="cpu",
            # the fast one stays on the CPU
            front_end="stock" if torch.cuda.is_available() else "fast",
        )
        asr.source.refuse_own_decoder("transformers' AutoModelForCTC")
        engine = asr.engine
        return cls(config, engine.model, engine.vocabulary, asr.source, precision=precision).to(device).eval()

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Copy the folder that the model is from; the policy and budget in use go into its `config.json`."""
        folder = Path(save_directory)
        if folder.resolve() != self.source.folder.resolve():
            shutil.copytree(self.source.folder, folder, dirs_exist_ok=True)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings |= {"exit_policy": self.config.exit_policy, "budget": self.config.budget}
        write_aside(folder / "config.json", json.dumps(settings, indent=2) + "\n")

    def engine(self, exit_policy: str | None = None, budget: float | None = None) -> Engine:
        """The engine that decides by a policy; by the configuration's when both are None."""
        if exit_policy is None and budget is None:
            exit_policy, budget = self.config.exit_policy, self.config.budget
        key = (exit_policy, budget)
        if key not in self._engines:
            self._engines[key] = Engine(
                self.model,
                self.vocabulary,
                policy=self.source.policy(exit_policy, budget=budget),
                precision=self.precision,
                language=self.source.config.get("language") or "en",
                gives_log_probs=True,
            )
        return self._engines[key]

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        exit_policy: str | None = None,
        budget: float | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> EarlyExitOutput | tuple[torch.Tensor, torch.Tensor]:
        """Log-probs of the exit that each utterance takes, and which one that is.

        `input_values` (batch, samples): zero-padded waveforms at the model's rate. `attention_mask` (batch, samples): 1
        for samples, 0 for padding; None for no padding. `exit_policy`, `budget`: in place of the configuration's, for
        this batch.
        """
        if labels is not None:
            raise ValueError("a model with early exits is trained by train.py: leave labels out")
        engine = self.engine(exit_policy, budget)
        rate = engine.sample_rate
        samples = [*input_values]
        if attention_mask is not None:
            samples = [row[: int(n)] for row, n in zip(samples, attention_mask.sum(dim=-1), strict=True)]
        wavs = [as_waveform(row.float(), from_rate=rate, sample_rate=rate) for row in samples]
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        names = [f"array-{i}" for i in range(len(wavs))]
        results = engine.run(padded, torch.tensor([len(wav) for wav in wavs]), utt_ids=names)
        n_frames = max(len(one.log_probs) for one in results)
        logits = padded.new_full((len(results), n_frames, len(engine.vocabulary)), PADDED, device=engine.device)
        logits[..., self.model.blank_index] = 0.0
        for row, one in enumerate(results):
            logits[row, : len(one.log_probs)] = one.log_probs.float()
        layers = torch.tensor([one.exit_layer for one in results])
        output = EarlyExitOutput(logits=logits, exit_layers=layers)
        return (logits, layers) if return_dict is False else output


def _precision(dtype: str | torch.dtype | None) -> str:
    name = str(dtype).removeprefix("torch.") if dtype is not None else None
    if name not in PRECISIONS:
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    return PRECISIONS[name]


def _device(device_map: str | torch.device | dict | None) -> str | torch.device:
    if isinstance(device_map, dict):
        if len(devices := {*device_map.values()}) != 1:
            raise ValueError(f"a model with early exits is on one device, got device_map={device_map}")
        device_map = devices.pop()
    if device_map in (None, "auto"):
        return "cuda" if device_map and torch.cuda.is_available() else "cpu"
    return device_map


class SpelledTokenizer(Wav2Vec2CTCTokenizer):
    """Spells paths of tokens of several characters, such as SentencePiece's, as our vocabularies do."""

    def _spelled(self, token: str) -> str:
        special = len(token) > 1 and token.startswith("<") and token.endswith(">")
        if token == self.pad_token or special:
            return ""
        return " " if token == self.word_delimiter_token else token.replace(WORD_START, " ")

    def convert_tokens_to_string(
        self,
        tokens: list[str],
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> dict:
        """Text of a path, and where its characters and words lie, in frames; as in the parent class."""
        runs = [(token, len([*run])) for token, run in groupby(tokens)] if group_tokens else [(t, 1) for t in tokens]
        offsets, start = [], 0
        for token, n_frames in runs:
            spelled, end = self._spelled(token), start + n_frames
            offsets += [{"char": one, "start_offset": start, "end_offset": end} for one in spelled]
            start = end
        while offsets and offsets[0]["char"] == " ":
            offsets.pop(0)
        text = " ".join("".join(one["char"] for one in offsets).split())
        words = self._get_word_offsets(offsets, " ") if output_word_offsets else None
        return {"text": text, "char_offsets": offsets if output_char_offsets else None, "word_offsets": words}
