"""Memory, time and cores that preparing a corpus of 1,000 hours takes.

    python benchmarks/preparation.py FOLDER [--utterances 281241] [--recipes "LibriSpeech; Custom"] [--decode]

Makes in FOLDER a tree shaped as LibriSpeech's 960 hours: 281,241 utterances of 12.3 s in chapters of 51 with their
transcripts; every file is a hard link to one of a few FLAC files, so reading is from memory and a real disk adds its
own time. Beside it `train.csv` lists the same files for the recipe Custom. A tree that is there is used again. Each
recipe's `prepare` then runs in a process of its own: peak resident memory, wall time, processor time, cores wanted
(threads that ran or waited for one, the most over 4 s: other work on the machine does not change it), threads, and how
often progress was shown. A second run finds nothing changed. Linux only. Prints Markdown.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402

PER_CHAPTER, PER_SPEAKER = 51, 120
PER_SOURCE = 20_000  # hard links to one file: file systems allow 65,000
SECONDS, WORDS = 12.3, 33
SPLIT = "train-960"
PREPARE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from eeasr_modules.training.corpora import load_recipe
recipe = load_recipe(Path({root!r}) / "recipes" / {recipe!r})
recipe.prepare({data!r}, {save!r}, splits=[{split!r}], decode={decode})
"""


def make_tree(folder: Path, n_utterances: int) -> None:
    """`LibriSpeech/train-960/<speaker>/<chapter>/` and `custom/train.csv`; nothing where they are there already."""
    done = folder / f"made_{n_utterances}"
    if done.exists():
        return
    rng = np.random.default_rng(0)
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    wave = np.cumsum(
        rng.standard_normal(round(SECONDS * 16000))
    )  # brown noise: FLAC makes of it what it makes of speech
    for number in range(-(-n_utterances // PER_SOURCE)):
        soundfile.write(sources / f"{number}.flac", 0.1 * wave / np.abs(wave).max(), 16000)
    words = ["".join(letters) for letters in rng.choice([*"ETAOINSHRDLU"], size=(2000, 4))]
    (folder / "custom").mkdir(exist_ok=True)
    with (folder / "custom" / "train.csv").open("w", encoding="utf-8") as listing:
        listing.write("ID,wav,spk_id,wrd\n")
        for first in range(0, n_utterances, PER_CHAPTER):
            speaker, chapter = str(100 + first // PER_SPEAKER), str(100_000 + first // PER_CHAPTER)
            inside = folder / "LibriSpeech" / SPLIT / speaker / chapter
            inside.mkdir(parents=True, exist_ok=True)
            lines = []
            for number in range(first, min(first + PER_CHAPTER, n_utterances)):
                name = f"{speaker}-{chapter}-{number - first:04d}"
                os.link(sources / f"{number // PER_SOURCE}.flac", inside / f"{name}.flac")
                lines.append(f"{name} {' '.join(rng.choice(words, size=WORDS))}")
                text = lines[-1].partition(" ")[2]
                listing.write(f"{name},{inside.resolve() / name}.flac,{speaker},{text}\n")
            (inside / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done.touch()


def status_of(pid: int) -> tuple[float, int, float]:
    """Peak resident MiB of a process, its threads, and seconds that they ran or waited for a core so far (Linux)."""
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024
    wanted = [path.read_text().split()[:2] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return peak, len(wanted), sum(int(ns) for pair in wanted for ns in pair) / 1e9


def watched(command: list[str]) -> dict[str, float]:
    """Run a command: peak MiB, wall and processor seconds, cores wanted at once, threads, and progress shown."""
    started, seen, shown = time.monotonic(), [], []
    before = os.times()
    process = subprocess.Popen(command, stderr=subprocess.PIPE)

    def read():
        while part := process.stderr.read1():
            shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    while process.poll() is None:
        with contextlib.suppress(OSError, AttributeError):  # it, or a thread of it, has just ended
            seen.append((time.monotonic(), *status_of(process.pid)))
        time.sleep(0.2)
    reader.join()
    said, after = b"".join(shown).decode(), os.times()
    if process.returncode:
        raise RuntimeError(f"the preparation failed: {said[-2000:]}")
    spans = zip(seen, seen[20:])  # 4 s; a thread that ends takes its seconds along, so some spans are too small
    cores = [(later[3] - now[3]) / (later[0] - now[0]) for now, later in spans if later[2] == now[2]]
    return {
        "peak_mib": max(one[1] for one in seen),
        "wall_s": time.monotonic() - started,
        "cpu_s": after.children_user + after.children_system - before.children_user - before.children_system,
        "cores": max(cores, default=0.0),
        "threads": max(one[2] for one in seen),
        "shown": len(re.findall(r"\d+/\d+ \[", said)),
    }


def main() -> int:
    """Make the tree, prepare it twice with each recipe, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the tree and the manifests, on a file system with hard links")
    parser.add_argument("--utterances", type=int, default=281_241)
    parser.add_argument("--recipes", default="LibriSpeech; Custom", help="some of these, between semicolons")
    parser.add_argument("--decode", action="store_true", help="read every file to its end, not its header alone")
    options = parser.parse_args()
    make_tree(options.folder, options.utterances)
    places = {"LibriSpeech": (options.folder / "LibriSpeech", SPLIT), "Custom": (options.folder / "custom", "train")}
    rows = []
    for recipe in (name.strip() for name in options.recipes.split(";")):
        data, split = places[recipe]
        save = options.folder / f"manifests_{recipe}"
        for old in save.glob("*"):
            old.unlink()
        values = {"root": str(ROOT), "recipe": recipe, "data": str(data), "save": str(save), "split": split}
        for run in ("first", "again"):
            got = watched([sys.executable, "-c", PREPARE.format(**values, decode=options.decode)])
            rows.append([recipe, run, f"{got['peak_mib']:.0f}", f"{got['wall_s']:.0f}", f"{got['cpu_s']:.0f}"])
            rows[-1] += [f"{got['cores']:.1f}", f"{got['threads']}", f"{got['shown']}"]
    hours = options.utterances * SECONDS / 3600
    how = "decoded to the end" if options.decode else "headers only"
    print(f"{options.utterances} utterances, {hours:.0f} h, {how}; {os.cpu_count()} cores.\n")
    columns = ["recipe", "run", "peak MiB", "wall s", "processor s", "cores wanted", "threads", "progress shown"]
    print(markdown_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
