"""Configuration of environments that build on others."""

from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

_PARENT = "extends"
_NAMES = {"model", "parts", "random", "path", "dataset"}
"""Settings that say what a teacher or a source of text is."""
_ABOUT = ("license", "attribution", "language", "revision")
"""What is true of that one alone."""


class EnvironmentLoader(OmegaConfigLoader):
    """Kedro's loader, where the parameters of an environment may change those of another instead of the base's.

    Its `globals.yml` names the other: `extends: pythia_6_9b`.
    """

    def __init__(self, conf_source: str, env: str | None = None, **options: Any) -> None:
        """Take Kedro's arguments.

        Raises:
            ValueError: the folder has no such environment.
        """
        super().__init__(conf_source, env, **options)
        root = Path(conf_source)
        if env is not None and root.is_dir() and not (root / env).is_dir():
            known = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir()))
            raise ValueError(f"env={env!r}: there is no folder {root / env}; there are {known}")

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the configuration of a kind, over that of the base and of the environments that this one extends.

        Raises:
            ValueError: environments extend each other.
        """
        if key != "parameters" or key in self:
            given: dict[str, Any] = super().__getitem__(key)
            at_home = key == "globals" and str(given.get("data")).startswith("~")
            return given | {"data": str(Path(given["data"]).expanduser())} if at_home else given
        line = self._line()
        merged = super().__getitem__(key)
        found = [self._of(environment, key) for environment in (self.base_env, *line)]
        if len(line) > 1:
            merged = OmegaConf.to_container(OmegaConf.merge(*found))  # type: ignore[assignment]
        # Kedro has merged the values of the command line into those of every environment.
        _forget_others(merged, [*found, self.runtime_params or {}])
        return merged

    def _line(self) -> list[str]:
        """Return the environment after those that it extends."""
        line = [self.env or self.default_run_env]
        while parent := self._of(line[0], "globals").get(_PARENT):
            if parent in line:
                raise ValueError(f"{_PARENT}: {parent} extends itself by way of {', '.join(line)}")
            line.insert(0, parent)
        return line

    def _of(self, environment: str, key: str) -> dict[str, Any]:
        folder = self._get_conf_env_path(environment)  # which may be in an archive, or remote
        found: dict[str, Any] = self.load_and_merge_dir_config(folder, self.config_patterns[key], key, set())
        return found


def _forget_others(merged: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    """Take from a teacher and from sources what an environment below said of another one, such as its licence.

    Args:
        merged: all layers; changed in place.
        layers: parameters of the base, of environments, and of the command line.
    """
    groups = [("teacher",), *(("corpus", "sources", name) for name in merged.get("corpus", {}).get("sources", {}))]
    for path in groups:
        given = [_at(layer, path) for layer in layers]
        newest = max((place for place, group in enumerate(given) if _NAMES & group.keys()), default=0)
        for name in _ABOUT:
            if not any(name in group for group in given[newest:]):
                _at(merged, path).pop(name, None)


def _at(layer: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return a group of parameters; an empty one where there is none, or where it is taken away."""
    for name in path:
        layer = layer.get(name) or {}
        if not isinstance(layer, dict):
            return {}
    return layer
