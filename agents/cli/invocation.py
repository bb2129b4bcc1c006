"""The options before the command, and how a command gets its settings and its broker from them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.config import Settings, load_settings
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.broker.find import Broker


@dataclass(frozen=True, slots=True)
class Invocation:
    """What stands before the command on the command line."""

    config: Path | None = None
    environment: str | None = None
    bootstrap: str | None = None
    verbose: bool = False

    def settings(self) -> Settings:
        """The settings: options win over variables, variables over the file. Nothing is connected to."""
        options = {
            "LOCKGATE_ENVIRONMENT": ("--environment", self.environment),
            "KAFKA_BOOTSTRAP_SERVERS": ("--bootstrap", self.bootstrap),
        }
        given = {name: text for name, (_, text) in options.items() if text is not None}
        if "" in given.values():
            raise ConfigError("--environment and --bootstrap need a value: leave them out to use the settings")
        try:
            return load_settings(self.config, os.environ | given)
        except ConfigError as error:
            text = str(error)
            for name in given:  # what was written is what is named
                text = text.replace(name, options[name][0])
            raise ConfigError(text) from None

    def broker(self) -> "Broker":
        """The configured broker, else the one that `lockgate up` started. BrokerUnavailable says what to do."""
        from pipeline.broker.find import present_broker

        return present_broker(self.settings())

    def connected(self) -> Settings:
        """The settings with the address of `broker()` in them."""
        return self.settings().model_copy(update={"bootstrap_servers": self.broker().bootstrap})

    def arguments(self) -> list[str]:
        """The same options again, for a child process."""
        given = {"--config": self.config, "--environment": self.environment, "--bootstrap": self.bootstrap}
        spelt = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        return [*spelt, "--verbose"] if self.verbose else spelt


pass_invocation = click.make_pass_decorator(Invocation)
