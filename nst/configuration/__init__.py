"""The configuration: its knobs, their types and ranges, and what each task uses of it. Knows nothing of torch."""

from nst.configuration.schema import (
    GROUPS,
    LARGEST_SIZE,
    LINE_SEARCH,
    PIXELS,
    SMALLEST_SIZE,
    Config,
    Style,
    between_scales,
    build,
    config_folders,
    further_images,
    images_named,
    import_from_config_folders,
    problems,
    register,
    styles,
    use_config_folders,
)
