"""From the words on a command line to experiments: Hydra's compose API, called once, on the launching side only."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.experiment import Experiment, escaped, load_engine
from harness.schema import ExperimentConfig
from launchers.site import default_site, user_config_folder
from models import registry
from results.errors import ConfigError, near_matches

GROUPS = ("system", "scale", "engine", "launcher", "site", "tracker", "recipe", "experiment")


def register_schemas() -> None:
    """Put the typed schemas into Hydra's store: ``tenfold_schema``, and ``<name>_schema`` for every system."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="tenfold_schema", node=ExperimentConfig)
    for name in registry.names():
        store.store(
            group="system",
            name=f"{name}_schema",
            package="_global_",
            node={"data": OmegaConf.structured(registry.config(name).Data)},
        )


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[None]:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_module(version_base="1.3", config_module="configs"):
        if config_dir is not None and not config_dir.is_dir():
            raise ConfigError("the folder of --config-dir does not exist", where=str(config_dir))
        yield


def _search_path(config_dir: Path | None) -> list[str]:
    """The user's folders of configuration groups: the one named, then the one that discovered sites are written to."""
    folders = [folder.resolve() for folder in (config_dir, user_config_folder()) if folder is not None and folder.is_dir()]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []


def _with_site(words: list[str]) -> list[str]:
    """``launcher=slurm`` alone means the cluster that is known here."""
    if "launcher=slurm" not in words or any(word.startswith("site=") for word in words):
        return words
    return [*words, f"site={default_site()}"]


def parse(overrides: Sequence[str]) -> list[Any]:
    """Parse words as Hydra overrides.

    Raises:
        ConfigError: a word is not ``key=value``.
    """
    return [_parse_word(word) for word in overrides]


@cache
def _parse_word(word: str) -> Any:
    """One word; a study of a thousand points repeats the same few, and the grammar takes a millisecond each."""
    from hydra.errors import HydraException

    try:
        (parsed,) = _parser().parse_overrides([word])
    except HydraException as error:
        raise ConfigError(
            f"'{word}' is not an override (key=value): {str(error).splitlines()[0]}", where="command line"
        ) from error
    if not parsed.key_or_group:
        raise ConfigError(f"'{word}' is not an override (key=value): it names no key", where="command line")
    return parsed


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Expand Hydra's sweep grammar (``a,b``, ``range()``, ``choice()``, ``glob()``) into its Cartesian product, in order."""
    axes = []
    for override in parse(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line])
    return [list(words) for words in itertools.product(*axes)]


