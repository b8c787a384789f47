"""docs/omnihuman.ipynb is clean as committed, and runs from its first cell to its last."""

import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from omnihuman_jax.media import probe_video
from tests import released

ROOT = Path(__file__).parent.parent
SMALL = """
SECONDS, LONG_SECONDS = 1.0, 2.2
SETTINGS = {"steps": 1, "size": (32, 32)}
"""
IN_WANS_PLACE = """
CONVERT, WAN_MODEL, WAN_SETTINGS = True, "mini", {"frames": 5, **SETTINGS}
"""
WHICH = "import omnihuman_jax; print('This copy:', omnihuman_jax.__file__)"


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "docs/omnihuman.ipynb", as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def test_it_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    for one in code_of(notebook):
        assert one.outputs == [] and one.execution_count is None, one.id


def test_every_cell_compiles(notebook):
    for one in code_of(notebook):
        compile(TransformerManager().transform_cell(one.source), one.id, "exec")


def test_it_names_no_place_of_one_machine_and_only_files_that_are_there(notebook):
    text = "\n".join(one.source for one in notebook.cells)
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|content|Users)\b", text)
    named = re.findall(r"`((?:docs|configs)/[\w./]+|README\.md)`", text)
    assert named and all((ROOT / name).is_file() for name in named)


def test_the_settings_are_in_one_cell_that_can_be_overridden(notebook):
    tagged = [one.id for one in notebook.cells if "parameters" in one.metadata.get("tags", ())]
    assert tagged == ["parameters"]


@pytest.mark.parametrize(
    "source, extra, place, wanted",
    [
        ("git+https://host/x", "tpu", ".", "omnihuman_jax[tpu] @ git+https://host/x"),
        ("git+https://host/x", "", ".", "omnihuman_jax @ git+https://host/x"),
        ("somewhere", "", ".", "somewhere"),
        ("", "tpu", "checkout/docs", "{here}/checkout[tpu]"),
        ("", "tpu", ".", None),
    ],
)
def test_what_is_installed_where_it_is_not(
    notebook, tmp_path, monkeypatch, source, extra, place, wanted
):
    """What SOURCE says, else the checkout around, else one line: never a name that anyone may register."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    (tmp_path / "checkout/docs").mkdir(parents=True)
    (tmp_path / "checkout/omnihuman_jax").mkdir()
    (tmp_path / "checkout/omnihuman_jax/cli.py").touch()
    monkeypatch.chdir(tmp_path / place)
    asked = []
    shell = SimpleNamespace()
    names = dict(SOURCE=source, EXTRA=extra, get_ipython=lambda: shell)
    code = TransformerManager().transform_cell(cell(notebook, "install").source)
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", missing)
        if wanted is None:
            with pytest.raises(ValueError, match="Set SOURCE"):
                exec(code, names)
            return
        # Installed, it is there: the versions of what is loaded are asked for after that.
        shell.run_line_magic = lambda magic, line: (asked.append((magic, line)), patch.undo())
        exec(code, names)
    assert asked == [("pip", 'install --quiet "{wanted}"')]
    assert names["wanted"] == wanted.format(here=tmp_path)


@pytest.mark.slow
def test_it_runs_whole(notebook, tmp_path, monkeypatch):
    """With the small model at tiny settings, in a folder of its own, in a kernel of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this copy of the package
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    at = notebook.cells.index(cell(notebook, "parameters")) + 1
    notebook.cells.insert(at, nbformat.v4.new_code_cell(SMALL + WHICH, id="injected"))
    wan = IN_WANS_PLACE + cell(notebook, "wan-video").source
    notebook.cells.append(nbformat.v4.new_code_cell(wan, id="in-wans-place"))
    client = NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
        kernel_name="python3",
    )
    client.execute()  # raises at the first cell that fails

    outputs = {one.id: one.outputs for one in code_of(notebook)}
    assert not [o for all_ in outputs.values() for o in all_ if o.output_type == "error"]
    said = {
        name: "".join(o.get("text", "") for o in all_ if o.output_type == "stream")
        for name, all_ in outputs.items()
    }
    assert str(ROOT / "omnihuman_jax") in said["injected"]
    assert "Already installed" in said["install"]
    assert "Skipped" in said["convert"] and "Skipped" in said["wan-video"]
    for name, frames in {"load": 25, "own-video": 25, "pose-video": 25, "stream": 55}.items():
        file = re.search(r"[\w-]+\.mp4", cell(notebook, name).source).group()
        facts = probe_video(tmp_path / file)
        assert (facts.frames, facts.height, facts.width) == (frames, 32, 32)
        assert facts.audio_seconds == pytest.approx(frames / 25, abs=0.05)
        assert any("<video" in o.get("data", {}).get("text/html", "") for o in outputs[name])
        told = [o.data["text/plain"] for o in outputs[name] if o.output_type == "display_data"]
        assert any(re.fullmatch(rf"decode {frames} of {frames}, \d+ s", line) for line in told)
        if name != "stream":
            assert "trained on drawn puppets only" in said[name]
    assert probe_video(tmp_path / "wan.mp4").frames == 5


def test_the_cell_that_converts_makes_a_model_directory(notebook, tmp_path, capsys):
    """With a tiny release in the layout of Wan; once it is there it is left alone."""
    released.wan_release(tmp_path)
    made = tmp_path / "model"
    names = dict(CONVERT=True, WAN=str(tmp_path), WAN_MODEL=str(made), Path=Path)
    exec(cell(notebook, "convert").source, names)
    before = (made / "model.json").stat()
    exec(cell(notebook, "convert").source, names)
    assert "there already" in capsys.readouterr().out
    assert (made / "model.json").stat() == before
