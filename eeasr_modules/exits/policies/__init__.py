"""Policies: the rules that decide, exit by exit, whether to stop; combined, as text, fitted, on disk.

The names of `protocol` and `rules` may be imported from here.
"""

from eeasr_modules.exits.policies import protocol, rules


def __getattr__(name: str) -> object:
    """A name of `rules` or `protocol`: both were this one module before."""
    for module in (rules, protocol):
        if not name.startswith("__") and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
