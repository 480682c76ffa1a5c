"""A generated atmosphere: quasi-geostrophic flow on the sphere, seen through the channels of WeatherBench.

:mod:`.quasi_geostrophic` integrates members, :mod:`.observables` turns their streamfunctions into channels, :mod:`.insolation`
has the sun, :mod:`.orography` the ground, :mod:`.harmonics` the transforms. :mod:`.shallow_water` is a second flow, with known
answers.
"""

from models.dlwp.weather.atmosphere.observables import Observer
from models.dlwp.weather.atmosphere.parameters import QuasiGeostrophicParameters
from models.dlwp.weather.atmosphere.quasi_geostrophic import QuasiGeostrophicModel, simulate

__all__ = ["Observer", "QuasiGeostrophicModel", "QuasiGeostrophicParameters", "simulate"]
