"""A study: a set of experiments in stages, and the analysis that belongs to them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.compose import Composer, expand
from harness.experiment import Experiment
from harness.inputs import all_inputs
from models import registry
from results.errors import ConfigError, near_matches
from results.store import make_folder, sha256_text, write_json

BUILT_IN = Path(__file__).parent.parent / "configs" / "study"
INDEX_SCHEMA = 1


@dataclass
class StageConfig:
    """Points that may run at the same time.

    Each entry of ``points`` is a list of overrides in Hydra's sweep grammar and stands for its Cartesian product; words on the
    command line win over them. Those of ``pinned`` win over the command line: a reference that has one rank whatever it says.
    ``size=all`` stands for all sizes that the variant has at the scale.
    """

    name: str = "main"
    exclusive: bool = False  # one run at a time, nothing else on the machine
    paired: bool = False  # the arms of one repeat run one after another in a shuffled order, so that drift meets all of them
    batch_per_rank: bool = False  # train.global_batch is the batch of one rank, and grows with the ranks (weak scaling)
    longest_s: dict[str, float] = field(default_factory=dict)  # by scale: points planned to take longer are listed, not run
    at_scale: dict[str, list[str]] = field(default_factory=dict)  # further overrides of its points at a scale
    points: list[list[str]] = field(default_factory=list)
    pinned: list[list[str]] = field(default_factory=list)


@dataclass
class StudyConfig:
    """Content of ``configs/study/NAME.yaml``."""

    name: str = ""
    title: str = ""
    description: str = ""
    common: list[str] = field(default_factory=list)  # overrides of every point
    stages: list[StageConfig] = field(default_factory=list)
    analysis: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One experiment of a study."""

    stage: str
    exclusive: bool
    overrides: tuple[str, ...]
    experiment: Experiment
    paired: bool = False
    longest_s: float | None = None

    def left_out(self, planned_s: float | None) -> str:
        """Why the point is listed and not run; empty where it is run."""
        if self.longest_s is None or planned_s is None or planned_s <= self.longest_s:
            return ""
        return f"planned, not run: {planned_s / 60:.1f} min, above this study's limit of {self.longest_s / 60:g} min"

    @property
    def arm(self) -> str:
        """Short label: what distinguishes the point besides its seed."""
        config = self.experiment.config
        label = f"{config.variant} {config.size}"
        if self.paired:
            return f"{label} {config.engine.name} x {config.ranks}"
        return f"{label} {config.engine.name}" if config.engine.name != "torch" or self.exclusive else label


@dataclass(frozen=True, slots=True)
class Study:
    """An expanded study."""

    config: StudyConfig
    points: list[StudyPoint]
    command: str
    left_out: dict[str, str] = field(default_factory=dict)  # run name: why it is not run

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.name

    def leave_out(self, point: StudyPoint, planned_s: float | None, say: Callable[[str], None]) -> bool:
        """Whether a point is planned to take too long to be run; noted, and said."""
        why = point.left_out(planned_s)
        if why:
            self.left_out[point.experiment.name] = why
            say(f"  {point.experiment.name} ({point.arm}) {why}")
        return bool(why)

    def folder(self) -> Path:
        """Where its table, plots and report go: ``<paths.reports>/<name>``."""
        return Path(self.points[0].experiment.config.paths.reports) / self.name

    def index(self) -> dict[str, Any]:
        """What analysis and report read instead of composing again (``study.json``)."""
        first = self.points[0].experiment
        catalogue = first.catalogue
        return {
            "schema": INDEX_SCHEMA,
            "study": self.name,
            "title": self.config.title or self.name,
            "description": self.config.description,
            "command": self.command,
            "system": catalogue.name,
            "system_title": catalogue.title,
            "paper": catalogue.paper,
            "scale": first.config.scale,
            "primary_metric": catalogue.primary_metric,
            "metrics": {
                spec.name: {"unit": spec.unit, "direction": str(spec.direction), "title": spec.title}
                for spec in catalogue.metrics
            },
            "variants": {variant.name: variant.title for variant in catalogue.variants},
            "runs": [
                {
                    "run": point.experiment.name,
                    "stage": point.stage,
                    "arm": point.arm,
                    "overrides": list(point.overrides),
                    **({"left_out": self.left_out[point.experiment.name]} if point.experiment.name in self.left_out else {}),
                }
                for point in self.points
            ],
            "analysis": self.config.analysis,
        }

    def write_index(self) -> Path:
        """Write ``study.json`` into the study's folder."""
        folder = self.folder()
        make_folder(folder, what="the study's folder", next_step="paths.reports=FOLDER")
        write_json(folder / "study.json", self.index())
        return folder


