"""Pooling of survivors, and the time of single requests that come at once.

    python benchmarks/serving.py AUDIO ... [--model eeasr_modules/shipped/base] [--policy TEXT] [--base-shaped]

AUDIO as for `eeasr transcribe`. First table: utterances per second at batch 1, 8 and 32 with and without
`pool_survivors`, interleaved repeats, the ratio round by round; seconds of CPU time, so that a busy machine does not
count, on a GPU of wall clock. Second table, in wall clock: 1, 2, 4 and 8 threads that each send one recording after the
other to one shared `EarlyExitASR`: median, 95th and 99th percentile of a request's seconds, and requests per second.
With `--base-shaped` the encoder is a wav2vec 2.0 base of random weights and the policy `random(0.25)`: times hold,
words mean nothing. One run, one machine; prints Markdown.
"""

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from eeasr_modules.data.text import CharVocabulary  # noqa: E402
from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.report.render.tables import markdown_table  # noqa: E402
from eeasr_modules.runtime import EarlyExitASR  # noqa: E402
from eeasr_modules.runtime.files.inputs import read_material  # noqa: E402


def base_shaped(folder: str) -> str:
    """A model folder: wav2vec 2.0 base of random weights, an exit after every second layer."""
    torch.manual_seed(0)
    encoder = {"encoder": "huggingface", "hf_config": {"model_type": "wav2vec2"}}
    config = {"encoder": encoder, "exit_layers": [2, 4, 6, 8, 10, 12], "n_tokens": 29, "blank_index": 0}
    MultiExit(config).save(f"{folder}/model")
    CharVocabulary().save(Path(folder) / "model")
    return f"{folder}/model"


def pooling_rows(asr: EarlyExitASR, wavs: list[torch.Tensor], *, repeats: int) -> list[list[str]]:
    """Utterances per second without and with pooling, and the ratio."""
    rows, engine = [], asr.engine
    clock = time.process_time if engine.device.type == "cpu" else time.perf_counter
    names = [str(i) for i in range(len(wavs))]
    mean_s = float(np.mean([len(wav) for wav in wavs])) / engine.sample_rate
    for size in (1, 8, 32):
        options = {"utt_ids": names, "batch_seconds": max(size * mean_s, 0.01) if size > 1 else 0.01}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        texts = {}
        for repeat in range(repeats + 1):
            for pooled in (False, True):
                start = clock()
                found = engine.run_all(wavs, pool_survivors=pooled, **options)
                if repeat:
                    seconds[pooled].append(clock() - start)
                texts[pooled] = [(one.text, one.exit_layer) for one in found]
        assert texts[False] == texts[True], "pooling changed what was said"
        ratios = np.divide(seconds[False], seconds[True])
        per_s = [f"{len(wavs) / np.median(seconds[pooled]):.1f}" for pooled in (False, True)]
        rows.append([str(size), *per_s, f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"])
    return rows


def latency_rows(asr: EarlyExitASR, wavs: list[torch.Tensor], *, n_requests: int) -> list[list[str]]:
    """Percentiles of a request's time by the number of threads that send requests."""
    rows = []
    for n_threads in (1, 2, 4, 8):
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        for i in range(n_requests):
            waiting.put(wavs[i % len(wavs)].numpy())
        taken: list[float] = []

        def serve(waiting=waiting, taken=taken) -> None:
            while True:
                try:
                    wav = waiting.get_nowait()
                except queue.Empty:
                    return
                start = time.perf_counter()
                asr.transcribe(wav)
                taken.append(time.perf_counter() - start)

        threads = [threading.Thread(target=serve) for _ in range(n_threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = time.perf_counter() - start
        percentiles = [f"{1000 * value:.0f}" for value in np.percentile(taken, [50, 95, 99])]
        rows.append([str(n_threads), str(len(taken)), *percentiles, f"{len(taken) / total:.1f}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="AUDIO")
    parser.add_argument("--model", default=str(ROOT / "eeasr_modules/shipped/base"))
    parser.add_argument("--policy")
    parser.add_argument("--base-shaped", action="store_true")
    parser.add_argument("--limit", type=int, default=130)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = base_shaped(folder) if options.base_shaped else options.model
        policy = options.policy or ("random(0.25)" if options.base_shaped else None)
        asr = EarlyExitASR.from_pretrained(model, policy=policy, device=options.device)
        material = read_material(options.inputs, sample_rate=asr.engine.sample_rate, limit=options.limit)
    wavs = list(material.wavs)
    audio_s = sum(map(len, wavs)) / asr.engine.sample_rate
    name = "wav2vec 2.0 base of random weights" if options.base_shaped else Path(options.model).name
    print(f"{name}, `{asr.policy}`, {options.device}, one thread, torch {torch.__version__};", end=" ")
    print(f"{len(wavs)} recordings, {audio_s:.0f} s.\n")
    header = ["batch", "utterances/s, batch by batch", "pooled", "times as fast, median (range)"]
    print(markdown_table(header, pooling_rows(asr, wavs, repeats=options.repeats)), "\n")
    header = ["threads", "requests", "p50 ms", "p95 ms", "p99 ms", "requests/s"]
    print(markdown_table(header, latency_rows(asr, wavs, n_requests=options.requests)))


if __name__ == "__main__":
    main()
