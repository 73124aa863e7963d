"""What a slot does: prepare, process, finalize."""