def study_names(config_dir: Path | None = None) -> list[str]:
    """All studies that can be named."""
    folders = [BUILT_IN] + ([config_dir / "study"] if config_dir else [])
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def load_study(name: str, config_dir: Path | None = None) -> StudyConfig:
    """Read and check a study's file.

    Raises:
        ConfigError: unknown study, unknown key, wrong type.
    """
    for folder in ([config_dir / "study"] if config_dir else []) + [BUILT_IN]:
        path = folder / f"{name}.yaml"
        if path.exists():
            break
    else:
        raise ConfigError(f"there is no study '{name}'{near_matches(name, study_names(config_dir))}", where="study")
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
        stages = plain.get("stages", []) if isinstance(plain, dict) else []
        for owner, keys, schema in [("", plain, StudyConfig), *[(f"stages[{i}].", s, StageConfig) for i, s in enumerate(stages)]]:
            known = [item.name for item in dataclasses.fields(schema)]
            for key in keys if isinstance(keys, dict) else ():
                if key not in known:
                    raise ConfigError(
                        f"there is no key '{owner}{key}'{near_matches(str(key), known)}", where=f"{path}: {owner}{key}"
                    )
        config: StudyConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudyConfig), plain))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"not a valid study: {str(error).splitlines()[0]}", where=str(path)) from error
    config.name = config.name or name
    if not config.stages or not any(stage.points or stage.pinned for stage in config.stages):
        raise ConfigError("the study has no points", where=f"{path}: stages")
    return config


