"""`python -m whence` is the command line."""

from whence.cli.main import app

if __name__ == "__main__":
    app(prog_name="whence")
