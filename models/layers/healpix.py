"""Halos for convolutions on the sphere as twelve square faces (HEALPix, Gorski et al. 2005).

A field is ``[..., 12, n, n]``, faces 0 to 3 round the north pole, 4 to 7 on the equator, 8 to 11 round the south pole. Within
a face, row 0 and column 0 meet in its northern corner; rows run to the south-west, columns to the south-east.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FACES = 12


def neighbourhoods(nside: int, padding: int) -> NDArray[np.int64]:
    """Which pixels surround each face, ``[2, 12, n + 2 padding, n + 2 padding]``, indices into flat ``[12, n, n]``.

    A padded pixel is the mean of two, which are the same but in some corners: eight corners of the twelve faces are shared by
    three of them only, so nothing lies diagonally across. What fills the square there is the mean of the two pixels on
    either side of the seam between the two other faces, as far from the corner as the square's pixel is. (Published code
    does so on the equator, and repeats one of the two faces elsewhere.)
    """
    n, face = nside, np.arange(FACES * nside**2).reshape(FACES, nside, nside)
    around = np.full((FACES, 3 * n, 3 * n), -1)
    tiles = around.reshape(FACES, 3, n, 3, n).swapaxes(2, 3)  # a view: [face, vertical, horizontal, row, column]
    tiles[:, 1, 1] = face
    for k in range(4):
        east, west, opposite = (k + 1) % 4, (k - 1) % 4, (k + 2) % 4
        # Round a pole faces meet in it, each turned by 90 degrees against the next.
        tiles[k, 0, 1], tiles[k, 1, 0] = np.rot90(face[east], 1), np.rot90(face[west], -1)
        tiles[k, 0, 0] = np.rot90(face[opposite], 2)
        tiles[k, 2, 1], tiles[k, 1, 2], tiles[k, 2, 2] = face[4 + k], face[4 + east], face[8 + k]
        tiles[4 + k, 0, 1], tiles[4 + k, 1, 0] = face[k], face[west]
        tiles[4 + k, 2, 1], tiles[4 + k, 1, 2] = face[8 + west], face[8 + k]
        tiles[4 + k, 2, 0], tiles[4 + k, 0, 2] = face[4 + west], face[4 + east]
        tiles[8 + k, 2, 1], tiles[8 + k, 1, 2] = np.rot90(face[8 + west], 1), np.rot90(face[8 + east], -1)
        tiles[8 + k, 2, 2] = np.rot90(face[8 + opposite], 2)
        tiles[8 + k, 0, 1], tiles[8 + k, 1, 0], tiles[8 + k, 0, 0] = face[4 + east], face[4 + k], face[k]
    one, other = around.copy(), around.copy()
    for f, row, column in np.argwhere(around < 0):
        edge_row, edge_column = np.clip([row, column], n, 2 * n - 1)
        far = max(abs(row - edge_row), abs(column - edge_column))
        one[f, row, column] = around[f, edge_row + np.sign(row - edge_row) * far, edge_column]
        other[f, row, column] = around[f, edge_row, edge_column + np.sign(column - edge_column) * far]
    kept = slice(n - padding, 2 * n + padding)
    return np.stack([one[:, kept, kept], other[:, kept, kept]])


_halos: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}


def _halo(nside: int, padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Seams ``[2, seams]`` and the padded faces ``[12 m m]`` as indices into pixels followed by the means of seams, made once."""
    key = (nside, padding, device)
    found = _halos.get(key)
    if found is None:
        one, other = neighbourhoods(nside, padding).reshape(2, -1)
        pairs, which = np.unique(np.stack([one, other])[:, one != other], axis=1, return_inverse=True)
        index = one.copy()
        index[one != other] = FACES * nside**2 + which.ravel()
        with torch.inference_mode(False):
            found = torch.tensor(pairs, device=device), torch.tensor(index, device=device)
        if type(found[0]) is Tensor:  # never a tensor of a tracing or counting mode
            _halos[key] = found
    return found


def pad_faces(field: Tensor, padding: int) -> Tensor:
    """Surround every face by pixels of its neighbours: ``[batch, 12, channel, n, n]`` to ``[batch, 12, channel, m, m]`` with
    ``m = n + 2 padding``, channels last in memory.

    Raises:
        ValueError: ``padding`` is wider than a face.
    """
    batch, _, channels, n, _ = field.shape
    if not 1 <= padding <= n:
        raise ValueError(f"faces of {n} x {n} pixels cannot be padded by {padding}")
    seams, index = _halo(n, padding, field.device)
    flat = field.movedim(2, -1).reshape(batch, FACES * n * n, channels)
    means = 0.5 * (flat.index_select(1, seams[0]) + flat.index_select(1, seams[1]))
    padded = torch.cat([flat, means], dim=1).index_select(1, index)
    return padded.view(batch, FACES, n + 2 * padding, n + 2 * padding, channels).movedim(-1, 2)
