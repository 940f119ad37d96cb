"""The report is one self-contained file, escapes everything, and starts with the main results."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from rows import make_row
from vitrim.compare import report
from vitrim.compare.answer import answers
from vitrim.compare.predictions import Predictions
from vitrim.compare.report import render, write_report
from vitrim.compare.run_folder import Run
from vitrim.compare.usage import use_lines
from vitrim.measure.turns import Spread

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
LOST = {"lost": 30, "won": 10, "num_images": 10_000}


class Page(HTMLParser):
    """Checks that tags are balanced; collects attributes that point somewhere, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.text, self.ids = [], [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
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
    assert re.findall(r">(Pareto[^<]*)</span>", html) == ["Pareto", "Pareto, MACs", "Pareto, speed", "Pareto"]


def test_the_page_points_to_nothing_outside_itself(run, tmp_path):
    html = write_report(tmp_path, run).read_text()
    page = Page(html)
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert "@import" not in html
    assert "url(http" not in html
    assert "link" not in page.tags
    assert page.tags.count("script") == 1


def test_everything_from_outside_is_escaped(run, tmp_path):
    html = render(run, [tmp_path])
    assert NASTY not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_the_page_holds_rows_charts_pictures_skipped_files_environment_and_command(run, tmp_path):
    html = render(run, [tmp_path])
    page = Page(html)
    assert html.count('<svg class="chart"') == 2
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
    Page(render(Run(run.identity, run.environment, run.commands, rows=ROWS[:1]), [tmp_path]))
    with pytest.raises(ValueError, match="unreduced model"):
        render(Run(run.identity, run.environment, run.commands), [tmp_path])


def sentences(*rows):
    return [answer.sentence for answer in answers((replace(UNREDUCED, num_images=10_000), *rows))]


def test_the_answer_is_the_fastest_that_surely_loses_little():
    sure = make_row("tome", "r 8", top1=79.8, drop=0.2, speedup=1.4, speedup_1=1.2, **LOST)
    slower = make_row("evit", "keep 0.9", top1=79.9, drop=0.1, speedup=1.2, speedup_1=1.3, **LOST)
    lossy = make_row("evit", "keep 0.5", top1=75.0, drop=5.0, speedup=2.0, speedup_1=2.0, **LOST)
    one, batch = sentences(sure, slower, lossy)
    assert one.startswith("evit keep 0.9 is the fastest that loses at most 1 point: 1.30 times")
    assert batch.startswith("tome r 8 is the fastest") and "95 % interval 0.1 to 0.3" in batch


def test_the_answer_says_when_the_images_are_too_few():
    row = make_row("tome", "r 8", top1=79.75, drop=0.25, speedup=1.4, lost=11, won=10)
    _, said = [answer.sentence for answer in answers((UNREDUCED, row))]
    assert "cannot be told from 400 images" in said and "best guess is tome r 8" in said
    assert int(re.search(r"About ([\d,]+) would tell", said)[1].replace(",", "")) > 400


def test_the_answer_does_not_claim_what_was_not_reached():
    slow = make_row("evit", "keep 0.9", speedup=0.9, speedup_1=0.9)
    lossy = make_row("random", "keep 0.5", top1=60.0, drop=20.0, speedup=2.0, **LOST)
    assert all("Nothing that was measured is faster than" in said for said in sentences(slow))
    assert "loses at most 1 point. random keep 0.5 loses least" in sentences(lossy)[1]


@pytest.mark.parametrize(("drop", "words"), [(0.0, "is the fastest"), (5.0, "loses least")])
def test_every_answer_says_when_its_speed_is_not_certain(drop, words):
    row = replace(make_row("evit", top1=80 - drop, drop=drop, **LOST), speedup=Spread(0.8, 1.9, 5.9))
    _, said = answers((replace(UNREDUCED, num_images=10_000), row))
    assert words in said.sentence and "machine was busy" in said.more


def test_batch_1_is_answered_once():
    assert len(answers((replace(UNREDUCED, batch=1), make_row("evit", batch=1)))) == 1


def test_the_line_to_use_has_every_setting_and_the_runs_own_model(run):
    row = make_row("tome", "r 3", settings={"r": (3, 3), "clamp": False, "gone": 1})
    commands = ("vitrim compare --model test_vit --data 'my photos' --limit 4",)
    (_, python), (_, command) = use_lines(replace(run, commands=commands), row)
    assert python == 'vitrim.reduce_tokens(model, "tome", r=(3, 3), clamp=False)'
    words = command.replace("\\\n", "").split()
    assert " ".join(words) == "vitrim evaluate --model test_vit --data 'my photos' --method 'tome r=[3,3] clamp=false'"


@pytest.mark.parametrize("kind", ["resolution", "depth", "model", "int8", "unread"])
def test_a_rival_has_a_line_to_use_too(run, kind):
    (_, python), *_ = use_lines(run, make_row("rival", settings={kind: 176}, rival=kind))
    assert python.startswith("model = vitrim.")


def test_a_noisy_machine_is_told_of(run, tmp_path):
    noisy = replace(ROWS[1], speedup=Spread(0.5, 1.0, 1.5), timings=3)
    slow = replace(ROWS[2], latency_1_ms=400.0)
    text = Page(render(replace(run, rows=(UNREDUCED, noisy, slow)), [tmp_path])).text
    assert re.search(r"too busy for evit keep 0.9: .* 3 measurements", text)
    assert "While evit keep 0.7 was measured" in text
    assert "busy" not in Page(render(run, [tmp_path])).text


def test_the_page_says_how_many_rows_are_missing(run, tmp_path):
    assert "2 rows are still to be measured" in render(run, [tmp_path], missing=2)
    assert "still to be measured" not in render(run, [tmp_path])


def test_what_changed_is_shown_with_classes_and_pictures(run, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "image-1.png")
    predictions = (
        Predictions(("a", "b", "c"), (1, 2, 3)).adding("unreduced", (1, 2, 0)).adding("evit keep 0.7", (1, 9, 3))
    )
    changed = replace(ROWS[2], lost=1, won=1)
    run = replace(run, rows=(UNREDUCED, changed), predictions=predictions, classes={"2": "goldfish", "9": "<hen>"})
    html = render(run, [tmp_path])
    page = Page(html)
    assert "goldfish" in page.text and "<hen>" in page.text and "1 image lost, 1 won" in page.text
    assert page.ids.count("image-1") == 1 and "#image-1" in page.links and "#image-2" not in page.links
    assert {"#row-1", "#changed-1"} <= set(page.links)


def test_figures_come_as_svg_and_their_data_as_csv(run, tmp_path):
    links = [link for link in Page(render(run, [tmp_path])).links if link.startswith("data:")]
    svg = [base64.b64decode(link.partition(",")[2]).decode() for link in links if "svg" in link]
    data = [base64.b64decode(link.partition(",")[2]).decode() for link in links if "csv" in link]
    assert len(svg) == len(data) == 2
    assert not any(word in text for text in svg for word in ("var(", "currentColor", "<a "))
    assert data[1].splitlines()[2].startswith("evit,keep 0.9,79.8,") and "speedup_p10" in data[1]


def test_a_page_of_many_large_pictures_stays_below_three_megabytes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURE_BYTES", (100_000, 0))
    monkeypatch.setattr(report, "MOST_BYTES", 180_000)
    noise = Image.effect_noise((200, 200), 90)
    noise.save(tmp_path / "pictures" / "0.png")
    html = render(replace(run, pictures=tuple(run.pictures) * 4), [tmp_path])
    assert len(html) < 180_000
    assert "more pictures are in the folder" in html


@pytest.mark.parametrize("name", ["../secret.png", "pictures/../secret.png", "pictures/link.png", "/etc/hostname", ""])
def test_only_the_runs_own_pictures_come_into_the_page(run, tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    sample = {"image": name, "name": "", "label": "", "tracks": []}
    with pytest.raises(ValueError, match="picture"):
        render(replace(run, pictures=(sample,)), [tmp_path])


def test_a_picture_is_a_png_of_moderate_size(run, tmp_path):
    (tmp_path / "pictures" / "0.png").write_bytes(b"BM no png")
    with pytest.raises(ValueError, match="picture"):
        render(run, [tmp_path])


def test_the_first_row_is_the_unreduced_model(run, tmp_path):
    with pytest.raises(ValueError, match=r"first.*unreduced|unreduced.*first"):
        render(replace(run, rows=ROWS[1:]), [tmp_path])


def test_control_characters_of_names_do_not_reach_the_page(run, tmp_path):
    page = render(replace(run, skipped_files=("a\x1b[2J\x00.png", "b\u202e.png")), [tmp_path])
    assert "\\x1b[2J" in page
    assert not {"\x1b", "\x00", "\u202e"} & set(page)
