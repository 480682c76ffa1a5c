"""Window attention with a bias that depends on the window's latitude (Bi et al. 2023, Pangu-Weather), for one pressure level.

The published layer knows three dimensions; a single level is padded to the two that a window holds, with a level of zeros. What
that level does is kept, what is computed for it and thrown away is not: its tokens are all alike (a query, key and value of the
biases), they are keys where windows are not shifted, and where windows are shifted the mask keeps the two levels apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.pointwise import TruncatedLinear
from models.layers.window_attention import FORBIDDEN, attention

LEVELS = 2


class EarthAttention(nn.Module):
    """Multi-head attention within windows of ``window`` rows and columns; one table of biases per row of windows.

    Real parameters: ``4 C^2 + 4 C + types heads (levels rows)^2 (2 columns - 1)``, with as many types as rows of windows.

    Args:
        size: rows and columns of tokens; padded with zeros on both sides to a multiple of the window.
        shift: rows and columns that windows are moved by.
        unshift_columns: columns that they are moved back by; the published code moves by the rows' shift and back by its own.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        size: tuple[int, int],
        window: tuple[int, int],
        *,
        shift: tuple[int, int] = (0, 0),
        unshift_columns: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.size, self.window, self.shift = heads, size, window, shift
        self.unshift = (shift[0], shift[1] if unshift_columns is None else unshift_columns)
        missing = [-side % wide for side, wide in zip(size, window, strict=True)]
        self.before = [lack // 2 for lack in missing]
        self.after = [lack - lack // 2 for lack in missing]
        self.types = (size[0] + missing[0]) // window[0]
        p, q = window
        self.table = nn.Parameter(torch.empty(self.types * heads, LEVELS, LEVELS, p, p, 2 * q - 1))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.bias = nn.Parameter(torch.zeros(3 * channels))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.out = TruncatedLinear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, channel]``, same shape out."""
        batch, rows, columns, channels = tokens.shape
        moved = any(self.shift)
        qkv = F.linear(tokens, self.weight, self.bias)
        top, left = self.before
        if any((*self.before, *self.after)):
            wide = self.bias.to(qkv.dtype).expand(batch, top + rows + self.after[0], left + columns + self.after[1], -1).clone()
            wide[:, top : top + rows, left : left + columns] = qkv
            qkv = wide
        if moved:
            qkv = qkv.roll((-self.shift[0], -self.shift[1]), (1, 2))
        mixed = self._attend(qkv, moved)
        if moved:
            mixed = mixed.roll(self.unshift, (1, 2))
        out: Tensor = self.out(mixed[:, top : top + rows, left : left + columns])
        return out

    def _attend(self, qkv: Tensor, moved: bool) -> Tensor:
        batch, rows, columns, wide = qkv.shape
        p, q = self.window
        along, depth = columns // q, wide // (3 * self.heads)
        cut = qkv.view(batch, self.types, p, along, q, 3, self.heads, depth).permute(5, 1, 6, 0, 3, 2, 4, 7)
        parts = cut.reshape(3, self.types * self.heads, batch * along, p * q, depth)
        query, key, value = parts.unbind(0)
        if moved:  # the level lies second in its window then, and its border over the pole is masked
            bias = self._bias(1, 1) + self._mask()
        else:
            bias = torch.cat([self._bias(0, 0), self._bias(0, 1)], dim=-1)
            _, empty_key, empty_value = self.bias.to(qkv.dtype).view(3, 1, self.heads, 1, 1, depth).unbind(0)
            shape = self.types, self.heads, batch * along, p * q, depth
            key = torch.cat([key, empty_key.expand(shape).flatten(0, 1)], dim=2)
            value = torch.cat([value, empty_value.expand(shape).flatten(0, 1)], dim=2)
        mixed = attention(query, key, value, bias)
        mixed = mixed.reshape(self.types, self.heads, batch, along, p, q, depth).permute(2, 0, 4, 3, 5, 1, 6)
        return mixed.reshape(batch, rows, columns, wide // 3)

    def _bias(self, level: int, other: int) -> Tensor:
        """``[types * heads, tokens, tokens]`` between a level and another: by row of query, row of key, distance in columns."""
        p, q = self.window
        near = self.table[:, level, other]
        slid = near.flip(-1).unfold(-1, q, 1).flip(-2)  # [.., row, row, column of query, column of key]
        return slid.permute(0, 1, 3, 2, 4).reshape(-1, p * q, p * q)

    def _mask(self) -> Tensor:
        """``[types * heads, tokens, tokens]``: FORBIDDEN over the border that the shift moved into the last row of windows."""
        p, q = self.window
        region = torch.zeros(self.types, p, q, device=self.table.device)
        region[-1, p - self.shift[0] :] = 1
        flat = region.view(self.types, p * q)
        mask = (flat.unsqueeze(1) != flat.unsqueeze(2)).to(self.table.dtype) * FORBIDDEN
        return mask.repeat_interleave(self.heads, dim=0)
