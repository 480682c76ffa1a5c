"""An experiment: a resolved, checked, typed configuration with an identity and a name."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import identity as identities
from harness.checks import check
from harness.inputs import derive
from harness.schema import EngineConfig, ExperimentConfig
from models import registry
from models.catalogue import Catalogue
from results.errors import ConfigError, ResultError, near_matches
from results.runfolder import RunFolder
from results.store import make_folder, read_json_or, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from launchers.layout import Layout
    from models.system import Point, System


@dataclass(frozen=True)
class Experiment:
    """One point, ready to be planned and run.

    Attributes:
        config: typed top level; ``config.data`` and ``config.model`` are dataclasses of the system.
    """

    config: ExperimentConfig

    @classmethod
    def resolve(cls, node: DictConfig | Mapping[str, Any], *, source: str) -> Experiment:
        """Fill in size, data and model from the system's presets, hold everything against the schemas and check it.

        Args:
            node: what Hydra composed, or the content of a frozen ``config.yaml``.
            source: named in errors: the file, or "command line".

        Raises:
            ConfigError: unknown key, wrong type, impossible combination.
        """
        raw = _resolved(node, source) if isinstance(node, DictConfig) else {str(key): value for key, value in node.items()}
        for name in ("system", "variant", "scale"):
            if raw.get(name) in (None, "???"):
                raise ConfigError(f"key '{name}' has no value", where=source, next_step="tenfold systems")
        room = registry.config(str(raw["system"]))
        catalogue: Catalogue = room.CATALOGUE
        try:
            raw["size"] = catalogue.size(raw["variant"], None if raw.get("size") is None else str(raw["size"]), raw["scale"])
        except ConfigError as error:
            raise _located(error, source) from error
        model_keys, data_keys = raw.pop("model", None) or {}, raw.pop("data", None) or {}
        for section, keys in (("model", model_keys), ("data", data_keys)):
            if not isinstance(keys, Mapping):
                raise ConfigError(f"'{section}' is a section of keys, not {keys!r}", where=f"{source}: {section}")
        preset = room.model_preset(raw["variant"], raw["size"], raw["scale"])
        config = _typed(ExperimentConfig, raw, "", source)
        config.model = _typed(preset, model_keys, "model.", source)
        config.data = _typed(room.Data, data_keys, "data.", source)
        if config.train.micro_batch == 0 and config.ranks > 0:
            config.train.micro_batch = max(config.train.global_batch // config.ranks, 1)
        experiment = cls(config)
        check(config, source)
        selected = config.train.select_metric
        if selected is not None and selected not in catalogue.metric_specs:
            raise ConfigError(
                f"system '{catalogue.name}' has no metric '{selected}'{near_matches(selected, catalogue.metric_specs)}",
                where=f"{source}: train.select_metric",
            )
        try:
            room.check(experiment.light_point)
        except ConfigError as error:
            raise _located(error, source) from error
        return experiment

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read a frozen ``config.yaml`` (or a run folder that holds one).

        Raises:
            ConfigError: missing, not YAML, or not a valid experiment.
        """
        path = path / "config.yaml" if path.is_dir() else path
        try:
            node = OmegaConf.load(path)
        except FileNotFoundError as error:
            raise ConfigError("there is no frozen configuration here", where=str(path), next_step="tenfold status") from error
        except Exception as error:
            raise ConfigError(f"not a readable YAML file: {error}", where=str(path)) from error
        if not isinstance(node, DictConfig):
            raise ConfigError("the top level is not a mapping", where=str(path))
        return cls.resolve(node, source=str(path))

    def with_numbers(self, numbers: Mapping[str, int], *, source: str) -> Experiment:
        """The same experiment with another ``seed`` or ``repeat``: nothing else depends on them, nothing is resolved again.

        Raises:
            ConfigError: a negative number.
        """
        if all(getattr(self.config, name) == value for name, value in numbers.items()):
            return self
        config = copy.copy(self.config)  # sections are shared: nobody changes them in place
        for name, value in numbers.items():
            setattr(config, name, value)
        check(config, source)
        return Experiment(config)

    def with_layout(self, layout: Layout) -> Experiment:
        """The experiment as the next attempt really executes it: same global batch, other ranks or micro-batch.

        Raises:
            ConfigError: the global batch cannot be cut that way.
        """
        if not layout.changed:
            return self
        ranks = layout.ranks or self.config.ranks
        micro = layout.micro_batch or self.config.train.micro_batch
        if self.config.train.global_batch % (micro * ranks):
            micro = max(self.config.train.global_batch // ranks, 1)
        config = dataclasses.replace(self.config, ranks=ranks, train=dataclasses.replace(self.config.train, micro_batch=micro))
        if layout.engine is not None:
            config.engine = load_engine(layout.engine, "layout.json")
        check(config, "layout.json")
        return Experiment(config)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The whole configuration as plain containers."""
        return dataclasses.asdict(self.config)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The system's catalogue."""
        return registry.catalogue(self.config.system)

    @cached_property
    def light_point(self) -> Any:
        """The system's part of the experiment without importing torch: same fields as :class:`models.system.Point`."""
        return _LightPoint(**self._point_fields())

    @cached_property
    def point(self) -> Point:
        """The system's part of the experiment."""
        from models.system import Point

        return Point(**self._point_fields())

    def _point_fields(self) -> dict[str, Any]:
        config = self.config
        return {
            "variant": config.variant,
            "size": config.size,
            "scale": config.scale,
            "seed": config.seed,
            "model": config.model,
            "data": config.data,
            "precision": config.precision,
            "global_batch": config.train.global_batch,
            "micro_batch": config.train.micro_batch,
            "data_root": Path(config.paths.data),
        }

    @cached_property
    def system(self) -> System:
        """The system (imports torch)."""
        return registry.system(self.config.system)

    @cached_property
    def data_label(self) -> str:
        """``generated``, or the fingerprint of the user's data."""
        return self.system.data_label(self.point)

    @cached_property
    def inputs(self) -> dict[str, Experiment]:
        """The runs that this one reads, by name."""
        changes = self.system.inputs(self.point)
        return {name: derive(self, changed, name=name) for name, changed in changes.items()}

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the semantic keys."""
        inputs = [spec.identity for spec in self.system.stores(self.point)]
        inputs += [experiment.identity for experiment in self.inputs.values()]
        if self.data_label != "generated":
            inputs.append(self.data_label)
        return identities.identity(self.plain, system_version=self.catalogue.version, inputs=inputs)

    @cached_property
    def name(self) -> str:
        """The run's name."""
        return identities.run_name(self.plain, self.identity)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.config.paths.runs) / self.name)

    def freeze(self) -> RunFolder:
        """Write ``config.yaml`` and ``run.json`` (identity, data label) into the run folder, once.

        Raises:
            ResultError: the folder cannot be written.
        """
        folder = self.folder
        make_folder(folder.path, what="the run folder", next_step="paths.runs=FOLDER")
        known = stored_identity(folder).get("identity")
        if known not in (None, self.identity):
            raise ResultError(
                "another experiment has the same eight digits; its run folder is in the way",
                where=str(folder.path),
                next_step="paths.runs=FOLDER",
            )
        text = as_yaml(self.plain)
        if known is None or not folder.config_file.exists():
            # Not forced to disk: a thousand points would wait for it, and after a power cut the same command writes them again.
            facts = {"identity": self.identity, "data": self.data_label, "system_version": self.catalogue.version}
            if self.inputs:
                facts["inputs"] = {name: experiment.name for name, experiment in self.inputs.items()}
            write_json(folder.path / "run.json", facts, durable=False)
            write_bytes(folder.config_file, text.encode(), durable=False)
        elif not folder.is_completed() and folder.config_file.read_text() != text:
            # Paths, limits and the like may change from one attempt to the next; what is hashed cannot, or it were another run.
            lock = folder.lock()
            if lock.acquire():
                try:
                    write_text(folder.config_file, text)
                finally:
                    lock.release()
        return folder


