"""One's own data in three CSV listings, of tones as speech: 12 recordings to train on, 4 to choose and 4 to test."""

import numpy as np
import soundfile
from tones import spoken

WORDS = ["NO", "GO", "ON", "SO"]
COUNTS = {"train": 12, "dev": 4, "test": 4}


def make_corpus(folder):
    """The folder; speakers are `train0` to `train2`, `dev0` and `test0` and so on, no two splits share one."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    for split, n in COUNTS.items():
        lines = ["wav,text,speaker"]
        for i in range(n):
            text = " ".join(rng.choice(WORDS, size=3))
            soundfile.write(folder / f"{split}{i}.wav", spoken(text, rng=rng), 16000)
            lines.append(f"{split}{i}.wav,{text},{split}{i % 3}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder
