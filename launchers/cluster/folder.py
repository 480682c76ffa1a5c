"""The cluster's folder: claimed, refused where it is somebody else's, emptied."""

from __future__ import annotations

import os
import shutil

from launchers.cluster.config import Layout
from results.errors import ConfigError


def claim(layout: Layout) -> None:
    """Make the folder, or take over what an earlier cluster left there.

    Raises:
        ConfigError: it cannot be made, or holds something else.
    """
    try:
        layout.folder.mkdir(mode=0o711, parents=True)
    except FileExistsError:
        refuse_foreign_folder(layout)
    except OSError as error:
        raise ConfigError(
            f"the cluster's folder cannot be made: {error.strerror}",
            where=str(layout.folder),
            next_step="tenfold cluster up --folder FOLDER",
        ) from error
    layout.folder.chmod(0o711)  # munge's clients of any user pass through; what is secret has a mode of its own


def refuse_foreign_folder(layout: Layout) -> None:
    """A predictable name under /tmp may be somebody else's, and nobody's files are to be deleted.

    Raises:
        ConfigError: the folder is not a cluster's, not ours, or a link.
    """
    folder = layout.folder
    ours = folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
    if not ours or (any(folder.iterdir()) and not (layout.facts.exists() or layout.lock.exists())):
        raise ConfigError(
            "the folder exists and is not a cluster of yours",
            where=str(folder),
            next_step="tenfold cluster up --folder FOLDER",
        )


def clear(layout: Layout) -> None:
    """Empty the folder but for its lock."""
    for path in layout.folder.iterdir():
        if path != layout.lock:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
