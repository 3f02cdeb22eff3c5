"""`python -m threadloom`: the command line, as the installed command `threadloom` runs it."""

from threadloom.service.cli import main

if __name__ == "__main__":
    main()
