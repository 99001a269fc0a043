"""Early exit for speech recognition: train exits, decide per utterance when to stop, know what it is worth.

Rooms: `exits` (tables, policies, tuning, measures; numpy only), `models` (encoders walked layer by layer, heads,
signals), `data` (manifests, text, audio), `training` (one Brain), `runtime` (the same, live), `report` (numbers and
their rendering), `cli`.
"""

from eeasr_modules import old_names

__version__ = "0.1.0"

old_names.install()
