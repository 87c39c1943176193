"""Hydra's view of a recipe: one file under ``conf/experiment``, in parts that may be replaced one by one; and of sums.

Hydra imports this module whenever it starts, so that it imports nothing that is slow.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from nst.configuration import Config, recipes


class RecipesFirst(SearchPathPlugin):
    """Lets the recipes of this program be asked before the folders that their files lie in."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the source of recipes first, unless this is another program that uses Hydra."""
        schema = ConfigStore.instance().repo.get("schema.yaml")
        if schema is not None and OmegaConf.get_type(schema.node) is Config:
            search_path.prepend("recipes", f"{RecipeSource.scheme()}://")


class RecipeSource(ConfigSource):
    """Reads recipes from all folders of options, those of ``--config-dir`` too, and shows them in parts."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.read: dict[str, dict[str, Any]] = {}  # Hydra copies the source for each configuration that it composes

    @staticmethod
    def scheme() -> str:
        """Return the beginning of the source's address."""
        return "recipe"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a recipe without its parts, one of them, or a sum of options."""
        config = recipes.compose(config_path, _Folders(self.read))
        if config is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        package = None if config_path.partition("/")[0] in recipes.ADDED else "_global_"
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(config), {"package": package})

    def is_config(self, config_path: str) -> bool:
        """Tell whether there is such a recipe, part of one, or sum."""
        return recipes.compose(config_path, _Folders(self.read)) is not None

    def is_group(self, config_path: str) -> bool:
        """Return False: options and recipes are listed by the folders that hold them."""
        return False

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing, for the same reason."""
        return []

    def available(self) -> bool:
        """Return True, since there is nothing that could be missing."""
        return True


class _Folders:
    """The files of options in every other source on Hydra's search path."""

    def __init__(self, read: dict[str, dict[str, Any]]) -> None:
        hydra = GlobalHydra.instance()
        sources = hydra.config_loader().get_sources() if hydra.is_initialized() else []
        # by the scheme, since Hydra may import this module a second time, in a worker, and with it another class
        self.sources = [source for source in sources if source.scheme() != RecipeSource.scheme()]
        self.read = read

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""
        return any(source.is_config(path) for source in self.sources)

    def load(self, path: str) -> dict[str, Any]:
        """Return what the first source that has it holds."""
        if path not in self.read:
            source = next(source for source in self.sources if source.is_config(path))
            values: Any = OmegaConf.to_container(source.load_config(path).config, resolve=False)
            self.read[path] = dict(values)
        return dict(self.read[path])
