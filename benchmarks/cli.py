"""How long Kedro's commands take in this project, beside an empty Kedro project in the same environment.

`kedro registry list` and `kedro --help` run in both by turns, in fresh processes; what counts is processor time, the
smallest over turns, for nothing makes a process faster than it is.

Usage: python benchmarks/cli.py [--num-turns 5]; a minute on one core.

Last line: a JSON object with `registry_list_ratio` and `help_ratio`, ours over the empty project's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
COMMANDS = {"registry_list": ("registry", "list"), "help": ("--help",)}
EMPTY = {
    "pyproject.toml": """
[tool.kedro]
package_name = "empty"
project_name = "empty"
kedro_init_version = "{version}"
source_dir = "src"
""",
    "conf/base/parameters.yml": "",
    "conf/local/credentials.yml": "",
    "src/empty/__init__.py": "",
    "src/empty/settings.py": "",
    "src/empty/pipeline_registry.py": """
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    return {{"__default__": Pipeline([])}}
""",
}
"""What `kedro new` makes, without its comments."""


def make_empty(folder: Path) -> Path:
    """Write a Kedro project without any pipeline."""
    from kedro import __version__  # noqa: PLC0415 - `--help` needs none

    for name, content in EMPTY.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content.format(version=__version__))
    return folder


def processor_seconds(project: Path, command: tuple[str, ...]) -> float:
    """Return the processor time of a command of Kedro in a project."""
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "DO_NOT_TRACK": "true"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603 - Kedro's own commands
        [sys.executable, "-m", "kedro", *command],
        cwd=project,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-turns", type=int, default=5)
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        empty = make_empty(Path(folder))
        for name, command in COMMANDS.items():
            turns = [
                (processor_seconds(PROJECT, command), processor_seconds(empty, command))
                for _ in range(arguments.num_turns)
            ]
            ours, theirs = map(min, zip(*turns, strict=True))
            sys.stderr.write(f"kedro {' '.join(command)}: {ours:.2f} s, empty {theirs:.2f} s\n")
            figures[f"{name}_ratio"] = round(ours / theirs, 2)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
