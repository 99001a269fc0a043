"""Policies: the rules that decide, exit by exit, whether to stop; combined, as text, fitted, on disk."""

from eeasr_modules.old_names import looked_up

__getattr__ = looked_up(__name__)
