"""The record of long measurements: nothing is measured twice, and an interruption loses no finished result."""

import json

import pytest

import meta_keras.report.results
from benchmarks.record import Record, measure_parts
from meta_keras import report


def test_what_is_measured_is_not_measured_again(tmp_path):
    calls = []
    for _ in range(2):
        record = Record("some", folder=tmp_path)
        assert record.measure("a", lambda: calls.append(1) or 0.5) == 0.5
    assert calls == [1]


def test_every_measurement_is_stored_before_the_next(tmp_path):
    record = Record("some", folder=tmp_path)
    record.measure("a", lambda: [0.25, 0.5])
    with pytest.raises(RuntimeError, match="stopped"):
        record.measure("b", stopped)
    stored = json.loads((tmp_path / "some.json").read_text())
    assert stored["results"] == {"a": [0.25, 0.5]}
    assert stored["script"] == "benchmarks/some.py" and stored["commit"] and set(stored["versions"]) >= {"keras"}


def stopped():
    raise RuntimeError("stopped")


def test_again_discards_what_was_measured(tmp_path):
    Record("some", folder=tmp_path).measure("a", lambda: 1)
    assert Record("some", again=True, folder=tmp_path).measure("a", lambda: 2) == 2


def test_chapters_read_the_results(tmp_path, monkeypatch):
    Record("some", folder=tmp_path / "results").measure("a", lambda: 1)
    monkeypatch.setattr(meta_keras.report.results, "embedded_folder", lambda: tmp_path)
    assert report.measured("some") == {"a": 1}
    with pytest.raises(ValueError, match="no stored results 'other'; there are some."):
        report.measured("other")


@pytest.mark.parametrize(("arguments", "called"), [([], ["a", "b"]), (["b"], ["b"])])
def test_all_parts_are_measured_or_those_that_are_named(arguments, called, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script", *arguments])
    found = []
    measure_parts("none", {name: lambda _, name=name: found.append(name) for name in "ab"}, "A script.")
    assert found == called


def test_a_part_can_be_told_where_its_data_are(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script", "a", "--data-dir", "there"])
    found = []
    measure_parts("none", {"a": lambda record: found.append(record.data_dir)}, "A script.", prepared_data=True)
    assert found == ["there"]


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["script", "c"])
    with pytest.raises(SystemExit):
        measure_parts("none", {"a": print}, "A script.")
    assert "There are the parts a; got c." in capsys.readouterr().err
