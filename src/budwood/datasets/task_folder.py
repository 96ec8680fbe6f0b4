"""Questions in the catalog, as the evaluation harness reads them."""

from pathlib import Path

from kedro_datasets._typing import JSONPreview

from budwood.datasets.path import PathDataset
from budwood.evaluation.harness import open_tasks, write_tasks
from budwood.evaluation.heldout import Questions


class TaskFolderDataset(PathDataset[Questions, Path]):
    """A folder for `lm_eval --include_path`: saved as questions by task, handed on as its path."""

    def load(self) -> Path:
        """Name the folder, and let it lead to its questions where it was moved.

        Raises:
            ValueError: a file has changed since it was saved.
        """
        return open_tasks(self._filepath)

    def save(self, data: Questions) -> None:
        """Write a task for each entry, replacing those of before."""
        write_tasks(data, self._filepath)

    def preview(self) -> JSONPreview:
        """Show the first question of every task in Kedro-Viz."""
        firsts = []
        for file in sorted(self._filepath.glob("*.jsonl")):
            with file.open(encoding="utf-8") as lines:
                firsts.append(f'"{file.stem}": {next(lines)}')
        return JSONPreview("{" + ",".join(firsts) + "}")

    def _exists(self) -> bool:
        return self._filepath.is_dir()
