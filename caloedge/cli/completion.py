"""What a shell offers behind Tab: names of this package's plug-ins and of models and recipes that lie here."""

from collections.abc import Callable
from pathlib import Path

import typer

from caloedge.catalog import Backend, find, names
from caloedge.recipe import GENERATOR_RECIPE

Offer = Callable[[str], list[str]]


def of_kind(kind: str) -> Offer:
    """Return what offers the plug-ins of one kind."""
    return lambda incomplete: _beginning(incomplete, names(kind))


def models(incomplete: str) -> list[str]:
    """Offer the folders of ./models."""
    return _beginning(incomplete, [path.parent.name for path in Path("models").glob("*/recipe.yaml")])


def recipes(incomplete: str) -> list[str]:
    """Offer the recipes of ./models, and YAML files in this folder."""
    generators = [path.parent.name for path in Path("models").glob(f"*/{GENERATOR_RECIPE}")]
    files = [path.name for path in Path().glob("*.yaml")]
    return models(incomplete) + _beginning(incomplete, generators) + _beginning(incomplete, files)


def networks_to_compile(incomplete: str) -> list[str]:
    """Offer the folders of ./models, and the networks in this folder."""
    files = [path.name for ending in ("onnx", "qonnx") for path in Path().glob(f"*.{ending}")]
    return models(incomplete) + _beginning(incomplete, files)


def variants(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the variants of the backend that the line names, or those of all."""
    backend = context.params.get("backend")
    backends = [backend] if backend in names("backend") else names("backend")
    return _beginning(incomplete, [variant for name in backends for variant in find(Backend, name).variants])


def geometries(incomplete: str) -> list[str]:
    """Offer the geometries of showers."""
    from caloedge.detector.crystals.geometry import GEOMETRIES

    return _beginning(incomplete, list(GEOMETRIES))


def one_of(words: list[str]) -> Offer:
    """Return what offers these words."""
    return lambda incomplete: _beginning(incomplete, words)


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(incomplete)})
