"""Gradients in the input and in the parameters, how they bound one another, and both as penalties."""
