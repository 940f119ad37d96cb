"""The report is one self-contained file, escapes everything, and starts with the main results."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from rows import make_row
from vitrim.compare.report import findings, points, render, write_report
from vitrim.compare.run_folder import Run

UNREDUCED = make_row("unreduced")
ROWS = (
    UNREDUCED,
    make_row("evit", "keep 0.9", top1=79.8, drop=0.2, gmacs=0.9, speedup=1.1),
    make_row("evit", "keep 0.7", top1=79.2, drop=0.8, gmacs=0.7, speedup=1.4),
    make_row("tome", "keep 0.5", top1=77.0, drop=3.0, gmacs=0.5, speedup=1.8),
    make_row("random", "keep 0.3", top1=60.0, drop=20.0, gmacs=0.3, speedup=2.5),
)
NASTY = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects attributes that point somewhere, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "0.png")
    panel = {"file": "pictures/0.png", "caption": "block 3: 140 tokens"}
    track = {"method": "evit", "setting": "keep 0.7", "predicted": "cat", "panels": [panel]}
    return Run(
        identity={"model": NASTY, "data": "photos", "dtype": "fp32", "autocast": False},
        environment={"device": "Fast Chip", "vitrim": "0.1.0", "torch": "2.15.0"},
        commands=(f"vitrim compare --data '{NASTY}'",),
        rows=ROWS,
        skipped_files=("broken.jpg",),
        pictures=({"image": "pictures/0.png", "name": NASTY, "label": "dog", "tracks": [track]},),
    )


def test_a_badge_says_on_which_front_a_row_is(run, tmp_path):
    cheap = make_row("evit", "keep 0.5", top1=79.0, gmacs=0.5, speedup=1.1)
    fast = make_row("tome", "keep 0.5", top1=79.0, gmacs=0.9, speedup=2.0)
    both = make_row("tome", "keep 0.3", top1=60.0, gmacs=0.3, speedup=2.5)
    html = write_report(tmp_path, replace(run, rows=(UNREDUCED, cheap, fast, both))).read_text()
    names = [line.partition("</span>")[2].partition("</td>")[0] for line in html.split("<tr")[1:]]
    badges = [name.rpartition(">Pareto")[2].removesuffix("</span>") for name in names if "Pareto" in name]
    assert badges == ["", ", MACs", ", speed", ""]


def test_the_page_points_to_nothing_outside_itself(run, tmp_path):
    html = write_report(tmp_path, run).read_text()
    page = Page(html)
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "@import" not in html
    assert "url(http" not in html
    assert "link" not in page.tags
    assert page.tags.count("script") == 1


def test_everything_from_outside_is_escaped(run, tmp_path):
    html = render(run, tmp_path)
    assert NASTY not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_the_page_holds_rows_charts_pictures_skipped_files_environment_and_command(run, tmp_path):
    html = render(run, tmp_path)
    page = Page(html)
    assert page.tags.count("svg") == 2
    assert page.tags.count("tr") == 1 + len(ROWS)
    for wanted in (
        "broken.jpg",
        "Fast Chip",
        "2.15.0",
        "block 3: 140 tokens",
        "1 file skipped",
        "vitrim compare --data",
    ):
        assert wanted in page.text
    assert "✗ cat" in page.text


def test_a_run_of_the_unreduced_model_alone_has_a_report(run, tmp_path):
    Page(render(Run(run.identity, run.environment, run.commands, rows=ROWS[:1]), tmp_path))
    with pytest.raises(ValueError, match="unreduced model"):
        render(Run(run.identity, run.environment, run.commands), tmp_path)


def test_findings_name_the_best_rows():
    cards = {card.title: card for card in findings(ROWS)}
    assert list(cards) == [
        "Unreduced model",
        "Fastest within 1 point",
        "Most accurate at 1.5x or more",
        "Fastest of all",
    ]
    assert (cards["Fastest within 1 point"].value, cards["Fastest within 1 point"].method) == ("1.40x", "evit")
    assert cards["Most accurate at 1.5x or more"].detail == "tome, keep 0.5 · 1.80x · \u22123.0 points"
    assert cards["Fastest of all"].method == "random"


def test_findings_do_not_claim_what_was_not_reached():
    slow = make_row("evit", "keep 0.5", top1=75.0, drop=5.0, speedup=1.1)
    cards = findings((UNREDUCED, slow, make_row("random", "keep 0.5", top1=70.0, drop=10.0, speedup=1.2)))
    assert [card.title for card in cards] == ["Unreduced model", "Smallest loss", "Fastest of all"]
    assert cards[1].value == "\u22125.0 points"


def test_a_row_that_is_best_in_everything_is_named_once():
    assert [card.title for card in findings(ROWS[:2])] == ["Unreduced model", "Fastest within 1 point"]


@pytest.mark.parametrize(("drop", "told"), [(0.7, "\u22120.7"), (-0.7, "+0.7"), (0.0, "+0.0"), (0.04, "+0.0")])
def test_changes_carry_their_sign(drop, told):
    assert points(make_row("evit", drop=drop)) == told


@pytest.mark.parametrize("name", ["../secret.png", "pictures/../secret.png", "pictures/link.png", "/etc/hostname", ""])
def test_only_the_runs_own_pictures_come_into_the_page(run, tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    sample = {"image": name, "name": "", "label": "", "tracks": []}
    with pytest.raises(ValueError, match="picture"):
        render(replace(run, pictures=(sample,)), tmp_path)


def test_a_picture_is_a_png_of_moderate_size(run, tmp_path):
    (tmp_path / "pictures" / "0.png").write_bytes(b"BM no png")
    with pytest.raises(ValueError, match="picture"):
        render(run, tmp_path)


def test_the_first_row_is_the_unreduced_model(run, tmp_path):
    with pytest.raises(ValueError, match=r"first.*unreduced|unreduced.*first"):
        render(replace(run, rows=ROWS[1:]), tmp_path)


def test_control_characters_of_names_do_not_reach_the_page(run, tmp_path):
    page = render(replace(run, skipped_files=("a\x1b[2J\x00.png", "b\u202e.png")), tmp_path)
    assert "\\x1b[2J" in page
    assert not {"\x1b", "\x00", "\u202e"} & set(page)
