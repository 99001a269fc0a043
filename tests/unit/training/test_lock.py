"""A run folder is one process's at a time, and a dead one keeps nothing."""

import signal
import socket
import subprocess
import sys

import pytest

from eeasr_modules.training.run_folder import hold, release_all


def test_a_folder_is_held_until_its_process_ends_however_that_is(tmp_path, root):
    held = f"from eeasr_modules.training.run_folder import hold; hold({str(tmp_path)!r})"
    code = f"{held}; print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(ValueError, match=rf"in use by process {other.pid} on {socket.gethostname()}: wait until"):
            hold(tmp_path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    hold(tmp_path)
    hold(tmp_path)  # its own
    release_all()
