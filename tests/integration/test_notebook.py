"""The example notebook runs from top to bottom."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "example.ipynb"


def example() -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def test_the_example_notebook_runs(tmp_path: Path) -> None:
    assert run_example(tmp_path).is_file()


def run_example(folder: Path, **options: Any) -> Path:
    """Run it in a folder, check what its cells have printed, and return the report that the last one names."""
    notebook = example()
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute(**options)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "truncated" in printed
    assert "linear_discriminant" in printed and "logistic_regression" in printed
    assert printed.rstrip().endswith("report.html")
    return Path(printed.splitlines()[-1])


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = example()
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
