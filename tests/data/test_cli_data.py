"""`omnihuman data`: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from omnihuman_jax.cli import main
from tests.data import datasets
from tests.data.datasets import flip, shard


@pytest.fixture
def folder(tmp_path: Path) -> str:
    datasets.write(str(tmp_path / "t"))
    return str(tmp_path / "t")


def test_inspect_prints_tables_and_json(folder: str, capsys):
    assert main(["data", "inspect", folder, "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["conditions"]["audio"] == {"records": 8, "share": 0.6667}
    text = "\n".join(lines)
    for words in (
        "12 records, 00:03 long",
        "9x32x32 6 50.0%",
        "audio 8 66.7%",
        "brightness 12 100.0",
    ):
        assert words in " ".join(text.split()), text
    assert "bfloat16[2, 2, 4, 4]" in text and "v1" in text


def test_validate_says_that_all_is_well(folder: str, capsys):
    assert main(["data", "validate", folder, "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {"uri": folder, "problems": []}
    assert "every record is whole" in out and err == ""


def test_validate_lists_what_is_wrong_and_exits_with_2(folder: str, capsys):
    flip(Path(folder) / shard(0), 30)
    flip(Path(folder) / shard(2), 30)
    assert main(["data", "validate", folder, "--quiet", "--json"]) == 2
    out, err = capsys.readouterr()
    *lines, last = out.splitlines()
    problems = json.loads(last)["problems"]
    assert [(p["file"], p["record"]) for p in problems] == [(shard(0), 0), (shard(2), 0)]
    assert len(lines) == 2 and lines[0].startswith(f"{shard(0)}, record 0: it is damaged")
    assert err.count("\n") == 1 and "2 problems in 2 files" in err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["inspect", "nowhere"], "There is no data set in nowhere"),
        (["validate", "nowhere"], "There is no data set in nowhere"),
        (["inspect", ".", "--samples", "0"], "--samples is at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
