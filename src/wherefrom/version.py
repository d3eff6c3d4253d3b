"""The version of this package: what is kept on disk is of one version."""

VERSION = "0.1.0"
