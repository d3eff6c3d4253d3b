"""Where predictions came from: scores, errors, verdicts and retraining on one page."""
