"""The configuration: its knobs, their types and ranges, and what each task uses of it. Knows nothing of torch."""

from nst.configuration.schema import (
    GROUPS,
    LINE_SEARCH,
    Config,
    Style,
    between_scales,
    build,
    further_images,
    images_named,
    import_from_config_folders,
    inspected_layers,
    layer_weights,
    register,
    styles,
)

__all__ = [
    "GROUPS",
    "LINE_SEARCH",
    "Config",
    "Style",
    "between_scales",
    "build",
    "further_images",
    "images_named",
    "import_from_config_folders",
    "inspected_layers",
    "layer_weights",
    "register",
    "styles",
]
