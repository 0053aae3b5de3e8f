"""Examples: what there is (catalog), in which order (order), from disk (source) and onto the device (resident)."""
