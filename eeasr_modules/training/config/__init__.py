"""What a YAML may say, and the checks that come before anything is built."""

from eeasr_modules.old_names import looked_up

__getattr__ = looked_up(__name__)
