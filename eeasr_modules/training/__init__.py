"""Configuration, the one Brain, and the test pass that writes exit tables."""

import logging

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

# SpeechBrain's logger says at import that it cannot save figures without torchvision; nobody asked it to
logging.getLogger("speechbrain.utils.train_logger").addFilter(lambda record: "torchvision" not in record.getMessage())
