"""The page of a report in headless Chromium: it draws without an error, fits narrow and wide screens, and works."""

import html
import json
import re
import subprocess

import numpy as np
import pytest
from chromium import AXE, CHROMIUM, DRIVER, NO_AXE, Chromium

from eeasr_modules.exits import ExitTable
from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to test the page in a browser"),
]
# Runs after the page's own script and tells the frame around the page, which --dump-dom prints, what it found.
PROBE = """
<script>
window.addEventListener("load", () => {
  const results = {kinds: {}};
  const choose = (id, value) => {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const found = () => document.getElementById("found").textContent;
  results.width = document.documentElement.clientWidth;
  results.scrollWidth = document.documentElement.scrollWidth;
  const sections = [...document.querySelectorAll("main section")];
  results.sections = sections.filter((s) => s.textContent.trim().length < 20).length;
  results.paths = document.querySelectorAll("#frontier svg path").length;
  for (const option of document.getElementById("kind").options) {
    choose("kind", option.value);
    results.kinds[option.value] = parseInt(found());
  }
  choose("kind", "all");
  results.marks = document.querySelectorAll("#utterances .sub, #utterances ins, #utterances del").length;
  results.left = document.querySelectorAll("#utterances .badge.policy").length;
  const query = document.getElementById("query");
  query.value = "test-17"; query.dispatchEvent(new Event("input"));
  results.search = parseInt(found());
  const svg = document.querySelector("#frontier svg");
  svg.focus();
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  results.tip = document.querySelector("#frontier .tip").textContent;
  [...document.querySelectorAll("#costs button")].forEach((b) => b.textContent === "MACs" && b.click());
  results.axis = document.querySelector("#frontier svg").textContent;
  for (const option of document.getElementById("set").options) choose("set", option.value);
  results.lastSet = document.getElementById("h-set").textContent;
  results.note = found();
  results.unnamed = [...document.querySelectorAll("input, select")].filter((e) => !e.closest("label")).length;
  results.errors = window.failures;
  parent.postMessage(results, "*");
});
</script>
"""
FRAME = """<iframe src="PAGE" style="width:WIDTHpx;height:900px;border:0"></iframe>
<pre id="out"></pre>
<script>
addEventListener("message", (e) => { document.getElementById("out").textContent = JSON.stringify(e.data); });
</script>
"""
CATCH = "<script>window.failures = []; window.onerror = (m) => { window.failures.push(String(m)); };</script>"


def spoken(name, *, seed, references=True, label="in_domain"):
    rng = np.random.default_rng(seed)
    words = np.array(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"])
    said = [words[rng.integers(10, size=rng.integers(2, 9))] for _ in range(60)]
    hypotheses = [
        [
            " ".join(w for w in np.where(rng.random(len(s)) < p, rng.choice(words, len(s)), s))
            for p in (0.5, 0.2, 0.1, 0.12)
        ]
        for s in said
    ]
    seconds = np.array([0.5 + 0.4 * len(s) for s in said])
    table = ExitTable.from_hypotheses(
        hypotheses,
        [" ".join(s) for s in said],
        utt_ids=[f"{name}-{i}" for i in range(60)],
        speakers=[f"speaker{i % 10}" for i in range(60)],
        exit_layers=[3, 6, 9, 12],
        duration_s=seconds,
        n_frames=(50 * seconds).astype(int),
        signals={"entropy": rng.random((60, 4))},
        cost_macs=1e9 * seconds[:, None] * np.array([5.0, 6, 7, 8]),
        head_macs=1e7 * seconds[:, None] * np.ones(4),
        metadata={"set_name": name, "set_label": label, "n_layers": 12},
    )
    return table if references else table.without_references()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report's page with a probe in it."""
    out = tmp_path_factory.mktemp("page")
    tables = [spoken("test", seed=0), spoken("<b>odd", seed=1, references=False, label="ood")]
    policies = ["between(entropy), between(patience(1)), random"]
    write_report(
        tables, out, dev=None, policies=policies, policy=None, budget=0.75, other_budgets=[0.6], risk=RiskTarget(5, 0.1)
    )
    text = (
        (out / "report.html")
        .read_text("utf-8")
        .replace("<head>", f"<head>{CATCH}")
        .replace("</body>", f"{PROBE}</body>")
    )
    (out / "probed.html").write_text(text, encoding="utf-8")
    return out


def chromium(*arguments, folder):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def probed(folder, *, width):
    """What the probe found; in a frame, which can be narrower than any window."""
    frame = folder / f"frame{width}.html"
    frame.write_text(FRAME.replace("PAGE", (folder / "probed.html").as_uri()).replace("WIDTH", str(width)))
    dom = chromium("--window-size=1500,1000", "--dump-dom", frame.as_uri(), folder=folder)
    found = re.search(r'<pre id="out">(.+?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_draws_filters_and_answers_the_keyboard(page, width):
    found = probed(page, width=width)
    assert found["errors"] == []
    assert found["width"] == width and found["scrollWidth"] <= width  # tables scroll inside themselves
    assert found["sections"] == 0 and found["paths"] >= 5 and found["unnamed"] == 0
    kinds = found["kinds"]
    assert kinds["all"] == 60 and 0 < kinds["over"] < 60 and 0 < kinds["wasteful"] < 60
    errors = spoken("test", seed=0).errors
    assert kinds["over"] == (errors[:, :-1].min(axis=1) < errors[:, -1]).sum()
    assert kinds["destructive"] == ((errors[:, :-1] == 0).any(axis=1) & (errors[:, -1] > 0)).sum()
    assert found["marks"] > 0 and found["left"] == 20
    assert found["search"] == 1
    assert "WER" in found["tip"] and "layers" in found["tip"]
    assert "GMACs" in found["axis"]
    assert found["lastSet"] == "<b>odd (out of domain)" and "no references" in found["note"]


@pytest.mark.skipif(AXE is None or DRIVER is None, reason=f"no chromedriver (chromium-driver), or {NO_AXE}")
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_wrong(page, width):
    with Chromium(width=width) as browser:
        browser.go((page / "report.html").as_uri())
        assert browser.violations() == []
