"""A headless Chromium that does what a person does with keyboard and microphone, through Debian's chromedriver."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("EEASR_AXE")  # axe.min.js of the npm package axe-core
NO_AXE = "no axe-core: npm install axe-core, and EEASR_AXE=node_modules/axe-core/axe.min.js"
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Left": "\ue012", "Down": "\ue015"}


class Chromium:
    """One window, closed at the end of `with`.

    Arguments
    ---------
    width : int
        CSS pixels; narrower than a desktop's windows can be.
    height : int
        The same.
    microphone : Path or None
        A WAV file that the page hears when it asks for the microphone, over and over.
    """

    def __init__(self, *, width=1280, height=900, microphone=None):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        if microphone is not None:
            arguments += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            arguments += [f"--use-file-for-fake-audio-capture={microphone}"]
        metrics = {"width": width, "height": height, "pixelRatio": 1.0, "touch": False, "mobile": False}
        options = {"binary": CHROMIUM, "args": arguments, "mobileEmulation": {"deviceMetrics": metrics}}
        self.asked = {"browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"script": 60000}}

    def __enter__(self):
        self.process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        line = next(one for one in self.process.stdout if "started successfully on port" in one)
        self.address = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}/session"
        try:
            self.session = self._ask("POST", "", {"capabilities": {"alwaysMatch": self.asked}})["sessionId"]
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *error):
        try:
            self._ask("DELETE", f"/{self.session}")
        finally:
            self.process.terminate()
            self.process.wait(timeout=20)

    def _ask(self, method, path, data=None):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.address + path, data=body, method=method)
        try:
            return json.load(urllib.request.urlopen(request, timeout=120))["value"]
        except urllib.error.HTTPError as err:
            raise RuntimeError(json.load(err)["value"]["message"]) from err

    def _post(self, path, **data):
        return self._ask("POST", f"/{self.session}/{path}", data)

    def go(self, url):
        """Open a page."""
        self._post("url", url=url)

    def run(self, script, *arguments):
        """What a script returns; a promise is waited for."""
        return self._post("execute/sync", script=script, args=list(arguments))

    def wait(self, script, *, seconds=60):
        """The first value of a script that is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.3)
        return found

    def press(self, *keys):
        """Press keys one after the other, where the focus is."""
        for key in keys:
            value = KEYS.get(key, key)
            actions = [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
            self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def screenshot(self, path):
        """Write what is seen, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"/{self.session}/screenshot")))

    def violations(self):
        """What axe-core finds wrong with the page: rule, element, what to do."""
        look = "return axe.run(document, {resultTypes: ['violations']}).then((all) => all.violations)"
        found = self.run(f"{Path(AXE).read_text('utf-8')}\n{look}")
        return [(one["id"], node["html"][:200], node["failureSummary"]) for one in found for node in one["nodes"]]
