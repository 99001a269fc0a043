"""`eeasr demo` as a browser sees it: served from this machine alone, an example transcribed exit by exit."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("gradio", reason="no gradio: pip install 'eeasr[demo]' to test the demo")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    log = tmp_path_factory.mktemp("demo") / "log"
    command = [sys.executable, "-m", "eeasr_modules.cli", "demo", "--no-browser"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.2)
        assert found, log.read_text()
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_the_page_asks_nothing_of_other_machines(address):
    page = urllib.request.urlopen(address, timeout=20).read().decode()
    config = urllib.request.urlopen(f"{address}config", timeout=20).read().decode()
    fetched = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?://[^\"]+)", page)
    assert [url for url in fetched if not url.startswith(address)] == []
    assert json.loads(config)["analytics_enabled"] is False


def test_an_example_is_heard_exit_by_exit_and_policies_stop(address, root):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    job = client.submit(
        handle_file(str(root / "eeasr_modules/demo/examples/storm.opus")),
        "Thou shalt ascend and come like a storm.",
        0.75,
        api_name="/hear",
    )
    line, exits, policies = job.result(timeout=60)[:3]
    assert line.startswith("Heard ") and exits.count('<tr><th scope="row">') == 8
    assert "the oracle stops here" in exits and "layers saved" in policies
    assert len(job.outputs()) >= 8  # one step an exit


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to test the page in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_it_shows_its_controls_wide_and_narrow(address, tmp_path, width):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += ["--virtual-time-budget=15000", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=90).stdout
    for label in ("Recording", "What was said", "Budget", "Transcribe", "Examples"):
        assert label in page
