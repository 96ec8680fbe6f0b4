"""What a part of a study reads from the parts before it, looked for before the first node."""

from collections.abc import Collection
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

_SHOWN = 3
"""Datasets that a message names."""


class InputsHook:
    """Refuses to begin what would fail later, after hours perhaps, for want of something that no node of it makes."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look for every input.

        Raises:
            ValueError: one is not there; the message has the pipelines that make it.
        """
        if run_params.get("only_missing_outputs"):  # which leaves nodes out, and with them their inputs
            return
        missing = _missing(pipeline, catalog)
        if missing:
            more = f" and {len(missing) - _SHOWN} more" * (len(missing) > _SHOWN)
            raise ValueError(
                f"{', '.join(missing[:_SHOWN])}{more} must be made first: "
                f"run --pipelines={','.join(_makers(missing, catalog))}, or the whole study"
            )


def _missing(pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    inputs = sorted(name for name in pipeline.inputs() if not name.startswith("params:"))
    return [name for name in inputs if not catalog.exists(name)]


def _makers(missing: Collection[str], catalog: DataCatalog) -> list[str]:
    """Return the pipelines that make datasets, and all that these need for it.

    Each dataset is made by the first pipeline that has it: those of ablations repeat nodes of others.
    """
    first = {
        name: maker
        for maker in reversed(list(pipelines))
        for name in pipelines[maker].all_outputs()
        if maker != "__default__"
    }
    found: list[str] = []
    while missing:
        new = {first[name] for name in missing}
        found = [maker for maker in pipelines if maker in found or maker in new]
        missing = _missing(sum((pipelines[maker] for maker in found), Pipeline([])), catalog)
    return found