class Composer:
    """Composes experiments; holds Hydra open so that a study of many points starts it once.

    Use as a context manager.

    Args:
        config_dir: a user's own folder of groups, searched after the built-in ones.
    """

    def __init__(self, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._context: Any = None
        self._nodes: dict[tuple[str, ...], DictConfig] = {}
        self._resolved: dict[tuple[str, ...], Experiment] = {}

    def __enter__(self) -> Composer:
        self._context = _hydra(self._config_dir)
        self._context.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.__exit__(*exception)

    def compose(self, overrides: Sequence[str]) -> Experiment:
        """One experiment from overrides without sweeps.

        Hydra composes once per choice of groups (about 70 ms); plain keys are put into its result, and points that differ by seed
        or repeat alone are resolved once.

        Raises:
            ConfigError: unknown key or group, wrong type, impossible combination.
        """
        model_words, words, numbers = {}, [], {}
        parsed = parse(overrides)
        apart = _apart(parsed)
        for override in parsed:
            if override.is_sweep_override():
                raise ConfigError(
                    f"'{override.input_line}' names several values", where="command line", next_step="tenfold sweep takes them"
                )
            key = override.key_or_group
            if key.startswith("model."):
                model_words[key.removeprefix("model.")] = override.value()
            elif key in ("seed", "repeat") and key in apart and type(override.value()) is int:
                numbers[key] = override.value()
            else:
                words.append(override)
        signature = (*(word.input_line for word in words), *(f"model.{key}={value!r}" for key, value in model_words.items()))
        if signature not in self._resolved:
            node = self._node(words)
            OmegaConf.set_struct(node, False)
            node.model = _nested(model_words)
            self._resolved[signature] = Experiment.resolve(node, source="command line")
        return self._resolved[signature].with_numbers(numbers, source="command line")

    def _node(self, words: Sequence[Any]) -> DictConfig:
        """Compose; what is not about groups is put into a copy of what the groups alone give."""
        lines, apart = [word.input_line for word in words], _apart(words)
        plain = [word for word in words if word.key_or_group in apart]
        groups = tuple(word.input_line for word in words if word.key_or_group not in apart)
        try:
            if groups not in self._nodes:
                self._nodes[groups] = self._compose(list(groups))
            node = copy.deepcopy(self._nodes[groups])
            for word in plain:
                OmegaConf.update(node, word.key_or_group, word.value(), merge=True)
        except (OmegaConfBaseException, ConfigError):
            return self._compose(lines)  # Hydra's own error names the word
        return node

    def _compose(self, words: list[str]) -> DictConfig:
        from hydra import compose
        from hydra.errors import HydraException

        try:
            return compose("config", overrides=[*_search_path(self._config_dir), *_with_site(words)])
        except (HydraException, ValueError) as error:  # a group given a number is a ValueError
            raise self._explain(error, words) from error

    def _explain(self, error: Exception, words: list[str]) -> ConfigError:
        """Say what Hydra refused in terms of the word or the file that caused it, with near matches."""
        chain, text = error.__cause__, str(error)
        while chain is not None:
            text += "\n" + str(chain)
            chain = chain.__cause__
        group = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
        if group:
            kind, choice = group.groups()
            word = next((word for word in words if word.split("=", 1)[0] == kind), f"{kind}={choice}")
            return ConfigError(
                f"there is no {kind} '{choice}'{near_matches(choice, self.choices(kind))}",
                where=f"command line: {word}",
                next_step="tenfold systems" if kind in ("system", "recipe") else f"configs/{kind}/ lists them",
            )
        key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
        if key:
            name = key.group(1)
            culprit = next((word for word in words if word.lstrip("+~").split("=", 1)[0] == name), None)
            file = re.search(r"(?:merging|In) '([^']+)'", text)
            where = f"command line: {culprit}" if culprit else f"configs/{file.group(1)}.yaml: {name}" if file else name
            if "not in struct" in text or "not in '" in text:
                return ConfigError(f"there is no key '{name}'{near_matches(name, self.keys())}", where=where)
            reason = next((line for line in text.splitlines() if line.startswith(("Value ", "Cannot", "Invalid"))), "wrong type")
            return ConfigError(f"key '{name}': {reason}", where=where)
        parent = re.search(r"Could not (?:find|load|override) '?([^'\n]+)", text)
        return ConfigError(parent.group(0) if parent else text.splitlines()[0], where="command line: " + " ".join(words))

    def choices(self, group: str) -> list[str]:
        """Names in a configuration group, the user's own among them."""
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.object_type import ObjectType

        loader = GlobalHydra.instance().config_loader()
        names = set(loader.get_group_options(group, ObjectType.CONFIG))
        for folder in (self._config_dir, user_config_folder()):
            if folder is not None:
                names |= {path.stem for path in (folder / group).glob("*.yaml")}
        return sorted(name for name in names if not name.endswith("_schema"))

    def keys(self) -> list[str]:
        """All keys that an override may name, groups included."""
        from hydra import compose

        node = compose("config", overrides=_search_path(self._config_dir))
        return sorted({*_flat(node), *GROUPS, "study"})


def _is_plain(override: Any) -> bool:
    """Whether a word gives a value to an existing key, and is not about groups."""
    changes = not (override.is_delete() or override.is_add() or override.is_force_add())
    return changes and override.package is None and _names_no_group(override.key_or_group)


def _apart(words: Sequence[Any]) -> set[str]:
    """Keys of plain words that may be put in after composing. Where another kind of word (``++train.steps=3``) is about the same
    key or section, order counts, and all of them are Hydra's."""
    held = {
        word.key_or_group for word in words if not _is_plain(word) and (_names_no_group(word.key_or_group) or _is_section(word))
    }
    plain = {word.key_or_group for word in words if _is_plain(word)} - held
    while touched := {key for key in plain if any(f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in held)}:
        plain, held = plain - touched, held | touched
    return plain


def _is_section(override: Any) -> bool:
    """Whether a word gives a group's name a section instead of a choice (``launcher={max_parallel: 5}``)."""
    return not override.is_delete() and isinstance(override.value(), dict)


def _names_no_group(key: str) -> bool:
    return key not in GROUPS and "/" not in key and "@" not in key


def _flat(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        name = f"{prefix}{key!s}"
        yield name
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _flat(value, f"{name}.")


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value
    return tree


def override_frozen(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Overrides on top of a frozen configuration (``--from RUN``): plain keys and engine names, no other groups.

    Raises:
        ConfigError: as :meth:`Composer.compose`.
    """
    node = OmegaConf.create(escaped(experiment.plain))
    config = experiment.config
    if config.train.micro_batch == max(config.train.global_batch // config.ranks, 1):
        node.train.micro_batch = 0  # it followed from the others, and follows from what they become
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        if key == "engine":
            node.engine = OmegaConf.structured(load_engine(str(value), f"command line: {override.input_line}"))
        elif key in ("system", "scale"):
            raise ConfigError(
                f"'{key}' brings other data and training numbers: it cannot be changed on top of a frozen configuration",
                where=f"command line: {override.input_line}",
                next_step=f"tenfold run {key}={value} ...",
            )
        elif key in ("variant", "size"):
            node[key] = value
            node.model = {}
        elif key in ("tracker", "launcher", "site") and isinstance(value, str):
            node[key].name = value
        else:
            OmegaConf.update(node, key, value, force_add=True)
    return Experiment.resolve(node, source="command line, on top of the frozen configuration")
