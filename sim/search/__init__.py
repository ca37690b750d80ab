"""Search: the settings, the layers and slots, or the order of ops that are best for a machine."""
