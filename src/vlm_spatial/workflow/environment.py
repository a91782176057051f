"""The environment that jobs are started in."""

import os


def prepend_paths(**folders: str) -> None:
    """Put each folder first in the path variable of that name, for this process and all it starts."""
    for variable, folder in folders.items():
        present = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != folder]
        os.environ[variable] = os.pathsep.join([folder, *present])
