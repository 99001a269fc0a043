"""Runs inside one process: what a run changes in logging is undone after each test."""

import logging

import pytest

LOGGERS = ("", "eeasr_modules", "speechbrain.utils.train_logger", "speechbrain.utils.epoch_loop")


@pytest.fixture(autouse=True)
def logging_as_before():
    """A run adds handlers that write to its folder and to the terminal as it was then."""
    before = [(one, list(one.handlers), one.level) for one in map(logging.getLogger, LOGGERS)]
    yield
    for one, handlers, level in before:
        for handler in set(one.handlers) - set(handlers):
            handler.close()
        one.handlers[:] = handlers
        one.setLevel(level)
