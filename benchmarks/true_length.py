"""Does Whisper's own decoder follow an encoder that hears no more than the speech, or does it need its 30 seconds?

    python benchmarks/true_length.py openai/whisper-base runs/x/manifests/commonvoice_dev.csv -o results/true-length

Every utterance is followed by so much silence, the encoder runs over that length (positions cut), the decoder decodes
greedily (English, transcribe, no timestamps, the usual tokens suppressed): pooled WER, processor seconds as a share of
those at 30 s.
"""

# ruff: noqa: E402 (threads are told how to wait before torch is loaded)

import argparse
import json
import sys
import time
from pathlib import Path

from eeasr_modules.common.files import write_aside
from eeasr_modules.compat import ensure_torchaudio, wait_passively

wait_passively()
ensure_torchaudio()

import torch

from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.data.text import normalise_english
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.report.render.markdown import markdown_table

RATE = 16000  # Hz
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
SILENCES_S = (0.0, 0.5, 1.0, 2.0, 5.0, None)  # behind the speech; None fills up to 30 s


class OwnDecoder:
    """Whisper, encoder over any length, decoder greedy.

    Arguments
    ---------
    checkpoint : str
        Hub id or local folder.
    """

    def __init__(self, checkpoint: str):
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        self.model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.extractor = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        known = self.tokenizer.get_vocab()
        self.prompt = [known[token] for token in PROMPT]
        self.end, self.first_time = known["<|endoftext|>"], known["<|notimestamps|>"] + 1
        self.suppressed = [*(self.model.generation_config.suppress_tokens or []), *self.prompt]

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor, *, silence_s: float | None) -> str:
        """Transcript of a waveform (samples,) followed by silence; None fills up to 30 s."""
        states = self._states(wav, silence_s)
        tokens, given, cache = [], torch.tensor([self.prompt]), None
        for step in range(8 + int(8 * len(wav) / RATE)):
            out = self.model.model.decoder(
                input_ids=given, encoder_hidden_states=states, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            scores = self.model.proj_out(out.last_hidden_state[0, -1]).float()
            scores[self.suppressed] = scores[self.first_time :] = -torch.inf
            if step == 0:
                scores[self.end] = -torch.inf
            token = int(scores.argmax())
            if token == self.end:
                break
            tokens.append(token)
            given = torch.tensor([[token]])
        return self.tokenizer.decode(tokens)

    def _states(self, wav: torch.Tensor, silence_s: float | None) -> torch.Tensor:
        n_samples = 30 * RATE if silence_s is None else len(wav) + int(silence_s * RATE)
        n_samples = -(-max(n_samples, len(wav)) // 320) * 320
        wav = torch.nn.functional.pad(wav, (0, n_samples - len(wav)))
        features = self.extractor(
            wav.numpy(), sampling_rate=RATE, padding=False, truncation=False, return_tensors="pt"
        ).input_features
        encoder = self.model.model.encoder
        x = torch.nn.functional.gelu(encoder.conv1(features))
        x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        return encoder.layer_norm(x)


def measure(decoder: OwnDecoder, items: dict[str, dict]) -> list[dict]:
    """A row per length of silence."""
    read = AudioCache(1000, sample_rate=RATE)
    wavs = [read(item["wav"]) for item in items.values()]
    references = [item["words"] for item in items.values()]
    rows = []
    for silence_s in SILENCES_S:
        start = time.process_time()
        heard = [normalise_english(decoder(wav, silence_s=silence_s), unreadable="remove") or "" for wav in wavs]
        seconds = time.process_time() - start
        errors = sum(sum(count_edits(*pair)) for pair in zip(references, heard, strict=True))
        n_words = sum(len(reference.split()) for reference in references)
        rows.append({"silence_s": silence_s, "wer": 100 * errors / n_words, "processor_s": seconds})
        print(rows[-1], file=sys.stderr, flush=True)
    return [{**row, "of_30_s": row["processor_s"] / rows[-1]["processor_s"]} for row in rows]


def main() -> None:
    """Measure and write `true-length.json` and `README.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--limit", type=int, default=100, help="utterances, evenly spaced")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(OwnDecoder(options.checkpoint), manifest_items([options.manifest], limit=options.limit))
    options.output.mkdir(parents=True, exist_ok=True)
    found = {
        "set": options.manifest.stem,
        "n_utterances": options.limit,
        "isa": torch.backends.cpu.get_cpu_capability(),
    }
    found |= {"torch": torch.__version__, "rows": rows}
    (options.output / "true-length.json").write_text(json.dumps(found, indent=1) + "\n")
    header = ("silence behind the speech", "WER %", "processor seconds, of those at 30 s")
    cells = [
        (
            "up to 30 s" if row["silence_s"] is None else f"{row['silence_s']:g} s",
            f"{row['wer']:.1f}",
            f"{row['of_30_s']:.2f}",
        )
        for row in rows
    ]
    text = f"""# Whisper's own decoder at true length

Whisper base, {options.limit} utterances of {options.manifest.stem}, greedy, float32, one thread, {found["isa"]}:

{markdown_table(header, cells)}

The decoder was trained with 30 s, silence included: without it, it does not stop where the speech does and repeats
itself. An exit that is Whisper's own decoder has to be charged an encoder over 30 s; CTC heads hear the true length.

    python benchmarks/true_length.py openai/whisper-base {options.manifest.name} -o results/true-length
"""
    write_aside(options.output / "README.md", text)


if __name__ == "__main__":
    main()
