"""Pretrain an encoder on audio without labels.

    python recipes/Pretrain/pretrain.py recipes/Pretrain/pretrain_small.yaml --audio "[FOLDER, MANIFEST.csv]"

Fine-tune it with exits by `--init_from runs/pretrain_small/encoder` after any YAML with a Conformer of that shape.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

if __name__ == "__main__":
    from recipes.Pretrain.pretraining import main

    sys.exit(main(sys.argv[1:]))