def load_engine(name: str, source: str) -> EngineConfig:
    """A built-in engine's configuration by name.

    Raises:
        ConfigError: there is none of that name.
    """
    folder = Path(__file__).parent.parent / "configs" / "engine"
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(
            f"there is no engine '{name}'{near_matches(name, (p.stem for p in folder.glob('*.yaml')))}", where=source
        )
    found: EngineConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EngineConfig), OmegaConf.load(path)))  # type: ignore[assignment]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _LightPoint:
    variant: str
    size: str
    scale: str
    seed: int
    model: Any
    data: Any
    precision: str
    global_batch: int
    micro_batch: int
    data_root: Path


def _located(error: ConfigError, source: str) -> ConfigError:
    """The same error, saying which file or command line it is about."""
    return ConfigError(error.what, where=f"{source}: {error.where}" if error.where else source, next_step=error.next_step)


def _resolved(node: DictConfig, source: str) -> dict[str, Any]:
    """Plain values, interpolations carried out."""
    try:
        raw = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(
            f"key '{key}': {str(error).splitlines()[0]}",
            where=f"{source}: {key}",
            next_step="\\${NAME} is left to the shell; ${KEY} names a key of the configuration",
        ) from error
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


_INTERPOLATION = re.compile(r"(\\*)\$\{")


def escaped(value: Any) -> Any:
    """Plain values as OmegaConf must be given them to give them back: ``${`` in a text is the shell's."""
    if isinstance(value, str):
        return _INTERPOLATION.sub(lambda found: 2 * found.group(1) + r"\${", value)
    if isinstance(value, Mapping):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list | tuple) else value


def _typed(schema: Any, keys: Mapping[str, Any], prefix: str, source: str) -> Any:
    """Merge plain keys into a dataclass (type or instance) and return an instance of it."""
    base = OmegaConf.structured(schema)
    flat = set(base)
    for name in keys:
        if name not in flat:
            raise ConfigError(
                f"there is no key '{prefix}{name}'{near_matches(str(name), [str(key) for key in flat])}",
                where=f"{source}: {prefix}{name}",
            )
    try:
        merged = OmegaConf.merge(base, OmegaConf.create(escaped(keys)))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        known = ""
        if "not in" in str(error):
            section, _, leaf = str(key).rpartition(".")
            inner = OmegaConf.select(base, section) if section else base
            known = near_matches(leaf, [str(name) for name in inner]) if inner is not None else ""
        message = str(error).splitlines()[0]
        raise ConfigError(f"key '{prefix}{key}': {message}{known}", where=f"{source}: {prefix}{key}") from error


#: What OmegaConf reads as a number and YAML 1.1 as text (``1e-3``): such text must be quoted.
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)(?:[eE][-+]?\d+)?")


def as_yaml(plain: Mapping[str, Any]) -> str:
    """A configuration as YAML, keys in the schema's order; an order of magnitude faster than OmegaConf's own writer."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        """Quotes every text that OmegaConf would read as a number."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))
    text: str = yaml.dump(
        escaped(plain), Dumper=Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000
    )
    return text


def stored_identity(folder: RunFolder) -> dict[str, Any]:
    """``run.json`` of a run folder, empty where it is missing."""
    found: dict[str, Any] = read_json_or(folder.path / "run.json", {})
    return found
