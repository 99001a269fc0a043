"""What a beam search and a word language model are worth at each exit, and what they cost.

    python benchmarks/decoding.py MODEL runs/small/manifests/commonvoice_test.csv ... --lm runs/lm/english.arpa

Word error rates (pooled, percent) greedy, by beam search, and with the language model; processor seconds of the search
per utterance, and of the encoder up to that exit. Prints a Markdown table; `--record NAME` keeps the numbers in
results/decoding/NAME.json and renews the tables of the README there.
"""

# ruff: noqa: E402 (threads are told how to wait before torch is loaded)
import argparse
import json
import re
import time
from pathlib import Path

from eeasr_modules.compat import wait_passively

wait_passively()

import numpy as np
import torch

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions, greedy_decode
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.report.render.markdown import markdown_table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "decoding"
TABLE = re.compile(r"(<!-- decoding: (\w+) -->\n\n)(?:\|.*\n)*")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--lm", metavar="FILE")
    parser.add_argument("--layers", help="exits to decode, such as 2,4,8 (default: the last)")
    parser.add_argument("--beam-size", type=int, default=60)
    parser.add_argument("--lm-weight", type=float, default=BeamOptions.lm_weight)
    parser.add_argument("--word-score", type=float, default=BeamOptions.word_score)
    parser.add_argument("--record", metavar="NAME", help="keep the numbers in results/decoding")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, vocabulary = MultiExit.load(options.model).eval(), load_vocabulary(options.model)
    layers = [int(part) for part in options.layers.split(",")] if options.layers else [model.exit_layers[-1]]
    shape = {"beam_size": options.beam_size, "lm_weight": options.lm_weight, "word_score": options.word_score}
    ways = {"beam": BeamOptions(**shape)}
    if options.lm:
        ways["beam + LM"] = BeamOptions(lm_file=options.lm, **shape)
    decoders = {
        name: BeamDecoder(vocabulary.tokens, vocabulary.spellings, blank_index=vocabulary.blank_index, options=one)
        for name, one in ways.items()
    }
    rows = []
    for manifest in map(Path, options.manifests):
        rows += measured(model, vocabulary, decoders, manifest, layers)
        print(f"{manifest.stem} done", flush=True)
    print(table(rows), end="")
    if options.record:
        (RESULTS / f"{options.record}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        page = RESULTS / "README.md"
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def table(rows):
    """Markdown of recorded rows."""
    ways = list(rows[0]["wer"])
    header = ["set", "exit", *ways, *(f"{name} s" for name in rows[0]["seconds"])]
    cells = [
        [row["set"], str(row["exit"])]
        + [f"{row['wer'][way]:.2f}" for way in ways]
        + [f"{seconds:.3f}" for seconds in row["seconds"].values()]
        for row in rows
    ]
    return markdown_table(header, cells) + "\n"


def with_tables(text):
    """A page whose tables, each behind `<!-- decoding: NAME -->`, are those of the records."""
    recorded = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    return TABLE.sub(lambda found: found[1] + table(recorded[found[2]]) if found[2] in recorded else found[0], text)


def measured(model, vocabulary, decoders, manifest, layers):
    """What was measured on a set, a record per exit."""
    root, rows = read_description(manifest)["data_folder"], read_manifest(manifest)
    errors = np.zeros((len(layers), 1 + len(decoders)))
    seconds = np.zeros((len(layers), 1 + len(decoders)))
    for row in rows:
        wav = read_audio(audio_path(row.wav, root), model.config["sample_rate"])
        begun = time.process_time()
        with torch.inference_mode():
            for output in model.exits(wav[None], torch.tensor([len(wav)])):
                if output.exit_layer not in layers:
                    continue
                k = layers.index(output.exit_layer)
                seconds[k, 0] += time.process_time() - begun
                log_probs, paused = output.log_probs[0], time.process_time()
                (ids,) = greedy_decode(output.log_probs, output.n_frames, blank_index=vocabulary.blank_index)
                errors[k, 0] += sum(count_edits(row.text, vocabulary.decode(ids)))
                for d, decoder in enumerate(decoders.values(), start=1):
                    at = time.process_time()
                    text = decoder.text(log_probs)
                    seconds[k, d] += time.process_time() - at
                    errors[k, d] += sum(count_edits(row.text, text))
                begun += time.process_time() - paused  # the encoder's clock stands still meanwhile
    ways, clocks = ("greedy", *decoders), ("encoder", *decoders)
    rates, per_utterance = 100 * errors / sum(len(row.text.split()) for row in rows), seconds / len(rows)
    return [
        {
            "set": manifest.stem,
            "exit": layer,
            "wer": {way: round(float(rate), 4) for way, rate in zip(ways, rates[k], strict=True)},
            "seconds": {way: round(float(one), 4) for way, one in zip(clocks, per_utterance[k], strict=True)},
        }
        for k, layer in enumerate(layers)
    ]


if __name__ == "__main__":
    main()
