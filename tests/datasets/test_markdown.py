"""Reports are stored as text and shown rendered."""

import inspect

from kedro_datasets._typing import HTMLPreview

from budwood.datasets.markdown import MarkdownDataset


def test_text_goes_through_unchanged_and_the_preview_is_html(tmp_path):
    dataset = MarkdownDataset(filepath=str(tmp_path / "report.md"), metadata={"kedro-viz": {"layer": "reporting"}})
    text = "# Report\n\n| bin | loss |\n|---|---|\n| 0.1B | 3.2 |\n"
    assert not dataset.exists()
    dataset.save(text)
    assert dataset.exists()
    assert dataset.load() == text
    assert inspect.signature(dataset.preview).return_annotation is HTMLPreview
    assert "<h1>Report</h1>" in dataset.preview()
    assert "<td>0.1B</td>" in dataset.preview()
    assert "report.md" in repr(dataset)
