"""`python -m wherefrom` is the command line."""

from wherefrom.cli.main import app

if __name__ == "__main__":
    app(prog_name="wherefrom")
