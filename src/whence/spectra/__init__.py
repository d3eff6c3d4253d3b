"""The spectrum of a fit's curvature: where it comes from, and what it says of influence."""
