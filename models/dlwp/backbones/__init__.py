"""One file per backbone; :func:`build` makes the one a model configuration names.

A backbone is a module with an attribute ``residual``. Non-recurrent ones map ``[batch, context, height, width]`` to
``[batch, 1, height, width]``; recurrent ones (``recurrent`` is True) map ``[time, batch, 1, height, width]`` and a state to
predictions of the same shape and the next state.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from models.dlwp.config import FNO2D, TFNO2D, ConvLSTM, FourCastNet, UNet


def build(model: Any) -> nn.Module:
    """Build the backbone of a model configuration, on torch's default device.

    Raises:
        TypeError: the configuration belongs to no backbone.
    """
    match model:  # TFNO2D is an FNO2D: it comes first
        case TFNO2D():
            from models.dlwp.backbones.fno import tfno2d

            return tfno2d(model)
        case FNO2D():
            from models.dlwp.backbones.fno import fno2d

            return fno2d(model)
        case UNet():
            from models.dlwp.backbones.unet import CircularUNet

            return CircularUNet(model)
        case ConvLSTM():
            from models.dlwp.backbones.convlstm import RecurrentConvLSTM

            return RecurrentConvLSTM(model)
        case FourCastNet():
            from models.dlwp.backbones.fourcastnet import AFNO

            return AFNO(model)
    raise TypeError(f"no backbone is configured by {type(model).__name__}")
