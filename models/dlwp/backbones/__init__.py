"""One file per backbone; :func:`build` makes the one a model configuration names.

A backbone is a module with an attribute ``residual``. Most map ``[batch, inputs, height, width]`` to ``[batch, outputs, height,
width]``; recurrent ones (``recurrent`` is True) map ``[time, batch, channels, height, width]`` and a state to predictions and the
next state; those that predict in one shot (``one_shot`` is True) map ``[batch, time, height, width]`` and a number of frames to
that many frames.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import FNO2D, FNO3D, SFNO, TFNO2D, ConvLSTM, FourCastNet, GraphCast, MeshGraphNet, Pangu, Swin, UNet


def build(model: Any, fields: Fields) -> nn.Module:
    """Build the backbone of a model configuration, on torch's default device.

    Raises:
        TypeError: the configuration belongs to no backbone.
    """
    match model:  # TFNO2D is an FNO2D: it comes first
        case TFNO2D():
            from models.dlwp.backbones.fno import tfno2d

            return tfno2d(model, fields)
        case FNO2D():
            from models.dlwp.backbones.fno import fno2d

            return fno2d(model, fields)
        case FNO3D():
            from models.dlwp.backbones.fno3d import fno3d

            return fno3d(model)
        case UNet():
            from models.dlwp.backbones.unet import GridUNet

            return GridUNet(model, fields)
        case ConvLSTM():
            from models.dlwp.backbones.convlstm import RecurrentConvLSTM

            return RecurrentConvLSTM(model, fields)
        case FourCastNet():
            from models.dlwp.backbones.fourcastnet import AFNO

            return AFNO(model, fields)
        case Swin():
            from models.dlwp.backbones.swin import SwinTransformer

            return SwinTransformer(model, fields)
        case MeshGraphNet():
            from models.dlwp.backbones.meshgraphnet import GridMeshGraphNet

            return GridMeshGraphNet(model, fields)
        case SFNO():
            from models.dlwp.backbones.sfno import SphericalOperator

            return SphericalOperator(model, fields)
        case Pangu():
            from models.dlwp.backbones.pangu import PanguWeather

            return PanguWeather(model, fields)
        case GraphCast():
            from models.dlwp.backbones.graphcast import MeshGraphCast

            return MeshGraphCast(model, fields)
    raise TypeError(f"no backbone is configured by {type(model).__name__}")
