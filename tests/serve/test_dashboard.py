"""dashboard.html in a real browser, where this machine has one: nothing of it is cut off."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

NODE = "web-frontend-03.eu-west.example-with-a-long-name"
NODES = [
    {
        "name": NODE,
        "incarnation": "i" * 16,
        "beat": 123_456,
        "live": True,
        "self": True,
        "bound_ms": 1000,
        "applied": "da21eba452e6daed:1234567",
        "version": "0.1.0",
    }
]
EVENT = {"op": "invalidate", "version": "0" * 16 + ":1234567", "tags": ["t" * 300], "keys": ["k"]}

FAKE = """
window.fetch = async url => ({ ok: true, json: async () =>
  url === "/v1/nodes" ? { nodes: NODES } : { node: { name: NODES[0].name, ready: true } } });
window.EventSource = class { addEventListener(name, show) {
  if (name === "invalidation") setTimeout(() => show({ data: JSON.stringify(EVENT) }), 50); } };
"""
MEASURE = """
setTimeout(() => {
  const cut = [...document.querySelectorAll(".scroll, body, html, .card, header")]
    .filter(e => e.scrollWidth > e.clientWidth).map(e => e.id || e.className || e.tagName);
  parent.postMessage({ width: innerWidth, cut, text: document.body.innerText }, "*");
}, 300);
"""
FRAMES = """<!doctype html><script>
const told = [];
onmessage = message => {
  told.push(message.data);
  document.documentElement.dataset.told = btoa(unescape(encodeURIComponent(JSON.stringify(told))));
};
for (const width of [360, 420, 1200]) {
  const frame = document.createElement("iframe");
  Object.assign(frame, { src: "page.html", width, height: 2000 });
  frame.style.border = 0;
  document.documentElement.append(frame);
}
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no browser here")
def test_nothing_is_cut_off(tmp_path: Path) -> None:
    page = files("coherenced.serve").joinpath("dashboard.html").read_text()
    given = f"const NODES = {json.dumps(NODES)}, EVENT = {json.dumps(EVENT)};"
    page = page.replace("<script>", f"<script>{given}{FAKE}</script><script>", 1)
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{MEASURE}</script>", 1))
    (tmp_path / "frames.html").write_text(FRAMES)
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={tmp_path}", "--window-size=1300,2000"),
            *("--virtual-time-budget=3000", "--dump-dom", str(tmp_path / "frames.html")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r'data-told="([^"]+)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    told = json.loads(base64.b64decode(found[1]))
    assert sorted(one["width"] for one in told) == [360, 420, 1200]
    for one in told:
        assert one["cut"] == [], one["width"]
        for text in (NODE, "da21eba452e6daed:1234567", "1.2M", "tag ttt"):
            assert text in one["text"]
