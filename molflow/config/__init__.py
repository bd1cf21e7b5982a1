"""Configuration as validated data: its classes, choices among registered ones, files and errors."""

from molflow.config.choices import Config, KindConfig, NameIn, OneOf
from molflow.config.reading import LARGEST_TOML, override, parse, read_toml

__all__ = ["LARGEST_TOML", "Config", "KindConfig", "NameIn", "OneOf", "override", "parse", "read_toml"]
