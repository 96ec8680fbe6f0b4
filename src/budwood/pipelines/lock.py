"""One run at a time in every data folder."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline

from budwood.records.locks import holding
from budwood.records.runs import note_run


class LockHook:
    """Locks the data folder of an environment from before the first node until a run has ended, however it ends.

    Commands without a run, such as those that show the graph, lock nothing.
    """

    def __init__(self) -> None:
        """Begin without a folder."""
        self._root: Path | None = None
        self._held = ExitStack()
        self._started = datetime.now(UTC)

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Read where the environment keeps its data."""
        self._root = Path(context.project_path) / context.config_loader["globals"]["data"]

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self) -> None:
        """Lock the folder.

        Raises:
            FolderInUseError: another process is running there.
        """
        assert self._root is not None, "the context was created"
        self._held.close()  # of a run of this process that Ctrl-C ended
        self._held.enter_context(holding(self._root, "a run"))
        self._started = datetime.now(UTC)

    @hook_impl(trylast=True)
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Note the run, and let go of the folder."""
        assert self._root is not None, "the context was created"
        everything = {node.name for node in pipelines["__default__"].nodes}
        whole = everything <= {node.name for node in pipeline.nodes} and not run_params.get("only_missing_outputs")
        note_run(self._root, self._started, whole=whole)
        self._held.close()

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """Let go of the folder."""
        self._held.close()
