"""`eeasr demo` as a browser sees it: served from this machine alone, an example transcribed exit by exit."""

import json
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import soundfile
from chromium import AXE, CHROMIUM, DRIVER, NO_AXE, Chromium

pytest.importorskip("gradio", reason="no gradio: pip install 'eeasr[demo]' to test the demo")
pytestmark = pytest.mark.slow
needs_driver = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromedriver: install chromium-driver to use the page as a person does"
)
READY = "return ['Transcribe', 'Examples'].every((label) => document.body.innerText.includes(label))"
HEARD = "return document.querySelector('.stops')?.innerText"
SEEN = "[...document.querySelectorAll('button')].filter((one) => one.getClientRects().length)"
FOCUS = """const one = document.activeElement;
const label = one.getAttribute("aria-label") || one.innerText.trim();
return [one.tagName, one.type || "", label, getComputedStyle(one).outlineStyle]
"""


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
    assert line.startswith("Heard ") and exits.count('<tr><th scope="row">') == 5
    assert "the oracle stops here" in exits and "layers saved" in policies
    assert len(job.outputs()) >= 5  # one step an exit


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to test the page in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_it_shows_its_controls_wide_and_narrow(address, tmp_path, width):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += ["--virtual-time-budget=15000", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=90).stdout
    for label in ("Recording", "What was said", "Budget", "Transcribe", "Examples"):
        assert label in page


@pytest.fixture
def microphone(root, tmp_path):
    """A WAV file that is heard in place of a microphone, over and over: a sentence of the corpus and a pause."""
    wav, rate = soundfile.read(root / "eeasr_modules/demo/examples/storm.opus")
    path = tmp_path / "spoken.wav"
    soundfile.write(path, np.concatenate([wav, np.zeros(rate // 2)]), rate, subtype="PCM_16")
    return path


@needs_driver
def test_what_is_spoken_into_the_microphone_is_heard(address, microphone):
    with Chromium(width=1280, microphone=microphone) as browser:
        browser.go(address)
        browser.wait(READY)
        press = f"const one = {SEEN}.find((one) => one.innerText.trim() === '%s'); one?.click(); return Boolean(one)"
        browser.wait(press % "Record")
        time.sleep(6)
        browser.wait(press % "Stop")
        policies = browser.wait(HEARD, seconds=120)
        exits = browser.run("return document.querySelector('.exits').innerText")
        line = browser.run("return document.querySelector('#progress').innerText")
    assert re.search(r"Heard \d+\.\d s by 5 exits", line) and "layers saved" in policies
    assert {"STORM", "COME"} & set(exits.split())


@needs_driver
def test_it_is_used_without_a_mouse_on_a_narrow_screen(address):
    with Chromium(width=390) as browser:
        browser.go(address)
        browser.wait(READY)
        reached = []
        while not any(tag == "TD" for tag, *_ in reached) and len(reached) < 20:
            browser.press("Tab")
            reached.append(browser.run(FOCUS))
        assert {"Transcribe", "Upload file", "Record"} <= {label for _, _, label, _ in reached}
        assert ("INPUT", "range") in [(tag, kind) for tag, kind, *_ in reached]
        assert all(outline != "none" for *_, outline in reached)  # one sees where one is
        browser.press("Enter")  # the first example
        before = browser.wait(HEARD, seconds=120)
        browser.run("document.querySelector('input[type=range]').focus()")
        browser.press(*["Left"] * 6)
        browser.wait(f"return document.querySelector('.stops')?.innerText !== {json.dumps(before)}")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.run("return document.querySelector('#progress').getAttribute('aria-live')") == "polite"


@needs_driver
@pytest.mark.skipif(AXE is None, reason=NO_AXE)
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_wrong_before_and_after_an_example(address, width):
    gradios = "label-content-name-mismatch"  # of the player's button "1x", which is named "Adjust playback speed"
    with Chromium(width=width) as browser:
        browser.go(address)
        browser.wait(READY)
        assert browser.violations() == []
        browser.run("[...document.querySelectorAll('td')].find((one) => one.innerText.includes('storm')).click()")
        browser.wait(HEARD, seconds=120)
        time.sleep(1)  # what fades in is pale until it is there
        assert [one for one in browser.violations() if one[0] != gradios] == []
