"""Sentences in the documents that draw a conclusion hold in the recorded rows, and in the tables beside them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parent.parent


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of all files of an experiment, the newest last."""
    paths = sorted((ROOT / "results").glob(f"{name}_*.csv"), key=lambda path: path.stem[-10:])
    assert paths
    return [row for path in paths for row in csv.DictReader(path.read_text().splitlines())]


def tables_of(document: str) -> list[list[list[str]]]:
    """The cells of every table, without the line under its header."""
    text = (ROOT / document).read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in tables]


def numbers_by_method(table: list[list[str]]) -> dict[tuple[str, str], list[float]]:
    """The numbers of a table by method and rule; a keep rate behind the name is left out."""
    return {(line[0].split()[0], line[1]): [float(cell) for cell in line[2:]] for line in table[2:]}


def better(one: list[float], other: list[float]) -> bool:
    return all(a > b for a, b in zip(one, other, strict=True))


def test_exported_artefacts_were_stable_as_docs_export_says() -> None:
    last = {(row["method"], row["route"], row["threads"], row["batch"]): row for row in rows_of("export_stability")}
    refused = [key[:2] for key, row in last.items() if row["holds"] == "refused" and key[0] != "ltmp"]  # which varies
    assert refused == [("beyond_attentive, max", "executorch")]
    measured = [row for row in last.values() if row["holds"] != "refused"]
    assert len(measured) == 28 * 5 * 3 * 3 - 9
    assert {(row["runs"], row["other_runs"]) for row in measured} == {("100", "0")}
    assert max(float(row["worst_difference"]) for row in measured) < 1e-5
    assert {(row["threads"], row["batch"]) for row in measured} == {(t, b) for t in "124" for b in ("1", "7", "32")}


def test_exported_artefacts_kept_the_same_tokens_as_docs_export_says() -> None:
    rows = rows_of("export_kept")
    assert {(row["images"], row["other_tokens"]) for row in rows} == {("200", "0")}
    routes, methods = {row["route"] for row in rows}, {row["method"] for row in rows}
    assert routes == {"onnx", "openvino", "executorch"}
    assert methods == {"evit", "token_mergence", "beyond_attentive", "tome"}


def test_training_wins_back_what_docs_training_says() -> None:
    rows = rows_of("imagenette")

    def of(method: str, rate: str, updates: str = "100", column: str = "top1") -> list[float]:
        wanted = (method, rate, updates)
        return [float(row[column]) for row in rows if (row["method"], row["keep_rate"], row["updates"]) == wanted]

    gaps = {
        method: [mean(of(method, rate)) - mean(of("evit", rate)) for rate in ("0.7", "0.5", "0.3")]
        for method in ("token_mergence", "beyond_attentive")
    }
    assert all(0 < few < more < most for few, more, most in gaps.values())
    assert gaps["token_mergence"][2] == pytest.approx(11.5, abs=0.05)
    leads = [metr - evit for metr, evit in zip(of("metr", "0.3", "401"), of("evit", "0.3", "401"), strict=True)]
    assert min(leads) > 0
    assert mean(leads) == pytest.approx(0.4, abs=0.05)
    early = {
        method: mean(of(method, "0.3", column="rank_correlation_3"))
        for method in ("evit", "metr", "token_mergence", "beyond_attentive")
    }
    assert early["metr"] == pytest.approx(early["evit"], abs=0.02)
    assert min(early["token_mergence"], early["beyond_attentive"]) > early["evit"] + 0.2


def test_the_league_says_how_many_methods_lose_more_than_a_smaller_input() -> None:
    rows, text = rows_of("league_accuracy"), (ROOT / "docs/league.md").read_text()
    last = {(row["target"], row["method"]): row for row in rows}
    for ratio in ("1.25", "1.5", "2.0"):
        here = {name: row for (target, name), row in last.items() if target == ratio and row["lost_points"]}
        lost = {name: float(row["lost_points"]) for name, row in here.items()}
        if "resolution" not in lost:
            continue
        methods = {name: points for name, points in lost.items() if here[name]["kind"] == "method"}
        behind = sum(points > lost["resolution"] for points in methods.values())
        sentence = f"loses {lost['resolution']:.1f} points; {behind} of the {len(methods)} methods here lose more."
        assert sentence in text, ratio


def test_exits_lose_less_than_a_lower_keep_rate_as_docs_training_says() -> None:
    anytime = [(line[0], float(line[1].strip(" %")), line[4]) for line in table_with("setting", "docs/training.md")[2:]]
    speeds = {name: (top1, float(speed.split("**")[1])) for name, top1, speed in anytime}
    for static, exits in (("no exits, keep 0.5", "confidence 0.8"), ("no exits, keep 0.3", "confidence 0.5")):
        assert speeds[exits][0] > speeds[static][0]
        assert speeds[exits][1] > speeds[static][1]


def table_with(header: str, document: str) -> list[list[str]]:
    (found,) = (table for table in tables_of(document) if table[0][0] == header)
    return found


def test_rules_compare_as_docs_dense_features_says() -> None:
    probes, cosines = (
        numbers_by_method(table) for table in tables_of("docs/dense-features.md") if table[0][:2] == ["method", "rule"]
    )
    for table in (probes, cosines):
        methods = {method for method, rule in table if rule.startswith("shared")}
        for method in methods:
            pairs = zip(table[method, "shared=offset"], table[method, "shared=token"], strict=True)
            assert all(offset >= token for offset, token in pairs)
    for fill in ("last", "nearest", "zero"):
        for table in (probes, cosines):
            assert better(table["evit-nofuse", "fill=drift"], table["evit-nofuse", f"fill={fill}"])
    for method in ("token_mergence", "beyond_attentive"):
        assert probes[method, "shared=fill"][0] > probes[method, "shared=offset"][0]
        assert better(cosines[method, "shared=offset"], cosines[method, "shared=fill"])
    others = [numbers for (method, _), numbers in probes.items() if method not in ("tome", "unreduced")]
    assert all(better(probes["tome", "shared=offset"], other) for other in others)


def test_class_tokens_lose_less_than_means_as_docs_dense_features_says() -> None:
    (table,) = (table for table in tables_of("docs/dense-features.md") if table[0][:2] == ["method", "embedding"])
    found = numbers_by_method(table)
    lost = {
        (method, kind): found["unreduced", kind][0] - numbers[0]
        for (method, kind), numbers in found.items()
        if method != "unreduced"
    }
    assert max(loss for (_, kind), loss in lost.items() if kind == "class token") <= 2.5
    means = {method: loss for (method, kind), loss in lost.items() if kind == "mean of map"}
    assert means.pop("tome") < 2
    assert min(means.values()) > 8
