"""Run the project where only its package is installed.

`python -m budwood --env=smoke --conf-source=conf-budwood.tar.gz`, with the archive that `kedro package` writes.
"""

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project

if __name__ == "__main__":
    configure_project("budwood")
    find_run_command("budwood")()
