"""Two-dimensional incompressible Navier-Stokes flow on the torus, in vorticity form (Karlbauer et al. 2024, section 3.1).

On the unit square, periodic in x (rows) and y (columns), with ``u = (psi_y, -psi_x)`` and ``Laplace psi = -w``::

    dw/dt + u . grad w = nu Laplace w + f,    f(x, y) = 0.1 [sin 2 pi (x + y) + cos 2 pi (x + y)]

Both solvers here share one spatial discretisation: Fourier modes in cycles (every derivative carries 2 pi), the 2/3 rule
applied to the nonlinear term only. :mod:`.solver` integrates it fast, :mod:`.published` as the data were published.
"""

from models.dlwp.navier_stokes.published import published_scheme
from models.dlwp.navier_stokes.solver import NavierStokesSolver
from models.dlwp.navier_stokes.torus import forcing_field

__all__ = ["NavierStokesSolver", "forcing_field", "published_scheme"]
