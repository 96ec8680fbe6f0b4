"""Configuration of environments that build on others."""

from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

_PARENT = "extends"


class EnvironmentLoader(OmegaConfigLoader):
    """Kedro's loader, where the parameters of an environment may change those of another instead of the base's.

    Its `globals.yml` names the other: `extends: pythia_6_9b`.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the configuration of a kind, over that of the base and of the environments that this one extends.

        Raises:
            ValueError: environments extend each other.
        """
        line = self._line() if key == "parameters" and key not in self else []
        if len(line) < 2:  # noqa: PLR2004 - itself alone
            return super().__getitem__(key)
        found = [self._of(environment, key) for environment in (self.base_env, *line)]
        merged: dict[str, Any] = OmegaConf.to_container(OmegaConf.merge(*found))  # type: ignore[assignment]
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
