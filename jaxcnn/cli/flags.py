"""absl flags from config fields: every field by its dotted path, the common ones by a short name too."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
from rich.table import Table

from jaxcnn.config import Config, leaves, replace
from jaxcnn.console import output
from jaxcnn.errors import UsageError, nearest
from jaxcnn.fields import Rule, kind_name, parse
from jaxcnn.models.registry import list_models, overridable

SHORT = {
    "model": "model.name",
    "num_classes": "model.num_classes",
    "init_from": "model.init_from",
    "dataset": "data.dataset",
    "data_dir": "data.data_dir",
    "batch_size": "data.batch_size",
    "image_size": "data.image_size",
    "cache": "data.cache",
    "max_bad_records": "data.max_bad_records",
    "learning_rate": "optimizer.learning_rate",
    "freeze": "optimizer.freeze",
    "eval_every": "log.eval_every",
    "checkpoint_every": "checkpoint.every",
    "keep": "checkpoint.keep",
}


class Flags:
    """The flags of one verb.

    Args:
      usage: one line: the verb and its arguments.
    """

    def __init__(self, usage: str):
        self.usage = usage
        self.values = flags.FlagValues()
        self.values.set_gnu_getopt(True)
        self._kinds: dict[str, Any] = {}
        self._short: dict[str, str] = {}
        self.define("help", bool, False, "show this and stop")
        self.define("debug", bool, False, "show tracebacks")

    def define(self, name: str, kind: Any, default: Any, help: str) -> None:
        """Add a flag of a type that ``fields.parse`` knows."""
        self._kinds[name] = kind
        if kind is bool:
            flags.DEFINE_boolean(name, default, help, flag_values=self.values)
        else:
            flags.DEFINE(_Parser(kind), name, default, help, flag_values=self.values, serializer=_Serializer())

    def define_network(self, name: str) -> None:
        """Add a flag ``model.FIELD`` for each field of the network."""
        for field, (kind, value) in overridable(name).items():
            self.define(f"model.{field}", kind, value, f"field of {name}")

    def network_fields(self, name: str) -> dict[str, Any]:
        """``{field: value}`` of these flags, as far as they stand on the command line."""
        given = self.given()
        return {field: given[f"model.{field}"] for field in overridable(name) if f"model.{field}" in given}

    def define_config(self, config: Config) -> None:
        """Add a flag for each field of the config, and for each field of its network; their values are the defaults."""
        for path, (value, kind, rule) in fields(config).items():
            if path != "experiment":
                allowed = ", ".join(rule.choices) or rule.bounds()
                self.define(path, kind, value, rule.help + (f" [{allowed}]" if allowed else ""))
        for short, path in SHORT.items():
            self._short[path] = short
            flags.DEFINE_alias(short, path, flag_values=self.values)

    def parse(self, arguments: list[str], known_only: bool = False) -> list[str]:
        """Read the flags; returns the other arguments. With --help, prints the flags and exits 0."""
        if special := [word for word in arguments if word.lstrip("-").partition("=")[0] in ("flagfile", "undefok")]:
            raise UsageError(f"Unknown command line flag '{special[0]}'")  # absl would read any file, accept any typo
        try:
            rest = self.values(["jaxcnn", *arguments], known_only=known_only)[1:]
        except flags.UnrecognizedFlagError as error:
            raise UsageError(f"Unknown command line flag '{error.flagname}'{self._meant(error.flagname)}") from None
        except (flags.Error, ValueError) as error:  # absl lets a few of its own through
            raise UsageError(str(error)) from None
        if empty := [name for name, value in self.given().items() if value == "" and self._kinds[name] == str | None]:
            raise UsageError(f"--{empty[0]}= must not be empty; leave the flag out, or give none")
        if self["help"] and not known_only:
            self.print_help()
            sys.exit(0)
        return rest

    def _meant(self, name: str) -> str:
        """The flags that end so, as ``momentum``, or have these initials, as ``lr``, else those that are spelt nearly so."""
        known = [*self._kinds, *self._short.values()]
        last = {flag: flag.rpartition(".")[2] for flag in known}
        close = [f for f in known if name in (last[f], "".join(word[0] for word in last[f].split("_")))]
        return f"; did you mean {' or '.join(f'--{flag}' for flag in close)}?" if close else nearest(name, known)

    def names(self) -> list[str]:
        """The names of all flags so far."""
        return list(self._kinds)

    def given(self) -> dict[str, Any]:
        """``{name: value}`` of the flags that stand on the command line, aliases resolved."""
        names = [name for name in self._kinds if self.values[name].present]
        return {name: self.values[name].value for name in names if name not in ("help", "debug")}

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def print_help(self) -> None:
        """A table of all flags: name, type, default, meaning."""
        print(f"usage: {self.usage}\n")
        table = Table("flag", "type", "default", "meaning", box=None, pad_edge=False)
        for name, kind in self._kinds.items():
            short = f" or --{self._short[name]}" if name in self._short else ""
            table.add_row(
                f"--{name}{short}",
                kind_name(kind),
                _text(self.values[name].default),
                str(self.values[name].help),
            )
        output(150).print(table)


def fields(config: Config) -> dict[str, tuple[Any, Any, Rule]]:
    """``{dotted path: (value, type, rule)}`` of all that flags and sweeps can set, the fields of the network included."""
    found = leaves(config)
    for name, (kind, value) in overridable(config.model.name).items():
        rule = Rule(f"field of {config.model.name}", on_resume="refuse")
        found[f"model.{name}"] = (config.model.overrides.get(name, value), kind, rule)
    return found


def configure(config: Config, given: Mapping[str, Any]) -> Config:
    """The config with the flags' values. Of steps and epochs, the one that is given replaces the other.

    A field of the network that is set to what it is anyway is no change.
    """
    values = dict(given)
    if "steps" in values and "epochs" in values:
        raise UsageError(f"--steps={values['steps']} and --epochs={values['epochs']}: give one of the two")
    config = replace(config, values)
    own = overridable(config.model.name) if config.model.name in list_models() else {}
    changed = {
        name: value for name, value in config.model.overrides.items() if name not in own or own[name][1] != value
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, overrides=changed))


class _Parser(flags.ArgumentParser):
    """absl's view of ``fields.parse``."""

    def __init__(self, kind: Any):
        self.kind = kind
        self.syntactic_help = kind_name(kind)

    def parse(self, argument: Any) -> Any:
        return parse(argument, self.kind) if isinstance(argument, str) else argument

    def flag_type(self) -> str:
        return kind_name(self.kind)


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


Stop = Callable[[], bool]
