"""Any run as an ordered sequence of lazy checkpoints."""