def expand_study(name: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> Study:
    """Compose every point of a named study; ``overrides`` are added to each and win.

    Raises:
        ConfigError: the study or any of its points is wrong; nothing has started then.
    """
    return _expand(load_study(name, config_dir), overrides, f"tenfold sweep study={name} " + " ".join(overrides), config_dir)


def adhoc_study(overrides: Sequence[str], *, config_dir: Path | None = None) -> Study:
    """A study made of the words on the command line alone (``tenfold sweep variant=fno2d,unet seed=0,1``)."""
    words = list(overrides)
    config = StudyConfig(
        name="adhoc-" + sha256_text(" ".join(words))[:8],
        title="Ad-hoc sweep",
        description="Points named on the command line: " + " ".join(words),
        stages=[StageConfig(name="main", points=[words])],
    )
    return _expand(config, [], "tenfold sweep " + " ".join(words), config_dir)


def single_study(experiment: Experiment, command: str) -> Study:
    """A study of one experiment, for what takes studies (submitting)."""
    config = StudyConfig(name=experiment.config.system, title=experiment.name)
    return Study(config, _with_inputs([StudyPoint("run", False, (), experiment)]), command.strip())


def _expand(config: StudyConfig, overrides: Sequence[str], command: str, config_dir: Path | None) -> Study:
    points: list[StudyPoint] = []
    with Composer(config_dir) as composer:
        for stage in config.stages:
            found: dict[str, StudyPoint] = {}
            wanted = [[*config.common, *words, *overrides] for words in stage.points]
            wanted += [[*config.common, *overrides, *words] for words in stage.pinned]
            for words in wanted:
                words = _at_scale(words, stage.at_scale)
                for chosen in _all_sizes(expand(_last_words(words))):
                    if stage.batch_per_rank:
                        chosen = _last_words([*chosen, _batch_of_all_ranks(composer, chosen)])
                    experiment = composer.compose(chosen)
                    longest_s = stage.longest_s.get(experiment.config.scale)
                    point = StudyPoint(stage.name, stage.exclusive, tuple(chosen), experiment, stage.paired, longest_s)
                    found.setdefault(experiment.name, point)
            points += _interleaved(list(found.values())) if stage.paired else found.values()
    points = _with_inputs(points)
    systems = {point.experiment.config.system for point in points}
    if len(systems) > 1:
        raise ConfigError(f"a study holds one system; this one names {', '.join(sorted(systems))}", where=f"study {config.name}")
    return Study(config, points, command.strip())


def _with_inputs(points: Sequence[StudyPoint]) -> list[StudyPoint]:
    """What points read and no earlier stage makes, put before them as a stage of its own."""
    stages = {stage: place for place, stage in enumerate(dict.fromkeys(point.stage for point in points))}
    made: dict[str, int] = {}
    for point in points:
        made.setdefault(point.experiment.name, stages[point.stage])
    found: dict[str, StudyPoint] = {}
    for point in points:
        for read in all_inputs(point.experiment):
            if made.get(read.name, len(stages)) >= stages[point.stage]:
                found.setdefault(read.name, StudyPoint("inputs", False, point.overrides, read))
    return [*found.values(), *(point for point in points if point.experiment.name not in found)]


def _at_scale(words: list[str], at_scale: Mapping[str, list[str]]) -> list[str]:
    """Words with those that belong to their scale put before them, so that any other word wins."""
    scale = next((word.partition("=")[2] for word in reversed(words) if word.startswith("scale=")), "")
    return [*at_scale.get(scale, ()), *words]


def _all_sizes(points: Sequence[list[str]]) -> Iterator[list[str]]:
    """``size=all`` replaced by each size that the variant has at the scale."""
    for words in points:
        if "size=all" not in words:
            yield words
            continue
        named = dict(word.partition("=")[::2] for word in words)
        missing = [key for key in ("system", "variant", "scale") if key not in named]
        if missing:
            raise ConfigError(
                f"size=all needs {', '.join(f'{key}=' for key in missing)} beside it", where="command line: size=all"
            )
        catalogue = registry.catalogue(named["system"])
        catalogue.size(named["variant"], None, named["scale"])  # an unknown variant or scale is named
        for size in catalogue.variant(named["variant"]).sizes[named["scale"]]:
            yield [f"size={size}" if word == "size=all" else word for word in words]


def _batch_of_all_ranks(composer: Composer, words: Sequence[str]) -> str:
    """The batch that the words give to one rank, times the ranks, as a word."""
    ranks = next((word.partition("=")[2] for word in words if word.startswith("ranks=")), "1")
    alone = composer.compose(_last_words([*words, "ranks=1"]))  # one rank's batch need not be a multiple of the ranks
    return f"train.global_batch={alone.config.train.global_batch * int(ranks)}" if ranks.isdecimal() else f"ranks={ranks}"


def _last_words(words: Sequence[str]) -> list[str]:
    """Without those that a later word about the same key overrides anyway, so that no point is composed to be thrown away."""
    last = {word.partition("=")[0]: place for place, word in enumerate(words)}
    return [word for place, word in enumerate(words) if last[word.partition("=")[0]] == place]


def _interleaved(points: Sequence[StudyPoint]) -> list[StudyPoint]:
    """By repeat and seed; within one, all arms in an order of its own, the same whenever the same points are expanded."""
    blocks: dict[tuple[int, int], list[StudyPoint]] = {}
    for point in points:
        config = point.experiment.config
        blocks.setdefault((config.repeat, config.seed), []).append(point)
    ordered = []
    for (repeat, seed), block in sorted(blocks.items()):
        random.Random(f"{repeat} {seed}").shuffle(block)
        ordered += block
    return ordered
