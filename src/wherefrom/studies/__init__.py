"""Questions about a trained model and its data: each with its mathematics, its options and its answer."""
