"""Early exit for speech recognition: train exits, decide per utterance when to stop, know what it is worth.

Rooms: `exits` (tables, policies, bounds, statistics; numpy only), `models` (encoders walked layer by layer, heads,
signals), `data` (manifests, text, audio), `training` (one Brain), `report` (tables, figures, page), `cli`.
"""

__version__ = "0.1.0"
