import subprocess
import sys


def test_importing_the_room_brings_in_nothing_heavy():
    heavy = ["torch", "speechbrain", "transformers", "pyarrow", "sklearn"]
    code = f"import sys, eeasr_modules.exits; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_public_name_is_there():
    from eeasr_modules import exits

    assert [name for name in exits.__all__ if not hasattr(exits, name)] == []
