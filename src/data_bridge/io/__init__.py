"""Reading the world: bytes over any scheme, samples in any format."""
