"""`eeasr probe`: what exits would bring a checkpoint; a stock SpeechBrain run as one."""

from eeasr_modules.old_names import looked_up

__getattr__ = looked_up(__name__)  # names of `training.probe`, which was a module
