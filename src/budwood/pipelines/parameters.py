"""The parameters of the session, validated before anything else."""

import os
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import settings

from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.wiring import project_root


class ParametersHook:
    """Validates all parameters of the environment before anything else; nodes get them typed."""

    def __init__(self) -> None:
        """Begin without a session."""
        self.parameters: ProjectParameters | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Read the parameters, with what the command line changed in them.

        Raises:
            ValueError: they are not valid.
        """
        raw = context.config_loader["parameters"]
        self.parameters = read_parameters(raw)
        context.config_loader["parameters"] = typed(self.parameters)

    def current(self) -> ProjectParameters:
        """Return the parameters of the session, or those of `KEDRO_ENV` where there is no session (Kedro-Viz)."""
        if self.parameters is None:
            environment = os.getenv("KEDRO_ENV")
            folder, arguments = str(project_root() / settings.CONF_SOURCE), settings.CONFIG_LOADER_ARGS
            loader = settings.CONFIG_LOADER_CLASS(folder, env=environment, **arguments)
            return read_parameters(loader["parameters"])
        return self.parameters


def typed(parameters: ProjectParameters) -> dict[str, object]:
    """Return parameters by group as Kedro's datasets have them; bins and spaces by name.

    Groups that nodes take together are one dataset more: `conditions`, those of every bin, and `study` for all of them.
    """
    groups = {name: getattr(parameters, name) for name in ProjectParameters.model_fields}
    groups |= {name: groups[name].rooted(project_root()) for name in ("evaluation", "serving")}
    groups |= {"conditions": parameters.conditions, "bin_conditions": parameters.conditions_by_bin}
    return groups | {"searches": parameters.searches, "study": parameters}


class LateHooks:
    """Registers the hooks that track runs once there is a session: commands without one do not import MLflow."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Register them, and let them see the context."""
        from budwood.hooks import CountHook, CredentialsHook, TrackingHook  # noqa: PLC0415 - seconds of imports
        from budwood.pipelines.devices import DevicesHook  # noqa: PLC0415
        from budwood.pipelines.inputs import InputsHook  # noqa: PLC0415
        from budwood.pipelines.lock import LockHook  # noqa: PLC0415
        from budwood.pipelines.seals import SealHook  # noqa: PLC0415

        tracking = (TrackingHook(), CountHook())
        for hook in (CredentialsHook(), LockHook(), InputsHook(), DevicesHook(), SealHook(), *tracking):
            context._hook_manager.register(hook)  # noqa: SLF001 - Kedro has no public way to add a hook to a session
            if hasattr(hook, "after_context_created"):
                hook.after_context_created(context)
