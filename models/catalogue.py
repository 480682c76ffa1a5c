"""What a system says of itself before any torch is imported: names, variants, sizes, metrics.

Each system package has a ``config.py`` with

* ``CATALOGUE``: a :class:`Catalogue`;
* ``Data``: a dataclass, the typed schema of the ``data`` section of its configuration;
* ``model_preset(variant, size, scale)``: the dataclass with the model's numbers, the ``model`` section;
* ``check(point)``: raises :class:`results.errors.ConfigError` on an impossible combination.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from results.errors import ConfigError, near_matches
from results.metrics import MetricSpec

SCALES = ("tiny", "small", "paper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model inside a system.

    Attributes:
        name: the word in ``variant=``.
        title: how tables and plots call it.
        sizes: parameter budgets by scale, ascending; the first is the default of that scale unless ``default`` says otherwise.
        default: default size by scale.
        published_as: what the paper's tables call it, where that differs.
    """

    name: str
    title: str
    sizes: Mapping[str, tuple[str, ...]]
    default: Mapping[str, str] = field(default_factory=dict)
    published_as: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """One system.

    Attributes:
        name: the word in ``system=``; also the package's name.
        title: full name.
        paper: citation with identifier.
        version: raised whenever the meaning of a number changes; part of every run's identity.
        kind: ``trained`` or ``profiled``.
        metrics: the system's own metrics.
        primary_metric: the accuracy metric that tables, fits and plots show first.
    """

    name: str
    title: str
    paper: str
    version: int
    kind: str
    variants: tuple[Variant, ...]
    metrics: tuple[MetricSpec, ...]
    primary_metric: str

    def variant(self, name: str) -> Variant:
        """Look a variant up.

        Raises:
            ConfigError: unknown name; near matches are named.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise ConfigError(
            f"system '{self.name}' has no variant '{name}'{near_matches(name, [v.name for v in self.variants])}",
            where="variant",
            next_step="tenfold systems",
        )

    def size(self, variant: str, size: str | None, scale: str) -> str:
        """The size to use: the one asked for if it exists at this scale, else the scale's default.

        Raises:
            ConfigError: unknown scale or size.
        """
        found = self.variant(variant)
        if scale not in found.sizes:
            raise ConfigError(f"variant '{variant}' has no scale '{scale}'{near_matches(scale, found.sizes)}", where="scale")
        sizes = found.sizes[scale]
        if size is None:
            return found.default.get(scale, sizes[0])
        if size not in sizes:
            raise ConfigError(
                f"variant '{variant}' has no size '{size}' at scale '{scale}'; known: {', '.join(sizes)}", where="size"
            )
        return size

    @property
    def metric_specs(self) -> dict[str, MetricSpec]:
        """The system's metrics by name."""
        return {spec.name: spec for spec in self.metrics}
