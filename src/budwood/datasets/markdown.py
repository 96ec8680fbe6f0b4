"""Reports in Markdown."""

from kedro_datasets._typing import HTMLPreview
from kedro_datasets.text.text_dataset import TextDataset
from markdown_it import MarkdownIt


class MarkdownDataset(TextDataset):  # type: ignore[misc]  # kedro-datasets ships no types
    """A text file that Kedro-Viz shows rendered."""

    def preview(self) -> HTMLPreview:
        """Render the text, tables included, to HTML."""
        return HTMLPreview(MarkdownIt("commonmark").enable("table").render(self.load()))
