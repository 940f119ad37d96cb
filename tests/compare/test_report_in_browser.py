"""The report in Chromium: it fits a phone, its table sorts and filters, and its points lead to their rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from rows import make_row
from vitrim.compare.report import render
from vitrim.compare.run_folder import Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROWS = (
    make_row("unreduced", lost=0, won=0),
    make_row("token_mergence", "keep 0.7, layers 3 6 9, scorer cls", top1=79.5, drop=0.5, speedup=1.6, lost=3, won=1),
    make_row("beyond_attentive", "keep 0.5", top1=70.0, drop=10.0, speedup=1.9, lost=45, won=5),
    make_row("tome", "r 13", top1=78.5, drop=1.5, speedup=1.4, lost=8, won=2),
    make_row("smaller input", "176 px", top1=78.0, drop=2.0, speedup=1.5, rival="resolution", lost=9, won=1),
)
FRAME = """<!doctype html><iframe style="width: WIDTHpx; height: 900px; border: 0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, found = {}, rows = () => [...page.querySelectorAll("tbody tr")];
  const wide = [page.documentElement, page.querySelector(".wrap")];
  found.sideways = Math.max(...wide.map(each => each.scrollWidth - each.clientWidth));
  const head = [...page.querySelectorAll("thead th")].find(each => each.textContent.startsWith("Speed-up"));
  head.querySelector("button").click();
  found.sorted = head.getAttribute("aria-sort");
  found.order = rows().map(row => row.id);
  const search = page.querySelector("input[type=search]");
  search.value = "tome"; search.dispatchEvent(new Event("input"));
  found.filtered = rows().filter(row => !row.hidden).map(row => row.id);
  found.faded = page.querySelectorAll("svg.chart .faded").length;
  found.count = page.querySelector("output").textContent;
  const links = [...page.querySelectorAll("svg.chart a")].map(each => each.getAttribute("xlink:href"));
  found.points = links.filter(each => page.querySelector(each)).length;
  found.told = page.querySelector("#gmacs-3 title").textContent;
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
};
frame.srcdoc = PAGE;
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_works_in_a_browser(tmp_path, width):
    identity = {"model": "deit_tiny_patch16_224", "data": "photos", "dtype": "fp32", "compiled": False}
    run = Run(identity, {"device": "Fast Chip", "vitrim": "0"}, ("vitrim compare " + "x" * 200,), rows=ROWS)
    page = json.dumps(render(run, [tmp_path])).replace("</", "<\\/")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", page))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    arguments = [CHROMIUM, *options, "--window-size=1500,1000", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*arguments, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=300)
    found = json.loads(re.search(r"FOUND(.*)END", done.stdout)[1].replace("&gt;", ">").replace("&amp;", "&"))
    assert found["sideways"] <= 0
    assert (found["sorted"], found["order"]) == ("descending", ["row-2", "row-1", "row-4", "row-3", "row-0"])
    assert (found["filtered"], found["faded"], found["count"]) == (["row-3"], 8, "1 of 5 rows")
    assert found["points"] == 2 * len(ROWS)
    assert found["told"].startswith("tome r 13: top-1 78.50 %")
