"""From a configuration to what it names: images, network, targets, start, and the memory they need."""
