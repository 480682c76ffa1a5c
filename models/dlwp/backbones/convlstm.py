"""ConvLSTM (Shi et al. 2015) on a torus, a cylinder or the faces of a sphere: recurrent, one frame at a time. Direct."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import ConvLSTM
from models.layers.boundary import Boundary
from models.layers.grid_convs import GridConvs, grid_conv

#: Hidden and cell state of one layer, each ``[batch, hidden, height, width]``.
State = tuple[Tensor, Tensor]


class ConvLSTMCell(nn.Module):
    """One 3x3 convolution of [input, hidden] to four gates in the order candidate (tanh), input, forget, output (sigmoid).

    Takes a sequence: where several inputs are known at once (teacher forcing), their part of the convolution is computed in
    one go, before the recurrence. Parameters: ``72 h^2 + 4 h``.
    """

    def __init__(self, hidden: int, boundary: Boundary = Boundary.TORUS) -> None:
        super().__init__()
        self.hidden = hidden
        self.boundary = boundary
        self.weight = nn.Parameter(torch.empty(4 * hidden, 2 * hidden, 3, 3))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        bound = (2 * hidden * 9) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Tensor, steps: int, state: State | None) -> tuple[Tensor, State]:
        """Run over a sequence.

        Args:
            inputs: ``[steps * batch, hidden, height, width]``, time outermost.
            state: None before the first frame (zeros).

        Returns:
            hidden of every frame, shaped as ``inputs``, and the last state.
        """
        if steps == 1 and state is not None:
            gates = self._convolve(torch.cat([inputs, state[0]], dim=1), self.weight, self.bias)
            state = self._update(gates, state)
            return state[0], state
        known = self._convolve(inputs, self.weight[:, : self.hidden], self.bias).chunk(steps)
        recurrent = self.weight[:, self.hidden :]
        outputs = []
        for gates in known:
            if state is not None:
                gates = gates + self._convolve(state[0], recurrent)
            state = self._update(gates, state)
            outputs.append(state[0])
        assert state is not None
        return torch.cat(outputs), state

    def _convolve(self, field: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return grid_conv(field, weight, bias, boundary=self.boundary)

    def _update(self, gates: Tensor, state: State | None) -> State:
        candidate = torch.tanh(gates[:, : self.hidden])
        enter, forget, leave = torch.sigmoid(gates[:, self.hidden :]).chunk(3, dim=1)
        cell = enter * candidate if state is None else torch.addcmul(enter * candidate, forget, state[1])
        return leave * torch.tanh(cell), cell


class RecurrentConvLSTM(nn.Module):
    """Frames to next frames, with a state. Parameters with 4 cells: ``306 h^2 + 37 h + 1`` for one channel in and out,
    ``306 h^2 + (9 (in + out) + 19) h + out`` for more."""

    residual = False
    recurrent = True

    def __init__(self, model: ConvLSTM, fields: Fields) -> None:
        super().__init__()
        h = model.hidden

        def convs(*channels: int, zero_output: bool = False) -> GridConvs:
            return GridConvs(
                list(channels),
                boundary=fields.boundary,
                activation="tanh",
                activate_last=False,
                zero_output=zero_output,
            )

        self.encoder = convs(fields.frame_inputs, h, h, h)
        self.cells = nn.ModuleList(ConvLSTMCell(h, fields.boundary) for _ in range(model.layers))
        self.decoder = convs(h, fields.outputs, zero_output=fields.zero_output)

    def forward(self, frames: Tensor, states: list[State] | None) -> tuple[Tensor, list[State]]:
        """Advance over a sequence of known frames.

        Args:
            frames: ``[time, batch, channels in, height, width]``.
            states: of all layers; None before the first frame.

        Returns:
            predictions of the frames after each of ``frames``, ``[time, batch, channels out, height, width]``, and the states.
        """
        steps = frames.shape[0]
        field = self.encoder(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        after = []
        for index, cell in enumerate(self.cells):
            field, state = cell(field, steps, None if states is None else states[index])
            after.append(state)
        return self.decoder(field).unflatten(0, frames.shape[:2]), after
